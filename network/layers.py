"""Layers that nets and heads share."""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import NamedTuple

import keras
import tensorflow as tf

from network.convolutions import in_bfloat16_on_cpu
from runtime import devices

# Channels that oneDNN takes together. Other numbers of them it normalizes four times slower in
# bfloat16.
_TOGETHER = 16


class Chunk(NamedTuple):
    """A part of a training's batch that goes through the network on its own.

    Attributes:
        index: int32 scalar, 0 for the first. total: how many chunks the batch has.
        moves: whether the chunk moves the running statistics of batch norm.
    """

    index: tf.Tensor
    total: int
    moves: bool


# Of the replica that is being traced: each has a thread of its own.
_chunk: contextvars.ContextVar[Chunk | None] = contextvars.ContextVar("chunk", default=None)


@contextlib.contextmanager
def calling_with(chunk: Chunk) -> Iterator[None]:
    """Within the context, networks are called in training with a chunk of the batch."""
    token = _chunk.set(chunk)
    try:
        yield
    finally:
        _chunk.reset(token)


class Draws(NamedTuple):
    """What the random numbers of an iteration are drawn from.

    Attributes:
        seed: of the run, an integer of 64 bits.
        iteration: int64 scalar, the number of finished ones.
    """

    seed: int
    iteration: tf.Tensor


_draws: contextvars.ContextVar[Draws | None] = contextvars.ContextVar("draws", default=None)


@contextlib.contextmanager
def drawing(seed: int, iteration: tf.Tensor) -> Iterator[None]:
    """Within the context, DropPath draws for an iteration; see Draws for seed and iteration."""
    token = _draws.set(Draws(seed, iteration))
    try:
        yield
    finally:
        _draws.reset(token)


_cameras: contextvars.ContextVar[tf.Tensor | None] = contextvars.ContextVar("cameras", default=None)


@contextlib.contextmanager
def seen_by(cameras: tf.Tensor | None) -> Iterator[None]:
    """Within the context, networks are called with images of these cameras.

    Args:
        cameras: the number of each image's camera, int32 [B], from 0 on; -1 for a camera without
            embedding. None, and without the context: no camera has one.
    """
    token = _cameras.set(cameras)
    try:
        yield
    finally:
        _cameras.reset(token)


class BatchNorm(keras.layers.Layer):
    """Batch normalization in one fused operation, over all axes but the last.

    In training it normalizes with the statistics of the batch and moves the running ones towards
    them by (1 - decay) of the way. The running variance is Bessel-corrected, n / (n - 1), as in
    TensorFlow 1. Keras' own layer is slower, with several passes over the batch, and keeps the
    biased variance. In inference it normalizes with the running statistics.

    A batch may come in chunks (calling_with). Each is normalized with its own statistics, as if a
    replica of its own that is not synchronized had it, and the running ones move once a batch,
    towards the mean of those of the chunks.

    Inputs: [B, H, W, C] or [B, C], of the layer's compute dtype. The output has their shape and
    dtype; parameters and statistics are float32 under every policy.

    Args:
        decay: part of the running statistics that one training step leaves in place, in [0, 1).
        epsilon: added to the variance, above 0.
        center: whether there is a beta to be added; else the mean becomes 0.

    Attributes:
        synchronized: whether replicas normalize with the statistics of all images, as one device
            would. If not, each takes those of its own images, which saves two messages a layer. On
            one device there is no difference.
        frozen: whether it normalizes with the running statistics in training, too, and leaves them
            as they are.
        places: H times W, 1 for [B, C]; None where height or width may differ.
    """

    def __init__(self, decay: float = 0.9, epsilon: float = 1e-5, center: bool = True, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= decay < 1:
            raise ValueError(f"decay should be in [0, 1). Received: {decay}")
        if not epsilon > 0:
            raise ValueError(f"epsilon should be above 0. Received: {epsilon}")
        self.decay = decay
        self.epsilon = epsilon
        self.center = center
        self.synchronized = True
        self.frozen = False

    def build(self, input_shape):
        if len(input_shape) not in (2, 4):
            raise ValueError(
                f"BatchNorm takes inputs of shape [B, C] or [B, H, W, C]. Received: {input_shape}"
            )
        sides = input_shape[1:-1]
        self.places = None if None in sides else math.prod(sides)
        # Not cast to the compute dtype: the fused op takes half-precision images with float32
        # parameters.
        options = {"shape": (input_shape[-1],), "dtype": "float32", "autocast": False}
        # Replicas that are not synchronized see different batches: their running statistics are
        # averaged.
        running = options | {"trainable": False, "aggregation": "mean"}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **options)
        self.beta = (
            self.add_weight(name="beta", initializer="zeros", **options) if self.center else None
        )
        self.moving_mean = self.add_weight(name="moving_mean", initializer="zeros", **running)
        self.moving_variance = self.add_weight(
            name="moving_variance", initializer="ones", **running
        )

    def call(self, inputs, training=False):
        x = inputs
        if len(inputs.shape) == 2:  # the fused op knows images only
            x = tf.reshape(inputs, [-1, 1, 1, inputs.shape[-1]])
        if in_bfloat16_on_cpu(x) and x.shape[-1] % _TOGETHER:
            x = tf.cast(x, tf.float32)
        R = tf.distribute.get_strategy().num_replicas_in_sync
        training = bool(training) and not self.frozen
        together = training and self.synchronized and R > 1
        y = self._across_replicas(x) if together else self._fused(x, training)
        y = tf.cast(y, inputs.dtype)
        return tf.reshape(y, [-1, inputs.shape[-1]]) if len(inputs.shape) == 2 else y

    def _fused(self, x, training: bool):
        in_chunks = training and _chunk.get() is not None
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta) if self.center else tf.zeros(x.shape[-1]),
            mean=tf.convert_to_tensor(self.moving_mean),
            variance=tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            exponential_avg_factor=1.0 if in_chunks else 1 - self.decay,
            is_training=training,
        )
        if in_chunks:  # mean and variance are those of the chunk
            self._move(self.moving_mean, mean)
            self._move(self.moving_variance, variance)
        elif training:  # mean and variance are the running ones, already moved
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance)
        return y

    def _across_replicas(self, x):
        images = tf.cast(x, tf.float32)
        own = tf.nn.moments(images, axes=[0, 1, 2])
        means, variances = tf.unstack(devices.gather(tf.stack(own)[None]), axis=1)
        mean = tf.reduce_mean(means, axis=0)
        variance = tf.reduce_mean(variances + tf.math.squared_difference(means, mean), axis=0)
        y = tf.nn.batch_normalization(images, mean, variance, self.beta, self.gamma, self.epsilon)

        n = tf.cast(tf.reduce_prod(tf.shape(x)[:3]) * tf.shape(means)[0], tf.float32)
        unbiased = variance * n / tf.maximum(n - 1, 1)
        self._move(self.moving_mean, mean)
        self._move(self.moving_variance, unbiased)
        return tf.cast(y, x.dtype)

    def _move(self, running, value) -> None:
        chunk = _chunk.get()
        if chunk is None:
            running.assign(self.decay * running + (1 - self.decay) * value)
        elif chunk.moves:
            # What the later chunks leave of this one's share is the same for all.
            share = (1 - self.decay) / chunk.total
            later = tf.cast(chunk.total - 1 - chunk.index, tf.float32)
            running.assign_add(share / (1 - later * share) * (value - running))

    def compute_output_spec(self, inputs, training=False):  # noqa: ARG002, as Keras calls it
        # Without this Keras would trace `call`, and a deep net would take twice as long to build.
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        return super().get_config() | {
            "decay": self.decay,
            "epsilon": self.epsilon,
            "center": self.center,
        }


class GeM(keras.layers.Layer):
    """Generalized mean over height and width, (mean of x^p)^(1/p), with a p that is learned.

    From arXiv:1711.02512. p = 1 is the mean; the larger p, the closer it is to the maximum. p
    starts at 3. x should not be negative: it is taken as at least 1e-6.

    Inputs: [B, H, W, C] -> [B, C], float32: half precision has no room for the powers.
    """

    def build(self, input_shape):  # noqa: ARG002, as Keras calls it
        self.p = self.add_weight(name="p", shape=(), initializer=keras.initializers.Constant(3.0))

    def call(self, inputs):
        p = tf.convert_to_tensor(self.p)
        inputs = tf.maximum(inputs, 1e-6)
        # Inputs are divided by their channel's maximum first: 1e-6 ** p underflows in float32 from
        # p = 6.4 on, which would cut the gradient of an empty channel. The maximum cancels out.
        greatest = tf.stop_gradient(tf.reduce_max(inputs, axis=[1, 2], keepdims=True))
        mean = tf.reduce_mean((inputs / greatest) ** p, axis=[1, 2])
        return greatest[:, 0, 0] * mean ** (1 / p)


class L2Normalize(keras.layers.Layer):
    """Scale each row of [B, D] to length 1.

    Σ x² is taken as at least 1e-12, so a row of zeros stays zero.
    """

    def call(self, inputs):
        return tf.nn.l2_normalize(inputs, axis=-1, epsilon=1e-12)


class Attention(keras.layers.Layer):
    """Scaled dot-product attention of several heads, arXiv:1706.03762, section 3.2.

    Inputs: [B, N, 3 C], of each of N tokens its query, key and value, one after the other. The
    output is [B, N, C].

    Args:
        heads: share the C channels; C is a multiple of it.
    """

    def __init__(self, heads: int, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, inputs):
        _, tokens, channels = inputs.shape
        width = channels // 3 // self.heads
        query, key, value = [
            # [B, heads, N, width]
            tf.transpose(tf.reshape(part, [-1, tokens, self.heads, width]), [0, 2, 1, 3])
            for part in tf.split(inputs, 3, axis=-1)
        ]
        weights = tf.nn.softmax(tf.matmul(query * width**-0.5, key, transpose_b=True))
        mixed = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        return tf.reshape(mixed, [-1, tokens, channels // 3])

    def compute_output_spec(self, inputs):
        batch, tokens, channels = inputs.shape
        return keras.KerasTensor((batch, tokens, channels // 3), dtype=self.compute_dtype)


class DropPath(keras.layers.Layer):
    """Stochastic depth, arXiv:1603.09382: in training, all of an image becomes 0 by chance.

    What stays is divided by the probability of staying, so that the mean is the same. What is drawn
    for an image depends on the run's seed, the iteration (see `drawing`) and the image's place in
    the batch, and on nothing else: devices and chunks that share the batch draw what one device
    does for all of it.

    Inputs: [B, ...] of any rank. The output has their shape.

    Args:
        rate: the probability of becoming 0, in [0, 1).
        number: which of the net's layers of this kind it is: each draws for itself.
    """

    def __init__(self, rate: float, number: int, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.number = number

    def call(self, inputs, training=False):
        if not training:
            return inputs
        # Fixed in a training: XLA takes no other sizes.
        count = inputs.shape[0] or tf.shape(inputs)[0]
        stays = self._draw(count) >= self.rate
        factors = tf.cast(stays, inputs.dtype) / (1 - self.rate)
        return inputs * tf.reshape(factors, [-1, *[1] * (len(inputs.shape) - 1)])

    def _draw(self, count) -> tf.Tensor:
        """float32 in [0, 1) for each of `count` images, those of this chunk on this replica."""
        draws = _draws.get()
        if draws is None:
            raise RuntimeError("DropPath draws in a training only: see layers.drawing.")
        context = tf.distribute.get_replica_context()
        first, of_replica = 0, count
        chunk = _chunk.get()
        if chunk is not None:
            first, of_replica = chunk.index * count, chunk.total * count
        first += context.replica_id_in_sync_group * of_replica
        seed = tf.stack([tf.constant(draws.seed, tf.int64), draws.iteration])
        seed = tf.random.experimental.stateless_fold_in(seed, self.number)
        of_batch = tf.random.stateless_uniform(
            [context.num_replicas_in_sync * of_replica], seed=seed
        )
        return tf.slice(of_batch, [first], [count])


# A variable's name, also the end of that in checkpoints.
CAMERA_EMBEDDINGS = "camera_embeddings"


class CameraEmbeddings(keras.layers.Layer):
    """Adds a learned vector of the image's camera, times a factor, to each of its tokens.

    The side information embeddings (SIE) of TransReID, arXiv:2102.04378. `seen_by` tells the
    cameras. An image of another camera, or of none that is known, has the mean of all vectors.

    Inputs: [B, N, C]. The output has their shape.

    Args:
        count: how many cameras have a vector.
        factor: λ in the paper.
    """

    def __init__(self, count: int, factor: float, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        self.factor = factor

    def build(self, input_shape):
        self.embeddings = self.add_weight(
            name=CAMERA_EMBEDDINGS,
            shape=(self.count, input_shape[-1]),
            # The authors' truncated normal is cut off at ±2, not at twice its deviation.
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def call(self, tokens):
        # A product, whose gradient is dense and adds up in the same order on every device.
        shares = tf.fill([1, self.count], tf.constant(1 / self.count, tokens.dtype))
        cameras = _cameras.get()
        if cameras is not None:
            own = tf.one_hot(cameras, self.count, dtype=tokens.dtype)
            shares = tf.where(cameras[:, None] >= 0, own, shares)
        vectors = tf.matmul(shares, tf.convert_to_tensor(self.embeddings))
        return tokens + self.factor * vectors[:, None]

    def compute_output_spec(self, tokens):
        return keras.KerasTensor(tokens.shape, dtype=self.compute_dtype)


def gelu(x):
    """x times the normal distribution up to x. TensorFlow's has an operation that ONNX lacks."""
    return 0.5 * x * (1 + tf.math.erf(x * 0.5**0.5))
