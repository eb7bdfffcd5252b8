"""The version of the project, for what is written by it."""

import os
import subprocess
import tomllib
from importlib import metadata
from typing import Any

from common import HERE


def version() -> str:
    """That of pyproject.toml, or of the installation, which has none; "unknown" without either."""
    try:
        project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))
        return project["project"]["version"]
    except FileNotFoundError:
        pass
    try:
        return metadata.version("triplet-reid")
    except metadata.PackageNotFoundError:
        return "unknown"


def commit() -> dict[str, Any]:
    """Of a git checkout: its `commit`, and whether files of it were `changed`; {} without git."""
    if not (HERE / ".git").exists():  # else git would find a checkout that this is installed in
        return {}
    head = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no")
    if head is None or status is None:
        return {}
    return {"commit": head, "changed": bool(status)}


def _git(*words: str) -> str | None:
    """What a command of git prints; None where it fails."""
    command = ["git", "-C", os.fspath(HERE), "--no-optional-locks", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()
