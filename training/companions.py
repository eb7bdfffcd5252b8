"""What is trained or kept beside the network and not exported.

A classifier of the pids, a center for each of them, and a memory of embeddings. N pids have the
labels 0..N-1. The losses of the first two are added to that of loss.py with a weight.
"""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from experiment import id_losses
from experiment.flags import Settings
from training.memory import Memory

# ------------------------------------------------------------------------- losses of identities


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


class CosineClassifier(keras.layers.Layer):
    """From embeddings [B, D] to their cosines with a center of each pid, float32 [B, N].

    A pid may have several centers, of which the nearest counts: sub-center ArcFace, Deng et al.,
    ECCV 2020. In checkpoints they are classifier/weights [D, N·K], those of a pid side by side.

    Args:
        count: N, how many pids there are.
        centers: K, how many centers each has.
        spread: standard deviation of the centers at the start; 0.01 as in ArcFace's own code.
            Lengths do not count, but short centers turn faster.
    """

    def __init__(self, count: int, centers: int = 1, spread: float = 0.01, **kwargs):
        super().__init__(**({"name": "classifier", "dtype": "float32"} | kwargs))
        self.count = count
        self.centers = centers
        self.spread = spread

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.count * self.centers),
            initializer=keras.initializers.RandomNormal(stddev=self.spread),
        )

    def call(self, embs):
        embs = tf.math.l2_normalize(embs, axis=1)
        centers = tf.math.l2_normalize(tf.convert_to_tensor(self.kernel), axis=0)
        cosines = tf.linalg.matmul(embs, centers)
        if self.centers == 1:
            return cosines
        return tf.reduce_max(tf.reshape(cosines, [-1, self.count, self.centers]), axis=2)


class IdLoss(NamedTuple):
    """Which loss of identities, and its constants.

    Attributes:
        name: one of experiment/id_losses.py.
        scale: what cosines are multiplied by.
        margins: float32 [N], of each pid.
        smoothing: see cross_entropy.
    """

    name: str = "softmax"
    scale: float = 1.0
    margins: np.ndarray | None = None
    smoothing: float = 0.1

    @property
    def of_whole_batch(self) -> bool:
        """Whether it is no mean of the losses of anchors, but takes all of a batch together."""
        return self.name == "proxy_anchor"

    def mean(self, scores: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The loss of a batch, a float32 scalar. scores, labels: as of `losses`."""
        if not self.of_whole_batch:
            return tf.reduce_mean(self.losses(scores, labels))
        return proxy_anchor(tf.cast(scores, tf.float32), labels, self.margins, self.scale)

    def losses(self, scores: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The losses of anchors, unless it is of the whole batch.

        Args:
            scores: float [B, N], what the classifier gives: logits, or cosines.
            labels: int [B], in 0..N-1.

        Returns:
            float32 [B].
        """
        logits = tf.cast(scores, tf.float32)
        if self.name != "softmax":
            margins = tf.gather(tf.constant(self.margins, tf.float32), labels)
            logits = self.scale * WITH_MARGIN[self.name](logits, labels, margins)
        return cross_entropy(logits, labels, self.smoothing)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, smoothing: float = 0.1) -> tf.Tensor:
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


# Cosines with a margin: they take
#   cosines: float32 [B, N]. labels: int [B]. margins: float32 [B], those of the labels.
# and give float32 [B, N], to be multiplied by the scale.


def cosface(cosines: tf.Tensor, labels: tf.Tensor, margins: tf.Tensor) -> tf.Tensor:
    """The large margin cosine loss, eq. 4 of arXiv:1801.09414: the own pid has cos θ - m."""
    return _with_own(cosines, labels, lambda own: own - margins)


def arcface(cosines: tf.Tensor, labels: tf.Tensor, margins: tf.Tensor) -> tf.Tensor:
    """The additive angular margin loss, eq. 3 of arXiv:1801.07698: the own pid has cos(θ + m).

    Beyond θ + m = π, where that would rise again, it is cos θ - m sin m, as in the paper's code.
    """

    def moved(own):
        # The root has no slope at θ = 0 and π: there, the gradient would be infinite times 0.
        sine = tf.sqrt(tf.maximum(1 - own * own, 1e-12))
        rotated = own * tf.cos(margins) - sine * tf.sin(margins)
        return tf.where(own > -tf.cos(margins), rotated, own - margins * tf.sin(margins))

    return _with_own(cosines, labels, moved)


def circle(cosines: tf.Tensor, labels: tf.Tensor, margins: tf.Tensor) -> tf.Tensor:
    """The circle loss with labels of classes, section 3 of arXiv:2002.10857.

    The own pid has (1 + m - cos θ)₊ (cos θ - 1 + m), the others have (cos θ + m)₊ (cos θ - m). The
    weights have no gradient.
    """
    m = margins[:, None]
    weights = tf.stop_gradient(tf.nn.relu(cosines + m))
    others = weights * (cosines - m)
    own = tf.gather(cosines, labels, batch_dims=1)
    own_weights = tf.stop_gradient(tf.nn.relu(1 + margins - own))
    return _with_own(others, labels, lambda _: own_weights * (own - 1 + margins))


def _with_own(scores: tf.Tensor, labels: tf.Tensor, function) -> tf.Tensor:
    """The scores [B, N], those of the labels [B] as the function of them gives them, [B] -> [B]."""
    own = function(tf.gather(scores, labels, batch_dims=1))
    is_own = tf.equal(tf.range(tf.shape(scores)[1])[None], tf.cast(labels, tf.int32)[:, None])
    return tf.where(is_own, own[:, None], scores)


WITH_MARGIN = {"cosface": cosface, "arcface": arcface, "circle": circle}


def proxy_anchor(
    cosines: tf.Tensor, labels: tf.Tensor, margins: np.ndarray, scale: float
) -> tf.Tensor:
    """The proxy anchor loss, eq. 4 of arXiv:2003.13911: a center of each pid is the anchor.

    Args:
        cosines: float32 [B, N], with the proxies.
        labels: int [B], in 0..N-1.
        margins: float32 [N], δ in the paper. scale: α.

    Returns:
        float32 scalar: over the pids of the batch, the mean of log(1 + Σ e^(-α (cos - δ))) of their
        embeddings; and over all N, that of log(1 + Σ e^(α (cos + δ))) of those of the others.
    """
    positives = tf.equal(tf.range(tf.shape(cosines)[1]), tf.cast(labels, tf.int32)[:, None])
    pull = _log_sum_exp(-scale * (cosines - margins), positives)
    push = _log_sum_exp(scale * (cosines + margins), ~positives)
    present = tf.math.count_nonzero(tf.reduce_any(positives, axis=0), dtype=tf.float32)
    # softplus(log Σ e^x) = log(1 + Σ e^x), and 0 without any x.
    return tf.reduce_sum(tf.nn.softplus(pull)) / present + tf.reduce_mean(tf.nn.softplus(push))


def _log_sum_exp(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """log Σ e^x of the rows in the mask, [B, N] -> [N]; -inf without any."""
    return tf.reduce_logsumexp(tf.where(mask, logits, -float("inf")), axis=0)


# ------------------------------------------------------------------------- the center loss


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


# ------------------------------------------------------------------------- all of them


class Companions(NamedTuple):
    """The layers that are kept beside a network; None where there is no use for one.

    Attributes:
        classifier: from embeddings [B, D] to what id_loss takes, float32 [B, N].
        centers: those of the center loss.
        id_loss: how the classifier's output becomes losses.
        memory: embeddings of earlier batches, that anchors are compared with, too.
    """

    classifier: keras.layers.Layer | None = None
    centers: Centers | None = None
    id_loss: IdLoss = IdLoss()
    memory: Memory | None = None

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """Those that there are."""
        layers = self.classifier, self.centers, self.memory
        return [layer for layer in layers if layer is not None]

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What the optimizer trains of them."""
        return [variable for layer in self.layers for variable in layer.trainable_variables]

    def move(self, embs: tf.Tensor, labels: tf.Tensor) -> None:
        """At the end of an iteration: change what no gradient changes.

        Args:
            embs: float32 [B, D], those that the losses were taken of, of all replicas.
            labels: int [B].
        """
        if self.centers:
            self.centers.move(embs, labels)
        if self.memory:
            self.memory.enqueue(embs, labels)


def build(images: np.ndarray, settings: Settings) -> Companions:
    """Make the layers of the losses that are used.

    Args:
        images: number of images of each pid, int [N].
    """
    count = len(images)
    B = settings.images_per_batch
    made = Companions(
        classifier=_classifier(count, settings) if settings.id_loss_weight > 0 else None,
        centers=Centers(count) if settings.center_loss_weight > 0 else None,
        id_loss=_id_loss(images, settings),
        memory=Memory(settings.memory_batches * B) if settings.memory_batches else None,
    )
    for layer in made.layers:
        layer.build((None, settings.embedding_dim))
    return made


def _classifier(count: int, settings: Settings) -> keras.layers.Layer:
    if settings.id_loss == "softmax":
        return classifier(count)
    if settings.id_loss == "proxy_anchor":
        return CosineClassifier(count, spread=(2 / count) ** 0.5)  # as in the paper's code
    return CosineClassifier(count, settings.id_centers)


def _id_loss(images: np.ndarray, settings: Settings) -> IdLoss:
    own = id_losses.ID_LOSSES[settings.id_loss]
    if settings.id_margin_by_count is not None:
        margin = id_losses.MarginByCount.parse(settings.id_margin_by_count)
        margins = margin.a * np.asarray(images, float) ** -margin.power + margin.least
    else:
        value = own.margin if settings.id_margin is None else settings.id_margin
        margins = np.full(len(images), value or 0.0)
    return IdLoss(
        name=settings.id_loss,
        scale=settings.id_scale or own.scale or 1.0,
        margins=margins.astype(np.float32),
        smoothing=settings.smoothing or 0.0,
    )
