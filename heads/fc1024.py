"""A hidden layer of 1024 (batch norm, ReLU), then linear: the paper's head for pretrained nets."""

from heads import _layers


def build(features, embedding_dim: int):
    emb = _layers.embedding(_layers.hidden(features), embedding_dim)
    return emb, emb
