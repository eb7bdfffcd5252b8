"""An experiment with a small network, and what its embeddings should be."""

import keras
import numpy as np
import tensorflow as tf

from data import images
from data.augment import Views
from network import checkpoints, model
from runtime import files

SIZE = (24, 16)
PRE_CROP = (28, 18)
DIM = 8


def write_experiment(root, head_name="direct", **args):
    """As a training leaves it: args.json, and two checkpoints of other weights."""
    root.mkdir()
    args |= {"model_name": "lunet_narrow", "head_name": head_name, "embedding_dim": DIM}
    args |= {"net_input_height": SIZE[0], "net_input_width": SIZE[1]}
    args |= {"pre_crop_height": PRE_CROP[0], "pre_crop_width": PRE_CROP[1]}
    files.write_json(root / "args.json", args)
    keras.utils.set_random_seed(0)
    network = model.build("lunet_narrow", head_name, DIM, (*SIZE, 3))
    variables = checkpoints.named_variables(network)
    initial = {name: variable.numpy() for name, variable in variables.items()}
    for iteration in (0, 3):
        rng = np.random.default_rng(iteration)
        for name, variable in variables.items():
            if name.endswith("weights"):
                variable.assign(initial[name] * rng.uniform(0.5, 1.5, variable.shape))
            else:  # running statistics matter, too
                variable.assign(initial[name] + rng.uniform(0, 0.5, variable.shape))
        checkpoints.save(root, iteration, variables)


class Expected:
    """The embeddings of a data set, by the network alone and one image after the other."""

    def __init__(self, root, dataset):
        self._root = root
        self._network = model.build("lunet_narrow", "direct", DIM, (*SIZE, 3))
        encoded = [(dataset.root / fid).read_bytes() for fid in dataset.fids]
        self._images = [images.decode(tf.constant(each)) for each in encoded]

    def __call__(self, flip, crop, checkpoint="checkpoint-3"):
        """float32 [A, N, D]."""
        variables = checkpoints.named_variables(self._network)
        checkpoints.restore(self._root / checkpoint, variables)
        embs = []
        for image in self._images:
            resized = images.resize(image, PRE_CROP if crop else SIZE)
            views = Views(SIZE, flip, crop).take(resized)
            embs.append(self._network(views, training=False)["emb"].numpy())
        return np.stack(embs, axis=1)


def close(got, wanted):
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * scale)
