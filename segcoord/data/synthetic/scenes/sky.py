"""The background: sky and the far end of the street."""

import cv2
import numpy as np

from segcoord.data.synthetic.scenes.canvas import BUILDING, VEGETATION, Canvas, mix, pick
from segcoord.data.synthetic.scenes.street import FAR
from segcoord.data.synthetic.scenes.textures import noise, sample
from segcoord.data.synthetic.scenes.vegetation import crown_clumps, foliage


def _smooth(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def paint_sky(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fill the canvas with sky: a gradient, the glow of the sun, clouds on a high plane."""
    camera, light = canvas.camera, canvas.light
    width, height = camera.width // canvas.factor, camera.height // canvas.factor
    focal, horizon = camera.focal / canvas.factor, camera.horizon / canvas.factor
    rows = np.arange(height, dtype=np.float32)[:, None]
    up = np.maximum(horizon - rows, 0.5) / np.float32(focal)
    right = (np.arange(width, dtype=np.float32)[None] - camera.center / canvas.factor) / focal
    blend = _smooth(1 - up / 0.75)[..., None] ** 1.5
    sky = light.sky_top * (1 - blend) + light.sky_low * blend + 0 * right[..., None]

    sun_x, sun_z = camera.view(camera.offset + light.sun[0], light.sun[2])
    if sun_z > 0:
        away = np.hypot(right - sun_x / sun_z, up - light.sun[1] / sun_z)
        glow = np.exp(-away * 3.2) * 0.75 + np.exp(-away * 14)
        sky += (glow * light.hard)[..., None] * (light.sun_color * 190)

    scale = np.float32(rng.uniform(14, 30))
    x = (right / (up + 0.12) * scale + np.float32(rng.uniform(0, 512))).astype(np.float32)
    y = np.broadcast_to(scale / (up + 0.12) + np.float32(rng.uniform(0, 512)), x.shape)
    field = noise(30, float(rng.choice([1.5, 1.8])))
    density = sample(field, x, np.ascontiguousarray(y))
    lean = np.float32(3.0 * np.sign(light.sun[0] + 1e-6))
    beside = sample(field, x + lean, y - 3)
    edge = 1.4 - 2.8 * light.clouds
    cover = _smooth((density - edge) / 0.9) * np.clip(0.25 + up * 4, 0, 1)
    bright = np.clip(0.8 + 0.35 * (density - beside), 0.45, 1.12)[..., None]
    body = mix(light.sky_low, (255, 255, 255), 0.3 + 0.35 * light.hard)
    cover = cover[..., None] * 0.9
    sky = sky * (1 - cover) + body * bright * cover
    size = (camera.width, camera.height)
    cv2.resize(np.clip(sky, 0, 255).astype(np.uint8), size, dst=canvas.rgb)


def paint_backdrop(canvas: Canvas, rng: np.random.Generator, color: np.ndarray) -> None:
    """Close the far end of the street with a wood of this color or with houses."""
    if rng.random() < 0.5:
        _wood(canvas, rng, color)
    else:
        _houses(canvas, rng)


def _wood(canvas: Canvas, rng: np.random.Generator, color: np.ndarray) -> None:
    camera, light, z = canvas.camera, canvas.light, FAR * 1.15
    pixel = camera.focal / z
    foot = camera.horizon + 0.03 * camera.height
    column = -0.05 * camera.width
    while column < camera.width:
        wide, tall = rng.uniform(8, 13) * pixel, rng.uniform(6, 9.5) * pixel
        box = (column, foot - tall, wide, tall * 1.1)
        clumps = crown_clumps(rng, "round", 12)
        foliage(canvas, rng, box, clumps, int(rng.integers(2)), color, light.gain(), z)
        column += 0.55 * wide
    # Visible between the crowns and the ground.
    hedge = [(0, foot - 3 * pixel), (camera.width, foot - 3 * pixel)]
    hedge += [(camera.width, foot), (0, foot)]
    dark = light.seen(color * 0.6, light.gain(), z)
    canvas.polygon(np.array(hedge), dark, VEGETATION)


def _houses(canvas: Canvas, rng: np.random.Generator) -> None:
    camera, light, z = canvas.camera, canvas.light, FAR * 1.15
    pixel = camera.focal / z
    column = -0.02 * camera.width
    while column < camera.width:
        wide, tall = rng.uniform(8, 18), rng.uniform(5, 9) + 9 * (rng.random() < 0.12)
        left, right = column, column + wide * pixel
        top, foot = camera.horizon - tall * pixel, camera.horizon + 0.04 * camera.height
        color = mix(pick(rng), (150, 146, 142), 0.4)
        outline = [(left, foot), (left, top), (right, top), (right, foot)]
        if rng.random() < 0.4:
            outline.insert(2, ((left + right) / 2, top - rng.uniform(1.5, 4) * pixel))
        canvas.polygon(np.array(outline), light.seen(color, light.gain(), z), BUILDING)
        lit = light.lamps and rng.random() < 0.7
        glass = (255, 214, 140) if lit else light.seen(color * 0.55, light.gain(), z)
        for y in np.arange(top + 1.2 * pixel, camera.horizon - pixel, 3 * pixel):
            for x in np.arange(left + pixel, right - 1.5 * pixel, 2.3 * pixel):
                corner = np.array([x, y])
                sides = np.array([(0, 0), (1.1, 0), (1.1, 1.5), (0, 1.5)]) * pixel
                canvas.polygon(corner + sides, glass, None)
        column = right
