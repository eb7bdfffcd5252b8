"""The training of an experiment."""

import contextlib
import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from common import UserError
from data import cameras
from data.pictures import UnreadableError
from experiment import args_json, folder, provenance, train_log
from experiment.flags import Settings, known
from experiment.provenance import Run
from experiment.rewind import rewind
from runtime import devices, terminal
from runtime.cluster import Cluster
from runtime.terminal import log
from training import norms, validation_set
from training.batches import Batches
from training.recorder import Iteration, Recorder, due
from training.saver import Saver
from training.schedule import Schedule, learning_rate
from training.start import describe_data, describe_flags, rate_jump
from training.state import State
from training.step import make_step
from training.validation import Validator
from training.validation_set import Data
from uninterrupt import Uninterrupt


def train(settings: Settings, data: Data, strategy, cluster: Cluster, run: Run) -> int:
    """Train in settings.experiment_root.

    The directory is empty or, when resuming, holds the experiment; this process has locked it. The
    first signal (Ctrl-C, SIGTERM) ends the training after the running iteration, with a checkpoint.

    Args:
        data, strategy, cluster: as validation_set.load and runtime/cluster.py give them.
        run: whether it resumes, and what provenance.json is to say of it.

    Returns:
        0 for a finished training, else the number of the signal that interrupted it; the same on
        all workers.
    Raises:
        UserError for what the person at the shell can put right.
    """
    _check_devices(settings, strategy)
    settings, data = _decided(settings, data, strategy, cluster)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    batches = Batches(data.train_set, settings, strategy, cluster)
    state = State(settings, batches.pid_images, strategy)
    norms.check(state.network, settings, strategy.num_replicas_in_sync, run.resuming)
    source = state.initialize(settings, cluster, run.resuming, strategy)
    iteration = state.iteration
    ran_with = provenance.flags_at(settings.experiment_root, iteration) if run.resuming else {}
    validator = Validator(settings, data.validation, state, strategy, cluster)
    over = validator.is_over(iteration)
    _open_log(settings, cluster, iteration, over)
    if over:
        _conclude(settings, run, validator, iteration, nothing_to_do=True)
        return 0
    _record(settings, run, iteration, devices.describe(strategy, cluster))
    _log_data_and_devices(batches, strategy, cluster)
    validator.log_data()
    _log_start(settings, source, ran_with, iteration)

    step = make_step(strategy, state, settings)
    schedule = Schedule.of(settings)
    recorder = Recorder(settings, batches, iteration, cluster.is_chief)
    saver = Saver(
        Path(settings.experiment_root),
        state.variables,
        keep=settings.keep_checkpoints,
        sync=recorder.sync,
        saved=recorder.saved,
        active=cluster.is_chief,
    )
    saved = _saved_when_images_fail(settings, lambda: iteration, recorder, saver)
    with Uninterrupt() as interrupt, recorder, saver, saved:
        milestones = _Milestones(settings, cluster, interrupt, validator, recorder, saver)
        stop, over = milestones.at_start(iteration)
        previous = None
        for batch in () if stop or over else batches.starting_at(iteration, interrupt):
            rate = learning_rate(iteration, schedule)
            result = step(
                batch.images,
                tf.constant(batches.labels[batch.rows]),
                iteration=tf.constant(iteration, tf.int64),
                rate=tf.constant(rate, tf.float32),
                stop=tf.constant(interrupt.number, tf.int32),
                frozen=iteration < settings.freeze_body_iterations,
                cameras=batches.cameras_of(batch),
            )
            stop = _signal_to_heed(interrupt, cluster, previous)
            iteration += 1
            previous = Iteration(iteration, batch, rate, result)
            recorder.add(previous)
            stop, over = milestones.after(iteration, stop)
            saver.check()
            if stop or over:
                break
        saver.wait()
        # No worker leaves before the chief has saved: the others would take it for dead.
        devices.barrier(strategy, cluster)
    if over:
        _conclude(settings, run, validator, iteration)
        return 0
    _conclude_interrupted(settings, run, iteration)
    return stop


def _record(settings: Settings, run: Run, iteration: int, runs_on: str) -> None:
    flags = args_json.content(settings)
    provenance.write(settings.experiment_root, run, iteration, devices=runs_on, flags=flags)


class _Milestones(NamedTuple):
    """What comes between iterations: validations, checkpoints, the end."""

    settings: Settings
    cluster: Cluster
    interrupt: Uninterrupt
    validator: Validator
    recorder: Recorder
    saver: Saver

    def at_start(self, iteration: int) -> tuple[int, bool]:
        """Do what is missing before the first iteration of a run. Returns: as `after` does."""
        if iteration == 0:
            self.saver.save(0)
            self.saver.wait()  # without it there would be nothing to resume from
        if self.validator.is_due(iteration):  # a signal came before it was made
            return self.after(iteration, 0)
        return 0, False

    def after(self, iteration: int, stop: int) -> tuple[int, bool]:
        """Do what is due after an iteration.

        Args:
            iteration: the number of finished ones.
            stop: the number of the signal to stop for; 0: none.

        Returns:
            the same number, or that of a signal that came meanwhile, and whether the training is
            over.
        """
        is_best = False
        if not stop and self.validator.is_due(iteration):
            self.recorder.flush()
            is_best = self.validator.run(iteration, self.recorder, self.interrupt)
            stop = _signal_to_heed(self.interrupt, self.cluster, None)
        over = self.validator.is_over(iteration)
        is_due = bool(stop) or over or due(self.settings.checkpoint_frequency, iteration)
        is_due |= iteration == 0  # it was saved already, not only as the best
        if is_due or is_best:
            self.recorder.flush()
            if over:
                self.recorder.end(iteration)
            self.saver.save(iteration, is_best, is_due)
        return stop, over


def _conclude(
    settings: Settings,
    run: Run,
    validator: Validator,
    iteration: int,
    nothing_to_do: bool = False,
) -> None:
    """Record that the training is over, and write the last line of train.log."""
    state = "finished"
    if iteration < settings.train_iterations and validator.best:
        state = "finished early"
        line = train_log.stopped_early_line(
            iteration, settings.val_metric, settings.early_stop, validator.best, nothing_to_do
        )
    elif nothing_to_do:
        line = train_log.nothing_to_do_line(settings.train_iterations)
    else:
        line = train_log.finished_line(iteration)
    provenance.end(settings.experiment_root, run, state, iteration)
    log.info(line)


def _conclude_interrupted(settings: Settings, run: Run, iteration: int) -> None:
    """Record that a signal ended the run, and write the last line of train.log."""
    provenance.end(settings.experiment_root, run, "interrupted", iteration)
    root = shlex.quote(str(Path(settings.experiment_root)))
    command = f"python train.py --experiment_root {root} --resume"
    log.info(train_log.interrupted_line(iteration, command))


@contextlib.contextmanager
def _saved_when_images_fail(
    settings: Settings, finished: Callable[[], int], recorder: Recorder, saver: Saver
) -> Iterator[None]:
    """A context that an image that cannot be had ends with a checkpoint, as the weights are whole.

    Args:
        finished: the number of finished iterations.
    """
    try:
        yield
    except UnreadableError:
        saver.wait()
        if folder.newest_iteration(settings.experiment_root) < finished():
            recorder.flush()
            saver.save(finished())
            saver.wait()
        raise


def _signal_to_heed(interrupt: Uninterrupt, cluster: Cluster, previous: Iteration | None) -> int:
    """The number of the signal to stop for; 0: none.

    Several workers have to stop at one iteration: the last one told them of each other.
    """
    if cluster.size == 1:
        return interrupt.number
    return int(previous.result["stop"].numpy()) if previous else 0


def _log_data_and_devices(batches: Batches, strategy, cluster: Cluster) -> None:
    data = describe_data(batches.labels, batches.sampler.describe())
    log.info(f"{data} on {devices.describe(strategy, cluster)}.")
    if batches.dataset.mirrored is not None:
        log.info(
            "Half of them are mirrored copies, as images of other pids (--flip_makes_new_pid)."
        )
    R = strategy.num_replicas_in_sync
    if R > 1:
        log.info(f"{R} replicas in {cluster.size} processes share each batch.")


def _log_start(
    settings: Settings, source: str, ran_with: Mapping[str, str], iteration: int
) -> None:
    log.info(f"Starting training from iteration {iteration}, with {source}.")
    log.info(f"Flags that differ from their defaults: {describe_flags(settings)}")
    warning = rate_jump(settings, ran_with, iteration)
    if warning:
        log.warning(warning)


def _check_devices(settings: Settings, strategy) -> None:
    count = strategy.num_replicas_in_sync
    b = settings.images_per_batch // count
    if settings.chunk and b % settings.chunk:
        raise UserError(
            f"--chunk should divide the images that each device has. Received: {settings.chunk}, "
            f"with {b} images on each of {count} devices."
        )
    if settings.chunk == b:
        log.warning(
            f"--chunk {settings.chunk} is one chunk: each device has {b} images. It only takes more time. Leave it "
            "out, or give a smaller one."
        )
    if settings.jit_compile and count > 1:
        raise UserError(
            f"--jit_compile works on one device. Received: {count} of them. Leave it out, or give "
            "--strategy one."
        )


def _decided(settings: Settings, data: Data, strategy, cluster: Cluster) -> tuple[Settings, Data]:
    """What the flags leave open: the seed, what it holds out, and the cameras of the training set."""
    settings = _with_seed_of_chief(settings, strategy, cluster)
    if cluster.size > 1:
        data = validation_set.with_seed(data, settings)
    if settings.camera_rule and not settings.camera_names:
        found = known(cameras.cameras_of(data.train_set, settings.camera_rule))
        settings = dataclasses.replace(settings, camera_names=sorted(set(found)))
    return settings, data


def _with_seed_of_chief(settings: Settings, strategy, cluster: Cluster) -> Settings:
    """Each worker has drawn a seed of its own if none was given."""
    sent = devices.broadcast(strategy, cluster, {"seed": np.int64(settings.seed)})
    return dataclasses.replace(settings, seed=int(sent["seed"]))


def _open_log(settings: Settings, cluster: Cluster, iteration: int, over: bool) -> None:
    """Write args.json and open train.log: from here on the experiment exists."""
    if cluster.is_chief:
        root = Path(settings.experiment_root)
        folder.check_still_there(root)
        # TensorBoard's event of a training's end follows the last iteration.
        rewind(root, iteration + 1 if over else iteration)
        # A run that is killed before it has an args.json leaves an empty log, which a new run takes
        # for nothing.
        (root / "train.log").touch()
        args_json.write(settings)
        terminal.log_to(root / "train.log")
    for line in train_log.parameter_lines(args_json.content(settings)):
        log.info(line, extra=terminal.ONLY_IN_FILE)
