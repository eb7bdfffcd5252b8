"""ResNet as torchvision and timm build it: the stride of a stage stands in its first 3x3."""

import keras

from nets import _torch


def build(
    input_shape: tuple[int | None, int | None, int],
    name: str,
    units: tuple[int, int, int, int],
    pooling: str | None,
    last_stride: int,
    ibn_stages: int = 0,
) -> keras.Model:
    """Build a net of the contract. Its features are [B, 2048].

    Args:
        name: of the scope of all variables.
        units: number of units in each of the four stages.
        pooling, last_stride: of the contract.
        ibn_stages: in so many stages, from the first, the first norm of a unit is IBN-a's, half of
            it instance norm (arXiv:1807.09441).
    """
    images = keras.Input(input_shape, dtype="float32", name="images")
    x = _torch.conv(_torch.normalize(images), 64, 7, stride=2, name=f"{name}.conv1")
    x = _torch.batch_norm(x, f"{name}.bn1")
    x = _torch.max_pool(keras.layers.ReLU()(x))
    for stage, (width, count) in enumerate(zip((64, 128, 256, 512), units, strict=True), start=1):
        for unit in range(count):
            stride = (1, 2, 2, last_stride)[stage - 1] if unit == 0 else 1
            ibn = stage <= ibn_stages
            x = _bottleneck(x, width, stride, ibn, f"{name}.layer{stage}.{unit}")
    if pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    return keras.Model(images, x, name=name)


def _bottleneck(x, width: int, stride: int, ibn: bool, name: str):
    shortcut = x
    if stride > 1 or x.shape[-1] != 4 * width:
        shortcut = _torch.conv(x, 4 * width, 1, stride, f"{name}.downsample.0")
        shortcut = _torch.batch_norm(shortcut, f"{name}.downsample.1")
    x = _torch.conv(x, width, 1, 1, f"{name}.conv1")
    x = _ibn(x, f"{name}.bn1") if ibn else _torch.batch_norm(x, f"{name}.bn1")
    x = _torch.conv(keras.layers.ReLU()(x), width, 3, stride, f"{name}.conv2")
    x = _torch.batch_norm(x, f"{name}.bn2")
    x = _torch.conv(keras.layers.ReLU()(x), 4 * width, 1, 1, f"{name}.conv3")
    x = _torch.batch_norm(x, f"{name}.bn3")
    return keras.layers.ReLU()(shortcut + x)


def _ibn(x, name: str):
    """Instance norm of the first half of the channels, batch norm of the second."""
    half = x.shape[-1] // 2
    instance_norm = keras.layers.GroupNormalization(groups=-1, epsilon=1e-5, name=f"{name}.IN")
    halves = [instance_norm(x[..., :half]), _torch.batch_norm(x[..., half:], f"{name}.BN")]
    return keras.layers.Concatenate()(halves)
