"""People: flat articulated figures in clothes, shaded as if they were round."""

from functools import lru_cache

import cv2
import numpy as np

from segcoord.data.synthetic.scenes.canvas import PERSON, Canvas, Item, pick
from segcoord.data.synthetic.scenes.textures import noise

# Materials of a figure's pixels. FAR_SIDE is added for the far arm and leg, which are darker.
NONE, SKIN, TOP, BOTTOM, SHOES, HAIR, BAG, EXTRA = range(8)
FAR_SIDE = 8
SKINS = np.float32([(236, 196, 168), (214, 166, 132), (176, 122, 88), (132, 88, 62), (92, 60, 44)])
HAIRS = np.float32([(34, 28, 26), (62, 42, 30), (112, 76, 46), (184, 146, 92), (160, 156, 152)])


class _Figure:
    """A map of materials (h, w) uint8, drawn in units of the body height.

    x points right from the body's center, y up from the soles.
    """

    def __init__(self, pixels: int) -> None:
        self.unit = pixels
        self.shape = (round(pixels * 1.24), round(pixels * 1.0))
        self.map = np.zeros(self.shape, np.uint8)
        self.foot = round(pixels * 1.16)

    def at(self, points) -> np.ndarray:
        origin = np.array([self.shape[1] / 2, self.foot])
        return np.asarray(points, np.float64) * [1, -1] * self.unit + origin

    def polygon(self, points, material: int) -> None:
        pixels = np.round(self.at(points) * 16).astype(np.int32)
        cv2.fillPoly(self.map, [pixels], material, cv2.LINE_8, 4)

    def disc(self, x: float, y: float, rx: float, ry: float, material: int) -> None:
        center = np.round(self.at((x, y)) * 16).astype(int).tolist()
        axes = [max(8, round(r * self.unit * 16)) for r in (rx, ry)]
        cv2.ellipse(self.map, center, axes, 0, 0, 360, material, -1, cv2.LINE_8, 4)

    def limb(self, joints, radii, material: int) -> None:
        """Draw a chain of tapered bones with round joints."""
        joints = np.asarray(joints, np.float64)
        for p, q, a, b in zip(joints, joints[1:], radii, radii[1:]):
            along = (q - p) / max(float(np.hypot(*(q - p))), 1e-6)
            across = np.array([-along[1], along[0]])
            self.polygon([p + across * a, q + across * b, q - across * b, p - across * a], material)
            self.disc(*p, a, a, material)
            self.disc(*q, b, b, material)


def _leg(hip, thigh: float, knee: float, lengths=(0.245, 0.235)) -> np.ndarray:
    """Positions of hip, knee and ankle; angles in radians from straight down, forward positive."""
    hip = np.asarray(hip, np.float64)
    middle = hip + lengths[0] * np.array([np.sin(thigh), -np.cos(thigh)])
    shin = thigh - knee
    return np.array([hip, middle, middle + lengths[1] * np.array([np.sin(shin), -np.cos(shin)])])


def _draw(figure: _Figure, rng: np.random.Generator, style: dict) -> None:
    """Draw far limbs, trunk, head and near limbs, in this order."""
    side_on, facing = style["side_on"], style["facing"]
    girth, bare_legs = style["girth"], style["bottom"] in ("shorts", "skirt")
    leg, sleeve = (SKIN if bare_legs else BOTTOM), (SKIN if style["short_sleeves"] else TOP)
    stride = rng.uniform(0.2, 0.55) if style["walking"] else rng.uniform(0.02, 0.1)
    shoulder, hip = 0.815, 0.5
    if side_on:
        spread, hips = 0.0, 0.0
    else:
        spread, hips = 0.098 * girth, 0.046 * girth

    def one_leg(near: bool) -> None:
        shift = 0 if near else FAR_SIDE
        sign = 1 if near else -1
        if side_on:
            swing = stride * sign * style["phase"]
            bend = 0.12 + (0.55 * stride if swing < 0 else 0.0)
            joints = _leg((0.0, hip), swing * facing, bend * facing)
        else:
            joints = _leg((sign * hips, hip), sign * rng.uniform(0.0, 0.1), 0.0)
            if style["walking"] and near == (style["phase"] > 0):
                joints[1:, 1] += [0.012, 0.04]
        wide = 0.0 if bare_legs else 0.008
        radii = np.array([0.07 * girth, 0.05, 0.031 + wide])
        figure.limb(joints, radii, leg + shift)
        ankle = joints[-1]
        toe = facing * 0.07 if side_on else sign * 0.018
        shoe = ankle + np.array([(0, -0.012), (toe, -0.018)])
        figure.limb(shoe, (0.026, 0.02), SHOES + shift)

    def one_arm(near: bool) -> None:
        shift = 0 if near else FAR_SIDE
        sign = 1 if near else -1
        start = np.array([sign * spread, shoulder - 0.025])
        if side_on:
            swing = -0.75 * stride * sign * style["phase"] * facing
            joints = _leg(start, swing, -facing * rng.uniform(0.1, 0.5), (0.17, 0.15))
        else:
            out = sign * rng.uniform(0.08, 0.26)
            joints = _leg(start, out, sign * rng.uniform(0.0, 0.35), (0.17, 0.15))
        if near and style["gesture"] == "phone":
            elbow = start + np.array([0.03 * (facing if side_on else 1), -0.16])
            joints = np.array([start, elbow, [elbow[0] + 0.05 * facing, shoulder + 0.07]])
        if near and style["gesture"] == "umbrella":
            joints = start + np.array([(0, 0), (0.05 * facing, -0.14), (0.09 * facing, -0.01)])
        thick = 0.032 * girth
        figure.limb(joints, (thick, thick * 0.85, thick * 0.66), sleeve + shift)
        if style["short_sleeves"]:
            figure.limb([joints[0], joints[0] * 0.5 + joints[1] * 0.5], (0.039, 0.038), TOP + shift)
        figure.disc(*joints[-1], 0.026, 0.026, SKIN + shift)
        hand = joints[-1]
        if style["gesture"] == "bag" and near:
            wide, tall = style["bag"]
            corners = [(-wide, -0.03), (wide, -0.03), (wide * 1.1, -tall), (-wide * 1.1, -tall)]
            figure.polygon(hand + np.array(corners), BAG)
        if style["gesture"] == "umbrella" and near:
            top = hand + np.array([0.0, 0.34])
            figure.limb([hand, top], (0.006, 0.006), EXTRA + FAR_SIDE)
            angles = np.linspace(0, np.pi, 13)
            dome = np.stack([0.3 * np.cos(angles), 0.13 * np.sin(angles)], 1)
            figure.polygon(top - np.array([0, 0.06]) + dome, EXTRA)

    back = style["pack"] and side_on
    if back:
        figure.disc(-facing * 0.105, 0.7, 0.062, 0.125, BAG)
    one_arm(False)
    one_leg(False)
    one_leg(True)
    waist, chest = 0.075 * girth, (0.082 if side_on else 0.118) * girth
    hem = {"jacket": hip - 0.03, "coat": 0.3, "dress": 0.3, "shirt": hip + 0.01}[style["top"]]
    if bare_legs and style["top"] != "dress":
        low = 0.3 if style["bottom"] == "skirt" else 0.33
        flare = 0.115 if style["bottom"] == "skirt" else 0.085
        flare *= girth
        figure.polygon([(-waist, 0.55), (waist, 0.55), (flare, low), (-flare, low)], BOTTOM)
    else:
        figure.polygon([(-waist, 0.56), (waist, 0.56), (0.075, 0.46), (-0.075, 0.46)], BOTTOM)
    flare = {"coat": 0.105, "dress": 0.13}.get(style["top"], 0.088) * girth
    trunk = [(-chest * 0.8, shoulder), (-chest, shoulder - 0.05), (-waist, 0.62), (-flare, hem)]
    trunk += [(-x, y) for x, y in reversed(trunk)]
    figure.polygon(trunk, TOP)
    figure.disc(0, shoulder - 0.015, chest * 0.95, 0.03, TOP)
    if style["gesture"] == "sling":
        figure.polygon([(-0.09, 0.8), (-0.075, 0.81), (0.085, 0.55), (0.07, 0.54)], BAG)
        figure.polygon([(0.05, 0.6), (0.14, 0.58), (0.13, 0.45), (0.04, 0.47)], BAG)
    if style["pack"] and not side_on and style["from_behind"]:
        figure.polygon([(-0.08, 0.8), (0.08, 0.8), (0.09, 0.55), (-0.09, 0.55)], BAG)
    # Neck, head, hair.
    lean = facing * 0.012 if side_on else 0.0
    figure.limb([(lean, shoulder), (lean, 0.875)], (0.03, 0.028), SKIN)
    if style["hair"] == "long":
        figure.limb([(-facing * 0.01, 0.92), (-facing * 0.02, 0.8)], (0.058, 0.05), HAIR)
    figure.disc(lean, 0.925, 0.047 if side_on else 0.044, 0.06, SKIN)
    if style["from_behind"] and not side_on:
        figure.disc(0, 0.93, 0.048, 0.06, HAIR)
    else:
        figure.disc(lean - facing * 0.014 * side_on, 0.952, 0.05, 0.038, HAIR)
        if side_on:
            figure.disc(lean - facing * 0.03, 0.925, 0.03, 0.045, HAIR)
        else:
            figure.disc(0, 0.918, 0.036, 0.036, SKIN)
    if style["hair"] == "bun":
        figure.disc(-facing * 0.035, 0.985, 0.026, 0.024, HAIR)
    if style["hair"] == "hat":
        figure.disc(lean, 0.965, 0.056, 0.032, EXTRA)
        figure.polygon([(-0.075, 0.95), (0.075, 0.95), (0.075, 0.938), (-0.075, 0.938)], EXTRA)
    one_arm(True)


@lru_cache(maxsize=64)
def _pattern(kind: str, height: int, width: int, unit: int) -> np.ndarray:
    """A cloth pattern: (height, width) float32 weights of the second color."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / unit
    if kind == "stripes":
        field = (y * 22 % 1) < 0.5
    elif kind == "pinstripes":
        field = (x * 30 % 1) < 0.3
    elif kind == "checks":
        field = ((x * 15 % 1) < 0.5) * 0.5 + ((y * 15 % 1) < 0.5) * 0.5
    elif kind == "dots":
        field = np.hypot(x * 17 % 1 - 0.5, y * 17 % 1 - 0.5) < 0.3
    elif kind == "halves":
        field = y > 0.5
    else:
        field = np.zeros_like(x)
    return field.astype(np.float32)


_PATTERNS = ("plain", "stripes", "pinstripes", "checks", "dots", "halves")


def _dress(figure: _Figure, rng: np.random.Generator, style: dict) -> np.ndarray:
    """The albedo of a figure: (h, w, 3) float32."""
    top, bottom = pick(rng), pick(rng)
    if style["bottom"] == "trousers" and rng.random() < 0.5:
        bottom = pick(rng, np.float32([(44, 54, 84), (40, 42, 48), (110, 104, 96), (72, 84, 110)]))
    skin, hair = pick(rng, SKINS, 5), pick(rng, HAIRS, 6)
    shoes = pick(rng, np.float32([(36, 34, 34), (226, 224, 220), (108, 70, 46), (90, 92, 98)]))
    bag, extra = pick(rng), pick(rng)
    if style["top"] == "dress":
        bottom = top
    near = np.stack([(0, 0, 0), skin, top, bottom, shoes, hair, bag, extra])
    table = np.concatenate([near, near * 0.72]).astype(np.float32)
    color = table[figure.map]
    kind = str(rng.choice(_PATTERNS, p=[0.1, 0.25, 0.12, 0.25, 0.16, 0.12]))
    weight = _pattern(kind, *figure.map.shape, figure.unit)
    cloth = (figure.map & 7 == TOP) | ((figure.map & 7 == EXTRA) & (kind != "halves"))
    other = pick(rng)
    if abs(float(other.mean() - top.mean())) < 60:
        other = np.float32((226, 222, 212)) if top.mean() < 120 else np.float32((52, 54, 62))
    color += (cloth * weight)[..., None] * (other - top) * 0.9
    return np.clip(color, 8, 250)


def _round(figure: _Figure, light_from: float, hard: float) -> np.ndarray:
    """Shading (h, w) float32 around 1, with the blurred silhouette as height map of the body."""
    solid = (figure.map > 0).astype(np.float32)
    body = cv2.GaussianBlur(solid, (0, 0), max(0.8, figure.unit * 0.03))
    slope_x = cv2.Sobel(body, cv2.CV_32F, 1, 0, ksize=3) * figure.unit * 0.012
    edges = cv2.morphologyEx(figure.map, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    folds = np.resize(noise(35, 1.2)[: len(solid), : solid.shape[1]], solid.shape)
    shade = 1 - slope_x * light_from * (0.35 + 0.75 * hard) + folds * 0.05
    shade *= 0.72 + 0.28 * np.clip(body * 1.4 - 0.2, 0, 1)
    return shade * np.where(edges, 0.86, 1).astype(np.float32)


def person(rng: np.random.Generator, s: float, t: float, tall: float | None = None) -> Item:
    """A person who stands or walks at (s, t), seen from the front, the back or a side."""
    tall = float(rng.uniform(1.58, 1.92)) if tall is None else tall
    tops = ["shirt", "jacket", "coat", "dress"]
    gestures = ["none", "bag", "sling", "phone", "umbrella"]
    style = {
        "side_on": bool(rng.random() < 0.5),
        "facing": int(rng.choice([-1, 1])),
        "girth": float(rng.uniform(1.0, 1.28)),
        "top": str(rng.choice(tops, p=[0.28, 0.32, 0.24, 0.16])),
        "bottom": str(rng.choice(["trousers", "shorts", "skirt"], p=[0.7, 0.15, 0.15])),
        "walking": bool(rng.random() < 0.75),
        "phase": float(rng.choice([-1, 1]) * rng.uniform(0.5, 1)),
        "gesture": str(rng.choice(gestures, p=[0.32, 0.3, 0.16, 0.16, 0.06])),
        "bag": (float(rng.uniform(0.04, 0.08)), float(rng.uniform(0.12, 0.22))),
        "pack": bool(rng.random() < 0.25),
        "from_behind": bool(rng.random() < 0.5),
        "hair": str(rng.choice(["short", "long", "bun", "hat"], p=[0.45, 0.25, 0.1, 0.2])),
    }
    style["short_sleeves"] = style["top"] in ("shirt", "dress") and rng.random() < 0.6
    if style["top"] == "dress":
        style["bottom"] = "skirt"
    seed = int(rng.integers(2**62))

    def paint(canvas: Canvas) -> None:
        rng, light, camera = np.random.default_rng(seed), canvas.light, canvas.camera
        pixels = camera.scale(s, t) * tall
        figure = _Figure(int(np.clip(pixels, 8, 1500)))
        _draw(figure, rng, style)
        sunlit = canvas.sunlit(s, t)
        sun_side = float(camera.view(camera.offset + light.sun[0], light.sun[2])[0])
        rgb = _dress(figure, rng, style)
        rgb *= _round(figure, float(np.clip(sun_side * 1.6, -1, 1)), light.hard * sunlit)[..., None]
        z = float(camera.view(s, t)[1])
        lit = light.develop(np.clip(rgb, 0, 255).astype(np.uint8), light.gain(None, sunlit), z)
        column, row = camera.project([s, 0.0, t])
        left, top = column - figure.shape[1] / 2, row - figure.foot
        canvas.sprite(lit, (figure.map > 0).astype(np.uint8) * 255, left, top, PERSON)

    def cast(canvas: Canvas) -> None:
        angles = np.linspace(0, 2 * np.pi, 16)
        ring = np.stack([np.cos(angles), 0.7 * np.sin(angles)], 1)
        canvas.shadow(0.4, ring * 0.34 + [s, t])
        canvas.shadow(0.65, ring * 0.2 + [s, t])
        if canvas.light.hard > 0.25:
            reach = canvas.light.shadow * tall
            across = np.array([reach[1], -reach[0]]) / max(float(np.hypot(*reach)), 0.1)
            # Legs, trunk, shoulders, head: (fraction of the height, half width).
            profile = [(0, 0.12), (0.5, 0.17), (0.8, 0.24), (0.84, 0.09), (0.88, 0.13), (1, 0.1)]
            sides = [np.array([s, t]) + reach * h + across * w for h, w in profile]
            others = [np.array([s, t]) + reach * h - across * w for h, w in reversed(profile)]
            canvas.shadow(0.75, np.array(sides + others))

    return Item(float(t), paint, cast)


def group(rng: np.random.Generator, s: float, t: float, count: int) -> list[Item]:
    """People walking together, possibly with a child."""
    members = []
    for i in range(count):
        tall = float(rng.uniform(1.1, 1.4)) if i and rng.random() < 0.25 else None
        place = (s + 0.55 * i + rng.normal(0, 0.06), t + rng.normal(0, 0.3))
        members.append(person(rng, *place, tall))
    return members
