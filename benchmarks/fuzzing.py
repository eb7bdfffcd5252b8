"""Feed hostile input to what is parsed from outside, until something breaks.

    python -m benchmarks.fuzzing --minutes 10
    python -m benchmarks.fuzzing --minutes 10 --kinds hdf5 --folder fuzz

CSVs, args.json, regular expressions for cameras, and embeddings in HDF5, .npy and Parquet files.
All of it must be used or be refused with a UserError in one line. Hypothesis makes the input, and
shrinks what breaks something. The last input stays in the folder, for what a signal ends. Needs the
packages of .[test].
"""

import argparse
import contextlib
import json
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import hypothesis
import numpy as np
from hypothesis import strategies as st

import common
import runs
import train
from common import UserError
from data import cameras, dataset, table
from data.dataset import Dataset
from evaluation import embeddings_file
from experiment import args_json, flags, rules
from experiment.flags import Settings
from runtime import terminal


class Kind(NamedTuple):
    """What is parsed from outside."""

    examples: st.SearchStrategy
    use: Callable[[Path, Any], None]  # raises UserError, or what is a finding


# ------------------------------------------------------------------------- CSV

_FIELDS = st.sampled_from(
    ["pid", "fid", "camera", "split", "group", "tracklet", *table.BOX, "date", "train", "query"]
    + [
        "0001",
        "a.jpg",
        "./b/../c.png",
        "ü.jpg",
        "日本.png",
        "\udcff",
        "NA",
        "nan",
        "#",
        "-1",
        "1e3",
    ]
    + [
        "0",
        "1",
        "2147483648",
        "9" * 400,
        "1.5",
        "",
        " ",
        "\t",
        "\0",
        '"',
        '""',
        "'",
        "\\",
        "/",
        "x" * 300,
    ]
)
_SEPARATORS = st.sampled_from(
    [",", ",", ",", "\n", "\n", "\r\n", "\r", ";", '"', "", "\x85", "\u2028", "\v"]
)
_BEGINNINGS = st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"PAR1", b"pid,fid\n"])


@st.composite
def _csv(draw) -> bytes:
    parts = draw(st.lists(st.tuples(_FIELDS, _SEPARATORS), max_size=12))
    text = "".join(field + separator for field, separator in parts)
    return draw(_BEGINNINGS) + text.encode("utf-8", "surrogateescape") + draw(st.binary(max_size=4))


def _use_csv(folder: Path, content: bytes) -> None:
    path = folder / "set.csv"
    path.write_bytes(content)
    plain = table._read_plain(content, ["pid", "fid"])
    if plain is not None:  # the fast way and the strict one read the same
        strict = table._read_strictly(str(path), content, ["pid", "fid"], has_header=False)
        for name, column in plain.columns.items():
            assert column.tolist() == strict.columns[name].tolist()
    images = dataset.load(path)
    assert len(images) == len(images.pids) == len(images.fids) > 0
    assert all(isinstance(text, str) and text for text in (*images.pids, *images.fids))
    dataset.check_paths("set", str(folder), images.fids, allow_any_path=False, allow_links=False)


# ------------------------------------------------------------------------- args.json

_NAMES = [field.name for field in flags.rows()]
_TEXTS = st.sampled_from(
    [
        "soft",
        "none",
        "market1501",
        "c(\\d)",
        "(",
        "",
        "a\0b",
        "..",
        "é",
        "1e400",
        "0x10",
        "1_0",
        "٣",
    ]
) | st.text(max_size=5)
_NUMBERS = st.sampled_from([0, 1, -1, 4, 2**31, 2**63 - 1, -(2**63), 1e308, 5e-324, 0.5, -0.0])
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.integers() | st.floats() | _TEXTS,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(_TEXTS, children, max_size=3),
    max_leaves=4,
)
_ARGS = st.dictionaries(st.sampled_from(_NAMES) | _TEXTS, _VALUES, max_size=4).map(
    lambda values: json.dumps(values).encode("utf-8", "surrogatepass")
)


def _use_args(folder: Path, content: bytes) -> None:
    path = folder / "args.json"
    path.write_bytes(content)
    _refused_or(lambda: runs.table([folder], runs.flags_of([folder])))
    _refused_or(lambda: args_json.architecture(folder, {}))
    call = train.parse_args([f"--experiment_root={folder}", "--resume"])
    settings = args_json.resume(call.settings, call.given)
    rules.check_combinations(settings)
    args_json.write(settings)
    assert args_json.load(folder) == (settings, [])


_ALL_ARGS = {
    name: value for name, value in vars(Settings(experiment_root="x")).items() if value is not None
}
_ALL_ARGS |= {"train_set": "a.csv", "image_root": "b", "seed": 1}


@st.composite
def _args(draw) -> bytes:
    """Raw bytes, some flags, or all flags with some of other values."""
    some = draw(_ARGS | st.binary(max_size=20))
    if not draw(st.booleans()):
        return some
    try:
        return json.dumps(_ALL_ARGS | json.loads(some)).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError):
        return some


# ------------------------------------------------------------------------- cameras

_REGEX_PARTS = st.sampled_from(
    [
        *"()[]{}?*+|.^$\\-,:<>=!#0129c_s/",
        r"\d",
        r"(\d+)",
        r"c(\d)",
        "(?P<a>",
        "(?P=a)",
        "(?i)",
        "(?=",
        r"\1",
    ]
    + [
        "{99999999999}",
        "{3}",
        "{2,}",
        "[[a]",
        "[a&&b]",
        "(?x)",
        "ü",
        "\0",
        "\n",
        "market1501",
        "(" * 120 + ")" * 120,
    ]
)
_REGEXES = st.lists(_REGEX_PARTS, max_size=7).map("".join)
_FIDS = st.lists(
    st.sampled_from(["0001_c1s1_1.jpg", "a/c2/0.png", "", "ü", "\n", "c", "0" * 20]),
    min_size=1,
    max_size=3,
)


def _use_camera(folder: Path, example: tuple[str, list[str]]) -> None:
    regex, fids = example
    (folder / "regex").write_text(repr(example))
    try:
        rule = cameras.rule(regex)
    except argparse.ArgumentTypeError:
        return
    found = cameras.cameras_of(Dataset(["1"] * len(fids), fids, "set.csv"), rule)
    assert len(found) == len(fids) and all(isinstance(camera, str) for camera in found)


# ------------------------------------------------------------------------- HDF5

_DTYPES = st.sampled_from(
    [
        "f4",
        "f4",
        "f4",
        ">f4",
        "f8",
        "f2",
        "i4",
        "u8",
        "S3",
        "?",
        "c8",
        "V5",
        "M",
        "ragged",
        "text",
        "compound",
        "enum",
    ]
)
_SHAPES = st.sampled_from(
    [(3, 2), (3, 2), (3, 2), (3,), (), (0, 2), (3, 0), (4, 2), (3, 2, 1), None]
)
_STORAGE = st.sampled_from(
    [
        {},
        {},
        {"chunks": True},
        {"chunks": (1, 1)},
        {"compression": "gzip"},
        {"fletcher32": True},
        {"maxshape": "any"},
    ]
)
_NAMES_OF_H5 = st.sampled_from(["emb", "emb", "fids", "augmentation_types", "emb_aug"])
_LINKS = st.sampled_from(["soft", "external", "loop", "group", "dtype"])
_ATTRIBUTES = st.tuples(
    st.sampled_from(["checkpoint", "aggregator", "image_root", "crc32"]),
    st.sampled_from(
        [
            1,
            -1,
            1.5,
            True,
            "a",
            b"b",
            "\udcff",
            "x" * 3000,
            np.zeros(3),
            np.void(b"ab"),
            h5py.Empty("f4"),
        ]
    ),
)
_MUTATIONS = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=9)), max_size=4)


class _File(NamedTuple):
    """What to make a file of."""

    sets: list[tuple]
    links: list[tuple]
    attributes: list[tuple]
    mutations: list[tuple[float, bytes]]
    ours: bool


_FILES = st.builds(
    _File,
    sets=st.lists(st.tuples(_NAMES_OF_H5, _DTYPES, _SHAPES, _STORAGE, st.booleans()), max_size=3),
    links=st.lists(st.tuples(_NAMES_OF_H5, _LINKS), max_size=1),
    attributes=st.lists(_ATTRIBUTES, max_size=2),
    mutations=_MUTATIONS,
    ours=st.booleans(),
)
_H5_FIDS = ["a.jpg", "ü/b.jpg", "c" * 40]


def _write_hdf5(path: Path, file: _File) -> None:
    path.unlink(missing_ok=True)
    if file.ours:
        origin = embeddings_file.Origin("/x", ("a", "b"), "mean", "/y")
        with embeddings_file.create(path, 3, 2, origin, _H5_FIDS) as embs:
            embs.add(np.ones((3, 2)), np.ones((2, 3, 2)))
    with h5py.File(path, "a") as h5:
        for name, dtype, shape, storage, written in file.sets:
            _impossible_or(lambda: _create(h5, name, dtype, shape, storage, written))  # noqa: B023
        for name, link in file.links:
            _impossible_or(lambda: _link(h5, name, link))  # noqa: B023
        for name, value in file.attributes:
            _impossible_or(lambda: h5.attrs.__setitem__(name, value))  # noqa: B023
    _mutate(path, file.mutations)


def _mutate(path: Path, mutations: list[tuple[float, bytes]]) -> None:
    """Replace bytes of a file: from a place, 0..1 of its length, on."""
    content = bytearray(path.read_bytes())
    for where, replacement in mutations:
        place = int(where * (len(content) - 1))
        content[place : place + len(replacement)] = replacement
    path.write_bytes(content)


def _create(h5: h5py.File, name: str, dtype: str, shape, storage: dict, written: bool) -> None:
    kinds = {
        "ragged": h5py.vlen_dtype(np.int32),
        "text": h5py.string_dtype(),
        "compound": np.dtype([("a", "f4"), ("b", "S2")]),
        "enum": h5py.enum_dtype({"a": 1}),
        "M": h5py.opaque_dtype("M8[s]"),
    }
    if name in h5:
        del h5[name]
    options = {
        key: (None,) * len(shape or ()) if value == "any" else value
        for key, value in storage.items()
    }
    made = h5.create_dataset(name, shape, kinds.get(dtype, dtype), **options)
    if written and shape:
        made[...] = "x" if dtype == "text" else np.zeros(shape, made.dtype)


def _link(h5: h5py.File, name: str, link: str) -> None:
    if name in h5:
        del h5[name]
    targets = {
        "soft": h5py.SoftLink("/nowhere"),
        "external": h5py.ExternalLink("other.h5", "emb"),
        "loop": h5py.SoftLink(f"/{name}"),
        "dtype": np.dtype("f4"),
    }
    if link == "group":
        h5.create_group(name)
    else:
        h5[name] = targets[link]


def _use_hdf5(folder: Path, file: _File) -> None:
    path = folder / "set.h5"
    _write_hdf5(path, file)
    _use_embeddings(path)


def _use_embeddings(path: Path) -> None:
    """All that is done with a file of embeddings, of _H5_FIDS perhaps."""
    images = Dataset(["1"] * 3, _H5_FIDS, "set.csv")
    made = embeddings_file.Origin("/x", ("a", "b"), "mean")
    embeddings_file.may_be_replaced(path)
    _refused_or(lambda: embeddings_file.is_embeddings(path))
    _refused_or(lambda: embeddings_file.what_would_be_lost(path, images, made))
    _refused_or(lambda: embeddings_file.origin(path))
    _refused_or(lambda: embeddings_file.head(path, images, 2))
    _refused_or(lambda: embeddings_file.load_alone(path))
    embs = embeddings_file.load(path, images)
    assert embs.shape == (3, embs.shape[1]) and embs.dtype == np.float32 and np.isfinite(embs).all()


# ------------------------------------------------------------------------- .npy

_HEADERS = st.tuples(
    st.sampled_from(["'<f4'", "'<f4'", "'|O'", "'<f8'", "'>f2'", "'<U9'", "[('a', '<f4')]", "1"]),
    st.sampled_from(["False", "False", "True", "None", "[]"]),
    st.sampled_from(
        [
            "(3, 2)",
            "(3, 2)",
            "(3,)",
            "()",
            "(3, -2)",
            "(3, 0)",
            "(99999999999, 9)",
            "(2**99, 2)",
            "3",
        ]
    ),
).map("{{'descr': {0[0]}, 'fortran_order': {0[1]}, 'shape': {0[2]}}}".format)
_NPY_VERSIONS = st.sampled_from([b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"])


class _NpyFile(NamedTuple):
    """What to make a .npy file of."""

    version: bytes
    header: str
    content: bytes
    mutations: list[tuple[float, bytes]]


_NPY_FILES = st.builds(
    _NpyFile, _NPY_VERSIONS, _HEADERS | _TEXTS, st.binary(min_size=20, max_size=60), _MUTATIONS
)


def _use_npy(folder: Path, file: _NpyFile) -> None:
    path = folder / "set.npy"
    header = file.header.encode("utf-8", "surrogatepass") + b"\n"
    length = len(header).to_bytes(2 if file.version[:1] == b"\x01" else 4, "little")
    path.write_bytes(b"\x93NUMPY" + file.version + length + header + file.content)
    _mutate(path, file.mutations)
    _use_embeddings(path)


# ------------------------------------------------------------------------- Parquet

_COLUMNS_OF_EMB = st.sampled_from(
    [
        ("list", [[1, 2]] * 3),
        ("list", [[1, 2]] * 3),
        ("list", [[1, 2], [3], [4, 5, 6]]),
        ("list", [[1, 2], None, [3, None]]),
        ("list", [[1, float("nan")]] * 3),
        ("list", []),
        ("large", [[1, 2]] * 3),
        ("fixed", [[1, 2]] * 3),
        ("fixed", [[1, 2]] * 9),
        ("texts", [["a"]] * 3),
        ("lists", [[[1, 2]]] * 3),
        ("float", [1, 2, 3]),
    ]
)
_COLUMNS_OF_FIDS = st.sampled_from(
    [
        None,
        _H5_FIDS,
        _H5_FIDS,
        [1, 2, 3],
        [None] * 3,
        [b"a", b"\xff", b"\n"],
        ["a\nb", "\x1b[1m", ""],
    ]
)
_METADATA = st.sampled_from(
    [b"{", b"[]", b"{}", b"\xff", b'{"checkpoint": 1}', b'{"data": null}']
) | (st.dictionaries(_TEXTS, _VALUES, max_size=2).map(lambda value: json.dumps(value).encode()))


class _ParquetFile(NamedTuple):
    """What to make a Parquet file of."""

    emb: tuple[str, list]
    fids: list | None
    metadata: bytes
    options: dict
    mutations: list[tuple[float, bytes]]


_PARQUET_FILES = st.builds(
    _ParquetFile,
    emb=_COLUMNS_OF_EMB,
    fids=_COLUMNS_OF_FIDS,
    metadata=_METADATA,
    options=st.sampled_from(
        [{}, {"row_group_size": 2}, {"compression": "gzip"}, {"write_page_checksum": True}]
    ),
    mutations=_MUTATIONS,
)


def _use_parquet(folder: Path, file: _ParquetFile) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "list": pa.list_(pa.float32()),
        "large": pa.large_list(pa.float64()),
        "fixed": pa.list_(pa.float32(), 2),
        "texts": pa.list_(pa.string()),
        "lists": pa.list_(pa.list_(pa.float32())),
        "float": pa.float32(),
    }
    kind, values = file.emb
    columns = {"emb": pa.array(values, kinds[kind])}
    if file.fids is not None and len(file.fids) == len(values):
        columns["fid"] = pa.array(file.fids)
    table = pa.table(columns).replace_schema_metadata({"triplet_reid": file.metadata})
    path = folder / "set.parquet"
    pq.write_table(table, path, **file.options)
    _mutate(path, file.mutations)
    _use_embeddings(path)


KINDS = {
    "csv": Kind(_csv(), _use_csv),
    "args": Kind(_args(), _use_args),
    "cameras": Kind(st.tuples(_REGEXES, _FIDS), _use_camera),
    "hdf5": Kind(_FILES, _use_hdf5),
    "npy": Kind(_NPY_FILES, _use_npy),
    "parquet": Kind(_PARQUET_FILES, _use_parquet),
}


# ------------------------------------------------------------------------- running


def _refused_or(call: Callable[[], object]) -> None:
    try:
        call()
    except UserError as error:
        _check_message(error)


def _impossible_or(call: Callable[[], object]) -> None:
    """h5py does not allow every file that is asked for."""
    with contextlib.suppress(TypeError, ValueError, OSError, RuntimeError, KeyError):
        call()


def _check_message(error: UserError) -> None:
    text = common.visible(str(error))  # as commands show it
    assert len(text.splitlines()) == 1 and "\x1b" not in text, ascii(text)
    assert len(text) < 5000, text[:300]


def check(kind: Kind, folder: Path, seed: int, examples: int) -> None:
    """Use so many examples. Raises: what is neither a UserError nor a use, for the smallest one."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(kind.examples)
    def use(example) -> None:
        _refused_or(lambda: kind.use(folder, example))

    terminal.setup_logging("fuzzing")
    level = terminal.log.level
    terminal.log.setLevel("ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a library's warning is a finding, too
            use()
    finally:
        terminal.log.setLevel(level)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument("--minutes", type=common.positive_float, default=10, help="For each kind.")
    parser.add_argument(
        "--seed", type=common.non_negative_int, default=0, help="Of the first round."
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="Of input."
    )
    parser.add_argument(
        "--folder", help="To work in. Without this flag, one that is removed at the end."
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        alarm = getattr(signal, "alarm", lambda seconds: None)
        for name in args.kinds:
            end = time.monotonic() + 60 * args.minutes
            seed = args.seed
            while time.monotonic() < end:
                alarm(600)  # what never ends, ends by a signal
                check(KINDS[name], folder, seed, examples=1000)
                seed += 1
            print(
                f"{name}: {seed - args.seed} rounds of up to 1000 examples, nothing found",
                flush=True,
            )


if __name__ == "__main__":
    common.run(main, parse_args)
