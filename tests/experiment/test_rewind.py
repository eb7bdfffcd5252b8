import random

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiment import metrics_log
from experiment.rewind import rewind
from runtime import files, terminal


def write_events(root, steps):
    writer = tf.summary.create_file_writer(str(root))
    with writer.as_default():
        for step in steps:
            tf.summary.scalar("loss", step / 10, step=step)
            tf.summary.histogram("dists", [step, step + 1.0], step=step)
    writer.close()


def steps(root, tag):
    events = EventAccumulator(str(root), size_guidance={"tensors": 0}).Reload()
    return [(event.step, event.tensor_proto.SerializeToString()) for event in events.Tensors(tag)]


def contents(root):
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_later_events_go_and_earlier_ones_stay_as_they_are(tmp_path):
    write_events(tmp_path, range(1, 8))
    before = {tag: steps(tmp_path, tag) for tag in ("loss", "dists")}
    rewind(tmp_path, 4)
    for tag in before:
        assert steps(tmp_path, tag) == before[tag][:4]
    assert len(list(tmp_path.iterdir())) == 1
    write_events(tmp_path, range(5, 8))
    assert steps(tmp_path, "loss") == before["loss"]


def test_an_event_that_was_cut_off_goes(tmp_path):
    write_events(tmp_path, range(1, 4))
    before = steps(tmp_path, "loss")
    file = next(tmp_path.iterdir())
    for cut in (3, 11, 40):
        file.write_bytes(file.read_bytes()[:-cut])
        rewind(tmp_path, 100)
        assert steps(tmp_path, "loss") == before[: len(steps(tmp_path, "loss"))]
        assert len(steps(tmp_path, "loss")) >= 2
    after = contents(tmp_path)
    rewind(tmp_path, 100)
    assert contents(tmp_path) == after


def test_later_lines_of_the_log_go(tmp_path):
    def line(iteration):
        return f"2026-01-01 00:00:00,000 [INFO] train: iter:{iteration:6d}, loss min|avg|max: 1\n"

    start = "2026-01-01 00:00:00,000 [INFO] train: Starting\n"
    log = tmp_path / "train.log"
    log.write_text(start + line(1) + line(2) + line(123456) + "warning\n" + line(3)[:-9])
    rewind(tmp_path, 2)
    assert log.read_text() == start + line(1) + line(2) + "warning\n"
    assert list(tmp_path.iterdir()) == [log]


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("iteration", [0, 4])
def test_a_validation_that_a_kill_came_into_goes(tmp_path, iteration, made):
    """It is made once its line is in metrics.jsonl."""
    start = "2026-01-01 00:00:00,000 [INFO] train: "
    line = f"{start}validation:{iteration:6d}, mAP: 50.00%\n"
    earlier = f"{start}iter:{iteration:6d}, loss min|avg|max: 1\n"
    (tmp_path / "train.log").write_text(earlier + line)
    with metrics_log.MetricsLog(tmp_path) as metrics:
        metrics.write(iteration, {"loss": 1.0})
        if made:
            metrics.write(iteration, {"validation/mAP": 0.5})
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default():
        tf.summary.scalar("loss", 1.0, step=iteration)
        tf.summary.scalar("validation/mAP", 0.5, step=iteration)
    writer.close()
    rewind(tmp_path, iteration)
    assert (tmp_path / "train.log").read_text() == (earlier + line if made else earlier)
    assert [step for step, _ in steps(tmp_path, "loss")] == [iteration]
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()["tensors"]
    assert tags == (["loss", "validation/mAP"] if made else ["loss"])


def test_nothing_later_changes_nothing(tmp_path):
    write_events(tmp_path, [1, 2])
    (tmp_path / "train.log").write_text("one line\n")
    before, times = (
        contents(tmp_path),
        {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()},
    )
    rewind(tmp_path, 2)
    assert contents(tmp_path) == before
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_what_a_kill_left_half_done_goes(tmp_path):
    (tmp_path / "checkpoints.0123456789ab.partial").mkdir()
    (tmp_path / "checkpoints.partial").mkdir()  # of an earlier version
    for name in (
        "checkpoints.0123456789ab.partial/checkpoint-3.index",
        "checkpoints.partial/checkpoint-3.index",
        "args.json.0123456789ab.partial",
        ".args.json.partial.lock",
        "args.json.partial",
        "events.out.partial.1",
        "killed.h5.0123456789ab.partial",
        "mine.partial",
    ):
        (tmp_path / name).touch()
    (tmp_path / "checkpoint-5.data-00000-of-00001").touch()  # its index comes last and goes first
    with files.complete_file(tmp_path / "embedding.h5") as partial:  # at the same time
        rewind(tmp_path, 3)
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {partial.name, ".embedding.h5.partial.lock", "mine.partial"}


# ------------------------------------------------------------------------- damaged events


def records(path):
    """(position, size) of each record of an events file."""
    content = path.read_bytes()
    found = []
    position = 0
    while position < len(content):
        size = 16 + int.from_bytes(content[position : position + 8], "little")
        found.append((position, size))
        position += size
    return found


def events_file(root, count=5):
    write_events(root, range(1, count + 1))
    (path,) = root.glob("events.out.tfevents.[0-9]*")
    return path


def warnings(capfd):
    """Ours: TensorFlow writes to stderr, too."""
    return [line for line in capfd.readouterr().err.splitlines() if "[WARNING] train: " in line]


@pytest.mark.parametrize("place, lost", [("data", 1), ("crc of data", 1), ("length", 3)])
def test_a_damaged_record_is_left_out_and_the_file_is_kept(tmp_path, capfd, place, lost):
    terminal.setup_logging("train")
    file = events_file(tmp_path)
    before = steps(tmp_path, "dists")
    position, size = records(file)[6]  # of the histogram of step 3: file_version, then two a step
    offset = {"data": 20, "crc of data": size - 1, "length": 1}[place]
    content = bytearray(file.read_bytes())
    content[position + offset] ^= 4
    file.write_bytes(content)
    rewind(tmp_path, 4)
    (line,) = warnings(capfd)
    broken = tmp_path / f"broken-{file.name.replace('tfevents', 'events')}"
    assert f"{file} is damaged." in line and f"is {broken} now" in line
    assert broken.read_bytes() == content
    left = steps(tmp_path, "dists")
    assert left == [event for event in before[:4] if event[0] < 3 or (event[0] == 4 and lost == 1)]
    after = contents(tmp_path)
    rewind(tmp_path, 4)
    assert contents(tmp_path) == after and not warnings(capfd)
    file.write_bytes(content)
    rewind(tmp_path, 4)
    assert (tmp_path / broken.name.replace("broken-", "broken-2-")).read_bytes() == content


def test_what_is_no_events_file_stays_as_it_is(tmp_path, capfd):
    terminal.setup_logging("train")
    (tmp_path / "events.out.tfevents.folder").mkdir()
    (tmp_path / "events.out.tfevents.empty").touch()
    (tmp_path / "events.out.tfevents.text").write_text("my notes\n" * 50)
    with tf.io.TFRecordWriter(str(tmp_path / "events.out.tfevents.records")) as writer:
        writer.write(b"no event")
    file = events_file(tmp_path)
    content = bytearray(file.read_bytes())
    content[2] ^= 1  # the length of the first record: nothing can be read
    file.write_bytes(content)

    def files():
        return {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    before = files()
    rewind(tmp_path, 0)
    assert files() == before and (tmp_path / "events.out.tfevents.folder").is_dir()
    lines = warnings(capfd)
    assert len(lines) == 3 and all("cannot be read as TensorBoard's events" in x for x in lines)


def test_of_every_flipped_byte_something_is_told_or_nothing_was_changed(tmp_path, capfd):
    """Of 16 records at most one is lost, or those after a damaged length; the file is kept."""
    terminal.setup_logging("train")
    file = events_file(tmp_path, count=3)
    whole = file.read_bytes()
    good = {step for step, _ in steps(tmp_path, "loss")}
    rng = random.Random(0)
    for place in sorted(rng.sample(range(len(whole)), 60)):
        content = bytearray(whole)
        content[place] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        rewind(tmp_path, 100)
        told = warnings(capfd)
        kept = [path for path in tmp_path.iterdir() if path.read_bytes() == content]
        assert told and len(kept) == 1
        if file not in kept:
            assert {step for step, _ in steps(tmp_path, "loss")} <= good
            kept[0].unlink()


def test_curves_stay_in_order_when_the_clock_was_set_back(tmp_path):
    for later, some_steps in ((7200, range(1, 4)), (9000, range(4, 6))):
        write_events(tmp_path, some_steps)
        path = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        *beginning, told, rest = path.name.split(".", 4)
        path.rename(path.with_name(".".join((*beginning, str(int(told) + later), rest))))
    rewind(tmp_path, 5)
    before = contents(tmp_path)
    rewind(tmp_path, 5)
    assert contents(tmp_path) == before
    write_events(tmp_path, range(6, 8))
    assert [step for step, _ in steps(tmp_path, "loss")] == [1, 2, 3, 4, 5, 6, 7]
