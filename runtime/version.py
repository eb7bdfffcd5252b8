"""The version of the project, for what is written by it."""

import tomllib
from importlib import metadata

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
