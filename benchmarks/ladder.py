r"""What each trick is worth: trainings on real images, with several seeds.

    python -m benchmarks.ladder --data FOLDER --image_root FOLDER/images --excluder diagonal \
        --net_input_height 48 --net_input_width 48
    python -m benchmarks.ladder --data demo/data --excluder market1501 \
        --net_input_height 64 --net_input_width 32 --directory ladder_lunet_demo
    python -m benchmarks.ladder --data FOLDER --image_root FOLDER/images --excluder diagonal \
        --net_input_height 128 --net_input_width 128 --iterations 300 \
        --initial_checkpoint mobilenet_v2.safetensors --directory ladder_mobilenet

The net is a narrow LuNet, from scratch, which has no last stride and no pooling to choose. With
--initial_checkpoint it is a MobileNetV2 with these weights, and the rungs are others.

FOLDER holds train.csv, query.csv and gallery.csv. --held_out trains on three quarters of the pids and
also tells the mAP that a validation finds on the others. What is chosen is chosen by that, not by the
query and gallery images. What is finished stands in --directory and is not done again, so the ladder
can be interrupted. A call with another data set or other flags is refused there.
Prints mAP and top-1 in percent: the mean over the seeds (lowest-highest).
"""

import argparse
import os
import shutil
import statistics
from pathlib import Path
from typing import NamedTuple

import common
from experiment import args_json, flags, like, validations
from runtime import files, json_files
from runtime.tensorflow import import_tensorflow

PARTS = ("query", "gallery")
# Flags whose values are the same by any path.
PATHS = {
    *("--data", "--dataset", "--query_dataset", "--gallery_dataset"),
    *(f"--{name}" for name in args_json.PATHS),
}


class Rung(NamedTuple):
    """Flags of the three commands, beside those that all rungs have."""

    train: str
    embed: str
    evaluate: str


LUNET = "--model_name lunet_narrow --head_name direct --embedding_dim 128 --learning_rate 1e-3"
MOBILENET = "--model_name mobilenet_v2_torch --learning_rate 3e-4"
CROPS = "--crop_augment --flip_augment"
CENTER, EUCLIDEAN = "--crop_augment center", "--metric euclidean"
TEN_CROPS = "--crop_augment five --flip_augment --aggregator mean"
HELD_OUT_MAP = "held-out mAP"
FIGURES = (HELD_OUT_MAP, "mAP", "top-1")  # in the order of the columns; rungs may lack the first
HELD_OUT = f"{CROPS} --val_pids 0.1 --val_frequency 50"
NECK = "--head_name bnneck"
TOGETHER = f"{CROPS} {NECK} --id_loss_weight 1 --loss lifted --lr_schedule cosine"
FROM_SCRATCH = {
    "the original's recipe": (CROPS, CENTER, EUCLIDEAN),
    "ten crops": (CROPS, TEN_CROPS, EUCLIDEAN),
    "re-ranking": (CROPS, CENTER, f"{EUCLIDEAN} --rerank"),
    "query expansion": (CROPS, CENTER, f"{EUCLIDEAN} --query_expansion"),
    "random erasing": (f"{CROPS} --random_erasing 0.5", CENTER, EUCLIDEAN),
    "color jitter": (f"{CROPS} --color_jitter 0.2", CENTER, EUCLIDEAN),
    "pad and crop": ("--flip_augment --pad_crop 4", "", EUCLIDEAN),
    "warm-up": (f"{CROPS} --warmup_iterations 40", CENTER, EUCLIDEAN),
    "cosine schedule": (f"{CROPS} --lr_schedule cosine", CENTER, EUCLIDEAN),
    "late beta1": (f"{CROPS} --adam_beta1_decay", CENTER, EUCLIDEAN),
    "neck, cosine": (f"{CROPS} {NECK}", CENTER, "--metric cosine"),
    "neck, ID loss, cosine": (f"{CROPS} {NECK} --id_loss_weight 1", CENTER, "--metric cosine"),
    "averaged weights, 0.99": (f"{CROPS} --ema 0.99", CENTER, EUCLIDEAN),
    "averaged weights, 0.999": (f"{CROPS} --ema 0.999", CENTER, EUCLIDEAN),
    "constant rate": (
        f"{CROPS} --lr_schedule constant --ema 0.99",
        f"{CENTER} --weights raw",
        EUCLIDEAN,
    ),
    "constant rate, averaged weights, 0.99": (
        f"{CROPS} --lr_schedule constant --ema 0.99",
        CENTER,
        EUCLIDEAN,
    ),
    "a tenth of the pids held out": (HELD_OUT, CENTER, EUCLIDEAN),
    "the same, best checkpoint": (HELD_OUT, f"{CENTER} --checkpoint best", EUCLIDEAN),
    "center loss": (f"{CROPS} --center_loss_weight 5e-4", CENTER, EUCLIDEAN),
    "batch all without zeros, margin 0.2": (
        f"{CROPS} --loss batch_all --margin 0.2 --loss_ignore_zero",
        CENTER,
        EUCLIDEAN,
    ),
    "batch sample": (f"{CROPS} --loss batch_sample", CENTER, EUCLIDEAN),
    "lifted": (f"{CROPS} --loss lifted", CENTER, EUCLIDEAN),
    "multi-similarity, cosine": (f"{CROPS} --loss multi_similarity", CENTER, "--metric cosine"),
    "circle, cosine": (f"{CROPS} --loss circle", CENTER, "--metric cosine"),
    "cameras": (f"{CROPS} --cameras market1501", CENTER, EUCLIDEAN),
    # Whether what makes images harder helps a loss that does not look at the hardest only.
    "lifted, random erasing": (f"{CROPS} --loss lifted --random_erasing 0.5", CENTER, EUCLIDEAN),
    "lifted, color jitter": (f"{CROPS} --loss lifted --color_jitter 0.2", CENTER, EUCLIDEAN),
    "lifted, pad and crop": ("--flip_augment --loss lifted --pad_crop 4", "", EUCLIDEAN),
    "all that helped in training": (TOGETHER, CENTER, "--metric cosine"),
    "all that helped": (TOGETHER, TEN_CROPS, "--metric cosine --query_expansion --rerank"),
}

COSINE = "--metric cosine"
FC1024 = f"{CROPS} --head_name fc1024 --embedding_dim 128"
SCHEDULE = "--lr_schedule cosine --warmup_iterations 30"
BNNECK = f"{CROPS} {SCHEDULE} --head_name bnneck --embedding_dim 1280"
ID = f"{BNNECK} --id_loss_weight 1"
BASE = f"{ID} --margin 0.3"
OWN_PHOTOS = "--like own_photos"
MILD = "--id_scale 16 --id_margin 0.2"
NOT_TRAINED = (  # trainings have at least one iteration, so this one changes nothing
    "--head_name direct --embedding_dim 1280 --train_iterations 1 --decay_start_iteration 0 "
    f"{CROPS} --learning_rate 1e-30 --bn_frozen"
)
# Flags that are added to the base, one at a time.
ADDED = {
    "memory of 10 batches": "--memory_batches 10 --memory_start 60",
    "ArcFace 16, 0.2": f"--id_loss arcface {MILD}",
    "CosFace 16, 0.2": f"--id_loss cosface {MILD}",
    "ArcFace 16, 0.2, 3 centers": f"--id_loss arcface {MILD} --id_centers 3",
    "circle of identities 32": "--id_loss circle --id_scale 32",
    "proxy anchor": "--id_loss proxy_anchor",
    "ID loss alone": "--loss_weight 0",
    "no label smoothing": "--label_smoothing 0",
    "center loss": "--center_loss_weight 5e-4",
    "TrivialAugment": "--trivial_augment 0.5",
    "rotation": "--rotation 10",
    "random erasing": "--random_erasing 0.5",
    "color jitter": "--color_jitter 0.2",
    "averaged weights": "--ema 0.99",
    "l2": "--l2 5e-4",
    "layer decay": "--layer_decay 0.9",
    "new layers ten times as fast": "--lr_factors head=10",
    "decoupled decay": "--optimizer adamw --weight_decay 0.05",
    "frozen body first": "--freeze_body_iterations 50",
    "frozen batch norm": "--bn_frozen",
    "a third of the rate": "--learning_rate 1e-4",
}
PRETRAINED = {
    "no training: ImageNet's features": (NOT_TRAINED, CENTER, COSINE),
    "the original's recipe": (FC1024, CENTER, EUCLIDEAN),
    "cosine schedule, warm-up": (f"{FC1024} {SCHEDULE}", CENTER, EUCLIDEAN),
    "neck": (BNNECK, CENTER, COSINE),
    "neck, ID loss: the base": (BASE, CENTER, COSINE),
    "base, ten crops": (BASE, TEN_CROPS, COSINE),
    "base, re-ranking": (BASE, CENTER, f"{COSINE} --rerank"),
    "base, lifted": (f"{ID} --loss lifted --margin 1", CENTER, COSINE),
    "base, multi-similarity": (f"{ID} --loss multi_similarity", CENTER, COSINE),
    "base, circle": (f"{ID} --loss circle", CENTER, COSINE),
    "base, supcon": (f"{ID} --loss supcon", CENTER, COSINE),
    "the recipe for own photos": (OWN_PHOTOS, f"{CENTER} --checkpoint best", COSINE),
    "the recipe, ten crops, re-ranking": (
        OWN_PHOTOS,
        f"{TEN_CROPS} --checkpoint best",
        f"{COSINE} --rerank",
    ),
    **{f"base, {name}": (f"{BASE} {flags}", CENTER, COSINE) for name, flags in ADDED.items()},
    "base, random resized crop": (
        BASE.replace(CROPS, "--flip_augment --random_resized_crop 0.5"),
        "",
        COSINE,
    ),
}
# Those of the table of steps in docs/ladder.md, in its order.
STEPS = (
    "no training: ImageNet's features",
    "the original's recipe",
    "cosine schedule, warm-up",
    "neck",
    "neck, ID loss: the base",
    "base, ten crops",
    "base, re-ranking",
    "base, lifted",
    "base, multi-similarity",
    "base, circle",
    "base, supcon",
    "base, memory of 10 batches",
    "base, ArcFace 16, 0.2",
    "base, ArcFace 16, 0.2, 3 centers",
    "base, CosFace 16, 0.2",
    "base, circle of identities 32",
    "base, proxy anchor",
    "base, ID loss alone",
    "base, l2",
    "base, layer decay",
    "base, averaged weights",
    "base, TrivialAugment",
    "base, random erasing",
    "base, random resized crop",
    "base, frozen batch norm",
)


def parse_args(argv=None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--data",
        required=True,
        type=common.readable_directory,
        metavar="DIR",
        help="Directory that holds train.csv, query.csv and gallery.csv.",
    )
    common.add_flag(
        parser,
        "image_root",
        help="Directory that the file ids are relative to. Without this flag, it is --data.",
    )
    parser.add_argument(
        "--excluder",
        required=True,
        type=common.plugin_name("excluders"),
        metavar="NAME",
        help="Which gallery images are ignored for a query, as in evaluate.py.",
    )
    _add_training_flags(parser)
    parser.add_argument(
        "--seeds",
        type=common.positive_int,
        default=3,
        metavar="N",
        help="Number of trainings of each rung, with different seeds.",
    )
    rungs = parser.add_mutually_exclusive_group()
    rungs.add_argument(
        "--rungs",
        nargs="+",
        metavar="NAME",
        help="The rungs to climb. Without this flag and --steps, all.",
    )
    rungs.add_argument(
        "--steps",
        dest="rungs",
        action="store_const",
        const=STEPS,
        help="Climb the rungs of the table of steps in docs/ladder.md. Needs --initial_checkpoint.",
    )
    parser.add_argument(
        "--picture", metavar="FILE", help="Also draw the figures into this SVG or PNG file."
    )
    parser.add_argument(
        "--directory",
        default="ladder",
        metavar="DIR",
        help="Directory that keeps the results: one for each data set and set of flags.",
    )
    args = parser.parse_args(argv)
    if args.rungs is STEPS and not args.initial_checkpoint:
        parser.error(
            "--steps needs --initial_checkpoint: these rungs begin with pretrained weights."
        )
    return args


def _add_training_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--net_input_height",
        type=common.positive_int,
        default=64,
        metavar="PIXELS",
        help="Height of the network's input.",
    )
    parser.add_argument(
        "--net_input_width",
        type=common.positive_int,
        default=32,
        metavar="PIXELS",
        help="Width of the network's input.",
    )
    parser.add_argument(
        "--iterations",
        type=common.positive_int,
        default=400,
        metavar="N",
        help="Number of iterations of each training.",
    )
    parser.add_argument(
        "--initial_checkpoint",
        metavar="FILE",
        help="ImageNet weights of mobilenet_v2_torch. Without this flag, trainings are from scratch.",
    )
    parser.add_argument(
        "--held_out",
        action="store_true",
        help="Hold a quarter of the pids out of the training, and tell what a validation finds on them.",
    )
    parser.add_argument(
        "--with", dest="also", default="", metavar="FLAGS", help="Further flags for all trainings."
    )


def rungs_of(args: argparse.Namespace) -> dict[str, Rung]:
    """The rungs to climb, by name."""
    table = PRETRAINED if args.initial_checkpoint else FROM_SCRATCH
    rungs = {name: Rung(*flags) for name, flags in table.items()}
    if args.excluder == "diagonal":  # data that has no cameras cannot be drawn by them
        rungs.pop("cameras", None)
    if not args.rungs:
        return rungs
    unknown = [name for name in args.rungs if name not in rungs]
    if unknown:
        raise common.UserError(f"--rungs has {unknown[0]!r}. There are: {', '.join(rungs)}.")
    return {name: rungs[name] for name in args.rungs}


def training_flags(args: argparse.Namespace, rung: Rung, seed: int) -> list[str]:
    """The flags of train.py, but for the experiment's directory."""
    height, width = args.net_input_height, args.net_input_width
    words = ["--train_set", f"{args.data}/train.csv", "--image_root", args.image_root or args.data]
    if args.initial_checkpoint:
        words += ["--initial_checkpoint", args.initial_checkpoint]
    words += (
        f"--seed {seed} --net_input_height {height} --net_input_width {width} "
        f"--pre_crop_height {height * 9 // 8} --pre_crop_width {width * 9 // 8} "
        "--image_frequency 0 --histogram_frequency 0 --log_frequency 100 --checkpoint_frequency 0"
    ).split()
    own = [*rung.train.split(), *args.also.split()]
    if rung.train.startswith("--like"):  # a recipe says the rest
        return words + own
    words += (
        f"{MOBILENET if args.initial_checkpoint else LUNET} --batch_p 16 --batch_k 4 "
        f"--train_iterations {args.iterations} --decay_start_iteration {args.iterations // 2}"
    ).split()
    words += own
    if args.held_out:
        words += f"--val_pids 0.25 --val_frequency {args.iterations}".split()
        words += ["--val_excluder", args.excluder]
    return words


def embedding_flags(args: argparse.Namespace, rung: Rung) -> list[str]:
    """The flags of embed.py, but for the experiment's directory."""
    csvs = [f"{args.data}/{part}.csv" for part in PARTS]
    return ["--dataset", *csvs, *rung.embed.split()]


def evaluation_flags(args: argparse.Namespace, rung: Rung) -> list[str]:
    """The flags of evaluate.py, but for the files in the experiment's directory."""
    words = ["--excluder", args.excluder, *rung.evaluate.split()]
    for part in PARTS:
        words += [f"--{part}_dataset", f"{args.data}/{part}.csv"]
    return words


# ------------------------------------------------------------------------- what is finished


def origin(args: argparse.Namespace, rung: Rung, seed: int) -> dict[str, dict[str, str]]:
    """What the figures of a rung come from: the values of flags by their names, by command."""
    return {
        "ladder.py": by_name(["--data", args.data, "--excluder", args.excluder]),
        **training_origin(args, rung, seed),
        "embed.py": by_name(embedding_flags(args, rung)),
        "evaluate.py": by_name(evaluation_flags(args, rung)),
    }


def training_origin(args: argparse.Namespace, rung: Rung, seed: int) -> dict[str, dict[str, str]]:
    """The same for the training alone."""
    given = by_name(training_flags(args, rung, seed))
    if "--like" not in given:
        return {"train.py": given}
    # The recipe's flags as well: it may be edited.
    recipe = like.read(given["--like"], [name.removeprefix("--") for name in given]).flags
    values = {f"--{name}": str(value) for name, value in recipe.items()}
    return {"train.py": given, "the recipe": values}


def by_name(words: list[str]) -> dict[str, str]:
    """The values of flags by their names, with absolute paths. Of a flag that is there twice, the last."""
    values: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            values[name] = [value] if equals else []
        else:
            values[name].append(word)
    return {
        name: " ".join(_absolute(value) if name in PATHS else value for value in several)
        for name, several in values.items()
    }


def _absolute(path: str) -> str:
    """What --initial_checkpoint has for no path stays as it is."""
    if path == flags.OF_KERAS or path.startswith(flags.OF_HUB):
        return path
    return os.path.abspath(path)


def finished(path: Path, now: dict[str, dict[str, str]]) -> dict[str, float] | None:
    """The figures in the file of a rung and a seed; None if there is no file yet.

    Args:
        now: what figures of this call come from.

    Raises:
        UserError: those in the file come from something else, or it does not say from what.
    """
    try:
        stored = json_files.read(path)
        figures, before = stored["figures"], stored["origin"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise common.UserError(
            f"{path} does not say which flags its figures come from. Give another --directory."
        ) from None
    if before != now:
        raise common.UserError(
            f"{path} has figures of other flags: {_difference(before, now)}. Give another --directory."
        )
    return figures


def _difference(before: dict[str, dict[str, str]], now: dict[str, dict[str, str]]) -> str:
    """What differs in the first command that has other flags: the rest mostly follows from it."""
    command = next(each for each in {**now, **before} if before.get(each) != now.get(each))
    old, new = (
        {name: value or "given" for name, value in each.get(command, {}).items()}
        for each in (before, now)
    )
    return f"{command} " + ", ".join(
        f"{name} {old.get(name, 'not given')} (now {new.get(name, 'not given')})"
        for name in {**new, **old}
        if old.get(name) != new.get(name)
    )


# ------------------------------------------------------------------------- the climb


def climb(args: argparse.Namespace, rung: Rung, seed: int, root: Path) -> dict[str, float]:
    """Train, and look for the images of pids that were not trained on.

    Returns: mAP and top-1; with --held_out, first the mAP of the pids that are held out.
    """
    import_tensorflow()
    import keras

    import train

    words = training_flags(args, rung, seed)
    record, trained = root / "ladder.json", training_origin(args, rung, seed)
    # Some rungs differ in what comes after the training only.
    if not record.exists() or json_files.read(record) != trained:
        shutil.rmtree(root, ignore_errors=True)
        train.main(train.parse_args(["--experiment_root", str(root), *words]))
        files.write_json(record, trained)
    found = _evaluated(args, rung, root)
    keras.backend.clear_session()
    if "--val_pids" not in trained["train.py"]:
        return found
    return {HELD_OUT_MAP: validations.read(root, "mAP")[-1].value, **found}


def _evaluated(args: argparse.Namespace, rung: Rung, root: Path) -> dict[str, float]:
    import embed
    import evaluate

    words = ["--experiment_root", str(root), "--quiet", "--overwrite"]
    embed.main(embed.parse_args(words + embedding_flags(args, rung)))
    words = ["--filename", f"{root}/result.json"]
    for part in PARTS:
        words += [f"--{part}_embeddings", f"{root}/{part}_embeddings.h5"]
    evaluate.main(evaluate.parse_args(words + evaluation_flags(args, rung)))
    result = json_files.read(root / "result.json")
    return {"mAP": result["mAP"], "top-1": result["CMC"][0]}


def main(args: argparse.Namespace) -> None:
    directory = Path(args.directory)
    rungs = rungs_of(args)
    seeds = range(1, args.seeds + 1)
    paths = {
        (name, seed): directory / f"{name.replace(' ', '_')}-{seed}.json"
        for seed in seeds
        for name in rungs
    }
    origins = {(name, seed): origin(args, rungs[name], seed) for name, seed in paths}
    # All are looked at before the first training.
    done = {each: finished(path, origins[each]) for each, path in paths.items()}

    directory.mkdir(exist_ok=True)
    for (name, seed), path in paths.items():
        if done[name, seed] is None:
            figures = climb(args, rungs[name], seed, directory / "experiment")
            files.write_json(path, {"figures": figures, "origin": origins[name, seed]})
            done[name, seed] = figures

    table = {name: _percents([done[name, seed] for seed in seeds]) for name in rungs}
    tell(table)
    if args.picture:
        draw(table, args.picture)


# ------------------------------------------------------------------------- the table


def _percents(seeds: list[dict[str, float]]) -> dict[str, list[float]]:
    """The figures of all seeds, by name."""
    return {name: [100 * figures[name] for figures in seeds] for name in seeds[0]}


def _columns(table: dict[str, dict[str, list[float]]]) -> list[str]:
    """The figures that at least one rung has."""
    return [name for name in FIGURES if any(name in figures for figures in table.values())]


def tell(table: dict[str, dict[str, list[float]]]) -> None:
    """Print the mean and the range of each rung."""
    columns = _columns(table)
    print(f"{'':38}" + "".join(f"{column:>22}" for column in columns))
    for name, figures in table.items():
        cells = [_cell(figures[column]) if column in figures else "–" for column in columns]
        print(f"{name:38}" + "".join(f"{cell:>22}" for cell in cells))


def _cell(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def draw(table: dict[str, dict[str, list[float]]], path: str) -> None:
    """Draw each rung as a mean and the range of its seeds, one figure beside the other."""
    from matplotlib.figure import Figure

    names = list(table)
    columns = _columns(table)
    size = (3 + 3 * len(columns), 0.8 + 0.27 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True)
    for panel, column in zip(panels, columns, strict=True):
        for place, name in enumerate(names):
            if column not in table[name]:
                continue
            values = table[name][column]
            panel.plot([min(values), max(values)], [place, place], color="#9aa5b1", linewidth=3)
            panel.plot(statistics.mean(values), place, "o", color="#1f4e8c", markersize=5)
        panel.set_title(f"{column} in percent", fontsize=10)
        panel.set_yticks(range(len(names)), names, fontsize=9)
        panel.grid(axis="x", color="#e3e7eb")
        panel.set_axisbelow(True)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    panels[0].invert_yaxis()  # all, as they share it
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    common.run(main, parse_args)
