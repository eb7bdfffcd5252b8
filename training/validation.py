"""Evaluates the network while it trains: as embed.py and evaluate.py would, on a checkpoint of now."""

import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import UserError
from data import cameras, pictures
from data.dataset import ImageFiles, distinct_files
from evaluation import Results, evaluate
from experiment import validations
from experiment.flags import VALIDATION_FIGURES, Settings, known
from experiment.validations import Validation
from network import checkpoint_paths, checkpoints
from network.embedder import NetworkEmbedder
from runtime import devices, terminal
from runtime.cluster import Cluster
from runtime.terminal import log
from training import chance
from training.batches import without_bad_images
from training.recorder import Recorder, due
from training.state import State
from training.validation_set import ValidationSet, check_matches
from uninterrupt import Uninterrupt

_NONE = -1  # in place of the iteration of a validation


class _Images(NamedTuple):
    """The images of a validation, each once."""

    files: ImageFiles
    query: np.ndarray  # which of them each query is, int [Q]
    gallery: np.ndarray  # int [G]


class Validator:
    """Validates when it is due, and knows what that means for the training.

    It changes nothing that the training depends on. What it knows of earlier runs is read from
    metrics.jsonl, by the chief. All workers call the same methods, with the same iterations.

    Args:
        found: None for a training without validations: none is ever due.
        state: whose iteration is the number of finished ones. What metrics.jsonl has of later ones
            does not count.

    Attributes:
        best: the best validation so far; None where there is none.
    """

    def __init__(
        self,
        settings: Settings,
        found: ValidationSet | None,
        state: State,
        strategy,
        cluster: Cluster,
    ):
        """Raises: UserError for an image of a kind that cannot be read."""
        self.best: Validation | None = None
        self._enough = False
        self._settings = settings
        self._found = found
        self._state = state
        self._strategy = strategy
        self._cluster = cluster
        self._history: list[Validation] = []
        self._last = _NONE  # the iteration of the newest validation
        self._embedder: NetworkEmbedder | None = None
        self._at_start: dict[str, float] = {}  # as of chance.by_pid, for --val_beyond_chance
        if found is None:
            return
        if settings.on_bad_image == "skip":
            found = self._found = _without_bad_images(found, settings)
        self._images = _images(found, settings)
        self._to_compare = found.to_compare()
        pictures.check_sample(self._images.files)
        if cluster.is_chief:
            self._history = validations.read(
                settings.experiment_root, settings.val_metric, until=state.iteration
            )
            _repair_pointer(Path(settings.experiment_root), self._history)
            if settings.val_beyond_chance and self._history:
                self._at_start = chance.read(settings.experiment_root)
        self._conclude()

    def log_data(self) -> None:
        """Log what is validated on, if there are validations."""
        if self._found is None:
            return
        query, gallery, _, options = self._found
        at_start = "at the start, " if self._settings.val_start else ""
        log.info(
            f"Validating {at_start}every {self._settings.val_frequency} iterations and at the end: "
            f"{len(query)} queries among {len(gallery)} images of {len(set(gallery.pids))} pids, by "
            f"--val_excluder {options.excluder}."
        )
        count = len(set(query.pids))
        if self._settings.val_beyond_chance and 0.5**count > validations.MOST_CHANCE:
            log.warning(
                f"--val_beyond_chance cannot tell a rise from chance by the AP of {count} pids, so checkpoint-0 stays "
                "the best. Hold out at least 4 (--val_pids 4), or leave the flag out."
            )

    def is_due(self, iteration: int) -> bool:
        """Whether a validation is due after so many iterations, and was not made yet."""
        if self._found is None or iteration == self._last:
            return False
        if iteration == 0:
            return self._settings.val_start
        at_end = iteration >= self._settings.train_iterations
        return at_end or due(self._settings.val_frequency, iteration)

    def is_over(self, iteration: int) -> bool:
        """Whether the training ends here: with its last iteration, or by --early_stop."""
        at_end = iteration >= self._settings.train_iterations
        return self._enough or (at_end and not self.is_due(iteration))

    def run(self, iteration: int, recorder: Recorder, interrupt: Uninterrupt) -> bool:
        """Validate and log it.

        A signal interrupts a single worker: then nothing is logged, and the validation stays due.

        Returns:
            whether this one is the best of all.
        """
        began = time.perf_counter()
        with recorder.pause():
            figures = self.figures(iteration, interrupt)
        if figures is None:
            return False
        if self._cluster.is_chief:
            value = figures[self._settings.val_metric]
            self._history.append(Validation(iteration, value, figures.get(validations.CHANCE)))
        self._conclude()
        best = known(self.best)
        if self._cluster.is_chief:
            recorder.validation(iteration, figures, best, time.perf_counter() - began)
        return best.iteration == iteration

    def figures(self, iteration: int, interrupt: Uninterrupt) -> dict[str, float] | None:
        """Embed and evaluate with the weights of now.

        Returns:
            VALIDATION_FIGURES by name, and with --val_beyond_chance validations.CHANCE after the
            start, in 0..1; {} for a worker that is not the chief; None if a signal came.
        Raises:
            UserError: embeddings are not finite.
        """
        embs = self._embed(interrupt)
        if embs is None:
            return None
        if not np.isfinite(embs).all():
            raise UserError(
                "embeddings of the validation are not finite: the training went wrong. Resume with a lower "
                "learning_rate in args.json."
            )
        if not self._cluster.is_chief:
            return {}
        results = self._evaluate(embs)
        figures = {name: results.figure(name) for name in VALIDATION_FIGURES}
        if self._settings.val_beyond_chance:
            figures |= self._chance(iteration, results)
        return figures

    def _chance(self, iteration: int, results: Results) -> dict[str, float]:
        parts = chance.by_pid(results)
        if iteration == 0:
            self._at_start = parts
            chance.write(self._settings.experiment_root, parts)
            return {}
        return {validations.CHANCE: chance.of_rise(self._at_start, parts)}

    def _embed(self, interrupt: Uninterrupt) -> np.ndarray | None:
        """Embeddings of all images, float32 [N, D]; None if a signal came."""
        embedder = self._make_embedder()
        files = self._images.files
        parts = []
        with (
            self._strategy.scope(),
            terminal.bar(
                len(files), "validation img", show=self._cluster.is_chief, leave=False
            ) as bar,
        ):
            for views in embedder.batches(files):
                parts.append(embedder.aggregate(views))
                bar.update(views.shape[1])
                # Several workers embed together: none of them can leave.
                if interrupt.interrupted and self._cluster.size == 1:
                    return None
        return np.concatenate(parts)

    def _make_embedder(self) -> NetworkEmbedder:
        # With 16 bits and no average, each call also copies the weights.
        network = self._state.embedded()
        if self._embedder is None:
            settings = self._settings
            flip = settings.val_views == "flip"
            # What fits into the memory in training does so here.
            at_a_time = settings.chunk or settings.images_per_batch
            with self._strategy.scope():
                self._embedder = NetworkEmbedder(
                    network,
                    settings,
                    flip_augment=flip,
                    crop_augment="center" if settings.crop_augment else None,
                    aggregator="mean" if flip else None,
                    batch_size=min(at_a_time, 256),
                    loading_threads=settings.loading_threads,
                )
        return self._embedder

    def _evaluate(self, embs: np.ndarray) -> Results:
        query, gallery = self._to_compare
        return evaluate(
            query._replace(embs=embs[self._images.query]),
            gallery._replace(embs=embs[self._images.gallery]),
            known(self._found).options,
        )

    def _conclude(self) -> None:
        """Say what the validations so far mean; the chief tells the others."""
        best = validations.best(self._history) or Validation(0, 0.0)
        last = self._history[-1].iteration if self._history else _NONE
        patience = self._settings.early_stop
        enough = patience > 0 and validations.since_highest(self._history) >= patience
        of_chief = {
            "last": np.int64(last),
            "enough": np.int64(enough),
            "best": np.int64(best.iteration),
            "value": np.float64(best.value),
        }
        agreed = devices.broadcast(self._strategy, self._cluster, of_chief)
        self._last = int(agreed["last"])
        self._enough = bool(agreed["enough"])
        if self._last != _NONE:
            self.best = Validation(int(agreed["best"]), float(agreed["value"]))


def _without_bad_images(found: ValidationSet, settings: Settings) -> ValidationSet:
    query, gallery = (
        without_bad_images(images, found.image_root, settings.loading_threads)
        for images in (found.query, found.gallery)
    )
    rest = found._replace(query=query, gallery=gallery)
    check_matches(rest)
    return rest


def _images(found: ValidationSet, settings: Settings) -> _Images:
    parts = [
        cameras.files(images, found.image_root, settings.camera_rule)
        for images in (found.query, found.gallery)
    ]
    files, places = distinct_files(parts)
    query, gallery = np.split(places, [len(found.query)])
    return _Images(dataclasses.replace(files, upright=settings.upright), query, gallery)


def _repair_pointer(root: Path, history: list[Validation]) -> None:
    """Let checkpoint-best name what it should: a kill came before that, or logs are taken back."""
    there = checkpoint_paths.iterations(root)
    best = validations.best([found for found in history if found.iteration in there])
    checkpoints.point_to_best(root, best.iteration if best else None)
