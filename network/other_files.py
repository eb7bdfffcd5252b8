"""What a file is that is no weights file of ours, by its name and its first bytes."""

import tarfile
import zipfile
from pathlib import Path

from runtime.wrong_files import what_came

_CONVERT = (
    'with PyTorch, make a .safetensors file of it: python -c "import torch; from safetensors.torch import save_file; '
    "s = torch.load('{name}', map_location='cpu', weights_only=True); s = s.get('state_dict', s); "
    "save_file({{k: v.contiguous() for k, v in s.items() if hasattr(v, 'shape')}}, '{stem}.safetensors')\""
)


def name_of(path: Path) -> str | None:
    """What a file or a directory is, and what to do with it; None where that is not known.

    Returns:
        words that follow "... is ", without a period at the end.
    """
    if path.is_dir():
        is_saved_model = (path / "saved_model.pb").exists()
        return _SAVED_MODEL if is_saved_model else None
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        start = file.read(512)
    return what_came(start) or _by_content(path, start) or _by_suffix(path, start)


_SAVED_MODEL = "a SavedModel: give the checkpoint that it was made from, or Keras' weights file"


def _by_content(path: Path, start: bytes) -> str | None:
    if start.startswith(b"\x1f\x8b") or tarfile.is_tarfile(path):
        return "an archive: unpack it (tar -xf) and give the checkpoint in it"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("data.pkl") for name in names):
            return (
                "PyTorch's weights, which are a program of sorts and are not run here: "
                + _convert(path)
            )
        return "a zip archive: unpack it and give the weights file in it"
    if start.startswith(b"\x80") and start[1:2] in b"\x02\x03\x04\x05":
        return "a pickle, which is a program of sorts and is not run here: " + _convert(path)
    return None


def _convert(path: Path) -> str:
    return _CONVERT.format(name=path.name, stem=path.stem)


def _by_suffix(path: Path, start: bytes) -> str | None:
    if path.suffix == ".pb":
        return "a frozen graph or a SavedModel's: give the checkpoint that it was made from"
    if path.suffix in (".csv", ".json", ".txt", ".py"):
        return "text: give a file of weights"
    if path.suffix == ".npz" or start.startswith(b"\x93NUMPY"):
        return "an array of NumPy: give a file of weights"
    return None
