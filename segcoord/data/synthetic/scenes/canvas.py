"""Camera, light and the canvas that all objects of a scene are painted on.

Street coordinates in meters: s to the right of the road's center line, y up from the road, t along
the street away from the camera. The road bends as a parabola: the point (s, y, t) is at
(s + bend / 2 * t^2, y, t) in the camera's Cartesian coordinates.

Colors are RGB albedos, 0..255; `Light` turns them into visible colors.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, PERSON, CAR, SIGN = range(8)
STATIC = 254
"""Objects of no class: poles, bins, bollards."""

EGO = 253
"""The hood of the car that carries the camera."""

NEAR = 0.7
"""Distance of the near clipping plane, meters."""

Color = Sequence[float]


# Cars, clothes, facades, doors, awnings and boards share these colors, so that color alone doesn't
# separate the classes.
PAINTS = np.float32(
    [
        (232, 230, 224), (205, 206, 206), (158, 162, 166), (112, 116, 120), (72, 75, 80),
        (38, 40, 45), (162, 78, 60), (182, 104, 76), (140, 42, 40), (196, 52, 44),
        (212, 154, 82), (226, 190, 96), (232, 214, 172), (206, 186, 156), (150, 118, 90),
        (104, 72, 54), (128, 148, 104), (72, 104, 62), (46, 92, 84), (120, 164, 160),
        (140, 176, 204), (66, 112, 164), (38, 58, 104), (88, 82, 116), (202, 142, 140),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Light:
    """Sun, ambient light, haze and sky of a scene."""

    sun: np.ndarray
    """(3,) unit vector toward the sun in (s, y, t)."""
    sun_color: np.ndarray
    ambient: np.ndarray
    haze: np.ndarray
    """Color of the haze, 0..255."""
    haze_length: float
    """Distance in meters at which haze contributes 63 % of the color."""
    sky_top: np.ndarray
    sky_low: np.ndarray
    clouds: float
    """Fraction of the sky covered by clouds, 0..1."""
    lamps: bool
    """Whether lamps and windows are lit."""

    @property
    def hard(self) -> float:
        """Hardness of shadows: 0 under clouds, 1 in bright sun."""
        return float(min(1.0, self.sun_color.mean() * 1.8))

    @property
    def shadow(self) -> np.ndarray:
        """(2,) offset (s, t) of a shadow on the ground, meters per meter of height."""
        return -self.sun[[0, 2]] / max(self.sun[1], 0.3)

    def gain(self, normal: Sequence[float] | None = None, sunlit: float = 1.0) -> np.ndarray:
        """(3,) factor from albedo to visible color for a surface with this unit normal.

        Without a normal: an average over the lit and the dark side of an upright object. Surfaces
        that face the ground receive less ambient light.
        """
        if normal is None:
            return self.ambient * 0.95 + self.sun_color * 0.55 * sunlit
        facing = max(0.0, float(np.dot(normal, self.sun)))
        return self.ambient * (0.86 + 0.14 * normal[1]) + self.sun_color * facing * sunlit

    def air(self, z: float | np.ndarray) -> float | np.ndarray:
        """Fraction of haze in the color of an object at z meters."""
        return 1.0 - np.exp(-np.maximum(z - 4.0, 0.0) / self.haze_length)

    def seen(self, color: Color, gain: np.ndarray, z: float) -> tuple[float, float, float]:
        """The visible color (0..255) of an albedo under a gain, from z meters away."""
        air = self.air(z)
        lit = np.minimum(np.asarray(color, np.float32) * gain, 255.0)
        return tuple((lit * (1 - air) + self.haze * air).tolist())

    def develop(self, texture: np.ndarray, gain: np.ndarray, z: float) -> np.ndarray:
        """`seen` for a whole texture: (H, W, 3) uint8 -> (H, W, 3) uint8."""
        air = self.air(z)
        steps = np.arange(256, dtype=np.float32)[:, None] * gain
        table = np.minimum(steps, 255.0) * (1 - air) + self.haze * air
        return cv2.LUT(texture, table.astype(np.uint8)[:, None])


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera above the street; sizes in canvas pixels."""

    width: int
    height: int
    focal: float
    center: float
    horizon: float
    eye: float
    """Height above the road, meters."""
    offset: float
    """Position across the street: meters to the right of the road's center line."""
    yaw: float
    """Rotation to the right, radians."""
    bend: float
    """Curvature of the street, 1 / meter."""

    def view(self, s: np.ndarray | float, t: np.ndarray | float) -> tuple:
        """Position (s, t) relative to the camera: meters to the right, meters ahead."""
        x = s + 0.5 * self.bend * t * t - self.offset
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return x * cos - t * sin, x * sin + t * cos

    def project(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) street points (s, y, t) -> (..., 2) canvas pixels (column, row)."""
        points = np.asarray(points, np.float64)
        x, z = self.view(points[..., 0], points[..., 2])
        scale = self.focal / np.maximum(z, NEAR * 0.5)
        column = self.center + x * scale
        return np.stack([column, self.horizon + (self.eye - points[..., 1]) * scale], axis=-1)

    def scale(self, s: float, t: float) -> float:
        """Pixels per meter at (s, t)."""
        return self.focal / max(float(self.view(s, t)[1]), NEAR)

    def column(self, s: float, t: float) -> float:
        """Horizontal image position of (s, t): 0 left edge, 1 right edge."""
        x, z = self.view(s, t)
        return (self.center + self.focal * x / max(z, NEAR)) / self.width

    def heading(self, t: float) -> float:
        """Direction of the street at t: radians to the right of its direction at the camera."""
        return float(np.arctan(self.bend * t))

    def ground(self) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """Ground coordinates of every pixel below the horizon.

        Returns:
            (first row, s, t, z): s and t (rows, width) float32, distance z (rows, 1) float32.
        """
        first = max(0, int(self.horizon) + 2)
        rows = np.arange(first, self.height, dtype=np.float32)[:, None]
        z = np.float32(self.focal * self.eye) / (rows + 0.5 - np.float32(self.horizon))
        columns = np.arange(self.width, dtype=np.float32)[None] + 0.5 - np.float32(self.center)
        x = columns * (z / np.float32(self.focal))
        cos, sin = np.float32(np.cos(self.yaw)), np.float32(np.sin(self.yaw))
        t = z * cos - x * sin
        s = x * cos + z * sin + np.float32(self.offset) - np.float32(self.bend / 2) * t * t
        return first, s, t, z

    def in_front(self, points: np.ndarray) -> np.ndarray:
        """Clip a polygon (N, 3) at the near plane; the result may be empty."""
        ahead = self.view(points[:, 0], points[:, 2])[1] - NEAR
        if (ahead > 0).all():
            return points
        kept = []
        for i, (p, a) in enumerate(zip(points, ahead)):
            q, b = points[i - 1], ahead[i - 1]
            if (a > 0) != (b > 0):
                kept.append(q + (p - q) * (b / (b - a)))
            if a > 0:
                kept.append(p)
        return np.array(kept).reshape(-1, 3)


class Canvas:
    """The supersampled image and its id map.

    Color and id are drawn from the same polygons without antialiasing. Downsampling averages the
    colors and takes the id at the center of each block, so their edges agree.
    """

    def __init__(self, camera: Camera, light: Light, factor: int) -> None:
        self.camera, self.light, self.factor = camera, light, factor
        self.rgb = np.zeros((camera.height, camera.width, 3), np.uint8)
        self.ids = np.full((camera.height, camera.width), SKY, np.uint8)
        # Shadows on the ground at the size of the final image: 0 none .. 255 full.
        self.shade = np.zeros((camera.height // factor, camera.width // factor), np.uint8)

    def polygon(self, pixels: np.ndarray, color: Color, label: int | None) -> None:
        """Fill a polygon (N, 2) of canvas pixels; without a label the ids are unchanged."""
        if len(pixels) < 3:
            return
        points = [fixed(pixels)]
        cv2.fillPoly(self.rgb, points, color, cv2.LINE_8, 4)
        if label is not None:
            cv2.fillPoly(self.ids, points, label, cv2.LINE_8, 4)

    def face(self, points: np.ndarray, color: Color, label: int | None) -> None:
        """Fill a polygon (N, 3) of street points with a visible color."""
        points = self.camera.in_front(np.asarray(points, np.float64))
        self.polygon(self.camera.project(points), color, label)

    def shadow(self, strength: float, *outlines: np.ndarray) -> None:
        """Shade the ground inside outlines (N, 2) of (s, t) with at least this strength (0..1)."""
        mask = np.zeros_like(self.shade)
        for outline in outlines:
            points = np.zeros((len(outline), 3))
            points[:, [0, 2]] = outline
            points = self.camera.in_front(points)
            if len(points) >= 3:
                pixels = fixed(self.camera.project(points) / self.factor)
                cv2.fillPoly(mask, [pixels], 255 * strength, cv2.LINE_AA, 4)
        np.maximum(self.shade, mask, out=self.shade)

    def sunlit(self, s: float, t: float) -> float:
        """Fraction of sunlight that reaches an object at (s, t)."""
        column, row = (self.camera.project([s, 0.0, t]) / self.factor).astype(int)
        height, width = self.shade.shape
        value = self.shade[np.clip(row + 1, 0, height - 1), np.clip(column, 0, width - 1)]
        return 1.0 - float(value) / 255.0

    def sprite(
        self, rgb: np.ndarray, mask: np.ndarray, left: float, top: float, label: int
    ) -> None:
        """Paste an image (h, w, 3) where its mask (h, w) is above 127, clipped to the canvas."""
        x, y = round(left), round(top)
        height, width = mask.shape
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, self.rgb.shape[1]), min(y + height, self.rgb.shape[0])
        if x0 >= x1 or y0 >= y1:
            return
        inside = mask[y0 - y : y1 - y, x0 - x : x1 - x]
        inside = (inside > 127).view(np.uint8)
        part = np.ascontiguousarray(rgb[y0 - y : y1 - y, x0 - x : x1 - x])
        cv2.copyTo(part, inside, self.rgb[y0:y1, x0:x1])
        self.ids[y0:y1, x0:x1][inside > 0] = label

    def quad(
        self,
        texture: np.ndarray,
        corners: np.ndarray,
        label: int | Sequence[int],
        alpha: np.ndarray | None = None,
    ) -> None:
        """Warp a texture (h, w, 3) of visible colors onto a flat face of the scene.

        Args:
            texture: uint8; nothing is drawn where `alpha` (h, w) is below 128.
            corners: (4, 3) street points of its top left, top right, bottom right and bottom left
                corner. Back faces are not drawn.
            label: class id of the face.
            alpha: uint8, or None for an opaque texture.
        """
        pixels = self.camera.project(corners)
        ahead = self.camera.view(corners[:, 0], corners[:, 2])[1]
        area = cv2.contourArea(pixels.astype(np.float32), oriented=True)
        low = np.maximum(np.floor(pixels.min(0)), 0).astype(int)
        high = np.minimum(np.ceil(pixels.max(0)), self.rgb.shape[1::-1]).astype(int)
        if area <= 2 or ahead.min() < NEAR or (high - low).min() < 1:
            return
        # At a grazing angle a facade has many more texels than pixels: downsample it by area first,
        # since the warp alone would alias.
        sides = np.linalg.norm(np.roll(pixels, -1, 0) - pixels, axis=1)
        size = np.array([max(sides[0], sides[2]), max(sides[1], sides[3])])
        height, width = texture.shape[:2]
        new = np.minimum(np.maximum(np.ceil(size * 1.3), 2), [width, height]).astype(int)
        if new[0] < 0.8 * width or new[1] < 0.8 * height:
            texture = cv2.resize(texture, new.tolist(), interpolation=cv2.INTER_AREA)
            if alpha is not None:
                alpha = cv2.resize(alpha, new.tolist(), interpolation=cv2.INTER_AREA)
        height, width = texture.shape[:2]
        source = np.float32([(0, 0), (width, 0), (width, height), (0, height)])
        matrix = cv2.getPerspectiveTransform(source, (pixels - low).astype(np.float32))
        extent = (high - low).tolist()
        picture = cv2.warpPerspective(texture, matrix, extent, borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros(extent[::-1], np.uint8)
        cv2.fillPoly(mask, [fixed(pixels - low)], 255, cv2.LINE_8, 4)
        if alpha is not None:
            mask &= cv2.warpPerspective(alpha, matrix, extent, borderMode=cv2.BORDER_REPLICATE)
        self.sprite(picture, mask, *low, label)


@dataclass(frozen=True)
class Item:
    """An object of a scene; all cast their shadows, then they are painted from far to near."""

    depth: float
    paint: Callable[[Canvas], None]
    cast: Callable[[Canvas], None] | None = None


def fixed(pixels: np.ndarray) -> np.ndarray:
    """Pixel positions (N, 2) as OpenCV's fixed-point numbers with 4 fractional bits."""
    # OpenCV counts from pixel centers, the camera from pixel corners.
    return np.round((np.clip(pixels, -20000, 20000) - 0.5) * 16).astype(np.int32)


def mix(a: Color, b: Color, weight: float) -> np.ndarray:
    """Interpolate between two colors; `weight` (0..1) is that of b."""
    return np.asarray(a, np.float32) * (1 - weight) + np.asarray(b, np.float32) * weight


def pick(rng: np.random.Generator, colors: np.ndarray = PAINTS, spread: float = 10) -> np.ndarray:
    """A random one of the colors (K, 3) with a random shift."""
    # Mostly in brightness: hues far from the list look artificial.
    shift = rng.normal(0, spread) + rng.normal(0, spread * 0.3, 3)
    return np.clip(colors[rng.integers(len(colors))] + shift, 12, 245).astype(np.float32)
