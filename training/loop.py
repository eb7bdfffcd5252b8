"""The training of an experiment."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from common import UserError
from data.dataset import Dataset
from experiment import args_json, train_log
from experiment.flags import Settings
from experiment.rewind import rewind
from runtime import devices, terminal
from runtime.cluster import Cluster
from runtime.terminal import log
from training.batches import Batches
from training.recorder import Iteration, Recorder, due
from training.saver import Saver
from training.schedule import Schedule, learning_rate
from training.start import describe_data, describe_flags, rate_jump
from training.state import State
from training.step import make_step
from uninterrupt import Uninterrupt


def train(settings: Settings, dataset: Dataset, strategy, cluster: Cluster, resuming: bool) -> int:
    """Train in settings.experiment_root.

    The directory is empty or, when resuming, holds the experiment; this process has locked it. The
    first signal (Ctrl-C, SIGTERM) ends the training after the running iteration, with a checkpoint.

    Args:
        strategy, cluster: as runtime/cluster.py gives them.

    Returns:
        0 for a finished training, else the number of the signal that interrupted it; the same on
        all workers.
    Raises:
        UserError for what the person at the shell can put right.
    """
    _check_devices(settings, strategy)
    settings = _with_seed_of_chief(settings, strategy, cluster)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    batches = Batches(dataset, settings, strategy, cluster)
    state = State(settings, batches.pid_count, strategy)
    source = state.initialize(settings, cluster, resuming, strategy)
    iteration = state.iteration
    ran_with = train_log.parameters(settings.experiment_root, iteration) if resuming else {}
    _open_log(settings, cluster, iteration)
    if iteration >= settings.train_iterations:
        log.info(train_log.nothing_to_do_line(settings.train_iterations))
        return 0
    _log_data_and_devices(batches, strategy, cluster, settings)
    log.info(f"Starting training from iteration {iteration}, with {source}.")
    _log_flags(settings, ran_with, iteration)

    step = make_step(strategy, state, settings)
    schedule = Schedule.of(settings)
    recorder = Recorder(settings, batches, iteration, cluster.is_chief)
    saver = Saver(
        Path(settings.experiment_root),
        state.variables,
        keep=settings.keep_checkpoints,
        sync=recorder.sync,
        active=cluster.is_chief,
    )
    with Uninterrupt() as interrupt, recorder, saver:
        if iteration == 0:
            saver.save(0)
            saver.wait()  # without it there would be nothing to resume from
        previous = None
        for batch in batches.starting_at(iteration):
            rate = learning_rate(iteration, schedule)
            result = step(
                batch.images,
                tf.constant(batches.labels[batch.rows]),
                iteration=tf.constant(iteration, tf.int64),
                rate=tf.constant(rate, tf.float32),
                stop=tf.constant(interrupt.number, tf.int32),
                frozen=iteration < settings.freeze_body_iterations,
            )
            stop = _signal_to_heed(interrupt, cluster, previous)
            iteration += 1
            previous = Iteration(iteration, batch, rate, result)
            recorder.add(previous)
            last = bool(stop) or iteration == settings.train_iterations
            if last or due(settings.checkpoint_frequency, iteration):
                recorder.flush()
                saver.save(iteration)
            saver.check()
            if last:
                break
        saver.wait()
        # No worker leaves before the chief has saved: the others would take it for dead.
        devices.barrier(strategy, cluster)
    if iteration == settings.train_iterations:
        log.info(train_log.finished_line(iteration))
        return 0
    root = shlex.quote(str(Path(settings.experiment_root)))
    command = f"python train.py --experiment_root {root} --resume"
    log.info(train_log.interrupted_line(iteration, command))
    return stop


def _signal_to_heed(interrupt: Uninterrupt, cluster: Cluster, previous: Iteration | None) -> int:
    """The number of the signal to stop for; 0: none.

    Several workers have to stop at one iteration: the last one told them of each other.
    """
    if cluster.size == 1:
        return interrupt.number
    return int(previous.result["stop"].numpy()) if previous else 0


def _log_data_and_devices(batches: Batches, strategy, cluster: Cluster, settings: Settings) -> None:
    data = describe_data(batches.labels, settings.batch_p)
    log.info(f"{data} on {devices.describe(strategy, cluster)}.")
    R = strategy.num_replicas_in_sync
    if R > 1:
        log.info(f"{R} replicas in {cluster.size} processes share each batch.")


def _log_flags(settings: Settings, ran_with: Mapping[str, str], iteration: int) -> None:
    log.info(f"Flags that differ from their defaults: {describe_flags(settings)}")
    warning = rate_jump(settings, ran_with, iteration)
    if warning:
        log.warning(warning)


def _check_devices(settings: Settings, strategy) -> None:
    count = strategy.num_replicas_in_sync
    if settings.jit_compile and count > 1:
        raise UserError(
            f"--jit_compile works on one device. Received: {count} of them. Leave it out, or give "
            "--strategy one."
        )


def _with_seed_of_chief(settings: Settings, strategy, cluster: Cluster) -> Settings:
    """Each worker has drawn a seed of its own if none was given."""
    sent = devices.broadcast(strategy, cluster, {"seed": np.int64(settings.seed)})
    return dataclasses.replace(settings, seed=int(sent["seed"]))


def _open_log(settings: Settings, cluster: Cluster, iteration: int) -> None:
    """Write args.json and open train.log: from here on the experiment exists."""
    if cluster.is_chief:
        root = Path(settings.experiment_root)
        # TensorBoard's event of a training's end follows the last iteration.
        is_finished = iteration >= settings.train_iterations
        rewind(root, iteration + 1 if is_finished else iteration)
        # A run that is killed before it has an args.json leaves an empty log, which a new run takes
        # for nothing.
        (root / "train.log").touch()
        args_json.write(settings)
        terminal.log_to(root / "train.log")
    for line in train_log.parameter_lines(args_json.content(settings)):
        log.info(line, extra=terminal.ONLY_IN_FILE)
