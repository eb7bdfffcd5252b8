"""The whole network, from images to embeddings: a net and a head, found by name."""

from collections.abc import Mapping
from typing import Any

import keras

import common
from network.layers import BatchNorm, GeM


def build(
    model_name: str,
    head_name: str,
    embedding_dim: int,
    input_shape: tuple[int | None, int | None, int],
    options: Mapping[str, Any] | None = None,
    precision: str = "float32",
) -> keras.Model:
    """Make the network of a net and a head, with fresh weights.

    Args:
        model_name: a file of nets/.
        head_name: a file of heads/.
        embedding_dim: D, at least 1.
        input_shape: (height, width, 3) of the images; height and width may be None where the net
            allows it.
        options: of the net's build (see nets/__init__.py), as flags.net_options gives them; the
            net's defaults without them. A map, with pooling None, is pooled by a generalized mean.
        precision: Keras' dtype policy of what lies between pixels and embeddings: "float32", or
            with 16 bits "mixed_bfloat16" or "mixed_float16". Weights and statistics are float32
            under all of them.

    Returns:
        A model of float32 RGB images in 0..255, [B, H, W, 3], that gives {"emb_raw": [B, D], "emb":
        [B, D]}, float32: before and after the head's normalization.

    Raises:
        UserError: the net or head is unknown, or the net does not take the input shape.
    """
    # Both names are checked before the first, slow, build.
    net = common.load_plugin("nets", model_name)
    head = common.load_plugin("heads", head_name)
    options = options or {}
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        images = keras.Input(input_shape, dtype="float32", name="images")
        features = net.build(input_shape, **options)(images)
        if options.get("pooling", "avg") is None:
            features = GeM(name="gem", dtype="float32")(features)
        emb_raw, emb = head.build(features, embedding_dim)
    finally:
        keras.config.set_dtype_policy(before)
    return keras.Model(images, {"emb_raw": emb_raw, "emb": emb}, name=f"{model_name}-{head_name}")


def net_of(network: keras.Model) -> keras.Model:
    """The net inside a network that `build` made.

    --initial_checkpoint fills its variables, and --freeze_body_iterations holds them.

    Returns:
        A model of images that gives features [B, C], or the map [B, h, w, C] that "gem" pools.
    """
    return next(layer for layer in network.layers if isinstance(layer, keras.Model))


def normalize_apart(network: keras.Model) -> None:
    """Let each replica take its own statistics in batch norm; see layers.BatchNorm."""
    for layer in batch_norms(network):
        layer.synchronized = False


def freeze_statistics(network: keras.Model) -> None:
    """Let batch norm keep its running statistics in training; see layers.BatchNorm."""
    for layer in batch_norms(network):
        layer.frozen = True


def batch_norms(network: keras.Model) -> list[BatchNorm]:
    """Its layers of batch norm, those of nets within it, too."""
    return [layer for layer in network._flatten_layers() if isinstance(layer, BatchNorm)]


def other_batch_norms(network: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Keras' own layers of batch norm, but for those that are frozen, which have no statistics to
    move.
    """
    return [
        layer
        for layer in network._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
