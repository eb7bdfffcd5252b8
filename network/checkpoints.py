"""Checkpoints: the names in them, an experiment's own files, and the reader of all kinds.

TensorFlow 1 and TF-slim wrote the same format, named tensors, and our names are those of the
original: a layer's name with "/" for ".", then weights, biases, gamma and so on. Adam's moments are
`<variable>/Adam` and `<variable>/Adam_1`; the number of finished iterations is `global_step`. So
one reader serves all, and an error can name what does not fit.
"""

import atexit
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from common import UserError, first_few, reason
from network import checkpoint_paths
from network.checkpoint_paths import BEST, best, iterations
from network.checkpoint_paths import find as find
from network.checkpoint_paths import newest as newest
from network.readers import Fitted, Reader
from runtime import files
from runtime.terminal import log

# Keras' names of weights and optimizer slots, and those of TensorFlow 1.
_WEIGHTS = {"kernel": "weights", "depthwise_kernel": "depthwise_weights", "bias": "biases"}
_ADAM_SLOTS = {"momentum": "Adam", "velocity": "Adam_1"}

# What TensorFlow raises for files that are missing, damaged (IndexError: too short) or of another
# format.
_READ_ERRORS = (OSError, ValueError, RuntimeError, IndexError, tf.errors.OpError)

# TensorFlow takes a name with one of these for a pattern when it reads.
_PATTERN = re.compile(r"[*?\[\]\\]" if os.sep == "/" else r"[*?\[\]]")

# ------------------------------------------------------------------------- names


def named_variables(
    model: keras.Model | Sequence[keras.layers.Layer],
    optimizer: keras.optimizers.Optimizer | None = None,
) -> dict[str, keras.Variable]:
    """The variables of a model by their names in checkpoints, and the state of its optimizer.

    The learning rate is left out: it follows from the flags and the iteration.

    Args:
        model: a model, or several models and layers.
        optimizer: is built already (`optimizer.build(model.trainable_variables)`).

    Raises:
        ValueError: two variables would have one name, because their layers have.
    """
    named = [
        (_name(layer, variable), variable)
        for layer in _layers(model)
        # Not only weights: the random state of dropout and the like has to be saved, too.
        for variable in layer.variables
    ]
    if optimizer is not None:
        names = {
            variable.path.replace("/", "_"): name for name, variable in named if variable.trainable
        }
        named += _optimizer_state(optimizer, names)
    variables = dict(named)
    if len(variables) != len(named):
        all_names = [name for name, _ in named]
        twice = sorted(name for name in variables if all_names.count(name) > 1)
        raise ValueError(
            "Variables should have different names; rename their layers. Received twice: "
            f"{first_few(twice)}"
        )
    return variables


def averaged(variables: Mapping) -> dict:
    """The variables of a network by the names that --ema gives their averages in checkpoints.

    Those that are no floating-point numbers, states of dropout, are not averaged and keep theirs.
    """
    return {
        checkpoint_paths.average_name(name) if is_averaged(variable) else name: variable
        for name, variable in variables.items()
    }


def is_averaged(variable) -> bool:
    """Whether --ema averages a variable of a network."""
    return tf.as_dtype(variable.dtype).is_floating


def _layers(model: keras.Model | Sequence[keras.layers.Layer]) -> Iterator[keras.layers.Layer]:
    """All layers, those of models within models, too."""
    for layer in model.layers if isinstance(model, keras.Model) else model:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _name(layer: keras.layers.Layer, variable: keras.Variable) -> str:
    weight = variable.name
    if isinstance(layer, keras.layers.DepthwiseConv2D) and weight == "kernel":
        weight = "depthwise_kernel"
    # Not the variable's path: in that of a random state, Keras counts what was built before.
    return f"{layer.name.replace('.', '/')}/{_WEIGHTS.get(weight, weight)}"


def _optimizer_state(
    optimizer: keras.optimizers.Optimizer, names: Mapping[str, str]
) -> Iterator[tuple[str, keras.Variable]]:
    """Every variable of an optimizer with its name.

    Args:
        names: of the trained variables, by their paths with "_" for "/". Keras calls a slot
            `<such a path>_<slot>`.
    """
    is_adam = isinstance(getattr(optimizer, "inner_optimizer", optimizer), keras.optimizers.Adam)
    slots = _ADAM_SLOTS if is_adam else {}
    yield "global_step", optimizer.iterations
    for variable in optimizer.variables:
        if variable.name in ("iteration", "learning_rate"):
            continue
        fitting = [path for path in names if variable.name.startswith(path + "_")]
        if fitting:
            path = max(fitting, key=len)  # one path can be the beginning of another
            slot = variable.name.removeprefix(path + "_")
            yield f"{names[path]}/{slots.get(slot, slot)}", variable
        else:
            yield variable.name, variable


# ------------------------------------------------------------------------- an experiment's own


def save(experiment_root: str | os.PathLike, iteration: int, variables: Mapping) -> Path:
    """Write `checkpoint-<iteration>`: complete and on the disk, or not there at all.

    The file `checkpoint` names the newest one, for TensorFlow's tools and the original.

    Args:
        iteration: number of finished iterations.
        variables: {name: variable, tensor or array}.

    Returns:
        The path of the checkpoint, without suffix.

    Raises:
        UserError: it cannot be written, or there is one of that name; earlier checkpoints are still
            there.
    """
    root = Path(experiment_root)
    path = root / f"checkpoint-{iteration}"
    if _index(path).exists():
        raise UserError(
            f"{path} exists, so something else writes into this experiment. It was not replaced. Look for another "
            "training in it, then go on with --resume."
        )
    try:
        # Of the same file system: renaming is atomic.
        with files.temporary_directory(root / "checkpoints") as scratch:
            _write(str(scratch / path.name), variables)
            for file in scratch.iterdir():
                files.sync(file)
            # The index last: where it is, the rest is.
            for suffix in (".data-00000-of-00001", ".index"):
                os.replace(f"{scratch / path.name}{suffix}", f"{path}{suffix}")
                files.sync(root)
        _write_state(root)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"cannot write {path}: {reason(error)}. Earlier checkpoints are untouched. Make room or correct the "
            "permissions, then go on with --resume."
        ) from None
    return path


def _write(prefix: str, variables: Mapping) -> None:
    names = sorted(variables)
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.convert_to_tensor(variables[name]) for name in names],
    )


def _write_state(root: Path) -> None:
    """Write the file `checkpoint`, in TensorFlow's text format, unless it is as it should be."""
    # Relative paths: experiments get moved.
    names = [f"checkpoint-{iteration}" for iteration in iterations(root)]
    lines = [f'model_checkpoint_path: "{names[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
    text = "\n".join(lines) + "\n"
    state = root / "checkpoint"
    if state.exists() and state.read_bytes() == text.encode("ascii"):
        return
    with files.complete_file(state) as partial:
        partial.write_text(text, encoding="ascii")
    files.sync(root)


def keep_newest(experiment_root: str | os.PathLike, count: int) -> None:
    """Delete all but the `count` newest checkpoints and the best; 0 keeps all."""
    root = Path(experiment_root)
    if not count:
        return
    kept = {best(root), *iterations(root)[-count:]}
    for iteration in iterations(root):
        if iteration not in kept:
            _delete(root, iteration)
    _write_state(root)


def delete(experiment_root: str | os.PathLike, iteration: int) -> None:
    """Delete a checkpoint, if it is there."""
    root = Path(experiment_root)
    if iteration in iterations(root):
        _delete(root, iteration)
        _write_state(root)


def _delete(root: Path, iteration: int) -> None:
    for file in _files(root / f"checkpoint-{iteration}"):
        file.unlink()


def point_to_best(experiment_root: str | os.PathLike, iteration: int | None) -> None:
    """Let the file checkpoint-best name a checkpoint, in one step; None: there is no such file."""
    path = Path(experiment_root) / BEST
    if iteration is None:
        path.unlink(missing_ok=True)
    elif best(Path(experiment_root)) != iteration:
        with files.complete_file(path) as partial:
            partial.write_text(
                f'model_checkpoint_path: "checkpoint-{iteration}"\n', encoding="ascii"
            )
        files.sync(path.parent)


def _index(path: Path) -> Path:
    return path.with_name(path.name + ".index")


def _files(path: Path) -> list[Path]:
    """The files of a checkpoint, the index first: without it the others count for nothing."""
    return [_index(path), *path.parent.glob(f"{glob.escape(path.name)}.data-*")]


# ------------------------------------------------------------------------- reading


class Unreadable(UserError):
    """A checkpoint whose files are missing, damaged or of another format."""


def restore(
    path: str | os.PathLike, variables: Mapping, optional: Collection[str] = ()
) -> list[str]:
    """Assign the values of a checkpoint to variables. What else it holds does not matter.

    Nothing is assigned unless all fits. Integers may differ in width: TensorFlow 1 counted
    iterations in int32. Position embeddings of another image size are resized.

    Args:
        path: without suffix, as from `newest` or `find`.
        variables: {name: variable}, as from named_variables.
        optional: names of those that stay as they are where the checkpoint lacks them.

    Returns:
        the names of all that the checkpoint holds.

    Raises:
        UserError: the file cannot be read (Unreadable), or a variable is missing or has another
            shape there.
    """
    reader = Fitted(read(path), variables)
    wrong = misfits(reader, variables)
    missing = [name for name in variables if not reader.has_tensor(name)]
    wrong += [f"{name} is missing" for name in missing if name not in optional]
    if wrong:
        raise UserError(
            f"{path} does not fit this model: {first_few(wrong, '; ')}. Give the model, sizes and optimizer that it "
            "was trained with, or another checkpoint."
        )
    there = {name: variable for name, variable in variables.items() if name not in missing}
    assign(path, reader, there)
    return sorted(reader.get_variable_to_shape_map())


class Restored(NamedTuple):
    """What has been restored."""

    path: Path  # of the checkpoint, without suffix
    weights: str | None  # as from checkpoint_paths.chosen_weights
    names: list[str]  # of all that the checkpoint holds


def restore_network(
    experiment_root: str | os.PathLike,
    name: str | None,
    variables: Mapping,
    weights: str | None = None,
) -> Restored:
    """Find a checkpoint of an experiment, whose training may go on, and restore a network from it.

    That training may delete it meanwhile, to make room for a newer one, which is taken then.

    Args:
        name: such as checkpoint-1000; the newest if None.
        variables: {name: variable} of the network.
        weights: "averaged" or "raw"; the average if None, where there is one.

    Raises:
        UserError: as find, checkpoint_paths.chosen_weights and restore do.
    """
    path = find(experiment_root, name)
    while True:
        try:
            chosen = checkpoint_paths.chosen_weights(path, weights)
            stored = averaged(variables) if chosen == "averaged" else variables
            return Restored(path, chosen, restore(path, stored))
        except UserError:
            now = find(experiment_root, name)
            if now == path:
                raise
            log.info(f"{path} was deleted by its training. Taking {now}.")
            path = now


def restore_newest(
    experiment_root: str | os.PathLike, variables: Mapping, optional: Collection[str] = ()
) -> Path:
    """Restore the newest checkpoint of an experiment that can be read.

    Newer ones that cannot are renamed to `broken-<name>`, since the run will write their names
    again, and are logged as warnings.

    Args:
        variables, optional: as for restore.

    Returns:
        Its path, without suffix.

    Raises:
        UserError: there is none, or it does not fit, or none can be read (the error is that of the
            newest).
    """
    root = Path(experiment_root)
    path = newest(root)
    broken: dict[Path, Unreadable] = {}
    for iteration in reversed(iterations(root)):
        path = root / f"checkpoint-{iteration}"
        try:
            restore(path, variables, optional)
        except Unreadable as error:
            broken[path] = error
            continue
        for unreadable, problem in broken.items():
            for file in reversed(_files(unreadable)):  # without its index the data would be lost
                file.rename(root / f"broken-{file.name}")
            log.warning(
                f"{problem} Taking {path}; the other is now called broken-{unreadable.name}."
            )
        _write_state(root)  # a kill can come before it
        return path
    raise next(iter(broken.values()))


def read(path: str | os.PathLike) -> Reader:
    """Open a checkpoint of ours, of TensorFlow 1 or of TF-slim.

    Args:
        path: without suffix, or the single file of TensorFlow 1's first format.

    Raises:
        Unreadable: it is missing, damaged or of another format.
    """
    with _reading(path):
        return tf.train.load_checkpoint(_plain_name(Path(path)))


def _plain_name(path: Path) -> str:
    """A name of a checkpoint that TensorFlow does not take for a pattern, without suffix.

    Links in a directory of their own, until the process ends, since a reader opens files late.
    """
    if not _PATTERN.search(str(path)):
        return str(path)
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for file in (path, *_files(path)):
        if file.exists():
            suffix = file.name.removeprefix(path.name)
            os.symlink(file.absolute(), f"{folder}/checkpoint{suffix}")
    return f"{folder}/checkpoint"


def misfits(reader: Reader, variables: Mapping) -> list[str]:
    """One message for each variable whose shape or kind of number differs."""
    shapes = reader.get_variable_to_shape_map()
    dtypes = reader.get_variable_to_dtype_map()
    wrong = []
    for name, variable in variables.items():
        if name not in shapes:
            continue
        there = dtypes[name]
        here = tf.as_dtype(variable.dtype)
        if shapes[name] != list(variable.shape):
            wrong.append(f"{name} is {shapes[name]} there and {list(variable.shape)} here")
        elif there.is_floating != here.is_floating or there.is_integer != here.is_integer:
            wrong.append(f"{name} is {there.name} there and {here.name} here")
    return wrong


def assign(path: str | os.PathLike, reader: Reader, variables: Mapping) -> None:
    """Read the values of all variables, then assign all.

    Raises:
        Unreadable: the file, called `path`, is damaged; nothing is assigned.
    """
    with _reading(path):
        values = {name: reader.get_tensor(name) for name in variables}
    for name, variable in variables.items():
        variable.assign(values[name])


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except _READ_ERRORS as error:
        raise Unreadable(
            f"cannot read the checkpoint {path}: {reason(error)}. Its .index and .data files (or the single file of "
            "an old one) should be there, readable and complete: copy them again, or give another checkpoint."
        ) from None
