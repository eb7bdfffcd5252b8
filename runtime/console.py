"""The installed commands: triplet-reid-train is `python train.py`, and so on.

Modules such as common, data or loss have names that other projects have, too. An installation
therefore keeps all of them in one directory, triplet_reid/, which is put on Python's path only
within these commands.
"""

import importlib
import sys
from pathlib import Path


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


def _run(name: str) -> None:
    project = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(project))
    try:
        command = importlib.import_module(name)
    except KeyboardInterrupt:  # common.run answers it from here on
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    importlib.import_module("common").run(command.main, command.parse_args)
