"""MobileNetV2 as in torchvision, width 1.0. Features: 1280."""

import keras

from nets import _torch

_NAME = "mobilenet_v2_torch"
# Of each stage: how many times wider its units are inside, channels, units, stride of the first.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_LAST_WITH_STRIDE = 5
LAYERS = r"features/\d+"
# timm numbers the units within their stage, and names what is in them.
_TIMM_UNIT = {
    "0.0": "conv_pw",
    "0.1": "bn1",
    "1.0": "conv_dw",
    "1.1": "bn2",
    "2": "conv_pwl",
    "3": "bn3",
}
_TIMM_FIRST_UNIT = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}


def _timm_modules() -> dict[str, str]:
    """The names of timm's mobilenetv2_100, by torchvision's."""
    modules = {"features.0.0": "conv_stem", "features.0.1": "bn1"}
    number = 1
    for stage, (expansion, _, count, _) in enumerate(_STAGES):
        names = _TIMM_UNIT if expansion > 1 else _TIMM_FIRST_UNIT
        for unit in range(count):
            for place, name in names.items():
                modules[f"features.{number}.conv.{place}"] = f"blocks.{stage}.{unit}.{name}"
            number += 1
    return modules | {f"features.{number}.0": "conv_head", f"features.{number}.1": "bn2"}


RENAMED_MODULES = _timm_modules()


def build(
    input_shape: tuple[int | None, int | None, int],
    pooling: str | None = "avg",
    last_stride: int = 2,
) -> keras.Model:
    images = keras.Input(input_shape, dtype="float32", name="images")
    x = _torch.conv(_torch.normalize(images), 32, 3, 2, f"{_NAME}.features.0.0")
    x = _relu6_norm(x, f"{_NAME}.features.0.1")
    number = 1
    for stage, (expansion, channels, count, stride) in enumerate(_STAGES):
        if stage == _LAST_WITH_STRIDE:
            stride = last_stride
        for unit in range(count):
            name = f"{_NAME}.features.{number}.conv"
            x = _inverted_residual(x, expansion, channels, stride if unit == 0 else 1, name)
            number += 1
    x = _torch.conv(x, 1280, 1, 1, f"{_NAME}.features.{number}.0")
    x = _relu6_norm(x, f"{_NAME}.features.{number}.1")
    if pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    return keras.Model(images, x, name=_NAME)


def _inverted_residual(x, expansion: int, channels: int, stride: int, name: str):
    before = x
    place = 0
    if expansion > 1:
        x = _torch.conv(x, expansion * x.shape[-1], 1, 1, f"{name}.0.0")
        x = _relu6_norm(x, f"{name}.0.1")
        place = 1
    x = _torch.depthwise_conv(x, 3, stride, f"{name}.{place}.0")
    x = _relu6_norm(x, f"{name}.{place}.1")
    x = _torch.conv(x, channels, 1, 1, f"{name}.{place + 1}")
    x = _torch.batch_norm(x, f"{name}.{place + 2}")
    return before + x if stride == 1 and before.shape[-1] == channels else x


def _relu6_norm(x, name: str):
    return keras.layers.Activation("relu6")(_torch.batch_norm(x, name))
