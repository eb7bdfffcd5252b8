import errno
import json
import os
import subprocess
import sys

import pytest
from paths import PROJECT

import common
import runs
from experiment import evaluations, folder, train_log
from experiment.metrics_log import MetricsLog
from runtime import files, json_files

START = "2026-01-02 03:04:05,678 [INFO] train: "
LINE = START + "iter:{:6d}, loss min|avg|max: 0.090|{:.3f}| 1.204, batch-p@3: 92.19%, ETA: 0"
FINISHED = START + "Finished all 600 iterations."
EARLY = START + "Stopped early after iteration 300: top-1 has not risen for 1 validations; ..."
INTERRUPTED = START + "Interrupted after iteration 200. To go on: python train.py ..."


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


def table(roots):
    return runs.table(roots, runs.flags_of(roots))


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
        "experiment,iteration,state,loss,batch-p,best mAP,top-1,file,newest mAP,learning_rate,margin",
        f"{a},200 of 600,stopped,0.451,92.19%,58.1%,77.5%,best.json,25.0%,0.001,soft",
        f"{b},0 of 600,stopped,-,-,10.0%,20.0%,only.json,-,-,0.2",
    ]
    assert shown(capsys, a, b, "--csv").splitlines() == expected
    assert shown(capsys, tmp_path, "--csv").splitlines() == expected

    header, *rows = shown(capsys, tmp_path).splitlines()
    for row, margin in zip(rows, ("soft", "0.2"), strict=True):
        assert row[header.index("margin") :] == margin
        assert " of 600" in row[header.index("iteration") : header.index("state")]
        assert row[header.index("state") :].startswith("stopped  ")


def test_numbers_come_from_metrics_where_they_are(tmp_path):
    root = write(tmp_path / "a", [LINE.format(300, 0.5)])
    with MetricsLog(root) as log:
        log.write(299, {"loss": 0.75, "batch_prec_at_3": 0.5})
        log.write(300, {"loss": 0.625, "batch_prec_at_3": 0.25})
        log.write(300, {"validation/mAP": 0.125})
    row = table([root]).iloc[0]
    assert row[["iteration", "loss", "batch-p"]].tolist() == ["300 of 600", "0.625", "25.00%"]


def test_the_best_and_the_last_validation_are_shown(tmp_path, capsys):
    a = write(tmp_path / "a", [LINE.format(300, 0.5), EARLY], val_metric="top-1")
    b = write(tmp_path / "b", [LINE.format(600, 0.5), FINISHED], val_metric="top-1")
    with MetricsLog(a) as log:
        for iteration, value in ((100, 0.25), (200, 0.5), (300, 0.375)):
            log.write(iteration, {"loss": 0.5, "batch_prec_at_3": 0.9219})
            log.write(iteration, {"validation/mAP": 0.125, "validation/top-1": value})
    assert shown(capsys, a, b, "--csv", "--finished").splitlines() == [
        "experiment,iteration,state,loss,batch-p,best validation,last validation",
        f"{a},300 of 600,finished early,0.500,92.19%,top-1 50.0% at 200,37.5% at 300",
        f"{b},600 of 600,finished,0.500,92.19%,-,-",
    ]


def test_columns_without_anything_are_left_out(tmp_path, capsys):
    root = write(tmp_path / "a", seed=1)
    assert shown(capsys, root, "--csv").splitlines() == [
        "experiment,iteration,state",
        f"{root},0 of 600,stopped",
    ]


def test_cells_that_need_quotes_have_them_in_the_csv(tmp_path, capsys):
    a = write(tmp_path / "a", note='say "x", y')
    b = write(tmp_path / "b", note="NA")
    assert shown(capsys, a, b, "--csv").splitlines()[1:] == [
        f'{a},0 of 600,stopped,"say ""x"", y"',
        f"{b},0 of 600,stopped,NA",
    ]


@pytest.mark.parametrize(
    ("log", "state"),
    [
        ([LINE.format(600, 0.5), FINISHED], "finished"),
        ([LINE.format(200, 0.5), INTERRUPTED], "interrupted"),
        ([LINE.format(200, 0.5), INTERRUPTED, LINE.format(201, 0.5)], "stopped"),
        ([], "stopped"),
    ],
)
def test_the_exit_code_says_whether_all_are_finished(log, state, tmp_path, capsys):
    write(tmp_path / "a", [LINE.format(600, 0.5), FINISHED])
    root = write(tmp_path / "b", log)
    assert table([root])["state"].tolist() == [state]
    if state == "finished":
        shown(capsys, tmp_path, "--finished")
    else:
        with pytest.raises(SystemExit) as error:
            shown(capsys, tmp_path, "--finished")
        assert error.value.code == 1
        shown(capsys, tmp_path / "a", "--finished")
        assert state in shown(capsys, tmp_path)


def test_an_experiment_that_a_training_has_is_running(tmp_path):
    root = write(tmp_path / "a", [LINE.format(200, 0.5)])
    with folder.lock(root):
        assert table([root])["state"].tolist() == ["running"]


def test_other_json_files_and_unfinished_ones_are_no_evaluations(tmp_path):
    root = write(tmp_path / "a", evaluations=[("right.json", 0.5, 0.5)])
    for name, text in {
        "list": "[1]",
        "half": '{"mAP": 0.9,',
        "no_cmc": '{"mAP": 0.9}',
        "empty_cmc": '{"mAP": 1, "CMC": []}',
    }.items():
        (root / f"{name}.json").write_text(text)
    (found,) = evaluations.read(root)
    assert found[:3] == (root / "right.json", 0.5, 0.5)  # path, mAP, top-1
    assert found.kind == ("-", None)


# ------------------------------------------------------------------------- like with like


def made(views=1, data="market", **flags):
    """How evaluate.py says that an evaluation was made."""
    none = {"multi_query": None, "query_expansion": None, "rerank": False, "use_market_ap": False}
    part = {"views": ["original_center", "b", "c"][:views], "checkpoint": "exp/checkpoint-5"}
    return {
        "date": "2026-01-02",
        "flags": {"excluder": "market1501", "rerank_k1": 20} | none | flags,
        "query": part | {"dataset": f"/data/{data}/query.csv"},
        "gallery": part | {"dataset": f"/data/{data}/gallery.csv", "views": None},
    }


def add(root, name, mean_ap, made):
    """An evaluation that is newer than all others of the experiment."""
    age = 2000 + len(list(root.glob("*.json")))
    (root / name).write_text(json.dumps({"mAP": mean_ap, "CMC": [mean_ap], "made": made}))
    os.utime(root / name, (age, age))


def cells(tmp_path):
    """The columns on evaluations, of each experiment."""
    found = table(runs.experiments(tmp_path))
    return found.drop(columns=["experiment", "iteration", "state"]).to_dict("records")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "plain"),
        ({"views": 3}, "3 views"),
        ({"rerank": True, "views": 2}, "2 views, rerank"),
        ({"multi_query": "mean", "query_expansion": 5}, "multi_query mean, query_expansion 5"),
        ({"pool_tracklets": "max", "rerank": True}, "pool_tracklets max, rerank"),
        ({"use_market_ap": True}, "use_market_ap"),
    ],
)
def test_the_kind_of_an_evaluation(values, words):
    kind = evaluations.kind_of({"made": made(**values)})
    assert kind.words == words
    assert kind.data == "market/query.csv in market/gallery.csv, market1501"


@pytest.mark.parametrize("value", [None, 5, [], {}, {"flags": None}, {"flags": {}}, "x"])
def test_old_and_strange_files_do_not_tell_their_kind(value):
    assert evaluations.kind_of({"made": value}).words == "-"
    assert evaluations.kind_of({}).words == "-"


def test_a_file_that_tells_a_part_of_it():
    part = {"flags": {"rerank": True}, "query": {"views": 5, "dataset": None}, "gallery": []}
    assert evaluations.kind_of({"made": part}).words == "rerank"


def test_a_re_ranked_result_is_not_the_best_beside_a_plain_one(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    add(a, "ten.json", 0.7, made(views=3, rerank=True))
    add(a, "plain.json", 0.5, made())
    add(a, "later.json", 0.4, made())
    add(a, "rerank.json", 0.6, made(rerank=True))
    add(b, "plain.json", 0.55, made())
    plain = {"kind": "plain", "newest mAP": "-"}
    row_of_a = plain | {"best mAP": "50.0%", "top-1": "50.0%", "file": "plain.json"}
    row_of_b = plain | {"best mAP": "55.0%", "top-1": "55.0%", "file": "plain.json"}
    assert cells(tmp_path) == [row_of_a | {"newest mAP": "40.0%"}, row_of_b]

    # What all have counts, if it is not plain, too.
    (b / "plain.json").unlink()
    add(b, "rerank.json", 0.65, made(rerank=True))
    assert [(row["best mAP"], row["kind"]) for row in cells(tmp_path)] == [
        ("60.0%", "rerank"),
        ("65.0%", "rerank"),
    ]

    # Where nothing is common, the kinds are shown.
    (b / "rerank.json").unlink()
    add(b, "wide.json", 0.65, made(query_expansion=2))
    write(tmp_path / "c")
    assert [(row["best mAP"], row["kind"]) for row in cells(tmp_path)] == [
        ("50.0%", "plain"),
        ("65.0%", "query_expansion 2"),
        ("-", "-"),
    ]


def test_files_that_do_not_tell_count_where_no_plain_one_is(tmp_path):
    a = write(tmp_path / "a", evaluations=[("old.json", 0.9, 0.9), ("older.json", 0.3, 0.3)])
    assert [(row["best mAP"], row["file"]) for row in cells(tmp_path)] == [("90.0%", "old.json")]
    assert "kind" not in cells(tmp_path)[0] and "data" not in cells(tmp_path)[0]
    add(a, "rerank.json", 0.95, made(rerank=True))
    assert cells(tmp_path)[0]["file"] == "old.json"
    add(a, "plain.json", 0.5, made())
    assert cells(tmp_path)[0]["file"] == "plain.json"


def test_other_data_are_another_kind_and_shown(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    for root, data, mean_ap in ((a, "duke", 0.9), (a, "market", 0.5), (b, "market", 0.4)):
        add(root, f"{data}.json", mean_ap, made(data=data))
    found = cells(tmp_path)
    assert [row["best mAP"] for row in found] == ["50.0%", "40.0%"]
    data = "market/query.csv in market/gallery.csv, market1501"
    assert {row["data"] for row in found} == {data}


def test_the_last_line_counts_where_a_log_goes_on_after_another(tmp_path):
    cut = "a line that was cut: iter:     6, loss min|avg|"
    root = write(tmp_path / "a", [LINE.format(5, 0.5), cut])
    row = table([root]).iloc[0]
    assert (row["iteration"], row["loss"], row["batch-p"]) == ("5 of 600", "0.500", "92.19%")
    (root / "train.log").unlink()
    assert list(table([root]).iloc[0]) == [str(root), "0 of 600", "stopped"]


def test_a_folder_without_experiments_is_refused(tmp_path):
    with pytest.raises(common.UserError, match="is no experiment and holds none"):
        runs.experiments(tmp_path)


def test_tensorflow_is_not_imported_and_pandas_only_for_a_table(tmp_path):
    write(tmp_path / "a")
    code = """
import sys, runs
args = runs.parse_args([sys.argv[1]])
assert "pandas" not in sys.modules
runs.main(args)
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "0 of 600" in done.stdout


def test_one_odd_file_does_not_end_the_table(tmp_path, capfd):
    good = write(tmp_path / "good", [LINE.format(5, 0.5)], [("r.json", 0.5, 0.5)], seed=1)
    bad = write(tmp_path / "bad")
    (bad / "args.json").write_text("{")
    (bad / "train.log").unlink()
    (bad / "train.log").mkdir()
    odd = {
        "nan.json": '{"mAP": NaN, "CMC": [1]}',
        "deep.json": "[" * 10**5,
        "digits.json": '{"mAP": %s, "CMC": [1]}' % ("1" * 5000),
        "half.json": '{"mAP": 0.1, "CMC": [1], "made": {"\\ud800": 1}}',
        "bytes.json": "",
    }
    for name, text in odd.items():
        (good / name).write_text(text)
    (good / "bytes.json").write_bytes(b"\xff\xfe{")
    (good / "folder.json").mkdir()
    (good / "gone.json").symlink_to("nowhere")
    runs.main(runs.parse_args([str(tmp_path), "--csv"]))
    out, err = capfd.readouterr()
    assert out.splitlines()[1:] == [
        f"{bad},0 of ?,stopped,-,-,-,-,-,-,-",
        f"{good},5 of 600,stopped,0.500,92.19%,50.0%,50.0%,r.json,1,600",
    ]
    first, *others = err.splitlines()
    assert f"{bad}/args.json cannot be read as JSON" in first
    assert len(others) == len(odd) and all(".json is left out: " in line for line in others)


def test_what_a_terminal_would_obey_is_not_printed(tmp_path, capsys):
    a = write(tmp_path / "a", note="\033[2J\x07evil")
    b = write(tmp_path / "b", note="\u202efdp.exe")
    out = shown(capsys, a, b)
    assert (
        r"\x1b[2J\x07evil" in out
        and r"\u202efdp.exe" in out
        and out.replace("\n", "").isprintable()
    )


def test_a_changed_evaluation_is_told(tmp_path, capfd):
    root = write(tmp_path / "a")
    files.write_json(root / "r.json", json_files.with_digest({"mAP": 0.25, "CMC": [0.5]}))
    assert table([root])["best mAP"].tolist() == ["25.0%"]
    assert not capfd.readouterr().err
    (root / "r.json").write_text((root / "r.json").read_text().replace("0.25", "0.95"))
    runs.main(runs.parse_args([str(root)]))
    out, err = capfd.readouterr()
    assert "95.0%" in out
    assert "r.json was changed after evaluate.py wrote it" in err


def test_one_experiment_that_cannot_be_read_does_not_end_the_table(tmp_path, capsys, monkeypatch):
    write(tmp_path / "a", [LINE.format(200, 0.5)])
    b = write(tmp_path / "b")
    (b / "odd.json").mkdir()
    last = train_log.last

    def read(root):
        if root == b:
            raise PermissionError(errno.EACCES, "Permission denied", str(root / "train.log"))
        return last(root)

    monkeypatch.setattr(train_log, "last", read)
    lines = shown(capsys, tmp_path, "--csv").splitlines()
    assert lines[1] == f"{tmp_path / 'a'},200 of 600,stopped,0.500,92.19%"
    assert lines[2] == f"{b},0 of 600,-,-,-"
