"""What all commands share: errors, types of flags, plug-ins by name, how a command ends.

Nothing here imports TensorFlow, so that --help and errors in flags are answered at once.
"""

import argparse
import ast
import atexit
import contextlib
import difflib
import filecmp
import importlib
import io
import math
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

# Read when Keras is imported, which is after this module.
os.environ["KERAS_BACKEND"] = "tensorflow"

HERE = Path(__file__).resolve().parent


def _read_losses() -> tuple[
    tuple[str, ...], dict[str, str], tuple[str, ...], dict[str, dict[str, float]]
]:
    """What loss.py says of its losses, read from its source: importing it would import TensorFlow.

    Returns:
        METRICS; what each loss of its table LOSSES is over, by name; the names of those that have a
        form without zeros; and the constants of each by name, with their defaults.
    """
    module = ast.parse((HERE / "loss.py").read_text(encoding="utf-8"))
    assigned: dict[str, Any] = {}
    functions = {}
    for node in module.body:
        if isinstance(node, ast.Assign):
            assigned[ast.unparse(node.targets[0])] = node.value
        elif isinstance(node, ast.FunctionDef):
            functions[node.name] = node.args
    table = assigned["LOSSES"]
    over = {}
    without_zeros = []
    constants = {}
    for key, loss in zip(table.keys, table.values, strict=True):
        arguments = {argument.arg: argument.value for argument in loss.keywords}
        over[key.value] = ast.literal_eval(arguments["over"])
        if "without_zeros" in arguments:
            without_zeros.append(key.value)
        function = functions[ast.unparse(arguments["function"])]
        named = zip(function.kwonlyargs, function.kw_defaults, strict=True)
        constants[key.value] = {
            parameter.arg: ast.literal_eval(default)
            for parameter, default in named
            if default is not None
        }
    return ast.literal_eval(assigned["METRICS"]), over, tuple(without_zeros), constants


METRICS, _OVER, LOSSES_WITHOUT_ZEROS, LOSS_CONSTANTS = _read_losses()
LOSSES = tuple(_OVER)
DISTANCE_LOSSES = tuple(name for name in LOSSES if _OVER[name] == "distances")
EMBEDDING_LOSSES = tuple(name for name in LOSSES if _OVER[name] == "embeddings")
STRATEGIES = ("auto", "one", "mirrored", "multi_worker")


class UserError(Exception):
    """An error that the person at the shell can put right.

    The message says in one line what is wrong, what was received, what is allowed and how to fix
    it.
    """


def reason(error: Exception) -> str:
    """The message of an error, without TensorFlow's node names and operation suffixes."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = re.sub(r"\{\{.*?\}\} *| *\[Op:\w+\]", "", text)
    return " ".join(text.split()).rstrip(".") or type(error).__name__


# From a scheduler (SIGTERM, SIGUSR1) and from a terminal that is closed (SIGHUP), as far as the
# system has them.
ENDING_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)


def is_ignored(number: int) -> bool:
    """Whether a hang-up is not to be heard: nohup has it ignored, and it stays so."""
    is_hang_up = number == getattr(signal, "SIGHUP", None)
    return is_hang_up and signal.getsignal(number) is signal.SIG_IGN


def run(main: Callable[[Any], None], parse_args: Callable[[], Any]) -> None:
    """Run a command: main(parse_args()). A UserError ends it with one line on stderr and code 1."""
    _open_standard_streams()
    # An exception, so that half-written files are removed on the way out, as with Ctrl-C.
    for number in ENDING_SIGNALS:
        if not is_ignored(number):
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    name = Path(sys.argv[0]).name
    try:
        main(parse_args())
    except UserError as error:
        _end(f"{name}: error: {visible(str(error))}")
    except BrokenPipeError:  # `... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        message = exhausted(error) or _about_path(error)
        if message is None:
            raise
        _end(f"{name}: error: {visible(message)}")


def _end(line: str) -> NoReturn:
    """End with a line on stderr and code 1, and print nothing after it.

    What an error leaves open may complain as Python ends: TensorFlow's pools of threads do.
    """
    atexit.register(setattr, sys, "unraisablehook", lambda _: None)
    sys.exit(line)


def _tell_an_early_end() -> None:
    """Answer in one line, too, while a command still imports what it needs: Ctrl-C, and what is missing.

    After Ctrl-C, Python ends with the status of the signal. Only for the commands of this folder: who imports
    this module into a program of their own has their own ways.
    """
    # Python says -m until it has imported the package of the module that it is to run.
    command = sys.argv[0]
    if command != "-m" and not (command and Path(command).resolve().is_relative_to(HERE)):
        return
    before = sys.excepthook

    def tell(kind, error, traceback):
        if issubclass(kind, KeyboardInterrupt):
            print("Interrupted.", file=sys.stderr)
        elif issubclass(kind, ModuleNotFoundError) and _is_required(error.name):
            print(
                f"{Path(sys.argv[0]).name}: error: {error.name} is not installed for {sys.executable}. Run source "
                ".venv/bin/activate if ./demo.sh or ./test.sh made .venv, else pip install -r requirements.txt.",
                file=sys.stderr,
            )
        else:
            before(kind, error, traceback)

    sys.excepthook = tell


_tell_an_early_end()


def _is_required(module: str | None) -> bool:
    """Whether requirements.txt has the package of a module."""
    try:
        lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    except OSError:  # an installation, which has all that it requires
        return False
    packages = {re.split(r"[^\w-]", line)[0] for line in lines if line[:1].isalpha()}
    name = (module or "").partition(".")[0]
    return {"PIL": "pillow"}.get(name, name) in packages


def _open_standard_streams() -> None:
    """Let every command write to its standard streams, whatever they are.

    A stream that was closed (`2>&-`) becomes the null device: Python has None in its place, and the
    next file that is opened would get its number, and what TensorFlow prints. A name that the
    encoding of a terminal lacks is written with escapes.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# What ran out, by what NumPy, h5py, TensorFlow and the system say, and what helps.
_EXHAUSTED = (
    (
        r"too many open files",
        "too many files are open",
        "Raise the limit (ulimit -n 4096), or give fewer --loading_threads.",
    ),
    (
        r"can't start new thread|thread.*resource temporarily unavailable",
        "no more threads can be started",
        "Raise the limits of processes and memory (ulimit -u, ulimit -v), or give fewer --loading_threads.",
    ),
    (
        r"no space left|disk quota exceeded|file too large",
        "the disk is full",
        "Make room and call again.",
    ),
    (
        r"out of memory|unable to allocate|cannot allocate|can't allocate|failed to allocate|allocation failed"
        r"|bad_alloc|\boom\b|resource exhausted",
        "out of memory",
        "A smaller --batch_size needs less; in a training, smaller --batch_p, --batch_k, --memory_batches or "
        "net_input, or --cache none.",
    ),
)


def exhausted(error: Exception) -> str | None:
    """The message for an error that says that memory, disk, threads or open files ran out.

    The same for Python's, NumPy's, h5py's and TensorFlow's errors. None for any other error.
    """
    by_tensorflow = type(error).__module__.startswith("tensorflow.")
    if not by_tensorflow and not isinstance(error, MemoryError | OSError | RuntimeError):
        return None
    text = reason(error)
    if isinstance(error, OSError) and error.filename is not None:
        text += f": {error.filename}"
    kind = "out of memory " if isinstance(error, MemoryError) else ""
    # TensorFlow's class, which need not be imported for this.
    kind += "resource exhausted" if type(error).__name__ == "ResourceExhaustedError" else ""
    for pattern, what, remedy in _EXHAUSTED:
        if re.search(pattern, f"{text} {kind}", re.IGNORECASE):
            return f"{what} ({text[:300]}). {remedy} What was complete is untouched; a training goes on with --resume."
    return None


def _about_path(error: Exception) -> str | None:
    """The message for an error of the system about a file; None for any other error."""
    if not isinstance(error, OSError) or error.filename is None:
        return None
    return f"cannot use {error.filename}: {error.strerror}. Check the path and its permissions."


# ------------------------------------------------------------------------- flags


def suggestion(word: str, known: Iterable[str], among: int = 1) -> str:
    """Words for a message about a typo: " Meant: X?", or nothing where no known word is close.

    Args:
        among: number of words that a message is about. With several, it names the one meant.
    """
    close = difflib.get_close_matches(word, list(known), 1)
    if not close:
        return ""
    return f" Meant: {close[0]}?" if among == 1 else f" {word}: meant {close[0]}?"


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to a flag's help, unless it is None or False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        # Not `in (None, False)`: 0 equals False.
        has_none = action.default is None or action.default is False
        return action.help if has_none else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, without listing all flags before it."""

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's. Ends with an error for what is no UTF-8, before anything is written.

        HDF5, JSON and TensorFlow hold paths as UTF-8.
        """
        words = sys.argv[1:] if args is None else args
        foreign = [word for word in words if not is_utf8(word)]
        if foreign:
            self.error(
                f"paths should be UTF-8. Received: {ascii(foreign[0])}. Rename the file or the folder"
            )
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            words = message.split()
            flags = [word.partition("=")[0] for word in words if word.startswith("-")]
            hints = [suggestion(flag, self._option_string_actions, len(flags)) for flag in flags]
            message += f".{''.join(hints)} --help lists all flags"
        elif choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message):
            message += suggestion(choice[1], choice[2].replace("'", "").split(", "))
        self.exit(2, f"{self.prog}: error: {message}\n")


def is_utf8(text: str) -> bool:
    """Whether a name can be written as UTF-8. Python reads bytes of another encoding as halves of
    characters, which it has not.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser without flags, described by the first paragraph of `doc`, a command's docstring."""
    # No abbreviations: `--exp` would change its meaning with the next flag that begins like that.
    return _Parser(
        description=" ".join(doc.split("\n\n")[0].split()),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )


def number(kind: type, allowed: Callable[[Any], bool], description: str) -> Callable[[str], Any]:
    """A flag's type: a number of type `kind` for which `allowed` is true.

    Args:
        description: of what is allowed, for the error.
    """

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not allowed(value):
            shown = text if len(text) <= 100 else f"{text[:100]}..."
            raise argparse.ArgumentTypeError(f"should be {description}. Received: {shown}")
        return value

    return convert


def integer(lowest: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """A flag's type: an integer from `lowest` to `most`, by default what 64 bits hold."""
    at_least = number(int, lambda n: n >= lowest, f"an integer of at least {lowest}")
    at_most = number(int, lambda n: n <= most, f"at most {most}")

    def convert(text: str) -> int:
        at_least(text)
        return at_most(text)

    return convert


def real(allowed: Callable[[float], bool], description: str) -> Callable[[str], float]:
    """A flag's type: a number for which `allowed` is true, and which float32 can hold."""
    in_range = number(float, allowed, description)
    fits = number(float, lambda x: abs(x) < 3.4e38, "below 3.4e38, as float32 is")

    def convert(text: str) -> float:
        in_range(text)
        return fits(text)

    return convert


positive_int = integer(1)
non_negative_int = integer(0)
positive_float = real(lambda x: 0 < x < math.inf, "a finite number above 0")


def group_count(regex: str) -> int:
    """The number of groups in a regular expression. Raises: ValueError, with why, if it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what later Pythons may read else
            return re.compile(regex).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None


def has_one_group(text: str) -> bool:
    """Whether a text is a regular expression with one group."""
    try:
        return group_count(text) == 1
    except ValueError:
        return False


def readable_file(text: str) -> str:
    """A flag's type: the name of a file that can be read."""
    if not os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"should be an existing file. Received: {text}")
    if not os.access(text, os.R_OK):
        raise argparse.ArgumentTypeError(
            f"should be a readable file, but its permissions forbid it. Received: {text}"
        )
    return text


def readable_directory(text: str) -> str:
    """A flag's type: the name of a directory that can be read."""
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"should be an existing directory. Received: {text}")
    if not os.access(text, os.R_OK | os.X_OK):
        raise argparse.ArgumentTypeError(
            f"should be a readable directory, but its permissions forbid it. Received: {text}"
        )
    return text


def writeable_file(text: str) -> str:
    """A flag's type: the name of a file that can be written. Nothing is created yet."""
    folder = os.path.dirname(os.path.abspath(text))
    if len(os.fsencode(os.path.basename(text))) > 255:
        raise argparse.ArgumentTypeError(
            f"its name should have at most 255 bytes. Received: {text}"
        )
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
    """A flag's type: a directory that exists, or whose parent does. Nothing is created yet."""
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
    """A flag's type: the name of a plug-in in `folder`."""

    def check(text: str) -> str:
        try:
            _plugin_file(folder, text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None
        return text

    return check


# Flags of several commands are declared once, here; a command gives what differs to add_flag.
_SHARED_FLAGS: dict[str, dict[str, Any]] = {
    "dataset": {
        "required": True,
        "type": readable_file,
        "metavar": "CSV",
        "help": "The images to embed: a CSV of pid,fid.",
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
        "type": integer(1, most=1024),
        "default": 8,
        "metavar": "N",
        "help": "Images loaded in parallel. Does not change any result.",
    },
    "allow_any_path": {
        "action": "store_true",
        "help": "Allow file ids that are absolute or lead out of image_root, by .. or by a link.",
    },
    "no_file_check": {
        "action": "store_true",
        "help": "Do not look first whether all images exist: on a disk in a network this takes time. One that is "
        "missing is told when it is loaded.",
    },
    "orientation": {
        "choices": ("exif", "stored"),
        "default": "exif",
        "help": "Turn and mirror images as EXIF says and viewers do (exif), or take the pixels as they are stored. "
        "Boxes are of the image as it is stored. An args.json without this flag means stored.",
    },
    "batch_size": {"type": positive_int, "default": 256, "metavar": "N"},
    "metric": {"choices": METRICS},
    "strategy": {
        "choices": STRATEGIES,
        "default": "auto",
        "help": "Devices to work on: one; all GPUs of this host (mirrored); those of all workers of the job, "
        "according to TF_CONFIG or SLURM (multi_worker). auto takes the last of these that is there.",
    },
}


def shared_flag(name: str) -> dict:
    """The options of a shared flag, as for argparse.add_argument."""
    return dict(_SHARED_FLAGS[name])


def add_flag(parser: argparse._ActionsContainer, name: str, **changes) -> None:
    """Add a shared flag to a parser or its group; `changes` are the command's own options."""
    parser.add_argument(f"--{name}", **(shared_flag(name) | changes))


# ------------------------------------------------------------------------- plug-ins


def _plugin_files(folder: str) -> dict[str, list[Path]]:
    """The files of each plug-in: the project's first, then that of the current directory."""
    roots = [HERE]
    with contextlib.suppress(FileNotFoundError):  # the current directory was removed
        if not os.path.samefile(HERE, Path.cwd()):
            roots.append(Path.cwd())
    found: dict[str, list[Path]] = {}
    for root in roots:
        for path in sorted((root / folder).glob("*.py")):
            if not path.stem.startswith("_"):
                found.setdefault(path.stem, []).append(path)
    return found


def _plugin_file(folder: str, name: str) -> Path:
    files = _plugin_files(folder).get(name)
    if files is None:
        names = plugin_names(folder)
        hint = suggestion(name, names)
        raise UserError(f"there is no {name!r} in {folder}/.{hint} Available: {', '.join(names)}.")
    _check_unambiguous(*files)
    return files[0]


def _check_unambiguous(file: Path, own: Path | None = None) -> None:
    """Raises: UserError if `own`, of the current directory, differs from the project's file."""
    if own and not filecmp.cmp(file, own, shallow=False):
        raise UserError(
            f"{file} and {own} have the same name and differ. Rename the second, or call from "
            "another directory."
        )


def plugin_names(folder: str) -> list[str]:
    """Names of the plug-ins in nets/, heads/ or excluders/: files without a leading underscore.

    Those of the project come first, then those in the same folder of the current directory.
    """
    return list(_plugin_files(folder))


def build_options(folder: str, name: str) -> list[str]:
    """The parameters of a plug-in's build beyond the first.

    They are read from its source: importing it would import TensorFlow.
    """
    source = _plugin_files(folder)[name][0].read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == "build":
            return [parameter.arg for parameter in node.args.args[1:]]
    return []


def constants(folder: str, name: str) -> list[str]:
    """The names that a plug-in assigns at the top of its file, read as build_options reads."""
    source = _plugin_files(folder)[name][0].read_text(encoding="utf-8")
    assigned = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return [ast.unparse(target) for node in assigned for target in node.targets]


def load_plugin(folder: str, name: str) -> ModuleType:
    """Import folder/name.py, of the project or of the current directory.

    Only names of plugin_names are imported, so no name in a file can reach another module.

    Raises:
        UserError: for an unknown name, with those that are known; and for a file of the current
            directory whose name the project has, too.
    """
    file = _plugin_file(folder, name)
    ours = HERE / folder
    if file.parent != ours:
        for helper in file.parent.glob("_*.py"):
            if helper.name != "__init__.py" and (ours / helper.name).exists():
                _check_unambiguous(ours / helper.name, helper)
        path = importlib.import_module(folder).__path__
        if str(file.parent) not in path:
            path.append(str(file.parent))
    return importlib.import_module(f"{folder}.{name}")


@contextlib.contextmanager
def plugin(folder: str, name: str, module: Any) -> Iterator[None]:
    """Let another module stand in for folder/name.py, in a test or a benchmark.

    with common.plugin("nets", "lunet_narrow", SimpleNamespace(build=build_tiny)):
        train.main(train.parse_args([..., "--model_name=lunet_narrow"]))
    """
    key = f"{folder}.{name}"
    before = sys.modules.get(key)
    sys.modules[key] = module  # where import_module looks first
    try:
        yield
    finally:
        del sys.modules[key]
        if before:
            sys.modules[key] = before


# ------------------------------------------------------------------------- words


# Control characters, halves of characters, and what turns the direction of the text around it.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str, keep: str = "") -> str:
    """Text from outside for a terminal, a log or a page: what is not seen, but does something there,
    becomes an escape such as \\x1b.

    Args:
        keep: characters that stay.
    """
    return _UNSEEN.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


def first_few(names: list[str], separator: str = ", ") -> str:
    """Up to three names for a message, quoted where a space at an end would not be seen."""
    shown = [name if name == name.strip() else repr(name) for name in names[:3]]
    return separator.join(shown + ["..."] * (len(names) > 3))
