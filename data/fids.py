"""One image file under two names: `./x.jpg` and `x.jpg`, an absolute path, a link."""

import errno
import os
import unicodedata
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
        name = os.path.basename(fid)
        folder = fid[: len(fid) - len(name)]
        if folder not in folders:
            path = os.path.dirname(os.path.join(root, folder))
            folders[folder] = os.path.join(os.path.realpath(path), ""), _links(path)
        real_folder, links = folders[folder]
        is_link = name in links
        paths.append(os.path.realpath(os.path.join(root, fid)) if is_link else real_folder + name)
    return paths


def _links(folder: str) -> set[str]:
    """The names in a folder that are links; none where it cannot be listed."""
    try:
        with os.scandir(folder or os.curdir) as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except OSError:
        return set()


def why_missing(fid: str, image_root: str | os.PathLike) -> str:
    """What is probably wrong with a fid that is no file, and what to do; "" if nothing is known."""
    path = os.path.join(image_root, fid)
    try:
        os.stat(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            return f"{fid}: {error.strerror}; look whether the disk or the share is there."
    except ValueError as error:  # a zero byte
        return f"{fid!r}: {error}."
    else:
        return "" if os.path.isfile(path) else f"{fid} is no file but a folder or a device."
    if "\\" in fid and os.path.isfile(os.path.join(image_root, fid.replace("\\", "/"))):
        return "The files are there with / in place of \\, which Windows writes: replace it in the CSV."
    decomposed = unicodedata.normalize("NFD", fid)  # as macOS writes names
    composed = unicodedata.normalize("NFC", fid)
    for name, form, other in ((decomposed, "NFD", "NFC"), (composed, "NFC", "NFD")):
        if os.path.isfile(os.path.join(image_root, name)):
            return (
                f"The files are there, with names in another form of Unicode ({form}; macOS writes NFD): bring the CSV "
                f"into it, for example with uconv -x {form}, or the files' names into {other} with convmv."
            )
    return ""
