"""Embed a data set with a trained experiment and write the embeddings to an HDF5 file.

    python embed.py --experiment_root exp --dataset query.csv
    python embed.py --experiment_root exp --dataset query.csv --flip_augment --crop_augment five --aggregator mean

The file holds `emb` float32 [N, D] in the order of the CSV and `augmentation_types`, byte strings [A]; with several
variants of each image also `emb_aug` float32 [A, N, D].
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

import aggregators
import common
import experiment
from common import UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    common.add_flag(parser, "experiment_root")
    parser.add_argument(
        "--dataset",
        required=True,
        type=common.readable_file,
        metavar="CSV",
        help="Lines of pid,fid without header: the images to embed.",
    )
    common.add_flag(
        parser,
        "image_root",
        help="Directory that the file ids of the CSV are relative to. That of the training when not given.",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="NAME",
        help="A checkpoint of the experiment, such as checkpoint-25000. The newest when not given.",
    )
    parser.add_argument(
        "--filename",
        metavar="HDF5",
        help="Where to write, relative to the experiment_root. <name of the dataset>_embeddings.h5 when not given.",
    )
    common.add_flag(parser, "batch_size", help="Images, their variants counted, that go through the network at a time.")
    common.add_flag(parser, "loading_threads")
    parser.add_argument("--flip_augment", action="store_true", help="Embed each image mirrored, too.")
    parser.add_argument(
        "--crop_augment",
        choices=("center", "avgpool", "five"),
        help="Resize to the pre_crop size of the training, and embed the crop of the net_input size at the center, or "
        "five of them, center and corners, or all of the image at once (avgpool). Without, resize to the net_input "
        "size.",
    )
    parser.add_argument(
        "--aggregator",
        choices=tuple(aggregators.AGGREGATORS),
        help="How the embeddings of the variants of an image become one. Needed with --flip_augment and with "
        "--crop_augment five, and only then.",
    )
    parser.add_argument("--quiet", action="store_true", help="No progress and no warnings on the terminal.")
    args = parser.parse_args(argv)

    several = args.flip_augment or args.crop_augment == "five"
    if several and args.aggregator is None:
        names = " or ".join(aggregators.AGGREGATORS)
        parser.error(f"argument --aggregator: needed with --flip_augment or --crop_augment five. Give {names}")
    if args.aggregator is not None and not several:
        parser.error(
            f"argument --aggregator: {args.aggregator} has nothing to aggregate without --flip_augment or "
            "--crop_augment five. Leave it out, or add one of them"
        )
    return args


def main(args: argparse.Namespace) -> None:
    # What can be wrong with flags and files is found here, before anything slow and before anything is written.
    trained, _ = experiment.read(args.experiment_root)
    image_root = args.image_root or trained.image_root
    if image_root is None:
        raise UserError(f"{args.experiment_root}/args.json names no image_root. Give one with --image_root.")
    _, fids = common.load_dataset(args.dataset)
    common.check_images(args.dataset, image_root, fids)
    default_name = f"{Path(args.dataset).stem}_embeddings.h5"
    filename = os.path.join(args.experiment_root, args.filename or default_name)
    try:
        common.writeable_file(filename)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--filename {error}.") from None

    tf = common.import_tensorflow()
    import h5py

    import checkpoints
    import model
    from data import images as image_data

    checkpoint = (
        checkpoints.find(args.experiment_root, args.checkpoint)
        if args.checkpoint
        else checkpoints.newest(args.experiment_root)
    )

    log = common.setup_logging("embed")
    if args.quiet:
        log.setLevel("ERROR")
    if bool(args.crop_augment) != trained.crop_augment:
        log.warning(
            f"--crop_augment is {args.crop_augment or 'not given'}, but the training was "
            f"{'with' if trained.crop_augment else 'without'} random crops: sizes of persons in the images differ."
        )

    # The network, for one size of images.
    net_size = trained.net_input_height, trained.net_input_width
    pre_crop_size = trained.pre_crop_height, trained.pre_crop_width
    size = pre_crop_size if args.crop_augment == "avgpool" else net_size
    network = model.build(trained.model_name, trained.head_name, trained.embedding_dim, (*size, 3))
    checkpoints.restore(checkpoint, checkpoints.named_variables(network))
    log.info(f"Embedding {len(fids)} images of {args.dataset} with {checkpoint}.")

    @tf.function(input_signature=[tf.TensorSpec([None, None, *size, 3], tf.float32)])
    def embed(images):
        """[n, A, H, W, 3] -> [A, n, D]"""
        shape = tf.shape(images)
        embs = network(tf.reshape(images, [-1, *size, 3]), training=False)["emb"]
        return tf.transpose(tf.reshape(embs, [shape[0], shape[1], -1]), [1, 0, 2])

    paths = [os.path.join(image_root, fid) for fid in fids]
    variants = net_size, pre_crop_size, args.flip_augment, args.crop_augment
    names = image_data.variant_names(args.flip_augment, args.crop_augment)
    aggregate = aggregators.AGGREGATORS[args.aggregator or "mean"]
    N, D, A = len(fids), trained.embedding_dim, len(names)

    progress = sys.stderr.isatty() and not args.quiet

    # The file appears under its name only when it is complete.
    partial, done = Path(f"{filename}.partial"), 0
    try:
        with (
            image_data.naming_bad_images(lambda: paths[done : done + args.batch_size]),
            h5py.File(partial, "w") as file,
        ):
            file["augmentation_types"] = np.array(names, dtype="S")
            emb = file.create_dataset("emb", (N, D), np.float32)
            emb_aug = file.create_dataset("emb_aug", (A, N, D), np.float32) if A > 1 else None
            for images in image_data.test_batches(paths, args.batch_size, args.loading_threads, *variants):
                embs = embed(images).numpy()
                rows = slice(done, done + embs.shape[1])
                emb[rows] = aggregate(embs)
                if emb_aug is not None:
                    emb_aug[:, rows] = embs
                done = rows.stop
                if progress:
                    print(
                        f"\rEmbedded {done} of {N} images", end="\n" if done == N else "", file=sys.stderr, flush=True
                    )
        os.replace(partial, filename)
    finally:
        partial.unlink(missing_ok=True)
    log.info(f"Wrote the embeddings, {N} of {D} numbers, to {filename}.")


if __name__ == "__main__":
    common.run(main, parse_args)
