"""The installed commands: triplet-reid-train is `python train.py`, and so on; triplet-reid-data NAME
is `python -m data.NAME`.

Modules such as common, data or loss have names that other projects have, too. An installation
therefore keeps all of them in one directory, triplet_reid/, which is put on Python's path only
within these commands.
"""

import importlib
import runpy
import sys
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[1]


def train() -> None:
    _run("train")


def embed() -> None:
    _run("embed")


def evaluate() -> None:
    _run("evaluate")


def search() -> None:
    _run("search")


def export() -> None:
    _run("export")


def runs() -> None:
    _run("runs")


def sweep() -> None:
    _run("sweep")


def data() -> None:
    folder = _PROJECT / "data"
    names = sorted(path.stem for path in folder.glob("*.py") if _is_command(path))
    name = sys.argv[1] if len(sys.argv) > 1 else "none"
    usage = f"usage: triplet-reid-data NAME ...\n\nNAME is one of: {', '.join(names)}."
    if name in ("-h", "--help"):
        print(f"{usage} Each has a --help of its own.")
        sys.exit(0)
    if name not in names:
        print(f"{usage} Received: {name}.", file=sys.stderr)
        sys.exit(2)
    sys.path.insert(0, str(_PROJECT))
    sys.argv = [f"{sys.argv[0]} {name}", *sys.argv[2:]]
    runpy.run_module(f"data.{name}", run_name="__main__")


def _is_command(path: Path) -> bool:
    return '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8")


def _run(name: str) -> None:
    sys.path.insert(0, str(_PROJECT))
    try:
        command = importlib.import_module(name)
    except KeyboardInterrupt:  # common.run answers it from here on
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    importlib.import_module("common").run(command.main, command.parse_args)
