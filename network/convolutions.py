"""Convolutions of Keras with other ways to the gradients that a CPU is slow at in bfloat16.

On a CPU, TensorFlow takes longer for some gradients in bfloat16 than in float32 (docs/speed.md has
figures). These layers compute them in another way there, which changes no more than rounding. In
other precisions, and where there is a GPU, they are Keras' own.
"""

import keras
import tensorflow as tf

# Kernels of so many channels, to either side, have their gradient from products of matrices. With
# fewer channels it takes longer to cut the matrices out of the maps.
_CHANNELS_FOR_PRODUCTS = 256
# Gradients of larger depthwise kernels are faster in float32.
_DEPTHWISE_SIZE = 3


class Conv2D(keras.layers.Conv2D):
    """Keras' layer, with kernel gradients as products of matrices where that is faster."""

    def convolution_op(self, inputs, kernel):
        if not (in_bfloat16_on_cpu(inputs) and _is_plain(self)):
            return super().convolution_op(inputs, kernel)
        strides = self.strides
        if self.kernel_size == (1, 1) and strides != (1, 1):
            inputs = _every(inputs, strides)
            strides = (1, 1)
        if not _has_products(kernel.shape, strides, self.padding):
            return tf.nn.conv2d(inputs, tf.convert_to_tensor(kernel), strides, self.padding.upper())
        return _convolve(inputs, tf.convert_to_tensor(kernel), strides, self.padding.upper())


class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras' layer; see depthwise_conv2d."""

    def call(self, inputs):
        if not (in_bfloat16_on_cpu(inputs) and _is_plain(self)):
            return super().call(inputs)
        outputs = depthwise_conv2d(
            inputs, tf.convert_to_tensor(self.kernel), self.strides, self.padding.upper()
        )
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(self.bias))
        return outputs if self.activation is None else self.activation(outputs)


def depthwise_conv2d(x, kernel, strides: tuple[int, int], padding: str):
    """tf.nn.depthwise_conv2d, whose slow gradients are computed in float32.

    Args:
        x: [B, H, W, C]. kernel: [height, width, C, 1], of the same dtype.
        padding: "SAME" or "VALID".
    """
    window = {"strides": [1, *strides, 1], "padding": padding}
    # What is not slow is faster in bfloat16 than between two casts.
    type_by_x = tf.float32 if max(strides) > 1 else x.dtype
    type_by_kernel = tf.float32 if max(kernel.shape[:2]) > _DEPTHWISE_SIZE else x.dtype
    if not in_bfloat16_on_cpu(x) or type_by_x == type_by_kernel == x.dtype:
        return tf.nn.depthwise_conv2d(x, kernel, **window)

    @tf.custom_gradient
    def convolve(x, kernel):
        def gradient(dy):
            by_x = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(x),
                filter=tf.cast(kernel, type_by_x),
                out_backprop=tf.cast(dy, type_by_x),
                **window,
            )
            by_kernel = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
                input=tf.cast(x, type_by_kernel),
                filter_sizes=tf.shape(kernel),
                out_backprop=tf.cast(dy, type_by_kernel),
                **window,
            )
            return tf.cast(by_x, x.dtype), tf.cast(by_kernel, x.dtype)

        return tf.nn.depthwise_conv2d(x, kernel, **window), gradient

    return convolve(x, kernel)


def in_bfloat16_on_cpu(x) -> bool:
    """Whether a tensor is bfloat16, and there is no GPU to compute with it."""
    return x.dtype == tf.bfloat16 and not tf.config.list_physical_devices("GPU")


def _is_plain(layer) -> bool:
    """Whether it has none of the options that are not told apart here."""
    return (
        layer.data_format == "channels_last"
        and set(layer.dilation_rate) == {1}
        and getattr(layer, "groups", 1) == 1
    )


def _has_products(shape, strides: tuple[int, int], padding: str) -> bool:
    """Whether a kernel of that shape has its gradient from products: see _products."""
    return min(shape[2:]) >= _CHANNELS_FOR_PRODUCTS and (strides == (1, 1) or padding == "valid")


def _convolve(x, kernel, strides: tuple[int, int], padding: str):
    @tf.custom_gradient
    def convolve(x, kernel):
        def gradient(dy):
            by_x = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x),
                filter=kernel,
                out_backprop=dy,
                strides=[1, *strides, 1],
                padding=padding,
            )
            height, width, _, _ = kernel.shape
            if padding == "SAME":
                sides = [[(size - 1) // 2, size // 2] for size in (height, width)]
                padded = tf.pad(x, [[0, 0], *sides, [0, 0]])
            else:
                padded = x
            return by_x, _products(padded, dy, kernel.shape, strides)

        return tf.nn.conv2d(x, kernel, strides, padding), gradient

    return convolve(x, kernel)


def _products(x, dy, shape, strides: tuple[int, int]):
    """The gradient by a kernel, as a product of matrices for each of its places.

    Args:
        x: what the kernel was moved over, [B, H, W, C], padded. dy: [B, h, w, D].
        shape: of the kernel, [height, width, C, D].
    """
    height, width, before, after = shape
    rows = tf.reshape(dy, [-1, after])
    h, w = ((tf.shape(dy)[axis] - 1) * strides[axis - 1] + 1 for axis in (1, 2))
    products = []
    for top in range(height):
        for left in range(width):
            seen = _every(x[:, top : top + h, left : left + w], strides)
            products.append(tf.matmul(tf.reshape(seen, [-1, before]), rows, transpose_a=True))
    return tf.reshape(tf.stack(products), shape)


def _every(x, strides: tuple[int, int]):
    """x[:, ::s, ::t], by an operation that takes a tenth of the time of a slice with steps."""
    return x if strides == (1, 1) else tf.nn.avg_pool2d(x, 1, strides, "VALID")
