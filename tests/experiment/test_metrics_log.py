import json

import numpy as np

from experiment import metrics_log
from experiment.metrics_log import MetricsLog
from experiment.rewind import rewind


def write(root, *lines):
    with MetricsLog(root) as log:
        for iteration, values in lines:
            log.write(iteration, values)


def test_what_is_written_is_read_and_a_later_run_appends(tmp_path):
    write(tmp_path, (1, {"loss": np.float32(0.5), "active_count": np.int32(3)}))
    write(tmp_path, (2, {"loss": np.nan}), (2, {"validation/mAP": 1 / 3}))
    expected = [
        {"iteration": 1, "loss": 0.5, "active_count": 3.0},
        {"iteration": 2, "loss": None},
        {"iteration": 2, "validation/mAP": 1 / 3},
    ]
    assert list(metrics_log.read(tmp_path)) == expected
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == expected
    assert lines[0] == '{"iteration": 1, "loss": 0.5, "active_count": 3.0}'


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, {"loss": 0.5})
        assert [line["iteration"] for line in metrics_log.read(tmp_path)] == [1]


def test_no_file_and_a_process_that_does_not_write(tmp_path):
    assert list(metrics_log.read(tmp_path)) == []
    with MetricsLog(tmp_path, active=False) as log:
        log.write(1, {"loss": 0.5})
    assert not list(tmp_path.iterdir())


def test_what_is_no_line_of_the_file_is_passed_over(tmp_path):
    texts = [b"[1]", b'{"loss": 1}', b'{"iteration": "1"}', b"\xff", b'{"iteration": 3, "lo']
    good = b'{"iteration": 2, "loss": 0.5}'
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*texts, good, b""]))
    assert list(metrics_log.read(tmp_path)) == [{"iteration": 2, "loss": 0.5}]
    assert [metrics_log.iteration_of(text) for text in texts] == [None] * len(texts)


def test_resuming_takes_back_later_lines_and_one_that_was_cut(tmp_path):
    write(tmp_path, *((iteration, {"loss": 0.5}) for iteration in (1, 2, 10, 11)))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    rewind(tmp_path, 10)
    kept = path.read_bytes()
    assert whole.startswith(kept) and kept.count(b"\n") == 3
    rewind(tmp_path, 2)
    assert [line["iteration"] for line in metrics_log.read(tmp_path)] == [1, 2]
    assert list(tmp_path.iterdir()) == [path]
