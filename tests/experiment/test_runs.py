import json
import os
import subprocess
import sys

import pytest
from paths import PROJECT

import common
import runs

LINE = "2026-01-02 03:04:05,678 [INFO] train: iter:{:6d}, loss min|avg|max: 0.090|{:.3f}| 1.204, batch-p@3: 92.19%, ETA: 0"


def write(root, log=(), evaluations=(), **flags):
    """An experiment as train.py and evaluate.py leave it; evaluations are (file name, mAP, top-1),
    oldest first.
    """
    root.mkdir()
    (root / "args.json").write_text(
        json.dumps({"experiment_root": str(root), "train_iterations": 600} | flags)
    )
    (root / "train.log").write_text("".join(f"{line}\n" for line in log))
    for age, (name, mean_ap, top_1) in enumerate(evaluations):
        (root / name).write_text(json.dumps({"mAP": mean_ap, "CMC": [top_1, 1.0], "aps": []}))
        os.utime(root / name, (1000 + age, 1000 + age))
    return root


def shown(capsys, *argv):
    runs.main(runs.parse_args([str(text) for text in argv]))
    return capsys.readouterr().out


def test_the_table_shows_progress_evaluations_and_the_flags_that_differ(tmp_path, capsys):
    log = [
        LINE.format(199, 0.7),
        LINE.format(200, 0.451),
        "2026 [INFO] train: Saved exp/checkpoint-200.",
    ]
    found = [("old.json", 0.5, 0.75), ("best.json", 0.581, 0.775), ("new.json", 0.25, 0.5)]
    a = write(tmp_path / "a", log, found, margin="soft", learning_rate=1e-3, metric="euclidean")
    b = write(tmp_path / "b", [], [("only.json", 0.1, 0.2)], margin=0.2, metric="euclidean")
    expected = [
        "experiment,iteration,loss,batch-p,best mAP,top-1,file,newest mAP,learning_rate,margin",
        f"{a},200 of 600,0.451,92.19%,58.1%,77.5%,best.json,25.0%,0.001,soft",
        f"{b},0 of 600,-,-,10.0%,20.0%,only.json,-,-,0.2",
    ]
    assert shown(capsys, a, b, "--csv").splitlines() == expected
    assert shown(capsys, tmp_path, "--csv").splitlines() == expected

    header, *rows = shown(capsys, tmp_path).splitlines()
    for row, margin in zip(rows, ("soft", "0.2"), strict=True):
        assert row[header.index("margin") :] == margin
        assert " of 600" in row[header.index("iteration") :][: len("iteration ") + 2]


def test_columns_without_anything_are_left_out(tmp_path, capsys):
    root = write(tmp_path / "a", seed=1)
    assert shown(capsys, root, "--csv").splitlines() == ["experiment,iteration", f"{root},0 of 600"]


def test_other_json_files_and_unfinished_ones_are_no_evaluations(tmp_path):
    root = write(tmp_path / "a", evaluations=[("right.json", 0.5, 0.5)])
    for name, text in {
        "list": "[1]",
        "half": '{"mAP": 0.9,',
        "no_cmc": '{"mAP": 0.9}',
        "empty_cmc": '{"mAP": 1, "CMC": []}',
    }.items():
        (root / f"{name}.json").write_text(text)
    assert list(runs.evaluations(root)) == [(root / "right.json", 0.5, 0.5)]


def test_the_last_line_counts_where_a_log_goes_on_after_another(tmp_path):
    root = write(
        tmp_path / "a", [LINE.format(5, 0.5), "a line that was cut: iter:     6, loss min|avg|"]
    )
    assert runs.progress(root) == (5, "0.500", "92.19%")
    (root / "train.log").unlink()
    assert runs.progress(root) == (0, "-", "-")


def test_a_folder_without_experiments_is_refused(tmp_path):
    with pytest.raises(common.UserError, match="is no experiment and holds none"):
        runs.experiments(tmp_path)


def test_tensorflow_is_not_imported(tmp_path):
    write(tmp_path / "a")
    code = "import sys, runs; runs.main(runs.parse_args([sys.argv[1]])); sys.exit('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "0 of 600" in done.stdout
