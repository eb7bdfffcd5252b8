r"""evaluate.py against the original's way of doing it: time, mAP and memory of whole processes.

    python -m benchmarks.evaluation [--large]

The original's way, as far as it takes time: all differences [256, G, D] per block of queries, then
scikit-learn's average_precision_score per query. Both run in turns on the same random embeddings,
by default as many as Market-1501 has. The figures printed last are those of docs/speed.md. Where
other programs run beside it, the time of the processor tells more than that of the clock.

Memory is that of the process at its peak: `all` is its resident set, pages of mapped files and
libraries included; `own` is what is not backed by a file (RssAnon in /proc), seen every 5 ms. Needs
the extra "benchmarks" of pyproject.toml and Linux.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import common
from data import dataset
from evaluation import embeddings_file
from excluders import market1501
from runtime import files

MARKET = (3368, 19732, 128)
LARGE = {
    "Market-1501, wide": (3368, 19732, 2048),
    "MSMT17": (11659, 82161, 2048),
    "a million images": (1000, 1_000_000, 128),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--large", action="store_true", help="Also measure large sets, without a baseline."
    )
    parser.add_argument(
        "--rounds",
        type=common.positive_int,
        default=3,
        metavar="N",
        help="Number of measurements. The median counts.",
    )
    common.add_flag(
        parser,
        "metric",
        default="euclidean",
        help="Distance that evaluate.py uses on the large sets.",
    )
    # The original's way runs as a process of its own:
    parser.add_argument("--original", metavar="DIR", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def make_sets(folder: Path, Q: int, G: int, D: int) -> list[str]:
    """Random persons in 6 cameras, 7% of the gallery junk.

    Returns:
        Flags of evaluate.py.
    """
    rng = np.random.default_rng(0)
    persons = max(2, G // 26)
    centers = rng.standard_normal((persons, D), np.float32)
    flags = ["--excluder=market1501"]
    for part, count in (("query", Q), ("gallery", G)):
        pids = rng.integers(0, persons, count)
        cameras = rng.integers(1, 7, count)
        junk = (rng.random(count) < 0.07) & (part == "gallery")
        fids = []
        with open(folder / f"{part}.csv", "w") as file:
            for number, (pid, camera) in enumerate(
                zip(np.where(junk, -1, pids), cameras, strict=True)
            ):
                fids.append(f"{part}/{pid}_c{camera}s1_{number:07d}_00.jpg")
                file.write(f"{pid},{fids[-1]}\n")
        with embeddings_file.create(folder / f"{part}.h5", count, D, fids=fids) as file:
            for start in range(0, count, 4096):
                rows = pids[start : start + 4096]
                file.add(centers[rows] + 2 * rng.standard_normal((len(rows), D), np.float32))
        flags += [
            f"--{part}_dataset={folder}/{part}.csv",
            f"--{part}_embeddings={folder}/{part}.h5",
        ]
    return flags


def original(folder: Path) -> None:
    """Evaluate in the original's way and write the mAP to original.json."""
    from sklearn.metrics import average_precision_score

    query = dataset.load(folder / "query.csv")
    gallery = dataset.load(folder / "gallery.csv")
    query_embs = embeddings_file.head(folder / "query.h5", query, len(query.fids))
    gallery_embs = embeddings_file.head(folder / "gallery.h5", gallery, len(gallery.fids))
    query_pids = query.pids.astype(str)
    gallery_pids = gallery.pids.astype(str)
    excluder = market1501.Excluder(gallery.fids)

    aps = []
    for start in range(0, len(query_embs), 256):
        block = slice(start, start + 256)
        diffs = query_embs[block, None] - gallery_embs[None]
        np.square(diffs, out=diffs)
        dists = np.sqrt(diffs.sum(axis=-1) + 1e-12)
        del diffs
        ignored = excluder(query.fids[block])
        matches = (query_pids[block, None] == gallery_pids) & ~ignored
        dists[ignored] = np.inf
        for row, row_matches in zip(1 / (1 + dists), matches, strict=True):
            if row_matches.any():
                aps.append(average_precision_score(row_matches, row))
                np.flatnonzero(row_matches[np.argsort(-row)])  # what it makes the CMC of
    files.write_json(folder / "original.json", {"mAP": np.mean(aps)})


@dataclass
class Measured:
    seconds: float
    processor: float  # seconds of all cores together, which do not depend on what else runs
    all: float  # MB
    own: float  # MB


def measure(*command: str) -> Measured:
    """Run a process and watch it."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=common.HERE, stdout=subprocess.DEVNULL
    )
    own = 0
    status = Path(f"/proc/{process.pid}/status")
    while True:
        pid, code, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        anonymous = fields.get("RssAnon", "0")  # a process that is ending has none
        own = max(own, int(anonymous.split()[0]))
        time.sleep(0.005)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return Measured(
        seconds=time.perf_counter() - began,
        processor=usage.ru_utime + usage.ru_stime,
        all=usage.ru_maxrss * 1024 / 1e6,
        own=own * 1024 / 1e6,
    )


def report(name: str, runs: list[Measured]) -> float:
    """Print a line.

    Returns:
        The median of the seconds.
    """
    seconds = statistics.median(run.seconds for run in runs)
    processor = statistics.median(run.processor for run in runs)
    most = max(run.all for run in runs)
    own = max(run.own for run in runs)
    print(
        f"{name:30} {seconds:8.2f} s, {processor:8.2f} s of the processor   {most:6.0f} MB all, {own:6.0f} MB own",
        flush=True,
    )
    return seconds


def main(args: argparse.Namespace) -> None:
    if args.original:
        return original(Path(args.original))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = [
            *make_sets(folder, *MARKET),
            "--metric=euclidean",
            f"--filename={folder}/results.json",
        ]
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(measure("evaluate.py", *flags))
            theirs.append(measure("-m", "benchmarks.evaluation", "--original", name))
        results = json.loads((folder / "results.json").read_text())
        wanted = json.loads((folder / "original.json").read_text())
        print("{} queries x {} gallery images, D {}".format(*MARKET))
        ratio = report("the original's way", theirs) / report("evaluate.py", ours)
        print(f"ratio {ratio:.1f}, difference of the mAP {abs(results['mAP'] - wanted['mAP']):.1e}")

        for extras in (["--roc"], ["--groups=market1501"], ["--query_expansion"], ["--rerank"]):
            report(f"evaluate.py {extras[0]}", [measure("evaluate.py", *flags, *extras)])

    for title, sizes in LARGE.items() if args.large else ():
        with tempfile.TemporaryDirectory() as name:
            flags = make_sets(Path(name), *sizes)
            print("{}: {} queries x {} gallery images, D {}".format(title, *sizes))
            flags += [f"--metric={args.metric}", f"--filename={name}/results.json"]
            report(f"evaluate.py, {args.metric}", [measure("evaluate.py", *flags)])
            for flag in ("--query_expansion", "--rerank") if title != "a million images" else ():
                report(f"evaluate.py {flag}", [measure("evaluate.py", *flags, flag)])
    return None


if __name__ == "__main__":
    common.run(main, parse_args)
