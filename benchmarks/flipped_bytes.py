"""Flip single bits in every kind of file that a command reads, and count what becomes of it.

    python -m benchmarks.flipped_bytes --flips 300

Each flip is of a fresh copy, and all that commands do with the file is done. It may make no
difference, be told in a warning, or be refused in one line. A number that is another one without a
word, a traceback, or a signal is a fault. (The lines of train.log have no checksums, and no command
takes a number from them: metrics.jsonl and provenance.json have those.) Takes some minutes on two CPU cores.
"""

import argparse
import contextlib
import dataclasses
import io
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import common
import evaluate
import runs
import train
from common import UserError
from data.dataset import Dataset
from evaluation import embeddings_file
from experiment import (
    args_json,
    curves,
    detailed_logs,
    metrics_log,
    provenance,
    rules,
    train_log,
)
from experiment.flags import Settings
from reports import hard_images
from runtime import terminal

FIDS = [f"{pid:04d}_c{camera}s1_000000_00.jpg" for pid in range(4) for camera in (1, 2, 3)]
PIDS = [fid[:4] for fid in FIDS]

FAULTS = ("other without a word", "traceback", "signal")


class Kind(NamedTuple):
    """A kind of file."""

    make: Callable[[Path], None]  # write an experiment into a folder
    files: tuple[str, ...]  # patterns of those to flip bits in
    use: Callable[[Path], object]  # do what commands do; returns what they show, or go on with


# ------------------------------------------------------------------------- the kinds


def _settings(root: Path) -> Settings:
    return Settings(
        experiment_root=str(root),
        train_set=str(root / "set.csv"),
        image_root=str(root),
        batch_p=4,
        batch_k=3,
        embedding_dim=5,
        train_iterations=6,
        seed=1,
        detailed_logs=True,
    )


def _make_experiment(root: Path) -> None:
    """All but what needs TensorFlow."""
    rows = [f"{pid},{fid}\n" for pid, fid in zip(PIDS, FIDS, strict=True)]
    (root / "set.csv").write_text("".join(rows))
    settings = _settings(root)
    args_json.write(settings)
    rng = np.random.default_rng(0)
    embs = rng.normal(size=(6, 12, 5)).astype(np.float32)
    losses = rng.random((6, 12), np.float32)
    lines = train_log.parameter_lines(args_json.content(settings))
    layout = detailed_logs.layout(6, 12, 5, FIDS)
    fids = [fid.encode() for fid in FIDS]
    with (
        detailed_logs.DetailedLogs(root, layout) as logs,
        metrics_log.MetricsLog(root) as metrics,
    ):
        for row in range(6):
            logs.write(row, embeddings=embs[row], losses=losses[row], fids=fids)
            metrics.write(row + 1, {"loss": losses[row].mean(), "learning_rate": 3e-4})
            lines.append(
                train_log.iteration_line(
                    row + 1, losses[row], batch_k=3, precision=0.5, seconds=0.25, seconds_left=9
                )
            )
    lines.append(train_log.finished_line(6))
    data = provenance.fingerprint([root / "set.csv"], Dataset(PIDS, FIDS, "set.csv"), root)
    run = provenance.begin(resuming=False)._replace(data={"train_set": data})
    provenance.write(root, run, 0, devices="1 CPU", flags=args_json.content(settings))
    provenance.end(root, run, "finished", 6)
    start = "2026-01-02 03:04:05,678 [INFO] train: "
    (root / "train.log").write_text("".join(f"{start}{line}\n" for line in lines))
    origin = embeddings_file.Origin("/exp/checkpoint-6", ("original_resize",), None, str(root))
    for name in ("set.h5", "set.parquet"):
        with embeddings_file.create(root / name, 12, 5, origin, FIDS) as file:
            file.add(embs[0])
    _evaluate(root, "set.h5")


def _evaluate(root: Path, embeddings: str) -> str:
    flags = f"--excluder=market1501 --metric=euclidean --filename={root}/result.json".split()
    flags += [f"--{part}_dataset={root}/set.csv" for part in ("query", "gallery")]
    flags += [f"--{part}_embeddings={root}/{embeddings}" for part in ("query", "gallery")]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        evaluate.main(evaluate.parse_args(flags))
    return out.getvalue()


def _use_args(root: Path) -> object:
    call = train.parse_args([f"--experiment_root={root}", "--resume"])
    settings = args_json.resume(call.settings, call.given)
    rules.check_combinations(settings)
    architecture = args_json.architecture(root, {})
    return dataclasses.asdict(settings), architecture, _use_table(root)


def _use_table(root: Path) -> list:
    return runs.table([root], runs.flags_of([root])).to_numpy().tolist()


def _use_log(root: Path) -> object:
    from experiment import rewind

    before = _use_table(root), provenance.flags_at(root, 3), _use_curves(root)
    rewind.rewind(root, 3)
    return before, _use_table(root), _use_curves(root)


def _use_curves(root: Path) -> dict:
    return {name: curve.values.tolist() for name, curve in curves.read(root).items()}


def _use_metrics(root: Path) -> object:
    from experiment import rewind

    before = list(metrics_log.read(root))
    rewind.rewind(root, 3)
    return before, list(metrics_log.read(root))


def _use_details(root: Path) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        hard_images.main(hard_images.parse_args([str(root)]))
    with detailed_logs.DetailedLogs(root, detailed_logs.layout(8, 12, 5, FIDS)):
        pass
    return out.getvalue()


def _use_embeddings(name: str, root: Path) -> object:
    images = Dataset(PIDS, FIDS, "set.csv")
    made = embeddings_file.Origin("/exp/checkpoint-6", ("original_resize",))
    embeddings_file.what_would_be_lost(root / name, images, made)
    embeddings_file.head(root / name, images, 3)
    return _evaluate(root, name)


def _make_events(root: Path) -> None:
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(root))
    with writer.as_default():
        for step in range(1, 9):
            tf.summary.scalar("loss", step / 10, step=step)
            tf.summary.histogram("dists", [step, step + 1.0], step=step)
    writer.close()


def _use_events(root: Path) -> object:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from experiment import rewind

    rewind.rewind(root, 6)
    events = EventAccumulator(str(root), size_guidance={"tensors": 0}).Reload()
    tags = events.Tags()["tensors"]
    return [[(e.step, str(e.tensor_proto)) for e in events.Tensors(tag)] for tag in sorted(tags)]


def _make_checkpoints(root: Path) -> None:
    from network import checkpoints

    rng = np.random.default_rng(0)
    for iteration in (3, 6):
        values = {f"layer{n}/weights": rng.normal(size=(3, 4)) for n in range(5)}
        checkpoints.save(root, iteration, values | {"global_step": np.int64(iteration)})


def _use_checkpoints(root: Path) -> object:
    import tensorflow as tf

    from network import checkpoints

    names = [f"layer{n}/weights" for n in range(5)]
    variables = {name: tf.Variable(np.zeros((3, 4))) for name in names}
    variables["global_step"] = tf.Variable(np.int64(0))
    path = checkpoints.restore_newest(root, variables)
    return path.name, [variable.numpy().tolist() for variable in variables.values()]


_DETAILS = ("embeddings", "losses", "fids", "checksums")

KINDS = {
    "args.json": Kind(_make_experiment, ("args.json",), _use_args),
    "train.log": Kind(_make_experiment, ("train.log",), _use_log),
    "provenance.json": Kind(_make_experiment, ("provenance.json",), _use_log),
    "metrics.jsonl": Kind(_make_experiment, ("metrics.jsonl",), _use_metrics),
    "detailed logs": Kind(_make_experiment, _DETAILS, _use_details),
    "their descriptions": Kind(
        _make_experiment, tuple(f"{name}.json" for name in _DETAILS), _use_details
    ),
    "HDF5": Kind(_make_experiment, ("set.h5",), partial(_use_embeddings, "set.h5")),
    "Parquet": Kind(_make_experiment, ("set.parquet",), partial(_use_embeddings, "set.parquet")),
    "result JSON": Kind(_make_experiment, ("result.json",), _use_table),
    "events": Kind(_make_events, ("events.*",), _use_events),
    "checkpoint": Kind(_make_checkpoints, ("checkpoint-6.*",), _use_checkpoints),
    "checkpoint state": Kind(_make_checkpoints, ("checkpoint",), _use_checkpoints),
}


# ------------------------------------------------------------------------- flips


def outcomes(kind: Kind, folder: Path, seed: int, flips: range) -> Iterator[tuple[str, str]]:
    """Flip a bit and use the file, for each number of `flips`.

    Args:
        folder: to work in.

    Yields:
        What became of it, and what was flipped and said.
    """
    whole, copy = folder / "whole", folder / "exp"
    copy.mkdir(parents=True, exist_ok=True)
    kind.make(copy)  # under the name that it is used by
    copy.rename(whole)
    shutil.copytree(whole, copy)
    expected = kind.use(copy)
    names = sorted(path.name for pattern in kind.files for path in whole.glob(pattern))
    for flip in flips:
        shutil.rmtree(copy)
        shutil.copytree(whole, copy)
        rng = np.random.default_rng([seed, flip])
        path = copy / names[rng.integers(len(names))]
        content = bytearray(path.read_bytes())
        place = rng.integers(len(content))
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        outcome, said = _outcome(kind, copy, expected)
        yield outcome, f"{path.name}, byte {place}: {said}"


def _outcome(kind: Kind, folder: Path, expected: object) -> tuple[str, str]:
    terminal.setup_logging("flipped_bytes")
    with contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            got = kind.use(folder)
        except (UserError, SystemExit) as error:
            return "refused", str(error)
        except Exception as error:
            return "traceback", repr(error)
    said = " ".join(err.getvalue().split())
    if "[WARNING]" in said:
        return "told", said
    if said:
        return "traceback", said  # a warning of Python or of a library
    return ("no difference" if got == expected else "other without a word"), str(got)[:300]


def count(name: str, seed: int, flips: int, verbose: bool) -> Counter:
    """The outcomes of one kind, in processes of their own: a signal ends only one of them."""
    found: Counter = Counter()
    while found.total() < flips:
        command = [sys.executable, "-m", "benchmarks.flipped_bytes", f"--seed={seed}"]
        command += [f"--flips={flips}", f"--first={found.total()}", f"--worker={name}"]
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [*command, f"--folder={folder}"], cwd=common.HERE, capture_output=True, text=True
            )
        lines = [line for line in done.stdout.splitlines() if "\t" in line]
        found.update(line.split("\t")[0] for line in lines)
        for line in lines:
            if verbose or line.startswith(FAULTS):
                print(f"  {line}")
        if done.returncode < 0:
            print(f"  signal {-done.returncode}: flip {found.total()}")
            found["signal"] += 1
        elif done.returncode:
            raise SystemExit(done.stderr)
    return found


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument("--flips", type=common.positive_int, default=300, help="For each kind.")
    parser.add_argument("--seed", type=common.non_negative_int, default=0, help="Of the flips.")
    parser.add_argument(
        "--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="Of files."
    )
    parser.add_argument("--verbose", action="store_true", help="Print what each flip led to.")
    for name in ("worker", "folder"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    if args.worker:
        flips = range(args.first, args.flips)
        alarm = getattr(signal, "alarm", lambda seconds: None)  # what never ends, ends by a signal
        alarm(100)
        for outcome, said in outcomes(KINDS[args.worker], Path(args.folder), args.seed, flips):
            print(outcome, said.replace("\n", " "), sep="\t", flush=True)
            alarm(60)
        return
    faults = 0
    for name in args.kinds:
        found = count(name, args.seed, args.flips, args.verbose)
        print(f"{name}: {', '.join(f'{found[key]} {key}' for key in sorted(found))}", flush=True)
        faults += sum(found[fault] for fault in FAULTS)
    if faults:
        raise SystemExit(f"{faults} faults")


if __name__ == "__main__":
    common.run(main, parse_args)
