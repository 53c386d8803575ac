"""The ground: plan of the street, road, sidewalks and road markings."""

from dataclasses import dataclass

import cv2
import numpy as np

from segcoord.data.synthetic.scenes.canvas import ROAD, SIDEWALK, Canvas, mix, pick
from segcoord.data.synthetic.scenes.textures import noise, sample, tile

FAR = 55.0
"""Distance of the end of the street in meters."""


@dataclass(frozen=True)
class Street:
    """The ground plan; lengths in meters."""

    half: float
    """Half the width of the road, including a parking lane."""
    parking: int
    """Side of the parking lane: -1, +1, or 0 for none."""
    walk: float
    """Width of each sidewalk."""
    crossing: tuple[float, float] | None
    """Center (along t) and half width of a crossing road."""
    zebra: float | None
    """Start (along t) of a pedestrian crossing, which is 3 m deep."""
    road: str
    """Material: name of a tile."""
    sidewalk: str

    @property
    def front(self) -> float:
        """Distance of the facades from the road's center line."""
        return self.half + self.walk

    @property
    def middle(self) -> float:
        """Position (along s) between the two driving lanes; a parking lane 2 m wide shifts them."""
        return -1.0 * self.parking

    @property
    def lane(self) -> float:
        """Distance of the center of each driving lane from `middle`."""
        return (self.half - abs(self.parking)) / 2

    def crossed(self, t: float, margin: float = 0.0) -> bool:
        """Whether t is on the crossing road."""
        return self.crossing is not None and abs(t - self.crossing[0]) < self.crossing[1] + margin


def strip(s0: float, s1: float, t0: float, t1: float) -> np.ndarray:
    """Polygon (N, 3) of a band along the street, with enough corners to follow its bend."""
    t = np.linspace(t0, t1, max(2, int((t1 - t0) / 3) + 1))
    left = np.stack([np.full_like(t, s0), 0 * t, t], 1)
    right = np.stack([np.full_like(t, s1), 0 * t, t], 1)
    return np.concatenate([left, right[::-1]])


class _Masks:
    """Masks (H, W) uint8 of road markings (light) and wear (dark), at the size of the canvas."""

    def __init__(self, canvas: Canvas) -> None:
        self.camera = canvas.camera
        self.light = np.zeros(canvas.ids.shape, np.uint8)
        self.dark = np.zeros(canvas.ids.shape, np.uint8)

    def fill(self, mask: np.ndarray, points: np.ndarray, value: float) -> None:
        points = self.camera.in_front(points)
        if len(points) >= 3:
            pixels = np.clip(self.camera.project(points), -20000, 20000)
            cv2.fillPoly(mask, [np.round(pixels * 16).astype(np.int32)], value, cv2.LINE_8, 4)


def _wear(masks: _Masks, rng: np.random.Generator, street: Street) -> None:
    """Paint patches of newer asphalt, cracks and manhole covers."""
    for _ in range(rng.integers(2, 7)):
        s, t = rng.uniform(-street.half, street.half - 1), rng.uniform(4, 30)
        band = strip(s, s + rng.uniform(0.5, 2.4), t, t + rng.uniform(0.8, 6))
        masks.fill(masks.dark, band, rng.uniform(25, 80))
    for _ in range(rng.integers(2, 6)):
        point = np.array([rng.uniform(-street.half, street.half), rng.uniform(4, 18)])
        direction = rng.uniform(0, np.pi)
        path = [point]
        for _ in range(rng.integers(6, 16)):
            direction += rng.normal(0, 0.5)
            path.append(path[-1] + 0.35 * np.array([np.cos(direction), np.sin(direction)]))
        path = np.insert(np.array(path), 1, 0.0, axis=1)
        breadth = rng.uniform(0.012, 0.03, (len(path), 1)) * [1, 0, 1]
        masks.fill(masks.dark, np.concatenate([path, (path + breadth)[::-1]]), 150)
    angles = np.linspace(0, 2 * np.pi, 24)
    for _ in range(rng.integers(0, 4)):
        s, t = rng.uniform(-street.half, street.front), rng.uniform(5, 22)
        for radius, value in ((0.36, 190), (0.3, 110), (0.2, 150)):
            ring = np.stack([s + radius * np.cos(angles), 0 * angles, t + radius * np.sin(angles)])
            masks.fill(masks.dark, ring.T, value)


def _arrow(masks: _Masks, s: float, t: float) -> None:
    shape = [(-0.1, 0), (0.1, 0), (0.1, 2), (0.35, 2), (0, 3.4), (-0.35, 2), (-0.1, 2)]
    points = np.array([(s + x, 0.0, t + y) for x, y in shape])
    masks.fill(masks.light, points, 225)


def _markings(masks: _Masks, rng: np.random.Generator, street: Street) -> None:
    """Paint lines along the road, interrupted at crossings, stop lines and zebra stripes."""
    half = street.half
    lines = []
    style = rng.integers(4)
    if style < 3:
        dash, gap = ((3.0, 3.0), (2.0, 4.0), (60.0, 0.0))[style]
        lines.append((street.middle, dash, gap))
    if street.parking and style < 3:
        lines.append((street.parking * (half - 2.05), 1.2, 1.8))
    if rng.random() < 0.4:
        lines += [(-half + 0.35, 60.0, 0.0), (half - 0.35, 60.0, 0.0)]
    for s, dash, gap in lines:
        t = rng.uniform(-3, 1)
        while t < FAR:
            end = min(t + dash, FAR)
            # Long lines consist of short pieces, which are left out at crossings.
            for a in np.arange(t, end, 3.0):
                b = min(a + 3.0, end)
                on_zebra = street.zebra is not None and a < street.zebra + 3.2 > b - 3.2 > -9
                on_zebra = on_zebra and b > street.zebra - 0.6
                if not (street.crossed((a + b) / 2, 1.5) or on_zebra):
                    masks.fill(masks.light, strip(s - 0.08, s + 0.08, a, b), 225)
            t = end + gap + (gap == 0)
    if street.zebra is not None:
        for s in np.arange(-half + 0.4, half - 0.4, 0.95):
            masks.fill(masks.light, strip(s, s + 0.5, street.zebra, street.zebra + 3.0), 235)
        stop = street.zebra - 1.5
        masks.fill(masks.light, strip(street.middle + 0.2, half - 0.3, stop, stop + 0.4), 225)
    elif style < 3 and rng.random() < 0.5:
        _arrow(masks, street.middle + street.lane, rng.uniform(6, 12))


def _shadows(canvas: Canvas, first: int, width: int) -> np.ndarray:
    """Shade of every ground pixel, float32 0..0.85, upsampled from the canvas' shadow map."""
    shade = cv2.resize(cv2.blur(canvas.shade, (3, 3)), (width, canvas.camera.height))
    return shade[first:].astype(np.float32) * np.float32(0.85 / 255)


def paint_ground(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Paint everything below the horizon by casting a ray through every pixel."""
    camera, light = canvas.camera, canvas.light
    first, s, t, z = camera.ground()
    outside = np.abs(s) - np.float32(street.half)
    if street.crossing is not None:
        middle, half = street.crossing
        other = np.abs(t - np.float32(middle)) - np.float32(half)
        corner = np.float32(2.2)
        # Signed distance to the union of two strips with rounded inner corners.
        a, b = np.maximum(corner - outside, 0), np.maximum(corner - other, 0)
        outside = np.minimum(np.minimum(outside, other), corner - np.sqrt(a * a + b * b))
    is_road = outside < 0
    canvas.ids[first:] = np.where(is_road, ROAD, SIDEWALK)

    # Texture fades with distance, where it is finer than a pixel.
    sharp = np.clip(camera.focal / canvas.factor / z / 13, 0.12, 1).astype(np.float32)
    far_t = np.minimum(t, 400)
    x, y = s * 64, far_t * 64
    shift = rng.uniform(0, 512, 6).astype(np.float32)
    road = sample(tile(street.road), x + shift[0], y + shift[1]).astype(np.float32)
    pave = sample(tile(street.sidewalk), x + shift[2], y + shift[3]).astype(np.float32)
    stains = sample(noise(31, 1.5), x / 11 + shift[4], y / 11 + shift[5])
    tone = np.where(is_road, road, pave)
    tone = (
        200
        + (tone - 200) * np.where(is_road, sharp * 0.8, np.sqrt(sharp))
        + stains * np.where(is_road, 6.0, 9.0).astype(np.float32)
    )
    # Dark wheel tracks in each lane, gutters and foot of the walls.
    track = np.abs(np.abs(np.abs(s - street.middle) - street.lane) - 0.75)
    tone -= np.where(is_road, 9 * np.clip(1 - track * 3, 0, 1), 0)
    tone -= 26 * np.clip(1 - np.abs(outside + 0.12) * 7, 0, 1)
    tone -= 45 * np.clip(1 - np.abs(outside + 0.02) * 25, 0, 1)
    tone += 30 * ((outside > 0.02) & (outside < 0.22))
    tone -= 28 * np.clip((outside - np.float32(street.walk - 0.5)) * 1.4, 0, 1)

    masks = _Masks(canvas)
    if street.road != "cobbles":
        _markings(masks, rng, street)
        _wear(masks, rng, street)
    tone *= 1 - masks.dark[first:] * np.float32(0.45 / 255)

    road_color = mix((96, 97, 101), pick(rng), 0.06) * rng.uniform(0.8, 1.1)
    tints = np.float32(
        [(196, 186, 170), (178, 170, 158), (120, 119, 118), (184, 112, 86), (202, 176, 136)]
    )
    pave_color = pick(rng, tints, 8) * rng.uniform(0.85, 1.15)
    if street.road == "cobbles":
        road_color = mix(road_color, pave_color, 0.35)
    albedo = np.where(is_road[..., None], np.float32(road_color), np.float32(pave_color))
    worn = np.clip(0.75 + stains * 0.12 + (road - 200) * 0.006, 0.15, 0.95)
    paint = (masks.light[first:] * worn * is_road / 255)[..., None].astype(np.float32)
    paint_color = np.float32((228, 196, 92) if rng.random() < 0.15 else (226, 226, 220))
    albedo = albedo * (1 - paint) + paint_color * paint
    albedo *= (tone / 200)[..., None]

    up = (0.0, 1.0, 0.0)
    bright, dark = light.gain(up), light.gain(up, sunlit=0)
    shade = _shadows(canvas, first, camera.width)[..., None]
    lit = albedo * (bright + (dark - bright) * shade).astype(np.float32)
    # Shaded ground also receives less ambient light.
    lit *= 1 - 0.25 * shade * (1 - light.hard * 0.5)
    air = light.air(z).astype(np.float32)[..., None]
    lit = lit * (1 - air) + light.haze.astype(np.float32) * air
    canvas.rgb[first:] = np.clip(lit, 0, 255).astype(np.uint8)
