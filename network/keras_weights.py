"""Weights that Keras saved, in files or in its ImageNet models, by our names of variables.

Nothing is unpickled or built from a file: only the arrays are read.
"""

import itertools
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

import common
from common import UserError, reason
from runtime import hdf5

SUFFIXES = (".h5", ".hdf5", ".keras")  # .weights.h5 is an .h5, too

# What the libraries raise for a file that is missing, damaged or of another format.
_READ_ERRORS = (
    *hdf5.ERRORS,
    zipfile.BadZipFile,
)

# The weights of a net, layer by layer: its name in Keras and its arrays in Keras' order.
Layers = list[tuple[str, list[np.ndarray]]]


class Arrays(dict):
    """Arrays by name, to be read like one of TensorFlow's checkpoints (checkpoints.Reader)."""

    has_tensor = dict.__contains__
    get_tensor = dict.__getitem__

    def get_variable_to_shape_map(self) -> dict[str, list[int]]:
        return {name: list(array.shape) for name, array in self.items()}

    def get_variable_to_dtype_map(self) -> dict[str, tf.DType]:
        return {name: tf.as_dtype(array.dtype) for name, array in self.items()}


def read(path: Path, variables: Mapping) -> Arrays:
    """The arrays of a file `.weights.h5`, `.keras`, or `.h5` as of Keras 2.

    Args:
        variables: {name: variable} of the net that they are for.

    Returns:
        The arrays, by the names of the variables that they belong to, the rest as
        <layer>/<number>.

    Raises:
        UserError: the file is damaged or of another format.
    """
    try:
        layers, in_order = _read_layers(path)
    except _READ_ERRORS as error:
        raise UserError(
            f"cannot read the weights file {path}: {reason(error)}. It should be a .weights.h5, .keras or .h5 file "
            "of Keras, and complete: save or download it again."
        ) from None
    return _match(layers, variables, in_order)


def imagenet(model_name: str, variables: Mapping) -> Arrays:
    """What Keras trained on ImageNet for a net; downloaded, once.

    Args:
        model_name: the file of nets/, which names its model of Keras as APPLICATION.
        variables: {name: variable} of the net.

    Returns:
        The arrays, as `read` does.

    Raises:
        UserError: Keras has no weights for this net, or they cannot be fetched.
    """
    application = getattr(common.load_plugin("nets", model_name), "APPLICATION", None)
    if application is None:
        raise UserError(
            f"Keras has no ImageNet weights for {model_name}, but for {', '.join(_nets_of_keras())}. Give "
            "--initial_checkpoint a file (for the nets of TF-slim their .ckpt), or one of these as --model_name."
        )
    try:
        model = application(
            weights="imagenet", include_top=False, pooling="avg", input_shape=(224, 224, 3)
        )
    except Exception as error:  # Keras raises just that when a download fails
        url = re.search(r"https?://[^\s:]+", str(error))
        if url is None:
            raise
        name = url[0].rpartition("/")[2]
        folder = Path(os.environ.get("KERAS_HOME", "~/.keras"), "models")
        raise UserError(
            f"cannot download the ImageNet weights of {model_name}: {reason(error)}. Fetch {url[0]} on another "
            f"machine, and put it into {folder}, or give --initial_checkpoint the file {name}."
        ) from None
    by_layer = itertools.groupby(model.weights, key=lambda weight: weight.path.split("/")[-2])
    layers = [(layer, [weight.numpy() for weight in weights]) for layer, weights in by_layer]
    return _match(layers, variables, in_order=True)


def _nets_of_keras() -> list[str]:
    names = common.plugin_names("nets")
    return [name for name in names if hasattr(common.load_plugin("nets", name), "APPLICATION")]


# ------------------------------------------------------------------------- files


def _read_layers(path: Path) -> tuple[Layers, bool]:
    """The layers of a file, and whether they have the order of the net."""
    if path.suffix == ".keras":
        with (
            zipfile.ZipFile(path) as archive,
            archive.open("model.weights.h5") as file,
            hdf5.reading(file) as h5,
        ):
            return _keras3_layers(h5), False
    with hdf5.reading(path) as h5:
        group = hdf5.find(h5, "model_weights") or h5  # a whole model was saved, or its weights
        if "layer_names" in group.attrs:
            return _keras2_layers(group), True
        return _keras3_layers(h5), False


def _keras3_layers(h5: h5py.File) -> Layers:
    """A group `vars` for each layer, with the name that it had. Not in the order of the net."""
    layers = []

    def visit(path: str, group) -> None:
        if isinstance(group, h5py.Group) and path.endswith("vars") and "seed_generator" not in path:
            kind = re.sub(r"_\d+$", "", path.split("/")[-2]) if "/" in path else ""
            name = group.attrs.get("name", path)
            # A layer without a name was numbered by what had been built before.
            name = kind if re.fullmatch(rf"{kind}_\d+", name) else name
            layers.append((name, [_array(group, number) for number in sorted(group, key=int)]))

    h5.visititems(visit)
    if not any(arrays for _, arrays in layers):
        raise ValueError("there are no weights in it")
    return layers


def _keras2_layers(group: h5py.Group) -> Layers:
    layers = []
    for layer in _strings(group.attrs["layer_names"]):
        weights = _strings(_found(group, layer).attrs["weight_names"])
        layers.append((layer, [_array(group, f"{layer}/{weight}") for weight in weights]))
    return layers


def _array(group: h5py.Group, name: str) -> np.ndarray:
    return _found(group, name, hdf5.dataset)[()]


def _found(group: h5py.Group, name: str, find: Callable = hdf5.find):
    found = find(group, name)
    if found is None:
        raise ValueError(f"{name} is missing")
    return found


def _strings(attribute) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else name for name in attribute]


# ------------------------------------------------------------------------- which is which


def _match(layers: Layers, variables: Mapping, in_order: bool) -> Arrays:
    if in_order and _fit_in_order(layers, variables):
        return _by_order(layers, variables)
    return _by_layer(layers, variables)


def _fit_in_order(layers: Layers, variables: Mapping) -> bool:
    shapes = [array.shape for _, arrays in layers for array in arrays]
    return shapes[: len(variables)] == [tuple(variable.shape) for variable in variables.values()]


def _by_order(layers: Layers, variables: Mapping) -> Arrays:
    """One after the other, as Keras does it, whatever the layers are called."""
    names = iter(variables)
    arrays = Arrays()
    for layer, found in layers:
        for number, array in enumerate(found):
            arrays[next(names, f"{layer}/{number}")] = array
    return arrays


def _by_layer(layers: Layers, variables: Mapping) -> Arrays:
    """By the layers' names, and the order of the variables in each.

    Our layer resnet50.conv1 is called resnet50.conv1 or conv1 there.
    """
    wanted: dict[str, list[str]] = {}
    for name in variables:
        scope = name.rpartition("/")[0]
        for layer in (scope, scope.partition("/")[2]):
            wanted.setdefault(layer.replace("/", "."), []).append(name)
    arrays = Arrays()
    for layer, found in layers:
        names = wanted.get(layer, [])
        # Another number of weights, without a bias say, has other meanings.
        if len(names) != len(found):
            names = [f"{layer}/{number}" for number in range(len(found))]
        arrays.update(zip(names, found, strict=True))
    return arrays
