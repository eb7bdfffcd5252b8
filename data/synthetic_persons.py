"""The persons of data/synthetic.py: what they wear, and how they look from any side in any pose."""

from collections.abc import Callable, Sequence
from math import pi
from typing import NamedTuple

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


class Upper(NamedTuple):
    """A garment of the upper body."""

    sleeve: float  # where it ends: 0 shoulder, 1 wrist
    hem: float  # its height: 1 = the body's
    width: float
    is_open: bool  # in front


class Lower(NamedTuple):
    """A garment of the lower body."""

    covered: float  # where the cloth ends on the leg: 0 hip, 1 ankle
    width: float  # of the leg
    skirt_hem: float | None  # height of a skirt's hem


UPPERS = {
    "vest": Upper(0.0, 0.50, 0.96, False),
    "t-shirt": Upper(0.42, 0.49, 1.0, False),
    "shirt": Upper(0.97, 0.48, 1.0, False),
    "jacket": Upper(1.0, 0.48, 1.10, True),
    "blouson": Upper(1.0, 0.51, 1.14, False),
    "coat": Upper(1.0, 0.26, 1.08, True),
    "raincoat": Upper(1.0, 0.33, 1.14, False),
    "dress": Upper(0.30, 0.29, 1.0, False),
}
LOWERS = {
    "trousers": Lower(0.97, 1.0, None),
    "wide trousers": Lower(1.0, 1.28, None),
    "leggings": Lower(0.93, 0.84, None),
    "shorts": Lower(0.42, 1.18, None),
    "skirt": Lower(0.0, 0.9, 0.31),
    "long skirt": Lower(0.0, 0.9, 0.12),
}
# How far the second color shows at (azimuth on the body in radians, 0 = front; v, 0 = top of the
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


class Worn(NamedTuple):
    """Hair, hat or bag as a solid of revolution. Lengths are parts of the body's height."""

    order: float  # drawn from low to high
    behind: float  # how far behind the body
    start: tuple[float, float]  # up, forward
    end: tuple[float, float]
    wide: tuple[float, ...]  # radii seen from the front
    deep: tuple[float, ...]  # radii seen from the side
    cap: float


WORN = {
    "long": Worn(
        order=0.05,
        behind=0.12,
        start=(0.97, -0.03),
        end=(0.77, -0.06),
        wide=(0.05, 0.066, 0.07, 0.06),
        deep=(0.03, 0.045, 0.04, 0.02),
        cap=1,
    ),
    "ponytail": Worn(
        order=0.05,
        behind=0.12,
        start=(0.95, -0.07),
        end=(0.80, -0.10),
        wide=(0.022, 0.026, 0.014),
        deep=(0.022, 0.026, 0.014),
        cap=1,
    ),
    "bun": Worn(
        order=0.05,
        behind=0.12,
        start=(0.985, -0.06),
        end=(0.965, -0.065),
        wide=(0.033, 0.033),
        deep=(0.033, 0.033),
        cap=1,
    ),
    "curls": Worn(
        order=0.09,
        behind=0.0,
        start=(0.975, -0.015),
        end=(0.90, -0.02),
        wide=(0.07, 0.083, 0.078),
        deep=(0.07, 0.083, 0.078),
        cap=1,
    ),
    "cap": Worn(
        order=0.11,
        behind=0.0,
        start=(0.955, 0.05),
        end=(0.947, 0.125),
        wide=(0.045, 0.04),
        deep=(0.012, 0.008),
        cap=4,
    ),
    "beanie": Worn(
        order=0.11,
        behind=0.0,
        start=(1.02, 0.0),
        end=(1.01, 0.0),
        wide=(0.022, 0.022),
        deep=(0.022, 0.022),
        cap=1,
    ),
    "sun hat": Worn(
        order=0.11,
        behind=0.0,
        start=(0.955, 0.0),
        end=(0.945, 0.0),
        wide=(0.10, 0.11),
        deep=(0.10, 0.11),
        cap=3,
    ),
    "backpack": Worn(
        order=0.0,
        behind=0.10,
        start=(0.79, -0.12),
        end=(0.56, -0.13),
        wide=(0.070, 0.092, 0.098, 0.092),
        deep=(0.035, 0.055, 0.065, 0.06),
        cap=3,
    ),
}


def rng_of(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def rgb(color: str) -> np.ndarray:
    return np.float32(ImageColor.getrgb(color)) / 255


def identity(seed: int, number: int) -> dict:
    """What makes person `number`: garments, colors (float32 RGB in 0..1), hair, hat, bag, build."""
    own = rng_of(0, seed, number)
    shared = rng_of(1, seed, number // 3)

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

Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]  # azimuth, v [n] -> RGB [n, 3] or [3]


class Light(NamedTuple):
    """The light of a place: of what comes from everywhere and what comes from one direction."""

    ambient: float
    diffuse: float
    direction: float  # radians, 0 = from the viewer


class Tube(NamedTuple):
    """A solid of revolution: the one primitive that figures and things are made of.

    Attributes:
        start, end: of its axis, in pixels (x, y).
        radii: at equal steps along the axis, in pixels.
        view: azimuth that it is turned by, radians.
        v: what the paint is told for start and end.
        cap: how flat the ends are; 1 = half a ball.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    radii: Sequence[float]
    paint: Paint
    view: float = 0.0
    v: tuple[float, float] = (0.0, 1.0)
    cap: float = 1.0


class Pose(NamedTuple):
    """How a person stands or walks."""

    view: float  # radians; 0 = walks towards the camera
    phase: float  # of the walk
    stride: float
    raised: float  # how far a forearm is raised, radians


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


def draw_tube(canvas: np.ndarray, tube: Tube, light: Light) -> None:
    """Paint a tube on float32 RGB [H, W, 3]."""
    x0, y0 = tube.start
    x1, y1 = tube.end
    reach = max(tube.radii) + 1
    left = max(int(min(x0, x1) - reach), 0)
    right = min(int(max(x0, x1) + reach) + 2, W)
    top = max(int(min(y0, y1) - reach), 0)
    bottom = min(int(max(y0, y1) + reach) + 2, H)
    if left >= right or top >= bottom:
        return
    x = np.arange(left, right, dtype="f4") - np.float32(x0)
    y = (np.arange(top, bottom, dtype="f4") - np.float32(y0))[:, None]
    dx, dy = np.float32(x1 - x0), np.float32(y1 - y0 + 1e-3)  # a ball has an axis, too
    length = np.hypot(dx, dy)
    along = (x * dx + y * dy) / length
    across = (x * dy - y * dx) / length
    steps = len(tube.radii) - 1
    half = np.interp(along * (steps / length), range(steps + 1), tube.radii).astype("f4")
    beyond = np.maximum(np.maximum(-along, along - length), 0) * np.float32(tube.cap)
    half = np.sqrt(np.maximum(half * half - beyond * beyond, 0))
    inside = np.flatnonzero((abs(across) < half + 0.5) & (half > 0.5))
    along = along.ravel()[inside]
    across = across.ravel()[inside]
    half = half.ravel()[inside]
    turn = np.arcsin(np.maximum(np.minimum(across / half, 1), -1))  # np.clip is slow on little
    cover = np.minimum(half - abs(across) + 0.5, 1)
    shade = light.ambient + light.diffuse * np.maximum(np.cos(turn - light.direction), 0)
    azimuth = (turn - tube.view + pi) % (2 * pi) - pi
    v0, v1 = tube.v
    v = v0 + (v1 - v0) * np.maximum(np.minimum(along / length, 1), 0)
    color = tube.paint(azimuth, v)
    pixels = canvas.reshape(-1, 3)
    place = (inside // len(x) + top) * W + inside % len(x) + left
    under = pixels[place]
    pixels[place] = under + cover[:, None] * (color * shade[:, None] - under)


def draw_figure(  # noqa: C901, PLR0915, a painting
    canvas: np.ndarray,
    who: dict,
    pose: Pose,
    foot: tuple[float, float],
    size: float,
    light: Light,
    tilt: float,
) -> None:
    """Draw a person on float32 RGB [H, W, 3].

    Args:
        who: as from identity.
        foot: where it stands, in pixels (x, y).
        size: height of the body in pixels.
        tilt: how far the camera looks down.
    """
    # Lengths below are parts of the body's height, as (to the person's side, up, forward).
    view, phase, stride, raised = map(float, pose)
    lift = 0.0
    parts = []
    cos = np.cos(view)
    sin = np.sin(view)
    build = who["build"]
    side = who["side"]
    skin = plain(who["skin"])
    sleeve, hem, loose, is_open = UPPERS[who["upper"]]
    covered, leg_width, skirt_hem = LOWERS[who["lower"]]
    stride *= 0.6 if skirt_hem else 1.0

    def near(x, z):
        return z * cos - x * sin

    def part(order, start, end, wide, paint, deep=None, v=(0, 1), cap=1.0):  # noqa: PLR0913
        """Queue a tube.

        Args:
            order: drawn from low to high, far to near.
            wide, deep: its radii seen from the front and from the side.
        """
        deep = wide if deep is None else deep
        radii = size * np.hypot(np.multiply(wide, cos), np.multiply(deep, sin))
        parts.append((order, Tube(seen(start), seen(end), radii, paint, view, v, cap)))

    def seen(point):
        """Where a point is on the canvas: pixels (x, y)."""
        x, y, z = point
        column = foot[0] + size * (x * cos + z * sin)
        row = foot[1] - size * (y - lift - tilt * near(x, z))
        return column, row

    def worn(name, color):
        thing = WORN[name]
        order = thing.order + near(0, -thing.behind)
        start = (0, *thing.start)
        end = (0, *thing.end)
        part(order, start, end, thing.wide, color, thing.deep, cap=thing.cap)

    # Paints.
    bag = plain(who["bag_color"])
    hair = plain(who["hair_color"])
    hat = plain(who["hat_color"])
    shoe = plain(who["shoes"])
    upper = _cloth(who["upper_pattern"], who["upper_colors"])
    lower = _cloth(who["lower_pattern"], who["lower_colors"])
    layers = [(lambda a, v: (v < 0.10) & (abs(a) < 0.42), skin)]
    if is_open:
        layers.insert(0, (lambda a, v: abs(a) < 0.42, plain(who["inner"])))
    if who["upper"] == "vest":
        layers.append((lambda a, v: (v < 0.22) & (abs(abs(a) - 1.57) < 0.75), skin))
    if who["bag"] == "backpack":
        layers.append((lambda a, v: (abs(abs(a) - 0.72) < 0.17) & (v < 0.62), bag))
    if who["bag"] == "shoulder bag":
        layers.append((lambda a, v: abs(v - 0.5 - 0.5 * side * np.sin(a)) < 0.05, bag))
    torso = layered(upper, *layers)
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
        draw_tube(canvas, tube, light)
