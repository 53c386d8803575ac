"""Traffic signs on poles, and sidewalk objects of no class: lamps, bollards, bins."""

import cv2
import numpy as np

from segcoord.data.synthetic.scenes.canvas import PAINTS, SIGN, STATIC, Canvas, Item, pick

_PX = 192
RED, BLUE, YELLOW = (196, 34, 38), (28, 86, 168), (238, 190, 44)
GREEN, WHITE, BLACK = (22, 112, 76), (240, 240, 236), (28, 28, 30)
_PERSON = [(0.42, 0.8), (0.47, 0.6), (0.44, 0.45), (0.36, 0.55), (0.33, 0.53), (0.42, 0.36),
           (0.55, 0.36), (0.66, 0.5), (0.62, 0.53), (0.55, 0.47), (0.56, 0.6), (0.66, 0.78),
           (0.61, 0.81), (0.52, 0.66), (0.47, 0.81)]  # fmt: skip
_ARROWS = {
    "ahead": [(0.45, 0.8), (0.45, 0.42), (0.32, 0.42), (0.5, 0.18), (0.68, 0.42), (0.55, 0.42),
              (0.55, 0.8)],
    "right": [(0.2, 0.45), (0.55, 0.45), (0.55, 0.3), (0.82, 0.5), (0.55, 0.7), (0.55, 0.55),
              (0.2, 0.55)],
    "bend": [(0.36, 0.8), (0.36, 0.45), (0.55, 0.34), (0.55, 0.24), (0.76, 0.4), (0.55, 0.56),
             (0.55, 0.45), (0.46, 0.5), (0.46, 0.8)],
}  # fmt: skip


class _Plate:
    """The flat face of a sign, drawn in a unit square: (192, 192, 3) uint8 and its outline."""

    def __init__(self) -> None:
        self.rgb = np.full((_PX, _PX, 3), 128, np.uint8)
        self.alpha = np.zeros((_PX, _PX), np.uint8)

    def fill(self, points, color, outline: bool = False) -> None:
        pixels = [np.round(np.asarray(points) * _PX * 16).astype(np.int32)]
        cv2.fillPoly(self.rgb, pixels, color, cv2.LINE_AA, 4)
        if outline:
            cv2.fillPoly(self.alpha, pixels, 255, cv2.LINE_AA, 4)

    def disc(self, radius: float, color, outline: bool = False, at=(0.5, 0.5)) -> None:
        angles = np.linspace(0, 2 * np.pi, 40)
        ring = np.stack([np.cos(angles), np.sin(angles)], 1) * radius + at
        self.fill(ring, color, outline)

    def nested(self, points, *layers) -> None:
        """Fill an outline repeatedly, shrunk about its center: (scale, color) per layer."""
        points = np.asarray(points, np.float64)
        middle = (points.min(0) + points.max(0)) / 2 if len(points) != 3 else points.mean(0)
        for i, (scale, color) in enumerate(layers):
            self.fill(middle + (points - middle) * scale, color, outline=i == 0)

    def write(self, text: str, color, size: float, at=(0.5, 0.5)) -> None:
        font, thick = cv2.FONT_HERSHEY_DUPLEX, max(2, round(size * 9))
        (w, h), _ = cv2.getTextSize(text, font, size * 4, thick)
        place = (round(at[0] * _PX - w / 2), round(at[1] * _PX + h / 2))
        cv2.putText(self.rgb, text, place, font, size * 4, color, thick, cv2.LINE_AA)


def _square(x0: float = 0.02, y0: float = 0.02, x1: float = 0.98, y1: float = 0.98) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _limit(rng: np.random.Generator) -> _Plate:
    plate = _Plate()
    plate.disc(0.49, WHITE, outline=True)
    plate.disc(0.47, RED)
    plate.disc(0.345, WHITE)
    if rng.random() < 0.7:
        plate.write(str(rng.choice(["20", "30", "40", "50", "70"])), BLACK, 0.5)
    else:
        plate.fill(np.array(_PERSON) * 0.85 + 0.06, BLACK)
    return plate


def _no_entry(rng: np.random.Generator) -> _Plate:
    plate = _Plate()
    plate.disc(0.49, WHITE, outline=True)
    plate.disc(0.465, RED)
    plate.fill(_square(0.16, 0.41, 0.84, 0.59), WHITE)
    return plate


def _no_parking(rng: np.random.Generator) -> _Plate:
    plate = _Plate()
    plate.disc(0.49, RED, outline=True)
    plate.disc(0.38, BLUE)
    bar = np.array([(-0.4, -0.05), (0.4, -0.05), (0.4, 0.05), (-0.4, 0.05)])
    for angle in (0.785, -0.785)[: rng.integers(1, 3)]:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        plate.fill(bar @ turn.T + 0.5, RED)
    return plate


def _command(rng: np.random.Generator) -> _Plate:
    plate = _Plate()
    plate.disc(0.49, WHITE, outline=True)
    plate.disc(0.46, BLUE)
    plate.fill(_ARROWS[str(rng.choice(list(_ARROWS)))], WHITE)
    return plate


def _warning(rng: np.random.Generator) -> _Plate:
    plate = _Plate()
    plate.nested([(0.5, 0.04), (0.99, 0.92), (0.01, 0.92)], (1.0, RED), (0.66, WHITE))
    choice = rng.integers(3)
    if choice == 0:
        plate.fill([(0.455, 0.42), (0.545, 0.42), (0.525, 0.66), (0.475, 0.66)], BLACK)
        plate.disc(0.042, BLACK, at=(0.5, 0.74))
    else:
        shape = np.array(_PERSON if choice == 1 else _ARROWS["bend"])
        plate.fill((shape - 0.5) * 0.5 + [0.5, 0.62], BLACK)
    return plate


def _give_way(rng: np.random.Generator) -> _Plate:
    plate = _Plate()
    plate.nested([(0.01, 0.08), (0.99, 0.08), (0.5, 0.96)], (1.0, RED), (0.62, WHITE))
    return plate


def _stop(rng: np.random.Generator) -> _Plate:
    plate = _Plate()
    angles = np.arange(8) * np.pi / 4 + np.pi / 8
    ring = np.stack([np.cos(angles), np.sin(angles)], 1) * 0.52 + 0.5
    plate.nested(ring, (1.0, WHITE), (0.92, RED))
    plate.write("STOP", WHITE, 0.33)
    return plate


def _priority(rng: np.random.Generator) -> _Plate:
    plate = _Plate()
    diamond = [(0.5, 0.01), (0.99, 0.5), (0.5, 0.99), (0.01, 0.5)]
    plate.nested(diamond, (1.0, BLACK), (0.96, WHITE), (0.68, YELLOW))
    return plate


def _crossing(rng: np.random.Generator) -> _Plate:
    plate = _Plate()
    plate.nested(_square(), (1.0, WHITE), (0.94, BLUE))
    plate.fill([(0.5, 0.14), (0.86, 0.8), (0.14, 0.8)], WHITE)
    plate.fill((np.array(_PERSON) - 0.5) * 0.7 + [0.5, 0.58], BLACK)
    return plate


def _parking(rng: np.random.Generator) -> _Plate:
    plate = _Plate()
    plate.nested(_square(), (1.0, WHITE), (0.94, BLUE))
    plate.write("P", WHITE, 0.95)
    return plate


def _board(rng: np.random.Generator) -> _Plate:
    """A direction board; its background may have the color of a car or a door."""
    grounds = [BLUE, GREEN, WHITE, YELLOW, tuple(PAINTS[rng.integers(len(PAINTS))].tolist())]
    ground = grounds[rng.integers(len(grounds))]
    ink = BLACK if np.mean(ground) > 130 else WHITE
    plate = _Plate()
    plate.nested(_square(), (1.0, ink), (0.95, ground))
    for y in (0.16, 0.44, 0.72):
        x = 0.3
        while x < rng.uniform(0.6, 0.92):
            w = rng.uniform(0.03, 0.08)
            plate.fill(_square(x, y, x + w, y + 0.13), ink)
            x += w + 0.022
        arrow = np.array(_ARROWS[str(rng.choice(["ahead", "right"]))])
        plate.fill((arrow - 0.5) * 0.26 + [0.16, y + 0.065], ink)
    return plate


def _chevrons(rng: np.random.Generator) -> _Plate:
    plate = _Plate()
    plate.nested(_square(), (1.0, WHITE), (0.96, RED if rng.random() < 0.6 else BLACK))
    for x in (-0.1, 0.22, 0.54):
        points = [(x + 0.16, 0.06), (x + 0.32, 0.06), (x + 0.52, 0.5), (x + 0.32, 0.94)]
        points += [(x + 0.16, 0.94), (x + 0.36, 0.5)]
        plate.fill(np.clip(points, 0.03, 0.97), WHITE)
    return plate


# (plate, width / height, usual width in meters)
_KINDS = [
    (_limit, 1.0, 0.85), (_limit, 1.0, 0.85), (_no_entry, 1.0, 0.85), (_no_parking, 1.0, 0.8),
    (_command, 1.0, 0.85), (_warning, 1.1, 1.0), (_warning, 1.1, 1.0), (_give_way, 1.1, 1.0),
    (_stop, 1.0, 0.95), (_priority, 1.0, 0.95), (_crossing, 1.0, 0.9), (_parking, 0.8, 0.75),
    (_board, 1.3, 1.6), (_board, 1.3, 1.9), (_chevrons, 1.6, 1.4),
]  # fmt: skip


def _post(canvas: Canvas, s: float, t: float, top: float, radius: float, color) -> None:
    """Paint a round post: three strips of different brightness."""
    scale, z = canvas.camera.scale(s, t), float(canvas.camera.view(s, t)[1])
    foot = canvas.camera.project([s, 0.0, t])
    gain = canvas.light.gain(None, canvas.sunlit(s, t))
    for a, b, dark in ((-1, 1, 0.55), (-0.5, 0.5, 1.0), (-0.3, 0.1, 1.25)):
        corners = [(a * radius, 0), (a * radius, top), (b * radius, top), (b * radius, 0)]
        pixels = np.array(corners) * [scale, -scale] + foot
        canvas.polygon(pixels, canvas.light.seen(np.asarray(color) * dark, gain, z), STATIC)


def sign(rng: np.random.Generator, s: float, t: float, large: bool = False) -> Item:
    """A traffic sign facing the camera, on a pole at (s, t), possibly with a second one below."""
    kinds = _KINDS[-3:] if large else _KINDS
    plates, top = [], float(rng.uniform(2.5, 2.95))
    height = top
    for i in range(2 if not large and rng.random() < 0.3 else 1):
        draw, aspect, usual = kinds[rng.integers(len(kinds) if i == 0 else 5)]
        width = usual * rng.uniform(1.0, 1.25)
        if width > 1.3:
            height = max(height, 2.9)
        plates.append((draw(rng), height, width, width / aspect))
        height -= width / aspect + 0.05
    turn = float(rng.normal(0, 0.2))
    post = pick(rng, np.float32([(132, 136, 140), (108, 110, 112), (70, 72, 76)]), 4)
    posts = (-0.4, 0.4) if plates[0][2] > 1.3 else (0.0,)
    dirt = float(rng.uniform(0.85, 1.0))

    def paint(canvas: Canvas) -> None:
        light, camera = canvas.light, canvas.camera
        for shift in posts:
            _post(canvas, s + shift, t, plates[0][1] - 0.05, 0.045, post)
        angle = turn + camera.yaw
        right = np.array([np.cos(angle), 0.0, -np.sin(angle)])
        normal = np.array([-np.sin(angle), 0.0, -np.cos(angle)])
        z = float(camera.view(s, t)[1])
        gain = np.maximum(light.gain(normal, canvas.sunlit(s, t)), light.ambient) * dirt
        for plate, upper, width, tall in plates:
            middle = np.array([s, upper, t - 0.06])
            half, down = right * width / 2, np.array([0.0, -tall, 0.0])
            corners = [middle - half, middle + half, middle + half + down, middle - half + down]
            lit = light.develop(plate.rgb, gain, z)
            canvas.quad(lit, np.array(corners), SIGN, plate.alpha)

    def cast(canvas: Canvas) -> None:
        _post_shadow(canvas, s, t, plates[0][1], 0.05)
        if canvas.light.hard > 0.25:
            _, upper, width, tall = plates[0]
            reach, half = canvas.light.shadow, np.array([width / 2, 0.0])
            a, b = np.array([s, t]) + reach * upper, np.array([s, t]) + reach * (upper - tall)
            canvas.shadow(0.9, np.array([a - half, a + half, b + half, b - half]))

    return Item(float(t), paint, cast)


def _post_shadow(canvas: Canvas, s: float, t: float, top: float, radius: float) -> None:
    angles = np.linspace(0, 2 * np.pi, 12)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    canvas.shadow(0.4, ring * radius * 3 + [s, t])
    if canvas.light.hard > 0.25:
        foot, reach = np.array([s, t]), canvas.light.shadow * top
        across = np.array([reach[1], -reach[0]]) / max(float(np.hypot(*reach)), 0.1) * radius
        corners = [foot - across, foot + across, foot + reach + across, foot + reach - across]
        canvas.shadow(0.85, np.array(corners))


def lamp_post(rng: np.random.Generator, s: float, t: float) -> Item:
    """A street lamp with an arm over the road; has no class."""
    top, arm = float(rng.uniform(4.6, 6.5)), -np.sign(s) * rng.uniform(0.7, 1.3)
    color = pick(rng, np.float32([(62, 66, 70), (112, 114, 116), (40, 60, 54)]), 4)

    def paint(canvas: Canvas) -> None:
        _post(canvas, s, t, top, 0.06, color)
        scale, z = canvas.camera.scale(s, t), float(canvas.camera.view(s, t)[1])
        head = canvas.camera.project([s, top, t])
        tone = canvas.light.seen(color * 0.8, canvas.light.gain(), z)
        bar = np.array([(0, 0), (arm, 0.18), (arm, 0.1), (0, -0.1)]) * [scale, -scale]
        canvas.polygon(bar + head, tone, STATIC)
        glow = (255, 236, 190) if canvas.light.lamps else tone
        box = np.array([(arm * 0.6, 0.1), (arm * 1.2, 0.2), (arm * 1.2, 0.06), (arm * 0.6, -0.02)])
        canvas.polygon(box * [scale, -scale] + head, glow, STATIC)

    return Item(float(t), paint, lambda canvas: _post_shadow(canvas, s, t, top, 0.07))


def bollard(rng: np.random.Generator, s: float, t: float) -> Item:
    """A bollard or a trash can; has no class."""
    bin_ = rng.random() < 0.3
    top, radius = (0.95, 0.24) if bin_ else (0.85, 0.08)
    color = pick(rng)

    def paint(canvas: Canvas) -> None:
        _post(canvas, s, t, top, radius, color)
        scale, z = canvas.camera.scale(s, t), float(canvas.camera.view(s, t)[1])
        foot = canvas.camera.project([s, 0.0, t])
        band = (40, 40, 42) if bin_ else (226, 224, 218)
        ring = np.array([(-1, -0.2), (-1, -0.1), (1, -0.1), (1, -0.2)]) * [radius, 1]
        tone = canvas.light.seen(band, canvas.light.gain(), z)
        canvas.polygon((ring + np.array([0, top])) * [scale, -scale] + foot, tone, STATIC)

    return Item(float(t), paint, lambda canvas: _post_shadow(canvas, s, t, top, radius * 0.6))
