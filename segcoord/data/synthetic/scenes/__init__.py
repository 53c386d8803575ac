"""Draw labeled street scenes for the sample dataset.

A scene is a street seen by a camera. `layout` places the objects, the other modules paint them:

    canvas      camera, light, the supersampled image with its id map
    textures    gray tiles of materials
    layout      weather, camera, street, positions of all objects
    sky         the sky and the far end of the street
    street      the ground: road, sidewalks, markings
    facades, buildings, cars, people, vegetation, signs     one kind of object each
"""

import cv2
import numpy as np

from segcoord.data.synthetic.scenes.canvas import EGO, STATIC, Canvas, Light
from segcoord.data.synthetic.scenes.layout import compose, weather
from segcoord.data.synthetic.scenes.sky import paint_backdrop, paint_sky
from segcoord.data.synthetic.scenes.street import paint_ground

SPLITS = ("train", "val", "test")


def render(
    seed: int, split: str, index: int, width: int = 256, height: int = 192
) -> tuple[np.ndarray, np.ndarray]:
    """Draw scene `index` of a split, as `draw_scene` does, but with a separate id for the hood.

    Returns:
        image (H, W, 3) uint8 RGB, and ids (H, W) uint8: 0..7, STATIC (254) or EGO (253).
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, SPLITS.index(split), index)))
    # Supersampling smooths the edges of small images; large ones don't need it and would be slow.
    factor = 3 if width < 200 else 2 if width <= 1024 else 1
    light = weather(rng)
    camera, street, items, leaves = compose(rng, width * factor, height * factor, light)
    canvas = Canvas(camera, light, factor)
    paint_sky(canvas, rng)
    paint_backdrop(canvas, rng, leaves)
    for item in items:
        if item.cast is not None:
            item.cast(canvas)
    paint_ground(canvas, rng, street)
    for item in sorted(items, key=lambda item: -item.depth):
        item.paint(canvas)
    if rng.random() < 0.3:
        _hood(canvas, rng)
    image = cv2.resize(canvas.rgb, (width, height), interpolation=cv2.INTER_AREA)
    middle = factor // 2
    ids = np.ascontiguousarray(canvas.ids[middle::factor, middle::factor])
    return _develop(image, rng, light), ids


def draw_scene(
    seed: int, split: str, index: int, width: int = 256, height: int = 192
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one labeled street scene; the same arguments always give the same arrays.

    Args:
        seed: of the dataset, >= 0.
        split: "train", "val" or "test"; splits share no scenes.
        index: of the scene in its split, >= 0.
        width: of the image in pixels, 128 or more; the field of view is relative to it.
        height: of the image in pixels, 96 or more.

    Returns:
        image (H, W, 3) uint8 RGB, and ids (H, W) uint8: the class 0..7 in the order of
        `segcoord.data.synthetic.dataset.CLASSES`, or 254 for objects of no class (poles, bins, the
        hood of the camera's car).
    """
    image, ids = render(seed, split, index, width, height)
    ids[ids == EGO] = STATIC
    return image, ids


def _hood(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the hood of the car that carries the camera, at the lower edge."""
    width, height = canvas.camera.width, canvas.camera.height
    rise = rng.uniform(0.05, 0.1) * height
    x = np.linspace(-0.05, 1.05, 40)
    color = np.float32(rng.choice([(40, 42, 46), (196, 198, 200), (120, 34, 32), (50, 66, 98)]))
    gain, sky = canvas.light.gain((0, 1, 0)), canvas.light.sky_low
    for shrink in np.linspace(0, 0.9, 7):
        arch = rise * (1 - np.abs(2 * x - 1) ** 3.2) * (1 - shrink) + 0.004 * height
        outline = np.stack([x * width, height - arch], 1)
        outline = np.concatenate([outline, [(1.1 * width, height + 9), (-0.1 * width, height + 9)]])
        gloss = 0.45 * (1 - shrink) ** 2
        canvas.polygon(outline, (color * gain * (1 - gloss) + sky * gloss).tolist(), EGO)


def _develop(image: np.ndarray, rng: np.random.Generator, light: Light) -> np.ndarray:
    """Simulate lens and sensor: exposure, contrast, vignetting, slight blur and noise."""
    height, width = image.shape[:2]
    picture = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.2, 0.5)).astype(np.float32) / 255
    glare = cv2.GaussianBlur(picture, (0, 0), width / 24)
    picture += np.maximum(glare - 0.55, 0) * (0.18 + 0.25 * light.lamps)
    # White balance: 60 % of the way to a gray mean.
    balance = picture.mean() / picture.mean((0, 1))
    picture *= 1 + (balance - 1) * 0.6
    # Exposure by the lower two thirds of the image; evenings stay somewhat dark.
    mean = float(picture[height // 3 :].mean())
    picture *= np.clip((0.42 / mean) ** 0.7, 0.85, 1.6) * rng.uniform(0.88, 1.12)
    curve = picture * picture * (3 - 2 * np.clip(picture, 0, 1))
    picture += (curve - picture) * rng.uniform(0.1, 0.4)
    gray = picture.mean(2, keepdims=True)
    picture = gray + (picture - gray) * rng.uniform(0.85, 1.2)
    picture *= rng.normal(1, 0.02, 3).astype(np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    picture *= (1 - rng.uniform(0.05, 0.22) * (x * x + y * y) ** 1.3 / 2)[..., None]
    noise = rng.standard_normal((height, width, 3), dtype=np.float32)
    picture += noise * rng.uniform(0.004, 0.016) * np.sqrt(np.clip(picture, 0.02, 1))
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


__all__ = ["draw_scene", "render"]
