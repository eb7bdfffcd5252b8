"""Embeddings of earlier batches, which those of a batch are compared with, too: --memory_batches."""

import keras
import tensorflow as tf

import loss


class Memory(keras.layers.Layer):
    """The embeddings of the last batches and their labels: the cross-batch memory of Wang et al.,
    CVPR 2020 (arXiv:1912.06798).

    In checkpoints they are memory/embs [M, D] and memory/labels, int64 [M], the newest at the end;
    a label of -1 stands for a row that is still empty.

    Args:
        size: M, how many embeddings it holds.
    """

    def __init__(self, size: int, **kwargs):
        super().__init__(**({"name": "memory", "dtype": "float32"} | kwargs))
        self.size = size

    def build(self, input_shape):
        # Replicas put the same into theirs.
        shared = {"trainable": False, "aggregation": "only_first_replica"}
        self.embs = self.add_weight(
            name="embs", shape=(self.size, input_shape[-1]), initializer="zeros", **shared
        )
        self.labels = self.add_weight(
            name="labels",
            shape=(self.size,),
            dtype="int64",
            initializer=keras.initializers.Constant(-1),
            **shared,
        )

    def enqueue(self, embs, labels):
        """Put embeddings [B, D] and labels [B] at the end; what is at the front leaves.

        With replicas, give each of them the embeddings and labels of all, in the same order.
        """
        old_embs = tf.convert_to_tensor(self.embs)
        old_labels = tf.convert_to_tensor(self.labels)
        B = embs.shape[0]
        self.embs.assign(tf.concat([old_embs[B:], tf.stop_gradient(embs)], axis=0))
        self.labels.assign(tf.concat([old_labels[B:], tf.cast(labels, tf.int64)], axis=0))

    def append_to(self, columns: loss.Columns, in_use: tf.Tensor) -> loss.Columns:
        """The columns of a batch, and behind them what is in the memory. It has no gradient.

        Args:
            columns: with embs.
            in_use: bool scalar; False: the rows of the memory count as empty.
        """
        labels = tf.convert_to_tensor(self.labels)
        of_batch = tf.ones_like(columns.pids, tf.bool)
        return columns._replace(
            pids=tf.concat([columns.pids, tf.cast(labels, columns.pids.dtype)], axis=0),
            embs=tf.concat([columns.embs, tf.convert_to_tensor(self.embs)], axis=0),
            there=tf.concat([of_batch, (labels >= 0) & in_use], axis=0),
        )
