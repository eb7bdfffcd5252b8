"""From images to embeddings, by a network or by that of an experiment."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common import UserError, first_few
from data import cameras as image_cameras
from data import images as image_data
from data.augment import Views
from data.dataset import WHOLE, Box, ImageFiles
from evaluation import pooling
from experiment import args_json
from experiment.flags import Architecture, net_options
from network import checkpoints, layers, model
from runtime import devices
from runtime.terminal import log

Size = tuple[int, int]

# Files that are loaded one by one: making a pipeline takes as long as that.
_FEW = 8

# Resizing by a cubic or a Lanczos filter leaves 0..255 by so much, at most.
_OVERSHOOT = 64
# Images of which a mean was taken and a deviation divided out are below this.
_NORMALIZED = 10


class NetworkEmbedder:
    """Embeds images by a network.

    Made within the scope of a tf.distribute.Strategy, it works on all devices of that.

    Args:
        network: as of model.build, for images of input_size(flags, crop_augment). Each call takes
            the weights that it has then.
        flags: those of its training.
        flip_augment, crop_augment: which views of each image are embedded, as the flags of
            embed.py.
        aggregator: how the embeddings of several views become one, "mean" or "normalized_mean".
        batch_size: views of images that go through the network at a time, on all devices
            together.
        loading_threads: files loaded in parallel; changes no result.

    Attributes:
        flags: those of the training.
        view_names: of the A views of each image, in their order.
        size: height and width of what the network takes.
        at_least: the size that images are resized to, where large JPEGs are decoded smaller, else
            None; see data.decoding.reduction.
        network: float32 [n, *size, 3] -> {"emb_raw", "emb"}.
        aggregate: [A, n, D] -> [n, D].

    Raises:
        UserError: the aggregator does not fit the views.
    """

    def __init__(
        self,
        network: keras.Model,
        flags: Architecture,
        *,
        flip_augment: bool = False,
        crop_augment: str | None = None,
        aggregator: str | None = None,
        batch_size: int = 256,
        loading_threads: int = 8,
    ):
        pooling.check_aggregator(aggregator, flip_augment, crop_augment)
        self.network = network
        self.flags = flags
        self.aggregate = pooling.AGGREGATORS[aggregator or "mean"]
        self._views = Views(flags.net_size, flip_augment, crop_augment)
        self.view_names = self._views.names
        self._resized = flags.pre_crop_size if crop_augment else flags.net_size
        self.size = input_size(flags, crop_augment)
        self.at_least = self._resized if flags.reduced else None
        self._strategy = tf.distribute.get_strategy()
        self._turns = devices.turns(self._strategy)
        images_a_replica = max(1, batch_size // (len(self.view_names) * self._turns.replicas))
        self._images_at_a_time = images_a_replica * len(self._turns.own)
        self._loading_threads = loading_threads
        self._load_file = image_data.make_loader(self._resized, flags.upright, flags.reduced)
        self._load_encoded = image_data.make_decoder(self._resized, flags.upright, flags.reduced)
        self._embed = self._make_embed()

    def __call__(
        self, images: Sequence | ImageFiles, cameras: Sequence[str] | None = None
    ) -> np.ndarray:
        """Embed N images.

        Args:
            images: paths of files, also with boxes (data.dataset.ImageFiles), or RGB arrays [H, W,
                3] of any sizes (also as one, [N, H, W, 3]), uint8 or float in 0..255; all of one
                kind.
            cameras: of each image, for a network that was trained with --camera_embeddings. If None,
                they are read from the names of files, where --cameras tells how. What has another
                camera, or none, has the mean of the embeddings of all cameras.

        Returns:
            float32 [N, D].

        Raises:
            UserError: a file cannot be read or has not all of its box, and its name is given, or an
                array has another shape or another range; cameras are not one for each image, or the
                network takes none.
        """
        parts = [self.aggregate(embs) for embs in self.batches(images, cameras)]
        if not parts:
            return np.zeros((0, self.flags.embedding_dim), np.float32)
        return np.concatenate(parts)

    def batches(
        self, images: Sequence | ImageFiles, cameras: Sequence[str] | None = None
    ) -> Iterator[np.ndarray]:
        """Embed images part by part, for more than fits into memory.

        With several workers, each has to call this with the same images, and gets all embeddings.

        Args:
            images, cameras: as for a call.

        Yields:
            float32 [A, n, D], the embeddings of all views of the next n images.

        Raises:
            UserError: as a call does.
        """
        if isinstance(images, str | os.PathLike):
            raise UserError(
                f"images should be a list of files or of arrays. Received one: {images}. Put it into a list."
            )
        numbers = self._camera_numbers(images, cameras)
        left = len(images)
        own = self._turns.of_worker(len(images))
        previous = None
        start = 0
        for batch in self._load(_selected(images, own)):
            end = start + len(batch)
            current = self._embed(batch, numbers[own[start:end]])
            start = end
            if previous is not None:
                # An accelerator computes the current ones while these are fetched and written.
                yield previous.numpy()
                left -= previous.shape[1]
            previous = current
        if previous is not None:
            yield previous.numpy()[:, :left]

    def load(self, encoded: bytes, box: Box = WHOLE) -> np.ndarray:
        """The bytes of an image file as embed_loaded takes them; threads may call it.

        Args:
            box: the part of the file that is meant, as of data.dataset.Dataset.

        Returns:
            float32 [H, W, 3], resized.

        Raises:
            tf.errors.OpError or ValueError for what cannot be decoded; data.decoding.fault says why.
        """
        return self._load_encoded(tf.constant(encoded), tf.constant(box)).numpy()

    def embed_loaded(self, images: np.ndarray) -> np.ndarray:
        """Embed images of `load`, at one time, on one worker: float32 [n, H, W, 3] -> [n, D].

        Their cameras are not known.
        """
        cameras = np.full(len(images), -1, np.int32)
        return self.aggregate(self._embed(images, cameras).numpy())[: len(images)]

    def views(self, image) -> tf.Tensor:
        """What the network is given for an image.

        Args:
            image: uint8 or float32 [H, W, 3], of any size.

        Returns:
            float32 [A, *size, 3].
        """
        return self._views.take(image_data.resize(image, self._resized))

    def _make_embed(self):
        """Make the function from this worker's images to the embeddings of all workers'.

        It takes float32 [n, H, W, 3], resized, and the number of each image's camera, int32 [n], and
        returns float32 [A, workers · n, D].
        """
        pixels = tf.TensorSpec([None, *self._resized, 3], tf.float32)

        @tf.function(input_signature=[pixels, tf.TensorSpec([None], tf.int32)], autograph=False)
        def embed(images, cameras):
            embs = self._strategy.run(self._embed_on_replica, args=(images, cameras))
            return self._strategy.experimental_local_results(embs)[0]

        return embed

    def _embed_on_replica(self, images, cameras):
        with tf.device("CPU:0"):  # no images of other replicas go to its device
            images = self._turns.of_replica(images)
            cameras = self._turns.of_replica(cameras)
        # Here and not while loading: the device is sent A times fewer numbers.
        views = self._views.take(images)
        with layers.seen_by(tf.repeat(cameras, len(self.view_names))):
            embs = self.network(tf.reshape(views, [-1, *self.size, 3]), training=False)["emb"]
        embs = tf.reshape(embs, [-1, len(self.view_names), self.flags.embedding_dim])
        return tf.transpose(self._turns.gather(embs), [1, 0, 2])

    def _camera_numbers(
        self, images: Sequence | ImageFiles, cameras: Sequence[str] | None
    ) -> np.ndarray:
        """The number of each image's camera, -1 where it has no embedding: int32 [N]."""
        known = self.flags.camera_numbers
        N = len(images)
        if cameras is not None and not known:
            raise UserError(
                "cameras were given, and the network takes none: its training had no --camera_embeddings. Leave them "
                "out."
            )
        if cameras is not None and len(cameras) != N:
            raise UserError(
                f"cameras should be one for each of the {N} images. Received: {len(cameras)}."
            )
        if not known:
            return np.full(N, -1, np.int32)
        if cameras is None:
            cameras = self._cameras_of(images)
        numbers = image_cameras.numbers(cameras, known)
        others = sorted({name for name in cameras if name not in known})
        if others:
            _warn_about_cameras(int(np.sum(numbers < 0)), N, tuple(others))
        return numbers

    def _cameras_of(self, images: Sequence | ImageFiles) -> Sequence[str]:
        """The cameras that files tell; "" for those that tell none, and for arrays."""
        if isinstance(images, ImageFiles):
            if images.cameras is not None:
                return images.cameras
            return image_cameras.cameras_in(images.paths, self.flags.camera_rule)
        if _are_paths(images):
            names = [os.fspath(path) for path in images]
            return image_cameras.cameras_in(names, self.flags.camera_rule)
        return [""] * len(images)

    def _load(self, images: Sequence | ImageFiles) -> Iterator:
        """Resize files or arrays, in batches: float32 [n, H, W, 3] each."""
        if isinstance(images, ImageFiles):
            return self._load_files(images)
        if _are_paths(images):
            return self._load_files(ImageFiles([os.fspath(path) for path in images]))
        return self._resize_arrays(images)

    def _load_files(self, files: ImageFiles) -> Iterator[tf.Tensor]:
        """Resize files, turned or not as in the training, whatever they are said to be."""
        files = dataclasses.replace(files, upright=self.flags.upright)
        if len(files) > _FEW:
            return image_data.test_batches(
                files,
                self._images_at_a_time,
                self._loading_threads,
                self._resized,
                self.flags.reduced,
            )
        images = image_data.load_few(files, self._load_file)
        return (tf.stack(batch) for batch in self._parts(images))

    def _resize_arrays(self, arrays: Sequence) -> Iterator[np.ndarray]:
        for batch in self._parts(arrays):
            yield np.stack([image_data.resize(_checked(each), self._resized) for each in batch])

    def _parts(self, images: Sequence) -> Iterator[Sequence]:
        """As many images as go through the network at a time, and so on."""
        for start in range(0, len(images), self._images_at_a_time):
            yield images[start : start + self._images_at_a_time]


class Embedder(NetworkEmbedder):
    """Embeds images by the network of an experiment.

        embedder = Embedder("exp", crop_augment="center")
        embs = embedder(["a.jpg", "b.png"])  # float32 [2, D]

    Args:
        experiment_root: directory with args.json and checkpoints, of ours or of the original.
        checkpoint: name of one of them, such as checkpoint-25000, or best; the newest if None.
        weights: which of its weights, "averaged" or "raw"; the average if None, where there is one.
        flip_augment, crop_augment, aggregator, batch_size, loading_threads: as of NetworkEmbedder.
        architecture: model_name, head_name, embedding_dim, net_input_height and so on
            (experiment.flags.Architecture), for a checkpoint that came without args.json.

    Attributes:
        checkpoint: the path of the one in use.
        weights: which of its weights, "averaged" or "raw"; None where it has no average. The others
            are those of NetworkEmbedder.

    Raises:
        UserError: experiment or checkpoint are missing, damaged or do not fit.
    """

    def __init__(  # noqa: PLR0913, flags of embed.py, by their names
        self,
        experiment_root: str | os.PathLike,
        checkpoint: str | None = None,
        *,
        weights: str | None = None,
        flip_augment: bool = False,
        crop_augment: str | None = None,
        aggregator: str | None = None,
        batch_size: int = 256,
        loading_threads: int = 8,
        **architecture,
    ):
        pooling.check_aggregator(aggregator, flip_augment, crop_augment)
        flags = args_json.architecture(experiment_root, architecture)
        _warn_about_other_crops(flags, crop_augment)
        _warn_about_flips(flags, flip_augment)
        restored, network = load(
            experiment_root,
            flags,
            checkpoint=checkpoint,
            weights=weights,
            size=input_size(flags, crop_augment),
        )
        self.checkpoint = restored.path
        self.weights = restored.weights
        super().__init__(
            network,
            flags,
            flip_augment=flip_augment,
            crop_augment=crop_augment,
            aggregator=aggregator,
            batch_size=batch_size,
            loading_threads=loading_threads,
        )

    @property
    def source(self) -> str:
        """Checkpoint and weights in words."""
        which = f" ({self.weights} weights)" if self.weights else ""
        return f"{self.checkpoint}{which}"


def _are_paths(images: Sequence) -> bool:
    return bool(len(images)) and all(isinstance(image, str | os.PathLike) for image in images)


@functools.cache
def _warn_about_cameras(count: int, total: int, names: tuple[str, ...]) -> None:
    told = [name or "none" for name in names]
    log.warning(
        f"{count} of {total} images are of cameras that the network was not trained with: {first_few(told)}. They are "
        "embedded as of the mean of all cameras (--camera_embeddings)."
    )


def _selected(images: Sequence | ImageFiles, rows: Sequence[int]) -> Sequence | ImageFiles:
    if isinstance(images, ImageFiles):
        return images.select(rows)
    return [images[row] for row in rows]


def input_size(flags: Architecture, crop_augment: str | None) -> Size:
    """Height and width of what the network takes. crop_augment: as the flag of embed.py."""
    return flags.pre_crop_size if crop_augment == "avgpool" else flags.net_size


def load(
    experiment_root: str | os.PathLike,
    flags: Architecture,
    checkpoint: str | None = None,
    weights: str | None = None,
    size: Size | None = None,
) -> tuple[checkpoints.Restored, keras.Model]:
    """Build the network of an experiment and restore one of its checkpoints.

    Args:
        flags: as from args_json.architecture.
        checkpoint: name of one; the newest if None.
        weights: as of Embedder.
        size: height and width of the images; those of the training if None.

    Returns:
        The checkpoint, and the network, see model.build.

    Raises:
        UserError: the checkpoint is missing, damaged or does not fit.
    """
    size = size or flags.net_size
    checkpoints.find(experiment_root, checkpoint)  # what is missing is told before the slow part
    network = model.build(
        flags.model_name,
        flags.head_name,
        flags.embedding_dim,
        (*size, 3),
        net_options(flags),
    )
    variables = checkpoints.named_variables(network)
    try:
        restored = checkpoints.restore_network(experiment_root, checkpoint, variables, weights)
    except UserError as error:
        if size == flags.net_size:
            raise
        raise UserError(
            f"{error} With --crop_augment avgpool images are {size[0]}×{size[1]}, not as in training: not every net "
            "takes them. The others are center and five."
        ) from None
    unused = sorted(set(restored.names).difference(variables))
    _check_cameras(restored.path, unused)
    _warn_about_unused_weights(restored.path, unused, flags.head_name)
    return restored, network


def _check_cameras(checkpoint: Path, unused: Sequence[str]) -> None:
    if any(name.endswith(f"/{layers.CAMERA_EMBEDDINGS}") for name in unused):
        raise UserError(
            f"{checkpoint} has embeddings of cameras, and no args.json tells which and what they are multiplied by. "
            "Copy the args.json of its training beside it."
        )


def _warn_about_other_crops(flags: Architecture, crop_augment: str | None) -> None:
    """Crops should be embedded exactly if there were some in the training."""
    given = bool(crop_augment)
    trained = getattr(flags, "crop_augment", given)  # unknown without args.json
    if trained != given:
        log.warning(
            f"--crop_augment is {crop_augment or 'not given'}, but the training was "
            f"{'with' if trained else 'without'} random crops: sizes of persons in the images differ."
        )


def _warn_about_flips(flags: Architecture, flip_augment: bool) -> None:
    if flip_augment and getattr(flags, "flip_makes_new_pid", False):
        log.warning(
            "--flip_augment embeds mirrored images, too, which the training took for other identities "
            "(--flip_makes_new_pid). Leave it out."
        )


def _warn_about_unused_weights(checkpoint: Path, names: Sequence[str], head_name: str) -> None:
    unused = []
    for name in names:
        # The original built the classifier of MobileNet, Logits, too, and never used it. Our
        # classifier has done its work when the training ends.
        known = "/Logits/" in name or name == "classifier/weights"
        if name.endswith("/weights") and not known:
            unused.append(name)
    if unused:
        log.warning(
            f"{checkpoint} holds weights that the model has no place for: {first_few(unused)}. Is --head_name "
            f"{head_name} that of its training?"
        )


def _checked(image) -> np.ndarray:
    """An RGB image as uint8 or float32 [H, W, 3].

    Raises:
        UserError for other shapes and types, and for numbers of another range than 0..255.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype.kind not in "buif":
        raise UserError(
            "an image should be the path of a file or an RGB array [H, W, 3] of numbers in 0..255. Received: "
            f"{image.dtype} {list(image.shape)}. Mind that several are embedded at once: [image], not image."
        )
    if image.dtype == np.uint8:
        return image
    problem = _problem_of_range(image)
    if problem:
        raise UserError(
            f"an image should be an RGB array of numbers in 0..255, as a file is decoded. Received: {image.dtype} of "
            f"{image.min():.6g} to {image.max():.6g}, {problem}"
        )
    if image.dtype.kind == "f" and not image.any():
        _warn_about_black()
    return image.astype(np.float32)


def _problem_of_range(image: np.ndarray) -> str | None:
    """What numbers of another range are probably, and what helps; None for 0..255."""
    if image.dtype.kind == "b":
        return "a mask: multiply it by 255 if it is meant as an image."
    low = float(image.min())
    high = float(image.max())
    if not np.isfinite([low, high]).all():
        return "numbers that are not finite: look where they come from."
    if image.dtype.kind == "f" and low >= 0 and 0 < high <= 1:
        return "the scale 0..1: multiply by 255."
    if low < -_OVERSHOOT or (low < 0 and (high <= _NORMALIZED or image.dtype.kind == "i")):
        return "normalized numbers: leave that out, the network normalizes images itself."
    if high > 255 + _OVERSHOOT or (high > 255 and image.dtype.kind in "ui"):
        return "more than 8 bits hold: bring it to 0..255, 16 bits by dividing by 257."
    return None


@functools.cache
def _warn_about_black() -> None:
    log.warning(
        "An image given as float numbers is all 0, black. Images should be RGB arrays of numbers in 0..255. More of "
        "such are not told."
    )
