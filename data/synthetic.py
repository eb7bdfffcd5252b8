"""Draw a re-identification data set in the form of Market-1501, for the demo and for trying things
out.

    python -m data.synthetic DIR

Figures of persons walk past six cameras. Each camera has its own place, light, colors, blur, noise
and things that stand in the way; each usually sees people from another side. A person is known by
clothes, their patterns, hair, hat and bag. Color alone says little: cameras change it, and every
three persons wear the same colors.

DIR then holds bounding_box_train/, query/, bounding_box_test/ (JPEG, 128x64) and train.csv,
query.csv, gallery.csv. Each image is a function of (seed, pid, camera, number): the same call makes
the same bytes, given the same NumPy and Pillow on the same kind of processor. Takes 20 to 25 s on
two cores.
"""

import argparse
import csv
import functools
import multiprocessing
import signal
from math import pi
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import common
from common import UserError
from data import synthetic_persons as persons
from data.synthetic_persons import H, Light, Tube, W
from runtime import cores, files

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
ALONE = 300  # fewer images are drawn by one process: starting others would take longer

# ------------------------------------------------------------------------- what cameras see


class Masonry(NamedTuple):
    """A wall or a ground of rows of stones: bricks, slabs, panes, leaves. Lengths are in pixels."""

    color: str
    height: int
    width: int
    shift: float  # of every other row, in widths
    joint: int
    unevenness: float  # of the stones' brightness


class Lens(NamedTuple):
    """What a camera makes of colors and details."""

    gain: tuple[float, float, float]  # of red, green, blue
    saturation: float
    haze: float
    gamma: float
    blur: float  # pixels
    noise: float
    quality: int  # of the JPEG


class Camera(NamedTuple):
    """What a camera sees, and how."""

    wall: Masonry
    ground: Masonry
    horizon: float  # where the wall meets the ground, of the height
    road: float  # how people walk: radians, 0 = towards the camera (or away)
    tilt: float  # how far it looks down
    props: tuple[str, ...]  # things at the wall
    obstacles: tuple[str, ...]  # what gets in the way
    light: Light
    lens: Lens


CAMERAS = (
    Camera(
        wall=Masonry("#8b999d", 96, 74, 0.0, 6, 0.12),
        ground=Masonry("#9a968e", 30, 44, 0.5, 2, 0.04),
        horizon=0.62,
        road=0.2,
        tilt=0.16,
        props=("poster", "poster", "bike"),
        obstacles=("pole", "person"),
        light=Light(0.50, 0.55, 0.6),
        lens=Lens((1.03, 0.99, 0.95), 0.96, 0.03, 0.97, 0.5, 0.012, 88),
    ),
    Camera(
        wall=Masonry("#66754f", 7, 9, 0.4, 0, 0.14),
        ground=Masonry("#8d966c", 5, 6, 0.3, 0, 0.09),
        horizon=0.50,
        road=1.3,
        tilt=0.12,
        props=("tree", "tree", "bench"),
        obstacles=("bush", "person"),
        light=Light(0.36, 0.72, -0.8),
        lens=Lens((0.95, 1.03, 0.93), 1.08, 0.00, 1.05, 0.6, 0.015, 85),
    ),
    Camera(
        wall=Masonry("#90695a", 11, 26, 0.5, 2, 0.08),
        ground=Masonry("#777675", 4, 5, 0.3, 0, 0.05),
        horizon=0.66,
        road=1.7,
        tilt=0.10,
        props=("door", "poster", "bike"),
        obstacles=("car", "car", "pole"),
        light=Light(0.48, 0.45, 0.2),
        lens=Lens((1.00, 0.93, 0.90), 0.92, 0.01, 1.11, 0.8, 0.020, 80),
    ),
    Camera(
        wall=Masonry("#b3afa6", 600, 120, 0.0, 22, 0.06),
        ground=Masonry("#a9a59c", 36, 70, 0.0, 2, 0.07),
        horizon=0.45,
        road=0.8,
        tilt=0.24,
        props=("tree", "bench", "poster"),
        obstacles=("person", "pole"),
        light=Light(0.58, 0.52, 0.9),
        lens=Lens((1.05, 1.05, 1.07), 0.88, 0.06, 0.92, 0.7, 0.012, 82),
    ),
    Camera(
        wall=Masonry("#78777a", 28, 28, 0.0, 2, 0.05),
        ground=Masonry("#75706a", 22, 40, 0.5, 2, 0.04),
        horizon=0.58,
        road=0.1,
        tilt=0.20,
        props=("lamp", "lamp", "poster"),
        obstacles=("pole", "person"),
        light=Light(0.42, 0.62, -0.3),
        lens=Lens((1.00, 0.90, 0.77), 0.92, 0.02, 1.05, 0.9, 0.035, 75),
    ),
    Camera(
        wall=Masonry("#828a8f", 600, 13, 0.0, 4, 0.05),
        ground=Masonry("#8a8580", 13, 18, 0.5, 3, 0.08),
        horizon=0.54,
        road=1.0,
        tilt=0.15,
        props=("bike", "bike", "tree"),
        obstacles=("bush", "person", "pole"),
        light=Light(0.46, 0.55, -0.6),
        lens=Lens((0.87, 0.94, 1.05), 0.96, 0.03, 1.00, 0.6, 0.022, 84),
    ),
)
LEAVES = ("#3f5c2b", "#557a38", "#31491f")


class Shape(NamedTuple):
    """A part of a thing at the wall."""

    kind: str  # a method of ImageDraw
    box: tuple[int, int, int, int]  # left, lower, right, upper edge; from the foot of the wall
    color: str | None = None  # None: any


PROPS = {
    "poster": (
        Shape("rectangle", (0, 45, 50, 120)),
        Shape("ellipse", (12, 75, 38, 105), "#e8e2d0"),
    ),
    "door": (
        Shape("rectangle", (0, 0, 52, 125), "#2e2c2b"),
        Shape("rectangle", (5, 3, 47, 118)),
    ),
    "lamp": (
        Shape("rectangle", (8, 0, 13, 120), "#26262a"),
        Shape("ellipse", (-4, 112, 26, 138), "#fff3c4"),
    ),
    "bench": (
        Shape("rectangle", (0, 10, 80, 16), "#6b4a2c"),
        Shape("rectangle", (0, 24, 80, 34), "#7a5735"),
    ),
    "bike": (
        Shape("arc", (0, -14, 34, 20), "#1e1e20"),
        Shape("arc", (52, -14, 86, 20), "#1e1e20"),
        Shape("line", (17, 3, 60, 32)),
    ),
    "tree": (Shape("rectangle", (18, -8, 28, 110), "#4d3b2c"),),
}
_STYLES = {"arc": {"start": 0, "end": 360, "width": 3}, "line": {"width": 4}}
SCENE = (H + 40, 10 * W)
STRANGERS = 20000  # the numbers of people who are nobody's match begin here


def _masonry(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, stones: Masonry) -> np.ndarray:
    """Rows of stones at coordinates y [h, 1], x [1 or h, w] -> RGB [h, w, 3]."""
    row = np.int32(y // stones.height) % 499
    x = x + stones.shift * (row % 2) * stones.width
    column = np.int32(x // stones.width) % 499
    tone = 1 + stones.unevenness * rng.standard_normal((499, 499), "f4")[row, column]
    is_joint = (y % stones.height < stones.joint) | (x % stones.width < stones.joint)
    tone = np.where(is_joint, 0.72, tone)
    return persons.rgb(stones.color) * tone[..., None]


@functools.lru_cache(maxsize=len(CAMERAS))
def _scene(seed: int, number: int) -> np.ndarray:
    """The place that camera `number` looks at, float32 RGB [*SCENE, 3]. Images show parts of it."""
    rng = persons.rng_of(2, seed, number)
    camera = CAMERAS[number]
    height, width = SCENE
    horizon = int(camera.horizon * H) + 10
    x = np.arange(width, dtype="f4")[None]
    down = np.arange(height - horizon, dtype="f4")[:, None]
    wall = _masonry(rng, np.arange(horizon, dtype="f4")[:, None], x, camera.wall)
    ground = _masonry(rng, 400 - 4000 / (down + 30), x + 0.4 * down, camera.ground)
    image = Image.fromarray(np.uint8(np.clip(np.vstack([wall, ground]), 0, 1) * 255))
    draw = ImageDraw.Draw(image)

    def paint(shape, color, left, scale):
        x0, y0, x1, y1 = np.multiply(shape.box, scale).tolist()
        box = (left + x0, horizon - y1, left + x1, horizon - y0)
        getattr(draw, shape.kind)(box, fill=color, **_STYLES.get(shape.kind, {}))

    for place in range(20, width, 110):
        left = place + int(rng.integers(60))
        scale = rng.uniform(0.8, 1.2)
        prop = camera.props[rng.integers(len(camera.props))]
        color = persons.COLORS[rng.integers(len(persons.COLORS))]
        for shape in PROPS[prop]:
            paint(shape, shape.color or color, left, scale)
        if prop == "tree":
            for u, v in rng.normal((23, 125), 22, (26, 2)):
                leaf = Shape("ellipse", (u - 14, v - 11, u + 14, v + 11))
                paint(leaf, LEAVES[rng.integers(3)], left, scale)
    return np.float32(image.filter(ImageFilter.GaussianBlur(1.6))) / 255


def _stranger(
    canvas: np.ndarray,
    rng: np.random.Generator,
    seed: int,
    camera: Camera,
    foot: tuple[float, float],
    size: float,
) -> None:
    """Draw somebody who is nobody's match."""
    who = persons.identity(seed, STRANGERS + int(rng.integers(500)))
    view = camera.road + pi * rng.integers(2)
    pose = persons.Pose(view, phase=rng.uniform(0, 6), stride=0.35, raised=0)
    persons.draw_figure(canvas, who, pose, foot, size, camera.light, camera.tilt)


def _obstacle(canvas: np.ndarray, rng: np.random.Generator, seed: int, camera: Camera) -> None:
    """Put something between the camera and the person."""
    color = persons.plain(persons.rgb(persons.COLORS[rng.integers(len(persons.COLORS))]))
    side = rng.choice((-1, 1))
    x = W / 2 + side * rng.uniform(0.22, 0.5) * W
    kind = rng.choice(camera.obstacles)
    if kind == "person":
        size = rng.uniform(0.95, 1.05) * H
        _stranger(canvas, rng, seed, camera, (x + side * 22, H + 6), size)
        return
    if kind == "pole":
        tubes = [_pole(rng, x, color)]
    elif kind == "bush":
        tubes = _bush(rng, x)
    else:
        tubes = _car(rng, color)
    for tube in tubes:
        persons.draw_tube(canvas, tube, camera.light)


def _pole(rng: np.random.Generator, x: float, color: persons.Paint) -> Tube:
    radius = rng.uniform(5, 10)
    steel = persons.plain(persons.rgb("#737577"))
    paint = persons.layered(steel, (lambda a, v: abs(v - 0.55) < 0.06, color))
    top = (x + rng.uniform(-8, 8), H + 20)
    return Tube((x, -20), top, (radius, radius), paint)


def _bush(rng: np.random.Generator, x: float) -> list[Tube]:
    tubes = []
    for u, v in rng.normal(0, (22, 34), (24, 2)):
        spot = (x + u, H - abs(v))
        leaf = persons.plain(persons.rgb(LEAVES[rng.integers(3)]))
        tubes.append(Tube(spot, spot, (9, 9), leaf))
    return tubes


def _car(rng: np.random.Generator, color: persons.Paint) -> list[Tube]:
    top = H * rng.uniform(0.74, 0.9)
    left = rng.uniform(-1.2, -0.1) * W
    window = persons.plain(persons.rgb("#27323a"))
    glass = persons.layered(
        color, (lambda a, v: (v > 0.1) & (v < 0.9) & (abs(v - 0.5) > 0.02), window)
    )
    roof = (left + 50, top + 14), (left + 170, top + 14)
    body = (left + 10, top + 46), (left + 250, top + 46)
    tubes = [
        Tube(*roof, (16, 22, 22, 18), glass, cap=0.7),
        Tube(*body, (22, 24, 24, 20), color, cap=1.5),
    ]
    black = persons.plain(persons.rgb("#1b1b1d"))
    for x in (left + 50, left + 205):
        wheel = (x, top + 62)
        tubes.append(Tube(wheel, wheel, (17, 17), black))
    return tubes


def draw_image(seed: int, pid: int, camera: int, number: int) -> np.ndarray:
    """Draw an image of a person: uint8 RGB [128, 64, 3].

    Args:
        pid: of the person; -1: junk (a box that cuts somebody apart), 0: a distractor (a box
            without a person).
        camera: 0..5.
        number: of the image among those of pid and camera; it decides about pose, box and
            obstacles.
    """
    # What the images of a walk have in common, and what is each one's own.
    way = persons.rng_of(3, seed, pid + 1, camera)
    rng = persons.rng_of(4, seed, pid + 1, camera, number)
    seen_by = CAMERAS[camera]
    heading = seen_by.road + pi * way.integers(2) + way.normal(0, 0.35)
    exposure = way.normal(0, 0.14)
    raised = way.uniform(0.8, 2.1) * (way.random() < 0.25)
    left = int(way.integers(SCENE[1] - 3 * W)) + 20 * number % W
    top = int(rng.integers(SCENE[0] - H))
    if pid <= 0:
        left = int(rng.integers(SCENE[1] - W))
    canvas = _scene(seed, camera)[top : top + H, left : left + W].copy()

    if rng.random() < 0.25:
        x = W / 2 + rng.choice((-1, 1)) * rng.uniform(0.3, 0.55) * W
        size = rng.uniform(0.55, 0.85) * H
        _stranger(canvas, rng, seed, seen_by, (x, size + 0.08 * H), size)
    foot = np.array((W * rng.normal(0.5, 0.05), H * rng.normal(0.955, 0.025)))
    size = H * rng.normal(0.91, 0.04)
    if pid < 0:
        size *= rng.uniform(1.0, 1.6)
        foot += (rng.choice((-1, 1)) * rng.uniform(0.25, 0.45) * W, rng.uniform(-0.1, 0.4) * H)
    if pid != 0:
        _shadow(canvas, foot, seen_by.light.direction)
        pose = persons.Pose(
            view=heading + rng.normal(0, 0.18),
            phase=rng.uniform(0, 2 * pi),
            stride=rng.uniform(0.15, 0.42),
            raised=raised,
        )
        who = persons.identity(seed, pid if pid > 0 else STRANGERS + number)
        persons.draw_figure(canvas, who, pose, tuple(foot), size, seen_by.light, seen_by.tilt)
    if rng.random() < (0.25 if pid else 0.7):
        _obstacle(canvas, rng, seed, seen_by)
    return _photograph(canvas, rng, seen_by.lens, exposure + rng.normal(0, 0.05))


def _shadow(canvas: np.ndarray, foot: np.ndarray, direction: float) -> None:
    low = max(min(int(foot[1]) - 16, H), 0)
    y, x = np.ogrid[low:H, :W]
    near = ((x - foot[0] - 14 * direction) / 38) ** 2 + ((y - foot[1] + 2) / 9) ** 2
    canvas[low:] *= (1 - 0.45 * np.exp(-np.float32(near)))[..., None]


def _photograph(
    canvas: np.ndarray, rng: np.random.Generator, lens: Lens, exposure: float
) -> np.ndarray:
    """What a camera makes of the light: float32 RGB [H, W, 3] in 0..1 -> uint8 [128, 64, 3].

    Args:
        exposure: in stops.
    """
    image = Image.fromarray(np.uint8(np.clip(canvas, 0, 1) * 255)).reduce(2)
    blurred = image.filter(ImageFilter.GaussianBlur(lens.blur * rng.uniform(0.5, 1.3)))
    pixels = np.float32(blurred) / 255
    gray = pixels.mean(axis=2, keepdims=True)
    pixels = gray + lens.saturation * (pixels - gray)
    pixels = pixels * np.float32(lens.gain) * np.float32(2**exposure)
    pixels = lens.haze + (1 - lens.haze) * np.clip(pixels, 0, 1)
    pixels = pixels ** np.float32(lens.gamma)
    pixels += np.float32(lens.noise) * rng.standard_normal(pixels.shape, "f4")
    return np.uint8(np.clip(pixels * 255 + 0.5, 0, 255))


# ------------------------------------------------------------------------- the data set


class Shot(NamedTuple):
    """An image to be drawn."""

    pid: str
    camera: int
    number: int
    fid: str


def plan_dataset(
    seed: int, train_pids: int, test_pids: int, images_per_camera: int
) -> dict[str, list[Shot]]:
    """Decide what is drawn: for "train", "query" and "gallery" the shots, sorted by fid.

    Every person is seen by three to five cameras, images_per_camera times by each. Of a test person
    one image of every camera is a query and the others are in the gallery, so every query has a
    match from another camera. The gallery also has distractors (pid 0) and junk (pid -1), a tenth
    and a twentieth of its size.
    """
    plan = {part: [] for part in FOLDERS}
    shuffled = 1 + persons.rng_of(5, seed).permutation(train_pids + test_pids)
    training = set(shuffled[:train_pids].tolist())
    for pid in range(1, train_pids + test_pids + 1):
        rng = persons.rng_of(7, seed, pid)
        for camera in rng.permutation(len(CAMERAS))[: rng.integers(3, 6)].tolist():
            for number in range(images_per_camera):
                part = "gallery" if number else "query"
                if pid in training:
                    part = "train"
                plan[part].append(_shot(seed, part, pid, camera, number))
    matches = len(plan["gallery"])
    for pid, count in ((0, 1 + matches // 10), (-1, 1 + matches // 20)):
        for number in range(count):
            shot = _shot(seed, "gallery", pid, number % len(CAMERAS), number)
            plan["gallery"].append(shot)
    return {part: sorted(shots, key=lambda shot: shot.fid) for part, shots in plan.items()}


def _shot(seed: int, part: str, pid: int, camera: int, number: int) -> Shot:
    way = persons.rng_of(6, seed, pid + 1, camera)
    sequence = way.integers(1, 7)
    frame = way.integers(100, 90000) + 25 * number
    box = 0 if part == "query" else 1 + (pid + number) % 4
    text = f"{pid:04d}" if pid >= 0 else "-1"
    name = f"{text}_c{camera + 1}s{sequence}_{frame:06d}_{box:02d}.jpg"
    return Shot(text, camera, number, f"{FOLDERS[part]}/{name}")


def _draw_and_save(directory: Path, seed: int, shot: Shot) -> None:
    pixels = draw_image(seed, int(shot.pid), shot.camera, shot.number)
    quality = CAMERAS[shot.camera].lens.quality
    Image.fromarray(pixels).save(directory / shot.fid, quality=quality)


def _write_dataset(directory: Path, seed: int, plan: dict[str, list[Shot]]) -> None:
    for folder in FOLDERS.values():
        (directory / folder).mkdir(parents=True)
    every_shot = sum(plan.values(), [])
    draw = functools.partial(_draw_and_save, directory, seed)
    if len(every_shot) < ALONE:
        for shot in every_shot:
            draw(shot)
    else:
        # Not forked: whoever calls this may have TensorFlow's threads. The parent handles Ctrl-C.
        spawn = multiprocessing.get_context("spawn")
        ignore_ctrl_c = (signal.SIGINT, signal.SIG_IGN)
        with spawn.Pool(cores.count(), signal.signal, ignore_ctrl_c) as pool:
            for _ in pool.imap_unordered(draw, every_shot, chunksize=32):
                pass
    for part, shots in plan.items():
        with open(directory / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows((shot.pid, shot.fid) for shot in shots)


# ------------------------------------------------------------------------- the command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m data.synthetic"
    parser.add_argument(
        "directory", metavar="DIR", help="A new or empty directory for the images and CSVs."
    )
    parser.add_argument(
        "--seed",
        type=common.non_negative_int,
        default=0,
        metavar="N",
        help="Seed of the persons and images. Another seed draws other persons.",
    )
    parser.add_argument(
        "--train_pids",
        type=common.positive_int,
        default=200,
        metavar="N",
        help="Number of persons in the training set.",
    )
    parser.add_argument(
        "--test_pids",
        type=common.positive_int,
        default=120,
        metavar="N",
        help="Number of persons in the query and gallery sets.",
    )
    several = common.number(
        int, lambda n: 2 <= n <= 99, "an integer from 2 (one for query, one for gallery) to 99"
    )
    parser.add_argument(
        "--images_per_camera",
        type=several,
        default=4,
        metavar="N",
        help="Number of images of a person from each of the 3 to 5 cameras that see the person.",
    )
    args = parser.parse_args(argv)
    if args.train_pids + args.test_pids > 9999:
        parser.error(
            "arguments --train_pids and --test_pids: should add up to at most 9999, for a pid has four digits. "
            f"Received: {args.train_pids} + {args.test_pids}"
        )
    return args


def main(args: argparse.Namespace) -> None:
    directory = Path(args.directory)
    plan = plan_dataset(args.seed, args.train_pids, args.test_pids, args.images_per_camera)
    try:
        if directory.exists() and any(directory.iterdir()):
            raise UserError(
                f"DIR should be new or empty. Received: {args.directory}, which is not. Give another name."
            )
        with files.complete_directory(directory) as partial:
            print(f"Drawing {sum(map(len, plan.values()))} images...", flush=True)
            _write_dataset(partial, args.seed, plan)
    except OSError as error:
        raise UserError(
            f"cannot write {args.directory}: {error.strerror}. Give a DIR that can be written."
        ) from None
    sizes = ", ".join(f"{part}.csv {len(shots)}" for part, shots in plan.items())
    print(
        f"{args.directory}: {args.train_pids} + {args.test_pids} persons, {len(CAMERAS)} cameras; {sizes} images."
    )


if __name__ == "__main__":
    common.run(main, parse_args)
