"""Gray tiles of materials, cached per process: noise, walls, pavings, leaves.

Every tile is (512, 512) uint8, seamless, with a mean near 200, and multiplies a color. Their seeds
are fixed, so a scene doesn't depend on the scenes drawn before it.
"""

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

SIZE = 512
WALL_SCALE = 64
"""Texels per meter of wall and ground tiles: a tile is 8 m wide."""


@lru_cache(maxsize=16)
def noise(seed: int, slope: float = 1.0) -> np.ndarray:
    """Seamless noise (512, 512) float32, mean 0, standard deviation 1; a large slope is smooth."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE)))
    row, column = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None]
    radius = np.hypot(row, column)
    radius[0, 0] = np.inf
    field = np.fft.irfft2(spectrum / radius**slope, s=(SIZE, SIZE))
    return (field / field.std()).astype(np.float32)


def _gray(field: np.ndarray) -> np.ndarray:
    return np.clip(field, 0, 255).astype(np.uint8)


def _grain(seed: int, fine: float, coarse: float) -> np.ndarray:
    return noise(seed, 0.2) * fine + noise(seed + 1, 1.6) * coarse


def _blocks(height: int, width: int, joint: int, spread: float, joint_gray: float) -> np.ndarray:
    """Courses of blocks (sizes in texels), every second one shifted by half a block."""
    y, x = np.mgrid[:SIZE, :SIZE]
    course = y // height
    x = (x + course % 2 * (width // 2)) % SIZE
    shades = np.random.default_rng(height * 1000 + width).normal(0, spread, (SIZE, SIZE))
    field = 196 + shades[course, x // width] + _grain(height, 7, 4)
    is_joint = (y % height < joint) | (x % width < joint)
    return np.where(is_joint, joint_gray + _grain(3, 5, 3), field)


def _herringbone() -> np.ndarray:
    """Bricks of 16 x 8 texels in a herringbone pattern, as on sidewalks."""
    y, x = np.mgrid[:SIZE, :SIZE] // 8
    lying = (x + y) % 4 < 2
    brick = np.where(lying, (x + 1) // 2 * 977 + y * 131, x * 613 + (y + 1) // 2 * 389)
    shades = np.random.default_rng(5).normal(0, 16, 8192)
    field = 196 + shades[brick % 8192] + _grain(6, 6, 5)
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.where((x % 8 == 0) & lying | (y % 8 == 0) & ~lying, 112, field)


def _cobbles() -> np.ndarray:
    """Cobblestones of about 12 cm on a jittered grid."""
    rng = np.random.default_rng(7)
    step = 8
    points = np.stack(np.meshgrid(*[np.arange(0, SIZE, step)] * 2), -1).reshape(-1, 2) + step / 2
    points = points + rng.uniform(-1.6, 1.6, points.shape)
    field = np.full((SIZE, SIZE), 138.0, np.float32)
    for x, y in points:
        axes = (round(16 * rng.uniform(2.9, 3.9)), round(16 * rng.uniform(2.9, 3.9)))
        center = (round(16 * x), round(16 * y))
        cv2.ellipse(field, center, axes, 0, 0, 360, rng.normal(206, 16), -1, cv2.LINE_8, 4)
    return cv2.GaussianBlur(field, (0, 0), 0.7) + _grain(8, 6, 5)


def _asphalt() -> np.ndarray:
    rng = np.random.default_rng(9)
    field = 200 + _grain(10, 13, 7)
    field[rng.random((SIZE, SIZE)) < 0.02] += 30
    return field


def _concrete() -> np.ndarray:
    """Poured concrete panels of 2 m with seams, anchor holes and stains."""
    field = 200 + _grain(11, 5, 8)
    field += cv2.resize(noise(12, 0.9)[:16], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) * 7
    for edge in range(0, SIZE, 128):
        field[edge : edge + 2] -= 45
        field[:, edge : edge + 2] -= 45
    for y in range(32, SIZE, 64):
        for x in range(32, SIZE, 64):
            field[y : y + 3, x : x + 3] -= 50
    return field


def _boards() -> np.ndarray:
    """Overlapping wooden boards of 16 cm."""
    y = np.arange(SIZE)[:, None] % 10
    streaks = cv2.resize(noise(13, 0.5), (SIZE, SIZE * 8))[: SIZE * 8 : 8]
    return 178 + y * 4.0 + streaks * 6 + _grain(14, 3, 5) - 50.0 * (y == 0)


def _slabs() -> np.ndarray:
    """Paving slabs of 50 cm, some of them newer."""
    return _blocks(32, 32, 2, 17, 112) - noise(15, 1.8) * 4


_MAKERS: dict[str, Callable[[], np.ndarray]] = {
    "brick": lambda: _blocks(8, 16, 1, 19, 232),
    "dark joints": lambda: _blocks(8, 16, 1, 19, 130),
    "stone": lambda: _blocks(32, 64, 2, 14, 150),
    "tiles": lambda: _blocks(16, 16, 2, 15, 118),
    "plaster": lambda: 204 + _grain(16, 5, 9),
    "concrete": _concrete,
    "boards": _boards,
    "asphalt": _asphalt,
    "slabs": _slabs,
    "flags": lambda: _blocks(32, 64, 2, 16, 112),
    "herringbone": _herringbone,
    "cobbles": _cobbles,
}


@lru_cache(maxsize=64)
def tile(name: str, scale: int = WALL_SCALE) -> np.ndarray:
    """A material at `scale` texels per meter: (8 * scale, 8 * scale) uint8, seamless."""
    full = _gray(_MAKERS[name]())
    size = SIZE * scale // WALL_SCALE
    return full if size == SIZE else cv2.resize(full, (size, size), interpolation=cv2.INTER_AREA)


def wall(rng: np.random.Generator, name: str, scale: int, height: int, width: int) -> np.ndarray:
    """A random crop (height, width) uint8 of a repeated tile."""
    part = tile(name, scale)
    size = len(part)
    y, x = rng.integers(size, size=2)
    repeats = ((y + height) // size + 1, (x + width) // size + 1)
    return np.tile(part, repeats)[y : y + height, x : x + width]


def tinted(gray: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Color a material: (H, W) uint8 around 200 -> (H, W, 3) uint8 around `color`."""
    table = np.minimum(np.arange(256, dtype=np.float32)[:, None] * (color / 200.0), 255)
    return cv2.LUT(cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB), table.astype(np.uint8)[:, None])


@lru_cache(maxsize=4)
def leaves(kind: int) -> np.ndarray:
    """Foliage (512, 512) uint8 around 128: broad leaves (0), small leaves (1), needles (2)."""
    rng = np.random.default_rng(20 + kind)
    length, breadth, count = ((13, 7, 5200), (8, 5, 11000), (15, 2, 12000))[kind]
    field = np.full((SIZE, SIZE), 40, np.uint8)
    places = rng.integers(0, SIZE, (count, 2))
    # Later leaves cover earlier ones and are brighter.
    shades = np.linspace(45, 205, count) + rng.normal(0, 28, count)
    for (x, y), shade, angle in zip(places.tolist(), shades, rng.uniform(0, 180, count)):
        for dx in (0, -SIZE if x > SIZE - 16 else SIZE if x < 16 else 0):
            for dy in (0, -SIZE if y > SIZE - 16 else SIZE if y < 16 else 0):
                axes = (length // 2 + 1, breadth // 2 + 1)
                cv2.ellipse(field, (x + dx, y + dy), axes, angle, 0, 360, float(shade), -1)
    return field


def sample(gray: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values (H, W) of a seamless tile at texel positions x, y (H, W) float32, wrapped."""
    return cv2.remap(gray, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
