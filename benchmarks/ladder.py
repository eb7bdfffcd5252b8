r"""What each trick is worth: trainings on real images, with several seeds.

    python -m benchmarks.ladder --data FOLDER --image_root FOLDER/images --excluder diagonal \
        --net_input_height 48 --net_input_width 48
    python -m benchmarks.ladder --data demo/data --excluder market1501 \
        --net_input_height 64 --net_input_width 32

The net is a narrow LuNet, from scratch, which has no last stride and no pooling to choose.

FOLDER holds train.csv, query.csv and gallery.csv. What is finished stands in --directory and is not
done again, so the ladder can be interrupted. Prints mAP and top-1 in percent: the mean over the
seeds (lowest-highest).
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path

import common
from runtime import files
from runtime.tensorflow import import_tensorflow

# name: flags of train.py, of embed.py, of evaluate.py
CROPS = "--crop_augment --flip_augment"
CENTER, EUCLIDEAN = "--crop_augment center", "--metric euclidean"
TEN_CROPS = "--crop_augment five --flip_augment --aggregator mean"
HELD_OUT = f"{CROPS} --val_pids 0.1 --val_frequency 50"
NECK = "--head_name bnneck"
TOGETHER = f"{CROPS} {NECK} --id_loss_weight 1 --loss lifted --lr_schedule cosine"
RUNGS = {
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
        "--seeds",
        type=common.positive_int,
        default=3,
        metavar="N",
        help="Number of trainings of each rung, with different seeds.",
    )
    parser.add_argument(
        "--rungs",
        nargs="+",
        choices=RUNGS,
        metavar="NAME",
        help=f"The rungs to climb. Without this flag, all: {', '.join(RUNGS)}.",
    )
    parser.add_argument(
        "--with", dest="also", default="", metavar="FLAGS", help="Further flags for all trainings."
    )
    parser.add_argument(
        "--directory", default="ladder", metavar="DIR", help="Directory that keeps the results."
    )
    return parser.parse_args(argv)


def climb(args: argparse.Namespace, rung: str, seed: int, root: Path) -> dict:
    """Train, embed and evaluate. Returns: what evaluate.py wrote."""
    import_tensorflow()
    import keras

    import embed
    import evaluate
    import train

    training, embedding, evaluation = RUNGS[rung]
    height, width = args.net_input_height, args.net_input_width
    flags = (
        f"--train_set {args.data}/train.csv --image_root {args.image_root or args.data} --seed {seed} "
        "--model_name lunet_narrow --head_name direct --embedding_dim 128 --batch_p 16 --batch_k 4 "
        f"--net_input_height {height} --net_input_width {width} --pre_crop_height {height * 9 // 8} "
        f"--pre_crop_width {width * 9 // 8} --learning_rate 1e-3 --train_iterations {args.iterations} "
        f"--decay_start_iteration {args.iterations // 2} --image_frequency 0 --histogram_frequency 0 "
        f"--log_frequency 100 --checkpoint_frequency 0 {training} {args.also}"
    )
    # Some rungs differ in what comes after the training only.
    if not (root / "flags").exists() or (root / "flags").read_text() != flags:
        shutil.rmtree(root, ignore_errors=True)
        train.main(train.parse_args(f"--experiment_root {root} {flags}".split()))
        (root / "flags").write_text(flags)
    for part in ("query", "gallery"):
        flags = f"--experiment_root {root} --dataset {args.data}/{part}.csv --quiet --overwrite {embedding}"
        embed.main(embed.parse_args(flags.split()))
    flags = [f"--{part}_dataset {args.data}/{part}.csv" for part in ("query", "gallery")]
    flags += [f"--{part}_embeddings {root}/{part}_embeddings.h5" for part in ("query", "gallery")]
    flags += [f"--excluder {args.excluder} --filename {root}/result.json {evaluation}"]
    evaluate.main(evaluate.parse_args(" ".join(flags).split()))
    keras.backend.clear_session()
    return json.loads((root / "result.json").read_text())


def main(args: argparse.Namespace) -> None:
    directory = Path(args.directory)
    directory.mkdir(exist_ok=True)
    # Data that has no cameras cannot be drawn by them.
    rungs = args.rungs or [
        rung for rung in RUNGS if rung != "cameras" or args.excluder != "diagonal"
    ]
    for seed in range(1, args.seeds + 1):
        for rung in rungs:
            done = directory / f"{rung.replace(' ', '_')}-{seed}.json"
            if not done.exists():
                result = climb(args, rung, seed, directory / "experiment")
                files.write_json(done, {"mAP": result["mAP"], "top-1": result["CMC"][0]})
    print(f"{'':38}{'mAP':>20}{'top-1':>20}")
    for rung in rungs:
        results = [
            json.loads((directory / f"{rung.replace(' ', '_')}-{seed}.json").read_text())
            for seed in range(1, args.seeds + 1)
        ]
        cells = ""
        for name in ("mAP", "top-1"):
            values = [100 * result[name] for result in results]
            cells += f"{statistics.mean(values):8.1f} ({min(values):.1f}-{max(values):.1f})"
        print(f"{rung:38}{cells}")


if __name__ == "__main__":
    common.run(main, parse_args)
