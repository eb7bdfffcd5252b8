"""What passes between replicas, and which part of a batch each of them has."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from common import UserError
from runtime.cluster import Cluster, find_cluster


def describe(strategy, cluster: Cluster) -> str:
    """The devices of this process that a strategy works on, in words."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "the CPU"
    used = strategy.num_replicas_in_sync // cluster.size
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "of unknown name")
    count = f"{used} GPU" if used == len(gpus) == 1 else f"{used} of {len(gpus)} GPUs"
    return f"{count} ({name})"


def shards(strategy, cluster: Cluster, P: int, K: int, mining: str = "global") -> list[slice]:
    """The parts of a batch of P·K images that this worker's replicas have, in order.

    Raises:
        UserError when the batch cannot be shared out equally, or not so that each replica can mine
        on its own.
    """
    R = strategy.num_replicas_in_sync
    parts = _equal_parts(P * K, "--batch_p times --batch_k", R, cluster)
    if mining == "local" and (P % R or P // R < 2):
        raise UserError(
            f"--mining local needs whole pids, at least 2, on each of {R} replicas. Received: "
            f"--batch_p {P}. Give a multiple of {R} of at least {2 * R}, or --mining global."
        )
    return parts


def shards_of_images(strategy, cluster: Cluster, B: int, mining: str = "global") -> list[slice]:
    """As `shards`, of a batch of B images whose pids come as they may.

    Raises:
        UserError when the batch cannot be shared out equally, or a replica would mine in one image.
    """
    R = strategy.num_replicas_in_sync
    parts = _equal_parts(B, "--batch_size", R, cluster)
    if mining == "local" and B // R < 2:
        raise UserError(
            f"--mining local needs at least 2 images on each of {R} replicas. Received: --batch_size {B}. Give at "
            f"least {2 * R}, or --mining global."
        )
    return parts


def _equal_parts(B: int, of_flags: str, R: int, cluster: Cluster) -> list[slice]:
    if B % R:
        raise UserError(
            f"a batch should be shared out equally. Received: {B} images ({of_flags}), {R} replicas. Give a multiple "
            f"of {R}, or --strategy one."
        )
    b = B // R
    return [slice(i * b, (i + 1) * b) for i in _own_replicas(R, cluster)]


def _own_replicas(R: int, cluster: Cluster) -> range:
    """The numbers of this worker's replicas, of R in all."""
    local = R // cluster.size
    return range(cluster.index * local, (cluster.index + 1) * local)


class Turns(NamedTuple):
    """Replicas take items in turns: replica r has the items r, r + R, r + 2 R and so on."""

    replicas: int  # R, on all workers
    own: range  # the numbers of this worker's replicas

    def of_worker(self, count: int) -> list[int]:
        """The numbers of this worker's items of `count` in all, in order.

        The last item comes several times if replicas would not have equally many otherwise.
        """
        items = range(count + -count % self.replicas)
        return [min(i, count - 1) for i in items if i % self.replicas in self.own]

    def of_replica(self, items: tf.Tensor) -> tf.Tensor:
        """In a replica: of this worker's items, [n, ...], its own, [n / len(own), ...]."""
        place = tf.distribute.get_replica_context().replica_id_in_sync_group
        local = len(self.own)
        return items[place % local :: local]

    def gather(self, x: tf.Tensor) -> tf.Tensor:
        """In a replica: from its [n, D, E] to the [n·R, D, E] of all, in the order of the items."""
        by_replica = tf.reshape(gather(x), [self.replicas, -1, *x.shape[1:]])
        by_turn = tf.transpose(by_replica, [1, 0, 2, 3])
        return tf.reshape(by_turn, [-1, *x.shape[1:]])


def turns(strategy) -> Turns:
    """The turns of the replicas of a strategy."""
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    cluster = find_cluster() if several else Cluster()
    R = strategy.num_replicas_in_sync
    return Turns(replicas=R, own=_own_replicas(R, cluster))


def gather(x):
    """In a replica: from its [b, ...] to the [R·b, ...] of all, in the order of replicas.

    It is a sum of parts that are padded with zeros: exact and differentiable under every strategy.
    """
    context = tf.distribute.get_replica_context()
    R = context.num_replicas_in_sync
    place = context.replica_id_in_sync_group
    if R == 1:
        return x
    b = tf.shape(x)[0]
    before_and_after = tf.reshape(tf.stack([place * b, (R - 1 - place) * b]), [1, 2])
    paddings = tf.pad(before_and_after, [[0, len(x.shape) - 1], [0, 0]])
    gathered = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.pad(x, paddings))
    return tf.ensure_shape(gathered, [x.shape[0] and R * x.shape[0], *x.shape[1:]])


def own_part(x: tf.Tensor | None, b: int) -> tf.Tensor | None:
    """In a replica: of what there is for each image of the batch, [R·b, ...], its own, [b, ...].

    Nothing, None, has no parts.
    """
    if x is None:
        return None
    place = tf.distribute.get_replica_context().replica_id_in_sync_group
    return x[place * b : place * b + b]


def broadcast(
    strategy, cluster: Cluster, values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The chief's values, on every worker.

    All workers call this, with the same names, shapes and dtypes.
    """
    if cluster.size == 1:
        return dict(values)

    @tf.function
    def send(tensors):
        def replica(tensors):
            context = tf.distribute.get_replica_context()
            is_first = tf.equal(context.replica_id_in_sync_group, 0)
            # One by one: TensorFlow packs those of one call together, which takes equal dtypes.
            return [
                context.all_reduce(
                    tf.distribute.ReduceOp.SUM, tf.where(is_first, tensor, tf.zeros_like(tensor))
                )
                for tensor in tensors
            ]

        return strategy.run(replica, args=(tensors,))

    arrays = {name: np.asarray(value) for name, value in values.items()}
    received = send([tf.constant(_sendable(array)) for array in arrays.values()])
    return {
        name: strategy.experimental_local_results(tensor)[0].numpy().astype(array.dtype)
        for (name, array), tensor in zip(arrays.items(), received, strict=True)
    }


def assign_those_of_chief(strategy, cluster: Cluster, variables: Mapping) -> None:
    """Assign the chief's values to the variables of every worker. All workers call this.

    Args:
        variables: {name: variable}.
    """
    if cluster.size == 1:
        return
    values = {name: variable.numpy() for name, variable in variables.items()}
    for name, value in broadcast(strategy, cluster, values).items():
        variables[name].assign(value)


def _sendable(array: np.ndarray) -> np.ndarray:
    """int64 for all integers: collective operations know it everywhere."""
    return array if array.dtype.kind == "f" else array.astype(np.int64)


def barrier(strategy, cluster: Cluster) -> None:
    """Wait until every worker has come here."""
    broadcast(strategy, cluster, {"here": np.int64(1)})
