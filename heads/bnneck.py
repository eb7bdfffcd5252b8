"""The neck of the bag of tricks (arXiv:1903.07071): batch norm without bias between two losses.

The triplet loss takes what is before the neck; the loss of ids takes what comes after it, which is
the embedding. It scatters around 0, which suits --metric cosine in evaluate.py. The paper's neck
takes the net's own features. It does so here if --embedding_dim is their number (2048 for a
ResNet); otherwise a linear layer comes first.
"""

from heads import _layers
from network.layers import BatchNorm

LOSS_ON = "emb_raw"


def build(features, embedding_dim: int):
    emb_raw = features
    if features.shape[-1] != embedding_dim:
        emb_raw = _layers.embedding(features, embedding_dim)
    neck = BatchNorm(decay=0.9, epsilon=1e-5, center=False, dtype="float32", name="emb.BatchNorm")
    return emb_raw, neck(emb_raw)
