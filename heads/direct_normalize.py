"""One linear layer from the features to the embedding, which is scaled to length 1."""

from heads import _layers


def build(features, embedding_dim: int):
    emb_raw = _layers.embedding(features, embedding_dim)
    return emb_raw, _layers.normalized(emb_raw)
