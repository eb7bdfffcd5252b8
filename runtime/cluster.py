"""The processes of a job, and TensorFlow's strategy for their devices.

A worker is a process, the first of which is the chief. A replica is a device with its copy of the
network; R replicas share each batch in equal parts, in order. One device is R = 1 of the same code.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

import common
from common import UserError
from runtime.tensorflow import import_tensorflow

# TensorFlow's errors when the connection to another worker breaks.
_LOST_CONNECTION = ("UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError")


@dataclass(frozen=True)
class Cluster:
    """The workers of a job, `size` of them, and the number of the one that this process is."""

    size: int = 1
    index: int = 0

    @property
    def is_chief(self) -> bool:
        """The chief is number 0. It alone writes files."""
        return self.index == 0


def find_cluster(strategy: str = "auto") -> Cluster:
    """Read the cluster from the environment: TF_CONFIG, else SLURM's variables of a job step.

    Args:
        strategy: one of common.STRATEGIES. Only "auto" and "multi_worker" ask the environment.

    Raises: UserError for a TF_CONFIG that makes no sense, and for "multi_worker" where the
        environment names no workers.
    """
    if strategy not in ("auto", "multi_worker"):
        return Cluster()
    if os.environ.get("TF_CONFIG"):
        found = _from_tf_config(os.environ["TF_CONFIG"])
    else:
        size = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
        found = Cluster(size, int(os.environ.get("SLURM_PROCID", 0)))
    if strategy == "multi_worker" and found.size == 1:
        raise UserError(
            "--strategy multi_worker needs a job of several workers. Received: neither a TF_CONFIG "
            "that names them nor a SLURM step of several tasks. Set TF_CONFIG for every worker, "
            "start them with srun, or leave --strategy out."
        )
    return found


def _from_tf_config(text: str) -> Cluster:
    try:
        config = json.loads(text)
        jobs = config.get("cluster", {})
        task = config.get("task", {"type": "worker", "index": 0})
        kind = task["type"]
        index = int(task["index"])
        sizes = {name: len(jobs.get(name, [])) for name in ("chief", "worker")}
        if jobs and (kind not in sizes or not 0 <= index < sizes[kind]):
            raise ValueError(f"task {kind} {index} is none of the cluster's")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG makes no sense ({error}). Received: {text}. It should be like "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
            '"task": {"type": "worker", "index": 0}}.'
        ) from None
    return Cluster(max(1, sum(sizes.values())), index + (sizes["chief"] if kind == "worker" else 0))


def make_strategy(name: str):
    """Make a tf.distribute.Strategy. Call this before anything else of TensorFlow.

    With several workers it waits until all of them are there.

    Args:
        name: one of common.STRATEGIES.

    Raises: UserError as find_cluster does, and when the workers cannot get together.
    """
    several = find_cluster(name).size > 1
    # TensorFlow takes workers that end one after the other for a crash and prints pages about it.
    tf = import_tensorflow(log_level=3 if several else 2)
    if several:
        options = {} if os.environ.get("TF_CONFIG") else {"cluster_resolver": _slurm_resolver()}
        try:
            return tf.distribute.MultiWorkerMirroredStrategy(**options)
        except (tf.errors.OpError, RuntimeError) as error:
            raise UserError(
                "the workers of the job did not get together: "
                f"{common.reason(error)[:300]}. All of them have to be started, with the same "
                "addresses, which have to be free and within reach."
            ) from None
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    several_gpus = len(devices) > 1 and devices[0].device_type == "GPU"
    if name == "mirrored" or (name == "auto" and several_gpus):
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _slurm_resolver():
    """Only the addresses of TensorFlow's resolver for SLURM.

    That resolver shares out GPUs itself and fails where there are none. But a task already has the
    GPUs that SLURM gave it (srun --gpus-per-task).
    """
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


@contextlib.contextmanager
def explain_lost_workers(cluster: Cluster) -> Iterator[None]:
    """Raises: UserError in place of TensorFlow's pages of text when another worker has died."""
    try:
        yield
    except Exception as error:
        lost = type(error).__name__ in _LOST_CONNECTION or "Collective ops is aborted" in str(error)
        if cluster.size == 1 or not lost:
            raise
        raise UserError(
            "another worker of the job is gone (this one is number "
            f"{cluster.index} of {cluster.size}, counted from 0): it was killed, lost its "
            "connection, or ended with an error of its own, which its output tells. Start all "
            "workers again; a training goes on with --resume."
        ) from None
