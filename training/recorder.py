"""What a training tells: train.log, metrics.jsonl, TensorBoard, detailed logs, trackers, the live line."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

import loss
from common import UserError
from experiment import detailed_logs, metrics_log, train_log, validations
from experiment.detailed_logs import DetailedLogs
from experiment.flags import Settings
from experiment.metrics_log import MetricsLog
from experiment.validations import Validation
from runtime import files, terminal
from runtime.terminal import log
from training import summaries
from training.batches import Batch, Batches
from training.collapse import CollapseWatch
from training.trackers import Trackers


class Iteration(NamedTuple):
    """A finished iteration."""

    number: int  # from 1
    batch: Batch
    rate: float  # the learning rate
    result: dict  # what the step returned


def due(frequency: int, iteration: int) -> bool:
    """Whether something that happens every `frequency` iterations happens now. 0: never."""
    return frequency > 0 and iteration % frequency == 0


class Recorder:
    """Logs iterations: a context that closes its files.

    An iteration is logged while the next one runs, so that the device never waits for it.

    Args:
        finished: the number of iterations that earlier runs finished.
        is_chief: whether this process writes. The others only look for a loss that is not finite.
    """

    def __init__(self, settings: Settings, batches: Batches, finished: int, is_chief: bool):
        self._settings = settings
        self._batches = batches
        self._is_chief = is_chief
        self._pending: Iteration | None = None
        self._root = Path(settings.experiment_root)
        # A loss that is only logged may be anything.
        self._collapse = (
            CollapseWatch(settings.loss, settings.margin)
            if settings.loss_weight
            else lambda *_: None
        )
        self._details = DetailedLogs(self._root, self._layout_of_details())
        self._metrics = MetricsLog(self._root, active=is_chief)
        self._trackers = Trackers(settings, finished, active=is_chief)
        self._writer = tf.summary.create_noop_writer()
        if is_chief:
            self._writer = tf.summary.create_file_writer(str(self._root))
        self._bar = terminal.bar(
            settings.train_iterations,
            "iter",
            initial=finished,
            images_per_step=settings.images_per_batch,
            show=is_chief,
        )
        self._contexts = contextlib.ExitStack()

    def __enter__(self) -> "Recorder":
        files_and_line = (self._writer.as_default(), self._metrics, self._details, self._bar)
        for context in (*files_and_line, self._trackers):
            self._contexts.enter_context(context)
        return self

    def __exit__(self, *error) -> None:
        self._contexts.__exit__(*error)

    def add(self, iteration: Iteration) -> None:
        """Log the iteration before this one, if it is due.

        Raises:
            UserError when the loss of the iteration before is not finite.
        """
        if self._pending:
            self._log(self._pending, until=iteration.batch.began)
        if iteration.number == 1:
            self._write_network_input(iteration.batch)
        self._pending = iteration
        self._bar.update()

    def flush(self) -> None:
        """Log the last iteration, and hand TensorBoard's events to the operating system."""
        if self._pending:
            self._log(self._pending, until=None)
            self._pending = None
        self._writer.flush()

    def validation(
        self, iteration: int, figures: Mapping[str, float], best: Validation, seconds: float
    ) -> None:
        """Log a validation. Call flush before, so that it follows its iteration.

        Args:
            figures: in 0..1, by name. best: by --val_metric, of all so far. seconds: that it took.
        """
        metric = self._settings.val_metric
        log.info(train_log.validation_line(iteration, figures, metric, best, seconds))
        scalars = validations.tags(figures)
        summaries.write_scalars(iteration, scalars)
        self._writer.flush()
        self._metrics.write(iteration, scalars)  # the last: with that line it is made
        self._trackers.line(iteration, scalars)

    def saved(self, iteration: int, is_best: bool) -> None:
        """Tell that a checkpoint is complete. A thread may call this."""
        self._trackers.checkpoint(iteration, is_best)

    def end(self, iterations: int) -> None:
        """Tell TensorBoard and trackers that the training is over, after so many iterations."""
        self._trackers.is_finished = True
        summaries.write_end(iterations)
        self._writer.flush()

    def pause(self) -> contextlib.AbstractContextManager[None]:
        """A context without the live line, whose time counts for no iteration."""
        return terminal.paused(self._bar)

    def sync(self) -> None:
        """Have all that was logged on the disk. A thread may call this."""
        self._details.sync()
        logs = [self._root / "train.log", self._root / metrics_log.NAME]
        for file in (*logs, *self._root.glob("events.out.tfevents.*")):
            files.sync(file)

    def _layout_of_details(self) -> dict:
        settings = self._settings
        if not (settings.detailed_logs and self._is_chief):
            return {}
        return detailed_logs.layout(
            settings.train_iterations,
            settings.images_per_batch,
            settings.embedding_dim,
            self._batches.names,
        )

    def _log(self, done: Iteration, until: float | None) -> None:
        """Log a finished iteration, if due.

        Args:
            until: when the next one started, or None before a checkpoint.
        """
        settings = self._settings
        number = done.number
        is_due = self._is_due(number)
        if not is_due and until is not None:
            return
        result = {name: value.numpy() for name, value in done.result.items()}
        if not np.isfinite(result["losses"]).all():
            fids = [self._batches.names[row] for row in done.batch.rows]
            raise UserError(
                f"the loss is not finite at iteration {number}, in the batch of "
                f"{', '.join(fids)}. Nothing of it was saved. Look at these images, or resume with "
                "a lower learning_rate in args.json."
            )
        if not (is_due and self._is_chief):
            return
        end = until if until is not None else time.perf_counter()
        seconds = end - done.batch.began
        self._write_line(number, result, seconds)
        if number == 1:
            summaries.write_hparams(number, dataclasses.asdict(settings))
            summaries.write_layout(number, settings.validates)
        scalars = summaries.scalars(result, settings.images_per_pid)
        timing = {
            "secs_per_iter": seconds,
            "secs_waiting_for_images": done.batch.waited,
            "images_per_sec": len(done.batch.rows) / seconds,
        }
        scalars |= {"learning_rate": done.rate} | timing
        summaries.write_scalars(number, scalars)
        self._metrics.write(number, scalars)
        self._trackers.line(number, scalars)
        self._write_pictures(number, result, done.batch.rows)
        if settings.detailed_logs:
            self._details.write(
                number - 1,
                embeddings=result["emb"],
                losses=result["losses"],
                fids=[fid.encode() for fid in self._batches.names[done.batch.rows]],
            )
        warning = self._collapse(number, float(result["furthest"]), float(result["loss"]))
        if warning:
            log.warning(warning)

    def _is_due(self, number: int) -> bool:
        settings = self._settings
        frequencies = (
            settings.log_frequency,
            settings.histogram_frequency,
            settings.image_frequency,
        )
        if number == 1 or settings.detailed_logs:
            return True
        return any(due(frequency, number) for frequency in frequencies)

    def _write_line(self, number: int, result: dict, seconds: float) -> None:
        settings = self._settings
        losses = result["losses"]
        line = train_log.iteration_line(
            number,
            losses,
            batch_k=settings.images_per_pid,
            precision=result["precision"],
            seconds=seconds,
            seconds_left=seconds * (settings.train_iterations - number),
        )
        log.info(line, extra=terminal.ON_LIVE_LINE)
        self._bar.set_postfix_str(
            f"loss {losses.mean():.3f}, batch-p@{settings.images_per_pid - 1} {result['precision']:.0%}",
            refresh=False,
        )

    def _write_pictures(self, number: int, result: dict, rows: np.ndarray) -> None:
        settings = self._settings
        first = number == 1
        histograms = first or due(settings.histogram_frequency, number)
        triplets = settings.image_frequency and (first or due(settings.image_frequency, number))
        if not (histograms or triplets):
            return
        dists = loss.cdist(result["emb"], result["emb"], settings.metric).numpy()
        if histograms:
            summaries.write_histograms(number, result, dists, self._batches.labels[rows])
        if triplets:
            images = self._batches.files.select(rows)
            pids = [self._batches.dataset.pids[row] for row in rows]
            picture = summaries.write_hardest_triplets(number, images, pids, dists)
            self._trackers.picture(number, "hardest_triplets", picture)

    def _write_network_input(self, batch: Batch) -> None:
        if self._is_chief and self._settings.image_frequency:
            images = self._batches.images_of_first_device(batch)
            picture = summaries.write_network_input(1, images, self._settings.batch_k)
            self._trackers.picture(1, "network_input", picture)
