"""provenance.json: what is recorded of runs, and what resuming compares."""

import hashlib
import json
import platform
import re
import shlex
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import common
from data import dataset
from experiment import provenance, train_log
from runtime import version

ROWS = ["a,1.png", "a,2.png", "b,3.png", "b,4.png"]


@pytest.fixture
def root(tmp_path):
    """mine.csv and its images, and exp, an experiment that has begun."""
    for number in range(1, 6):
        pixels = np.full((4, 4 + number, 3), number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    write(tmp_path, *ROWS)
    (tmp_path / "exp").mkdir()
    return tmp_path


def write(root, *rows, end="\n", name="mine.csv"):
    (root / name).write_bytes("".join(row + end for row in rows).encode())


def begin(root, name="mine.csv"):
    data = provenance.fingerprint([root / name], dataset.load(root / name), root)
    return provenance.begin(resuming=True)._replace(data={"train_set": data})


def record(root, iteration=0, flags=None, **changes):
    """Write a run."""
    run = begin(root)._replace(**changes)
    provenance.write(root / "exp", run, iteration, "1 CPU", flags=flags or {})
    return json.loads((root / "exp" / "provenance.json").read_text())["runs"]


def check(root, accept=False):
    return provenance.check(root / "exp", begin(root), accept).accepted


def test_what_is_recorded_of_a_run(root):
    (run,) = record(root)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", run["started"])
    assert run["iteration"] == 0 and run["devices"] == "1 CPU"
    assert run["host"] == platform.node() and run["command"] == shlex.join(sys.argv)
    assert run["versions"] == {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
    assert run["project"]["version"] == version.version()
    content = (root / "mine.csv").read_bytes()
    sizes = [(root / f"{number}.png").stat().st_size for number in range(1, 5)]
    digests = [
        hashlib.sha256((root / f"{number}.png").read_bytes()).hexdigest() for number in range(1, 5)
    ]
    data = run["data"]["train_set"]
    assert data["csv"] == [
        {"path": str(root / "mine.csv"), "sha256": hashlib.sha256(content).hexdigest()}
    ]
    assert (data["rows"], data["pids"]) == (4, 2)
    assert data["columns"].keys() == {"pids", "fids"}
    assert data["images"]["bytes"] == sum(sizes)
    assert data["images"]["files_looked_at"] == data["images"]["files_read"] == 4
    read = hashlib.sha256("".join(digests).encode()).hexdigest()
    assert data["images"]["sha256_of_read"] == read


def test_each_run_adds_an_entry(root):
    record(root)
    runs = record(root, iteration=7)
    assert [run["iteration"] for run in runs] == [0, 7]
    assert "accepted_changes_of_data" not in runs[1]


def touch_image(root, **change):
    pixels = np.full((4, change.get("width", 5), 3), change.get("value", 1), np.uint8)
    Image.fromarray(pixels).save(root / "1.png", compress_level=0)


CHANGES = {
    "fewer rows": (
        lambda root: write(root, *ROWS[:3]),
        "3 rows, before 4, other pids and fids, or in",
    ),
    "reordered": (
        lambda root: write(root, *ROWS[::-1]),
        "other pids and fids, or in another order",
    ),
    "renamed": (
        lambda root: write(root, *(row.replace("b", "c") for row in ROWS)),
        "other pids, or in another order",
    ),
    "one identity less": (
        lambda root: write(root, *(row.replace("b", "a") for row in ROWS)),
        "1 pids, before 2, other pids, or in another order",
    ),
    "another image": (
        lambda root: write(root, *ROWS[:3], "b,5.png"),
        "other fids, or in another order",
    ),
    "cameras": (
        lambda root: write(root, "pid,fid,camera", *(row + ",1" for row in ROWS)),
        "other cameras, or in another order",
    ),
    "size of an image": (lambda root: touch_image(root, width=9), "image files of other sizes"),
    "content of an image": (
        lambda root: touch_image(root, value=8),
        "image files of other content",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_data_are_an_error_unless_they_are_accepted(kind, root, caplog):
    change, words = CHANGES[kind]
    touch_image(root)  # as large as with another value
    first = record(root)[0]
    change(root)
    with pytest.raises(common.UserError) as error:
        check(root)
    assert words in str(error.value)
    assert str(error.value).startswith(
        f"the data have changed since the run of {first['started']}: train_set {root / 'mine.csv'} has "
    )
    accepted = check(root, accept=True)
    assert words in "; ".join(accepted)
    # From then on the changed data are those to compare with.
    assert record(root, accepted=accepted)[1]["accepted_changes_of_data"] == accepted
    assert not check(root)


def test_what_no_training_sees_is_no_change(root):
    record(root)
    write(root, *ROWS, end="\r\n")
    assert not check(root)
    write(root, "fid,pid,note", *(",".join([*row.split(",")[::-1], "x"]) for row in ROWS))
    assert not check(root)
    for number in range(1, 5):  # another time
        (root / f"{number}.png").touch()
    assert not check(root)


def test_another_path_of_the_data_is_no_change(root):
    record(root)
    write(root, *ROWS, name="moved.csv")
    run = begin(root, "moved.csv")
    assert provenance.check(root / "exp", run, accept=False) == run


def test_images_that_are_missing_or_many(root, monkeypatch):
    monkeypatch.setattr(provenance, "_SIZES", 3)
    monkeypatch.setattr(provenance, "_CONTENTS", 2)
    images = dataset.Dataset(["a"] * 6, [f"{number}.png" for number in (1, 9, 2, 8, 3, 7)])
    of_images = provenance.fingerprint([], images, root)["images"]
    assert (of_images["files_looked_at"], of_images["files_read"]) == (3, 2)
    sizes = [(root / f"{number}.png").stat().st_size for number in (1, 2, 3)]  # rows 0, 2, 4
    assert of_images["bytes"] == sum(sizes)


def test_an_experiment_without_the_file_goes_on(root):
    write(root, *ROWS[:3])
    assert not check(root)
    assert len(record(root)) == 1


def test_nothing_is_compared_where_no_training_has_begun(root):
    record(root)
    (root / "exp" / "train.log").touch()  # a run that was killed before its first checkpoint
    write(root, *ROWS[:3])
    assert not check(root)


def test_the_end_of_a_run_tells_how_far_the_training_is(root):
    exp = root / "exp"
    record(root)
    assert provenance.state(exp) == "stopped"
    for state in ("interrupted", "finished early", "finished"):
        provenance.end(exp, begin(root), state, 8)
        assert provenance.state(exp, iterations=8) == provenance.state(exp) == state
    assert provenance.state(exp, iterations=9) == "stopped"
    # Text of a log tells nothing where there are records.
    (exp / "train.log").write_text(
        "2026-01-02 03:04:05,678 [INFO] train: Interrupted after iteration 3."
    )
    assert provenance.state(exp) == "finished"
    record(root, iteration=8)
    assert provenance.state(exp) == "stopped"


def test_a_worker_that_is_not_the_chief_records_no_end(root):
    record(root)
    provenance.end(root / "exp", provenance.begin(resuming=True), "finished", 8)
    assert provenance.state(root / "exp") == "stopped"


def test_the_flags_of_the_run_that_came_to_an_iteration(root):
    record(root, iteration=0, flags={"train_iterations": 5, "decay_to": None})
    record(root, iteration=5, flags={"train_iterations": 9, "decay_to": None})
    at = {iteration: provenance.flags_at(root / "exp", iteration) for iteration in (0, 5, 6)}
    assert at[0] == at[5] == {"train_iterations": "5", "decay_to": "None"}
    assert at[6] == {"train_iterations": "9", "decay_to": "None"}
    assert provenance.flags_at(root / "none", 5) == {}


def test_what_an_earlier_version_has_not_recorded_is_taken_from_the_log(root):
    exp = root / "exp"
    (run,) = record(root)
    del run["flags"]
    (exp / "provenance.json").write_text(json.dumps({"runs": [run]}))
    lines = [
        *train_log.parameter_lines({"seed": 7}),
        "Saved x/checkpoint-3.",
        train_log.finished_line(3),
    ]
    start = "2026-01-02 03:04:05,678 [INFO] train: "
    (exp / "train.log").write_text("".join(f"{start}{line}\n" for line in lines))
    assert provenance.flags_at(exp, 3) == {"seed": "7"}
    assert provenance.state(exp) == "finished"
    provenance.end(exp, begin(root), "interrupted", 3)
    assert provenance.state(exp) == "interrupted"


def test_a_digit_that_is_another_one_is_damage(root, monkeypatch):
    exp = root / "exp"
    told = []
    monkeypatch.setattr(provenance.log, "warning", told.append)
    record(root, flags={"seed": 7})
    path = exp / "provenance.json"
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 5'))
    with pytest.raises(ValueError, match="digest"):
        provenance.read(exp)
    assert provenance.state(exp) == "stopped" and provenance.flags_at(exp, 0) == {}
    assert "is damaged (its digest is of another content)" in told[0]
    provenance.end(exp, begin(root), "finished", 8)  # leaves it to the next run
    assert '"seed": 5' in path.read_text()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"runs": 3}',
        '{"runs": [{}]}',
        '{"runs": [{"data": {"train_set": {"rows": []}}}]}',
        '{"runs": [{"data": {}, "versions": {}, "project": {"version": 1}, "iteration": 0, "flags": 3}]}',
        '{"runs": [{"data": {}, "versions": {}, "project": {"version": 1}, "iteration": 0, "end": {}}]}',
    ],
)
def test_a_damaged_file_is_kept_beside_a_new_one(content, root, capsys):
    (root / "exp" / "provenance.json").write_text(content)
    assert not check(root)
    assert len(record(root)) == 1
    assert (root / "exp" / "broken-provenance.json").read_text() == content


def test_other_versions_are_told(root, caplog, monkeypatch):
    record(root)
    log = []
    monkeypatch.setattr(provenance.log, "warning", log.append)
    record(root)
    assert log == []
    monkeypatch.setattr(np, "__version__", "1.0")
    monkeypatch.setattr(version, "commit", lambda: {"commit": "f" * 40, "changed": True})
    record(root)
    assert re.fullmatch(
        rf"Versions are not those of the run before: numpy 1.0, before {np.__version__ and '.*'}; "
        "its commit ffffffffffff with changes, before .*",
        log[0],
    )


def test_the_commit_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(version, "HERE", tmp_path)
    assert version.commit() == {}  # also where a folder above is a checkout
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    commit = version.commit()
    assert re.fullmatch("[0-9a-f]{40}", commit["commit"]) and commit["changed"] is False
    (tmp_path / "file").touch()
    assert version.commit() == commit  # files that git does not know are no change
    subprocess.run([*git, "add", "file"], check=True)
    assert version.commit() == {**commit, "changed": True}
    monkeypatch.setenv("PATH", "")
    assert version.commit() == {}


def test_an_image_that_cannot_be_read_for_the_moment_is_no_change(root):
    record(root)
    image = root / "2.png"
    content = image.read_bytes()
    image.unlink()
    image.symlink_to(image)  # a loop: the system does not open it
    assert begin(root).data["train_set"]["images"] == {}
    assert check(root) == ()
    record(root)
    image.unlink()
    image.write_bytes(content)
    assert check(root) == ()
