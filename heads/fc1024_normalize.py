"""fc1024 with the embedding scaled to length 1."""

from heads import _layers


def build(features, embedding_dim: int):
    emb_raw = _layers.embedding(_layers.hidden(features), embedding_dim)
    return emb_raw, _layers.normalized(emb_raw)
