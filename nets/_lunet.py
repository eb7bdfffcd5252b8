"""LuNet, the paper's net for training from scratch, in any width.

arXiv:1703.07737, section 4.1 and table 9: pre-activation bottlenecks as in ResNet v2; 3x3 max-pools
with stride 2 instead of strided convolutions; a last block of few channels instead of a mean over
the map, so that the embedding knows where things are; leaky ReLUs.
"""

from collections.abc import Sequence

import keras

from common import UserError
from network.convolutions import Conv2D
from network.layers import BatchNorm


def build(
    input_shape: tuple[int | None, int | None, int],
    name: str,
    stem: int,
    stages: Sequence[Sequence[tuple[int, int]]],
    last: tuple[int, int],
    hidden: int,
) -> keras.Model:
    """Build a net of the contract. Its features [B, hidden] come from a linear layer.

    Args:
        name: of the scope of all variables.
        stem: channels of the first convolution, 7x7.
        stages: for each stage its bottlenecks, (inner, outer) channels; a max-pool follows each
            stage.
        last: channels of the two 3x3 convolutions of the last block.
        hidden: width of the linear layer.

    Raises:
        UserError: height or width is None; the linear layer needs a fixed size.
    """
    if None in input_shape:
        raise UserError(
            f"{name} needs a fixed input size. Received: {input_shape}. Give height and width."
        )
    images = keras.Input(input_shape, dtype="float32", name="images")
    x = _conv(images / 127.5 - 1.0, stem, 7, name=f"{name}.conv1")
    for stage, bottlenecks in enumerate(stages, start=1):
        for unit, (inner, outer) in enumerate(bottlenecks, start=1):
            x = _block(
                x, [(inner, 1), (inner, 3), (outer, 1)], name=f"{name}.stage{stage}.unit_{unit}"
            )
        # The paper pads one pixel on each side. "same" pads an even size at its end only, which
        # gives the mirror image.
        x = keras.layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = _block(x, [(channels, 3) for channels in last], name=f"{name}.last")
    x = keras.layers.Flatten()(x)
    linear = keras.layers.Dense(
        hidden, use_bias=False, kernel_initializer="glorot_uniform", name=f"{name}.linear"
    )
    x = linear(x)
    x = _norm_relu(x, f"{name}.linear.BatchNorm")
    features = keras.layers.Activation("linear", dtype="float32")(x)
    return keras.Model(images, features, name=name)


def _block(x, convolutions, name):
    """A residual block of (channels, size) convolutions, each after batch norm and leaky ReLU."""
    shortcut = x
    for index, (channels, size) in enumerate(convolutions, start=1):
        x = _norm_relu(x, f"{name}.conv{index}.BatchNorm")
        if index == 1 and shortcut.shape[-1] != convolutions[-1][0]:
            shortcut = _conv(x, convolutions[-1][0], 1, f"{name}.shortcut")
        x = _conv(x, channels, size, f"{name}.conv{index}")
    return shortcut + x


def _norm_relu(x, name):
    x = BatchNorm(decay=0.9, epsilon=1e-5, name=name)(x)
    return keras.layers.LeakyReLU(negative_slope=0.3)(x)


def _conv(x, channels, size, name):
    return Conv2D(
        channels, size, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
    )(x)
