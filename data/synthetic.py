"""Draw a re-identification data set in the form of Market-1501, for the demo and for trying things
out.

    python -m data.synthetic DIR

Figures of persons walk past six cameras. Each camera has its own place, light, colours, blur, noise
and things that stand in the way; each usually sees people from another side. A person is known by
clothes, their patterns, hair, hat and bag. Colour alone says little: cameras change it, and every
three persons wear the same colours.

DIR then holds bounding_box_train/, query/, bounding_box_test/ (JPEG, 128x64) and train.csv,
query.csv, gallery.csv. Each image is a function of (seed, pid, camera, number): the same call makes
the same bytes, given the same NumPy and Pillow on the same kind of processor. Takes 20 to 25 s on
two cores.
"""

import argparse
import csv
import functools
import multiprocessing
import os
import shutil
import signal
from math import pi
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import common
from common import UserError
from data import synthetic_persons as persons
from data.synthetic_persons import H, W

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
ALONE = 300  # fewer images are drawn by one process: starting others would take longer

# ------------------------------------------------------------------------- what cameras see

# A row for each camera. Walls and grounds: colour; height and width of a stone; shift of every
# other row; width of the joint; unevenness. Places: where the wall meets the ground (of the
# height); how people walk (radians, 0 = towards the camera, or away); tilt of the camera; things at
# the wall; what gets in the way.
WALLS = (
    ("#8b999d", 96, 74, 0.0, 6, 0.12),
    ("#66754f", 7, 9, 0.4, 0, 0.14),
    ("#90695a", 11, 26, 0.5, 2, 0.08),
    ("#b3afa6", 600, 120, 0.0, 22, 0.06),
    ("#78777a", 28, 28, 0.0, 2, 0.05),
    ("#828a8f", 600, 13, 0.0, 4, 0.05),
)
GROUNDS = (
    ("#9a968e", 30, 44, 0.5, 2, 0.04),
    ("#8d966c", 5, 6, 0.3, 0, 0.09),
    ("#777675", 4, 5, 0.3, 0, 0.05),
    ("#a9a59c", 36, 70, 0.0, 2, 0.07),
    ("#75706a", 22, 40, 0.5, 2, 0.04),
    ("#8a8580", 13, 18, 0.5, 3, 0.08),
)
PLACES = (
    (0.62, 0.2, 0.16, ("poster", "poster", "bike"), ("pole", "person")),
    (0.50, 1.3, 0.12, ("tree", "tree", "bench"), ("bush", "person")),
    (0.66, 1.7, 0.10, ("door", "poster", "bike"), ("car", "car", "pole")),
    (0.45, 0.8, 0.24, ("tree", "bench", "poster"), ("person", "pole")),
    (0.58, 0.1, 0.20, ("lamp", "lamp", "poster"), ("pole", "person")),
    (0.54, 1.0, 0.15, ("bike", "bike", "tree"), ("bush", "person", "pole")),
)
LIGHTS = (
    (0.50, 0.55, 0.6),
    (0.36, 0.72, -0.8),
    (0.48, 0.45, 0.2),
    (0.58, 0.52, 0.9),
    (0.42, 0.62, -0.3),
    (0.46, 0.55, -0.6),
)
# Gain of red, green, blue; saturation; haze; gamma; blur (pixels); noise; quality of the JPEG.
LENSES = (
    ((1.03, 0.99, 0.95), 0.96, 0.03, 0.97, 0.5, 0.012, 88),
    ((0.95, 1.03, 0.93), 1.08, 0.00, 1.05, 0.6, 0.015, 85),
    ((1.00, 0.93, 0.90), 0.92, 0.01, 1.11, 0.8, 0.020, 80),
    ((1.05, 1.05, 1.07), 0.88, 0.06, 0.92, 0.7, 0.012, 82),
    ((1.00, 0.90, 0.77), 0.92, 0.02, 1.05, 0.9, 0.035, 75),
    ((0.87, 0.94, 1.05), 0.96, 0.03, 1.00, 0.6, 0.022, 84),
)
LEAVES = ("#3f5c2b", "#557a38", "#31491f")
# name: shape, box (left, lower, right, upper edge; from the foot of the wall, upwards), colour
# (None: any)
PROPS = {
    "poster": (("rectangle", (0, 45, 50, 120), None), ("ellipse", (12, 75, 38, 105), "#e8e2d0")),
    "door": (("rectangle", (0, 0, 52, 125), "#2e2c2b"), ("rectangle", (5, 3, 47, 118), None)),
    "lamp": (("rectangle", (8, 0, 13, 120), "#26262a"), ("ellipse", (-4, 112, 26, 138), "#fff3c4")),
    "bench": (("rectangle", (0, 10, 80, 16), "#6b4a2c"), ("rectangle", (0, 24, 80, 34), "#7a5735")),
    "bike": (
        ("arc", (0, -14, 34, 20), "#1e1e20"),
        ("arc", (52, -14, 86, 20), "#1e1e20"),
        ("line", (17, 3, 60, 32), None),
    ),
    "tree": (("rectangle", (18, -8, 28, 110), "#4d3b2c"),),
}
SCENE = (H + 40, 10 * W)
STRANGERS = 20000  # the numbers of people who are nobody's match begin here


def _masonry(rng, y, x, color: str, height, width, shift, joint, uneven) -> np.ndarray:
    """Rows of stones (bricks, slabs, panes, leaves) at coordinates y [h,1], x [1 or h,w] -> RGB
    [h,w,3].
    """
    row = np.int32(y // height) % 499
    x = x + shift * (row % 2) * width
    tone = 1 + uneven * rng.standard_normal((499, 499), "f4")[row, np.int32(x // width) % 499]
    tone = np.where((y % height < joint) | (x % width < joint), 0.72, tone)
    return persons.rgb(color) * tone[..., None]


@functools.lru_cache(maxsize=len(PLACES))
def _scene(seed: int, camera: int) -> np.ndarray:
    """The place that a camera looks at, float32 RGB [*SCENE,3]. Images show parts of it."""
    rng, (height, width), (horizon, _, _, props, _) = (
        persons.rng_of(2, seed, camera),
        SCENE,
        PLACES[camera],
    )
    horizon = int(horizon * H) + 10
    x, down = np.arange(width, dtype="f4")[None], np.arange(height - horizon, dtype="f4")[:, None]
    wall = _masonry(rng, np.arange(horizon, dtype="f4")[:, None], x, *WALLS[camera])
    ground = _masonry(rng, 400 - 4000 / (down + 30), x + 0.4 * down, *GROUNDS[camera])
    image = Image.fromarray(np.uint8(np.clip(np.vstack([wall, ground]), 0, 1) * 255))
    draw = ImageDraw.Draw(image)

    def paint(shape, box, color, left, scale):
        x0, y0, x1, y1 = np.multiply(box, scale).tolist()
        style = {"arc": {"start": 0, "end": 360, "width": 3}, "line": {"width": 4}}.get(shape, {})
        getattr(draw, shape)(
            (left + x0, horizon - y1, left + x1, horizon - y0), fill=color, **style
        )

    for left in range(20, width, 110):
        left, scale = left + int(rng.integers(60)), rng.uniform(0.8, 1.2)
        prop, color = (
            props[rng.integers(len(props))],
            persons.COLORS[rng.integers(len(persons.COLORS))],
        )
        for shape, box, fixed in PROPS[prop]:
            paint(shape, box, fixed or color, left, scale)
        for u, v in rng.normal((23, 125), 22, (26, 2)) if prop == "tree" else ():
            paint("ellipse", (u - 14, v - 11, u + 14, v + 11), LEAVES[rng.integers(3)], left, scale)
    return np.float32(image.filter(ImageFilter.GaussianBlur(1.6))) / 255


def _stranger(
    canvas, rng: np.random.Generator, seed: int, camera: int, foot: tuple, size: float
) -> None:
    _, road, tilt, _, _ = PLACES[camera]
    who, pose = (
        persons.identity(seed, STRANGERS + int(rng.integers(500))),
        (road + pi * rng.integers(2), rng.uniform(0, 6), 0.35, 0),
    )
    persons.draw_figure(canvas, who, pose, foot, size, LIGHTS[camera], tilt)


def _obstacle(canvas, rng: np.random.Generator, seed: int, camera: int) -> None:
    """Put something between the camera and the person."""
    light, color = (
        LIGHTS[camera],
        persons.plain(persons.rgb(persons.COLORS[rng.integers(len(persons.COLORS))])),
    )
    black, side = persons.plain(persons.rgb("#1b1b1d")), rng.choice((-1, 1))
    x, kind = W / 2 + side * rng.uniform(0.22, 0.5) * W, rng.choice(PLACES[camera][-1])
    if kind == "person":
        _stranger(canvas, rng, seed, camera, (x + side * 22, H + 6), rng.uniform(0.95, 1.05) * H)
    elif kind == "pole":
        radius, steel = rng.uniform(5, 10), persons.plain(persons.rgb("#737577"))
        paint = persons.layered(steel, (lambda a, v: abs(v - 0.55) < 0.06, color))
        persons.draw_tube(
            canvas, (x, -20), (x + rng.uniform(-8, 8), H + 20), (radius, radius), paint, light
        )
    elif kind == "bush":
        for u, v in rng.normal(0, (22, 34), (24, 2)):
            spot = (x + u, H - abs(v))
            persons.draw_tube(
                canvas,
                spot,
                spot,
                (9, 9),
                persons.plain(persons.rgb(LEAVES[rng.integers(3)])),
                light,
            )
    else:
        top, left = H * rng.uniform(0.74, 0.9), rng.uniform(-1.2, -0.1) * W
        glass = persons.layered(
            color,
            (
                lambda a, v: (v > 0.1) & (v < 0.9) & (abs(v - 0.5) > 0.02),
                persons.plain(persons.rgb("#27323a")),
            ),
        )
        persons.draw_tube(
            canvas,
            (left + 50, top + 14),
            (left + 170, top + 14),
            (16, 22, 22, 18),
            glass,
            light,
            cap=0.7,
        )
        persons.draw_tube(
            canvas,
            (left + 10, top + 46),
            (left + 250, top + 46),
            (22, 24, 24, 20),
            color,
            light,
            cap=1.5,
        )
        for wheel in (left + 50, left + 205):
            persons.draw_tube(canvas, (wheel, top + 62), (wheel, top + 62), (17, 17), black, light)


def draw_image(seed: int, pid: int, camera: int, number: int) -> np.ndarray:
    """Draw an image of a person: uint8 RGB [128,64,3].

    pid: of the person; -1: junk (a box that cuts somebody apart), 0: a distractor (a box without a
        person).
    camera: 0..5; number: of the image among those of pid and camera; it decides about pose, box and
        obstacles.
    """
    way, rng = (
        persons.rng_of(3, seed, pid + 1, camera),
        persons.rng_of(4, seed, pid + 1, camera, number),
    )
    _, road, tilt, _, _ = PLACES[camera]
    heading, exposure = road + pi * way.integers(2) + way.normal(0, 0.35), way.normal(0, 0.14)
    raised = way.uniform(0.8, 2.1) * (way.random() < 0.25)
    left, top = (
        int(way.integers(SCENE[1] - 3 * W)) + 20 * number % W,
        int(rng.integers(SCENE[0] - H)),
    )
    if pid <= 0:
        left = int(rng.integers(SCENE[1] - W))
    canvas = _scene(seed, camera)[top : top + H, left : left + W].copy()

    if rng.random() < 0.25:
        x, size = (
            W / 2 + rng.choice((-1, 1)) * rng.uniform(0.3, 0.55) * W,
            rng.uniform(0.55, 0.85) * H,
        )
        _stranger(canvas, rng, seed, camera, (x, size + 0.08 * H), size)
    foot = np.array((W * rng.normal(0.5, 0.05), H * rng.normal(0.955, 0.025)))
    size = H * rng.normal(0.91, 0.04)
    if pid < 0:
        size *= rng.uniform(1.0, 1.6)
        foot += (rng.choice((-1, 1)) * rng.uniform(0.25, 0.45) * W, rng.uniform(-0.1, 0.4) * H)
    if pid != 0:
        _shadow(canvas, foot, LIGHTS[camera][2])
        pose = (
            heading + rng.normal(0, 0.18),
            rng.uniform(0, 2 * pi),
            rng.uniform(0.15, 0.42),
            raised,
        )
        who = persons.identity(seed, pid if pid > 0 else STRANGERS + number)
        persons.draw_figure(canvas, who, pose, tuple(foot), size, LIGHTS[camera], tilt)
    if rng.random() < (0.25 if pid else 0.7):
        _obstacle(canvas, rng, seed, camera)
    return _photograph(canvas, rng, camera, exposure + rng.normal(0, 0.05))


def _shadow(canvas, foot: np.ndarray, direction: float) -> None:
    low = max(min(int(foot[1]) - 16, H), 0)
    y, x = np.ogrid[low:H, :W]
    near = ((x - foot[0] - 14 * direction) / 38) ** 2 + ((y - foot[1] + 2) / 9) ** 2
    canvas[low:] *= (1 - 0.45 * np.exp(-np.float32(near)))[..., None]


def _photograph(canvas, rng: np.random.Generator, camera: int, exposure: float) -> np.ndarray:
    """What a camera makes of the light: float32 RGB [H,W,3] in 0..1 -> uint8 [128,64,3]. exposure:
    in stops.
    """
    gain, saturation, haze, gamma, blur, noise, _ = LENSES[camera]
    image = Image.fromarray(np.uint8(np.clip(canvas, 0, 1) * 255)).reduce(2)
    pixels = np.float32(image.filter(ImageFilter.GaussianBlur(blur * rng.uniform(0.5, 1.3)))) / 255
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = (grey + saturation * (pixels - grey)) * np.float32(gain) * np.float32(2**exposure)
    pixels = (haze + (1 - haze) * np.clip(pixels, 0, 1)) ** np.float32(gamma)
    pixels += np.float32(noise) * rng.standard_normal(pixels.shape, "f4")
    return np.uint8(np.clip(pixels * 255 + 0.5, 0, 255))


# ------------------------------------------------------------------------- the data set


def plan_dataset(
    seed: int, train_pids: int, test_pids: int, images_per_camera: int
) -> dict[str, list]:
    """Decide what is drawn: {"train", "query", "gallery": [(pid, camera, number, fid), ...]}, each
    sorted by fid.

    Every person is seen by three to five cameras, images_per_camera times by each. Of a test person
    one image of every camera is a query and the others are in the gallery, so every query has a
    match from another camera. The gallery also has distractors (pid 0) and junk (pid -1), a tenth
    and a twentieth of its size.
    """
    plan = {name: [] for name in FOLDERS}

    def add(name, pid, camera, number):
        way = persons.rng_of(6, seed, pid + 1, camera)
        sequence, frame, box = (
            way.integers(1, 7),
            way.integers(100, 90000) + 25 * number,
            1 + (pid + number) % 4,
        )
        text = f"{pid:04d}" if pid >= 0 else "-1"
        name_of_file = (
            f"{text}_c{camera + 1}s{sequence}_{frame:06d}_{0 if name == 'query' else box:02d}.jpg"
        )
        plan[name].append((text, camera, number, f"{FOLDERS[name]}/{name_of_file}"))

    training = set(
        (1 + persons.rng_of(5, seed).permutation(train_pids + test_pids)[:train_pids]).tolist()
    )
    for pid in range(1, train_pids + test_pids + 1):
        rng = persons.rng_of(7, seed, pid)
        for camera in rng.permutation(len(PLACES))[: rng.integers(3, 6)].tolist():
            for number in range(images_per_camera):
                add(
                    "train" if pid in training else "gallery" if number else "query",
                    pid,
                    camera,
                    number,
                )
    matches = len(plan["gallery"])
    for pid, count in ((0, 1 + matches // 10), (-1, 1 + matches // 20)):
        for number in range(count):
            add("gallery", pid, number % len(PLACES), number)
    return {name: sorted(rows, key=lambda row: row[-1]) for name, rows in plan.items()}


def _draw_and_save(directory: Path, seed: int, row: tuple) -> None:
    pid, camera, number, fid = row
    Image.fromarray(draw_image(seed, int(pid), camera, number)).save(
        directory / fid, quality=LENSES[camera][-1]
    )


def _write_dataset(directory: Path, seed: int, plan: dict[str, list]) -> None:
    for folder in FOLDERS.values():
        (directory / folder).mkdir(parents=True)
    rows, work = sum(plan.values(), []), functools.partial(_draw_and_save, directory, seed)
    if len(rows) < ALONE:
        for row in rows:
            work(row)
    else:
        # Not forked: whoever calls this may have TensorFlow's threads. Ctrl-C is the parent's to
        # handle.
        spawn = multiprocessing.get_context("spawn")
        with spawn.Pool(
            initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
        ) as pool:
            for _ in pool.imap_unordered(work, rows, chunksize=32):
                pass
    for name, listed in plan.items():
        with open(directory / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows((pid, fid) for pid, _, _, fid in listed)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m data.synthetic"
    several = common.number(
        int, lambda n: 2 <= n <= 99, "an integer from 2 (one for query, one for gallery) to 99"
    )
    parser.add_argument(
        "directory", metavar="DIR", help="Where to put images and CSVs: a new or empty directory."
    )
    for name, kind, default, text in (
        ("seed", common.non_negative_int, 0, "Another seed, other persons."),
        ("train_pids", common.positive_int, 200, "Persons to train with."),
        ("test_pids", common.positive_int, 120, "Persons to test with."),
        (
            "images_per_camera",
            several,
            4,
            "Images of a person by each of the 3 to 5 cameras that see it.",
        ),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=text)
    args = parser.parse_args(argv)
    if args.train_pids + args.test_pids > 9999:
        parser.error(
            "arguments --train_pids and --test_pids: should add up to at most 9999, for a pid has four digits. "
            f"Received: {args.train_pids} + {args.test_pids}"
        )
    return args


def main(args: argparse.Namespace) -> None:
    directory = Path(args.directory).resolve()
    partial = directory.with_name(directory.name + ".partial")
    plan = plan_dataset(args.seed, args.train_pids, args.test_pids, args.images_per_camera)
    try:
        if directory.exists() and any(directory.iterdir()):
            raise UserError(
                f"DIR should be new or empty. Received: {args.directory}, which is not. Give another name."
            )
        if partial.exists():  # left by a call that was killed; anything else is not ours to remove
            if not set(os.listdir(partial)) <= {
                *FOLDERS.values(),
                *(f"{name}.csv" for name in FOLDERS),
            }:
                raise UserError(
                    f"{partial} is in the way, and not of this command. Remove it or give another DIR."
                )
            shutil.rmtree(partial)
        print(f"Drawing {sum(map(len, plan.values()))} images...", flush=True)
        try:
            _write_dataset(partial, args.seed, plan)
            os.replace(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {args.directory}: {error.strerror}. Give a DIR that can be written."
        ) from None
    sizes = ", ".join(f"{name}.csv {len(rows)}" for name, rows in plan.items())
    print(
        f"{args.directory}: {args.train_pids} + {args.test_pids} persons, {len(PLACES)} cameras; {sizes} images."
    )


if __name__ == "__main__":
    common.run(main, parse_args)
