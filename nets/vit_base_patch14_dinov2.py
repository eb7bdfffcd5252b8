"""ViT-B/14 of DINOv2, without register tokens. Features: 768."""

import keras

from nets import _vit

LAYERS = r"blocks/\d+"


def build(
    input_shape: tuple[int | None, int | None, int],
    class_token: bool = False,
    drop_path: float = 0.0,
    cameras: tuple[int, float] | None = None,
) -> keras.Model:
    return _vit.build(
        input_shape,
        name="vit_base_patch14_dinov2",
        shape=_vit.BASE_14,
        class_token=class_token,
        drop_path=drop_path,
        cameras=cameras,
    )
