"""Embed a data set with a trained experiment and write the embeddings to an HDF5 file.

    python embed.py --experiment_root exp --dataset query.csv
    python embed.py --experiment_root exp --dataset query.csv --flip_augment --crop_augment five
    --aggregator mean
    python embed.py --experiment_root exp --dataset query.csv --projector  # then: tensorboard
    --logdir exp

The file holds `emb` float32 [N, D] in the order of the CSV and `augmentation_types`, byte strings
[A]; with several variants of each image also `emb_aug` float32 [A, N, D]. Several devices or
workers share the images (--strategy); the chief writes the file.

From Python, for files or arrays:

    from embed import Embedder
    embs = Embedder("exp")(["a.jpg", "b.png"])
"""

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

import common
from common import UserError
from data import dataset
from evaluation import pooling
from experiment import args_json, flags
from reports import projector
from runtime import files, terminal
from runtime.cluster import Cluster, explain_lost_workers, find_cluster, make_strategy
from runtime.tensorflow import import_tensorflow


class Embedder:
    """The network of an experiment, from images to embeddings.

        embedder = Embedder("exp", crop_augment="center")
        embs = embedder(["a.jpg", "b.png"])  # float32 [2, D]

    Args:
        experiment_root: directory with args.json and checkpoints, of ours or of the original.
        checkpoint: name of one of them, such as checkpoint-25000; the newest when None.
        flip_augment, crop_augment, aggregator: as the flags of embed.py: which variants of each
            image are embedded, and how their embeddings become one. "mean" or "normalized_mean" are
            needed where there are several.
        batch_size: variants of images that go through the network at a time, on all devices
            together.
        loading_threads: files loaded in parallel; changes no result.
        workers: of the job, where it is made within the scope of a strategy for several; see
            distribution.py.
        architecture: model_name, head_name, embedding_dim, net_input_height and so on
            (experiment.flags.Architecture), for a checkpoint that came without args.json.

    Attributes:
        flags: those of the training. warnings: what a person should know about flags and
            architecture, lines.
        checkpoint: the path of the one in use. variant_names: of the A variants of each image, in
            their order.
        size: height and width of what the network takes. network: float32 [n, *size, 3] ->
            {"emb_raw", "emb"}.
        aggregate: [A, n, D] -> [n, D].

    Raises: common.UserError for an experiment or checkpoint that is missing, damaged, or does not
        fit.
    """

    def __init__(
        self,
        experiment_root: str | os.PathLike,
        checkpoint: str | None = None,
        *,
        flip_augment: bool = False,
        crop_augment: str | None = None,
        aggregator: str | None = None,
        batch_size: int = 256,
        loading_threads: int = 8,
        workers: Cluster = Cluster(),  # noqa: B008, it is a tuple
        **architecture,
    ):
        _check_aggregator(flip_augment, crop_augment, aggregator)
        self.flags = args_json.architecture(experiment_root, architecture)
        self.warnings: list[str] = []
        trained_with_crops = getattr(self.flags, "crop_augment", bool(crop_augment))
        if trained_with_crops != bool(crop_augment):
            self.warnings.append(
                f"--crop_augment is {crop_augment or 'not given'}, but the training was "
                f"{'with' if trained_with_crops else 'without'} random crops: sizes of persons in the images "
                "differ."
            )
        self.aggregate = pooling.AGGREGATORS[aggregator or "mean"]

        tf = import_tensorflow()
        from data import images as image_data
        from network import checkpoints, model
        from runtime import devices

        self.checkpoint = (
            checkpoints.find(experiment_root, checkpoint)
            if checkpoint
            else checkpoints.newest(experiment_root)
        )
        net_size = self.flags.net_input_height, self.flags.net_input_width
        pre_crop_size = self.flags.pre_crop_height, self.flags.pre_crop_width
        self.size = pre_crop_size if crop_augment == "avgpool" else net_size
        self.network = model.build(
            self.flags.model_name,
            self.flags.head_name,
            self.flags.embedding_dim,
            (*self.size, 3),
            self.flags.pooling,
            self.flags.last_stride,
        )
        variables = checkpoints.named_variables(self.network)
        try:
            checkpoints.restore(self.checkpoint, variables)
        except UserError as error:
            if self.size == net_size:
                raise
            raise UserError(
                f"{error} With --crop_augment avgpool images are {self.size[0]}×{self.size[1]}, not as in training: "
                "not every net takes them. The others are center and five."
            ) from None
        # The original built MobileNet's classifier, Logits, too, and never used it; ours has ended
        # with the training.
        others = [
            name
            for name, _ in tf.train.list_variables(str(self.checkpoint))
            if name not in variables
        ]
        others = [
            name
            for name in others
            if re.search("(?<!^classifier)/weights$", name) and "/Logits/" not in name
        ]
        if others:
            self.warnings.append(
                f"{self.checkpoint} holds weights that the model has no place for: {', '.join(others[:3])}. Is "
                f"--head_name {self.flags.head_name} that of its training?"
            )

        self.variant_names = image_data.variant_names(flip_augment, crop_augment)
        self._loading_threads = loading_threads
        self._resized = pre_crop_size if crop_augment else net_size
        self._variants = net_size, flip_augment, crop_augment
        strategy = tf.distribute.get_strategy()
        A, D, R = len(self.variant_names), self.flags.embedding_dim, strategy.num_replicas_in_sync
        local = R // workers.size
        self._replicas, self._own = R, range(workers.index * local, (workers.index + 1) * local)
        self._count = max(1, batch_size // (A * R)) * local  # images at a time on this worker

        @tf.function(input_signature=[tf.TensorSpec([None, *self._resized, 3], tf.float32)])
        def embed(images):
            """The resized images of this worker, [n / workers, H, W, 3] -> the embeddings of all,
            [A, n, D].
            """

            def replica(images):
                place = tf.distribute.get_replica_context().replica_id_in_sync_group
                with tf.device(
                    "CPU:0"
                ):  # a replica's own images go to its device, and not those of the others
                    images = images[place % local :: local]
                # Made here and not while loading, A times fewer numbers go to the device.
                variants = image_data.variants(images, *self._variants)
                embs = self.network(tf.reshape(variants, [-1, *self.size, 3]), training=False)[
                    "emb"
                ]
                return devices.gather(tf.reshape(embs, [-1, A, D]))

            embs = strategy.experimental_local_results(strategy.run(replica, args=(images,)))[0]
            # Replica r has the images r, r + R, r + 2 R and so on.
            return tf.reshape(
                tf.transpose(tf.reshape(embs, [R, -1, A, D]), [2, 1, 0, 3]), [A, -1, D]
            )

        self._embed = embed

    def variants(self, image):
        """What the network is given for an image: uint8 or float32 [H, W, 3] of any size -> float32
        [A, *size, 3].
        """
        from data import images as image_data

        return image_data.variants(image_data.resize(image, self._resized), *self._variants)

    def __call__(self, images: Sequence) -> np.ndarray:
        """The embeddings of N images, float32 [N, D].

        Args:
            images: paths of files, or RGB arrays [H, W, 3] of any sizes (also as one, [N, H, W,
                3]), uint8 or float in 0..255; all of one kind.

        Raises: common.UserError for a file that cannot be read, with its name, and for something of
            another shape.
        """
        parts = [self.aggregate(embs) for embs in self.batches(images)]
        return (
            np.concatenate(parts) if parts else np.zeros((0, self.flags.embedding_dim), np.float32)
        )

    def batches(self, images: Sequence) -> Iterator[np.ndarray]:
        """The same by parts and before aggregation, for more than fits into memory: float32 [A, n,
        D] each.

        Of several workers each has to call this, with the same images, and is given all embeddings.
        """
        if isinstance(images, str | os.PathLike):
            raise UserError(
                f"images should be a list of files or of arrays. Received one: {images}. Put it into a list."
            )
        N, done, computing = len(images), 0, None
        # Replicas take turns. The last image is there more than once where they would not have
        # equally many.
        turns = [*range(N), *[N - 1] * (-N % self._replicas)]
        for batch in self._loaded(
            [images[i] for place, i in enumerate(turns) if place % self._replicas in self._own]
        ):
            embs, computing = computing, self._embed(batch)
            if (
                embs is not None
            ):  # an accelerator has the next batch to do while these are fetched and written
                yield embs.numpy()
                done += embs.shape[1]
        if computing is not None:
            yield computing.numpy()[:, : N - done]

    def _loaded(self, images: Sequence) -> Iterator:
        """Files or arrays, resized and in batches: float32 [n, H, W, 3] each."""
        from data import images as image_data

        if images and all(isinstance(image, str | os.PathLike) for image in images):
            paths, begun = [os.fspath(image) for image in images], 0
            with image_data.naming_bad_images(lambda: paths[begun : begun + self._count]):
                for batch in image_data.test_batches(
                    paths, self._count, self._loading_threads, self._resized
                ):
                    begun += batch.shape[0]
                    yield batch
        else:
            for start in range(0, len(images), self._count):
                part = [_checked(image) for image in images[start : start + self._count]]
                yield np.stack([image_data.resize(image, self._resized) for image in part])


def _checked(image) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype.kind not in "uif":
        raise UserError(
            "an image should be the path of a file or an RGB array [H, W, 3] of numbers in 0..255. Received: "
            f"{image.dtype} {list(image.shape)}. Mind that several are embedded at once: [image], not image."
        )
    return image if image.dtype == np.uint8 else image.astype(np.float32)


def _check_aggregator(flip_augment: bool, crop_augment: str | None, aggregator: str | None) -> None:
    """Raises: UserError unless an aggregator is given exactly when there are several variants."""
    several = flip_augment or crop_augment == "five"
    if several and aggregator is None:
        raise UserError(
            "argument --aggregator: needed with --flip_augment or --crop_augment five. Give "
            f"{' or '.join(pooling.AGGREGATORS)}"
        )
    if aggregator is not None and not several:
        raise UserError(
            f"argument --aggregator: {aggregator} has nothing to aggregate without --flip_augment or --crop_augment "
            "five. Leave it out, or add one of them"
        )


def add_experiment_flags(parser: argparse.ArgumentParser) -> None:
    """Which experiment, which checkpoint of it, and the flags for one without args.json."""
    group = parser.add_argument_group("experiment")
    common.add_flag(group, "experiment_root")
    group.add_argument(
        "--checkpoint",
        metavar="NAME",
        help="A checkpoint of the experiment, such as checkpoint-25000. The newest when not given.",
    )
    group = flags.add_architecture_flags(parser)
    assumed = (f"--{row.name} {row.default}" for row in flags.rows(flags.Architecture))
    group.description = (
        "The experiment's args.json tells these. For a checkpoint that came without it, give at least one of them; of "
        f"the others is assumed: {', '.join(assumed)}."
    )


def architecture_flags(args: argparse.Namespace) -> dict:
    """Those of experiment.flags.Architecture that were given."""
    names = {row.name for row in flags.rows(flags.Architecture)}
    return {name: value for name, value in vars(args).items() if name in names}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    add_experiment_flags(parser)
    group = parser.add_argument_group("data")
    common.add_flag(group, "dataset")
    common.add_flag(
        group,
        "image_root",
        help="Directory that the file ids of the CSV are relative to. That of the training when not given.",
    )
    common.add_flag(group, "allow_any_path")
    group.add_argument(
        "--filename",
        metavar="HDF5",
        help="Where to write, relative to the experiment_root. <name of the dataset>_embeddings.h5 when not given.",
    )
    group.add_argument(
        "--projector",
        action="store_true",
        help=f"Also prepare TensorBoard's projector, with the images: the first {projector.MOST_IMAGES} of them, where "
        "there are more.",
    )
    group = parser.add_argument_group("devices")
    common.add_flag(
        group,
        "batch_size",
        help="Images, their variants counted, that go through the network at a time, on all devices together.",
    )
    common.add_flag(group, "loading_threads")
    common.add_flag(group, "strategy")
    group = parser.add_argument_group("views of an image")
    group.add_argument(
        "--flip_augment", action="store_true", help="Embed each image mirrored, too."
    )
    group.add_argument(
        "--crop_augment",
        choices=("center", "avgpool", "five"),
        help="Resize to the pre_crop size of the training, and embed the crop of the net_input size at the center, or "
        "five of them, center and corners, or all of the image at once (avgpool). Without, resize to the net_input "
        "size.",
    )
    group.add_argument(
        "--aggregator",
        choices=tuple(pooling.AGGREGATORS),
        help="How the embeddings of the variants of an image become one. Needed with --flip_augment and with "
        "--crop_augment five, and only then.",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="No progress and no warnings on the terminal."
    )
    args = parser.parse_args(argv)
    try:
        _check_aggregator(args.flip_augment, args.crop_augment, args.aggregator)
    except UserError as error:
        parser.error(str(error))
    return args


def write(
    filename: str | os.PathLike, embedder: Embedder, paths: list[str], quiet: bool = True
) -> None:
    """Embed image files into an HDF5 file, see above. Rows are written as they come, so memory does
    not grow with N.

    quiet: without a live line on the terminal.
    """
    N, D, A, done = len(paths), embedder.flags.embedding_dim, len(embedder.variant_names), 0
    with (
        files.complete_file(filename) as partial,
        h5py.File(partial, "w", locking=False) as file,  # complete_file has the lock
        terminal.bar(N, "img", show=not quiet) as bar,
    ):
        file.attrs["checkpoint"] = os.path.abspath(embedder.checkpoint)
        file["augmentation_types"] = np.array(embedder.variant_names, dtype="S")
        emb = file.create_dataset("emb", (N, D), np.float32)
        emb_aug = file.create_dataset("emb_aug", (A, N, D), np.float32) if A > 1 else None
        for embs in embedder.batches(paths):
            rows = slice(done, done + embs.shape[1])
            emb[rows] = embedder.aggregate(embs)
            if emb_aug is not None:
                emb_aug[:, rows] = embs
            done = rows.stop
            bar.update(embs.shape[1])


def main(args: argparse.Namespace) -> None:
    # What can be wrong with flags and files is found here, before anything slow and before anything
    # is written.
    workers = find_cluster(args.strategy)
    architecture = architecture_flags(args)
    trained = args_json.architecture(args.experiment_root, architecture)
    image_root = args.image_root or getattr(trained, "image_root", None)
    if image_root is None:
        raise UserError(
            f"{args.experiment_root} has no args.json that names an image_root. Give --image_root."
        )
    pids, fids = dataset.load(args.dataset)
    try:
        dataset.check_images(args.dataset, image_root, fids, args.allow_any_path)
    except UserError as error:
        if args.image_root:
            raise
        raise UserError(
            f"{error} (--image_root is that of {args.experiment_root}/args.json; give another.)"
        ) from None
    default_name = f"{Path(args.dataset).stem}_embeddings.h5"
    filename = os.path.join(args.experiment_root, args.filename or default_name)
    try:
        common.writeable_file(filename)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--filename: {error}.") from None
    if os.path.exists(filename) and os.path.getsize(filename) and not h5py.is_hdf5(filename):
        raise UserError(
            f"--filename: should not be a file of another kind, which it would replace. Received: {filename}. Give "
            "another name, or take the file away."
        )
    if args.projector:
        projector.read_config(args.experiment_root)

    strategy = make_strategy(args.strategy)
    with explain_lost_workers(workers), strategy.scope():
        embedder = Embedder(
            args.experiment_root,
            args.checkpoint,
            flip_augment=args.flip_augment,
            crop_augment=args.crop_augment,
            aggregator=args.aggregator,
            batch_size=args.batch_size,
            loading_threads=args.loading_threads,
            workers=workers,
            **architecture,
        )
        paths = [os.path.join(image_root, fid) for fid in fids]
        if workers.is_chief:  # the chief tells and writes
            log = terminal.setup_logging("embed")
            if args.quiet:
                log.setLevel("ERROR")
            for warning in embedder.warnings:
                log.warning(warning)
            on = (
                f", on {strategy.num_replicas_in_sync} devices"
                if strategy.num_replicas_in_sync > 1
                else ""
            )
            log.info(
                f"Embedding {len(fids)} images of {args.dataset} with {embedder.checkpoint}{on}."
            )
            write(filename, embedder, paths, args.quiet)
            log.info(
                f"Wrote the embeddings, {len(fids)} of {trained.embedding_dim} numbers, to {filename}."
            )
            if args.projector:
                some, name = slice(projector.MOST_IMAGES), Path(filename).stem
                if len(fids) > some.stop:
                    log.warning(
                        f"The projector shows the first {some.stop} of the {len(fids)} images."
                    )
                with h5py.File(filename) as file:
                    projector.write(
                        args.experiment_root,
                        name,
                        file["emb"][some],
                        pids[some],
                        fids[some],
                        paths[some],
                    )
                log.info(
                    f"Wrote {name} for the projector: tensorboard --logdir {args.experiment_root}"
                )
        else:
            for _ in embedder.batches(paths):
                pass
        from runtime import devices

        devices.barrier(strategy, workers)  # until then nobody leaves


if __name__ == "__main__":
    common.run(main, parse_args)
