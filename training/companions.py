"""What is trained beside the network and not exported.

A classifier of the pids, and a center for each of them. N pids have the labels 0..N-1. Both losses
are float32 [B], one for each anchor, to be added to that of loss.py with a weight.
"""

from typing import NamedTuple

import keras
import tensorflow as tf


def classifier(count: int) -> keras.layers.Layer:
    """The bias-free linear layer from embeddings [B, D] to logits float32 [B, N], `count` = N, of
    the bag of tricks (arXiv:1903.07071). In checkpoints it is classifier/weights [D, N]."""
    return keras.layers.Dense(
        count,
        use_bias=False,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.001),
        dtype="float32",
        name="classifier",
    )


def id_losses(logits: tf.Tensor, labels: tf.Tensor, smoothing: float = 0.1) -> tf.Tensor:
    """Cross-entropy with label smoothing, section 7 of arXiv:1512.00567.

    Args:
        logits: float [B, N].
        labels: int [B], in 0..N-1.
        smoothing: in [0, 1): this part of the probability is spread evenly over all N pids.

    Returns:
        float32 [B].
    """
    log_shares = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    own = tf.gather(log_shares, labels, batch_dims=1)
    return -(1 - smoothing) * own - smoothing * tf.reduce_mean(log_shares, axis=1)


class Centers(keras.layers.Layer):
    """A center of each pid's embeddings, which they are drawn to: the center loss of Wen et al.,
    ECCV 2016.

    Centers are not trained by gradients: `move` takes them towards the embeddings of a batch. They
    begin at 0. In checkpoints they are centers/centers [N, D].

    Args:
        count: N, how many pids there are.
        alpha: how far a batch moves them, in 0..1.
    """

    def __init__(self, count: int, alpha: float = 0.5, **kwargs):
        super().__init__(**({"name": "centers", "dtype": "float32"} | kwargs))
        self.count = count
        self.alpha = alpha

    def build(self, input_shape):
        self.centers = self.add_weight(
            name="centers",
            shape=(self.count, input_shape[-1]),
            initializer="zeros",
            trainable=False,
            # Replicas move theirs by the same batch.
            aggregation="only_first_replica",
        )

    def call(self, embs, labels):
        """Squared distances of embeddings [B, D] to the centers of their labels, int [B] in 0..N-1:
        float32 [B].
        """
        return tf.reduce_sum(
            tf.square(embs - tf.gather(tf.convert_to_tensor(self.centers), labels)), axis=1
        )

    def move(self, embs, labels):
        """Eq. 3 and 4 of the paper: each center c with n embeddings x among these, by -alpha Σ (c -
        x) / (1 + n).

        With replicas, give each of them the embeddings and labels of all, in the same order.
        """
        centers = tf.convert_to_tensor(self.centers)
        differences = tf.gather(centers, labels) - tf.stop_gradient(embs)
        sums = tf.math.unsorted_segment_sum(differences, labels, self.count)
        counts = tf.math.unsorted_segment_sum(tf.ones_like(differences[:, :1]), labels, self.count)
        self.centers.assign(centers - self.alpha * sums / (1 + counts))


class Companions(NamedTuple):
    """The layers that are trained beside a network; None where a loss is not used."""

    classifier: keras.layers.Layer | None = None
    centers: Centers | None = None

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """Those that there are."""
        return [layer for layer in self if layer is not None]

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What the optimizer trains of them."""
        return [variable for layer in self.layers for variable in layer.trainable_variables]


def build(count: int, dim: int, id_loss: bool, center_loss: bool) -> Companions:
    """Make the layers of the losses that are used.

    Args:
        count: number of pids, N.
        dim: dimension of the embeddings, D.
    """
    made = Companions(
        classifier=classifier(count) if id_loss else None,
        centers=Centers(count) if center_loss else None,
    )
    for layer in made.layers:
        layer.build((None, dim))
    return made
