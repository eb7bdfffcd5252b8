"""The whole network, from images to embeddings: a net and a head, found by name."""

import keras

import common
from network.layers import BatchNorm, GeM


def build(
    model_name: str,
    head_name: str,
    embedding_dim: int,
    input_shape: tuple[int | None, int | None, int],
    pooling: str = "avg",
    last_stride: int = 2,
    precision: str = "float32",
) -> keras.Model:
    """Make the model of a net and a head, with fresh weights.

    Args:
        model_name: a file of nets/. head_name: a file of heads/.
        embedding_dim: D, at least 1.
        input_shape: (height, width, 3) of the images; height and width may be None where the net
            allows it.
        pooling: of the net's last map: "avg" or "gem". last_stride: 2, or 1 for twice its height
            and width. experiment.check_architecture knows whether the net has other values than the
            defaults.
        precision: Keras' dtype policy of what lies between pixels and embeddings: "float32", or
            with 16 bits "mixed_bfloat16" or "mixed_float16". Weights and statistics are float32
            under all of them.

    Returns: a model of float32 RGB images in 0..255, [B, H, W, 3], that gives
        {"emb_raw": [B, D], "emb": [B, D]}, float32: before and after the head's normalisation.
    Raises: UserError for an unknown net or head, and for an input shape the net cannot take.
    """
    # Both names are checked before the first, slow, build.
    net = common.load_plugin("nets", model_name)
    head = common.load_plugin("heads", head_name)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        images = keras.Input(input_shape, dtype="float32", name="images")
        options = ({"pooling": None} if pooling == "gem" else {}) | (
            {"last_stride": 1} if last_stride == 1 else {}
        )
        features = net.build(input_shape, **options)(images)
        if pooling == "gem":
            features = GeM(name="gem", dtype="float32")(features)
        emb_raw, emb = head.build(features, embedding_dim)
    finally:
        keras.config.set_dtype_policy(before)
    return keras.Model(images, {"emb_raw": emb_raw, "emb": emb}, name=f"{model_name}-{head_name}")


def body(model: keras.Model) -> keras.Model:
    """The net inside a model that `build` made: images -> features [B, C], or the map [B, h, w, C]
    that "gem" pools.

    --initial_checkpoint fills its variables, and --freeze_body_iterations holds them.
    """
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def normalize_apart(model: keras.Model) -> None:
    """Let each replica take its own statistics in batch norm; see layers.BatchNorm."""
    for layer in model._flatten_layers():
        if isinstance(layer, BatchNorm):
            layer.synchronised = False
