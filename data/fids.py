"""One image file under two names: `./x.jpg` and `x.jpg`, an absolute path, a link."""

import os
from collections.abc import Sequence


def normalized(fids: Sequence[str]) -> list[str]:
    """The fids without `.`, `..` and doubled slashes, by their text alone."""
    normal = [os.path.normpath(fid) for fid in fids]
    if os.sep == "/":  # POSIX gives two slashes at the beginning a meaning that no system uses
        return [fid[1:] if fid.startswith("//") else fid for fid in normal]
    return normal


def real_paths(fids: Sequence[str], image_root: str | os.PathLike) -> list[str]:
    """The files themselves: absolute paths in which no folder and no file is a link.

    Args:
        image_root: the directory that the fids are relative to. Files need not exist.
    """
    # Each folder is resolved and listed once: a question for each of a million files, in a network,
    # would take minutes.
    folders: dict[str, tuple[str, set[str]]] = {}
    root = os.fspath(image_root)
    paths = []
    for fid in fids:
        path = os.path.join(root, fid)
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder), _links(folder)
        real_folder, links = folders[folder]
        paths.append(os.path.realpath(path) if name in links else os.path.join(real_folder, name))
    return paths


def _links(folder: str) -> set[str]:
    """The names in a folder that are links; none where it cannot be listed."""
    try:
        with os.scandir(folder or os.curdir) as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except OSError:
        return set()
