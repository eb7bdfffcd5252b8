r"""The nets, one a file; --model_name chooses one by the name of its file.

The contract: `build(input_shape: tuple[int | None, int | None, int]) -> keras.Model` makes a model
that takes images, float32 RGB in 0..255, [B, H, W, 3], and gives features, float32 [B, C]. Whatever
normalization the images need is inside.

Options are parameters of build, with the default that stands here. A net has those that it can do:

    pooling="avg"   Features are the mean of the last map over H and W. With None there are no
                    features but that map, [B, h, w, C], which should not be negative: --pooling gem
                    goes on from there.
    last_stride=2   The last stage halves the resolution. With 1 it keeps that of the stage before.
                    The variables are the same, so pretrained weights fit.
    class_token=False
                    Features are the mean of the patch tokens of a vision transformer. With True
                    they are its class token.
    drop_path=0.0   Probability that the last block is passed over for an image in training; for the
                    blocks before it is smaller. See network.layers.DropPath, which draws.
    cameras=None    With (count, factor), the tokens of a vision transformer are given a vector of
                    the image's camera. See network.layers.CameraEmbeddings.

Which options a net has is read from the source of its file (common.build_options), because checking
a flag should not import TensorFlow. So `build` is written out with `def`, and its parameters by
name: no *args, no **kwargs, no functools.partial.

A net may also have, at the top of its file:

    FROM_SCRATCH = True         It is made to be trained without pretrained weights. For others
                                train.py warns if it is given none.
    APPLICATION = keras.applications.ResNet50
                                Its model in Keras, whose ImageNet weights --initial_checkpoint
                                imagenet takes.
    LAYERS = r"block\d"         A regular expression for --layer_decay. What it finds in the names of
                                variables, behind the net's own, are the layers, from the images on:
                                stages of a CNN, blocks of a transformer. What no layer has in its
                                name belongs to the next one; before the first it is a layer of its
                                own, and behind the last it has the head's learning rate.
    RENAMED_MODULES = {"features.0.0": "conv_stem"}
                                Other names of modules of PyTorch, by those that the net has: how
                                another release of the same net, such as timm's, calls them.

Names of layers are the scopes of the variables in checkpoints, with "." for "/": layer
`resnet_v1_50.conv1` holds `resnet_v1_50/conv1/weights`. Every layer with weights is named, so that
names do not depend on what was built before. A net that has an ancestor in TensorFlow 1 takes the
ancestor's scopes: old checkpoints fit by name.

Files whose names begin with an underscore are shared by nets and are no choices themselves.
"""
