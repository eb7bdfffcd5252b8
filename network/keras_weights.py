"""Weights that Keras saved, from its files or its ImageNet models, under our names of variables.

Nothing is unpickled or built from a file: only the arrays are read.
"""

import itertools
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

import common
from common import UserError

SUFFIXES = (".h5", ".hdf5", ".keras")  # .weights.h5 is a .h5 too

# What the libraries raise about a file that is missing, damaged or of another format.
_READ_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    AttributeError,
    TypeError,
    zipfile.BadZipFile,
)

# The weights of a net, layer by layer: its name in Keras and its arrays in Keras' order.
Layers = list[tuple[str, list[np.ndarray]]]


class Arrays(dict):
    """Arrays by name, read in the way of TensorFlow's checkpoint readers."""

    has_tensor = dict.__contains__
    get_tensor = dict.__getitem__

    def get_variable_to_shape_map(self) -> dict:
        return {name: list(array.shape) for name, array in self.items()}

    def get_variable_to_dtype_map(self) -> dict:
        return {name: tf.as_dtype(array.dtype) for name, array in self.items()}


def read(path: Path, variables: Mapping) -> Arrays:
    """The arrays of a file `.weights.h5`, `.keras`, or `.h5` as of Keras 2.

    Args:
        variables: {name: variable} of the body that they are for.

    Returns: the arrays, under the names of the variables that they belong to, the rest as
        <layer>/<number>.
    Raises: UserError for a file that is damaged or of another format.
    """
    try:
        if path.suffix == ".keras":
            with (
                zipfile.ZipFile(path) as archive,
                archive.open("model.weights.h5") as file,
                h5py.File(file) as h5,
            ):
                return _by_layer(_keras3_layers(h5), variables)
        with h5py.File(path) as h5:
            group = h5.get("model_weights", h5)  # a whole model was saved, or its weights
            if "layer_names" not in group.attrs:
                return _by_layer(_keras3_layers(h5), variables)
            layers = _keras2_layers(group)
    except _READ_ERRORS as error:
        raise UserError(
            f"cannot read the weights file {path}: {' '.join(str(error).split()) or type(error).__name__}. It should "
            "be a .weights.h5, .keras or .h5 file of Keras, and complete: save or download it again."
        ) from None
    return _in_order(layers, variables) or _by_layer(layers, variables)


def imagenet(variables: Mapping) -> Arrays:
    """What Keras trained on ImageNet for the net that `variables` are of; downloaded, once.

    Raises: UserError for a net that Keras has no weights for, and when they cannot be fetched.
    """
    net = next(iter(variables)).partition("/")[0]
    applications = {name: common.load_plugin("nets", name) for name in common.plugin_names("nets")}
    applications = {
        name: plugin.APPLICATION
        for name, plugin in applications.items()
        if hasattr(plugin, "APPLICATION")
    }
    if net not in applications:
        raise UserError(
            f"Keras has no ImageNet weights for {net}, but for {', '.join(applications)}. Give --initial_checkpoint a "
            "file (for the nets of TF-slim their .ckpt), or one of these as --model_name."
        )
    try:
        model = applications[net](
            weights="imagenet", include_top=False, pooling="avg", input_shape=(224, 224, 3)
        )
    except Exception as error:  # Keras raises just that when a download fails
        url = re.search(r"https?://[^\s:]+", str(error))
        if url is None:
            raise
        name = url[0].rpartition("/")[2]
        folder = Path(os.environ.get("KERAS_HOME", "~/.keras"), "models")
        raise UserError(
            f"cannot download the ImageNet weights of {net}: {' '.join(str(error).split())}. Fetch {url[0]} on "
            f"another machine, and put it into {folder}, or give --initial_checkpoint the file {name}."
        ) from None
    by_layer = itertools.groupby(model.weights, key=lambda weight: weight.path.split("/")[-2])
    layers = [(layer, [weight.numpy() for weight in weights]) for layer, weights in by_layer]
    return _in_order(layers, variables) or _by_layer(layers, variables)


def _keras3_layers(h5: h5py.File) -> Layers:
    """A group `vars` for each layer, with the name that it had. Not in the order of the net."""
    layers = []

    def visit(path: str, group) -> None:
        if isinstance(group, h5py.Group) and path.endswith("vars") and "seed_generator" not in path:
            kind = re.sub(r"_\d+$", "", path.split("/")[-2]) if "/" in path else ""
            name = group.attrs.get("name", path)
            # A layer without a name was numbered by what had been built before.
            name = kind if re.fullmatch(rf"{kind}_\d+", name) else name
            layers.append((name, [group[number][()] for number in sorted(group, key=int)]))

    h5.visititems(visit)
    if not any(arrays for _, arrays in layers):
        raise ValueError("there are no weights in it")
    return layers


def _keras2_layers(group: h5py.Group) -> Layers:
    def names(attributes, key):
        return [name.decode() if isinstance(name, bytes) else name for name in attributes[key]]

    return [
        (layer, [group[layer][weight][()] for weight in names(group[layer].attrs, "weight_names")])
        for layer in names(group.attrs, "layer_names")
    ]


def _in_order(layers: Layers, variables: Mapping) -> Arrays | None:
    """One after the other, as Keras does it, whatever the layers were called. None unless all
    shapes fit.
    """
    arrays = [
        (f"{layer}/{number}", array)
        for layer, found in layers
        for number, array in enumerate(found)
    ]
    first = [list(array.shape) for _, array in arrays[: len(variables)]]
    if first != [list(variable.shape) for variable in variables.values()]:
        return None
    named = zip(variables, (array for _, array in arrays), strict=False)
    return Arrays(dict(named) | dict(arrays[len(variables) :]))


def _by_layer(layers: Layers, variables: Mapping) -> Arrays:
    """Our layer resnet50.conv1 is resnet50.conv1 or conv1 there, and its variables have the same
    order.
    """
    wanted: dict[str, list[str]] = {}
    for name in variables:
        scope = name.rpartition("/")[0]
        for layer in (scope, scope.partition("/")[2]):
            wanted.setdefault(layer.replace("/", "."), []).append(name)
    arrays = Arrays()
    for layer, found in layers:
        names = wanted.get(layer, ())
        # Another number of weights, without a bias say, has other meanings.
        if len(names) != len(found):
            names = [f"{layer}/{number}" for number in range(len(found))]
        arrays.update(zip(names, found, strict=True))
    return arrays
