"""Train an embedding for re-identification with a triplet loss over P×K batches.

python train.py --experiment_root exp --train_set train.csv --image_root images
python train.py --experiment_root exp --resume
"""

import argparse
import contextlib
import functools
import os
import secrets
import shlex
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

import common
import experiment
from common import UserError
from data import cameras, dataset, pk_sampler
from experiment.detailed_logs import DetailedLogs
from runtime import devices, files, terminal
from runtime.tensorflow import import_tensorflow
from training.collapse import CollapseWatch
from training.schedule import body_is_frozen, learning_rate
from uninterrupt import Uninterrupt


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags, checked. `given` holds those that stood on the command line."""
    parser = experiment.make_parser(__doc__)
    args = parser.parse_args(argv)
    unset = object()
    given = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args), unset)))
    args.given = {name: value for name, value in vars(given).items() if value is not unset}
    if not args.resume:
        for name in ("train_set", "image_root"):
            if getattr(args, name) is None:
                parser.error(
                    f"argument --{name}: needed for a new experiment (to go on with an old one: --resume)"
                )
        try:
            experiment.check_together(args)
        except UserError as error:
            parser.error(str(error))
    return args


def main(args: argparse.Namespace) -> None:
    # What can be wrong with flags and files is found here, before anything slow and before anything
    # is written.
    given, warnings = vars(args).pop("given"), []
    resuming, drawn_seed = args.resume, secrets.randbits(31)
    args.seed = drawn_seed if args.seed is None else args.seed
    if resuming:
        args, warnings = experiment.resume(args, given)
        args.seed = drawn_seed if args.seed is None else args.seed
        try:
            experiment.check_together(args)
        except UserError as error:
            raise UserError(f"in {args.experiment_root}/args.json: {error}") from None
    warnings += experiment.never_comes(args)
    workers = devices.cluster(args.strategy)
    if workers.index == 0:
        (experiment.check_writeable if resuming else experiment.check_new_root)(
            args.experiment_root
        )
    try:
        pids, fids = dataset.load(args.train_set)
        pk_sampler.check_enough_pids(pk_sampler.group_by_pid(pids), args.batch_p)
        dataset.check_images(args.train_set, args.image_root, fids, args.allow_any_path)
        cameras.of_fids(fids, args.cameras)
    except UserError as error:
        if not resuming:
            raise
        where = Path(args.experiment_root, "args.json")
        raise UserError(
            f"{error} (When resuming, train_set, image_root and batch_p are those of {where}.)"
        ) from None
    # The chief alone writes.
    locked = (
        experiment.lock(args.experiment_root) if workers.index == 0 else contextlib.nullcontext()
    )
    with locked, devices.naming_lost_workers(workers), naming_exhaustion():
        train(args, workers, pids, fids, resuming, warnings)


@contextlib.contextmanager
def naming_exhaustion():
    """Raises: UserError where TensorFlow has run out of something, which is not always the person's
    first guess.
    """
    try:
        yield
    except Exception as error:
        if (
            type(error).__name__ != "ResourceExhaustedError"
        ):  # TensorFlow's, which need not be imported for this
            raise
        raise UserError(
            f"out of memory, or of room on the disk: {common.reason(error)[:300]}. With less --batch_p, --batch_k or "
            "net_input it needs less memory; saved checkpoints are untouched, go on with --resume."
        ) from None


class Iteration(NamedTuple):
    """A finished iteration: its number, from 1; the rows of its batch; its learning rate; when it
    began and how long it waited for its images, in seconds; what the step returned."""

    number: int
    rows: np.ndarray
    rate: float
    began: float
    waited: float
    result: dict


def train(
    args: argparse.Namespace,
    workers: devices.Cluster,
    pids: list[str],
    fids: list[str],
    resuming: bool,
    warnings: list[str],
) -> None:
    """Train in args.experiment_root, which is empty or, when resuming, holds the experiment; log
    the warnings there.
    """
    strategy = devices.make(args.strategy)
    tf = import_tensorflow()
    import keras

    import loss
    from data import images as image_data
    from experiment.rewind import rewind
    from network import checkpoints, model
    from training import companions as companions_of
    from training import optimizers, summaries
    from training import step as train_step

    if args.jit_compile and strategy.num_replicas_in_sync > 1:
        raise UserError(
            f"--jit_compile works on one device. Received: {strategy.num_replicas_in_sync} of them. Leave it out, or "
            "give --strategy one."
        )
    root, chief = Path(args.experiment_root), workers.index == 0
    if args.deterministic:
        tf.config.experimental.enable_op_determinism()
    args.seed = int(devices.from_chief(strategy, workers, {"seed": np.int64(args.seed)})["seed"])

    # Data.
    paths = [os.path.join(args.image_root, fid) for fid in fids]
    if args.on_bad_image == "skip":
        bad = image_data.undecodable(paths, args.loading_threads)
        if bad:
            warnings.append(
                f"{len(bad)} of the {len(fids)} images cannot be decoded and are left out: "
                f"{common.first_few([fids[row] for row in sorted(bad)])}"
            )
        pids, fids, paths = (
            [x for row, x in enumerate(xs) if row not in bad] for xs in (pids, fids, paths)
        )
    groups, labels = pk_sampler.group_by_pid(pids), np.unique(pids, return_inverse=True)[1]
    pk_sampler.check_enough_pids(groups, args.batch_p)
    sample = functools.partial(
        pk_sampler.batches,
        groups,
        args.batch_p,
        args.batch_k,
        args.seed,
        cameras=cameras.of_fids(fids, args.cameras),
    )
    B = args.batch_p * args.batch_k
    shards = devices.shards(strategy, workers, args.batch_p, args.batch_k, args.mining)
    net_size = args.net_input_height, args.net_input_width
    augmentation = image_data.Augmentation(
        net_size,
        (args.pre_crop_height, args.pre_crop_width) if args.crop_augment else None,
        args.flip_augment,
        args.pad_crop,
        args.color_jitter,
        args.random_erasing,
    )
    accelerated = image_data.on_accelerator()

    # Model and optimizer, and the weights to start from.
    keras.utils.set_random_seed(args.seed)
    with strategy.scope():
        network = model.build(
            args.model_name,
            args.head_name,
            args.embedding_dim,
            (*net_size, 3),
            args.pooling,
            args.last_stride,
            args.precision,
        )
        companions = companions_of.companions(len(groups), args)
        trainable = [*network.trainable_variables, *companions.trainable_variables]
        optimizer = optimizers.build(args, trainable, model.body(network).trainable_variables)
    if args.no_sync_batch_norm:
        model.normalise_apart(network)
    state = checkpoints.named_variables([network, *companions.layers], optimizer)
    start = "initial weights drawn at random"
    if chief and resuming and not experiment.stopped_before_it_began(root):
        start, unreadable = checkpoints.restore_newest(root, state)
        warnings += unreadable
    elif chief and args.initial_checkpoint:
        loaded = checkpoints.load_body(
            args.initial_checkpoint, checkpoints.named_variables(model.body(network))
        )
        start = f"{args.initial_checkpoint}: {loaded}"
        if loaded.missing:
            warnings.append(f"--initial_checkpoint fits in part only. {start}.")
    elif not resuming and not getattr(
        common.load_plugin("nets", args.model_name), "FROM_SCRATCH", False
    ):
        warnings.append(
            f"{args.model_name} begins with random weights, with which the loss often stays where it is. Give it "
            "pretrained ones by --initial_checkpoint, or take a net that is made for this (lunet, lunet_narrow)."
        )
    if workers.workers > 1:
        of_chief = devices.from_chief(
            strategy, workers, {name: var.numpy() for name, var in state.items()}
        )
        for name, variable in state.items():
            variable.assign(of_chief[name])
    iteration = int(optimizer.iterations.numpy())

    # From here on the experiment exists.
    if chief:
        rewind(root, iteration)
    log = terminal.setup_logging("train", root / "train.log" if chief else None)
    if chief:
        experiment.store(args)
    else:
        log.setLevel("ERROR")  # the chief's lines are enough
    for warning in warnings:
        log.warning(warning)
    log.info("Training using the following parameters:")
    for name, value in sorted(vars(args).items()):
        log.info(f"{name}: {value}")
    if iteration >= args.train_iterations:
        log.info(
            f"Nothing to do: all {args.train_iterations} iterations are finished. To train on, set a higher "
            f"train_iterations in {root / 'args.json'} and resume again."
        )
        return
    if strategy.num_replicas_in_sync > 1:
        log.info(
            f"{strategy.num_replicas_in_sync} replicas in {workers.workers} processes share each batch."
        )
    log.info(f"Starting training from iteration {iteration}, with {start}.")

    def batches(_=None):
        return image_data.training_batches(
            sample(iteration, args.train_iterations),
            B,
            paths,
            args.seed,
            iteration,
            augmentation,
            args.loading_threads,
            args.cache,
            shards,
            finished=not accelerated,
        )

    def before_a_save(values: dict[str, np.ndarray]) -> None:
        """In the saver's thread. What was logged up to a checkpoint is on the disk before it."""
        unfit = [name for name, value in values.items() if not np.isfinite(value).all()]
        if unfit:
            raise UserError(
                f"weights are not finite at iteration {values['global_step']}: {common.first_few(unfit)}. They were "
                "not saved. Resume with a lower learning_rate in args.json."
            )
        details.sync()
        for file in (root / "train.log", *root.glob("events.out.tfevents.*")):
            checkpoints.sync(file)
        files.check_room(root)

    def record(done: Iteration, until: float | None = None) -> None:
        """Tell of a finished iteration, if it is due. `until` is when the next began; None when it
        is to be saved.
        """
        frequencies = args.log_frequency, args.histogram_frequency, args.image_frequency
        told = (
            done.number == 1
            or args.detailed_logs
            or any(_due(each, done.number) for each in frequencies)
        )
        if not told and until:
            return
        result = {name: value.numpy() for name, value in done.result.items()}
        losses, seconds = result["losses"], (until or time.perf_counter()) - done.began
        if not np.isfinite(losses).all():
            raise UserError(
                f"the loss is not finite at iteration {done.number}, in the batch of "
                f"{', '.join(fids[row] for row in done.rows)}. Nothing of it was saved. Look at these images, or "
                "resume with a lower learning_rate in args.json."
            )
        if not (told and chief):
            return
        left = timedelta(seconds=int(seconds * (args.train_iterations - done.number)))
        log.info(
            f"iter:{done.number:6d}, loss min|avg|max: {losses.min():.3f}|{losses.mean():.3f}|{losses.max():6.3f}, "
            f"batch-p@{args.batch_k - 1}: {result['precision']:.2%}, ETA: {left} ({seconds:.2f}s/it)",
            extra=terminal.ON_LIVE_LINE,
        )
        bar.set_postfix_str(
            f"loss {losses.mean():.3f}, batch-p@{args.batch_k - 1} {result['precision']:.0%}", False
        )
        first = done.number == 1
        if first:
            summaries.write_hparams(done.number, args)
        summaries.write_scalars(done.number, result, args, done.rate, seconds, done.waited)
        histograms = first or _due(args.histogram_frequency, done.number)
        pictures = args.image_frequency and (first or _due(args.image_frequency, done.number))
        if histograms or pictures:
            dists = loss.cdist(result["emb"], result["emb"], args.metric).numpy()
        if histograms:
            summaries.write_histograms(done.number, result, dists, labels[done.rows])
        if pictures:
            files, of = [paths[row] for row in done.rows], [pids[row] for row in done.rows]
            summaries.write_hardest_triplets(done.number, files, of, dists)
        details.write(
            done.number - 1, embeddings=result["emb"], losses=losses, fids=encoded_fids[done.rows]
        )
        if warning := collapsed(float(result["furthest"]), float(result["loss"])):
            log.warning(warning)

    encoded_fids, shape = np.char.encode(fids, "utf-8"), (args.train_iterations, B)
    details = {
        "embeddings": (np.float32, (*shape, args.embedding_dim)),
        "losses": (np.float32, shape),
        "fids": (encoded_fids.dtype, shape),
    }
    details = DetailedLogs(root, details if args.detailed_logs and chief else {})
    writer = tf.summary.create_file_writer(str(root)) if chief else tf.summary.create_noop_writer()
    saver = checkpoints.Saver(root, args.keep_checkpoints, before_a_save, log)
    bar = terminal.bar(args.train_iterations, "iter", iteration, B, show=chief)
    bad_images = image_data.naming_bad_images(
        lambda: [paths[row] for row in next(sample(iteration, iteration + 1))]
    )
    step = train_step.make(strategy, network, companions, optimizer, args)
    collapsed = CollapseWatch(args.loss, args.margin, every=args.log_frequency)

    with Uninterrupt() as u, writer.as_default(), details, saver, bad_images, bar:
        if chief and iteration == 0:
            saver.save(0, state)
            saver.wait()  # without it there would be nothing to resume from
        loader = iter(strategy.distribute_datasets_from_function(batches))

        @tf.function(input_signature=[loader.element_spec[0]])
        def finish(batch):
            return strategy.run(
                functools.partial(image_data.finish, augmentation=augmentation), args=(batch,)
            )

        # An iteration is told of while the next one runs, so that the device has not to wait for
        # it.
        untold, last = None, False
        while not last:
            began = time.perf_counter()
            images, rows = next(loader)
            images = finish(images) if accelerated else images
            rows = strategy.experimental_local_results(rows)[0].numpy()
            waited, rate = time.perf_counter() - began, learning_rate(iteration, args)
            result = step(
                images,
                tf.constant(labels[rows]),
                tf.constant(iteration, tf.int64),
                tf.constant(rate, tf.float32),
                tf.constant(u.interrupted, tf.int32),
                body_is_frozen(iteration, args),
            )
            if untold:
                record(untold, until=began)
            if iteration == 0 and chief and args.image_frequency:
                summaries.write_network_input(
                    1, strategy.experimental_local_results(images)[0].numpy(), args.batch_k
                )
            # Several workers have to stop at one iteration: they know of each other from the last
            # one.
            stop = (
                u.interrupted
                if workers.workers == 1
                else bool(untold and untold.result["stop"].numpy())
            )
            iteration += 1
            untold = Iteration(iteration, rows, rate, began, waited, result)
            bar.update()

            last = stop or iteration == args.train_iterations
            if last or _due(args.checkpoint_frequency, iteration):
                record(untold)
                untold = None
                if chief:
                    writer.flush()
                    optimizer.iterations.assign(iteration)
                    saver.save(iteration, state)
            saver.check()
        saver.wait()
        # No worker leaves before the chief has saved: the others would take it for dead.
        devices.from_chief(strategy, workers, {"saved": np.int64(iteration)})
    if iteration < args.train_iterations:
        log.info(
            f"Interrupted after iteration {iteration}. To go on: python train.py "
            f"--experiment_root {shlex.quote(str(root))} --resume"
        )
    else:
        log.info(f"Finished all {iteration} iterations.")


def _due(frequency: int, iteration: int) -> bool:
    return frequency > 0 and iteration % frequency == 0


if __name__ == "__main__":
    common.run(main, parse_args)
