"""Train an embedding for re-identification with a triplet loss over P×K batches.

python train.py --experiment_root exp --train_set train.csv --image_root images
python train.py --experiment_root exp --resume
"""

import argparse
import contextlib
import functools
import os
import secrets
import time
from datetime import timedelta
from pathlib import Path

import numpy as np

import common
import experiment
from collapse import CollapseWatch
from common import UserError
from data import cameras, pk_sampler
from data.detailed_logs import DetailedLogs
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
                parser.error(f"argument --{name}: needed for a new experiment (to go on with an old one: --resume)")
        try:
            experiment.check_together(args)
        except UserError as error:
            parser.error(str(error))
    return args


def learning_rate(iteration: int, args: argparse.Namespace) -> float:
    """The rate of the step after `iteration` finished ones: from decay_start_iteration on it falls exponentially, to
    a thousandth at train_iterations (section 4.1 of the paper, but from 3e-4 on as in its code)."""
    start, end = args.decay_start_iteration, args.train_iterations
    if start < 0 or iteration <= start:
        return args.learning_rate
    return args.learning_rate * 0.001 ** ((iteration - start) / (end - start))


def make_train_step(network, optimizer, args: argparse.Namespace):
    """The step, traced once: it takes images float32 [B, H, W, 3], labels int [B] and the learning rate, float32.

    Returns: a function that gives a dict of tensors: loss, top1 and precision (0..1) and active_count (int), scalars;
      losses and emb_lengths [B], emb [B, D] and dists [B, B], float32.
    """
    import tensorflow as tf

    import loss

    @tf.function
    def train_step(images, labels, rate):
        with tf.GradientTape() as tape:
            embs = network(images, training=True)
            dists = loss.cdist(embs["emb"], embs["emb"], args.metric)
            losses = loss.LOSS_CHOICES[args.loss](dists, labels, args.margin)
            mean_loss = tf.reduce_mean(losses)
        weights = network.trainable_variables
        optimizer.learning_rate.assign(rate)
        optimizer.apply(tape.gradient(mean_loss, weights), weights)

        top1, precision = loss.retrieval_in_batch(dists, labels, args.batch_k - 1)
        return {
            "loss": mean_loss,
            "losses": losses,
            "top1": top1,
            "precision": precision,
            "active_count": tf.math.count_nonzero(losses > 1e-5, dtype=tf.int32),
            "emb": embs["emb"],
            "emb_lengths": tf.norm(embs["emb_raw"], axis=1),
            "dists": dists,
        }

    return train_step


def main(args: argparse.Namespace) -> None:
    # What can be wrong with flags and files is found here, before anything slow and before anything is written.
    given, warnings = vars(args).pop("given"), []
    resuming, drawn_seed = args.resume, secrets.randbits(31)
    args.seed = drawn_seed if args.seed is None else args.seed
    if resuming:
        args, warnings = experiment.resume(args, given)
        args.seed = drawn_seed if args.seed is None else args.seed
        experiment.check_together(args)
    else:
        experiment.check_new_root(args.experiment_root)
    try:
        pids, fids = common.load_dataset(args.train_set)
        pk_sampler.check_enough_pids(pk_sampler.group_by_pid(pids), args.batch_p)
        common.check_images(args.train_set, args.image_root, fids, args.allow_any_path)
        cameras.of_fids(fids, args.cameras)
    except UserError as error:
        if not resuming:
            raise
        where = Path(args.experiment_root, "args.json")
        raise UserError(f"{error} (When resuming, train_set, image_root and batch_p are those of {where}.)") from None
    with experiment.lock(args.experiment_root), naming_exhaustion():
        train(args, pids, fids, resuming, warnings)


@contextlib.contextmanager
def naming_exhaustion():
    """Raises: UserError where TensorFlow has run out of something, which is not always the person's first guess."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "ResourceExhaustedError":  # TensorFlow's, which need not be imported for this
            raise
        raise UserError(
            f"out of memory, or of room on the disk: {common.reason(error)[:300]}. With less --batch_p, --batch_k or "
            "net_input it needs less memory; saved checkpoints are untouched, go on with --resume."
        ) from None


def train(args: argparse.Namespace, pids: list[str], fids: list[str], resuming: bool, warnings: list[str]) -> None:
    """Train in args.experiment_root, which is empty or, when resuming, holds the experiment; log the warnings there."""
    tf = common.import_tensorflow()
    import keras

    import checkpoints
    import model
    import summaries
    from adam import Adam
    from data import images as image_data
    from rewind import rewind

    root = Path(args.experiment_root)
    if args.deterministic:
        tf.config.experimental.enable_op_determinism()

    # Data.
    paths = [os.path.join(args.image_root, fid) for fid in fids]
    if args.on_bad_image == "skip":
        bad = image_data.undecodable(paths, args.loading_threads)
        if bad:
            warnings.append(
                f"{len(bad)} of the {len(fids)} images cannot be decoded and are left out: "
                f"{common.first_few([fids[row] for row in sorted(bad)])}"
            )
        pids, fids, paths = ([x for row, x in enumerate(xs) if row not in bad] for xs in (pids, fids, paths))
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
    net_size = args.net_input_height, args.net_input_width

    # Model and optimizer, and the weights to start from.
    keras.utils.set_random_seed(args.seed)
    network = model.build(args.model_name, args.head_name, args.embedding_dim, (*net_size, 3))
    optimizer = Adam(args.learning_rate, beta_1=0.9, beta_2=0.999, epsilon=1e-8)
    optimizer.build(network.trainable_variables)
    state = checkpoints.named_variables(network, optimizer)
    start = "initial weights drawn at random"
    if resuming and not experiment.stopped_before_it_began(root):
        start, unreadable = checkpoints.restore_newest(root, state)
        warnings += unreadable
    elif args.initial_checkpoint:
        loaded = checkpoints.load_body(args.initial_checkpoint, checkpoints.named_variables(model.body(network)))
        start = f"{args.initial_checkpoint}: {loaded}"
        if loaded.missing:
            warnings.append(f"--initial_checkpoint fits in part only. {start}.")
    iteration = int(optimizer.iterations)

    # From here on the experiment exists.
    rewind(root, iteration)
    log = common.setup_logging("train", root / "train.log")
    experiment.store(args)
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
    log.info(f"Starting training from iteration {iteration}, with {start}.")
    if iteration == 0:
        checkpoints.save(root, 0, state)

    batches = image_data.training_batches(
        sample(iteration, args.train_iterations),
        B,
        paths,
        args.seed,
        iteration,
        net_size,
        (args.pre_crop_height, args.pre_crop_width) if args.crop_augment else None,
        args.flip_augment,
        args.loading_threads,
    )
    bad_images = image_data.naming_bad_images(lambda: [paths[row] for row in next(sample(iteration, iteration + 1))])
    encoded_fids, shape = np.char.encode(fids, "utf-8"), (args.train_iterations, B)
    details = {
        "embeddings": (np.float32, (*shape, args.embedding_dim)),
        "losses": (np.float32, shape),
        "fids": (encoded_fids.dtype, shape),
    }
    details = DetailedLogs(root, details if args.detailed_logs else {})
    writer = tf.summary.create_file_writer(str(root))
    train_step = make_train_step(network, optimizer, args)
    collapsed = CollapseWatch(args.margin)

    with Uninterrupt() as u, writer.as_default(), details, bad_images:
        began = time.perf_counter()
        for images, rows in batches:
            rows, rate = rows.numpy(), learning_rate(iteration, args)
            result = train_step(images, tf.constant(labels[rows]), tf.constant(rate, tf.float32))
            result = {name: value.numpy() for name, value in result.items()}
            iteration = int(optimizer.iterations)
            seconds, began = time.perf_counter() - began, time.perf_counter()

            losses = result["losses"]
            if not np.isfinite(losses).all():
                raise UserError(
                    f"the loss is not finite at iteration {iteration}, in the batch of "
                    f"{', '.join(fids[row] for row in rows)}. Nothing of it was saved. Look at these images, or resume "
                    "with a lower learning_rate in args.json."
                )
            log.info(
                f"iter:{iteration:6d}, loss min|avg|max: {losses.min():.3f}|{losses.mean():.3f}|{losses.max():6.3f}, "
                f"batch-p@{args.batch_k - 1}: {result['precision']:.2%}, "
                f"ETA: {timedelta(seconds=int(seconds * (args.train_iterations - iteration)))} ({seconds:.2f}s/it)"
            )
            summaries.write_scalars(iteration, result, args, rate, seconds)
            if iteration == 1 or (args.histogram_frequency and iteration % args.histogram_frequency == 0):
                summaries.write_histograms(iteration, result, labels[rows])
            details.write(iteration - 1, embeddings=result["emb"], losses=losses, fids=encoded_fids[rows])
            if warning := collapsed(result["dists"], float(result["loss"])):
                log.warning(warning)

            last = u.interrupted or iteration == args.train_iterations
            if last or (args.checkpoint_frequency and iteration % args.checkpoint_frequency == 0):
                unfit = [name for name, variable in state.items() if not np.isfinite(variable.numpy()).all()]
                if unfit:
                    raise UserError(
                        f"weights are not finite at iteration {iteration}: {common.first_few(unfit)}. They were not "
                        "saved. Resume with a lower learning_rate in args.json."
                    )
                # What was logged up to a checkpoint is on the disk before it: resuming does not repeat it.
                writer.flush()
                details.sync()
                for file in (root / "train.log", *root.glob("events.out.tfevents.*")):
                    checkpoints.sync(file)
                common.check_room(root)
                path = checkpoints.save(root, iteration, state)
                checkpoints.keep_newest(root, args.keep_checkpoints)
                log.info(f"Saved {path}.")
            if last:
                break
    if iteration < args.train_iterations:
        log.info(f"Interrupted after iteration {iteration}. To go on: train.py --experiment_root {root} --resume")
    else:
        log.info(f"Finished all {iteration} iterations.")


if __name__ == "__main__":
    common.run(main, parse_args)
