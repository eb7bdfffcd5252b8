import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiment.rewind import rewind


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
    (tmp_path / "checkpoint.partial").mkdir()
    for name in (
        "checkpoint.partial/checkpoint-3.index",
        "args.json.partial",
        "events.out.partial.1",
        "a.h5.partial",
    ):
        (tmp_path / name).touch()
    (tmp_path / "checkpoint-5.data-00000-of-00001").touch()  # its index comes last and goes first
    rewind(tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == [
        "a.h5.partial"
    ]  # of an embed.py that runs at the same time
