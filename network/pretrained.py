"""Pretrained weights of a net: from TF-slim, from an experiment, or from Keras."""

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from common import UserError, first_few, load_plugin
from experiment import flags
from network import checkpoint_paths, checkpoints, hub, keras_weights, other_files, torch_weights
from network.layers import CAMERA_EMBEDDINGS
from network.readers import Fitted, Reader

# The state of a net's random numbers is no weight.
RANDOM_STATE = "seed_generator_state"
# Cameras are those of one data set.
_NOT_TAKEN = (RANDOM_STATE, CAMERA_EMBEDDINGS)


class Loaded(NamedTuple):
    """What load_net did, as names of variables."""

    taken: list[str]
    passed_over: list[str]  # in the file, not in the net: logits, a head, optimizer slots
    missing: list[str]  # in the net, not in the file: left at their initial value

    def __str__(self) -> str:
        text = f"{len(self.taken)} variables taken, {len(self.passed_over)} passed over"
        if self.passed_over:
            text += f" ({first_few(self.passed_over)})"
        text += f", {len(self.missing)} missing"
        if self.missing:
            text += f" and left at their initial value ({first_few(self.missing)})"
        return text


def load_net(source: str | os.PathLike, model_name: str, variables: Mapping) -> Loaded:
    """Assign pretrained weights to those variables of a net that they have values for.

    Position embeddings of another image size are resized.

    Args:
        source: a checkpoint of TF-slim or TensorFlow 1 (the single file of format V1; the prefix,
            .index or .data file of V2) or of ours, an experiment's directory (its newest
            checkpoint) or the checkpoint-best in it, a weights file of Keras or of PyTorch
            (safetensors), a file of Hugging Face as network/hub.py has it, or the word imagenet:
            what Keras has for this net.
        model_name: the file of nets/ that made the net.
        variables: {name: variable}, as from checkpoints.named_variables(model.net_of(network)).

    Raises:
        UserError: there is no such source, it cannot be read, a variable has another shape, or no
            name fits. Nothing is assigned then.
    """
    variables = {
        name: variable for name, variable in variables.items() if not name.endswith(_NOT_TAKEN)
    }
    reader = Fitted(_open(source, model_name, variables), variables)
    wrong = checkpoints.misfits(reader, variables)
    if wrong:
        raise UserError(
            f"{source} does not fit this net: {first_few(wrong, '; ')}. Give the weights of this very net."
        )
    names = sorted(reader.get_variable_to_shape_map())
    loaded = Loaded(
        taken=[name for name in variables if reader.has_tensor(name)],
        passed_over=[name for name in names if name not in variables],
        missing=[name for name in variables if not reader.has_tensor(name)],
    )
    if not loaded.taken:
        raise UserError(
            f"nothing in {source} fits: it holds {first_few(names)}, and this net wants "
            f"{first_few(loaded.missing)}. Give the weights of this very net."
        )
    checkpoints.assign(source, reader, {name: variables[name] for name in loaded.taken})
    return loaded


def _is_keras_archive(path: Path) -> bool:
    """.keras files are zip archives."""
    return path.suffix == ".keras" and zipfile.is_zipfile(path)


def _open(source: str | os.PathLike, model_name: str, variables: Mapping) -> Reader:
    """Find out what `source` is, and open it."""
    if str(source) == flags.OF_KERAS:
        return keras_weights.imagenet(model_name, variables)
    path = hub.fetch(str(source)) if str(source).startswith(flags.OF_HUB) else Path(source)
    if path.name == checkpoint_paths.BEST:
        path = checkpoints.find(path.parent, path.name)
    other = other_files.name_of(path)
    if other is not None and not _is_keras_archive(path):
        kind = "weights file" if path.suffix in keras_weights.SUFFIXES else "checkpoint"
        raise UserError(f"cannot read the {kind} {path}: it is {other}.")
    if path.suffix == torch_weights.SUFFIX and path.is_file():
        renamed = getattr(load_plugin("nets", model_name), "RENAMED_MODULES", None)
        return torch_weights.read(path, variables, renamed)
    if path.suffix in keras_weights.SUFFIXES and path.is_file():
        return keras_weights.read(path, variables)
    if path.is_dir():
        path = checkpoints.newest(path)
    prefix = path.with_name(re.sub(r"\.(index|data-\d+-of-\d+)$", "", path.name))
    if not prefix.is_file() and not prefix.with_name(f"{prefix.name}.index").is_file():
        raise UserError(
            f"the checkpoint {prefix} does not exist. Give the file of a TF-slim checkpoint, the .index file or the "
            "name before .index of a newer one, the directory of an experiment, a .weights.h5, .keras or .h5 file of "
            "Keras, a .safetensors file of PyTorch, hf:owner/name of Hugging Face, or the word imagenet."
        )
    return checkpoints.read(prefix)
