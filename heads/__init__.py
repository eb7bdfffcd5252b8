"""The heads, one a file, chosen with --head_name by the file's name.

Contract: `build(features, embedding_dim: int) -> (emb_raw, emb)` takes the Keras tensor of a net's
features, [B, C], and gives two of [B, embedding_dim]: the embedding before and after its
normalisation, the same tensor where there is none. Layers are named as in nets/, from the top:
`fully_connected`, `emb`.

`LOSS_ON` says which of the two the loss of --loss takes: "emb", also where a head does not say, or
"emb_raw". embed.py and the loss of ids always take `emb`.
"""
