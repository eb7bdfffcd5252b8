"""Weights that PyTorch trained, from safetensors files, by our names of variables.

A net of PyTorch has layers by the names of its modules: our `resnet50_torch/layer1/0/conv1/weights`
is `layer1.0.conv1.weight` there, in another layout. A safetensors file holds a description in JSON
and numbers, and no program: reading it runs nothing.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from common import UserError, reason
from network.keras_weights import Arrays

SUFFIX = ".safetensors"
_REQUIREMENT = "safetensors>=0.5,<1"

_POSITIONS = "pos_embed"

# The last part of a name: ours, and PyTorch's.
_WEIGHTS = {
    "weights": "weight",
    "depthwise_weights": "weight",
    "biases": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "layer_scale": "gamma",
    # The first position, in the same array as those of the patches.
    "class_position": _POSITIONS,
}
# Tokens that none of our nets has, by the last part of their names.
_OTHER_TOKENS = ("reg_token", "register_tokens", "dist_token")
_NO_WEIGHT = "num_batches_tracked"


def read(path: Path, variables: Mapping, renamed: Mapping[str, str] | None = None) -> Arrays:
    """The arrays of a safetensors file.

    A file of export.py has our names and our layout. Of PyTorch's names, what stands before them,
    such as `module.` or `backbone.`, is recognized: it is what most of the net's names have in
    common there.

    Args:
        variables: {name: variable} of the net that they are for.
        renamed: RENAMED_MODULES of the net, see nets/__init__.py. Those names are taken that more
            of the file's names are among.

    Returns:
        the arrays in our layout, by the names of the variables that they belong to; the rest, a
        classifier say, by their names in the file.

    Raises:
        UserError: the file is damaged, or none; or the package that reads it is missing.
    """
    tensors = _load(path)
    if tensors.keys() & variables.keys():  # of export.py, by our names; PyTorch's have no slash
        return Arrays(tensors)
    ways = [{name: torch_name(name) for name in variables}]
    if renamed:
        ways.append({name: torch_name(name, renamed) for name in variables})
    found = [_prefix(tensors, names.values()) for names in ways]
    (_, prefix), names = max(zip(found, ways, strict=True), key=lambda way: way[0][0])
    _check_tokens(path, tensors, prefix, names.values())
    arrays = Arrays()
    taken = set()
    for name, inner in names.items():
        array = tensors.get(prefix + inner)
        if array is None:
            continue
        taken.add(prefix + inner)
        if inner == _POSITIONS:
            array = _position(path, array, name, variables[name].shape)
        arrays[name] = _to_our_layout(array, name)
    for name, array in tensors.items():
        if name not in taken and not name.endswith(_NO_WEIGHT):
            arrays[name] = array
    return arrays


def torch_name(name: str, renamed: Mapping[str, str] | None = None) -> str:
    """PyTorch's name of a variable of a net, from ours.

    Args:
        renamed: other names of modules, by the names that the net has.
    """
    _, *modules, weight = name.split("/")
    module = ".".join(modules)
    if renamed:
        module = renamed.get(module, module)
    return ".".join(filter(None, [module, _WEIGHTS.get(weight, weight)]))


def _prefix(tensors: Iterable[str], wanted: Iterable[str]) -> tuple[int, str]:
    """What stands before the most of the wanted names, and how many those are.

    Returns:
        (count, prefix); (0, "") where none is there.
    """
    wanted = set(wanted)
    found: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                found["".join(f"{part}." for part in parts[:start])] += 1

    def rank(prefix: str):
        # What trains itself keeps an average, the teacher, which is the better net.
        return found[prefix], "teacher" in prefix, -len(prefix)

    prefix = max(found, key=rank, default="")
    return found[prefix], prefix


def _check_tokens(path: Path, tensors: Iterable[str], prefix: str, wanted: Iterable[str]) -> None:
    """Raises: UserError for a vision transformer with other tokens than those of our nets."""
    found = [prefix + token for token in _OTHER_TOKENS if prefix + token in tensors]
    if found and _POSITIONS in wanted:
        raise UserError(
            f"{path} is of a vision transformer with other tokens beside the class token: it holds {found[0]}. This "
            "net has none of them (register or distillation tokens). Give weights that were trained without."
        )


def _position(path: Path, array: np.ndarray, name: str, shape: Sequence[int]) -> np.ndarray:
    """Of position embeddings [1, 1 + patches, C]: the first, [C], or the grid of the others, [h, w, C].

    Args:
        name: of our variable, pos_embed for the grid.
        shape: of the variable.

    Raises:
        UserError: it cannot be said what grid they are.
    """
    if array.ndim != 3 or array.shape[0] != 1:
        return array  # misfits tells it
    if not name.endswith(f"/{_POSITIONS}"):
        return array[0, 0]
    patches = array.shape[1] - 1
    side = math.isqrt(patches)
    if side**2 == patches:  # as pretraining has it, and timm takes it for
        return array[0, 1:].reshape(side, side, -1)
    height, width, _ = shape
    if height * width == patches:
        return array[0, 1:].reshape(height, width, -1)
    raise UserError(
        f"{path} has {patches + 1} position embeddings: without one for the class token they are neither a square "
        f"grid of patches nor the {height}x{width} of this net. Give weights of square images or of this input size."
    )


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
