"""Houses: flat facades drawn to scale, then set along the street in perspective."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from segcoord.data.synthetic.scenes.canvas import (
    BUILDING,
    NEAR,
    PAINTS,
    Canvas,
    Item,
    Light,
    mix,
    pick,
)
from segcoord.data.synthetic.scenes.street import Street, strip
from segcoord.data.synthetic.scenes.textures import noise, tinted, wall

FLOOR = 3.1
"""Height of a storey, metres."""

DEPTH = 9.0
"""Depth of a house, metres."""

BRICKS = np.float32(
    [(164, 84, 64), (140, 66, 54), (186, 142, 100), (120, 108, 100), (206, 198, 188), (104, 70, 58)]
)
CONCRETES = np.float32([(158, 158, 156), (132, 132, 134), (180, 174, 164), (112, 116, 120)])


# Nobody paints a house as green as a tree.
FACADES = PAINTS[(PAINTS[:, 1] < PAINTS[:, 0] + 4) | (PAINTS[:, 1] < PAINTS[:, 2])]
SLATES = np.float32([(84, 86, 94), (150, 84, 64), (120, 66, 54), (72, 70, 72), (108, 96, 84)])


@dataclass(frozen=True)
class House:
    """One house of a row; the lengths in metres, along the street from t0 to t1."""

    side: int
    """-1 left of the street, +1 right."""
    t0: float
    t1: float
    front: float
    """Distance of its facade from the road's middle."""
    height: float
    material: str
    colour: np.ndarray
    roof: float
    """Rise of a pitched roof; 0 for a flat one."""
    shop: bool
    bare: bool
    """Its end towards the camera shows, at least in part."""


def _rect(picture: np.ndarray, x0: float, y0: float, x1: float, y1: float, colour) -> None:
    """Fills a rectangle given in texels, its right and lower ends excluded."""
    x0, y0, x1, y1 = round(x0), round(y0), round(x1) - 1, round(y1) - 1
    if x1 >= x0 and y1 >= y0:
        cv2.rectangle(picture, (x0, y0), (x1, y1), [float(c) for c in colour], -1)


def _glass(rng: np.random.Generator, height: int, width: int, light: Light) -> np.ndarray:
    """What a window shows: the sky above, dark rooms below, curtains, at dusk a lit room."""
    fade = np.linspace(rng.uniform(0.5, 0.95), 0.1, height)[:, None, None]
    sky, room = mix(light.sky_low, light.sky_top, 0.4) * 0.8, np.float32((40, 46, 54))
    pane = np.repeat(sky * fade + room * (1 - fade), width, axis=1)
    lit = light.lamps and rng.random() < 0.55
    if lit:
        pane = np.repeat((255, 206, 128) * (0.55 + 0.45 * fade), width, axis=1)
    else:
        lean = np.arange(width)[None] + np.arange(height)[:, None] * 0.6
        band = np.abs(lean - rng.uniform(0, width + height)) < 0.14 * (width + height)
        pane += 22 * band[..., None]
    dressing = rng.random()
    if dressing < 0.3:  # curtains
        part = max(1, int(width * rng.uniform(0.12, 0.3)))
        cloth = mix(pick(rng), (230, 226, 216), 0.6) * (1.0 if lit else 0.72)
        pane[:, :part] = pane[:, -part:] = cloth
    elif dressing < 0.5:  # a blind, partly down
        pane[: int(height * rng.uniform(0.2, 0.7))] = mix(pick(rng), (210, 206, 196), 0.7) * 0.8
    return np.clip(pane, 0, 255)


class _Facade:
    """A facade under construction: `scale` texels per metre, storeys counted from the ground."""

    def __init__(
        self, rng: np.random.Generator, light: Light, width: float, house: House, scale: int
    ) -> None:
        self.rng, self.light, self.scale, self.house = rng, light, scale, house
        self.metres = width
        self.width, self.height = max(8, round(width * scale)), max(8, round(house.height * scale))
        name = "plaster" if house.material == "glass" else house.material
        grey = wall(rng, name, scale, self.height, self.width)
        self.rgb = tinted(grey, house.colour)
        self.trim = mix(house.colour, (226, 222, 212), rng.uniform(0.3, 0.9))
        if rng.random() < 0.25:
            self.trim = house.colour * 0.6
        self.frame = pick(rng) if rng.random() < 0.4 else np.float32((228, 226, 220))

    def row(self, height: float) -> float:
        """The texel row at a height in metres above the ground."""
        return self.height - height * self.scale

    def band(self, low: float, high: float, colour) -> None:
        """A horizontal band over the whole width with a shadow below it."""
        _rect(self.rgb, 0, self.row(high), self.width, self.row(low), colour)
        rows = slice(max(0, round(self.row(low))), max(0, round(self.row(low - 0.2))))
        self.rgb[rows] = (self.rgb[rows] * 0.7).astype(np.uint8)

    def window(
        self, kind: int, panes: list[np.ndarray], left: float, low: float, w: float, h: float
    ):
        """A window w x h metres with its left edge and its sill at (left, low)."""
        scale, rgb = self.scale, self.rgb
        x0, x1 = left * scale, (left + w) * scale
        y0, y1 = self.row(low + h), self.row(low)
        edge = max(1.0, 0.09 * scale)
        if kind != 3:
            _rect(rgb, x0 - edge, y0 - edge, x1 + edge, y1 + edge * 0.4, self.trim)
        pane = panes[self.rng.integers(len(panes))]
        top, start = max(0, round(y0)), round(x0)
        room = rgb[top : top + pane.shape[0], start : start + pane.shape[1]]
        room[:] = pane[: room.shape[0], : room.shape[1]]
        # The reveal throws a shadow on the glass.
        _rect(rgb, x0, y0, x1, y0 + edge, self.house.colour * 0.32)
        bar = max(1.0, 0.05 * scale)
        if kind in (0, 1, 2):
            middle = (x0 + x1) / 2
            _rect(rgb, middle - bar / 2, y0, middle + bar / 2, y1, self.frame)
        if kind in (1, 2):
            cross = y0 + (y1 - y0) * (0.5 if kind == 1 else 0.3)
            _rect(rgb, x0, cross - bar / 2, x1, cross + bar / 2, self.frame)
        if kind == 4:  # shutters
            wing = 0.4 * w * scale
            for a, b in ((x0 - wing - edge, x0 - edge), (x1 + edge, x1 + wing + edge)):
                _rect(rgb, a, y0, b, y1, self.frame * 0.85)
                for y in np.arange(y0, y1, 0.16 * scale):
                    _rect(rgb, a, y, b, y + max(1, 0.04 * scale), self.frame * 0.65)
        if kind == 5:  # a balcony's railing
            ends = (x0 - 2 * edge, x1 + 2 * edge)
            _rect(rgb, ends[0], y1, ends[1], y1 + 1.5 * edge, self.trim * 0.8)
            for x in np.arange(ends[0], ends[1], max(2.0, 0.14 * scale)):
                _rect(rgb, x, y1 - 0.9 * scale, x + bar, y1, self.house.colour * 0.25)
            _rect(rgb, ends[0], y1 - 0.95 * scale, ends[1], y1 - 0.85 * scale, (40, 42, 46))
        else:
            _rect(rgb, x0 - 1.6 * edge, y1, x1 + 1.6 * edge, y1 + edge, self.trim * 0.92)
            _rect(rgb, x0 - edge, y1 + edge, x1 + edge, y1 + 2.2 * edge, self.house.colour * 0.55)

    def windows(self, first: float) -> None:
        """Rows of equal windows from the height `first` up."""
        rng, scale = self.rng, self.scale
        kind = int(rng.integers(6))
        w, h = rng.uniform(0.9, 1.7), rng.uniform(1.35, 1.9)
        gap = rng.uniform(0.8, 1.5) + (0.8 * w if kind == 4 else 0)
        if kind == 3:  # ribbons of glass
            w, gap = rng.uniform(2.2, 3.4), 0.15
        count = max(1, int((self.metres - 0.5) / (w + gap)))
        start = (self.metres - count * w - (count - 1) * gap) / 2
        shape = (max(2, round(h * scale)), max(2, round(w * scale)))
        panes = [_glass(rng, *shape, self.light) for _ in range(4)]
        for low in np.arange(first + 0.85, self.house.height - h - 0.4, FLOOR):
            for i in range(count):
                self.window(kind, panes, start + i * (w + gap), low, w, h)

    def curtain_wall(self) -> None:
        """Glass from ground to roof: panes that mirror the sky and the house across the street."""
        rng, light = self.rng, self.light
        y = np.linspace(0, 1, self.height)[:, None]
        field = cv2.resize(noise(32, 1.4)[:64, :64], (self.width, self.height)) * 0.10
        skyline = 0.55 + 0.12 * cv2.resize(noise(33, 0.8)[:1, :24], (self.width, 1))
        mirror = np.clip((skyline - y) * 8 + 0.5 + field, 0, 1)[..., None]
        sky = light.sky_top * (1 - y[..., None]) + light.sky_low * y[..., None]
        tint = mix((255, 255, 255), pick(rng), 0.35) / 255
        glass = (sky * mirror * 0.82 + np.float32((74, 80, 84)) * (1 - mirror)) * tint
        self.rgb[:] = np.clip(glass + field[..., None] * 60, 0, 255)
        step_x, step_y = rng.uniform(1.0, 1.8) * self.scale, FLOOR / 2 * self.scale
        bar = max(1, round(0.07 * self.scale))
        for x in np.arange(0, self.width, step_x):
            _rect(self.rgb, x, 0, x + bar, self.height, self.frame * 0.6)
        for i, y0 in enumerate(np.arange(self.height, 0, -step_y)):
            thick = bar * (3 if i % 2 == 0 else 1)
            _rect(self.rgb, 0, y0 - thick, self.width, y0, self.frame * 0.6)
        if light.lamps:
            for _ in range(int(self.metres * self.house.height / 16)):
                x, y0 = rng.integers(self.width) // step_x * step_x, rng.integers(self.height)
                y0 = self.height - (y0 // step_y + 1) * step_y
                box = (x + bar, y0 + bar, x + step_x, y0 + step_y - bar)
                _rect(self.rgb, *box, (250, 210, 140))

    def door(self, left: float) -> None:
        """A front door 1.1 m wide with steps and a lintel."""
        scale, colour = self.scale, pick(self.rng)
        x0, x1, top, foot = left * scale, (left + 1.1) * scale, self.row(2.35), self.height
        edge = 0.12 * scale
        _rect(self.rgb, x0 - edge, top - edge, x1 + edge, foot, self.trim)
        _rect(self.rgb, x0, top, x1, foot, colour * 0.8)
        _rect(self.rgb, x0, top, x1, self.row(2.0), (70, 76, 84))
        for y in (self.row(1.8), self.row(0.95)):
            for x in (x0 + 0.15 * scale, x0 + 0.62 * scale):
                _rect(self.rgb, x, y, x + 0.33 * scale, y + 0.7 * scale, colour * 0.62)
        step = 0.3 * scale
        _rect(self.rgb, x0 - step, foot - step / 2, x1 + step, foot, (150, 148, 144))

    def shop(self) -> None:
        """A shop window over the whole ground floor, goods in it, a board with lettering above."""
        rng, scale = self.rng, self.scale
        board, front = pick(rng), pick(rng) * 0.8
        _rect(self.rgb, 0, self.row(3.15), self.width, self.height, front)
        bays = max(1, round(self.metres / 3.2))
        for i in range(bays):
            x0, x1 = (
                (i / bays * self.metres + 0.2) * scale,
                ((i + 1) / bays * self.metres - 0.2) * scale,
            )
            entrance = i == bays // 2
            y0, y1 = round(self.row(2.5)), self.height if entrance else round(self.row(0.5))
            pane = _glass(rng, max(2, y1 - y0), max(2, round(x1) - round(x0)), self.light)
            room = self.rgb[max(0, y0) : y1, round(x0) : round(x1)]
            room[:] = pane[-room.shape[0] :, : room.shape[1]] * 0.9
            if entrance:
                middle = (x0 + x1) / 2
                for a in (x0, middle, x1):
                    _rect(self.rgb, a - 0.05 * scale, y0, a + 0.05 * scale, y1, front * 0.5)
            else:
                for x in np.arange(x0 + 0.1 * scale, x1 - 0.3 * scale, 0.45 * scale):
                    tall = rng.uniform(0.25, 1.3) * scale
                    _rect(self.rgb, x, y1 - tall, x + 0.33 * scale, y1, pick(rng) * 0.75)
        self.band(2.65, 3.2, board)
        ink = (236, 232, 220) if board.mean() < 140 else (44, 42, 44)
        x, end = 0.12 * self.width, self.width * rng.uniform(0.5, 0.9)
        while x < end:
            glyph = rng.uniform(0.1, 0.28) * scale
            _rect(self.rgb, x, self.row(3.06), x + glyph * 0.75, self.row(2.8), ink)
            _rect(
                self.rgb, x + 0.25 * glyph, self.row(2.98), x + 0.5 * glyph, self.row(2.88), board
            )
            x += glyph + 0.05 * scale + (0.2 * scale if rng.random() < 0.15 else 0)

    def finish(self) -> np.ndarray:
        """Grime: dark at the foot and under the eaves, streaks and stains in between."""
        rows = np.linspace(self.house.height, 0, self.height)[:, None]
        foot = 1 - 0.28 * np.exp(-rows / 0.7) - 0.18 * np.exp(-(self.house.height - rows) / 0.5)
        stains = cv2.resize(noise(34, 1.6)[:96, :96], (self.width, self.height)) * 0.05
        factor = (foot + stains)[..., None].astype(np.float32)
        return np.clip(self.rgb * factor, 0, 255).astype(np.uint8)


def _facade(
    rng: np.random.Generator, light: Light, width: float, house: House, scale: int
) -> np.ndarray:
    """The street side of a house: (height * scale, width * scale, 3) uint8 albedo."""
    facade = _Facade(rng, light, width, house, scale)
    if house.material == "glass":
        facade.curtain_wall()
        return facade.finish()
    if rng.random() < 0.5:
        plinth = house.colour * rng.uniform(0.55, 0.8)
        _rect(facade.rgb, 0, facade.row(0.6), facade.width, facade.height, plinth)
    facade.windows(FLOOR if house.shop else 0.0)
    if house.shop:
        facade.shop()
    else:
        facade.door(rng.uniform(0.6, max(0.7, width - 1.8)))
    if rng.random() < 0.5:
        for y in np.arange(FLOOR, house.height - 1, FLOOR * rng.integers(1, 3)):
            facade.band(y, y + 0.16, facade.trim)
    facade.band(house.height - rng.uniform(0.25, 0.5), house.height, facade.trim)
    pipe = rng.uniform(0.02, 0.98) * facade.width
    thick = max(1.0, 0.1 * scale)
    _rect(facade.rgb, pipe, 0, pipe + thick, facade.height, house.colour * 0.5)
    return facade.finish()


def _end_wall(rng: np.random.Generator, house: House, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """The gable end: (texture, alpha); a pitched roof cuts its top."""
    tall = house.height + house.roof
    height, width = max(8, round(tall * scale)), round(DEPTH * scale)
    name = "concrete" if house.material == "glass" else house.material
    rgb = tinted(wall(rng, name, scale, height, width), house.colour * 0.97)
    for y in np.arange(1.0, house.height - 1.5, FLOOR):
        for x in (1.6, 5.6):
            if rng.random() < 0.7:
                box = (x * scale, height - (y + 1.4) * scale, (x + 1) * scale, height - y * scale)
                _rect(rgb, *box, mix((58, 64, 74), (150, 170, 190), rng.uniform(0, 0.5)))
    alpha = np.zeros((height, width), np.uint8)
    eaves = house.roof * scale
    gable = np.array([(0, height), (0, eaves), (width / 2, 0), (width, eaves), (width, height)])
    cv2.fillPoly(alpha, [gable.round().astype(np.int32)], 255)
    return rgb, alpha


def _awning(canvas: Canvas, rng: np.random.Generator, house: House) -> None:
    """Striped cloth sloping out over the pavement."""
    cloth, other = pick(rng), np.float32((228, 224, 214)) if rng.random() < 0.6 else pick(rng)
    reach = house.front - rng.uniform(0.8, 1.4)
    stripes = max(3, int((house.t1 - house.t0 - 0.6) / 0.7))
    edges = np.linspace(house.t0 + 0.3, house.t1 - 0.3, stripes + 1)
    gain, under = canvas.light.gain((-house.side * 0.5, 0.86, 0)), canvas.light.gain(sunlit=0) * 0.6
    z = canvas.camera.view(house.side * house.front, (house.t0 + house.t1) / 2)[1]
    # From below one sees the cloth's lower side, when it hangs above the eye.
    for i in reversed(range(stripes)):
        colour = cloth if i % 2 else other
        a, b = edges[i], edges[i + 1]
        top, low = 2.75, 2.2
        cover = [(house.front, top, a), (house.front, top, b), (reach, low, b), (reach, low, a)]
        hem = [(reach, low, a), (reach, low, b), (reach, low - 0.25, b), (reach, low - 0.25, a)]
        for points, light in ((cover, (gain + under) / 2), (hem, gain)):
            points = np.array(points) * [house.side, 1, 1]
            canvas.face(points, canvas.light.seen(colour, light, z), BUILDING)


def house_item(rng: np.random.Generator, house: House) -> Item:
    """Sets a house beside the street."""
    seed = int(rng.integers(2**62))

    def paint(canvas: Canvas) -> None:
        rng, camera, light = np.random.default_rng(seed), canvas.camera, canvas.light
        side, s = house.side, house.side * house.front
        z0, z1 = (camera.view(s, t)[1] for t in (house.t0, house.t1))
        z = max(NEAR, 0.7 * z0 + 0.3 * z1)
        near = camera.focal / max(z0 * 0.5 + z1 * 0.5, 4.0)
        scale = next((n for n in (8, 16, 32) if n * 1.1 > near), 32)
        turn = camera.heading((house.t0 + house.t1) / 2)
        out = np.array([-side * np.cos(turn), 0, side * np.sin(turn)])
        back, top, ridge = s + side * DEPTH, house.height, house.height + house.roof
        if house.bare:
            rgb, alpha = _end_wall(rng, house, scale)
            a, b = (s, back) if side > 0 else (back, s)
            corners = np.array([(a, ridge), (b, ridge), (b, 0), (a, 0)])
            corners = np.insert(corners, 2, house.t0, axis=1)
            canvas.quad(light.develop(rgb, light.gain((0, 0, -1)), z0), corners, BUILDING, alpha)
        order = (house.t0, house.t1) if side < 0 else (house.t1, house.t0)
        if house.roof:
            span = round((house.t1 - house.t0) * scale), round(6 * scale)
            tiles = tinted(wall(rng, "tiles", scale, *span[::-1]), pick(rng, SLATES, 6))
            middle = (s + back) / 2
            corners = [(middle, ridge, order[0]), (middle, ridge, order[1])]
            corners += [(s, top, order[1]), (s, top, order[0])]
            run = DEPTH / 2 / house.roof
            slope = (out + np.array([0, run, 0])) / np.hypot(1, run)
            canvas.quad(light.develop(tiles, light.gain(slope), z), np.array(corners), BUILDING)
        front = _facade(rng, light, house.t1 - house.t0, house, scale)
        corners = [(s, top, order[0]), (s, top, order[1]), (s, 0, order[1]), (s, 0, order[0])]
        canvas.quad(light.develop(front, light.gain(out), z), np.array(corners), BUILDING)
        if house.shop and rng.random() < 0.6:
            _awning(canvas, rng, house)

    def cast(canvas: Canvas) -> None:
        s, shift = house.side * house.front, canvas.light.shadow * (house.height + house.roof * 0.5)
        if shift[0] * house.side < 0:
            edge = strip(s, s + 1e-3, house.t0, house.t1)[:, [0, 2]]
            half = len(edge) // 2
            outline = np.concatenate([edge[:half], edge[:half][::-1] + shift])
            canvas.shadow(1.0, outline)

    # Painted before what stands in front of it, after what it hides round a bend.
    return Item(house.t1, paint, cast)


def house_row(
    rng: np.random.Generator, street: Street, side: int, start: float, style: dict, end: float
) -> list[Item]:
    """A closed row of houses of one neighbourhood, interrupted by the crossing road.

    Args:
        style: `floors` (low, high), `materials`, `roofs` (share of pitched ones), `shops` (share),
            `gaps` (share of houses with a gap after them), `garden` (metres before the facade).
    """
    items, t, last = [], start, 0.0
    low = high = np.inf
    if street.crossing is not None:
        middle, half = street.crossing
        low, high = middle - half - street.walk, middle + half + street.walk
    while t < end:
        if low - 3 < t < high:
            t, last = high, 0.0
        # Far houses are drawn longer: nobody could count them.
        t1 = t + rng.uniform(6.5, 12.5) * (1 + t / 60)
        if t < low < t1:
            t1 = low
        material = str(rng.choice(style["materials"]))
        bricks = material in ("brick", "dark joints")
        colours = BRICKS if bricks else CONCRETES if material == "concrete" else None
        colour = pick(rng, FACADES) if colours is None else pick(rng, colours, 8)
        if material in ("plaster", "boards"):
            colour = mix(colour, (214, 206, 192), rng.uniform(0.1, 0.75))
        floors = rng.integers(style["floors"][0], style["floors"][1] + 1)
        pitched = rng.random() < style["roofs"] and material not in ("glass", "concrete")
        house = House(
            side=side,
            t0=t,
            t1=t1,
            front=street.front + style["garden"],
            height=floors * FLOOR + rng.uniform(0.5, 1.2),
            material=material,
            colour=colour,
            roof=rng.uniform(2.2, 3.6) if pitched else 0.0,
            shop=bool(rng.random() < style["shops"]) and material != "glass",
            bare=bool(last < floors * FLOOR + 1.2 + 3.6 * pitched),
        )
        items.append(house_item(rng, house))
        t, last = t1, house.height
        if rng.random() < style["gaps"]:
            t, last = t1 + rng.uniform(2, 6), 0.0
    return items
