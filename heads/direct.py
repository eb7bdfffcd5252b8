"""One linear layer from the features to the embedding."""

from heads import _layers


def build(features, embedding_dim: int):
    emb = _layers.embedding(features, embedding_dim)
    return emb, emb
