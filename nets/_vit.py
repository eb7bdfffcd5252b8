"""The vision transformer, arXiv:2010.11929, as timm builds it and DINO and DINOv2 use it."""

from typing import NamedTuple

import keras
import tensorflow as tf

from common import UserError
from nets import _torch
from network.layers import Attention, CameraEmbeddings


class Shape(NamedTuple):
    """What one vision transformer differs in from others.

    Attributes:
        patch: height and width of a patch, in pixels.
        channels: of each token, C; heads of 64 each share them.
        depth: number of blocks.
        layer_scale: initial factor of what a block adds, as in DINOv2; None: there is no factor.
    """

    patch: int
    channels: int
    depth: int = 12
    layer_scale: float | None = None


SMALL_16 = Shape(patch=16, channels=384)
BASE_16 = Shape(patch=16, channels=768)
SMALL_14 = Shape(patch=14, channels=384, layer_scale=1e-5)
BASE_14 = Shape(patch=14, channels=768, layer_scale=1e-5)

_CHANNELS_PER_HEAD = 64


class _Tokens(keras.layers.Layer):
    """[B, h, w, C] of patches -> [B, 1 + h·w, C]: a token more, and where each one is added to it.

    The position embedding is a grid of the size of the input. network/readers.py resizes that of
    weights that were trained with another size.
    """

    def build(self, input_shape):
        _, height, width, channels = input_shape
        spread = _torch.normal()
        self.cls_token = self.add_weight(
            name="cls_token",
            shape=(1, 1, channels),
            initializer=keras.initializers.RandomNormal(stddev=1e-6),
        )
        self.class_position = self.add_weight(
            name="class_position", shape=(channels,), initializer=spread
        )
        self.pos_embed = self.add_weight(
            name="pos_embed", shape=(height, width, channels), initializer=spread
        )

    def call(self, patches):
        _, height, width, channels = patches.shape
        tokens = tf.reshape(patches + self.pos_embed, [-1, height * width, channels])
        first = tf.convert_to_tensor(self.cls_token) + self.class_position
        first = tf.tile(first, [tf.shape(tokens)[0], 1, 1])
        return tf.concat([first, tokens], axis=1)

    def compute_output_spec(self, patches):
        batch, height, width, channels = patches.shape
        return keras.KerasTensor((batch, 1 + height * width, channels), dtype=self.compute_dtype)


def build(
    input_shape: tuple[int | None, int | None, int],
    name: str,
    shape: Shape,
    class_token: bool = False,
    drop_path: float = 0.0,
    cameras: tuple[int, float] | None = None,
) -> keras.Model:
    """Build a net of the contract. Its features are [B, shape.channels], behind the last norm.

    Args:
        name: of the scope of all variables.
        class_token, drop_path, cameras: of the contract.

    Raises:
        UserError: images cannot be divided into patches.
    """
    _check_size(name, input_shape, shape.patch)
    images = keras.Input(input_shape, dtype="float32", name="images")
    patches = keras.layers.Conv2D(
        shape.channels,
        shape.patch,
        strides=shape.patch,
        kernel_initializer=_torch.normal(),
        name=f"{name}.patch_embed.proj",
    )(_torch.normalize(images))
    x = _Tokens(name=name)(patches)
    if cameras:
        x = CameraEmbeddings(*cameras, name=f"{name}.sie")(x)
    for number in range(shape.depth):
        rate = drop_path * number / max(1, shape.depth - 1)
        x = _block(x, shape, rate, number, f"{name}.blocks.{number}")
    x = _torch.layer_norm(x, f"{name}.norm", dtype="float32")
    if class_token:
        return keras.Model(images, x[:, 0], name=name)
    maps = keras.layers.Reshape(patches.shape[1:], dtype="float32")(x[:, 1:])
    x = keras.layers.GlobalAveragePooling2D(dtype="float32")(maps)
    return keras.Model(images, x, name=name)


def _block(x, shape: Shape, drop_path: float, number: int, name: str):
    """Attention and a perceptron; the result of each is added to what it was given."""
    inner = _torch.layer_norm(x, f"{name}.norm1")
    inner = _torch.dense(inner, 3 * shape.channels, f"{name}.attn.qkv")
    inner = Attention(shape.channels // _CHANNELS_PER_HEAD)(inner)
    inner = _torch.dense(inner, shape.channels, f"{name}.attn.proj")
    inner = _torch.layer_scale(inner, shape.layer_scale, f"{name}.ls1")
    x = x + _torch.drop_path(inner, drop_path, 2 * number)
    inner = _torch.layer_norm(x, f"{name}.norm2")
    inner = _torch.perceptron(inner, f"{name}.mlp")
    inner = _torch.layer_scale(inner, shape.layer_scale, f"{name}.ls2")
    return x + _torch.drop_path(inner, drop_path, 2 * number + 1)


def _check_size(name: str, input_shape: tuple[int | None, int | None, int], patch: int) -> None:
    height, width, _ = input_shape
    if not height or not width:
        raise UserError(
            f"{name} needs a fixed input size, whose height and width are multiples of {patch}, the size of its "
            f"patches. Received: {height}x{width}."
        )
    if height % patch or width % patch:
        raise UserError(
            f"{name} takes images whose height and width are multiples of {patch}, the size of its patches. Received: "
            f"{height}x{width}. Give a size such as {_nearest(height, patch)}x{_nearest(width, patch)} "
            "(--net_input_height, --net_input_width; --pre_crop_... where embed.py has --crop_augment avgpool)."
        )


def _nearest(side: int, patch: int) -> int:
    return max(1, round(side / patch)) * patch
