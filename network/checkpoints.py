"""Checkpoints of experiments, and the reader of those that TensorFlow 1 and TF-slim wrote.

Both are one format, named tensors, and ours have the names that the original's have: a layer's name
with "/" for ".", then weights, biases, gamma and so on; Adam's moments are `<variable>/Adam` and
`<variable>/Adam_1`, the number of finished iterations is `global_step`. So one reader serves all,
and what does not fit is told by its name.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from common import UserError, reason
from network import keras_weights
from runtime import files
from runtime.terminal import log

# Keras' names of weights and optimizer slots, and TensorFlow 1's
_WEIGHTS = {"kernel": "weights", "depthwise_kernel": "depthwise_weights", "bias": "biases"}
_ADAM_SLOTS = {"momentum": "Adam", "velocity": "Adam_1"}
_RANDOM_STATE = "seed_generator_state"

# What TensorFlow raises about files that are missing, damaged (IndexError: too short) or of another
# format.
_READ_ERRORS = (OSError, ValueError, RuntimeError, IndexError, tf.errors.OpError)


# ------------------------------------------------------------------------- names


def named_variables(
    model: keras.Model | Sequence[keras.layers.Layer],
    optimizer: keras.optimizers.Optimizer | None = None,
) -> dict:
    """The state of a model, or of several and of layers, and of their optimizer when one is given,
    under its names in checkpoints.

    The optimizer has to be built (`optimizer.build(model.trainable_variables)`). Its learning rate
    is left out: that follows from the flags and the iteration.

    Returns: {name: keras.Variable}.
    Raises: ValueError when two variables would have one name, because their layers have.
    """
    named = [
        (_name(layer, variable), variable)
        for layer in _layers(model)
        # Dropout and the like keep their random state in a variable that is no weight: it belongs
        # here too.
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
            f"Variables should have different names; give their layers such. Received twice: {twice}"
        )
    return variables


def _layers(model: keras.Model | Sequence[keras.layers.Layer]) -> Iterator[keras.layers.Layer]:
    for layer in model.layers if isinstance(model, keras.Model) else model:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _name(layer: keras.layers.Layer, variable: keras.Variable) -> str:
    weight = variable.name
    if isinstance(layer, keras.layers.DepthwiseConv2D) and weight == "kernel":
        weight = "depthwise_kernel"
    # Not the variable's path: that of a random state is numbered by what was built before.
    return f"{layer.name.replace('.', '/')}/{_WEIGHTS.get(weight, weight)}"


def _optimizer_state(
    optimizer: keras.optimizers.Optimizer, names: Mapping[str, str]
) -> Iterator[tuple]:
    """Keras calls a slot `<path of its variable, with _ for />_<slot>`; `names` maps such paths to
    names.
    """
    is_adam = isinstance(getattr(optimizer, "inner_optimizer", optimizer), keras.optimizers.Adam)
    slots = _ADAM_SLOTS if is_adam else {}
    yield "global_step", optimizer.iterations
    for variable in optimizer.variables:
        if variable.name in ("iteration", "learning_rate"):
            continue
        # The longest path that fits: one path can be the beginning of another.
        of = max(
            (path for path in names if variable.name.startswith(path + "_")), key=len, default=None
        )
        if of is None:
            yield variable.name, variable
        else:
            slot = variable.name.removeprefix(of + "_")
            yield f"{names[of]}/{slots.get(slot, slot)}", variable


# ------------------------------------------------------------------------- an experiment's own


def save(experiment_root: str | os.PathLike, iteration: int, variables: Mapping) -> Path:
    """Write `checkpoint-<iteration>`: complete and on the disk, or not there at all.

    A complete checkpoint of that name is left as it is. Also names the newest one in the file
    `checkpoint`, for TensorFlow's tools and the original.

    Args:
        iteration: number of finished iterations.
        variables: {name: variable, tensor or array}.

    Returns: the path of the checkpoint, without suffix.
    Raises: UserError when it cannot be written; the checkpoints that were there still are.
    """
    root = Path(experiment_root)
    path = root / f"checkpoint-{iteration}"
    # What a killed run left here goes with the next save. A folder of the same file system:
    # renaming is atomic.
    scratch = root / "checkpoint.partial"
    try:
        if not _index(path).exists():
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
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
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
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
    """The state file in TensorFlow's text format. Relative paths: experiments get moved."""
    names = [f"checkpoint-{iteration}" for iteration in _iterations(root)]
    lines = [
        f'model_checkpoint_path: "{names[-1]}"',
        *(f'all_model_checkpoint_paths: "{name}"' for name in names),
    ]
    partial = root / "checkpoint.state.partial"
    try:
        partial.write_text("\n".join(lines) + "\n", encoding="ascii")
        files.sync(partial)
        os.replace(partial, root / "checkpoint")
    finally:
        partial.unlink(missing_ok=True)
    files.sync(root)


def newest(experiment_root: str | os.PathLike) -> Path:
    """The complete checkpoint of the highest iteration, as a path without suffix.

    The state file is not asked: the original wrote absolute paths there, which are wrong once a
        directory has moved.

    Raises: UserError when there is none.
    """
    iterations = _iterations(Path(experiment_root))
    if not iterations:
        raise UserError(
            f"there is no checkpoint in {experiment_root}. Give the --experiment_root of a training."
        )
    return Path(experiment_root) / f"checkpoint-{iterations[-1]}"


def find(experiment_root: str | os.PathLike, name: str) -> Path:
    """The checkpoint `name`, such as checkpoint-1000, in an experiment, as a path without suffix.

    Raises: UserError when there is none; it lists those there are.
    """
    root = Path(experiment_root)
    if Path(name).parent.resolve() in (root.resolve(), Path().resolve()):
        name = Path(name).name.removesuffix(".index")  # as the shell completes it
    others = {file.stem for file in root.glob("*.index")}
    ours = [f"checkpoint-{iteration}" for iteration in _iterations(root)]
    available = ours + sorted(others.difference(ours))
    if name not in available:
        raise UserError(
            f"there is no checkpoint {name!r} in {experiment_root}. Available: {', '.join(available) or 'none'}."
        )
    return root / name


def _iterations(root: Path) -> list[int]:
    matches = (
        re.fullmatch(r"checkpoint-(0|[1-9][0-9]*)\.index", file.name)
        for file in root.glob("checkpoint-*.index")
    )
    return sorted(int(match[1]) for match in matches if match)


def _index(path: Path) -> Path:
    return path.with_name(path.name + ".index")


# ------------------------------------------------------------------------- reading


def restore(path: str | os.PathLike, variables: Mapping) -> None:
    """Give every variable the value of its name in a checkpoint; what else is in there does not
    matter.

    Nothing is assigned unless all fits. Integers may differ in width: TensorFlow 1 counted
    iterations in int32.

    Args:
        path: without suffix, as from `newest` or `find`.
        variables: {name: variable}, as from named_variables.

    Raises: UserError when the file cannot be read, and for variables that are missing or of another
        shape.
    """
    reader = _open(path)
    wrong = _misfits(reader, variables)
    wrong += [f"{name} is missing" for name in variables if not reader.has_tensor(name)]
    if wrong:
        raise UserError(
            f"{path} does not fit this model: {_first(wrong, '; ')}. Give the model, sizes and optimizer that it was "
            "trained with, or another checkpoint."
        )
    _assign(path, reader, variables)


class Unreadable(UserError):
    """A checkpoint whose files are missing, damaged or no checkpoint."""


def restore_newest(experiment_root: str | os.PathLike, variables: Mapping) -> Path:
    """Restore the newest checkpoint of an experiment that can be read.

    Newer ones that cannot are renamed to `broken-<name>`, since the run will write their names
    again, and are logged as warnings.

    Returns: its path, without suffix.
    Raises: UserError when there is none, when it does not fit, and the newest one's when none can
        be read.
    """
    root = Path(experiment_root)
    path = newest(root)
    broken: dict[Path, Unreadable] = {}
    for iteration in reversed(_iterations(root)):
        path = root / f"checkpoint-{iteration}"
        try:
            restore(path, variables)
        except Unreadable as error:
            broken[path] = error
            continue
        for unreadable, problem in broken.items():
            for file in _files(unreadable):
                file.rename(root / f"broken-{file.name}")
            log.warning(
                f"{problem} Taking {path}; the other is now called broken-{unreadable.name}."
            )
        return path
    raise next(iter(broken.values()))


def keep_newest(experiment_root: str | os.PathLike, count: int) -> None:
    """Delete all but the `count` newest checkpoints; 0 keeps all."""
    root = Path(experiment_root)
    if not count:
        return
    for iteration in _iterations(root)[:-count]:
        for file in _files(root / f"checkpoint-{iteration}"):
            file.unlink()
    _write_state(root)


def _files(path: Path) -> list[Path]:
    """Of a checkpoint: the index first, without which the rest counts for nothing."""
    return [_index(path), *path.parent.glob(f"{path.name}.data-*")]


class Loaded(NamedTuple):
    """What load_body did, as lists of names."""

    taken: list[str]
    passed_over: list[
        str
    ]  # in the file, not in the body: logits, a head, optimizer slots, global_step
    missing: list[str]  # in the body, not in the file: left at their initial value

    def __str__(self) -> str:
        text = f"{len(self.taken)} variables taken, {len(self.passed_over)} passed over"
        if self.passed_over:
            text += f" ({_first(self.passed_over)})"
        text += f", {len(self.missing)} missing"
        if self.missing:
            text += f" and left at their initial value ({_first(self.missing)})"
        return text


def load_body(path: str | os.PathLike, variables: Mapping) -> Loaded:
    """Start from pretrained weights: give those variables of a body their values that a checkpoint
    has.

    Args:
        path: of a checkpoint of TF-slim or TensorFlow 1 (the single file of format V1; the prefix,
            .index or .data file of V2), of a checkpoint of ours, an experiment's directory (its
            newest), or a weights file of Keras; or the word imagenet: what Keras has for this net.
        variables: {name: variable} of the body, as from named_variables(model.body(...)).

    Raises: UserError when there is no such checkpoint, when it cannot be read, when a variable has
        another shape and when no name fits.
    """
    variables = {
        name: variable for name, variable in variables.items() if not name.endswith(_RANDOM_STATE)
    }
    reader = _open_pretrained(path, variables)
    wrong = _misfits(reader, variables)
    if wrong:
        raise UserError(
            f"{path} does not fit this net: {_first(wrong, '; ')}. Give the weights of this very net."
        )
    names = sorted(reader.get_variable_to_shape_map())
    loaded = Loaded(
        taken=[name for name in variables if reader.has_tensor(name)],
        passed_over=[name for name in names if name not in variables],
        missing=[name for name in variables if not reader.has_tensor(name)],
    )
    if not loaded.taken:
        raise UserError(
            f"nothing in {path} fits: it holds {_first(names)}, and this net wants {_first(loaded.missing)}. "
            "Give the weights of this very net."
        )
    _assign(path, reader, {name: variables[name] for name in loaded.taken})
    return loaded


def _open_pretrained(path: str | os.PathLike, variables: Mapping):
    if str(path) == "imagenet":
        return keras_weights.imagenet(variables)
    path = Path(path)
    if path.suffix in keras_weights.SUFFIXES and path.is_file():
        return keras_weights.read(path, variables)
    if path.is_dir():
        path = newest(path)
    path = path.with_name(re.sub(r"\.(index|data-\d+-of-\d+)$", "", path.name))
    if not path.is_file() and not _index(path).is_file():
        raise UserError(
            f"the checkpoint {path} does not exist. Give the file of a TF-slim checkpoint, the .index file or the "
            "name before .index of a newer one, the directory of an experiment, a .weights.h5, .keras or .h5 file of "
            "Keras, or the word imagenet."
        )
    return _open(path)


def _open(path: str | os.PathLike):
    with _reading(path):
        return tf.train.load_checkpoint(str(path))


def _assign(path: str | os.PathLike, reader, variables: Mapping) -> None:
    """Read the values of all, then assign all."""
    with _reading(path):
        values = {name: reader.get_tensor(name) for name in variables}
    for name, variable in variables.items():
        variable.assign(values[name])


def _misfits(reader, variables: Mapping) -> list[str]:
    """What differs in shape, or is an integer here and a float there, said one by one."""
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    wrong = []
    for name, variable in variables.items():
        if name not in shapes:
            continue
        here = tf.as_dtype(variable.dtype)
        if shapes[name] != list(variable.shape):
            wrong.append(f"{name} is {shapes[name]} there and {list(variable.shape)} here")
        elif (dtypes[name].is_floating, dtypes[name].is_integer) != (
            here.is_floating,
            here.is_integer,
        ):
            wrong.append(f"{name} is {dtypes[name].name} there and {here.name} here")
    return wrong


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except _READ_ERRORS as error:
        raise Unreadable(
            f"cannot read the checkpoint {path}: {reason(error)}. Its .index and .data files (or the single file of "
            "an old one) should be there, readable and complete: copy them again, or give another checkpoint."
        ) from None


def _first(items: list[str], separator: str = ", ", count: int = 3) -> str:
    more = [f"{len(items) - count} more"] if len(items) > count else []
    return separator.join(items[:count] + more)
