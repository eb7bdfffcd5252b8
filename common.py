"""What the commands share: flags, plug-ins by name, args.json, data sets, logging, errors.

Nothing here imports TensorFlow: --help and every flag error answer at once.
"""

import argparse
import ast
import difflib
import errno
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

# Read when Keras is imported, which is after this module.
os.environ["KERAS_BACKEND"] = "tensorflow"

HERE = Path(__file__).resolve().parent


def _read_losses() -> tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]:
    """What loss.py says of its losses, read from its source: importing it would import TensorFlow.

    Returns:
        METRICS; what each loss of its table LOSSES is over, by name; and the names of those that
        have a form without zeros.
    """
    module = ast.parse((HERE / "loss.py").read_text(encoding="utf-8"))
    assigned: dict[str, Any] = {}
    for node in module.body:
        if isinstance(node, ast.Assign):
            assigned[ast.unparse(node.targets[0])] = node.value
    table = assigned["LOSSES"]
    over = {}
    without_zeros = []
    for key, loss in zip(table.keys, table.values, strict=True):
        arguments = {argument.arg: argument.value for argument in loss.keywords}
        over[key.value] = ast.literal_eval(arguments["over"])
        if "without_zeros" in arguments:
            without_zeros.append(key.value)
    return ast.literal_eval(assigned["METRICS"]), over, tuple(without_zeros)


METRICS, _OVER, LOSSES_WITHOUT_ZEROS = _read_losses()
LOSSES = tuple(_OVER)
DISTANCE_LOSSES = tuple(name for name in LOSSES if _OVER[name] == "distances")
EMBEDDING_LOSSES = tuple(name for name in LOSSES if _OVER[name] == "embeddings")
STRATEGIES = ("auto", "one", "mirrored", "multi_worker")


class UserError(Exception):
    """Something the person at the shell can put right. The message says what is wrong, what was
    received, what is allowed and how to fix it, in one line."""


def reason(error: Exception) -> str:
    """What an error of TensorFlow or of the system says, without what is put around it."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = re.sub(r"\{\{.*?\}\} *| *\[Op:\w+\]", "", text)
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def run(main: Callable, parse_args: Callable) -> None:
    """Run a command: parse sys.argv, call main(args), end a UserError as one line on stderr and
    exit code 1.
    """
    # So that what is half-written is removed on the way out, as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        main(parse_args())
    except UserError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
    except BrokenPipeError:  # `... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        name = Path(sys.argv[0]).name
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            sys.exit(
                f"{name}: error: the disk is full ({error}). What was complete is untouched: make room and call again, "
                "a training with --resume."
            )
        if error.filename is None:
            raise
        sys.exit(
            f"{name}: error: cannot use {error.filename}: {error.strerror}. Check the path and its permissions."
        )


# ------------------------------------------------------------------------- flags


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the defaults, where there is one to tell."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        # Not `in (None, False)`: 0 is equal to False.
        untold = action.default is None or action.default is False
        return action.help if untold else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, without all its flags before it."""

    def error(self, message: str) -> None:
        if message.startswith("unrecognized arguments: "):
            flags = [word.partition("=")[0] for word in message.split() if word.startswith("-")]
            close = [
                difflib.get_close_matches(flag, self._option_string_actions, 1) for flag in flags
            ]
            meant = " ".join(flag for flags in close for flag in flags)
            message += f". {f'Meant: {meant}? ' if meant else ''}--help lists all flags"
        self.exit(2, f"{self.prog}: error: {message}\n")


def make_parser(doc: str) -> argparse.ArgumentParser:
    """An empty parser; its description is the first sentence of `doc`, a command's docstring."""
    # No abbreviations: `--exp` would mean another flag as soon as there is a second one that begins
    # so.
    return _Parser(
        description=" ".join(doc.split("\n\n")[0].split()),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )


def number(kind: type, allowed: Callable, description: str) -> Callable:
    """A flag type: a number of type `kind` for which `allowed` holds; `description` goes into the
    error.
    """

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not allowed(value):
            raise argparse.ArgumentTypeError(f"should be {description}. Received: {text}")
        return value

    return convert


positive_int = number(int, lambda n: n >= 1, "an integer of at least 1")
non_negative_int = number(int, lambda n: n >= 0, "an integer of at least 0")
positive_float = number(float, lambda x: 0 < x < float("inf"), "a finite number above 0")


def readable_file(text: str) -> str:
    if not os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"should be an existing file. Received: {text}")
    if not os.access(text, os.R_OK):
        raise argparse.ArgumentTypeError(
            f"should be a readable file, but its permissions forbid it. Received: {text}"
        )
    return text


def readable_directory(text: str) -> str:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"should be an existing directory. Received: {text}")
    if not os.access(text, os.R_OK | os.X_OK):
        raise argparse.ArgumentTypeError(
            f"should be a readable directory, but its permissions forbid it. Received: {text}"
        )
    return text


def writeable_file(text: str) -> str:
    """The name of a file that can be written once there is something to write; nothing is created
    here.
    """
    folder = os.path.dirname(os.path.abspath(text))
    if os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"should be a file, but is a directory. Received: {text}")
    if os.path.exists(text) and not os.path.isfile(text):
        raise argparse.ArgumentTypeError(
            f"should be a regular file, not a device. Received: {text}"
        )
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(
            f"its folder {folder} does not exist: create it first. Received: {text}"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"its folder {folder} is not writeable. Received: {text}")
    return text


def writeable_directory(text: str) -> str:
    """The name of a directory that is there or can be created in one that is; nothing is created
    here.
    """
    folder = text if os.path.isdir(text) else os.path.dirname(os.path.abspath(text))
    if os.path.exists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"should be a directory, but is a file. Received: {text}")
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(
            f"its folder {folder} does not exist: create it first. Received: {text}"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{folder} is not writeable. Received: {text}")
    return text


def plugin_name(folder: str) -> Callable[[str], str]:
    """A flag type: the name of a plug-in in `folder`."""

    def check(text: str) -> str:
        if text not in plugin_names(folder):
            raise argparse.ArgumentTypeError(
                f"there is no {text!r} in {folder}/. Available: {', '.join(plugin_names(folder))}"
            )
        return text

    return check


# A flag that more than one command has is declared here, once; what differs is given to add_flag.
_SHARED_FLAGS = {
    "dataset": {
        "required": True,
        "type": readable_file,
        "metavar": "CSV",
        "help": "Lines of pid,fid without header: the images to embed.",
    },
    "experiment_root": {
        "required": True,
        "metavar": "DIR",
        "help": "Directory of the experiment: args.json, checkpoints, TensorBoard events, train.log.",
    },
    "image_root": {
        "type": readable_directory,
        "metavar": "DIR",
        "help": "Directory that the file ids of the CSV are relative to.",
    },
    "loading_threads": {
        "type": positive_int,
        "default": 8,
        "metavar": "N",
        "help": "Images loaded in parallel. Does not change any result.",
    },
    "allow_any_path": {
        "action": "store_true",
        "help": "Allow file ids that are absolute or lead out of image_root.",
    },
    "batch_size": {"type": positive_int, "default": 256, "metavar": "N"},
    "metric": {"choices": METRICS},
    "strategy": {
        "choices": STRATEGIES,
        "default": "auto",
        "help": "Devices to work on: one; all GPUs of this host (mirrored); those of all workers of the job, as "
        "TF_CONFIG or SLURM tell (multi_worker). auto takes the last of these that there is.",
    },
}


def shared_flag(name: str) -> dict:
    """The options of a flag that several commands have, as for argparse.add_argument."""
    return dict(_SHARED_FLAGS[name])


def add_flag(parser: argparse._ActionsContainer, name: str, **changes) -> None:
    """Add a shared flag to a parser or a group of one, with the command's own default or help."""
    parser.add_argument(f"--{name}", **(shared_flag(name) | changes))


# ------------------------------------------------------------------------- plug-ins


def plugin_names(folder: str) -> list[str]:
    """Names of the plug-ins in nets/, heads/ or excluders/: its files that do not begin with an
    underscore.
    """
    return sorted(
        path.stem for path in (HERE / folder).glob("*.py") if not path.stem.startswith("_")
    )


def build_options(folder: str, name: str) -> list[str]:
    """The parameters of a plug-in's build beyond the first, from its source: importing it would
    import TensorFlow.
    """
    module = ast.parse((HERE / folder / f"{name}.py").read_text(encoding="utf-8"))
    build = next(
        node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "build"
    )
    return [parameter.arg for parameter in build.args.args[1:]]


def load_plugin(folder: str, name: str) -> ModuleType:
    """Import folder/name.py. Only listed names are imported, so no name from a file can reach
    another module.

    Raises: UserError for an unknown name; it lists those there are.
    """
    if name not in plugin_names(folder):
        raise UserError(
            f"there is no {name!r} in {folder}/. Available: {', '.join(plugin_names(folder))}."
        )
    return importlib.import_module(f"{folder}.{name}")


# ------------------------------------------------------------------------- words


def first_few(names: list[str]) -> str:
    """Up to three names for a message; with quotes where a space at their ends would not be seen."""
    shown = [name if name == name.strip() else repr(name) for name in names[:3]]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")
