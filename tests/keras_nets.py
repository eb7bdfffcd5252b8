"""What the tests of keras.applications' nets share."""

import re

import keras
import numpy as np

import common
from network import checkpoints
from training import rates

# The lightest.
SMALL = "mobilenet_v3_large"
_PREPROCESSED = {"resnet50": "resnet", "densenet121": "densenet"}  # the others do it themselves


def net_of(name, size=(64, 32)):
    """A net of nets/, for images of a size."""
    return common.load_plugin("nets", name).build((*size, 3))


def original(name, **options):
    """Keras' own."""
    options = {"weights": None, "include_top": False, "pooling": "avg"} | options
    return common.load_plugin("nets", name).APPLICATION(**options)


def keras_features(name, theirs, batch):
    """The features of images 0..255 by Keras' own net."""
    if name in _PREPROCESSED:
        module = getattr(keras.applications, _PREPROCESSED[name])
        batch = module.preprocess_input(batch.copy())
    return theirs(batch, training=False)


def weights(net):
    """The variables by name, but for random states."""
    named = checkpoints.named_variables(net)
    return {name: variable for name, variable in named.items() if "seed_generator" not in name}


def layers(name, net):
    """How many layers of --layer_decay a net has, and whether something comes before the first."""
    pattern = common.load_plugin("nets", name).LAYERS
    names = [each.partition("/")[2] for each in weights(net)]
    found = {match[0] for match in (re.search(pattern, each) for each in names) if match}
    deepest = min(rates.decayed(list(weights(net)), pattern, 0.5).values())
    assert -np.log2(deepest) in (len(found), len(found) + 1)
    return len(found), bool(-np.log2(deepest) > len(found))


def scramble(variables, seed=0):
    """Values that differ from each other and from the initial ones; the maps do not explode."""
    rng = np.random.default_rng(seed)
    for weight in variables:
        values = weight.numpy() * rng.uniform(0.9, 1.1, weight.shape)
        if len(weight.shape) == 1:
            values = values + rng.uniform(0, 0.05, weight.shape)
        weight.assign(values)


def images(*size, count=2):
    return np.random.default_rng(0).uniform(0, 255, (count, *size, 3)).astype(np.float32)
