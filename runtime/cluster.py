"""The processes of a job, and TensorFlow's strategy for their devices.

A worker is a process, the first of which is the chief. A replica is a device with its copy of the
network; R replicas share each batch in equal parts, in order. One device is R = 1 of the same code.
"""

import contextlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import common
from common import UserError
from runtime import rendezvous
from runtime.tensorflow import import_tensorflow, why_no_gpu
from runtime.terminal import log

# TensorFlow's errors when the connection to another worker breaks.
_LOST_CONNECTION = ("UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError")

_MOST_NODES = 100_000

_TF_CONFIG_EXAMPLE = (
    'It should be like {"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}.'
)


@dataclass(frozen=True)
class Cluster:
    """The workers of a job, `size` of them, and the number of the one that this process is."""

    size: int = 1
    index: int = 0
    # host:port of each worker, where there are several.
    addresses: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_chief(self) -> bool:
        """The chief is number 0. It alone writes files."""
        return self.index == 0


def find_cluster(strategy: str = "auto") -> Cluster:
    """Read the cluster from the environment: TF_CONFIG, else SLURM's variables of a job step.

    A variable that is empty counts as one that is not set.

    Args:
        strategy: one of common.STRATEGIES. Only "auto" and "multi_worker" ask the environment.

    Raises:
        UserError for variables that make no sense, and for "multi_worker" where the environment
        names no workers.
    """
    if strategy not in ("auto", "multi_worker"):
        return Cluster()
    tf_config = os.environ.get("TF_CONFIG")
    found = _from_tf_config(tf_config) if tf_config else _from_slurm()
    if strategy == "multi_worker" and found.size == 1:
        raise UserError(
            "--strategy multi_worker needs a job of several workers. Received: neither a TF_CONFIG "
            "that names them nor a SLURM step of several tasks. Set TF_CONFIG for every worker, "
            "start them with srun, or leave --strategy out."
        )
    return found


# ------------------------------------------------------------------------- TF_CONFIG


def _from_tf_config(text: str) -> Cluster:
    try:
        config = json.loads(text)
        jobs = config.get("cluster") or {}
        if not jobs:
            return Cluster()
        addresses = {name: _addresses(name, jobs.get(name, [])) for name in ("chief", "worker")}
        task = config.get("task", {"type": "worker", "index": 0})
        kind = task["type"]
        index = _index(task["index"])
        if kind not in addresses or not 0 <= index < len(addresses[kind]):
            raise ValueError(f"task {kind} {index} is none of the cluster's")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"TF_CONFIG makes no sense ({common.reason(error)[:200]}). Received: {text[:300]}. "
            f"{_TF_CONFIG_EXAMPLE}"
        ) from None
    every = (*addresses["chief"], *addresses["worker"])
    return Cluster(len(every), index + (len(addresses["chief"]) if kind == "worker" else 0), every)


def _addresses(job: str, stored: Any) -> list[str]:
    """The addresses of a job of TF_CONFIG. Raises: ValueError for what are none."""
    if not isinstance(stored, list):
        raise ValueError(f"{job} should be a list of addresses")
    for address in stored:
        match = isinstance(address, str) and re.fullmatch(r"\S+:([0-9]{1,5})", address)
        if not match or not address.isprintable() or not 1 <= int(match[1]) <= 65535:
            raise ValueError(f"{json.dumps(address)} should be an address such as host1:2222")
    if len(set(stored)) < len(stored):
        raise ValueError(f"an address of {job} stands there twice")
    return stored


def _index(stored: Any) -> int:
    """A task's number; TensorFlow takes text, too. Raises: ValueError for what is no integer."""
    is_integer = isinstance(stored, int) and not isinstance(stored, bool)
    if not is_integer and not (isinstance(stored, str) and re.fullmatch("[0-9]{1,9}", stored)):
        raise ValueError(f"the index should be an integer, not {json.dumps(stored)[:50]}")
    return int(stored)


# ------------------------------------------------------------------------- SLURM


def _from_slurm() -> Cluster:
    """The tasks of a job step. SLURM_PROCID without several tasks means nothing."""
    size = _slurm_number("STEP_NUM_TASKS", 1, lowest=1)
    if size == 1:
        return Cluster()
    index = _slurm_number("PROCID", 0)
    if index >= size:
        raise _slurm_error("PROCID", f"below {size}, the number of tasks")
    return Cluster(size, index, _slurm_addresses(size))


def _slurm_number(name: str, default: int, lowest: int = 0) -> int:
    text = os.environ.get(f"SLURM_{name}") or str(default)
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < lowest:
        raise _slurm_error(name, f"an integer of at least {lowest}")
    return int(text)


def _slurm_error(name: str, allowed: str) -> UserError:
    received = os.environ.get(f"SLURM_{name}")
    received = "no such variable" if received is None else repr(received[:100])
    return UserError(
        f"SLURM_{name} should be {allowed}. Received: {received}. srun sets it for each task; to "
        "work without other tasks, give --strategy one."
    )


def _slurm_addresses(size: int) -> tuple[str, ...]:
    """host:port of each of the tasks, by the order of the nodes."""
    # Jobs of one node must not meet at one port; a job's workers all know its number.
    first_port = 20000 + _slurm_number("JOB_ID", 0) % 20000
    try:
        nodes = _nodes(os.environ.get("SLURM_STEP_NODELIST", ""))
    except ValueError:
        raise _slurm_error("STEP_NODELIST", "a list of nodes such as node[1-3],other") from None
    try:
        counts = _tasks_per_node(os.environ.get("SLURM_STEP_TASKS_PER_NODE") or "1")
    except ValueError:
        raise _slurm_error("STEP_TASKS_PER_NODE", "a list such as 2(x3),1") from None
    if len(counts) == 1 < len(nodes):
        counts = counts * len(nodes)
    if len(counts) != len(nodes) or sum(counts) != size:
        raise _slurm_error("STEP_TASKS_PER_NODE", f"{size} tasks on {len(nodes)} nodes in all")
    return tuple(
        f"{node}:{first_port + task}"
        for node, count in zip(nodes, counts, strict=True)
        for task in range(count)
    )


def _nodes(text: str) -> list[str]:
    """node[08-10],other -> node08, node09, node10, other. Raises: ValueError for another form."""
    names = re.findall(r"(?:[^\s,\[\]]|\[[^\s\[\]]+\])+", text)
    if not names or ",".join(names) != text:
        raise ValueError(text)
    nodes = []
    for name in names:
        # Text and what was in brackets, in turns.
        parts = re.split(r"\[(.*?)\]", name)
        choices = [_numbers(part) if i % 2 else [part] for i, part in enumerate(parts)]
        if math.prod(map(len, choices)) > _MOST_NODES:
            raise ValueError(text)
        nodes += ["".join(chosen) for chosen in itertools.product(*choices)]
    return nodes


def _numbers(text: str) -> list[str]:
    """08-10,12 -> 08, 09, 10, 12."""
    numbers = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if match is None:
            raise ValueError(text)
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + _MOST_NODES:
            raise ValueError(text)
        numbers += [f"{number:0{len(match[1])}}" for number in range(first, last + 1)]
    return numbers


def _tasks_per_node(text: str) -> list[int]:
    """2(x3),1 -> 2, 2, 2, 1."""
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,5})\))?", part)
        if match is None:
            raise ValueError(text)
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


# ------------------------------------------------------------------------- the strategy


def make_strategy(name: str):
    """Make a tf.distribute.Strategy. Call this before anything else of TensorFlow.

    With several workers it waits until all of them are there, at most rendezvous.LONGEST seconds. A GPU
    that is there and cannot be used is warned about.

    Args:
        name: one of common.STRATEGIES.

    Raises:
        UserError as find_cluster does, and when the workers cannot get together.
    """
    cluster = find_cluster(name)
    several = cluster.size > 1
    # TensorFlow takes workers that end one after the other for a crash and prints pages about it.
    tf = import_tensorflow(log_level=3 if several else 2)
    if not tf.config.list_physical_devices("GPU"):
        reason = why_no_gpu()
        if reason:
            log.warning(f"There is an NVIDIA GPU, but the CPU does the work: {reason}")
    if several:
        rendezvous.meet(cluster.addresses, cluster.index)
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
    """The workers of a SLURM step, for TensorFlow.

    TensorFlow's own resolver for SLURM shares out GPUs itself and fails where there are none. But a
    task already has the GPUs that SLURM gave it (srun --gpus-per-task).
    """
    import tensorflow as tf

    cluster = _from_slurm()
    resolver = tf.distribute.cluster_resolver
    gpus = {"GPU": len(tf.config.list_physical_devices("GPU"))}
    return resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators=gpus,
        rpc_layer="grpc",
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
