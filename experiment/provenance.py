"""provenance.json: how an experiment was made: an entry for each run of train.py.

    {"runs": [{"started": "2026-11-26T12:38:50+00:00", "iteration": 0, "command": "train.py ...",
               "host": ..., "devices": ..., "versions": {...}, "project": {...}, "data": {...},
               "flags": {...}, "end": {"state": "finished", "iteration": 800}}],
     "digest": "crc32 8f3a09c1"}

`data` are fingerprints of what was trained and validated on, by the flags that name the CSVs; the
next run is compared with them. `flags` are those of args.json. `end` is not there while a run trains,
nor after a kill or an error. `digest` tells a damaged file. Earlier versions wrote no flags, end and
digest, or no file: such an experiment goes on, and train.log tells what is not here.

An entry is written after args.json, when a training begins: a run that is killed before leaves none.
"""

import datetime
import hashlib
import os
import platform
import shlex
import socket
import sys
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common import UserError
from data.dataset import Dataset
from experiment import folder, train_log
from runtime import files, json_files, version
from runtime.terminal import log

NAME = "provenance.json"

# Of more images than these, so many evenly spread ones are looked at: enough to see that a set of
# images was made anew, in a fraction of a second also where a network answers late.
_SIZES = 10_000
_CONTENTS = 64
_THREADS = 32


class Run(NamedTuple):
    """What is known of a run before TensorFlow is imported.

    Attributes:
        resuming: whether it goes on with an experiment.
        started: when, in ISO 8601 with the time zone.
        data: the `fingerprint` of each data set, by the flag that names its CSV. The chief has them.
        accepted: how the data differ from those of the run before, and may.
    """

    resuming: bool
    started: str
    data: dict[str, Any]
    accepted: Sequence[str] = ()


def begin(resuming: bool) -> Run:
    """The run that begins now."""
    now = datetime.datetime.now().astimezone()
    return Run(resuming, now.isoformat(timespec="seconds"), {})


# ------------------------------------------------------------------------- fingerprints


def fingerprint(
    csvs: Sequence[str | os.PathLike],
    dataset: Dataset,
    image_root: str | os.PathLike | Sequence[str],
) -> dict[str, Any]:
    """What tells a data set from another one, and how they differ: numbers and text for JSON.

    Args:
        csvs: the files that it was read from.
        image_root: one for all, or one for each of them.
    """
    return {
        "csv": [{"path": os.path.abspath(path), "sha256": _sha256_of(path)} for path in csvs],
        "rows": len(dataset),
        "pids": len(set(dataset.pids)),
        "columns": {name: _checksum(column) for name, column in dataset.columns().items()},
        "images": _of_images(dataset, image_root),
    }


def _checksum(column: np.ndarray) -> str:
    text = "\n".join(map(str, column.ravel().tolist()))
    return f"crc32 {zlib.crc32(_bytes(text)):08x}"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # names of files may be no UTF-8


def _sha256_of(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_images(dataset: Dataset, image_root: str | os.PathLike | Sequence[str]) -> dict[str, Any]:
    """Of the image files: the sizes of many, and the content of a few. {} if one cannot be read now."""
    looked_at = _spread(dataset, _SIZES).paths(image_root)
    read = _spread(dataset, _CONTENTS).paths(image_root)
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            sizes = list(pool.map(_size, looked_at))
            contents = "".join(pool.map(_content, read))
    except OSError:  # data/patience.py says what becomes of it
        return {}
    return {
        "files_looked_at": len(looked_at),
        "bytes": sum(sizes),
        "sizes": f"crc32 {zlib.crc32(_bytes(str(sizes))):08x}",
        "files_read": len(read),
        "sha256_of_read": hashlib.sha256(contents.encode()).hexdigest(),
    }


def _spread(dataset: Dataset, most: int) -> Dataset:
    """The images, or so many of them, evenly spread."""
    count = min(most, len(dataset))
    return dataset.select(np.arange(count) * len(dataset) // count)


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def _content(path: str) -> str:
    try:
        return _sha256_of(path)
    except FileNotFoundError:
        return ""


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """How a data set differs from that of an earlier run: a phrase for each difference.

    Only what a training sees is one: another path, or CRLF for LF, is not.

    Args:
        before, now: fingerprints.

    Raises:
        KeyError, TypeError: `before` is not what `fingerprint` made.
    """
    found = [
        f"{now[name]} {name}, before {before[name]}"
        for name in ("rows", "pids")
        if now[name] != before[name]
    ]
    columns = {**now["columns"], **before["columns"]}
    other = [name for name in columns if before["columns"].get(name) != now["columns"].get(name)]
    if other:
        found.append(f"other {' and '.join(other)}, or in another order")
    elif before["images"] and now["images"] and before["images"] != now["images"]:
        same_sizes = before["images"]["sizes"] == now["images"]["sizes"]
        found.append(f"image files of other {'content' if same_sizes else 'sizes'}")
    return found


# ------------------------------------------------------------------------- the file


def read(experiment_root: str | os.PathLike) -> list[dict[str, Any]]:
    """The runs that are recorded; [] without a file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = json_files.read(Path(experiment_root, NAME))
    except FileNotFoundError:
        return []
    try:
        for run in content["runs"]:
            for data in run["data"].values():
                differences(data, data)
            _versions_of(run)
            _ = run.get("flags", {}).items(), int(run["iteration"])
            if "end" in run:
                _ = str(run["end"]["state"]), int(run["end"]["iteration"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if json_files.is_changed(content):
        raise ValueError("its digest is of another content")
    return content["runs"]


def check(experiment_root: str | os.PathLike, run: Run, accept: bool) -> Run:
    """Compare the data of a run that resumes with those of the run before.

    Nothing is compared where that was killed before its first checkpoint, or where no run is
    recorded.

    Args:
        accept: go on with changed data.

    Returns:
        the run, with what was accepted.
    Raises:
        UserError: the data have changed, with how.
    """
    try:
        runs = [] if folder.never_started(experiment_root) else read(experiment_root)
    except ValueError:  # `write` tells of it
        runs = []
    if not runs:
        return run
    before = runs[-1]
    found = []
    for name in run.data:
        if name not in before["data"]:
            continue  # a validation that is new
        paths = ", ".join(csv["path"] for csv in run.data[name]["csv"])
        changes = differences(before["data"][name], run.data[name])
        found += [f"{name} {paths} has {', '.join(changes)}"] if changes else []
    if not found:
        return run
    if not accept:
        raise UserError(
            f"the data have changed since the run of {before['started']}: {'; '.join(found)}. Restore them, or give "
            "--accept_changed_data to go on with them as they are; provenance.json records it."
        )
    log.warning(f"Going on with data that have changed: {'; '.join(found)}.")
    return run._replace(accepted=found)


def write(
    experiment_root: str | os.PathLike,
    run: Run,
    iteration: int,
    devices: str,
    flags: Mapping[str, Any],
) -> None:
    """Add a run to provenance.json. Versions that differ from those of the run before are logged.

    A damaged file is kept as broken-provenance.json. A worker that is not the chief writes nothing.

    Args:
        iteration: that it goes on from.
        devices: what it runs on, for people.
        flags: those of args.json.
    """
    if not run.data:
        return
    path = Path(experiment_root, NAME)
    try:
        runs = read(experiment_root)
    except ValueError as error:
        kept = path.with_name(f"broken-{NAME}")
        os.replace(path, kept)
        runs = []
        log.warning(
            f"{path} is damaged ({error}), so that the data could not be compared with what was trained on. It is now "
            f"{kept}, and a new one is begun."
        )
    entry: dict[str, Any] = {
        "started": run.started,
        "iteration": iteration,
        "command": shlex.join(sys.argv),
        "host": socket.gethostname(),
        "devices": devices,
        "versions": _versions(),
        "project": {"version": version.version()} | version.commit(),
        "data": run.data,
        "flags": dict(flags),
    }
    if run.accepted:
        entry["accepted_changes_of_data"] = list(run.accepted)
    if runs:
        before, now = _versions_of(runs[-1]), _versions_of(entry)
        changed = [
            f"{name} {now.get(name, 'none')}, before {before.get(name, 'none')}"
            for name in {**before, **now}
            if before.get(name) != now.get(name)
        ]
        if changed:
            log.warning(f"Versions are not those of the run before: {'; '.join(changed)}.")
    _write(path, [*runs, entry])


def _write(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    files.write_json(path, json_files.with_digest({"runs": runs}))


def end(experiment_root: str | os.PathLike, run: Run, state: str, iteration: int) -> None:
    """Record how the last run has ended. A worker that is not the chief writes nothing.

    Args:
        state: "finished", "finished early" or "interrupted".
        iteration: after which it ended.
    """
    if not run.data:
        return
    path = Path(experiment_root, NAME)
    try:
        runs = read(experiment_root)
    except ValueError:  # damaged while the training ran; the next run tells of it
        return
    if runs:
        runs[-1]["end"] = {"state": state, "iteration": iteration}
        _write(path, runs)


def flags_at(experiment_root: str | os.PathLike, iteration: int) -> dict[str, str]:
    """The flags of the run that came to an iteration, as text.

    A later run that was killed before it came further than where it had begun does not count.

    Returns:
        flags by name; {} where nothing tells.
    """
    try:
        runs = read(experiment_root)
    except ValueError:  # `write` tells of it
        runs = []
    came_to = [run for run in runs if run["iteration"] < max(iteration, 1)]
    if not came_to or "flags" not in came_to[-1]:
        return train_log.parameters(experiment_root, iteration)
    return {name: str(value) for name, value in came_to[-1]["flags"].items()}


def state(experiment_root: str | os.PathLike, iterations: int | None = None) -> str:
    """How far the training of an experiment is.

    Args:
        iterations: those that are planned now. A run that finished fewer is not finished. None: it
            is finished if it ended so.

    Returns:
        "finished"; "finished early", by --early_stop; "interrupted" by a signal; "running", where a
        training has the directory; or "stopped": it was killed, ended with an error, or has more
        iterations to go.
    """
    if files.is_locked(experiment_root):
        return "running"
    try:
        runs = read(experiment_root)
    except ValueError as error:
        path = Path(experiment_root, NAME)
        log.warning(
            f"{path} is damaged ({error}). How far the training is, is taken from train.log."
        )
        runs = []
    if not runs or not runs[-1].keys() & {"flags", "end"}:
        return train_log.state(experiment_root, iterations)
    end = runs[-1].get("end")
    if end is None:
        return "stopped"
    if end["state"] == "finished" and iterations is not None and end["iteration"] < iterations:
        return "stopped"
    return end["state"]


def _versions() -> dict[str, str]:
    import keras
    import tensorflow as tf

    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


def _versions_of(run: dict[str, Any]) -> dict[str, str]:
    """All that may differ between runs, by name."""
    project = run["project"]
    ours = {"this project": project["version"]}
    if "commit" in project:
        changed = " with changes" if project["changed"] else ""
        ours["its commit"] = project["commit"][:12] + changed
    return run["versions"] | ours
