"""The file of embeddings, HDF5, Parquet or NumPy's: written, checked and read here alone.

An HDF5 file has

    emb                 float32 [N, D], a row for each image of the CSV, in its order
    emb_aug             float32 [A, N, D], of every view, where there are several
    augmentation_types  byte strings [A], the names of the views
    fids                UTF-8 strings [N], of the CSV, in its order; with `#x1,y1,x2,y2` after
                        those of which a box was embedded
    attributes checkpoint, aggregator, image_root: the path of the weights that made them, how the
        views became one, and the directory of the images
    attributes network, data: fingerprints of the weights and of what was embedded
    attribute orientation: exif where images were turned as EXIF says, else it is not there
    attribute weights: which of the checkpoint's weights, averaged or raw, where it has both
    attribute crc32: the CRC-32 of the numbers of `emb`

Only `emb` is needed to evaluate, as floats of any precision. A Parquet file (parquet_file.py) has
`emb`, `fids` and how they were made; a `.npy` file `emb` alone. Which of the three is written, the
suffix of its name tells; which is read, its first bytes.
"""

import contextlib
import os
import tokenize
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np

from common import UserError, reason
from data import dataset
from data import fids as file_names
from data.dataset import Dataset
from evaluation import distances, parquet_file
from runtime import files, hdf5
from runtime.terminal import log

EMB = "emb"
EMB_AUG = "emb_aug"
AUGMENTATION_TYPES = "augmentation_types"
FIDS = "fids"
CHECKPOINT = "checkpoint"
AGGREGATOR = "aggregator"
IMAGE_ROOT = "image_root"
WEIGHTS = "weights"
NETWORK = "network"
DATA = "data"
ORIENTATION = "orientation"
CRC = "crc32"

_NPY = b"\x93NUMPY"
# What NumPy raises for a damaged file, whose header is a literal of Python.
_NPY_ERRORS = (
    ValueError,
    EOFError,
    OSError,
    OverflowError,
    TypeError,
    MemoryError,
    RecursionError,
    tokenize.TokenError,
)


class Origin(NamedTuple):
    """How embeddings were made. None is what a file does not say.

    Attributes:
        checkpoint: the path of the weights.
        augmentation_types: names of the A views of each image.
        aggregator: how the embeddings of the views became one, where there are several.
        image_root: the directory that the fids are relative to.
        weights: "averaged" or "raw", where the checkpoint has both.
        network: a fingerprint of the checkpoint, equal for its copies.
        data: fingerprints of the CSV and the images, JSON of experiment/provenance.py.
        orientation: "exif" where images were turned as EXIF says.
    """

    checkpoint: str | None = None
    augmentation_types: tuple[str, ...] | None = None
    aggregator: str | None = None
    image_root: str | None = None
    weights: str | None = None
    network: str | None = None
    data: str | None = None
    orientation: str | None = None

    def with_absolute_paths(self) -> "Origin":
        """The same, as it holds in every working directory."""
        made = self
        for name in (CHECKPOINT, IMAGE_ROOT):
            value = getattr(self, name)
            if value is not None:
                made = made._replace(**{name: os.path.abspath(value)})
        return made


def default_name(csv: str | os.PathLike, split: str | None = None) -> str:
    """The name of the file of a CSV's embeddings, or of those of a split of it, in the experiment's
    directory.
    """
    return f"{Path(csv).stem}{f'_{split}' if split else ''}_embeddings.h5"


def default_path(experiment_root: str | os.PathLike, csv: str, split: str) -> str:
    """Where an experiment has the embeddings of a CSV, or of a split of it."""
    of_split = os.path.join(experiment_root, default_name(csv, split))
    # Without splits it is the file of another CSV, which has this name.
    if os.path.isfile(of_split) and dataset.load(csv).splits is not None:
        return of_split
    return os.path.join(experiment_root, default_name(csv))


# ------------------------------------------------------------------------- writing


class Writer:
    """Takes embeddings as they come; see create.

    Args:
        file: is written to and not to be mapped, or left to HDF5: a full disk would end the process
            or leave it with a broken library, and not raise OSError.
        shape: (N, D).
        offsets: where `emb` begins in the file, and each view of `emb_aug`.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int], offsets: Sequence[int]):
        self._file = file
        self._shape = shape
        self._offsets = offsets
        self.count = 0  # of rows so far
        self.crc = 0

    def add(self, embs: np.ndarray, views: np.ndarray | None = None) -> None:
        """Write the next n rows.

        Args:
            embs: [n, D].
            views: [A, n, D], needed where the file has several augmentation types.

        Raises:
            ValueError: they are of another shape, or more than the file has room for.
            OSError: the disk is full.
        """
        count, dim = self._shape
        parts = [embs, *([] if len(self._offsets) == 1 or views is None else views)]
        n = len(embs)
        if {np.shape(part) for part in parts} != {(n, dim)} or len(parts) != len(self._offsets):
            raise ValueError(f"embeddings should be [{n}, {dim}] in each of {len(self._offsets)}")
        if self.count + n > count:
            raise ValueError(f"there is room for {count} embeddings. Received: {self.count + n}")
        for offset, part in zip(self._offsets, parts, strict=True):
            rows = np.ascontiguousarray(part, "<f4")
            self._file.seek(offset + self.count * dim * 4)
            self._file.write(rows)
        self.crc = zlib.crc32(np.ascontiguousarray(embs, "<f4"), self.crc)
        self.count += n


@contextlib.contextmanager
def create(
    path: str | os.PathLike,
    count: int,
    dim: int,
    origin: Origin | None = None,
    fids: Sequence[str] | None = None,
) -> Iterator[Writer | parquet_file.Writer]:
    """Write a file of embeddings; it appears under its name only when it is complete.

    A name that ends in .npy or .parquet gets a file of that kind, every other HDF5.

        with embeddings_file.create("query.h5", count=1000, dim=128) as file:
            for embs in batches:
                file.add(embs)

    The room for all rows is taken first, so that a full disk is told at once. Rows go to the disk as
    they come, so memory does not grow with their number.

    Args:
        count, dim: N and D, at least 1.
        origin: how they are made; what is None is left out of the file. Paths become absolute.
        fids: of the N images, for the check that `load` makes; left out of the file if None.

    Raises:
        UserError: another process is writing the same file.
        OSError: the disk is full.
        ValueError: there were not `count` rows.
    """
    origin = (origin or Origin()).with_absolute_paths()
    suffix = _suffix(path)
    with files.complete_file(path) as partial:
        if suffix == ".parquet":
            with parquet_file.create(partial, (count, dim), origin._asdict(), fids) as writer:
                yield writer
                _check_count(path, writer.count, count)
            return
        if suffix == ".npy":
            offsets = _lay_out_npy(partial, (count, dim))
        else:
            offsets = _lay_out(partial, (count, dim), origin, fids)
        with open(partial, "r+b") as file:
            rows = Writer(file, (count, dim), offsets)
            yield rows
        _check_count(path, rows.count, count)
        if suffix != ".npy":
            with h5py.File(partial, "r+", locking=False) as h5:
                h5.attrs.modify(CRC, np.uint32(rows.crc))


def check_format(path: str | os.PathLike) -> None:
    """Raises: UserError where the package is missing that a file of this name is written with."""
    if _suffix(path) == ".parquet":
        parquet_file.check_installed(path)


def _suffix(path: str | os.PathLike) -> str:
    return Path(path).suffix.lower()


def _check_count(path: str | os.PathLike, count: int, wanted: int) -> None:
    if count != wanted:
        raise ValueError(f"{path} should get {wanted} embeddings. Received: {count}")


def _lay_out_npy(path: Path, shape: tuple[int, int]) -> list[int]:
    """As _lay_out, for a .npy file."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        offset = file.tell()
    files.allocate(path, offset + 4 * shape[0] * shape[1])
    return [offset]


def _lay_out(
    path: Path, shape: tuple[int, int], origin: Origin, fids: Sequence[str] | None
) -> list[int]:
    """Write all but the embeddings, and take the room for these.

    Returns:
        Where `emb` begins in the file, in bytes, and each view of `emb_aug`.
    """
    A = len(origin.augmentation_types or ())
    views = A if A > 1 else 0
    bytes_of_emb = 4 * shape[0] * shape[1]
    names = [] if fids is None else list(fids)
    # HDF5 does not survive a full disk: what it will need must be there before it is called.
    bytes_of_fids = sum(len(name.encode("utf-8", "surrogateescape")) + 64 for name in names)
    files.allocate(path, (1 + views) * bytes_of_emb + bytes_of_fids + 2**18)
    at_once = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    at_once.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    at_once.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    # complete_file has a lock already, which the one of HDF5 would meet.
    with h5py.File(path, "w", locking=False) as file:
        for name in (CHECKPOINT, AGGREGATOR, IMAGE_ROOT, WEIGHTS, NETWORK, DATA, ORIENTATION):
            value = getattr(origin, name)
            if value is not None:
                file.attrs[name] = value
        file.attrs[CRC] = np.uint32(0)
        if origin.augmentation_types:
            file[AUGMENTATION_TYPES] = np.array(origin.augmentation_types, dtype="S")
        if fids is not None:
            file.create_dataset(FIDS, data=names, dtype=h5py.string_dtype())
        emb = file.create_dataset(EMB, shape, "<f4", dcpl=at_once)
        offsets = [emb.id.get_offset()]
        if views:
            emb_aug = file.create_dataset(EMB_AUG, (A, *shape), "<f4", dcpl=at_once)
            first = emb_aug.id.get_offset()
            offsets += [first + number * bytes_of_emb for number in range(A)]
    files.allocate(path, os.path.getsize(path))
    return offsets


# ------------------------------------------------------------------------- reading


class _Stored(NamedTuple):
    """A file of embeddings, open to be read.

    Attributes:
        emb: [N, D] where it is as it should be; HDF5's data set, a memory map, or
            parquet_file.Column; None where there is none.
        fids: returns the N fids; None where the file does not say them.
        origin: returns how the embeddings were made.
        crc: the CRC-32 of the numbers, where the file has it.
        names: what the file holds, for a message.
    """

    emb: Any
    fids: Callable[[], list[str] | None]
    origin: Callable[[], Origin]
    crc: str | int | None
    names: list[str]


def is_embeddings(path: str | os.PathLike) -> bool:
    """Whether a file is one of embeddings, by its first bytes, and no data set or image."""
    kind = _kind(path)
    if kind != "parquet":
        return kind is not None
    with parquet_file.reading(path) as file:
        return parquet_file.has_embeddings(file)


def may_be_replaced(path: str | os.PathLike) -> bool:
    """Whether a file is one of embeddings, or a damaged one, and not a net's weights, say."""
    kind = _kind(path)
    if kind is None:
        return False
    try:
        with _reading(path) as file:
            if kind == "npy":
                return file.emb.ndim == 2 and file.emb.dtype.kind == "f"
            return file.emb is not None or not file.names
    except (UserError, *hdf5.ERRORS):
        return kind == "hdf5"  # of Parquet it may be a data set


def _kind(path: str | os.PathLike) -> str | None:
    """ "npy", "parquet" or "hdf5", by the file's first bytes; None for any other."""
    with open(path, "rb") as file:
        start = file.read(8)
    if start.startswith(_NPY):
        return "npy"
    if start.startswith(parquet_file.MAGIC):
        return "parquet"
    return "hdf5" if h5py.is_hdf5(path) else None


@contextlib.contextmanager
def _reading(path: str | os.PathLike) -> Iterator[_Stored]:
    """A file of embeddings, open to be read. Raises: UserError where it cannot be."""
    kind = _kind(path)
    if kind == "npy":
        yield _Stored(_map_npy(path), lambda: None, Origin, None, ["emb"])
    elif kind == "parquet":
        with parquet_file.reading(path) as file:
            found = parquet_file.has_embeddings(file)
            emb = parquet_file.Column(path, file) if found else None
            names = file.schema_arrow.names
            yield _Stored(
                emb, lambda: parquet_file.fids(file), lambda: _parquet_origin(file), None, names
            )
    else:
        try:
            with hdf5.reading(path) as h5:
                yield _Stored(
                    hdf5.dataset(h5, EMB),
                    lambda: _fids_of(h5),
                    lambda: _hdf5_origin(h5),
                    hdf5.attribute(h5, CRC),
                    list(h5),
                )
        except hdf5.ERRORS as error:
            raise UserError(
                f"{path} cannot be read as HDF5 ({reason(error)}). Make it anew with embed.py."
            ) from None


def _map_npy(path: str | os.PathLike) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except _NPY_ERRORS as error:
        raise UserError(
            f"{path} cannot be read as .npy ({reason(error)}). Make it anew with embed.py."
        ) from None


def _parquet_origin(file) -> Origin:
    texts: dict[str, Any] = {}
    for name, value in parquet_file.origin(file).items():
        if name == AUGMENTATION_TYPES and isinstance(value, list):
            texts[name] = tuple(str(each) for each in value)
        elif name in Origin._fields and isinstance(value, str):
            texts[name] = value
    return Origin(**texts)


def load(path: str | os.PathLike, images: Dataset) -> np.ndarray:
    """The embeddings of a data set, checked.

    Float32 that lies in one piece, as `create` writes it, is mapped into memory and takes none of
    its own. What is chunked, compressed or of another type is read, as float32, and takes N·D·4
    bytes.

    Args:
        images: the data set that the N rows belong to. Where the file does not say its fids, a
            warning tells that only the number of images was compared.

    Returns:
        float32 [N, D], D >= 1, all finite; not to be written to.

    Raises:
        UserError: the file is anything else, or has embeddings of other images or in another order.
    """
    with _reading(path) as file:
        emb = _find_emb(path, file, images)
        fids = _read_fids(path, file, images)
        embs = _read(path, emb)
        crc_of_file = file.crc
    if fids is None:
        like = ".npy files" if _kind(path) == "npy" else "files of older versions"
        log.warning(
            f"{path} does not say which images it has embeddings of, as {like}: only their number "
            f"was compared with {images.path}. Mind that the CSV has the order of before, or embed again."
        )
    else:
        _check_rows(path, fids, images)
    _check_numbers(path, embs, crc_of_file)
    return embs


def load_alone(path: str | os.PathLike) -> tuple[np.ndarray, list[str] | None]:
    """The embeddings of a file, checked as far as they can be without the data set.

    Returns:
        float32 [N, D] as load does; and its N fids, as Dataset.names, None where it has none.

    Raises:
        UserError: the file is anything else.
    """
    with _reading(path) as file:
        emb = _check_emb(path, file)
        fids = file.fids()
        if fids is not None and len(fids) != len(emb):
            raise UserError(_damaged(path, len(emb), len(fids)))
        embs = _read(path, emb)
        crc_of_file = file.crc
    _check_numbers(path, embs, crc_of_file)
    return embs, fids


def _damaged(path: str | os.PathLike, embs: int, fids: int) -> str:
    return (
        f"{path} is damaged: it has {embs} embeddings and {fids} fids. Make it anew with embed.py."
    )


def _check_numbers(path: str | os.PathLike, embs: np.ndarray, crc_of_file: object) -> None:
    """Warn of a change. Raises: UserError for what is not finite."""
    finite = [np.zeros(0, bool)]
    crc = 0
    for rows in distances.row_slices(embs, 2**20):
        finite.append(np.isfinite(embs[rows]).all(axis=1))
        crc = zlib.crc32(np.ascontiguousarray(embs[rows], "<f4"), crc)
    broken = np.flatnonzero(~np.concatenate(finite))
    if len(broken):
        raise UserError(
            f"{len(broken)} of the {len(embs)} embeddings in {path} are NaN or infinite in float32, the first in row "
            f"{broken[0]} (counted from 0). Embed with a checkpoint from before the training went wrong."
        )
    if crc_of_file is not None and crc_of_file != crc:
        log.warning(
            f"{path} was changed after embed.py wrote it. If nobody changed its embeddings, it is damaged: embed again."
        )


def load_part(path: str | os.PathLike, images: Dataset, split: str) -> np.ndarray:
    """As load, for the rows of a split, from a file of these or of the whole data set.

    Args:
        images: the rows of `split` of the file images.path.
    """
    if images.splits is None or _count(path) == len(images):
        return load(path, images)
    whole = dataset.load(images.path)
    return load(path, whole)[np.flatnonzero(whole.splits == split)]


def _count(path: str | os.PathLike) -> int | None:
    """How many embeddings a file has, as far as it says so."""
    with _reading(path) as file:
        return None if file.emb is None or not file.emb.ndim else len(file.emb)


def head(path: str | os.PathLike, images: Dataset, count: int) -> np.ndarray:
    """The embeddings of the first images, `count` at most: [n, D].

    Raises:
        UserError: the file cannot be read, or has embeddings of other images or in another order.
    """
    with _reading(path) as file:
        emb = _find_emb(path, file, images)
        fids = _read_fids(path, file, images)
        first = emb[:count]
    if fids is not None:
        _check_rows(path, fids, images)
    return first


def origin(path: str | os.PathLike) -> Origin:
    """How the embeddings of a file were made. Raises: UserError where it cannot be read."""
    with _reading(path) as file:
        return file.origin()


def _hdf5_origin(file: h5py.File) -> Origin:
    types = hdf5.dataset(file, AUGMENTATION_TYPES)
    names = None
    if types is not None and types.ndim == 1:
        names = tuple(hdf5.text(name) for name in types[()])
    return Origin(
        checkpoint=_text_of(file, CHECKPOINT),
        augmentation_types=names,
        aggregator=_text_of(file, AGGREGATOR),
        image_root=_text_of(file, IMAGE_ROOT),
        weights=_text_of(file, WEIGHTS),
        network=_text_of(file, NETWORK),
        data=_text_of(file, DATA),
        orientation=_text_of(file, ORIENTATION),
    )


def _text_of(file: h5py.File, name: str) -> str | None:
    value = hdf5.attribute(file, name)
    return value if isinstance(value, str) else None


def differences(one: Origin, other: Origin) -> list[tuple[str, str, str]]:
    """(name, value of one, value of the other) of whatever changes embeddings and is not the same.

    What a file does not say is no difference. Where both have a fingerprint of the network, it
    counts, and not where the checkpoint was.
    """
    found = []
    if None not in (one.network, other.network):
        if one.network == other.network:
            other = other._replace(checkpoint=one.checkpoint)
        elif one.checkpoint == other.checkpoint:
            found.append((NETWORK, _short(one), _short(other)))
    for name in (CHECKPOINT, WEIGHTS, AUGMENTATION_TYPES, AGGREGATOR):
        values = getattr(one, name), getattr(other, name)
        if None not in values and values[0] != values[1]:
            found.append((name, _words(values[0]), _words(values[1])))
    return found


def what_would_be_lost(path: str | os.PathLike, images: Dataset, made: Origin) -> list[str]:
    """How the embeddings of a file differ from those that are to replace them: a phrase for each.

    Args:
        images, made: of those to come.

    Returns:
        Phrases such as "of checkpoint /exp/checkpoint-5, not /exp/checkpoint-9"; none if the file
        has embeddings of the same images, made alike.
    """
    try:
        with _reading(path) as file:
            if file.emb is None or file.emb.ndim != 2:
                return [f"no embeddings but {', '.join(file.names) or 'nothing'}"]
            count = len(file.emb)
            names = file.fids()
            before = _beside(path, file.origin(), made)
    except (UserError, *hdf5.ERRORS):
        return []  # damaged: there is nothing to lose
    lost = []
    if count != len(images):
        lost.append(f"{count} images, not {len(images)}")
    elif names is not None and len(names) == count:
        row = _first_difference(names, images.names())
        if row is not None:
            lost.append(f"other images (in row {row + 1} {names[row]}, not {images.name(row)})")
    for name, value, new in differences(before, made):
        lost.append(f"{name} {value}, not {new}")
    return lost


def _beside(path: str | os.PathLike, before: Origin, made: Origin) -> Origin:
    """Embeddings that lie beside the checkpoints have moved with them: its name alone counts then."""
    if before.checkpoint is None or made.checkpoint is None:
        return before
    folder = os.path.dirname(made.checkpoint)
    if os.path.dirname(os.path.abspath(path)) != folder:
        return before
    return before._replace(checkpoint=os.path.join(folder, os.path.basename(before.checkpoint)))


def _short(origin: Origin) -> str:
    """A checkpoint, for people, that has the name of another one."""
    return f"{origin.checkpoint} ({(origin.network or '')[:19]}...)"


def _words(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _fids_of(file: h5py.File) -> list[str] | None:
    fids = hdf5.dataset(file, FIDS)
    if fids is None or fids.ndim != 1 or fids.dtype.kind not in "OS":
        return None
    return [hdf5.text(fid) for fid in fids[()]]


def _read_fids(path: str | os.PathLike, file: _Stored, images: Dataset) -> list[str] | None:
    """The fids of the file; None where it has none. Raises: UserError for another number of them."""
    fids = file.fids()
    if fids is not None and len(fids) != len(images):
        raise UserError(_damaged(path, len(images), len(fids)))
    return fids


def _first_difference(fids: Sequence[str], others: Sequence[str]) -> int | None:
    """The first row in which two lists of one length name different files."""
    rows = [row for row, pair in enumerate(zip(fids, others, strict=True)) if pair[0] != pair[1]]
    # Only what differs as text is normalized: nothing, nearly always.
    ours = file_names.normalized([fids[row] for row in rows])
    theirs = file_names.normalized([others[row] for row in rows])
    for row, our, their in zip(rows, ours, theirs, strict=True):
        if our != their:
            return row
    return None


def _check_rows(path: str | os.PathLike, fids: Sequence[str], images: Dataset) -> None:
    """Raises: UserError unless the rows are those of the CSV."""
    names = images.names()
    row = _first_difference(fids, names)
    if row is None:
        return
    same = sorted(file_names.normalized(fids)) == sorted(file_names.normalized(names))
    raise UserError(
        f"{path} has its embeddings {'in another order than' if same else 'of other images than'} {images.path}: the "
        f"first row that differs is {row + 1}, {fids[row]!r} there and {names[row]!r} in the CSV. Give the CSV "
        "that was embedded, or embed this one."
    )


def _find_emb(path: str | os.PathLike, file: _Stored, images: Dataset) -> Any:
    """Its embeddings [N, D]. Raises: UserError unless there is a row for each image."""
    emb = _check_emb(path, file)
    if len(emb) != len(images):
        raise UserError(
            f"{path} should have one embedding for every image of {images.path}. Received: {len(emb)} embeddings, "
            f"{len(images)} images. Give the data set that was embedded, or embed this one."
        )
    return emb


def _check_emb(path: str | os.PathLike, file: _Stored) -> Any:
    """Its embeddings. Raises: UserError unless they are floats [N, D]."""
    emb = file.emb
    if emb is None:
        raise UserError(
            f"{path} should hold a data set `{EMB}`. Received: {file.names}. Make it with embed.py."
        )
    if emb.ndim != 2 or emb.dtype.kind != "f" or emb.shape[1] == 0:
        raise UserError(
            f"`{EMB}` in {path} should be floats [images, dimension]. Received: {emb.dtype} "
            f"{list(emb.shape or ())}. Make it with embed.py."
        )
    return emb


def _read(path: str | os.PathLike, emb: Any) -> np.ndarray:
    """The embeddings in float32, mapped into memory where the file allows it."""
    if emb.dtype == np.float32 and emb.dtype.isnative:
        if isinstance(emb, np.ndarray):
            return np.asarray(emb)
        offset = emb.id.get_offset() if isinstance(emb, h5py.Dataset) else None
        if offset is not None:  # it lies in one piece
            return np.asarray(np.memmap(path, np.float32, "r", offset, emb.shape))
    embs = np.empty(emb.shape, np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        for rows in distances.row_slices(embs, 2**20):
            embs[rows] = emb[rows]
    return embs
