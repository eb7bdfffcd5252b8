"""The networks, one a file, chosen with --model_name by the file's name.

Contract: `build(input_shape: tuple[int | None, int | None, int]) -> keras.Model` takes images, float32 RGB in
0..255, [B, H, W, 3], and gives features, float32 [B, C]; whatever normalisation the images need is inside.

Layer names are the scopes of the variables in checkpoints, with "." for "/": layer `resnet_v1_50.conv1` holds
`resnet_v1_50/conv1/weights`. Every layer with weights is named, so that names do not depend on what was built
before. A net that has a TensorFlow 1 ancestor takes its ancestor's scopes: old checkpoints fit by name.

Files that begin with an underscore are shared by nets and are no choices themselves.
"""
