"""What the heads are made of."""

import keras

from network.layers import BatchNorm, L2Normalize


def hidden(features):
    """fully_connected: linear to 1024, batch norm, ReLU. [B, C] -> [B, 1024]."""
    linear = keras.layers.Dense(
        1024, use_bias=False, kernel_initializer="glorot_uniform", name="fully_connected"
    )
    x = linear(features)
    x = BatchNorm(decay=0.9, epsilon=1e-5, name="fully_connected.BatchNorm")(x)
    return keras.layers.ReLU()(x)


def embedding(x, embedding_dim: int):
    """emb: linear to the embedding. [B, C] -> [B, embedding_dim], float32 under every policy."""
    linear = keras.layers.Dense(
        embedding_dim, kernel_initializer="orthogonal", dtype="float32", name="emb"
    )
    return linear(x)


def normalized(emb_raw):
    """Scale every row to length 1. [B, D] -> [B, D], float32."""
    return L2Normalize(dtype="float32")(emb_raw)
