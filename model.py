"""The whole network, from images to embeddings: a net and a head, found by name."""

import keras

import common


def build(
    model_name: str, head_name: str, embedding_dim: int, input_shape: tuple[int | None, int | None, int]
) -> keras.Model:
    """Make the model of a net and a head, with fresh weights.

    Args:
        model_name: a file of nets/. head_name: a file of heads/.
        embedding_dim: D, at least 1.
        input_shape: (height, width, 3) of the images; height and width may be None where the net allows it.

    Returns: a model of float32 RGB images in 0..255, [B, H, W, 3], that gives
        {"emb_raw": [B, D], "emb": [B, D]}, float32: before and after the head's normalisation.
    Raises: UserError for an unknown net or head, and for an input shape the net cannot take.
    """
    # Both names are checked before the first, slow, build.
    net = common.load_plugin("nets", model_name)
    head = common.load_plugin("heads", head_name)
    images = keras.Input(input_shape, dtype="float32", name="images")
    emb_raw, emb = head.build(net.build(input_shape)(images), embedding_dim)
    return keras.Model(images, {"emb_raw": emb_raw, "emb": emb}, name=f"{model_name}-{head_name}")


def body(model: keras.Model) -> keras.Model:
    """The net inside a model that `build` made: images -> features [B, C]. --initial_checkpoint fills its variables."""
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))
