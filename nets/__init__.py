"""The networks, one a file, chosen with --model_name by the file's name.

Contract: `build(input_shape: tuple[int | None, int | None, int]) -> keras.Model` takes images,
float32 RGB in 0..255, [B, H, W, 3], and gives features, float32 [B, C]; whatever normalisation the
images need is inside.

A net that has `FROM_SCRATCH = True` is made to be trained without pretrained weights; of others
train.py says that they are wanted.

A net has an option if its build has the parameter, with the default that stands here:

    pooling="avg"   features are the mean of the last map over H and W. None: no features but that map,
                    [B, h, w, C], which is not negative, or hardly: --pooling gem goes on from there
    last_stride=2   the last stage halves the resolution. 1: it keeps that of the stage before. The variables are the
                    same: pretrained weights fit

Layer names are the scopes of the variables in checkpoints, with "." for "/": layer
`resnet_v1_50.conv1` holds `resnet_v1_50/conv1/weights`. Every layer with weights is named, so that
names do not depend on what was built before. A net that has a TensorFlow 1 ancestor takes its
ancestor's scopes: old checkpoints fit by name.

Files that begin with an underscore are shared by nets and are no choices themselves.
"""
