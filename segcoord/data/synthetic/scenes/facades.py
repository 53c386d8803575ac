"""Facades of houses, drawn flat and to scale."""

from dataclasses import dataclass

import cv2
import numpy as np

from segcoord.data.synthetic.scenes.canvas import Light, mix, pick
from segcoord.data.synthetic.scenes.textures import noise, tinted, wall

FLOOR = 3.1
"""Height of a story in meters."""


@dataclass(frozen=True)
class House:
    """One house of a row, along the street from t0 to t1; lengths in meters."""

    side: int
    """-1 left of the street, +1 right."""
    t0: float
    t1: float
    front: float
    """Distance of its facade from the road's center line."""
    height: float
    material: str
    color: np.ndarray
    roof: float
    """Height of a pitched roof; 0 for a flat one."""
    shop: bool
    bare: bool
    """Whether its end wall facing the camera is visible, at least in part."""


def fill_rect(picture: np.ndarray, x0: float, y0: float, x1: float, y1: float, color) -> None:
    """Fill a rectangle in texels, excluding its right and lower ends."""
    x0, y0, x1, y1 = round(x0), round(y0), round(x1) - 1, round(y1) - 1
    if x1 >= x0 and y1 >= y0:
        cv2.rectangle(picture, (x0, y0), (x1, y1), [float(c) for c in color], -1)


def _glass(rng: np.random.Generator, height: int, width: int, light: Light) -> np.ndarray:
    """A window pane: reflected sky, dark room, curtains or blind, a lit room at dusk."""
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
    """A facade under construction: `scale` texels per meter, stories counted from the ground."""

    def __init__(
        self, rng: np.random.Generator, light: Light, width: float, house: House, scale: int
    ) -> None:
        self.rng, self.light, self.scale, self.house = rng, light, scale, house
        self.meters = width
        self.width, self.height = max(8, round(width * scale)), max(8, round(house.height * scale))
        name = "plaster" if house.material == "glass" else house.material
        gray = wall(rng, name, scale, self.height, self.width)
        self.rgb = tinted(gray, house.color)
        self.trim = mix(house.color, (226, 222, 212), rng.uniform(0.3, 0.9))
        if rng.random() < 0.25:
            self.trim = house.color * 0.6
        self.frame = pick(rng) if rng.random() < 0.4 else np.float32((228, 226, 220))

    def row(self, height: float) -> float:
        """The texel row at a height in meters above the ground."""
        return self.height - height * self.scale

    def band(self, low: float, high: float, color) -> None:
        """Paint a horizontal band over the whole width with a shadow below it."""
        fill_rect(self.rgb, 0, self.row(high), self.width, self.row(low), color)
        rows = slice(max(0, round(self.row(low))), max(0, round(self.row(low - 0.2))))
        self.rgb[rows] = (self.rgb[rows] * 0.7).astype(np.uint8)

    def window(
        self, kind: int, panes: list[np.ndarray], left: float, low: float, w: float, h: float
    ):
        """Paint a window of w x h meters with its left edge and its sill at (left, low)."""
        scale, rgb = self.scale, self.rgb
        x0, x1 = left * scale, (left + w) * scale
        y0, y1 = self.row(low + h), self.row(low)
        edge = max(1.0, 0.09 * scale)
        if kind != 3:
            fill_rect(rgb, x0 - edge, y0 - edge, x1 + edge, y1 + edge * 0.4, self.trim)
        pane = panes[self.rng.integers(len(panes))]
        top, start = max(0, round(y0)), round(x0)
        room = rgb[top : top + pane.shape[0], start : start + pane.shape[1]]
        room[:] = pane[: room.shape[0], : room.shape[1]]
        # The reveal casts a shadow on the glass.
        fill_rect(rgb, x0, y0, x1, y0 + edge, self.house.color * 0.32)
        bar = max(1.0, 0.05 * scale)
        if kind in (0, 1, 2):
            middle = (x0 + x1) / 2
            fill_rect(rgb, middle - bar / 2, y0, middle + bar / 2, y1, self.frame)
        if kind in (1, 2):
            cross = y0 + (y1 - y0) * (0.5 if kind == 1 else 0.3)
            fill_rect(rgb, x0, cross - bar / 2, x1, cross + bar / 2, self.frame)
        if kind == 4:  # shutters
            wing = 0.4 * w * scale
            for a, b in ((x0 - wing - edge, x0 - edge), (x1 + edge, x1 + wing + edge)):
                fill_rect(rgb, a, y0, b, y1, self.frame * 0.85)
                for y in np.arange(y0, y1, 0.16 * scale):
                    fill_rect(rgb, a, y, b, y + max(1, 0.04 * scale), self.frame * 0.65)
        if kind == 5:  # a balcony's railing
            ends = (x0 - 2 * edge, x1 + 2 * edge)
            fill_rect(rgb, ends[0], y1, ends[1], y1 + 1.5 * edge, self.trim * 0.8)
            for x in np.arange(ends[0], ends[1], max(2.0, 0.14 * scale)):
                fill_rect(rgb, x, y1 - 0.9 * scale, x + bar, y1, self.house.color * 0.25)
            fill_rect(rgb, ends[0], y1 - 0.95 * scale, ends[1], y1 - 0.85 * scale, (40, 42, 46))
        else:
            fill_rect(rgb, x0 - 1.6 * edge, y1, x1 + 1.6 * edge, y1 + edge, self.trim * 0.92)
            fill_rect(
                rgb, x0 - edge, y1 + edge, x1 + edge, y1 + 2.2 * edge, self.house.color * 0.55
            )

    def windows(self, first: float) -> None:
        """Paint rows of equal windows from the height `first` up."""
        rng, scale = self.rng, self.scale
        kind = int(rng.integers(6))
        w, h = rng.uniform(0.9, 1.7), rng.uniform(1.35, 1.9)
        gap = rng.uniform(0.8, 1.5) + (0.8 * w if kind == 4 else 0)
        if kind == 3:  # ribbons of glass
            w, gap = rng.uniform(2.2, 3.4), 0.15
        count = max(1, int((self.meters - 0.5) / (w + gap)))
        start = (self.meters - count * w - (count - 1) * gap) / 2
        shape = (max(2, round(h * scale)), max(2, round(w * scale)))
        panes = [_glass(rng, *shape, self.light) for _ in range(4)]
        for low in np.arange(first + 0.85, self.house.height - h - 0.4, FLOOR):
            for i in range(count):
                self.window(kind, panes, start + i * (w + gap), low, w, h)

    def curtain_wall(self) -> None:
        """Paint a glass facade that reflects the sky and the house across the street."""
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
            fill_rect(self.rgb, x, 0, x + bar, self.height, self.frame * 0.6)
        for i, y0 in enumerate(np.arange(self.height, 0, -step_y)):
            thick = bar * (3 if i % 2 == 0 else 1)
            fill_rect(self.rgb, 0, y0 - thick, self.width, y0, self.frame * 0.6)
        if light.lamps:
            for _ in range(int(self.meters * self.house.height / 16)):
                x, y0 = rng.integers(self.width) // step_x * step_x, rng.integers(self.height)
                y0 = self.height - (y0 // step_y + 1) * step_y
                box = (x + bar, y0 + bar, x + step_x, y0 + step_y - bar)
                fill_rect(self.rgb, *box, (250, 210, 140))

    def door(self, left: float) -> None:
        """Paint a front door 1.1 m wide with steps and a lintel."""
        scale, color = self.scale, pick(self.rng)
        x0, x1, top, foot = left * scale, (left + 1.1) * scale, self.row(2.35), self.height
        edge = 0.12 * scale
        fill_rect(self.rgb, x0 - edge, top - edge, x1 + edge, foot, self.trim)
        fill_rect(self.rgb, x0, top, x1, foot, color * 0.8)
        fill_rect(self.rgb, x0, top, x1, self.row(2.0), (70, 76, 84))
        for y in (self.row(1.8), self.row(0.95)):
            for x in (x0 + 0.15 * scale, x0 + 0.62 * scale):
                fill_rect(self.rgb, x, y, x + 0.33 * scale, y + 0.7 * scale, color * 0.62)
        step = 0.3 * scale
        fill_rect(self.rgb, x0 - step, foot - step / 2, x1 + step, foot, (150, 148, 144))

    def shop(self) -> None:
        """A shop window over the whole ground floor, goods in it, a board with lettering above."""
        rng, scale = self.rng, self.scale
        board, front = pick(rng), pick(rng) * 0.8
        fill_rect(self.rgb, 0, self.row(3.15), self.width, self.height, front)
        bays = max(1, round(self.meters / 3.2))
        for i in range(bays):
            x0, x1 = (
                (i / bays * self.meters + 0.2) * scale,
                ((i + 1) / bays * self.meters - 0.2) * scale,
            )
            entrance = i == bays // 2
            y0, y1 = round(self.row(2.5)), self.height if entrance else round(self.row(0.5))
            pane = _glass(rng, max(2, y1 - y0), max(2, round(x1) - round(x0)), self.light)
            room = self.rgb[max(0, y0) : y1, round(x0) : round(x1)]
            room[:] = pane[-room.shape[0] :, : room.shape[1]] * 0.9
            if entrance:
                middle = (x0 + x1) / 2
                for a in (x0, middle, x1):
                    fill_rect(self.rgb, a - 0.05 * scale, y0, a + 0.05 * scale, y1, front * 0.5)
            else:
                for x in np.arange(x0 + 0.1 * scale, x1 - 0.3 * scale, 0.45 * scale):
                    tall = rng.uniform(0.25, 1.3) * scale
                    fill_rect(self.rgb, x, y1 - tall, x + 0.33 * scale, y1, pick(rng) * 0.75)
        self.band(2.65, 3.2, board)
        ink = (236, 232, 220) if board.mean() < 140 else (44, 42, 44)
        x, end = 0.12 * self.width, self.width * rng.uniform(0.5, 0.9)
        while x < end:
            glyph = rng.uniform(0.1, 0.28) * scale
            fill_rect(self.rgb, x, self.row(3.06), x + glyph * 0.75, self.row(2.8), ink)
            fill_rect(
                self.rgb, x + 0.25 * glyph, self.row(2.98), x + 0.5 * glyph, self.row(2.88), board
            )
            x += glyph + 0.05 * scale + (0.2 * scale if rng.random() < 0.15 else 0)

    def finish(self) -> np.ndarray:
        """Add grime: dark at the foot and under the eaves, stains in between."""
        rows = np.linspace(self.house.height, 0, self.height)[:, None]
        foot = 1 - 0.28 * np.exp(-rows / 0.7) - 0.18 * np.exp(-(self.house.height - rows) / 0.5)
        stains = cv2.resize(noise(34, 1.6)[:96, :96], (self.width, self.height)) * 0.05
        factor = (foot + stains)[..., None].astype(np.float32)
        return np.clip(self.rgb * factor, 0, 255).astype(np.uint8)


def draw_facade(
    rng: np.random.Generator, light: Light, width: float, house: House, scale: int
) -> np.ndarray:
    """The facade of a house: (height * scale, width * scale, 3) uint8 albedo."""
    facade = _Facade(rng, light, width, house, scale)
    if house.material == "glass":
        facade.curtain_wall()
        return facade.finish()
    if rng.random() < 0.5:
        plinth = house.color * rng.uniform(0.55, 0.8)
        fill_rect(facade.rgb, 0, facade.row(0.6), facade.width, facade.height, plinth)
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
    fill_rect(facade.rgb, pipe, 0, pipe + thick, facade.height, house.color * 0.5)
    return facade.finish()
