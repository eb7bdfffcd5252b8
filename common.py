"""What the commands share: flags, plug-ins by name, args.json, data sets, logging, errors.

Nothing here imports TensorFlow: --help and every flag error answer at once.
"""

import argparse
import ast
import contextlib
import csv
import ctypes
import difflib
import errno
import fcntl
import importlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import progress

# Read when Keras is imported, which is after this module.
os.environ["KERAS_BACKEND"] = "tensorflow"

HERE = Path(__file__).resolve().parent

# The names stand here and the functions in loss.py, which imports TensorFlow: a wrong --loss is told without it.
METRICS = ("euclidean", "sqeuclidean", "cityblock", "cosine")
DISTANCE_LOSSES = ("batch_hard", "batch_all", "batch_sample", "lifted", "triplet")
EMBEDDING_LOSSES = ("multi_similarity", "circle")
LOSSES = DISTANCE_LOSSES + EMBEDDING_LOSSES
LOSSES_WITHOUT_ZEROS = ("batch_hard", "batch_all")
STRATEGIES = ("auto", "one", "mirrored", "multi_worker")


class UserError(Exception):
    """Something the person at the shell can put right. The message says what is wrong, what was received,
    what is allowed and how to fix it, in one line."""


def reason(error: Exception) -> str:
    """What an error of TensorFlow or of the system says, without what is put around it."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = re.sub(r"\{\{.*?\}\} *| *\[Op:\w+\]", "", text)
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def run(main: Callable, parse_args: Callable) -> None:
    """Run a command: parse sys.argv, call main(args), end a UserError as one line on stderr and exit code 1."""
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
        sys.exit(f"{name}: error: cannot use {error.filename}: {error.strerror}. Check the path and its permissions.")


# ---------------------------------------------------------------------------------------------- flags


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
            close = [difflib.get_close_matches(flag, self._option_string_actions, 1) for flag in flags]
            meant = " ".join(flag for flags in close for flag in flags)
            message += f". {f'Meant: {meant}? ' if meant else ''}--help lists all flags"
        self.exit(2, f"{self.prog}: error: {message}\n")


def make_parser(doc: str) -> argparse.ArgumentParser:
    """An empty parser; its description is the first line of `doc`, a command's docstring."""
    # No abbreviations: `--exp` would mean another flag as soon as there is a second one that begins so.
    return _Parser(description=doc.splitlines()[0], formatter_class=_HelpFormatter, allow_abbrev=False)


def number(kind: type, allowed: Callable, description: str) -> Callable:
    """A flag type: a number of type `kind` for which `allowed` holds; `description` goes into the error."""

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
        raise argparse.ArgumentTypeError(f"should be a readable file, but its permissions forbid it. Received: {text}")
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
    """The name of a file that can be written once there is something to write; nothing is created here."""
    folder = os.path.dirname(os.path.abspath(text))
    if os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"should be a file, but is a directory. Received: {text}")
    if os.path.exists(text) and not os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"should be a regular file, not a device. Received: {text}")
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"its folder {folder} does not exist: create it first. Received: {text}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"its folder {folder} is not writeable. Received: {text}")
    return text


def writeable_directory(text: str) -> str:
    """The name of a directory that is there or can be created in one that is; nothing is created here."""
    folder = text if os.path.isdir(text) else os.path.dirname(os.path.abspath(text))
    if os.path.exists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"should be a directory, but is a file. Received: {text}")
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"its folder {folder} does not exist: create it first. Received: {text}")
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


def add_flag(parser: argparse._ActionsContainer, name: str, **changes) -> None:
    """Add the shared flag `name` to a parser or a group of one, with the command's own default or help."""
    parser.add_argument(f"--{name}", **(_SHARED_FLAGS[name] | changes))


# ---------------------------------------------------------------------------------------------- TensorFlow


def import_tensorflow(log_level: int = 2) -> ModuleType:
    """Import TensorFlow, which takes seconds, without the notes to its developers that it prints meanwhile.

    With TF_CPP_MIN_LOG_LEVEL set it says what it has to say.

    Args:
      log_level: what it may say later: 2 errors, 3 nothing (what ends a call is raised as an exception anyway).
    """
    _keep_freed_memory()
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return importlib.import_module("tensorflow")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = str(log_level)
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # the notes come from C++, before any level that could be set holds
    try:
        with _interrupted_afterwards():
            tf = importlib.import_module("tensorflow")
        # Without a driver it complains of that, too, as soon as it looks for GPUs; with one it may have a reason.
        if not any(os.path.exists(driver) for driver in ("/proc/driver/nvidia", "/dev/dxg")):
            tf.config.list_physical_devices()
        return tf
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


@contextlib.contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Ctrl-C counts at the end. Within the import of TensorFlow it now and then got lost."""
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def _keep_freed_memory() -> None:
    """Have malloc keep what is freed for the next batch.

    Threads that load images free and take memory all the time, and giving each piece back to the system halted them
    all: with it reading and decoding took twice as long. The peak is the same.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # of glibc's malloc.h; other systems have no mallopt
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(top_pad, 2**26)
        libc.mallopt(mmap_threshold, 2**25)  # the most that it takes


# ---------------------------------------------------------------------------------------------- plug-ins


def plugin_names(folder: str) -> list[str]:
    """Names of the plug-ins in nets/, heads/ or excluders/: its files that do not begin with an underscore."""
    return sorted(path.stem for path in (HERE / folder).glob("*.py") if not path.stem.startswith("_"))


def build_options(folder: str, name: str) -> list[str]:
    """The parameters of a plug-in's build beyond the first, from its source: importing it would import TensorFlow."""
    module = ast.parse((HERE / folder / f"{name}.py").read_text(encoding="utf-8"))
    build = next(node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "build")
    return [parameter.arg for parameter in build.args.args[1:]]


def load_plugin(folder: str, name: str) -> ModuleType:
    """Import folder/name.py. Only listed names are imported, so no name from a file can reach another module.

    Raises: UserError for an unknown name; it lists those there are.
    """
    if name not in plugin_names(folder):
        raise UserError(f"there is no {name!r} in {folder}/. Available: {', '.join(plugin_names(folder))}.")
    return importlib.import_module(f"{folder}.{name}")


# ---------------------------------------------------------------------------------------------- files


def lock(descriptor: int, message: str) -> None:
    """Have a file or a directory to oneself until it is closed, however the process ends.

    Where a file system knows no locks there is none.

    Raises: UserError with the message when another has it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(message) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


@contextlib.contextmanager
def complete_file(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file that appears under its name, or replaces what is there, only when it is complete.

    Yields: the path to write to meanwhile. After an error it is removed, and what was there before stays.
    Raises: UserError when another process is writing the same file.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    partial = path.with_name(path.name + ".partial")
    with open(partial, "ab") as file:
        lock(file.fileno(), f"{path} is being written by another process. Wait for its end, or give another name.")
        try:
            yield partial
            os.fsync(file.fileno())  # else a power cut can leave the new name with nothing in it
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def check_room(directory: str | os.PathLike) -> None:
    """Raises: OSError when next to nothing can be written any more. TensorBoard's events get lost without a word."""
    if shutil.disk_usage(directory).free < 2**16:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def write_json(path: str | os.PathLike, value) -> None:
    """Write `value` as sorted, indented JSON. The file appears under its name only when complete."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_args_json(experiment_root: str | os.PathLike) -> dict:
    """The flags an experiment was started with.

    Raises: UserError when there is no args.json in it, or one that is no JSON object.
    """
    path = Path(experiment_root) / "args.json"
    try:
        args = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist, so {experiment_root} is no experiment. Give the --experiment_root of a training."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Check the path and its permissions.") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON ({error}). Repair it or restore it from a backup.") from None
    if not isinstance(args, dict):
        raise UserError(f"{path} should hold a JSON object of flags. Received: {type(args).__name__}.")
    return args


def load_dataset(path: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Read a data set: a CSV without header, one `pid,fid` a row.

    Both columns are kept as they are written (leading zeros matter, `#` is an ordinary character); fields with
    commas are quoted as in every CSV; blank lines are passed over.

    Returns: pids, fids, two lists of the same length >= 1.
    Raises: UserError for a missing, unreadable or empty file, and for the first row without exactly two columns.
    """
    pids, fids = [], []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if not "".join(row).strip() and len(row) < 2:
                    continue
                if len(row) != 2 or not row[0] or not row[1]:
                    raise UserError(
                        f"{path}, line {reader.line_num}: should be two columns, pid,fid. Received: {','.join(row)!r}. "
                        "Correct the line; a field that holds a comma needs double quotes."
                    )
                pids.append(row[0])
                fids.append(row[1])
    except OSError as error:
        raise UserError(
            f"cannot read the data set {path}: {error.strerror}. Give an existing CSV of pid,fid."
        ) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no CSV in UTF-8: {error}. Save it as plain text, one pid,fid a line.") from None
    if not pids:
        raise UserError(f"the data set {path} is empty. It should have one line pid,fid for every image.")
    return pids, fids


def check_paths(dataset: str, image_root: str, fids: list[str], allow_any_path: bool) -> None:
    """Raises: UserError with the number and the first few of the images that are not below image_root."""
    outside = [fid for fid in fids if os.path.isabs(fid) or os.path.normpath(fid).split(os.sep)[0] == os.pardir]
    if outside and not allow_any_path:
        raise UserError(
            f"{len(outside)} of the {len(fids)} images of {dataset} are not below --image_root {image_root}: "
            f"{first_few(outside)}. Give a folder that holds all images, or --allow_any_path if these are meant."
        )


def check_images(dataset: str, image_root: str, fids: list[str], allow_any_path: bool = False) -> None:
    """Raises: UserError as check_paths does, and for the images that are no files."""
    check_paths(dataset, image_root, fids, allow_any_path)
    missing = [fid for fid in fids if not os.path.isfile(os.path.join(image_root, fid))]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(fids)} images of {dataset} are not in --image_root {image_root}: "
            f"{first_few(missing)}. File ids are relative to --image_root: correct the one or the other"
            f"{', or remove the header, line 1, of the CSV' if missing == fids[:1] else ''}."
        )


def first_few(names: list[str]) -> str:
    """Up to three names for a message; with quotes where a space at their ends would not be seen."""
    shown = [name if name == name.strip() else repr(name) for name in names[:3]]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")


# ---------------------------------------------------------------------------------------------- logging


class _Formatter(logging.Formatter):
    """`time [LEVEL] name: message`, with the level in colour where a person watches."""

    _COLORS = {"WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[31m", "INFO": "\033[32m"}

    def __init__(self, color: bool):
        super().__init__("%(asctime)s [%(levelname)s] %(name)s: %(message)s")
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if not self._color or record.levelname not in self._COLORS:
            return line
        level = f"[{record.levelname}]"
        return line.replace(level, f"{self._COLORS[record.levelname]}{level}\033[0m", 1)


class _Screen(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            progress.say(self.format(record))
        except Exception:
            self.handleError(record)  # a reader who left, say: no reason to end a training


class _LogFile(logging.FileHandler):
    """Raises what goes wrong, a full disk say, where logging's own would print a traceback and go on."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # noqa: PLE0704, logging calls this while it handles the error


# As `extra` of a record: where a terminal's live line tells the same, it goes only to the file.
ON_LIVE_LINE = {"on_live_line": True}


def setup_logging(name: str, file: str | os.PathLike | None = None) -> logging.Logger:
    """The logger of a command: stderr, and `file` (appended to) when one is given. Each call starts anew."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    screen, terminal = _Screen(), sys.stderr.isatty()
    screen.setFormatter(_Formatter(color=terminal and "NO_COLOR" not in os.environ))
    if terminal:
        screen.addFilter(lambda record: not hasattr(record, "on_live_line"))
    logger.addHandler(screen)
    if file is not None:
        log_file = _LogFile(file, encoding="utf-8")
        log_file.setFormatter(_Formatter(color=False))
        logger.addHandler(log_file)
    return logger
