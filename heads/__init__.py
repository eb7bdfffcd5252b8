"""The heads, one a file; --head_name chooses one by the name of its file.

The contract: `build(features, embedding_dim: int) -> (emb_raw, emb)` takes the Keras tensor of a
net's features, [B, C], and gives two of [B, embedding_dim]: the embedding before and after its
normalization, or the same tensor twice if there is none. Both are float32 under every precision:
distances need it.

A head has no options: build takes nothing else. (common.build_options would find them, as it does
for nets.) It may have, at the top of its file:

    LOSS_ON = "emb_raw"     The loss of --loss takes the embedding before its normalization. Without
                            this, it takes `emb`, as embed.py and the loss of ids always do.

Layers with weights are named as in nets/, but from the top: `fully_connected`, `emb`.

Files whose names begin with an underscore are shared by heads and are no choices themselves.
"""
