"""One device or many, one host or many: TensorFlow's own strategies, and what passes between
replicas.

A worker is a process, the first of which is the chief; a replica is a device with its copy of the
network; R of them share each batch, in equal parts, in order. One device is R = 1 of the same code.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

import common
from common import UserError
from runtime.tensorflow import import_tensorflow


class Cluster(NamedTuple):
    """The workers of a job and which of them this process is, the chief being number 0."""

    workers: int = 1
    index: int = 0


def cluster(strategy: str = "auto") -> Cluster:
    """What the environment says: TF_CONFIG, else SLURM's variables of a job step (srun).

    Args:
      strategy: one of common.STRATEGIES; only "auto" and "multi_worker" ask the environment.

    Raises: UserError for a TF_CONFIG that makes no sense, and for "multi_worker" where nothing is
        said of workers.
    """
    if strategy not in ("auto", "multi_worker"):
        return Cluster()
    if os.environ.get("TF_CONFIG"):
        found = _from_tf_config(os.environ["TF_CONFIG"])
    else:
        found = Cluster(
            int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)), int(os.environ.get("SLURM_PROCID", 0))
        )
    if strategy == "multi_worker" and found.workers == 1:
        raise UserError(
            "--strategy multi_worker needs a job of several workers. Received: neither a TF_CONFIG that names them nor "
            "a SLURM step of several tasks. Set TF_CONFIG for every worker, start them with srun, or leave --strategy "
            "out."
        )
    return found


def _from_tf_config(text: str) -> Cluster:
    try:
        config = json.loads(text)
        jobs, task = config.get("cluster", {}), config.get("task", {"type": "worker", "index": 0})
        kind, index = task["type"], int(task["index"])
        sizes = {name: len(jobs.get(name, [])) for name in ("chief", "worker")}
        if jobs and (kind not in sizes or not 0 <= index < sizes[kind]):
            raise ValueError(f"task {kind} {index} is none of the cluster's")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG makes no sense ({error}). Received: {text}. It should be like "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}.'
        ) from None
    return Cluster(max(1, sum(sizes.values())), index + (sizes["chief"] if kind == "worker" else 0))


def make(name: str):
    """The tf.distribute.Strategy of that name of common.STRATEGIES. To be called before anything
    else of TensorFlow.

    With several workers it waits until all of them are there.

    Raises: UserError as cluster does, and when the workers cannot get together.
    """
    several = cluster(name).workers > 1
    # Workers that end one after the other look to it like a crash, of which it prints pages.
    tf = import_tensorflow(log_level=3 if several else 2)
    if several:
        options = {} if os.environ.get("TF_CONFIG") else {"cluster_resolver": _slurm_cluster()}
        try:
            return tf.distribute.MultiWorkerMirroredStrategy(**options)
        except (tf.errors.OpError, RuntimeError) as error:
            raise UserError(
                f"the workers of the job did not get together: {common.reason(error)[:300]}. All of them have to be "
                "started, with the same addresses, which have to be free and within reach."
            ) from None
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if name == "mirrored" or (
        name == "auto" and len(devices) > 1 and devices[0].device_type == "GPU"
    ):
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _slurm_cluster():
    """TensorFlow's resolver for SLURM shares out GPUs itself and fails where there are none. The
    task has those that SLURM gave it (srun --gpus-per-task), so only the addresses are taken from
    it."""
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver
    tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
    # Jobs of one node must not meet at one port; a job's workers all know its number.
    port = 20000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 20000
    slurm = resolver.SlurmClusterResolver(
        port_base=port, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
    )
    addresses = slurm.cluster_spec()
    kind, index = slurm.get_task_info()
    gpus = {"GPU": len(tf.config.list_physical_devices("GPU"))}
    return resolver.SimpleClusterResolver(
        addresses, task_type=kind, task_id=index, num_accelerators=gpus, rpc_layer="grpc"
    )


def shards(strategy, workers: Cluster, P: int, K: int, mining: str = "global") -> list[slice]:
    """The parts of a batch of P·K that are those of this worker's replicas, in order.

    Raises: UserError when it cannot be shared out equally, or not so that each replica can mine on
        its own.
    """
    R, B = strategy.num_replicas_in_sync, P * K
    if B % R:
        raise UserError(
            f"a batch should be shared out equally. Received: {B} images (--batch_p times --batch_k), {R} replicas. "
            f"Give a multiple of {R}, or --strategy one."
        )
    if mining == "local" and (P % R or P // R < 2):
        raise UserError(
            f"--mining local needs whole pids, at least 2, on each of {R} replicas. Received: --batch_p {P}. Give a "
            f"multiple of {R} of at least {2 * R}, or --mining global."
        )
    b, local = B // R, R // workers.workers
    return [
        slice(i * b, (i + 1) * b) for i in range(workers.index * local, (workers.index + 1) * local)
    ]


# ------------------------------------------------------------------------- between replicas


def gather(x):
    """In a replica: its [b, ...] to the [R·b, ...] of all, in the order of replicas. Gradients flow
    through it.

    As a sum of parts that are padded with zeros, which is exact and differentiable under every
    strategy.
    """
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    R, place = context.num_replicas_in_sync, context.replica_id_in_sync_group
    if R == 1:
        return x
    b = tf.shape(x)[0]
    ahead = tf.pad(
        tf.reshape(tf.stack([place * b, (R - 1 - place) * b]), [1, 2]),
        [[0, len(x.shape) - 1], [0, 0]],
    )
    gathered = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.pad(x, ahead))
    return tf.ensure_shape(gathered, [x.shape[0] and R * x.shape[0], *x.shape[1:]])


def from_chief(
    strategy, workers: Cluster, values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The chief's values, on every worker; called by all of them, with the same names, shapes and
    dtypes.
    """
    import tensorflow as tf

    if workers.workers == 1:
        return dict(values)

    @tf.function
    def send(tensors):
        def replica(tensors):
            context = tf.distribute.get_replica_context()
            first = tf.equal(context.replica_id_in_sync_group, 0)
            # One by one: TensorFlow packs those of one call together, which takes equal dtypes.
            return [
                context.all_reduce(
                    tf.distribute.ReduceOp.SUM, tf.where(first, tensor, tf.zeros_like(tensor))
                )
                for tensor in tensors
            ]

        return strategy.run(replica, args=(tensors,))

    arrays = {name: np.asarray(value) for name, value in values.items()}
    # Integers of all kinds as the one that collective operations know everywhere.
    sent = [tf.constant(a if a.dtype.kind == "f" else a.astype(np.int64)) for a in arrays.values()]
    received = [strategy.experimental_local_results(tensor)[0].numpy() for tensor in send(sent)]
    return {
        name: value.astype(a.dtype)
        for (name, a), value in zip(arrays.items(), received, strict=True)
    }


@contextlib.contextmanager
def naming_lost_workers(workers: Cluster) -> Iterator[None]:
    """Raises: UserError in place of TensorFlow's pages of text when another worker of the job has
    died.
    """
    try:
        yield
    except Exception as error:
        lost = type(error).__name__ in (
            "UnavailableError",
            "AbortedError",
            "CancelledError",
            "DeadlineExceededError",
        )
        if workers.workers == 1 or not (lost or "Collective ops is aborted" in str(error)):
            raise
        raise UserError(
            f"another worker of the job is gone (this one is number {workers.index} of {workers.workers}, counted from "
            "0): it was killed, lost its connection, or ended with an error of its own, which its output tells. Start "
            "all workers again; a training goes on with --resume."
        ) from None
