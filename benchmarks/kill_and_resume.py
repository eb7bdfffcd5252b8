"""Kill a training at random moments, resume it each time, and compare it with one left alone.

    python -m benchmarks.kill_and_resume --kills 50

Ends with exit code 1 and the first difference unless everything is equal bit for bit: weights,
statistics, averages, Adam's moments, the memory, the losses in train.log, metrics.jsonl, checkpoint-best,
TensorBoard's scalars and the detailed logs. Takes about ten seconds a kill.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import common
from data.samplers import SAMPLERS
from experiment import detailed_logs, metrics_log, provenance

# Within these a worker has to see that another one is gone.
_SECONDS_TO_END = 300

NEVER_EQUAL = {"secs_per_iter", "secs_waiting_for_images", "images_per_sec"}


def parse_args(argv=None):
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--kills",
        type=common.positive_int,
        default=50,
        metavar="N",
        help="Number of kills to aim for. It sets the mean number of iterations between two kills; there may be "
        "fewer kills or more.",
    )
    parser.add_argument(
        "--iterations",
        type=common.positive_int,
        default=800,
        metavar="N",
        help="Number of iterations of the training.",
    )
    parser.add_argument(
        "--seed",
        type=common.non_negative_int,
        default=0,
        metavar="N",
        help="Seed of the moments at which the training is killed.",
    )
    parser.add_argument(
        "--workers",
        type=common.positive_int,
        default=1,
        metavar="N",
        help="Number of workers that train together on this machine. One of them is killed each time, and the others "
        "have to end by themselves; then all begin again.",
    )
    parser.add_argument(
        "--sampler", choices=SAMPLERS, default="pk", help="The flag of the training."
    )
    return parser.parse_args(argv)


def make_dataset(folder: Path, sampler: str = "pk") -> list[str]:
    """Random images of 8 pids in each of two sets, boxes in one of them, in two groups.

    Returns: the flags of a small training on them.
    """
    size = "--batch_p=4 --batch_k=3" if sampler == "pk" else f"--sampler={sampler} --batch_size=12"
    rng = np.random.default_rng(0)
    header = "pid,fid,group,x1,y1,x2,y2"
    rows = {"a": [header], "b": [header]}
    for number in range(45):
        name = "a" if number % 3 else "b"
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 16, 3), np.uint8)).save(
            folder / name / f"{number}.png"
        )
        box = f"{number % 4},2,15,{20 + number % 5}" if name == "b" else ",,,"
        rows[name].append(f"{number % 8},{number}.png,{number % 2},{box}")
    for name, lines in rows.items():
        (folder / f"{name}.csv").write_text("\n".join(lines))
    flags = f"--train_set {folder}/a.csv {folder}/b.csv --image_root {folder}/a {folder}/b --same_group_batches"
    flags += " --model_name=lunet_narrow --head_name=fc1024"
    flags += f" --embedding_dim=8 {size} --net_input_height=20 --net_input_width=12 --crop_augment"
    flags += " --pre_crop_height=24 --pre_crop_width=16 --flip_augment --checkpoint_frequency=3"
    flags += " --detailed_logs --seed=7 --ema=0.9 --chunk=6 --val_pids=2 --val_start --val_frequency=20 --early_stop=20"
    flags += " --val_distractors=9 --val_beyond_chance"
    flags += " --l2=5e-4 --lr_factors=head=2,bias=2"
    flags += f" --cache=resized --cache_dir={folder}/cache"
    flags += (
        " --memory_batches=3 --memory_start=2 --id_loss_weight=0.1 --id_loss=arcface --id_centers=2"
    )
    flags += " --id_margin_by_count=0.4,0.25,0.1"
    return flags.split()


def start(*flags: str, workers: int = 1) -> list[subprocess.Popen]:
    """Start a training of one or of several workers on this machine."""
    environments = [os.environ]
    if workers > 1:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
            for free in sockets:
                free.bind(("127.0.0.1", 0))
            addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
        tasks = [{"type": "worker", "index": index} for index in range(workers)]
        jobs = [json.dumps({"cluster": {"worker": addresses}, "task": task}) for task in tasks]
        environments = [os.environ | {"TF_CONFIG": job} for job in jobs]
    return [
        subprocess.Popen(
            [sys.executable, "train.py", *flags],
            cwd=common.HERE,
            env=environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for environment in environments
    ]


def kill_one(processes: list[subprocess.Popen], rng: np.random.Generator) -> None:
    """Kill one worker, whichever; the others have to end by themselves."""
    processes[rng.integers(len(processes))].kill()
    try:
        for process in processes:
            process.wait(timeout=_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        for process in processes:
            process.kill()
        raise SystemExit(
            f"a worker was killed, and another went on for {_SECONDS_TO_END} seconds"
        ) from None


def logged_iterations(root: Path) -> dict[int, str]:
    """What train.log says of each iteration, but for times."""
    log = root / "train.log"
    lines = log.read_text().splitlines() if log.exists() else []
    found = [re.search(r" iter: *(\d+), (.*), ETA", line) for line in lines]
    return {int(match[1]): match[2] for match in found if match}


def logged_metrics(root: Path) -> list[dict]:
    """The lines of metrics.jsonl, but for times."""
    return [
        {name: value for name, value in line.items() if name not in NEVER_EQUAL}
        for line in metrics_log.read(root)
    ]


def starts(root: Path) -> int:
    log = root / "train.log"
    return log.read_text().count("Starting training") if log.exists() else 0


def train_and_kill(  # noqa: PLR0913
    root: Path,
    flags: list[str],
    pace: float,
    seed: int,
    most: int | None = None,
    workers: int = 1,
) -> int:
    """Train, with a kill about every `pace` iterations, `most` of them at most. Returns: how many
    it were.
    """
    rng, killed = np.random.default_rng(seed), 0
    while True:
        if (root / "args.json").exists():
            threads = int(rng.integers(1, 9))
            call = [f"--experiment_root={root}", "--resume", f"--loading_threads={threads}"]
        else:
            call = [f"--experiment_root={root}", *flags]
        processes = start(*call, workers=workers)
        chief = processes[0]
        # One in five while it starts; the others some iterations later, at any moment of one or of
        # a save.
        before, target = starts(root), None
        end = time.monotonic() + rng.uniform(0, 8) if rng.random() < 0.2 else None
        while chief.poll() is None and (end is None or time.monotonic() < end):
            time.sleep(0.005)
            if end is None and starts(root) > before:
                now = max(logged_iterations(root), default=0)
                target = target or now + 1 + rng.exponential(pace)
                if now >= target:
                    end = time.monotonic() + rng.uniform(0, 0.2)
        if killed == most or chief.poll() is not None:
            codes = [process.wait() for process in processes]
            if any(codes):
                raise SystemExit(f"the training ended with exit codes {codes}")
            return killed
        kill_one(processes, rng)
        killed += 1


def differences(a: Path, b: Path) -> list[str]:
    """What is not equal bit for bit in two finished experiments."""
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from network import checkpoint_paths, checkpoints

    found = []
    readers = [tf.train.load_checkpoint(str(checkpoints.newest(root))) for root in (a, b)]
    names = [sorted(reader.get_variable_to_shape_map()) for reader in readers]
    if names[0] != names[1]:
        found.append("names of variables")
    for name in set(names[0]).intersection(names[1]):
        values = [np.asarray(reader.get_tensor(name)) for reader in readers]
        if values[0].tobytes() != values[1].tobytes():
            found.append(f"variable {name}")
    if logged_iterations(a) != logged_iterations(b):
        found.append("losses in train.log")
    bests = [root / checkpoint_paths.BEST for root in (a, b)]
    if len({path.exists() and path.read_text() for path in bests}) > 1:
        found.append(checkpoint_paths.BEST)
    lines = (b / "train.log").read_text()
    if len(re.findall(r" iter: *\d+,", lines)) != len(logged_iterations(b)):
        found.append("iterations that stand twice in train.log")
    data = [run["data"] for run in provenance.read(b)]  # a ValueError: a kill has damaged it
    if not data or data != data[:1] * len(data):
        found.append("data in provenance.json")
    if logged_metrics(a) != logged_metrics(b):
        found.append("metrics.jsonl")
    for name in ("embeddings", "losses", "fids"):
        if detailed_logs.read(a / name).tobytes() != detailed_logs.read(b / name).tobytes():
            found.append(f"detailed log {name}")
    events = [EventAccumulator(str(root), size_guidance={"tensors": 0}).Reload() for root in (a, b)]
    for tag in sorted(set(events[0].Tags()["tensors"]) - NEVER_EQUAL):
        series = [
            [(e.step, e.tensor_proto.SerializeToString()) for e in event.Tensors(tag)]
            for event in events
        ]
        if series[0] != series[1]:
            found.append(f"TensorBoard's {tag}")
    return found


def main(args) -> None:
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        flags = [*make_dataset(folder, args.sampler), f"--train_iterations={args.iterations}"]
        whole = start(f"--experiment_root={folder / 'whole'}", *flags, workers=args.workers)
        codes = [process.wait() for process in whole]
        if any(codes):
            raise SystemExit("the training that was left alone failed")
        # Half of it: a kill comes some iterations after it is due.
        pace = args.iterations / args.kills / 2
        began = time.monotonic()
        root = folder / "killed"
        killed = train_and_kill(root, flags, pace, args.seed, workers=args.workers)
        found = differences(folder / "whole", folder / "killed")
        minutes = (time.monotonic() - began) / 60
    print(f"{killed} kills in {args.iterations} iterations, {minutes:.1f} minutes: ", end="")
    print("equal bit for bit" if not found else "DIFFERENT: " + ", ".join(found))
    if killed < args.kills:
        print(f"These are fewer kills than the {args.kills} that were asked for, by chance.")
    if found or not killed:
        raise SystemExit(1)


if __name__ == "__main__":
    common.run(main, parse_args)
