"""The HDF5 file of embeddings: written, checked and read here alone.

    emb                 float32 [N, D], a row for each image of the CSV, in its order
    emb_aug             float32 [A, N, D], of every variant, where there are several
    augmentation_types  byte strings [A], the names of the variants
    attribute checkpoint: the path of the weights that made them

Only `emb` is needed to evaluate, as floats of any precision.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence

import h5py
import numpy as np

from common import UserError
from evaluation import distances
from runtime import files

EMB = "emb"
EMB_AUG = "emb_aug"
AUGMENTATION_TYPES = "augmentation_types"
CHECKPOINT = "checkpoint"

# ------------------------------------------------------------------------- writing


class Writer:
    """Takes embeddings as they come; see create."""

    def __init__(self, file: h5py.File, shape: tuple[int, int], augmentation_types: Sequence[str]):
        A = len(augmentation_types)
        self.count = 0  # of rows so far
        self._emb = file.create_dataset(EMB, shape, np.float32)
        self._emb_aug = file.create_dataset(EMB_AUG, (A, *shape), np.float32) if A > 1 else None

    def add(self, embs: np.ndarray, variants: np.ndarray | None = None) -> None:
        """Write the next n rows.

        Args:
            embs: [n, D].
            variants: [A, n, D], needed where the file has several augmentation types.
        """
        rows = slice(self.count, self.count + len(embs))
        self._emb[rows] = embs
        if self._emb_aug is not None:
            self._emb_aug[:, rows] = variants
        self.count = rows.stop


@contextlib.contextmanager
def create(
    path: str | os.PathLike,
    count: int,
    dim: int,
    augmentation_types: Sequence[str] = (),
    checkpoint: str | os.PathLike | None = None,
) -> Iterator[Writer]:
    """Write a file of embeddings; it appears under its name only when it is complete.

        with embeddings_file.create("query.h5", count=1000, dim=128) as file:
            for embs in batches:
                file.add(embs)

    Rows go to the disk as they come, so memory does not grow with their number.

    Args:
        count, dim: N and D.
        augmentation_types: names of the A variants of each image; left out of the file if empty.
        checkpoint: of the network that embeds; left out of the file if None.

    Raises:
        UserError: another process is writing the same file.
        ValueError: there were not `count` rows.
    """
    # complete_file has a lock already, which the one of HDF5 would meet.
    with files.complete_file(path) as partial, h5py.File(partial, "w", locking=False) as file:
        if checkpoint is not None:
            file.attrs[CHECKPOINT] = os.path.abspath(checkpoint)
        if augmentation_types:
            file[AUGMENTATION_TYPES] = np.array(augmentation_types, dtype="S")
        writer = Writer(file, (count, dim), augmentation_types)
        yield writer
        if writer.count != count:
            raise ValueError(f"{path} should get {count} embeddings. Received: {writer.count}")


# ------------------------------------------------------------------------- reading


def is_hdf5(path: str | os.PathLike) -> bool:
    """Whether a file is HDF5, and so may be replaced by one of embeddings."""
    return h5py.is_hdf5(path)


def load(path: str | os.PathLike, dataset: str | os.PathLike, count: int) -> np.ndarray:
    """The embeddings of a data set, checked.

    Float32 that lies in one piece, as `create` writes it, is mapped into memory and takes none of
    its own. What is chunked, compressed or of another type is read, as float32, and takes count·D·4
    bytes.

    Args:
        dataset: the CSV that the rows belong to, for the messages.
        count: the images of the CSV.

    Returns:
        float32 [count, D], D >= 1, all finite; not to be written to.

    Raises:
        UserError: the file is anything else.
    """
    try:
        with h5py.File(path) as file:
            embs = _read(path, _find_emb(path, file, dataset, count))
    except (OSError, RuntimeError, ValueError) as error:
        # h5py raises any of them for a damaged file.
        raise UserError(
            f"{path} cannot be read as HDF5 ({error}). Make it anew with embed.py."
        ) from None
    finite = [np.isfinite(embs[rows]).all(axis=1) for rows in distances.row_slices(embs, 2**20)]
    broken = np.flatnonzero(~np.concatenate(finite))
    if len(broken):
        raise UserError(
            f"{len(broken)} of the {count} embeddings in {path} are NaN or infinite in float32, the first in row "
            f"{broken[0]} (counted from 0). Embed with a checkpoint from before the training went wrong."
        )
    return embs


def head(path: str | os.PathLike, count: int) -> np.ndarray:
    """The first embeddings of a file, unchecked, `count` at most: [n, D]."""
    with h5py.File(path) as file:
        return file[EMB][:count]


def checkpoint_of(path: str | os.PathLike) -> str | None:
    """The path of the weights that made a file; None where it does not say."""
    made_by = _made_with(path)[CHECKPOINT]
    return made_by if isinstance(made_by, str) else None


def differences(
    query_path: str | os.PathLike, gallery_path: str | os.PathLike
) -> list[tuple[str, object, object]]:
    """(name, query's value, gallery's value) of every attribute in which two files differ.

    What a file does not say is no difference.
    """
    query = _made_with(query_path)
    gallery = _made_with(gallery_path)
    return [
        (name, value, gallery[name])
        for name, value in query.items()
        if None not in (value, gallery[name]) and value != gallery[name]
    ]


def _made_with(path: str | os.PathLike) -> dict[str, object]:
    with h5py.File(path) as file:
        types = file.get(AUGMENTATION_TYPES)
        types = np.ravel(types[()]).tolist() if isinstance(types, h5py.Dataset) else None
        return {CHECKPOINT: file.attrs.get(CHECKPOINT), AUGMENTATION_TYPES: types}


def _find_emb(
    path: str | os.PathLike, file: h5py.File, dataset: str | os.PathLike, count: int
) -> h5py.Dataset:
    """The data set `emb` of the file. Raises: UserError unless it holds `count` embeddings."""
    emb = file.get(EMB)
    if not isinstance(emb, h5py.Dataset):
        raise UserError(
            f"{path} should hold a data set `{EMB}`. Received: {list(file)}. Make it with embed.py."
        )
    if emb.ndim != 2 or emb.dtype.kind != "f" or emb.shape[1] == 0:
        raise UserError(
            f"`{EMB}` in {path} should be floats [images, dimension]. Received: {emb.dtype} "
            f"{list(emb.shape or ())}. Make it with embed.py."
        )
    if len(emb) != count:
        raise UserError(
            f"{path} should have one embedding for every image of {dataset}. Received: {len(emb)} embeddings, "
            f"{count} images. Give the data set that was embedded, or embed this one."
        )
    return emb


def _read(path: str | os.PathLike, emb: h5py.Dataset) -> np.ndarray:
    """The embeddings in float32, mapped into memory where the file allows it."""
    offset = emb.id.get_offset()  # None unless it lies in one piece
    if emb.dtype == np.float32 and emb.dtype.isnative and offset is not None:
        return np.asarray(np.memmap(path, np.float32, "r", offset, emb.shape))
    embs = np.empty(emb.shape, np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        for rows in distances.row_slices(embs, 2**20):
            embs[rows] = emb[rows]
    return embs
