"""Trees, bushes and hedges: round clumps of leaf texture."""

import cv2
import numpy as np

from segcoord.data.synthetic.scenes.canvas import STATIC, VEGETATION, Canvas, Item, pick
from segcoord.data.synthetic.scenes.textures import SIZE, leaves, noise

# Summer, then fall and blossom; the latter also occur on bricks, clothes and cars.
FOLIAGE = np.float32(
    [
        (92, 132, 50), (76, 116, 46), (112, 144, 56), (66, 106, 50), (122, 146, 68), (84, 122, 60),
        (184, 104, 44), (170, 74, 44), (208, 160, 62), (146, 98, 50), (206, 150, 158),
        (190, 126, 50),
    ]
)  # fmt: skip
_SUMMER = 6
SHAPES = ("round", "round", "column", "cone")


def leaf_color(rng: np.random.Generator, autumn: bool) -> np.ndarray:
    """A random leaf color for the season."""
    return pick(rng, FOLIAGE[_SUMMER:] if autumn else FOLIAGE[:_SUMMER], 7)


def crown_clumps(
    rng: np.random.Generator, shape: str, count: int
) -> list[tuple[float, float, float]]:
    """Circles (x, y, radius) of a crown: x -1..1 in half widths, y 0 (bottom)..1 in heights."""
    clumps = []
    for i in range(count):
        y = 0.1 + 0.8 * (i + rng.random()) / count
        if shape == "cone":
            reach, radius = 0.78 * (1 - y) + 0.02, 0.36 * (1.12 - y)
        elif shape == "column":
            reach, radius = 0.95 * np.sqrt(y * (1 - y)), 0.42 * np.sqrt(y * (1.2 - y)) + 0.1
        else:
            reach = 0.8 * np.sqrt(max(0.0, 1 - (2 * y - 1) ** 2))
            radius = rng.uniform(0.2, 0.4)
        # Every third clump is near the trunk, so that none floats beside the tree.
        side = rng.uniform(-1, 1) if i % 3 else rng.uniform(-0.3, 0.3)
        clumps.append((side * reach, y, radius * (1.0 if i % 3 else 1.25)))
    return clumps


def _crown(
    rng: np.random.Generator, clumps: list, wide: int, high: int, kind: int, sun: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Brightness (high, wide) 0..1 and coverage (high, wide), positive where leaves are."""
    x = np.linspace(-1.05, 1.05, wide, dtype=np.float32)[None]
    y = np.linspace(1.08, -0.06, high, dtype=np.float32)[:, None]
    aspect = high / wide * 2.0 / 1.1
    best = np.full((high, wide), -1.0, np.float32)
    tone = np.zeros((high, wide), np.float32)
    # Upper clumps cover lower ones and are brighter.
    for cx, cy, radius in clumps:
        dx, dy = (x - cx) / radius, (y - cy) * (aspect / radius)
        cover = 1 - np.sqrt(dx * dx + dy * dy)
        lit = dx * float(0.6 * sun[0] + 0.1) + dy * float(0.6 * sun[1])
        lit += float(0.5 * cx * sun[0] + 0.9 * (cy - 0.5) * sun[1])
        weight = np.clip((cover - 0.05) * 4, 0, 1)
        tone += (lit - tone) * weight
        np.maximum(best, cover, out=best)
    zoom = max(0.35, 0.62 * max(wide, high) / 190)
    start = rng.uniform(0, SIZE, 2)
    matrix = np.float32([[1 / zoom, 0, start[0]], [0, 1 / zoom, start[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    leaf = cv2.warpAffine(leaves(kind), matrix, (wide, high), None, flags, cv2.BORDER_WRAP)
    leaf = leaf.astype(np.float32) / 255 - 0.5
    # Twigs: the same texture, enlarged.
    spray = cv2.warpAffine(
        leaves(kind), matrix * [0.3, 0.3, 1], (wide, high), None, flags, cv2.BORDER_WRAP
    )
    spray = cv2.blur(spray, (3, 3)).astype(np.float32) / 255 - 0.5
    return 0.45 + 0.24 * tone + 0.6 * leaf + 0.2 * spray, best + 0.32 * leaf + 0.28 * spray - 0.02


def _colored(tone: np.ndarray, color: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Color leaves by brightness, (H, W, 3) float32: dark parts bluer, bright parts yellower."""
    tone = np.clip(tone, 0.06, 1.15)[..., None]
    other = np.clip(color + shift, 15, 245)
    patch = cv2.resize(noise(36, 1.6)[:64, :64], tone.shape[1::-1])[..., None]
    base = color + (other - color) * np.clip(0.5 + 0.4 * patch, 0, 1)
    bright = base * 1.25 + np.float32([22, 20, 4])
    return base * 0.32 + (bright - base * 0.32) * tone


def _sun_on_screen(canvas: Canvas) -> np.ndarray:
    """(2,) direction to the light in the image (right, up); from above under clouds."""
    camera, light = canvas.camera, canvas.light
    x = float(camera.view(camera.offset + light.sun[0], light.sun[2])[0])
    hard = light.hard
    return np.array([x * hard, light.sun[1] * hard + 0.65 * (1 - hard) + 0.2])


def foliage(
    canvas: Canvas, rng: np.random.Generator, box: tuple, clumps: list, kind: int, color, gain, z
) -> None:
    """Paste a crown of `crown_clumps` into box = (left, top, width, height) in canvas pixels."""
    left, top, width, height = box
    shrink = max(1.0, max(width, height) / (120 * canvas.factor))
    wide, high = max(6, round(width / shrink)), max(6, round(height / shrink))
    tone, cover = _crown(rng, clumps, wide, high, kind, _sun_on_screen(canvas))
    shift = rng.normal(0, 8, 3).astype(np.float32)
    rgb = np.clip(_colored(tone, color, shift), 0, 255).astype(np.uint8)
    mask = np.clip(127.5 + cover * 300, 0, 255).astype(np.uint8)
    if shrink > 1:
        size = (round(width), round(height))
        rgb, mask = cv2.resize(rgb, size), cv2.resize(mask, size)
    canvas.sprite(canvas.light.develop(rgb, gain, z), mask, left, top, VEGETATION)


def tree(
    rng: np.random.Generator,
    s: float,
    t: float,
    autumn: bool,
    height: float,
    shape: str | None = None,
) -> Item:
    """A tree with its trunk at (s, t), of the given or a random shape."""
    shape = shape or str(rng.choice(SHAPES))
    kind = {"cone": 2}.get(shape, int(rng.integers(2)))
    wide = height * {"round": rng.uniform(0.7, 0.9), "cone": 0.55, "column": 0.48}[shape]
    clear = height * {"round": rng.uniform(0.24, 0.36), "cone": 0.1, "column": 0.14}[shape]
    shades = FOLIAGE[_SUMMER:] if autumn and shape != "cone" else FOLIAGE[:_SUMMER]
    color = pick(rng, shades, 7)
    bark = pick(rng, np.float32([(96, 80, 66), (120, 112, 102), (74, 62, 52), (150, 144, 136)]), 5)
    clumps = crown_clumps(rng, shape, int(rng.integers(15, 22)))
    seed = int(rng.integers(2**62))
    lean = rng.uniform(-0.2, 0.2)

    def paint(canvas: Canvas) -> None:
        rng, light = np.random.default_rng(seed), canvas.light
        z, scale = float(canvas.camera.view(s, t)[1]), canvas.camera.scale(s, t)
        foot = canvas.camera.project([s, 0.0, t])
        gain = light.gain(None, 0.4 + 0.6 * canvas.sunlit(s, t))
        girth = 0.034 * height
        fork = clear + 0.35 * (height - clear)
        # Vertical strips of the trunk, darker on the side away from the sun.
        sun = np.sign(_sun_on_screen(canvas)[0] + 1e-6)
        branches = [((0, 0), (lean, fork), 1.0)]
        for _ in range(4):
            tip = (rng.uniform(-0.3, 0.3) * wide, clear + rng.uniform(0.2, 0.6) * (height - clear))
            branches.append(((lean * 0.8, clear * 0.8), tip, 0.45))
        for (x0, y0), (x1, y1), thick in branches:
            for a, b, dark in ((-1.0, 1.0, 0.62), (-0.1, 0.75, 0.85), (0.3, 0.75, 1.05)):
                low, high = girth * thick * 1.15, girth * thick * 0.6
                flare = 1.35 if y0 == 0 else 1.0
                pixels = [(x0 + a * sun * low * flare, y0), (x1 + a * sun * high, y1)]
                pixels += [(x1 + b * sun * high, y1), (x0 + b * sun * low * flare, y0)]
                pixels = np.array(pixels) * [scale, -scale] + foot
                canvas.polygon(pixels, light.seen(bark * dark, gain, z), VEGETATION)
        crown = height - clear
        box = (foot[0] - wide / 2 * scale, foot[1] - height * scale, wide * scale, crown * scale)
        foliage(canvas, rng, box, clumps, kind, color, gain, z)

    def cast(canvas: Canvas) -> None:
        angles = np.linspace(0, 2 * np.pi, 40)
        ring = np.stack([np.cos(angles), np.sin(angles)], 1)
        canvas.shadow(0.5, ring * 0.35 + [s, t])
        light = canvas.light
        if light.hard > 0.25:
            rng, reach = np.random.default_rng(seed), light.shadow
            across = np.array([reach[1], -reach[0]]) / max(float(np.hypot(*reach)), 0.1) * 0.14
            trunk = np.array([s, t]) + np.array([across, across + reach * clear])
            other = np.array([s, t]) + np.array([reach * clear - across, -across])
            spots = [np.concatenate([trunk, other])]
            center = np.array([s, t]) + reach * (clear + 0.5 * (height - clear))
            for _ in range(9):
                spot = center + rng.normal(0, 0.24, 2) * wide + reach * rng.uniform(-0.25, 0.25)
                ragged = ring * rng.uniform(0.6, 1.1, (40, 1)) * wide * rng.uniform(0.14, 0.3)
                spots.append(spot + ragged)
            canvas.shadow(0.88, *spots)
        else:
            canvas.shadow(0.2, ring * wide * 0.4 + [s, t])

    return Item(float(t), paint, cast)


def bush(
    rng: np.random.Generator, s: float, t: float, autumn: bool, size: float, pot: bool = False
) -> Item:
    """A bush about as wide as high, optionally in a pot, which has no class."""
    color = pick(rng, FOLIAGE if autumn else FOLIAGE[:_SUMMER], 8)
    kind, clumps = int(rng.integers(2)), crown_clumps(rng, "round", 10)
    tub = pick(rng)
    seed = int(rng.integers(2**62))

    def paint(canvas: Canvas) -> None:
        rng, light = np.random.default_rng(seed), canvas.light
        z, scale = float(canvas.camera.view(s, t)[1]), canvas.camera.scale(s, t)
        foot = canvas.camera.project([s, 0.0, t])
        gain = light.gain(None, canvas.sunlit(s, t))
        base = 0.0
        if pot:
            base, w = 0.5 * size, 0.36 * size
            for a, b, dark in ((-1.0, 1.0, 0.75), (-0.4, 0.5, 1.0)):
                corners = [(a * w * 0.8, 0), (a * w, base), (b * w, base), (b * w * 0.8, 0)]
                pixels = np.array(corners) * [scale, -scale] + foot
                canvas.polygon(pixels, light.seen(tub * dark, gain, z), STATIC)
            base *= 0.8
        side = size * scale
        box = (foot[0] - side * 0.55, foot[1] - base * scale - side * 0.95, side * 1.1, side)
        foliage(canvas, rng, box, clumps, kind, color, gain, z)

    def cast(canvas: Canvas) -> None:
        angles = np.linspace(0, 2 * np.pi, 20)
        ring = np.stack([np.cos(angles), np.sin(angles)], 1) * size
        canvas.shadow(0.5, ring * 0.5 + [s, t])
        if canvas.light.hard > 0.25:
            canvas.shadow(0.9, ring * 0.45 + [s, t] + canvas.light.shadow * size * 0.5)

    return Item(float(t), paint, cast)


def hedge(
    rng: np.random.Generator, s: float, t0: float, t1: float, height: float, autumn: bool
) -> list[Item]:
    """A trimmed hedge along the street, 0.8 m deep, in pieces of 4 m."""
    color = pick(rng, FOLIAGE if autumn and rng.random() < 0.4 else FOLIAGE[:_SUMMER], 5)
    shift = rng.normal(0, 9, 3).astype(np.float32)
    left, right = sorted((s, s + 0.8 * np.sign(s)))
    row, column = rng.integers(0, SIZE - 256, 2)
    leaf = leaves(1)[row : row + 128, column : column + 256].astype(np.float32) / 255 - 0.5
    up = np.linspace(1, 0, 128, dtype=np.float32)[:, None]
    tone = _colored(0.3 + 0.3 * up + 0.55 * leaf, color, shift)
    texture = np.clip(tone, 0, 255).astype(np.uint8)
    ragged = np.where(up + 0.14 * leaf < 0.93, 255, 0).astype(np.uint8)
    items = []
    for a in np.arange(t0, t1, 4.0).tolist():

        def paint(canvas: Canvas, a: float = a, b: float = a + 4.0) -> None:
            light, z = canvas.light, float(canvas.camera.view(s, (a + b) / 2)[1])
            near, far = (a, b) if s < 0 else (b, a)
            # The upper left and the lower right corner define each face.
            faces = [
                ((left, 0.93, b), (right, 0.93, a), (0, 1, 0), None),
                ((left, 1.0, a), (right, 0.0, a), (0, 0, -1), ragged),
                ((s, 1.0, near), (s, 0.0, far), (-np.sign(s), 0, 0), ragged),
            ]
            for (x0, y0, z0), (x1, y1, z1), normal, alpha in faces:
                middle = [(x1, y0, z0), (x0, y1, z1)] if y0 == y1 else [(x1, y0, z1), (x0, y1, z0)]
                corners = [(x0, y0, z0), middle[0], (x1, y1, z1), middle[1]]
                gain = 0.5 * light.gain(normal, 0.8) + 0.5 * light.gain()
                corners = np.array(corners) * [1, height, 1]
                canvas.quad(light.develop(texture, gain, z), corners, VEGETATION, alpha)

        # Nearer than the houses beside it, farther than the people in front of it.
        items.append(Item(a + 4.0, paint))
    return items
