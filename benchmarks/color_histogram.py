"""Color histograms of images as embeddings: what there is without learning, to compare a network
with.

    python -m benchmarks.color_histogram --dataset query.csv --image_root market --filename query.h5

Colors are counted in six stripes, from head to foot, of the middle half of the image, where the
person is. The file holds `emb` float32 [N, 384] in the order of the CSV, as embed.py writes it. Its
euclidean distance is the Hellinger distance of the histograms, times a constant. `evaluate.py
--baseline color_histogram` evaluates them in one go.
"""

import argparse
import os

import common
from data import dataset
from evaluation import embeddings_file
from evaluation.baselines import color_histograms


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m benchmarks.color_histogram"
    common.add_flag(parser, "dataset")
    common.add_flag(parser, "image_root", required=True)
    common.add_flag(parser, "allow_any_path")
    parser.add_argument(
        "--filename",
        required=True,
        type=common.writeable_file,
        metavar="HDF5",
        help="File to write the embeddings to.",
    )
    args = parser.parse_args(argv)
    if os.path.exists(args.filename) and os.path.samefile(args.filename, args.dataset):
        parser.error(
            f"argument --filename: should not be the --dataset, which it would replace. Received: {args.filename}"
        )
    return args


def main(args: argparse.Namespace) -> None:
    images = dataset.load(args.dataset)
    dataset.check_images(args.dataset, args.image_root, images.fids, args.allow_any_path)
    embs = color_histograms(images.files(args.image_root))
    count, size = embs.shape
    origin = embeddings_file.Origin(image_root=args.image_root)
    with embeddings_file.create(args.filename, count, size, origin, images.fids) as file:
        file.add(embs)
    print(f"Wrote the color histograms, {count} of {size} numbers, to {args.filename}.")


if __name__ == "__main__":
    common.run(main, parse_args)
