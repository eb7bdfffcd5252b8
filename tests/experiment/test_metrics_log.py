import json
import zlib

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
    for line, values in zip(lines, expected, strict=True):
        start = line.rpartition(", ")[0]
        assert json.loads(line) == values | {"crc32": f"{zlib.crc32(start.encode()):08x}"}
    assert lines[0].startswith('{"iteration": 1, "loss": 0.5, "active_count": 3.0, "crc32": "')


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, {"loss": 0.5})
        assert [line["iteration"] for line in metrics_log.read(tmp_path)] == [1]


def test_no_file_and_a_process_that_does_not_write(tmp_path):
    assert list(metrics_log.read(tmp_path)) == []
    with MetricsLog(tmp_path, active=False) as log:
        log.write(1, {"loss": 0.5})
    assert not list(tmp_path.iterdir())


def test_what_is_no_line_of_the_file_is_passed_over(tmp_path, caplog):
    texts = [b"[1]", b'{"loss": 1}', b'{"iteration": "1"}', b"\xff", b'{"iteration": 3, "loss": 1}']
    good = metrics_log.line(2, {"loss": 0.5}).encode()
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*texts, good]) + good[:20])
    assert list(metrics_log.read(tmp_path)) == [{"iteration": 2, "loss": 0.5}]
    assert f"5 lines of {tmp_path / 'metrics.jsonl'} are damaged" in caplog.text
    assert [metrics_log.iteration_of(text) for text in texts] == [None] * len(texts)


def test_a_line_that_was_cut_is_no_damage(tmp_path, caplog):
    whole = metrics_log.line(1, {"loss": 0.5}).encode()
    (tmp_path / "metrics.jsonl").write_bytes(whole + whole[:-1])
    assert len(list(metrics_log.read(tmp_path))) == 2
    (tmp_path / "metrics.jsonl").write_bytes(whole + whole[:-2])
    assert len(list(metrics_log.read(tmp_path))) == 1
    assert not caplog.text


def test_every_other_bit_of_a_line_is_seen(tmp_path, caplog):
    line = metrics_log.line(120, {"validation/mAP": 0.4125})
    for place in range(8 * (len(line) - 1)):
        text = bytearray(line.encode())
        text[place // 8] ^= 1 << place % 8
        (tmp_path / "metrics.jsonl").write_bytes(text)
        caplog.clear()
        found = list(metrics_log.read(tmp_path))
        assert found == [{"iteration": 120, "validation/mAP": 0.4125}] or "damaged" in caplog.text


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
