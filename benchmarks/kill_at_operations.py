"""Kill train.py and embed.py at their operations on files, call them again, and compare.

    python -m benchmarks.kill_at_operations --every 7

A short training is killed by SIGKILL before, in the middle of and after its operations on files,
resumed, killed again at as many operations, and resumed to its end. It has to end bit for bit as
one that was left alone, as benchmarks/kill_and_resume.py compares. So has a file of embed.py, and
nothing may be left beside it. Ends with exit code 1 and the first difference. --every 1 takes an
hour on two cores: about five seconds a kill of train.py, three a kill of embed.py.

tests/training/test_kills.py does the same with copies in the place of kills.
"""

import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import common
from benchmarks import _file_operations, kill_and_resume
from runtime.tensorflow import import_tensorflow

TRAINING = "--train_iterations=5 --checkpoint_frequency=2 --keep_checkpoints=2 --val_frequency=2"


def parse_args(argv=None):
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "--every",
        type=common.positive_int,
        default=1,
        metavar="N",
        help="Kill at every N-th moment. Without this flag, at each.",
    )
    return parser.parse_args(argv)


def in_a_child(action: Callable[[], None]) -> int:
    """Call it in a process of its own. Returns: 0, the exit code, or minus the number of a signal.

    TensorFlow is imported already, but nothing has been computed with it: so it can be forked.
    """
    with tempfile.TemporaryFile() as errors:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            code = 1
            os.dup2(errors.fileno(), 2)
            try:
                action()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in (0, -signal.SIGKILL):
            errors.seek(0)
            print(errors.read()[-3000:].decode(errors="replace"))
    return code


def train(root: Path, flags: list[str]) -> None:
    import train

    train.main(train.parse_args([f"--experiment_root={root}", "--start_or_resume", *flags]))


def embed(root: Path, filename: Path) -> None:
    import embed

    argv = f"--experiment_root={root} --dataset={root.parent}/a.csv --image_root={root.parent}/a"
    argv += f" --filename={filename} --flip_augment --aggregator=mean --quiet"
    embed.main(embed.parse_args(argv.split()))


def killed_at(moment: int, folder: Path, action: Callable[[], None]) -> bool:
    """Call it in a process that ends at a moment. Returns: whether it came to that."""

    def watched():
        with _file_operations.watched(folder, _file_operations.kill_at(moment)):
            action()

    code = in_a_child(watched)
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"exit code {code} with a kill at moment {moment} below {folder}")
    return code != 0


def must_succeed(action: Callable[[], None], what: str) -> None:
    code = in_a_child(action)
    if code:
        raise SystemExit(f"exit code {code}: {what}")


def compare_trainings(whole: Path, root: Path) -> None:
    left = [path.name for path in root.iterdir() if "partial" in path.name]
    found = kill_and_resume.differences(whole, root) + left
    if found:
        raise SystemExit(f"{root} differs from {whole}: {', '.join(found)}")


def kill_training(whole: Path, flags: list[str], moment: int) -> int:
    """Kill a training at a moment, and once more when it is resumed. Returns: how often it was."""
    root = whole.parent / f"killed-{moment}"

    def action():
        train(root, flags)

    kills = 0
    for _ in range(2):
        kills += killed_at(moment, root, action)
    must_succeed(action, f"resuming {root}")
    must_succeed(lambda: compare_trainings(whole, root), f"comparing {root}")
    shutil.rmtree(root)
    return kills


def kill_embedding(experiment: Path, whole: Path, moment: int) -> int:
    """Kill embed.py at a moment, twice. Returns: how often it was."""
    file = whole.parent / f"embedded-{moment}" / "emb.h5"
    file.parent.mkdir()

    def action():
        embed(experiment, file)

    kills = 0
    for _ in range(2):
        kills += killed_at(moment, file.parent, action)
    must_succeed(action, f"writing {file}")
    if file.read_bytes() != whole.read_bytes() or len(list(file.parent.iterdir())) > 1:
        raise SystemExit(f"{file.parent} has something else than a file equal to {whole}")
    return kills


def report(name: str, kill: Callable[[int], int], every: int) -> None:
    """Kill at every n-th moment until a call comes to its end; print how often."""
    began = time.monotonic()
    kills = 0
    for moment in itertools.count(0, every):
        now = kill(moment)
        kills += now
        if not now:
            break
    minutes = (time.monotonic() - began) / 60
    print(f"{kills} kills of {name}, {minutes:.1f} minutes: equal bit for bit", flush=True)


def main(args) -> None:
    import_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        flags = [*kill_and_resume.make_dataset(folder), *TRAINING.split()]
        whole = folder / "whole"
        must_succeed(lambda: train(whole, flags), "the training that was left alone")
        report("train.py", lambda moment: kill_training(whole, flags, moment), args.every)
        embs = folder / "whole.h5"
        must_succeed(lambda: embed(whole, embs), "embed.py that was left alone")
        report("embed.py", lambda moment: kill_embedding(whole, embs, moment), args.every)


if __name__ == "__main__":
    common.run(main, parse_args)
