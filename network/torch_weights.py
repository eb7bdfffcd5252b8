"""Weights that PyTorch trained, from safetensors files, by our names of variables.

A net of PyTorch has layers by the names of its modules: our `resnet50_torch/layer1/0/conv1/weights`
is `layer1.0.conv1.weight` there, in another layout. A safetensors file holds a description in JSON
and numbers, and no program: reading it runs nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from common import UserError, reason
from network.keras_weights import Arrays

SUFFIX = ".safetensors"
_REQUIREMENT = "safetensors>=0.5,<1"

# The last part of a name: ours, and PyTorch's.
_WEIGHTS = {
    "weights": "weight",
    "depthwise_weights": "weight",
    "biases": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_NO_WEIGHT = "num_batches_tracked"


def read(path: Path, variables: Mapping) -> Arrays:
    """The arrays of a safetensors file.

    What stands before the names, such as `module.` or `backbone.`, is recognized: it is what most
    of the net's names have in common there.

    Args:
        variables: {name: variable} of the net that they are for.

    Returns:
        the arrays in our layout, by the names of the variables that they belong to; the rest, a
        classifier say, by their names in the file.

    Raises:
        UserError: the file is damaged, or none; or the package that reads it is missing.
    """
    tensors = _load(path)
    names = {name: torch_name(name) for name in variables}
    prefix = _prefix(tensors, names.values())
    arrays = Arrays()
    taken = set()
    for name, inner in names.items():
        array = tensors.get(prefix + inner)
        if array is None:
            continue
        taken.add(prefix + inner)
        arrays[name] = _to_our_layout(array, name)
    for name, array in tensors.items():
        if name not in taken and not name.endswith(_NO_WEIGHT):
            arrays[name] = array
    return arrays


def torch_name(name: str) -> str:
    """PyTorch's name of a variable of a net, from ours."""
    _, *modules, weight = name.split("/")
    return ".".join([*modules, _WEIGHTS.get(weight, weight)])


def _prefix(tensors: Iterable[str], wanted: Iterable[str]) -> str:
    """What stands before the most of the wanted names; "" where none is there."""
    wanted = set(wanted)
    found: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                found["".join(f"{part}." for part in parts[:start])] += 1
    return max(found, key=lambda prefix: (found[prefix], -len(prefix)), default="")


def _to_our_layout(array: np.ndarray, name: str) -> np.ndarray:
    """Convolutions from [out, in, h, w] to [h, w, in, out], matrices from [out, in] to [in, out].

    The kernels of depthwise convolutions are [C, 1, h, w] there and [h, w, C, 1] here.
    """
    if name.endswith("/depthwise_weights") and array.ndim == 4:
        return array.transpose(2, 3, 0, 1)
    if name.endswith("/weights") and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if name.endswith("/weights") and array.ndim == 2:
        return array.T
    return array


def _load(path: Path) -> dict[str, np.ndarray]:
    """All tensors of the file, float32 those of 16 bits."""
    try:
        import safetensors
        from safetensors.numpy import load_file
    except ImportError:
        raise UserError(
            f"reading {path} takes the package safetensors. Install it: pip install '{_REQUIREMENT}'"
        ) from None
    try:
        tensors = load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot read the weights file {path}: {reason(error)}. It should be a complete {SUFFIX} file: save or "
            "download it again."
        ) from None
    if not tensors:
        raise UserError(f"there are no weights in {path}. Save or download it again.")
    return {name: _as_float32(array) for name, array in tensors.items()}


def _as_float32(array: np.ndarray) -> np.ndarray:
    is_narrow = array.dtype.itemsize == 2 and array.dtype.kind in "fV"
    return array.astype(np.float32) if is_narrow else array
