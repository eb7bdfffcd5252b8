"""The batches of a training: rows of the data set -> images on the devices."""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from common import first_few
from data import augment, cameras, patience, pictures, resized, samplers
from data import images as image_data
from data.augment import Augmentation
from data.dataset import Dataset, ImageFiles, labels_of, with_mirrored
from data.images import Loading
from data.resized import Stored
from experiment.flags import Settings, known
from runtime import devices
from runtime.cluster import Cluster
from runtime.terminal import log
from uninterrupt import Uninterrupt


class Batch(NamedTuple):
    """The images of one iteration."""

    images: Any  # float32 [B, H, W, 3], or parts of it on several devices
    rows: np.ndarray  # of the data set, int64 [B]
    began: float  # when the iteration began, time.perf_counter() in seconds
    waited: float  # how long it took to have the images, in seconds


class Batches:
    """All batches of a training, each a pure function of (seed, iteration).

    Attributes:
        dataset: what is trained on, without images that --on_bad_image skip leaves out, and with the
            mirrored copies of --flip_makes_new_pid.
        files: where their pixels are.
        names: what they are called, str [N].
        labels: their pids as numbers from 0 on, int64 [N].
        pid_images: how many images each of these pids has, int64.
        sampler: which rows make each batch.
    """

    def __init__(self, dataset: Dataset, settings: Settings, strategy, cluster: Cluster):
        """Raises: UserError for too few pids, a batch that devices cannot share, a bad image."""
        dataset = dataclasses.replace(dataset, upright=settings.upright)
        if settings.on_bad_image == "skip":
            root = known(settings.image_root)
            dataset = without_bad_images(dataset, root, settings.loading_threads)
        pictures.check_sample(dataset.files(known(settings.image_root)))
        if settings.flip_makes_new_pid:
            dataset = with_mirrored(dataset)
        self.dataset = dataset
        self.files = dataset.files(known(settings.image_root))
        self.names = dataset.names()
        self.labels = labels_of(dataset.pids)
        self._settings = settings
        self._strategy = strategy
        self.pid_images = np.bincount(self.labels)
        names = cameras.cameras_of(dataset, settings.cameras)
        self._cameras = None
        if settings.camera_rule:
            self._cameras = cameras.numbers(known(names), settings.camera_numbers)
        self.sampler = samplers.make(
            dataset,
            settings.batch_plan,
            known(settings.seed),
            names,
        )
        self._shards = _shards(settings, strategy, cluster)
        self._augmentation = Augmentation(
            settings.net_size,
            settings.pre_crop_size if settings.crop_augment else None,
            settings.flip_augment,
            settings.pad_crop,
            settings.color_jitter,
            settings.random_erasing,
            least_area=settings.random_resized_crop,
            aspect=settings.crop_aspect,
            rotation=settings.rotation,
            trivial_augment=settings.trivial_augment,
            gray=settings.gray,
            blur=settings.blur,
        )
        self._on_accelerator = image_data.on_accelerator()
        self._stored = None
        if settings.cache == "resized":
            self._stored = resized.reader(
                Stored(self.files, self._augmentation.resized, settings.reduced),
                known(settings.cache_dir),
                settings.loading_threads,
                show=cluster.is_chief,
            )

    def starting_at(self, iteration: int, interrupt: Uninterrupt | None = None) -> Iterator[Batch]:
        """The batches of iteration `iteration` (counted from 0) and of those that follow.

        An image that cannot be read for the moment is waited for; see data/patience.py.

        Args:
            interrupt: ends such waiting.

        Raises:
            pictures.UnreadableError for an image that cannot be read or decoded, with its name.
        """
        numbers = range(iteration, self._settings.train_iterations)

        def stop():
            return interrupt is not None and interrupt.interrupted

        loaded = patience.resumed(self._loaded_from, numbers, self._files_of, stop)
        for _ in numbers:
            began = time.perf_counter()
            images, rows = next(loaded)
            yield Batch(images, rows, began, waited=time.perf_counter() - began)

    def _loaded_from(self, iteration: int) -> Iterator[tuple[Any, np.ndarray]]:
        """The images on the devices, and the rows of the data set, of each batch."""
        load = functools.partial(self._load, iteration)
        loader = iter(self._strategy.distribute_datasets_from_function(load))
        finish = self._make_finish(loader.element_spec[0])
        for images, rows in loader:
            of_all = self._strategy.experimental_local_results(rows)[0].numpy()
            yield finish(images), of_all

    def images_of_first_device(self, batch: Batch) -> np.ndarray:
        """Those of this worker's first replica, float32 [b, H, W, 3]."""
        return self._strategy.experimental_local_results(batch.images)[0].numpy()

    def cameras_of(self, batch: Batch) -> tf.Tensor | None:
        """The camera of each image, by settings.camera_numbers: int32 [B]. None: the network is told none."""
        return None if self._cameras is None else tf.constant(self._cameras[batch.rows])

    def _load(self, iteration: int, _context=None) -> tf.data.Dataset:
        settings = self._settings
        rows = self.sampler.batches(iteration, settings.train_iterations)
        loading = Loading(
            settings.loading_threads,
            settings.cache,
            finished=not self._on_accelerator,
            reduced=settings.reduced,
            stored=self._stored,
        )
        return image_data.training_batches(
            enumerate(rows, iteration),
            settings.images_per_batch,
            self.files,
            known(settings.seed),
            self._augmentation,
            loading,
            self._shards,
        )

    def _make_finish(self, spec):
        """The part of loading that an accelerator does, where there is one."""
        if not self._on_accelerator:
            return lambda images: images
        finish = functools.partial(augment.finish, augmentation=self._augmentation)

        @tf.function(input_signature=[spec], autograph=False)
        def on_devices(batch):
            return self._strategy.run(finish, args=(batch,))

        return on_devices

    def _files_of(self, iteration: int) -> ImageFiles:
        return self.files.select(next(self.sampler.batches(iteration, iteration + 1)))


def _shards(settings: Settings, strategy, cluster: Cluster) -> list[slice]:
    if settings.sampler == "pk":
        P, K = settings.batch_p, settings.batch_k
        return devices.shards(strategy, cluster, P, K, settings.mining)
    return devices.shards_of_images(strategy, cluster, settings.batch_size, settings.mining)


def without_bad_images(dataset: Dataset, image_root: str | Sequence[str], threads: int) -> Dataset:
    """The images that can be decoded; the others are logged as a warning."""
    good = image_data.decodable(dataset.files(image_root), threads)
    bad = dataset.names()[~good].tolist()
    if not bad:
        return dataset
    log.warning(
        f"{len(bad)} of the {len(dataset)} images cannot be decoded and are left out: "
        f"{first_few(bad)}"
    )
    return dataset.select(good)
