"""Cars: a silhouette extruded across the car's width, solid from every side."""

from dataclasses import dataclass

import cv2
import numpy as np

from segcoord.data.synthetic.scenes.canvas import CAR, PAINTS, Canvas, Item, mix, pick

# Silhouettes from the rear bumper over the roof to the front bumper: (meters from the center,
# meters up, kind of the strip that starts here). Wheel arches are painted over them.
_BODIES: dict[str, list[tuple[float, float, str]]] = {
    "sedan": [
        (-2.2, 0.32, "rear"), (-2.27, 0.72, "rear"), (-2.18, 1.0, "paint"), (-1.62, 1.05, "glass"),
        (-0.95, 1.42, "roof"), (0.2, 1.45, "glass"), (0.95, 1.0, "paint"), (2.0, 0.84, "front"),
        (2.24, 0.6, "front"), (2.22, 0.32, ""),
    ],
    "hatchback": [
        (-1.85, 0.32, "rear"), (-1.96, 0.75, "rear"), (-1.88, 1.02, "glass"), (-1.5, 1.46, "roof"),
        (0.15, 1.5, "glass"), (0.95, 1.02, "paint"), (1.75, 0.86, "front"), (1.95, 0.6, "front"),
        (1.92, 0.32, ""),
    ],
    "station wagon": [
        (-2.3, 0.32, "rear"), (-2.36, 0.75, "rear"), (-2.28, 1.02, "glass"), (-1.98, 1.46, "roof"),
        (0.2, 1.48, "glass"), (0.98, 1.0, "paint"), (2.0, 0.84, "front"), (2.25, 0.6, "front"),
        (2.22, 0.32, ""),
    ],
    "SUV": [
        (-2.2, 0.42, "rear"), (-2.28, 0.85, "rear"), (-2.2, 1.16, "glass"), (-1.95, 1.7, "roof"),
        (0.3, 1.74, "glass"), (0.9, 1.18, "paint"), (2.0, 1.06, "front"), (2.2, 0.8, "front"),
        (2.2, 0.42, ""),
    ],
    "van": [
        (-2.4, 0.38, "rear"), (-2.46, 0.66, "rear"), (-2.45, 1.16, "glass"), (-2.38, 1.86, "roof"),
        (1.0, 1.95, "glass"), (1.75, 1.18, "paint"), (2.3, 0.98, "front"), (2.45, 0.65, "front"),
        (2.42, 0.38, ""),
    ],
    "microcar": [
        (-1.3, 0.32, "rear"), (-1.38, 0.8, "rear"), (-1.32, 1.05, "glass"), (-1.05, 1.52, "roof"),
        (0.35, 1.55, "glass"), (1.0, 1.02, "paint"), (1.28, 0.85, "front"), (1.4, 0.6, "front"),
        (1.36, 0.32, ""),
    ],
}  # fmt: skip
_RIM = np.linspace(0, 2 * np.pi, 21)[:-1]


@dataclass(frozen=True)
class _Shape:
    """A car body with its pose: transforms local (along, up, across) to street (s, y, t)."""

    body: str
    half: float
    s: float
    t: float
    heading: float

    def place(self, points: np.ndarray) -> np.ndarray:
        along, up, across = np.moveaxis(np.asarray(points, np.float64), -1, 0)
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        return np.stack(
            [self.s + along * sin + across * cos, up, self.t + along * cos - across * sin], -1
        )

    def turn(self, normal: np.ndarray) -> np.ndarray:
        """Rotate a local direction to street coordinates."""
        return self.place(normal) - [self.s, 0.0, self.t]

    def width_at(self, up: np.ndarray) -> np.ndarray:
        """Half the width at a height: the cabin narrows above the waist."""
        waist = 1.02 if self.body not in ("SUV", "van") else 1.18
        lean = 0.27 if self.body != "van" else 0.1
        return self.half - np.clip(np.asarray(up) - waist, 0, None) * lean


class _Painter:
    """Collects the faces of one car, then lights, projects and fills them in one pass."""

    def __init__(self, canvas: Canvas, shape: _Shape, sunlit: float) -> None:
        self.canvas, self.shape, self.sunlit = canvas, shape, sunlit
        camera = canvas.camera
        self.z = max(1.0, float(camera.view(shape.s, shape.t)[1]))
        # The camera's position in street coordinates, to cull back faces.
        bend = 0.5 * camera.bend * shape.t**2
        self.eye = np.array([camera.offset - bend, camera.eye, 0.0])
        self.detailed = camera.focal / self.z / canvas.factor > 9
        """Whether to draw handles and spokes: more than 9 pixels per meter."""
        self.faces: list[np.ndarray] = []
        self.colors: list[np.ndarray] = []

    def visible(self, center: np.ndarray, normal: np.ndarray) -> bool:
        return bool(np.dot(normal, self.eye - center) > 0)

    def gain(self, normal: np.ndarray) -> np.ndarray:
        return self.canvas.light.gain(normal, self.sunlit)

    def face(self, local: np.ndarray, color, gain: np.ndarray | float = 1.0) -> None:
        """Add a face in local coordinates; lamps and glass use a gain of 1."""
        self.faces.append(local)
        self.colors.append(np.asarray(color) * gain)

    def hull(self, local: np.ndarray, color) -> None:
        """Fill the convex hull of a solid immediately, below all collected faces."""
        pixels = self.canvas.camera.project(self.shape.place(local)).astype(np.float32)
        color = self.canvas.light.seen(color, np.ones(3), self.z)
        self.canvas.polygon(cv2.convexHull(pixels)[:, 0], color, CAR)

    def flush(self) -> None:
        """Fill the collected faces in their order."""
        pixels = self.canvas.camera.project(self.shape.place(np.concatenate(self.faces)))
        air = self.canvas.light.air(self.z)
        colors = np.minimum(self.colors, 255) * (1 - air) + self.canvas.light.haze * air
        ends = np.cumsum([len(face) for face in self.faces])[:-1]
        for points, color in zip(np.split(pixels, ends), colors.tolist()):
            self.canvas.polygon(points, color, CAR)


def _between(quad: np.ndarray, u0: float, v0: float, u1: float, v1: float) -> np.ndarray:
    """A rectangle within a quadrilateral, in its coordinates 0..1 (u right, v down)."""
    a, b, c, d = quad
    return np.array(
        [
            (a * (1 - u) + b * u) * (1 - v) + (d * (1 - u) + c * u) * v
            for u, v in ((u0, v0), (u1, v0), (u1, v1), (u0, v1))
        ]
    )


def _wheels(painter: _Painter, axles: tuple[float, float], radius: float) -> None:
    """Paint all four tires as solids; the body then hides most of them."""
    half = painter.shape.half - 0.02
    for axle in axles:
        for side in (-1, 1):
            disc = [axle + radius * np.cos(_RIM), radius + radius * np.sin(_RIM)]
            outer = np.stack([*disc, np.full_like(_RIM, side * half)], -1)
            painter.hull(np.concatenate([outer, outer - [0, 0, side * 0.22]]), (30, 30, 32))


def _hubs(
    painter: _Painter, side: int, axles: tuple[float, float], radius: float, rim: np.ndarray
) -> None:
    """Paint wheel arches, tires and rims on the visible side."""
    shape = painter.shape
    gain = painter.gain(shape.turn(np.array([0.0, 0.0, side])))
    for axle in axles:
        for size, lift, color, out in (
            (radius + 0.09, 0.02, (18, 18, 20), 0.0),
            (radius, 0.0, (36, 36, 38), 0.01),
            (0.66 * radius, 0.0, rim, 0.015),
            (0.2 * radius, 0.0, rim * 0.5, 0.02),
        ):
            along, up = axle + size * np.cos(_RIM), radius + lift + size * np.sin(_RIM)
            up = np.maximum(up, 0.0 if size <= radius else 0.3)
            across = np.full_like(_RIM, side * (shape.half + out))
            painter.face(np.stack([along, up, across], -1), color, gain)
        if not painter.detailed:
            continue
        for angle in np.arange(5) * 2 * np.pi / 5 + axle:
            a = np.array([angle - 0.28, angle + 0.28, angle])
            reach = radius * np.array([0.6, 0.6, 0.25])
            spoke = [axle + reach * np.cos(a), radius + reach * np.sin(a)]
            spoke = np.stack([*spoke, np.full(3, side * (shape.half + 0.02))], -1)
            painter.face(spoke, np.float32((40, 40, 42)), gain)


def _flank(painter: _Painter, side: int, outline: np.ndarray, style: dict) -> None:
    """Paint one side: panel, moldings, doors, windows."""
    shape, paint = painter.shape, style["paint"]
    normal = shape.turn(np.array([0.0, 0.1, side])) / np.hypot(1, 0.1)
    gain = painter.gain(normal)
    across = side * shape.width_at(outline[:, 1])
    panel = np.insert(outline, 2, across, axis=1)
    painter.face(panel, paint, gain)
    low = outline[0, 1]
    rear, front = outline[:, 0].min() + 0.03, outline[:, 0].max() - 0.05
    edge = side * (shape.half + 0.004)

    def bar(a: float, b: float, y0: float, y1: float, color) -> None:
        corners = [(a, y1, edge), (b, y1, edge), (b, y0, edge), (a, y0, edge)]
        painter.face(np.array(corners), color, gain)

    bar(rear + 0.05, front - 0.05, low, low + 0.14, paint * 0.5)
    bar(rear, front - 0.1, low + 0.42, low + 0.46, np.minimum(paint * 1.25 + 14, 250))
    bar(rear, front - 0.05, low + 0.2, low + 0.36, paint * 0.86)
    # The cabin is the part of the silhouette above the lower ends of the glass.
    glass = [i for i, kind in enumerate(style["kinds"]) if kind == "glass"]
    a, d = outline[glass[0]], outline[glass[-1] + 1]
    b, c = outline[glass[0] + 1], outline[glass[-1]]
    if shape.body == "van":
        a, b = np.array([0.15, 1.2]), np.array([0.15, 1.9])  # only the cab has windows
    corners = np.array([b, c, d, a])
    corners = np.insert(corners, 2, side * (shape.width_at(corners[:, 1]) + 0.006), axis=1)
    window = _between(corners, 0.05, 0.14, 0.95, 0.97)
    sky = mix(painter.canvas.light.sky_low, painter.canvas.light.sky_top, 0.5)
    dark = np.float32((32, 36, 42))
    upper = mix(dark, sky, 0.22 + 0.25 * max(0.0, float(normal[1]) + 0.4))
    painter.face(window, dark)
    painter.face(_between(window, 0, 0, 1, 0.45), upper)
    pillars = {"van": (), "microcar": (0.5,)}.get(shape.body, (0.34, 0.66))
    for u in pillars:
        painter.face(_between(window, u - 0.018, 0, u + 0.018, 1), paint * 0.7, gain)
    if not painter.detailed:
        return
    for x in (window[3, 0] + 0.1, window[[2, 3], 0].mean(), window[2, 0] - 0.1):
        bar(x, x + 0.025, low + 0.14, window[3, 1] - 0.04, paint * 0.55)
    handle = window[[2, 3], 0].mean()
    bar(handle + 0.08, handle + 0.25, window[3, 1] - 0.16, window[3, 1] - 0.11, paint * 0.5 + 60)
    mirror = window[2] + [-0.12, 0.02, side * 0.02]
    box = [(0, 0, 0), (0.16, 0, side * 0.18), (0.16, 0.16, side * 0.18), (0, 0.16, 0)]
    painter.face(mirror + box, paint * 0.75, gain)
    if style["livery"] is not None:
        bar(rear + 0.35, front - 0.4, low + 0.5, low + 0.62, style["livery"])


def _end(painter: _Painter, quad: np.ndarray, kind: str, upper: bool, style: dict) -> None:
    """Paint lamps, grille, plate and bumper on a strip of the front or the rear, unshaded."""
    lamps = painter.canvas.light.lamps
    if upper and kind == "rear":
        for u in (0.03, 0.77):
            lamp = (255, 60, 40) if lamps or style["brake"] else (150, 24, 22)
            painter.face(_between(quad, u, 0.12, u + 0.2, 0.75), lamp)
        painter.face(_between(quad, 0.34, 0.45, 0.66, 0.95), (222, 222, 210))
        painter.face(_between(quad, 0.37, 0.55, 0.63, 0.85), (70, 70, 80))
    elif upper:
        for u in (0.03, 0.75):
            lamp = (255, 250, 225) if lamps else (205, 212, 216)
            painter.face(_between(quad, u, 0.15, u + 0.22, 0.85), (60, 62, 66))
            painter.face(_between(quad, u + 0.02, 0.22, u + 0.19, 0.75), lamp)
        painter.face(_between(quad, 0.3, 0.25, 0.7, 0.9), (30, 31, 34))
        painter.face(_between(quad, 0.32, 0.42, 0.68, 0.5), (130, 132, 136))
    else:
        painter.face(_between(quad, 0.0, 0.45, 1.0, 1.0), style["bumper"])
        if kind == "front":
            painter.face(_between(quad, 0.3, 0.1, 0.7, 0.42), (222, 222, 210))
            painter.face(_between(quad, 0.33, 0.18, 0.67, 0.36), (70, 70, 80))


def _paint(painter: _Painter, style: dict) -> None:
    shape, canvas = painter.shape, painter.canvas
    profile = _BODIES[shape.body]
    outline = np.array([(x, y) for x, y, _ in profile])
    kinds = [kind for _, _, kind in profile[:-1]]
    style = {**style, "kinds": kinds}
    radius = {"SUV": 0.38, "van": 0.34, "microcar": 0.28}.get(shape.body, 0.32)
    length = outline[:, 0].max()
    axles = (-0.62 * length, 0.64 * length)
    x0, x1, w = outline[:, 0].min() + 0.15, outline[:, 0].max() - 0.15, shape.half - 0.08
    under = [(x0, 0.16, -w), (x1, 0.16, -w), (x1, 0.16, w), (x0, 0.16, w)]
    under += [(x, 0.4, z) for x, _, z in under]
    _wheels(painter, axles, radius)
    painter.hull(np.array(under), (16, 16, 18))

    faces = []
    for i, kind in enumerate(kinds):
        p, q = outline[i], outline[i + 1]
        wp, wq = shape.width_at(p[1]), shape.width_at(q[1])
        # Corners as seen from outside, top edge first: q in the rear half, p in the front half.
        rear = q[1] > p[1]
        high, low, wh, wl = (q, p, wq, wp) if rear else (p, q, wp, wq)
        flip = -1 if rear else 1
        quad = [(*high, -wh * -flip), (*high, wh * -flip), (*low, wl * -flip), (*low, -wl * -flip)]
        along = q - p
        normal = np.array([-along[1], along[0], 0.0]) / np.hypot(*along)
        quad = np.array(quad)
        faces.append((quad, kind, shape.turn(normal), i in (1, len(kinds) - 2)))
    faces = [f for f in faces if painter.visible(shape.place(f[0].mean(0)), f[2])]
    far = [painter.canvas.camera.view(*shape.place(f[0].mean(0))[[0, 2]])[1] for f in faces]
    sky = canvas.light.sky_top
    sides = [s for s in (-1, 1) if _side_seen(painter, s)]
    for i in np.argsort(far)[::-1]:
        quad, kind, normal, upper = faces[i]
        gain = painter.gain(normal)
        if kind == "glass":
            painter.face(quad, style["paint"] * 0.8, gain)
            pane = _between(quad, 0.06, 0.08, 0.94, 0.95)
            painter.face(pane, (34, 38, 44))
            for u in (0.14, 0.6):  # seats
                painter.face(_between(pane, u, 0.5, u + 0.26, 1), (22, 23, 26))
            sheen = mix((34, 38, 44), sky, 0.25 + 0.35 * max(0.0, float(normal[1])))
            painter.face(_between(pane, 0, 0, 1, 0.38), sheen)
            streak = np.array([_between(pane, 0, 0, u, v)[2] for u, v in style["streak"]])
            painter.face(streak, mix(sheen, (255, 255, 255), 0.25))
        else:
            color = style["roof"] if kind == "roof" else style["paint"]
            shiny = mix(color, sky, 0.22 * max(0.0, float(normal[1])))
            painter.face(quad, shiny, gain)
            if kind in ("rear", "front"):
                _end(painter, quad, kind, upper, style)
    for side in sides:
        _flank(painter, side, outline, style)
        _hubs(painter, side, axles, radius, style["rim"])
    painter.flush()


def _side_seen(painter: _Painter, side: int) -> bool:
    center = painter.shape.place(np.array([0.0, 0.7, side * painter.shape.half]))
    return painter.visible(center, painter.shape.turn(np.array([0.0, 0.0, side])))


def car(rng: np.random.Generator, s: float, t: float, heading: float) -> Item:
    """A random car on the ground at (s, t).

    Args:
        heading: radians to the right of the street's direction at the camera.
    """
    names = list(_BODIES)
    body = str(rng.choice(names, p=[0.24, 0.24, 0.16, 0.16, 0.12, 0.08]))
    shape = _Shape(body, float(rng.uniform(0.84, 0.94)), s, t, heading)
    color = pick(rng, PAINTS, 8)
    style = {
        "paint": color,
        "roof": pick(rng) if rng.random() < 0.12 else color,
        "bumper": np.float32((52, 53, 56)) if rng.random() < 0.6 else color * 0.7,
        "rim": np.float32((168, 170, 174)) * rng.uniform(0.5, 1.1),
        "livery": pick(rng) if rng.random() < 0.15 else None,
        "brake": bool(rng.random() < 0.25),
        "streak": [(u + 0.05, v) for u, v in ((0.1, 0.02), (0.22, 0.02), (0.1, 0.7), (0.02, 0.7))],
    }

    def paint(canvas: Canvas) -> None:
        _paint(_Painter(canvas, shape, canvas.sunlit(s, t)), style)

    def cast(canvas: Canvas) -> None:
        x, w = _BODIES[body][-1][0], shape.half
        base = np.array([(-x, 0, -w), (x, 0, -w), (x, 0, w), (-x, 0, w)])
        for grow, strength in ((1.12, 0.35), (1.04, 0.55), (0.97, 0.8)):
            canvas.shadow(strength, shape.place(base * grow)[:, [0, 2]])
        if canvas.light.hard > 0.25:
            foot = shape.place(base)[:, [0, 2]]
            top = shape.place(base * [0.62, 1, 0.85])[:, [0, 2]] + canvas.light.shadow * 1.35
            waist = foot + canvas.light.shadow * 0.9
            points = np.concatenate([foot, waist, top]).astype(np.float32)
            canvas.shadow(1.0, cv2.convexHull(points)[:, 0])

    return Item(float(t), paint, cast)
