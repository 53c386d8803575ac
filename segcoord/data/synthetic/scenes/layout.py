"""The composition of a scene: weather, street, camera, and positions of all objects."""

from dataclasses import dataclass, field

import numpy as np

from segcoord.data.synthetic.scenes.buildings import house_row
from segcoord.data.synthetic.scenes.canvas import Camera, Item, Light
from segcoord.data.synthetic.scenes.cars import car
from segcoord.data.synthetic.scenes.people import group
from segcoord.data.synthetic.scenes.signs import bollard, lamp_post, sign
from segcoord.data.synthetic.scenes.street import FAR, Street
from segcoord.data.synthetic.scenes.vegetation import SHAPES, bush, hedge, leaf_color, tree

# (probability, sky at the top, sky at the horizon, sun, ambient, elevation of the sun in degrees,
# haze length in meters, cloud cover, lamps are lit)
_WEATHER = [
    (0.32, (74, 130, 206), (188, 214, 236), (0.62, 0.60, 0.54), (0.50, 0.54, 0.61), (38, 62), 190,
     (0.1, 0.55), False),  # noon
    (0.24, (124, 164, 214), (240, 226, 206), (0.66, 0.58, 0.46), (0.46, 0.50, 0.57), (24, 36), 130,
     (0.1, 0.6), False),  # morning
    (0.13, (98, 122, 178), (252, 196, 132), (0.80, 0.56, 0.32), (0.42, 0.42, 0.50), (22, 30), 120,
     (0.2, 0.6), False),  # evening
    (0.24, (150, 157, 166), (204, 207, 210), (0.05, 0.05, 0.05), (0.82, 0.84, 0.87), (40, 60), 110,
     (0.9, 1.2), False),  # overcast
    (0.04, (172, 178, 184), (222, 221, 216), (0.18, 0.17, 0.15), (0.72, 0.73, 0.75), (30, 50), 60,
     (0.6, 1.0), False),  # mist
    (0.05, (44, 62, 118), (226, 146, 120), (0.08, 0.06, 0.06), (0.46, 0.46, 0.60), (22, 26), 120,
     (0.2, 0.7), True),  # dusk
]  # fmt: skip
_STYLES = {
    "old town": {
        "floors": (2, 4), "materials": ["brick", "plaster", "stone", "plaster", "dark joints"],
        "roofs": 0.5, "shops": 0.5, "gaps": 0.08, "garden": 0.0,
    },
    "center": {
        "floors": (3, 6), "materials": ["concrete", "glass", "stone", "brick", "plaster"],
        "roofs": 0.0, "shops": 0.55, "gaps": 0.12, "garden": 0.0,
    },
    "suburb": {
        "floors": (1, 2), "materials": ["brick", "plaster", "boards", "dark joints"],
        "roofs": 1.0, "shops": 0.06, "gaps": 0.7, "garden": 2.2,
    },
    "works": {
        "floors": (2, 3), "materials": ["brick", "concrete", "boards", "dark joints"],
        "roofs": 0.3, "shops": 0.15, "gaps": 0.3, "garden": 0.6,
    },
}  # fmt: skip


def weather(rng: np.random.Generator) -> Light:
    """Light of a random time of day and weather."""
    probabilities = np.array([row[0] for row in _WEATHER])
    row = _WEATHER[rng.choice(len(_WEATHER), p=probabilities / probabilities.sum())]
    _, top, low, sun, ambient, (lowest, highest), haze, clouds, lamps = row
    elevation = np.radians(rng.uniform(lowest, highest))
    azimuth = rng.uniform(-np.pi, np.pi)
    level = np.cos(elevation)
    tint = rng.normal(1, 0.03, 3)
    return Light(
        sun=np.array([level * np.sin(azimuth), np.sin(elevation), level * np.cos(azimuth)]),
        sun_color=np.array(sun) * rng.uniform(0.75, 1.0),
        ambient=np.array(ambient) * rng.uniform(1.0, 1.12),
        haze=np.float32(low) * 0.94,
        haze_length=haze * rng.uniform(0.8, 1.3),
        sky_top=np.clip(np.array(top) * tint, 0, 255).astype(np.float32),
        sky_low=np.clip(np.array(low) * tint, 0, 255).astype(np.float32),
        clouds=rng.uniform(*clouds),
        lamps=lamps,
    )


def _street(rng: np.random.Generator) -> Street:
    crossing = (rng.uniform(13, 22), rng.uniform(2.8, 3.8)) if rng.random() < 0.22 else None
    zebra = None
    if rng.random() < 0.45:
        zebra = rng.uniform(5.5, 8.0)
        if crossing is not None:
            zebra = crossing[0] - crossing[1] - 4.2
    parking = int(rng.choice([-1, 0, 1], p=[0.3, 0.5, 0.2]))
    return Street(
        half=rng.uniform(2.7, 3.7) + abs(parking),
        parking=parking,
        walk=rng.uniform(3.2, 5.0),
        crossing=crossing,
        zebra=zebra,
        road="cobbles" if rng.random() < 0.06 else "asphalt",
        sidewalk=str(rng.choice(["slabs", "flags", "slabs", "herringbone"])),
    )


def _camera(rng: np.random.Generator, width: int, height: int, street: Street) -> Camera:
    """A camera in a lane, at the curb or on the sidewalk, looking roughly along the street."""
    side = -street.parking or int(rng.choice([-1, 1], p=[0.3, 0.7]))
    if rng.random() < 0.15:
        side = -side
    place = rng.choice(3, p=[0.3, 0.4, 0.3])
    offset = (
        street.middle + side * street.lane * rng.uniform(0.8, 1.3),
        side * (street.half + rng.uniform(-0.4, 0.6)),
        side * (street.half + rng.uniform(0.2, 0.55) * street.walk),
    )[place]
    # A camera at one side of the street turns to the other side.
    yaw = rng.normal(0, 0.06) - 0.13 * offset / street.half
    return Camera(
        width=width,
        height=height,
        focal=rng.uniform(0.95, 1.3) * width,
        center=width * rng.uniform(0.47, 0.53),
        horizon=height * rng.uniform(0.4, 0.52),
        eye=rng.uniform(1.5, 2.3),
        offset=offset,
        yaw=yaw,
        bend=rng.normal(0, 0.0035),
    )


@dataclass
class _Plan:
    """A scene under composition."""

    rng: np.random.Generator
    camera: Camera
    street: Street
    autumn: bool
    taken: list[float] = field(default_factory=list)
    """Horizontal positions of signs and people in the foreground."""

    def seen(self, s: float, t: float, margin: float = 0.06) -> bool:
        return self.camera.view(s, t)[1] > 2 and margin < self.camera.column(s, t) < 1 - margin

    def free(self, s: float, t: float, margin: float, gap: float) -> bool:
        """Whether (s, t) is visible and not behind a sign or person in the foreground."""
        column = self.camera.column(s, t)
        return self.seen(s, t, margin) and all(abs(column - c) > gap for c in self.taken)

    def size(self, s: float, t: float) -> float:
        """Image heights per meter at (s, t)."""
        return self.camera.scale(s, t) / self.camera.height

    def search(self, places, accept) -> tuple[float, float] | None:
        """The first accepted position of 90 random ones, or None."""
        for _ in range(90):
            s, t = places()
            if accept(s, t):
                return float(s), float(t)
        return None


def _signs(plan: _Plan) -> list[Item]:
    """One or two signs at the curbs, near enough to be legible."""
    rng, street = plan.rng, plan.street
    items: list[Item] = []
    for i in range(1 + (rng.random() < 0.3)):
        large = i == 0 and rng.random() < 0.2
        far, low, high = (12.0, 0.13, 0.2) if large else (9.0, 0.23, 0.38)

        def place(far: float = far) -> tuple[float, float]:
            side = rng.choice([-1, 1])
            return side * (street.half + rng.uniform(0.35, 2.2)), rng.uniform(3.2, far)

        def accept(s: float, t: float, low: float = low, high: float = high) -> bool:
            size = plan.size(s, t)
            top = plan.camera.horizon / plan.camera.height - size * (2.95 - plan.camera.eye)
            return plan.free(s, t, 0.12, 0.2) and top > -0.02 and low < size < high

        found = plan.search(place, accept)
        if found is None and i == 0:
            found, large = plan.search(place, lambda s, t: plan.free(s, t, 0.1, 0.2)), False
        if found is not None:
            plan.taken.append(plan.camera.column(*found))
            items.append(sign(rng, *found, large))
    return items


def _people(plan: _Plan) -> list[Item]:
    """Groups on sidewalks and crossings, at least half as high as the image."""
    rng, street = plan.rng, plan.street
    items: list[Item] = []

    def place() -> tuple[float, float]:
        t = rng.uniform(2.4, 8)
        if street.zebra is not None and rng.random() < 0.5:
            return rng.uniform(-street.half, street.half), street.zebra + rng.uniform(0.4, 2.6)
        side = rng.choice([-1, 1])
        if rng.random() < 0.2:
            return side * rng.uniform(0.5, 1) * street.half, t
        return side * (street.half + rng.uniform(0.45, street.walk - 0.35)), t

    def accept(s: float, t: float) -> bool:
        return plan.free(s, t, 0.06, 0.17) and 0.55 < 1.72 * plan.size(s, t) < 1.05

    for i, count in enumerate(
        rng.choice(4, size=1 + (rng.random() < 0.3), p=[0, 0.68, 0.28, 0.04])
    ):
        found = plan.search(place, accept)
        if found is None and i == 0:
            found = plan.search(place, lambda s, t: plan.free(s, t, 0.06, 0.1))
        if found is not None:
            plan.taken.append(plan.camera.column(*found))
            items += group(rng, *found, int(count))
    return items


def _cars(plan: _Plan) -> list[Item]:
    """Cars parked at the curbs, driving in either direction, crossing."""
    rng, street, camera = plan.rng, plan.street, plan.camera
    items = []

    def add(s: float, t: float, forward: bool, margin: float = -0.12) -> None:
        if plan.camera.view(s, t)[1] > 4.2 and plan.seen(s, t, margin):
            turn = camera.heading(t) + (0 if forward else np.pi) + rng.normal(0, 0.02)
            items.append(car(rng, s, t, turn))

    if street.parking:
        t = rng.uniform(5, 9)
        while t < 26:
            free = street.crossed(t, 3.5)
            free = free or (street.zebra is not None and -3 < t - street.zebra < 6)
            if not free and rng.random() < 0.75:
                add(street.parking * (street.half - 1.0), t, forward=street.parking > 0)
            t += rng.uniform(5.3, 6.6)
    clear = street.zebra + 4.5 if street.zebra is not None else 0.0
    for side, first in ((1, rng.uniform(5.5, 9)), (-1, rng.uniform(5.5, 9))):
        # The camera's own lane needs space in front of it.
        place = street.middle + side * street.lane
        own = abs(camera.offset - place) < 1.8
        t = max(first, clear) + (3.0 if own else 0.0)
        if rng.random() < 0.7 and not street.crossed(t, 2.0):
            add(place + rng.normal(0, 0.1), t, forward=side > 0)
    if street.crossing is not None and rng.random() < 0.7:
        direction = rng.choice([-1, 1])
        s = rng.uniform(-1, 1) * street.half
        t = street.crossing[0] - direction * 1.5
        items.append(car(rng, s, t, direction * np.pi / 2))
    if len(items) < 2:
        # Ensure a visible car: one that turns or leaves a parking space.
        def place() -> tuple[float, float]:
            s = rng.uniform(-1, 1) * (street.half - 1.0)
            return s, max(7, clear) + rng.uniform(0, 8)

        found = plan.search(place, lambda s, t: plan.seen(s, t, 0.12))
        if found is not None:
            items.append(car(rng, *found, rng.uniform(-0.7, 0.7) + np.pi * (rng.random() < 0.5)))
    return items


def _vegetation(plan: _Plan, side: int, park: bool, avenue: bool, garden: float) -> list[Item]:
    rng, street, camera = plan.rng, plan.street, plan.camera
    items = []

    def visible(s: float, t: float, nearest: float) -> bool:
        return camera.view(s, t)[1] > nearest and plan.seen(s, t, -0.25)

    if park:
        items += hedge(rng, side * (street.front + 0.5), 3, 50, rng.uniform(1.2, 2.0), plan.autumn)
        for _ in range(16):
            s, t = side * (street.front + rng.uniform(2, 16)), rng.uniform(8, 70)
            if visible(s, t, 6) and not street.crossed(t, 2):
                items.append(tree(rng, s, t, plan.autumn, rng.uniform(5, 10)))
        for t in np.arange(4, 60, 1.6):
            s = side * (street.front + rng.uniform(1.2, 6))
            if visible(s, t, 3) and not street.crossed(t, 2):
                items.append(bush(rng, s, t, plan.autumn, rng.uniform(1.2, 2.6)))
    if garden > 1:
        tall = rng.uniform(1.5, 2.2)
        for piece in hedge(rng, side * (street.front + 0.4), 3, 60, tall, plan.autumn):
            if not street.crossed(piece.depth, street.walk - 0.4):
                items.append(piece)
        for t in np.arange(rng.uniform(6, 9), 60, 7.0):
            s = side * (street.front + rng.uniform(1.2, 1.8))
            if rng.random() < 0.25 and visible(s, t, 5) and not street.crossed(t, street.walk + 1):
                items.append(tree(rng, s, t, plan.autumn, rng.uniform(5, 7.5)))
    if avenue:
        # An avenue: trees of one kind, so close that their crowns touch.
        tall, shape = rng.uniform(6, 9), str(rng.choice(SHAPES))
        for t in np.arange(rng.uniform(6, 9), 45, tall * 0.62):
            s = side * (street.half + 0.75)
            if visible(s, t, 6) and not street.crossed(t, 1.5):
                height = tall * rng.uniform(0.9, 1.1)
                items.append(tree(rng, s, t, plan.autumn, height, shape))
    if rng.random() < 0.3:
        s, t = side * (street.front - 0.5), rng.uniform(4, 18)
        if visible(s, t, 3.5) and not street.crossed(t, 1.5):
            items.append(bush(rng, s, t, plan.autumn, rng.uniform(0.8, 1.4), pot=True))
    return items


def _furniture(plan: _Plan) -> list[Item]:
    rng, street = plan.rng, plan.street
    items = []
    side, gap = rng.choice([-1, 1]), rng.uniform(18, 30)
    for t in np.arange(rng.uniform(9, 14), 45, gap):
        if plan.seen(side * street.half, t, -0.2) and not street.crossed(t, 1):
            items.append(lamp_post(rng, side * (street.half + 0.5), t))
    if rng.random() < 0.12:
        side = rng.choice([-1, 1])
        for t in np.arange(rng.uniform(4.5, 7), 20, 2.2):
            if plan.seen(side * street.half, t, 0) and not street.crossed(t, 1):
                items.append(bollard(rng, side * (street.half + 0.3), t))
    return items


def compose(
    rng: np.random.Generator, width: int, height: int, light: Light
) -> tuple[Camera, Street, list[Item], np.ndarray]:
    """Compose a scene for a canvas of width x height pixels.

    Returns:
        camera, street, objects, and the leaf color (3,) of the woods in the background.
    """
    street = _street(rng)
    camera = _camera(rng, width, height, street)
    plan = _Plan(rng, camera, street, autumn=bool(rng.random() < 0.16))
    style = _STYLES[str(rng.choice(list(_STYLES), p=[0.37, 0.29, 0.2, 0.14]))]
    park = int(rng.choice([-1, 0, 1], p=[0.26, 0.48, 0.26]))
    # Trees line at most one side, so that the facades of the other are visible.
    avenue = int(rng.choice([-1, 0, 1], p=[0.38, 0.24, 0.38])) if not park else 0
    items: list[Item] = []
    for side in (-1, 1):
        if side != park:
            front = side * (street.front + style["garden"])
            # The row begins where its first facade leaves the image.
            x = front - camera.offset
            start = max(0.5, (1.0 - x * np.sin(camera.yaw)) / np.cos(camera.yaw))
            items += house_row(rng, street, side, float(start), style, FAR)
        items += _vegetation(
            plan, side, side == park, side == avenue, style["garden"] * (side != park)
        )
    items += _cars(plan) + _signs(plan) + _people(plan) + _furniture(plan)
    return camera, street, items, leaf_color(rng, plan.autumn)
