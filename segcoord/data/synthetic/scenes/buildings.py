"""Houses: facades, end walls and roofs projected along the street."""

import cv2
import numpy as np

from segcoord.data.synthetic.scenes.canvas import BUILDING, NEAR, PAINTS, Canvas, Item, mix, pick
from segcoord.data.synthetic.scenes.facades import FLOOR, House, draw_facade, fill_rect
from segcoord.data.synthetic.scenes.street import Street, strip
from segcoord.data.synthetic.scenes.textures import tinted, wall

DEPTH = 9.0
"""Depth of a house in meters."""

BRICKS = np.float32(
    [(164, 84, 64), (140, 66, 54), (186, 142, 100), (120, 108, 100), (206, 198, 188), (104, 70, 58)]
)
CONCRETES = np.float32([(158, 158, 156), (132, 132, 134), (180, 174, 164), (112, 116, 120)])
# Without the colors that are as green as trees.
FACADES = PAINTS[(PAINTS[:, 1] < PAINTS[:, 0] + 4) | (PAINTS[:, 1] < PAINTS[:, 2])]
SLATES = np.float32([(84, 86, 94), (150, 84, 64), (120, 66, 54), (72, 70, 72), (108, 96, 84)])


def _end_wall(rng: np.random.Generator, house: House, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """The gable end: (texture, alpha); a pitched roof cuts its top."""
    tall = house.height + house.roof
    height, width = max(8, round(tall * scale)), round(DEPTH * scale)
    name = "concrete" if house.material == "glass" else house.material
    rgb = tinted(wall(rng, name, scale, height, width), house.color * 0.97)
    for y in np.arange(1.0, house.height - 1.5, FLOOR):
        for x in (1.6, 5.6):
            if rng.random() < 0.7:
                box = (x * scale, height - (y + 1.4) * scale, (x + 1) * scale, height - y * scale)
                fill_rect(rgb, *box, mix((58, 64, 74), (150, 170, 190), rng.uniform(0, 0.5)))
    alpha = np.zeros((height, width), np.uint8)
    eaves = house.roof * scale
    gable = np.array([(0, height), (0, eaves), (width / 2, 0), (width, eaves), (width, height)])
    cv2.fillPoly(alpha, [gable.round().astype(np.int32)], 255)
    return rgb, alpha


def _awning(canvas: Canvas, rng: np.random.Generator, house: House) -> None:
    """Paint a striped awning over the sidewalk."""
    cloth, other = pick(rng), np.float32((228, 224, 214)) if rng.random() < 0.6 else pick(rng)
    reach = house.front - rng.uniform(0.8, 1.4)
    stripes = max(3, int((house.t1 - house.t0 - 0.6) / 0.7))
    edges = np.linspace(house.t0 + 0.3, house.t1 - 0.3, stripes + 1)
    gain, under = canvas.light.gain((-house.side * 0.5, 0.86, 0)), canvas.light.gain(sunlit=0) * 0.6
    z = canvas.camera.view(house.side * house.front, (house.t0 + house.t1) / 2)[1]
    # The underside is visible from below.
    for i in reversed(range(stripes)):
        color = cloth if i % 2 else other
        a, b = edges[i], edges[i + 1]
        top, low = 2.75, 2.2
        cover = [(house.front, top, a), (house.front, top, b), (reach, low, b), (reach, low, a)]
        hem = [(reach, low, a), (reach, low, b), (reach, low - 0.25, b), (reach, low - 0.25, a)]
        for points, light in ((cover, (gain + under) / 2), (hem, gain)):
            points = np.array(points) * [house.side, 1, 1]
            canvas.face(points, canvas.light.seen(color, light, z), BUILDING)


def house_item(rng: np.random.Generator, house: House) -> Item:
    """A house beside the street."""
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
        front = draw_facade(rng, light, house.t1 - house.t0, house, scale)
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

    # Painted before objects in front of it, after those that it hides around a bend.
    return Item(house.t1, paint, cast)


def house_row(
    rng: np.random.Generator, street: Street, side: int, start: float, style: dict, end: float
) -> list[Item]:
    """A row of houses of one style, interrupted by the crossing road.

    Args:
        style: `floors` (low, high), `materials`, `roofs` (probability of a pitched one), `shops`
            and `gaps` after a house (probabilities), `garden` (meters in front of the facade).
    """
    items, t, last = [], start, 0.0
    low = high = np.inf
    if street.crossing is not None:
        middle, half = street.crossing
        low, high = middle - half - street.walk, middle + half + street.walk
    while t < end:
        if low - 3 < t < high:
            t, last = high, 0.0
        # Far houses are longer, since single ones can't be told apart there.
        t1 = t + rng.uniform(6.5, 12.5) * (1 + t / 60)
        if t < low < t1:
            t1 = low
        material = str(rng.choice(style["materials"]))
        bricks = material in ("brick", "dark joints")
        colors = BRICKS if bricks else CONCRETES if material == "concrete" else None
        color = pick(rng, FACADES) if colors is None else pick(rng, colors, 8)
        if material in ("plaster", "boards"):
            color = mix(color, (214, 206, 192), rng.uniform(0.1, 0.75))
        floors = rng.integers(style["floors"][0], style["floors"][1] + 1)
        pitched = rng.random() < style["roofs"] and material not in ("glass", "concrete")
        house = House(
            side=side,
            t0=t,
            t1=t1,
            front=street.front + style["garden"],
            height=floors * FLOOR + rng.uniform(0.5, 1.2),
            material=material,
            color=color,
            roof=rng.uniform(2.2, 3.6) if pitched else 0.0,
            shop=bool(rng.random() < style["shops"]) and material != "glass",
            bare=bool(last < floors * FLOOR + 1.2 + 3.6 * pitched),
        )
        items.append(house_item(rng, house))
        t, last = t1, house.height
        if rng.random() < style["gaps"]:
            t, last = t1 + rng.uniform(2, 6), 0.0
    return items
