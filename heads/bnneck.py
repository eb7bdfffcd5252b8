"""The bag of tricks' neck (arXiv:1903.07071): batch norm without bias between what the two losses
take.

The triplet loss takes the features, the loss of ids what follows the neck; that is the embedding.
It scatters around 0, which suits --metric cosine in evaluate.py. The paper's neck takes the net's
own features: so it is where --embedding_dim is their number (2048 for a ResNet); else a linear
layer brings them to it first.
"""

from heads import _layers
from network.layers import BatchNorm

LOSS_ON = "emb_raw"


def build(features, embedding_dim: int):
    emb_raw = (
        features
        if features.shape[-1] == embedding_dim
        else _layers.embedding(features, embedding_dim)
    )
    return emb_raw, BatchNorm(
        decay=0.9, epsilon=1e-5, center=False, dtype="float32", name="emb.BatchNorm"
    )(emb_raw)
