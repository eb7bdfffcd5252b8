"""The persons of data/synthetic.py: what they wear, and how they look from any side in any pose."""

from collections.abc import Callable
from math import pi

import numpy as np
from PIL import ImageColor

H, W = 256, 128  # of what is drawn: twice the image, for halving it smooths the edges

# ------------------------------------------------------------------------- what persons wear

PLAIN = ("#17171a", "#3b3d42", "#85878b", "#1c2748", "#465f86", "#5b5c33", "#5a3b25", "#bfa67f")
WARM = ("#e9e8e2", "#b81f24", "#661628", "#dd7122", "#dcbc33", "#d6839c")
COLD = ("#2557b0", "#86b2dc", "#277a3b", "#177377", "#613080")
COLORS = (*PLAIN, *WARM, *COLD)
HAIR_COLORS = (
    "#14110f",
    "#14110f",
    "#2c1d14",
    "#4a2f1c",
    "#7a522c",
    "#b58f55",
    "#8d8b88",
    "#7c3018",
)
SKINS = ("#f0c8a8", "#e3b18c", "#c98f66", "#9c6843", "#6d452c", "#f3d3ba")
# name: end of the sleeve (0 shoulder, 1 wrist), height of the hem (1 = the body's), width, open in
# front
UPPERS = {
    "vest": (0.0, 0.50, 0.96, False),
    "t-shirt": (0.42, 0.49, 1.0, False),
    "shirt": (0.97, 0.48, 1.0, False),
    "jacket": (1.0, 0.48, 1.10, True),
    "blouson": (1.0, 0.51, 1.14, False),
    "coat": (1.0, 0.26, 1.08, True),
    "raincoat": (1.0, 0.33, 1.14, False),
    "dress": (0.30, 0.29, 1.0, False),
}
# name: end of the cloth on the leg (0 hip, 1 ankle), width of the leg, height of a skirt's hem
LOWERS = {
    "trousers": (0.97, 1.0, None),
    "wide trousers": (1.0, 1.28, None),
    "leggings": (0.93, 0.84, None),
    "shorts": (0.42, 1.18, None),
    "skirt": (0.0, 0.9, 0.31),
    "long skirt": (0.0, 0.9, 0.12),
}
# How far the second colour shows at (azimuth on the body in radians, 0 = front; v, 0 = top of the
# garment, 1 = hem).
PATTERNS = {
    "plain": lambda a, v: 0 * v,
    "bands": lambda a, v: v * 5 % 1 < 0.5,
    "wide bands": lambda a, v: v * 2.4 % 1 < 0.5,
    "stripes": lambda a, v: a * 2.2 % 1 < 0.42,
    "checks": lambda a, v: (a * 1.6 % 1 < 0.5) ^ (v * 4 % 1 < 0.5),
    "tartan": lambda a, v: 0.5 * (a * 1.6 % 1 < 0.4) + 0.5 * (v * 4 % 1 < 0.4),
    "dots": lambda a, v: (a * 2.2 % 1 - 0.5) ** 2 + (v * 5.5 % 1 - 0.5) ** 2 < 0.09,
    "yoke": lambda a, v: v < 0.32,
    "foot": lambda a, v: v > 0.62,
    "chest band": lambda a, v: abs(v - 0.38) < 0.11,
    "halves": lambda a, v: a > 0,
    "sides": lambda a, v: abs(abs(a) - 1.57) < 0.36,
    "print": lambda a, v: (abs(abs(a) - 1.57) > 1.0) & (abs(v - 0.38) < 0.17),
    "diagonal": lambda a, v: abs(v - 0.5 - 0.4 * np.sin(a)) < 0.1,
}
LOWER_PATTERNS = ("bands", "stripes", "checks", "sides", "foot", "dots")
HAIRS = ("short", "short", "short", "bald", "long", "long", "ponytail", "bun", "curls")
HATS = ("none",) * 5 + ("cap", "beanie", "sun hat", "hood")
BAGS = ("none",) * 3 + (
    "backpack",
    "backpack",
    "shoulder bag",
    "shoulder bag",
    "carrier",
    "carrier",
)
# name: order, how far behind the body, start and end as (up, forward), radii seen from the front
# and the side, cap
WORN = {
    "long": (
        0.05,
        0.12,
        (0.97, -0.03),
        (0.77, -0.06),
        (0.05, 0.066, 0.07, 0.06),
        (0.03, 0.045, 0.04, 0.02),
        1,
    ),
    "ponytail": (
        0.05,
        0.12,
        (0.95, -0.07),
        (0.80, -0.10),
        (0.022, 0.026, 0.014),
        (0.022, 0.026, 0.014),
        1,
    ),
    "bun": (0.05, 0.12, (0.985, -0.06), (0.965, -0.065), (0.033, 0.033), (0.033, 0.033), 1),
    "curls": (
        0.09,
        0.0,
        (0.975, -0.015),
        (0.90, -0.02),
        (0.07, 0.083, 0.078),
        (0.07, 0.083, 0.078),
        1,
    ),
    "cap": (0.11, 0.0, (0.955, 0.05), (0.947, 0.125), (0.045, 0.04), (0.012, 0.008), 4),
    "beanie": (0.11, 0.0, (1.02, 0.0), (1.01, 0.0), (0.022, 0.022), (0.022, 0.022), 1),
    "sun hat": (0.11, 0.0, (0.955, 0.0), (0.945, 0.0), (0.10, 0.11), (0.10, 0.11), 3),
    "backpack": (
        0.0,
        0.10,
        (0.79, -0.12),
        (0.56, -0.13),
        (0.070, 0.092, 0.098, 0.092),
        (0.035, 0.055, 0.065, 0.06),
        3,
    ),
}


def rng_of(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def rgb(color: str) -> np.ndarray:
    return np.float32(ImageColor.getrgb(color)) / 255


def identity(seed: int, number: int) -> dict:
    """What makes person `number`: garments, colours (float32 RGB in 0..1), hair, hat, bag, build."""
    own, shared = rng_of(0, seed, number), rng_of(1, seed, number // 3)

    def pick(table):
        return list(table)[own.integers(len(table))]

    def color(rng=own, plain=0.0):
        table = PLAIN if rng.random() < plain else COLORS
        base = rgb(table[rng.integers(len(table))]) * rng.uniform(0.85, 1.15)
        return np.clip(base + own.normal(0, 0.03, 3), 0.03, 0.95, dtype="f4")

    return {
        "upper": pick(UPPERS),
        "upper_pattern": pick(PATTERNS) if own.random() < 0.7 else "plain",
        "upper_colors": (color(shared, plain=0.3), color(shared)),
        "inner": color(),
        "lower": pick(LOWERS) if own.random() < 0.6 else "trousers",
        "lower_pattern": pick(LOWER_PATTERNS) if own.random() < 0.3 else "plain",
        "lower_colors": (color(shared, plain=0.7), color(shared)),
        "shoes": color(plain=0.6),
        "boots": own.random() < 0.2,
        "skin": rgb(pick(SKINS)),
        "hair": pick(HAIRS),
        "hair_color": rgb(pick(HAIR_COLORS)),
        "beard": own.random() < 0.12,
        "hat": pick(HATS),
        "hat_color": color(),
        "bag": pick(BAGS),
        "bag_color": color(),
        "side": int(own.choice((-1, 1))),
        "build": own.uniform(0.90, 1.18),
    }


# ------------------------------------------------------------------------- drawing

Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]  # azimuth, v [n] -> RGB [n,3] or [3]


def plain(color: np.ndarray) -> Paint:
    return lambda a, v: color


def _cloth(pattern: str, colors: tuple) -> Paint:
    first, second = colors
    return lambda a, v: first + np.float32(PATTERNS[pattern](a, v))[:, None] * (second - first)


def layered(base: Paint, *layers: tuple[Callable, Paint]) -> Paint:
    """`base`, and over it each layer (where, paint) at the points for which where(azimuth, v)
    holds.
    """

    def paint(a, v):
        color = base(a, v)
        for where, top in layers:
            color = np.where(where(a, v)[:, None], top(a, v), color)
        return color

    return paint


def draw_tube(
    canvas, start, end, radii, paint: Paint, light: tuple, view=0.0, v=(0.0, 1.0), cap=1.0
) -> None:
    """Paint a solid of revolution on float32 RGB [H,W,3]: the one primitive that figures and things
    are made of.

    start, end: axis in pixels (x, y); radii: at equal steps along it; cap: how flat the ends are (1
        = half a ball);
    light: (ambient, diffuse, direction in radians, 0 = from the viewer); view: azimuth that the
        solid is turned by.
    """
    (x0, y0), (x1, y1), reach = start, end, max(radii) + 1
    left, right = max(int(min(x0, x1) - reach), 0), min(int(max(x0, x1) + reach) + 2, W)
    top, bottom = max(int(min(y0, y1) - reach), 0), min(int(max(y0, y1) + reach) + 2, H)
    if left >= right or top >= bottom:
        return
    x = np.arange(left, right, dtype="f4") - np.float32(x0)
    y = (np.arange(top, bottom, dtype="f4") - np.float32(y0))[:, None]
    dx, dy = np.float32(x1 - x0), np.float32(y1 - y0 + 1e-3)  # a ball has an axis, too
    length = np.hypot(dx, dy)
    along = (x * dx + y * dy) / length
    across = (x * dy - y * dx) / length
    half = np.interp(along * ((len(radii) - 1) / length), range(len(radii)), radii).astype("f4")
    beyond = np.maximum(np.maximum(-along, along - length), 0) * np.float32(cap)
    half = np.sqrt(np.maximum(half * half - beyond * beyond, 0))
    inside = np.flatnonzero((abs(across) < half + 0.5) & (half > 0.5))
    along, across, half = (values.ravel()[inside] for values in (along, across, half))
    turn = np.arcsin(np.maximum(np.minimum(across / half, 1), -1))  # np.clip is slow on little
    cover = np.minimum(half - abs(across) + 0.5, 1)
    ambient, diffuse, direction = light
    shade = ambient + diffuse * np.maximum(np.cos(turn - direction), 0)
    azimuth = (turn - view + pi) % (2 * pi) - pi
    color = paint(azimuth, v[0] + (v[1] - v[0]) * np.maximum(np.minimum(along / length, 1), 0))
    pixels, place = canvas.reshape(-1, 3), (inside // len(x) + top) * W + inside % len(x) + left
    under = pixels[place]
    pixels[place] = under + cover[:, None] * (color * shade[:, None] - under)


def draw_figure(
    canvas, who: dict, pose: tuple, foot: tuple, size: float, light: tuple, tilt: float
) -> None:
    """Draw a person on float32 RGB [H,W,3].

    pose: view (radians; 0 = walks towards the camera), phase and stride of the walk, how far a
    forearm is raised (radians); foot: where it stands, in pixels (x, y); size: height of the body
    in pixels; tilt: how far the camera looks down. Lengths below are parts of the body's height, as
    (to the person's side, up, forward).
    """
    (view, phase, stride, raised), lift, parts = map(float, pose), 0.0, []
    cos, sin = np.cos(view), np.sin(view)
    build, side, skin = who["build"], who["side"], plain(who["skin"])
    sleeve, hem, loose, is_open = UPPERS[who["upper"]]
    covered, leg_width, skirt_hem = LOWERS[who["lower"]]
    stride *= 0.6 if skirt_hem else 1.0

    def near(x, z):
        return z * cos - x * sin

    def part(order, start, end, wide, paint, deep=None, v=(0, 1), cap=1.0):
        """Queue a tube. wide, deep: its radii seen from the front and from the side; order: drawn
        far to near.
        """
        ends = [
            (foot[0] + size * (x * cos + z * sin), foot[1] - size * (y - lift - tilt * near(x, z)))
            for x, y, z in (start, end)
        ]
        radii = size * np.hypot(
            np.multiply(wide, cos), np.multiply(wide if deep is None else deep, sin)
        )
        parts.append((order, (*ends, radii, paint, light, view, v, cap)))

    def worn(name, color):
        order, behind, start, end, wide, deep, cap = WORN[name]
        part(order + near(0, -behind), (0, *start), (0, *end), wide, color, deep, cap=cap)

    # Paints.
    bag, hair, hat, shoe = (
        plain(who[name]) for name in ("bag_color", "hair_color", "hat_color", "shoes")
    )
    upper, lower = (
        _cloth(who["upper_pattern"], who["upper_colors"]),
        _cloth(who["lower_pattern"], who["lower_colors"]),
    )
    torso = [(lambda a, v: (v < 0.10) & (abs(a) < 0.42), skin)]
    if is_open:
        torso.insert(0, (lambda a, v: abs(a) < 0.42, plain(who["inner"])))
    if who["upper"] == "vest":
        torso.append((lambda a, v: (v < 0.22) & (abs(abs(a) - 1.57) < 0.75), skin))
    if who["bag"] == "backpack":
        torso.append((lambda a, v: (abs(abs(a) - 0.72) < 0.17) & (v < 0.62), bag))
    if who["bag"] == "shoulder bag":
        torso.append((lambda a, v: abs(v - 0.5 - 0.5 * side * np.sin(a)) < 0.05, bag))
    torso = layered(upper, *torso)
    leg = layered(skin, (lambda a, v: v < covered, lower))
    if who["boots"]:
        leg = layered(leg, (lambda a, v: v > 0.72, shoe))
    arm = layered(upper, (lambda a, v: v > sleeve, skin))
    head = [
        (
            lambda a, v: (abs(v - 0.5) < 0.05) & (abs(abs(a) - 0.38) < 0.13),
            plain(np.float32((0.1, 0.07, 0.06))),
        )
    ]
    if who["beard"]:
        head.append((lambda a, v: (v > 0.74) & (abs(a) < 1.5), hair))
    if who["hair"] != "bald":
        head.append((lambda a, v: (abs(a) > 1.25) & (v < 0.85) | (v < 0.27), hair))
    if who["hat"] == "hood":
        head.append((lambda a, v: (abs(a) > 0.75) | (v < 0.24), upper))
    elif who["hat"] != "none":
        head.append((lambda a, v: v < 0.34, hat))

    # Legs, and how high the body is with them.
    legs = {}
    for s in (-1, 1):
        swing, bend = s * stride * np.sin(phase), 1.3 * stride * max(s * np.cos(phase), 0)
        knee = (s * 0.052, 0.515 - 0.235 * np.cos(swing), 0.235 * np.sin(swing))
        ankle = (
            s * 0.048,
            knee[1] - 0.235 * np.cos(swing - bend),
            knee[2] + 0.235 * np.sin(swing - bend),
        )
        legs[s] = (s * 0.056, 0.515, 0.0), knee, ankle
    lift = min(legs[-1][2][1], legs[1][2][1]) - 0.035
    for s, (hip, knee, (x, y, z)) in legs.items():
        order, fit, flare = (
            near(s * 0.05, z) - 2,
            build * leg_width,
            1.5 if who["lower"] == "wide trousers" else 1.0,
        )
        heel, toe = (x, y - 0.012, z - 0.01), (x * 1.25, y - 0.018, z + 0.085)
        part(order - 0.01, heel, toe, (0.026, 0.026, 0.02), shoe)
        part(
            order,
            knee,
            (x, y, z),
            np.multiply((0.044, 0.042, 0.03 * flare), fit),
            leg,
            v=(0.5, 1),
            cap=2,
        )
        part(order + 0.01, hip, knee, np.multiply((0.066, 0.058, 0.045), fit), leg, v=(0, 0.5))

    # Body.
    if skirt_hem:
        wide = np.multiply((0.095, 0.115, 0.125, 0.135), build)
        part(-1.5, (0, 0.57, 0), (0, skirt_hem, 0), wide, lower, wide * 0.85, cap=5)
    if hem < 0.45:
        wide = np.multiply(
            (0.100, 0.113, 0.121, 0.140 if who["upper"] == "dress" else 0.124), build * loose
        )
        part(
            -1,
            (0, 0.56, 0),
            (0, hem, 0),
            wide,
            torso,
            wide * 0.85,
            v=(0.8, 1 + (0.48 - hem) * 2.9),
            cap=5,
        )
    wide = np.multiply((0.055, 0.118, 0.122, 0.112, 0.102, 0.102, 0.108), build * loose)
    deep = np.multiply((0.045, 0.068, 0.080, 0.080, 0.076, 0.080, 0.084), build * loose)
    part(-0.001, (0, 0.90, 0.005), (0, 0.82, 0), (0.034, 0.036), skin)
    part(0, (0, 0.845, 0), (0, max(hem, 0.47), 0), wide, torso, deep, cap=4)
    if who["bag"] == "shoulder bag":
        start, end = (side * 0.125 * build, 0.56, 0), (side * 0.135 * build, 0.45, 0)
        part(near(side * 0.3, 0), start, end, (0.030, 0.036, 0.036), bag, (0.08, 0.09, 0.09), cap=4)
    if who["bag"] == "backpack":
        worn(
            "backpack",
            layered(bag, (lambda a, v: abs(v - 0.5) < 0.05, plain(who["bag_color"] * 0.5))),
        )

    # Arms.
    for s in (-1, 1):
        swing = -0.85 * s * stride * np.sin(phase)
        bend, fit = swing + 0.3 + raised * (s == side), build * (loose if sleeve > 0.2 else 0.92)
        shoulder = (s * (0.112 * build * loose - 0.004), 0.792, 0.0)
        elbow = (shoulder[0] + s * 0.02, 0.792 - 0.165 * np.cos(swing), 0.165 * np.sin(swing))
        wrist = (
            elbow[0] - s * 0.01,
            elbow[1] - 0.15 * np.cos(bend),
            elbow[2] + 0.15 * np.sin(bend),
        )
        order = near(s * 0.12, elbow[2]) * 0.9 + 0.02
        part(order, shoulder, elbow, np.multiply((0.037, 0.037, 0.033), fit), arm, v=(0, 0.5))
        part(
            order + 0.001,
            elbow,
            wrist,
            np.multiply((0.032, 0.029, 0.024), fit),
            arm,
            v=(0.5, 1),
            cap=1.5,
        )
        part(order + 0.002, wrist, (wrist[0], wrist[1] - 0.03, wrist[2]), (0.02, 0.019), skin)
        if who["bag"] == "carrier" and s == side:
            start, end = (
                (wrist[0], wrist[1] - 0.04, wrist[2]),
                (wrist[0], wrist[1] - 0.19, wrist[2]),
            )
            part(order + 0.003, start, end, (0.012, 0.035, 0.038), bag, (0.03, 0.085, 0.09), cap=4)

    # Head.
    big = 1.18 if who["hat"] == "hood" else 1.0
    wide, deep = (
        (0.026, 0.050, 0.057, 0.057, 0.052, 0.034),
        (0.034, 0.060, 0.069, 0.068, 0.060, 0.038),
    )
    wide, deep = np.multiply(wide, big), np.multiply(deep, big)
    part(0.10, (0, 0.995, 0.01), (0, 0.868, 0.014), wide, layered(skin, *head), deep, cap=2)
    if who["hair"] in WORN and who["hat"] != "hood":
        worn(who["hair"], plain(who["hair_color"] * 0.92))
    if who["hat"] in WORN:
        worn(who["hat"], plain(who["hat_color"] * 0.85))

    for _, tube in sorted(parts, key=lambda queued: queued[0]):
        draw_tube(canvas, *tube)
