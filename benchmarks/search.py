"""Search in a million embeddings: without an index, and with each kind of one.

    python -m benchmarks.search
    python -m benchmarks.search --images 100000 --kinds ivf hnsw

The baseline is the search without an index, which is exact. Each way runs in a process of its own,
whose peak of memory is told beside that of a process that only maps the gallery. Embeddings are of
identities with twenty images each, around centers that lie near a surface of 32 dimensions. A
million images of 128 numbers take ten minutes on two cores.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import common
from evaluation import embeddings_file, gallery_index
from evaluation.search import Exact, Searcher
from runtime import terminal

_K = 10
_QUERIES = 100


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m benchmarks.search"
    parser.add_argument("--images", type=common.integer(1000), default=1_000_000, metavar="G")
    parser.add_argument("--dim", type=common.integer(32), default=128, metavar="D")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=tuple(gallery_index.KINDS),
        default=list(gallery_index.KINDS),
        help="Indexes to measure.",
    )
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # of a process of one way
    parser.add_argument("--way", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def draw(count: int, dim: int, seed: int) -> np.ndarray:
    """Embeddings, float32 [count, dim], of one distribution for all seeds."""
    shared = np.random.default_rng(0)
    surface = shared.normal(size=(32, dim)).astype(np.float32)
    identities = shared.normal(size=(50_000, 32)).astype(np.float32)
    rng = np.random.default_rng(seed)
    embs = np.empty((count, dim), np.float32)
    for start in range(0, count, 2**16):
        rows = slice(start, min(start + 2**16, count))
        n = rows.stop - rows.start
        near = identities[rng.integers(0, len(identities), n)]
        near = near + 0.4 * rng.standard_normal((n, 32), np.float32)
        embs[rows] = near @ surface + 0.5 * rng.standard_normal((n, dim), np.float32)
    return embs


def measure(searcher: Searcher, queries: np.ndarray) -> str:
    """Seconds of single queries and of all together, in words."""
    singles = []
    for row in range(20):
        began = time.perf_counter()
        searcher.search(queries[row : row + 1], _K)
        singles.append(time.perf_counter() - began)
    began, used = time.perf_counter(), time.process_time()
    searcher.search(queries, _K)
    together, used = time.perf_counter() - began, time.process_time() - used
    n = len(queries)
    return (
        f"{1000 * float(np.median(singles)):.2f} ms for one query, {1000 * together / n:.2f} ms for each of {n} "
        f"({1000 * used / n:.2f} ms of the processor)"
    )


def run_way(way: str, folder: Path) -> None:
    """Build or open what a way needs, measure it, and print a line."""
    embs, _ = embeddings_file.load_alone(folder / "gallery.npy")
    queries = np.load(folder / "queries.npy")
    memory = ""
    if way == "exact":
        searcher: Searcher = Exact(embs, "euclidean")
        about = ""
    elif way == "mapped":
        print(f"{way:7} {_peak()}")
        return
    elif (folder / way).exists():
        searcher = gallery_index.load(folder / way, embs)
        about = f" recall {searcher.about.recall:.3f} (effort {searcher.about.effort}),"
    else:
        began, used = time.perf_counter(), time.process_time()
        searcher = gallery_index.build(folder / way, embs, "euclidean", way)
        size = sum(path.stat().st_size for path in (folder / way).iterdir())
        seconds, used = time.perf_counter() - began, time.process_time() - used
        print(
            f"{way:7} built in {seconds:.1f} s, {used:.0f} s of the processor, {size / 2**20:.0f} MiB on the disk, "
            f"{_peak()}"
        )
        return
    memory = measure(searcher, queries)
    print(f"{way:7}{about} {memory}, {_peak()}")


def _peak() -> str:
    """The most memory of this process, without the pages of mapped files, in words."""
    text = Path("/proc/self/status").read_text()
    anonymous = int(text.partition("RssAnon:")[2].split()[0]) / 1024
    peak = int(text.partition("VmHWM:")[2].split()[0]) / 1024
    return (
        f"{anonymous:.0f} MiB of its own at the end, {peak:.0f} MiB at the peak with mapped pages"
    )


def main(args: argparse.Namespace) -> None:
    terminal.setup_logging("benchmarks.search")
    if args.way:
        run_way(args.way, Path(args.folder))
        return
    gallery_index.check_installed()
    with tempfile.TemporaryDirectory() as folder:
        with embeddings_file.create(Path(folder, "gallery.npy"), args.images, args.dim) as file:
            file.add(draw(args.images, args.dim, 1))
        np.save(Path(folder, "queries.npy"), draw(_QUERIES, args.dim, 2))
        for way in ("mapped", "exact", *(kind for kind in args.kinds for _ in range(2))):
            command = [sys.executable, "-m", "benchmarks.search", "--folder", folder, "--way", way]
            subprocess.run(command, check=True, cwd=common.HERE)


if __name__ == "__main__":
    common.run(main, parse_args)
