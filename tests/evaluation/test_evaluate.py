import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from image_kinds import oriented
from paths import PROJECT
from PIL import Image

import common
import evaluate
from evaluation import Options, embeddings_file
from evaluation.embeddings_file import Origin
from runtime import files
from runtime.version import version


def run(flags):
    evaluate.main(evaluate.parse_args(argv(flags)))


def argv(flags):
    """`--name value` for each of a dict; None leaves a flag out, "" is a flag without a value."""
    return [
        text
        for name, value in flags.items()
        if value is not None
        for text in (f"--{name}", *str(value).split(" "))
        if text
    ]


def write_set(folder, part, rows, embs):
    (folder / f"{part}.csv").write_text("".join(f"{pid},{fid}\n" for pid, fid in rows))
    fids = [fid for _, fid in rows]
    with embeddings_file.create(folder / f"{part}.h5", *np.shape(embs), fids=fids) as file:
        file.add(embs)


QUERY = [
    ("0001", "q/0001_c1s1_000001_00.jpg"),
    ("0002", "q/0002_c1s1_000001_00.jpg"),
    ("0003", "0003_c1s1_0_0.jpg"),
]
GALLERY = [
    ("0001", "g/0001_c2s1_000001_00.jpg"),
    ("0002", "g/0002_c2s1_000001_00.jpg"),
    ("0001", "g/0001_c1s1_000002_00.jpg"),
    ("0002", "g/0002_c3s1_000001_00.jpg"),
    ("0003", "g/0003_c2s1_000001_00.jpg"),
    ("-1", "g/-1_c2s1_000001_00.jpg"),
]


@pytest.fixture
def small(tmp_path):
    """Flags for a small pair of sets, with file names that a test may change, and a result from
    before.
    """
    write_set(tmp_path, "query", QUERY, np.float32([[0, 0], [10, 0], [20, 0]]))
    write_set(
        tmp_path,
        "gallery",
        GALLERY,
        np.float32([[1, 0], [9, 0], [0, 0], [-30, 0], [35, 0], [0, 0]]),
    )
    (tmp_path / "results.json").write_text('{"mAP": 0.5}')
    return {
        "excluder": "market1501",
        "query_dataset": tmp_path / "query.csv",
        "query_embeddings": tmp_path / "query.h5",
        "gallery_dataset": tmp_path / "gallery.csv",
        "gallery_embeddings": tmp_path / "gallery.h5",
        "metric": "euclidean",
        "filename": tmp_path / "results.json",
    }


# ------------------------------------------------------------------------- figures


def results(flags):
    return json.loads(flags["filename"].read_text())


def figures_of(flags):
    """The results without how they were made."""
    how = ("made", "digest")
    return {name: value for name, value in results(flags).items() if name not in how}


def test_the_summary_and_the_file(small, capsys):
    # Ranks of the matches: 1 (the same camera and junk are closer, and ignored); 1 and 5; 2.
    run(small)
    out, err = capsys.readouterr()
    assert out == (
        "mAP: 73.33% | top-1: 66.67% top-2: 100.00% | top-5: 100.00% | top-10: 100.00% | "
        "mINP: 63.33%\n"
    )
    assert err == ""
    got = results(small)
    figures = {
        "mAP",
        "mINP",
        "MAP_at_R",
        "R_precision",
        "CMC",
        "aps",
        "inps",
        "precision_at_recall",
    }
    assert got.keys() == figures | {"made", "digest"}
    assert got["aps"] == pytest.approx([1, 0.7, 0.5])
    assert got["mAP"] == pytest.approx(2.2 / 3)
    assert got["inps"] == pytest.approx([1, 2 / 5, 1 / 2])
    assert got["mINP"] == pytest.approx((1 + 2 / 5 + 1 / 2) / 3)
    assert got["CMC"] == pytest.approx([2 / 3, 1, 1, 1, 1, 1])
    assert got["MAP_at_R"] == got["R_precision"] == pytest.approx(0.5)
    tenths = [*(f"0.{tenth}" for tenth in range(1, 10)), "1.0"]
    assert list(got["precision_at_recall"]) == tenths
    names = sorted(path.name for path in small["filename"].parent.iterdir())
    assert names == ["gallery.csv", "gallery.h5", "query.csv", "query.h5", "results.json"]


def test_the_figures_that_are_asked_for_are_printed(small, capsys):
    run(small | {"figures": "MAP@R R-precision Recall@1 top-2"})
    assert capsys.readouterr().out == (
        "MAP@R: 50.00% | R-precision: 50.00% | Recall@1: 66.67% | top-2: 100.00%\n"
    )


def test_what_more_is_asked_for_is_in_the_file(small):
    run(small | {"roc": "", "multi_query": "mean"})
    got = results(small)
    assert list(got["TPR_at_FPR"]) == ["0.0001", "0.001", "0.01", "0.1"]
    assert list(got["distance_at_FPR"]) == list(got["TPR_at_FPR"])
    assert {"EER", "EER_distance"} <= got.keys()
    assert got["queries"] == [fid for _, fid in QUERY]


def test_the_distance_of_a_figure_is_printed_with_it(small, capsys):
    # Wrong pairs are at 9, 9, 10, 11, 19, 20, 25, 30, 35 and 50, true ones at 1, 1, 15 and 40. Above
    # 15 the share of true pairs that are rejected falls from 1/2 to 1/4, past the 4/10 of the others.
    run(small | {"figures": "EER TPR@0.1 mAP", "filename": None})
    assert capsys.readouterr().out == (
        "EER: 40.00% at distance 15 | TPR@0.1: 50.00% at distance 8.999 | mAP: 73.33%\n"
    )


def test_an_open_set_is_told(small, tmp_path, capsys):
    rows = [*QUERY, ("0009", "0009_c1s1_000001_00.jpg"), ("0008", "0008_c1s1_000001_00.jpg")]
    embs = np.float32([[0, 0], [10, 0], [20, 0], [9.5, 0], [99, 0]])
    write_set(tmp_path, "query", rows, embs)
    run(small | {"open_set": ""})
    out, err = capsys.readouterr()
    assert err == ""  # the unknown ones are not left out, they are what it is about
    line, title, head, *points = out.splitlines()
    assert line.startswith("mAP: 73.33%")
    assert title == "Open set: 2 queries have a pid that the gallery lacks, 3 have a true match."
    assert head.split()[-4:] == ["unknown", "accepted", "known", "found"]
    names = [point[:24].strip() for point in points]
    assert names[3:] == ["FPR 0.1", "equal errors", "1% of the unknown", "10% of the unknown"]
    assert points[5].split()[-5:] == ["0.5", "0.00%", "0.00%", "0.00%", "0.00%"]
    got = results(small)["open_set"]
    assert (got["unknown"], got["known"]) == (2, 3)
    assert got["distance_at_accepted"] == pytest.approx({"0.01": 0.5, "0.1": 0.5})


def test_groups_are_told(small, capsys):
    run(small | {"groups": r"(c\d)s\d_"})
    _, title, head, *lines = capsys.readouterr().out.splitlines()
    assert title == "By group, of 1: the mean of their mAP is 73.33%."
    assert head.split() == ["group", "queries", "mAP", "mINP", "MAP@R", "R-precision", "top-1"]
    assert [line.split() for line in lines] == [
        ["c1", "3", "73.33%", "63.33%", "50.00%", "50.00%", "66.67%"]
    ]
    got = results(small)
    assert got["mAP_of_groups"] == got["groups"]["c1"]["mAP"] == got["mAP"]
    # Among the images of camera 2 all but the third query find their match first.
    assert got["group_pairs"]["c1"]["c2"]["queries"] == 3
    assert got["group_pairs"]["c1"]["c2"]["mAP"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert got["group_pairs"]["c1"]["c3"] == dict.fromkeys(got["groups"]["c1"], 1)


def test_of_many_groups_the_lowest_are_told(small, tmp_path, capsys):
    rows = [("1", f"1_c{group}s1_0_0.jpg") for group in range(1, 31)]
    write_set(tmp_path, "query", rows, np.arange(1.0, 31.0, dtype="f4")[:, None])
    gallery = [("1", "1_c99s1_0_0.jpg")] + [("2", f"2_c1s1_{i}_0.jpg") for i in range(30)]
    embs = np.arange(0, 31.0, dtype="f4")[:, None]
    write_set(tmp_path, "gallery", gallery, embs)
    run(small | {"groups": "market1501"})
    _, title, _, *lines = capsys.readouterr().out.splitlines()
    assert title.endswith("The 20 with the lowest mAP:") and len(lines) == 20
    assert {line.split()[0] for line in lines}.isdisjoint({"1", "2", "3"})
    assert list(results(small)["groups"]) == sorted(map(str, range(1, 31)))


def test_every_flag_of_the_computation_arrives(small):
    changed = {
        "multi_query": "max",
        "query_expansion": 4,
        "query_expansion_alpha": 1.5,
        "rerank_k1": 9,
        "rerank_k2": 3,
        "rerank_lambda": 0.1,
        "batch_size": 7,
        "groups": "camera",
    }
    wanted = Options(
        metric="euclidean",
        excluder="market1501",
        rerank=True,
        use_market_ap=True,
        fprs=(1e-4, 1e-3, 1e-2, 1e-1),
        open_set=True,
        **changed,
    )
    flags = small | changed | {"rerank": "", "use_market_ap": "", "roc": "", "open_set": ""}
    assert evaluate.options_of(evaluate.parse_args(argv(flags))) == wanted
    assert evaluate.options_of(evaluate.parse_args(argv(small))) == Options(
        "euclidean", "market1501"
    )
    default = evaluate.parse_args(argv(small | {"query_expansion": ""}))
    assert default.query_expansion == 5


def test_a_row_for_each_query_can_be_saved(small, tmp_path):
    path = tmp_path / "queries.csv"
    path.write_text("")
    run(small | {"per_query": path, "filename": None})
    text = path.read_text()
    assert text.splitlines()[0] == "pid,fid,AP,INP,matches,first_rank,last_rank"
    table = pd.read_csv(path, dtype={"pid": str})
    assert table["pid"].tolist() == ["0001", "0002", "0003"]
    assert table["fid"].tolist() == [fid for _, fid in QUERY]
    assert table["AP"].tolist() == pytest.approx([1, 0.7, 0.5])
    assert table["first_rank"].tolist() == [1, 1, 2]
    run(small | {"per_query": path})  # what it wrote it may replace
    assert path.read_text() == text


def test_without_a_filename_nothing_is_written(small, capsys):
    run(small | {"filename": None})
    assert capsys.readouterr().out.startswith("mAP: 73.33%")
    assert small["filename"].read_text() == '{"mAP": 0.5}'


@pytest.mark.parametrize("size", [1, 3, 11])
def test_galleries_smaller_than_the_summary(size, small, tmp_path, capsys):
    rows = [(pid, f"{pid}_c2s1_{i}_0.jpg") for i, pid in enumerate(["x"] * (size - 1) + ["0001"])]
    write_set(tmp_path, "gallery", rows, np.zeros((size, 2), np.float32))
    run(small)
    top = [f"{100 if size <= k else 0:.2f}%" for k in (1, 2, 5, 10)]
    assert capsys.readouterr().out == (
        f"mAP: {100 / size:.2f}% | top-1: {top[0]} top-2: {top[1]} | top-5: {top[2]} | top-10: {top[3]} | "
        f"mINP: {100 / size:.2f}%\n"
    )
    assert results(small)["CMC"] == [0] * (size - 1) + [1]


def test_queries_without_a_match_are_left_out_and_named(small, tmp_path, capsys):
    # The first has its match in the same camera only, the third none at all.
    rows = [("0001", "g/0001_c1s1_0_0.jpg"), *GALLERY[1:4], ("7", "g/7_c1s1_0_0.jpg"), GALLERY[5]]
    rows[2] = ("0001", "g/0001_c1s2_0_0.jpg")
    write_set(
        tmp_path, "gallery", rows, np.float32([[1, 0], [9, 0], [0, 0], [-30, 0], [35, 0], [0, 0]])
    )
    run(small)
    out, err = capsys.readouterr()
    assert out.startswith("mAP: 70.00% | top-1: 100.00% top-2: 100.00%")
    assert err.count("\n") == 1
    assert re.search(f"WARNING.*2 of 3 queries .*{QUERY[0][1]}, {QUERY[2][1]}$", err)
    assert results(small)["mAP"] == pytest.approx(0.7)
    assert results(small)["mINP"] == pytest.approx(0.4)
    assert results(small)["CMC"] == [1] * 6
    assert results(small)["aps"] == [None, pytest.approx(0.7), None]
    assert results(small)["inps"] == [None, pytest.approx(0.4), None]


def test_only_the_first_few_are_named(small, tmp_path, capsys):
    write_set(
        tmp_path,
        "query",
        QUERY[:1] + [("9", f"9_c1s1_{i}_0.jpg") for i in range(50)],
        np.ones((51, 2), "f4"),
    )
    run(small)
    assert re.search(
        r"50 of 51 .*: 9_c1s1_0_0.jpg, 9_c1s1_1_0.jpg, 9_c1s1_2_0.jpg, \.\.\.$",
        capsys.readouterr().err,
    )


# ------------------------------------------------------------------------- what is logged


def test_embeddings_that_were_made_differently_are_warned_about(small, capsys):
    for part in ("query", "gallery"):
        with h5py.File(small[f"{part}_embeddings"], "a") as file:
            file.attrs["checkpoint"] = f"exp/checkpoint-{len(part)}"
            file["augmentation_types"] = np.array(["original_center"], "S")
    run(small)
    err = capsys.readouterr().err
    assert re.search("The checkpoint of .* is exp/checkpoint-5.* exp/checkpoint-7\\.", err)
    assert "augmentation_types" not in err


def test_embeddings_of_one_point_are_warned_about(small, capsys):
    with h5py.File(small["query_embeddings"], "a") as file:
        file["emb"][:] = 1
    run(small)
    err = capsys.readouterr().err
    assert f"All embeddings of {small['query_embeddings']} seem to be one point" in err


def test_pooled_queries_are_told(small, tmp_path, capsys):
    run(small | {"multi_query": "mean"})
    err = capsys.readouterr().err
    assert "Pooled the 3 queries of the same pid and camera into 3." in err
    assert "--multi_query pooled nothing" in err

    rows = [*QUERY, ("0002", "0002_c1s1_000002_00.jpg")]
    write_set(tmp_path, "query", rows, np.float32([[0, 0], [10, 0], [20, 0], [11, 0]]))
    run(small | {"multi_query": "mean"})
    err = capsys.readouterr().err
    assert "Pooled the 4 queries of the same pid and camera into 3." in err
    assert "pooled nothing" not in err


# ------------------------------------------------------------------------- one file, two names


@pytest.fixture
def diagonal(tmp_path):
    """Flags for 40 images of 10 pids, each a query, that are not far from one another."""
    rng = np.random.default_rng(0)
    rows = [(str(row % 10), f"a/{row}.jpg") for row in range(40)]
    embs = rng.normal(size=(10, 4))[np.arange(40) % 10] + rng.normal(size=(40, 4))
    write_set(tmp_path, "all", rows, np.float32(embs))
    flags = {f"{part}_dataset": tmp_path / "all.csv" for part in ("query", "gallery")}
    flags |= {f"{part}_embeddings": tmp_path / "all.h5" for part in ("query", "gallery")}
    return flags | {
        "excluder": "diagonal",
        "metric": "euclidean",
        "filename": tmp_path / "results.json",
    }


POST_PROCESSING = [{}, {"query_expansion": 3}, {"rerank": "", "rerank_k1": 5, "rerank_k2": 2}]


def other_names(flags, tmp_path, names):
    """The same queries under other names, with the figures of the first."""
    with h5py.File(flags["query_embeddings"]) as file:
        embs = file["emb"][()]
    rows = [(str(row % 10), name) for row, name in enumerate(names)]
    write_set(tmp_path, "other", rows, embs)
    return {"query_dataset": tmp_path / "other.csv", "query_embeddings": tmp_path / "other.h5"}


@pytest.mark.parametrize("more", POST_PROCESSING, ids=str)
@pytest.mark.parametrize("name", ["./a/{}.jpg", "a//{}.jpg", "b/../a/{}.jpg"])
def test_another_name_of_a_file_changes_no_figure(name, more, diagonal, tmp_path, capsys):
    run(diagonal | more)
    wanted = figures_of(diagonal)
    changed = other_names(diagonal, tmp_path, [name.format(row) for row in range(40)])
    run(diagonal | more | changed)
    assert wanted["CMC"][0] < 1
    assert figures_of(diagonal) == wanted
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("more", POST_PROCESSING, ids=str)
def test_links_and_absolute_paths_change_no_figure(more, diagonal, tmp_path):
    images, links = tmp_path / "images", tmp_path / "links"
    (images / "a").mkdir(parents=True)
    links.mkdir()
    for row in range(40):
        (images / "a" / f"{row}.jpg").touch()
        (links / f"{row}.jpg").symlink_to(images / "a" / f"{row}.jpg")
    set_root(tmp_path / "all.h5", images)
    run(diagonal | more)
    wanted = figures_of(diagonal)
    for names, root in (
        ([f"{row}.jpg" for row in range(40)], links),
        ([str(images / "a" / f"{row}.jpg") for row in range(40)], images),
        ([str(links / f"{row}.jpg") for row in range(40)], images),
    ):
        changed = other_names(diagonal, tmp_path, names)
        set_root(tmp_path / "other.h5", root)
        run(diagonal | more | changed)
        assert figures_of(diagonal) == wanted


def set_root(path, image_root):
    with h5py.File(path, "a") as file:
        file.attrs["image_root"] = str(image_root)


def test_a_diagonal_that_ignores_nothing_is_warned_about(diagonal, tmp_path, capsys):
    changed = other_names(diagonal, tmp_path, [f"copies/{row}.jpg" for row in range(40)])
    run(diagonal | changed)
    nothing, copies = capsys.readouterr().err.splitlines()
    assert "[INFO]" in nothing and "[WARNING]" in copies
    assert "--excluder diagonal ignores no image for 40 of 40 queries: no file of" in nothing
    assert "copies/0.jpg, copies/1.jpg, copies/2.jpg, ..." in nothing
    assert "40 of 40 queries have their best match at distance 0" in copies
    assert "copies/0.jpg (a/0.jpg), copies/1.jpg (a/1.jpg)" in copies
    assert results(diagonal)["CMC"][0] == 1


# ------------------------------------------------------------------------- the experiment tells


@pytest.fixture
def experiment(small, tmp_path):
    """Flags that leave it to an experiment to tell the metric and the embeddings."""
    root = tmp_path / "exp"
    root.mkdir()
    files.write_json(root / "args.json", {"metric": "cityblock"})
    for part in ("query", "gallery"):
        small[f"{part}_embeddings"].rename(root / f"{part}_embeddings.h5")
    given = {"excluder", "query_dataset", "gallery_dataset", "filename"}
    return {name: small[name] for name in given} | {"experiment_root": root}


def test_an_experiment_tells_metric_and_embeddings(experiment, capsys):
    args = evaluate.parse_args(argv(experiment))
    root = experiment["experiment_root"]
    assert args.metric == "cityblock"
    assert args.query_embeddings == str(root / "query_embeddings.h5")
    assert args.gallery_embeddings == str(root / "gallery_embeddings.h5")
    run(experiment)
    out, err = capsys.readouterr()
    assert out.startswith("mAP: 73.33%") and err == ""


def test_embeddings_of_a_split_are_taken_for_a_csv_with_splits_only(experiment):
    root = experiment["experiment_root"]
    of_part = root / "query_query_embeddings.h5"
    of_part.write_bytes(b"")  # without splits, those of another CSV: query_query.csv
    assert evaluate.parse_args(argv(experiment)).query_embeddings == str(
        root / "query_embeddings.h5"
    )
    rows = Path(experiment["query_dataset"]).read_text().splitlines()
    lines = ["pid,fid,split", *(f"{row},query" for row in rows)]
    Path(experiment["query_dataset"]).write_text("\n".join(lines))
    assert evaluate.parse_args(argv(experiment)).query_embeddings == str(of_part)


def test_given_flags_win_and_another_metric_is_told(experiment, tmp_path, capsys):
    other = experiment["experiment_root"] / "query_embeddings.h5"
    given = experiment | {"metric": "cosine", "query_embeddings": other.rename(tmp_path / "q.h5")}
    run(given)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--metric cosine is not that of the training, cityblock, as" in err
    assert results(given)["made"]["flags"]["metric"] == "cosine"


def test_another_metric_is_told_where_the_embeddings_name_their_checkpoint(experiment, capsys):
    root = experiment["experiment_root"]
    paths = {f"{part}_embeddings": root / f"{part}_embeddings.h5" for part in ("query", "gallery")}
    for path in paths.values():
        with h5py.File(path, "a") as file:
            file.attrs["checkpoint"] = str(root / "checkpoint-3")
    run(experiment | paths | {"experiment_root": None, "metric": "euclidean"})
    assert "--metric euclidean is not that of the training, cityblock" in capsys.readouterr().err


def test_losses_that_compare_by_cosine_are_evaluated_by_it(experiment):
    files.write_json(experiment["experiment_root"] / "args.json", {"loss": "circle"})
    assert evaluate.parse_args(argv(experiment)).metric == "cosine"


def test_an_experiment_tells_the_images_for_a_report(experiment, tmp_path, capsys):
    root = experiment["experiment_root"]
    flags = experiment | {"report": tmp_path / "report"}
    with pytest.raises(SystemExit):
        evaluate.parse_args(argv(flags))
    assert "--image_root: needed with --report" in capsys.readouterr().err
    files.write_json(root / "args.json", {"image_root": str(tmp_path)})
    assert evaluate.parse_args(argv(flags)).image_root == str(tmp_path)
    files.write_json(root / "args.json", {"image_root": "nowhere"})
    with pytest.raises(SystemExit):
        evaluate.parse_args(argv(flags))
    assert "--image_root: that of" in capsys.readouterr().err


def test_embeddings_that_are_not_there_yet_are_told_with_the_command(experiment, capsys):
    root = experiment["experiment_root"]
    (root / "gallery_embeddings.h5").unlink()
    with pytest.raises(SystemExit):
        evaluate.parse_args(argv(experiment))
    csv = experiment["gallery_dataset"]
    assert re.search(
        f"--gallery_embeddings: .*does not exist. Call: python embed.py --experiment_root {root} --dataset {csv};",
        capsys.readouterr().err,
    )


# ------------------------------------------------------------------------- how it was made


def test_results_say_how_they_were_made(small, tmp_path):
    origin = Origin("/exp/checkpoint-5", ("original_center",), None, "/images")
    fids = [fid for _, fid in QUERY]
    with embeddings_file.create(small["query_embeddings"], 3, 2, origin, fids) as file:
        file.add(np.float32([[0, 0], [10, 0], [20, 0]]))
    before = datetime.now().astimezone().replace(microsecond=0)
    run(small | {"rerank": "", "rerank_k1": 3, "rerank_k2": 2})
    made = results(small)["made"]
    assert before <= datetime.fromisoformat(made["date"]) <= datetime.now().astimezone()
    assert made["version"] == version()
    assert made["flags"]["rerank_k1"] == 3 and made["flags"]["rerank"] is True
    assert made["flags"]["excluder"] == "market1501" and made["flags"]["report"] is None
    assert made["query"] == {
        "dataset": str(tmp_path / "query.csv"),
        "images": 3,
        "embeddings": str(tmp_path / "query.h5"),
        "dimension": 2,
        "checkpoint": "/exp/checkpoint-5",
        "views": ["original_center"],
        "aggregator": None,
        "image_root": "/images",
    }
    assert made["gallery"]["images"] == 6 and made["gallery"]["checkpoint"] is None
    assert evaluate.is_result(small["filename"])


def test_rows_of_another_order_end_an_evaluation(small):
    path = small["gallery_dataset"]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(sorted(lines)))
    with pytest.raises(common.UserError, match="gallery.h5 .*another order than .*gallery.csv"):
        run(small)


# ------------------------------------------------------------------------- the report


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"metric": "cosine", "query_expansion": 2},
        {"multi_query": "mean", "rerank": "", "rerank_k2": 2},
    ],
)
def test_the_report_lists_images_as_they_were_ranked(more, tmp_path):
    rng, rows = np.random.default_rng(3), {}
    for part, count in (("query", 12), ("gallery", 9)):
        rows[part] = [
            (f"000{i % 2 + 1}", f"{part}{i}/000{i % 2 + 1}_c{i % 3 + 1}s1_0_0.png")
            for i in range(count)
        ]
        write_set(tmp_path, part, rows[part], rng.normal(size=(count, 3)).astype(np.float32))
        for _, fid in rows[part]:
            (tmp_path / "images" / fid).parent.mkdir(parents=True)
            Image.new("RGB", (4, 8)).save(tmp_path / "images" / fid)
    flags = {"excluder": "market1501", "metric": "euclidean", "filename": tmp_path / "results.json"}
    flags |= {f"{part}_dataset": tmp_path / f"{part}.csv" for part in rows}
    flags |= {f"{part}_embeddings": tmp_path / f"{part}.h5" for part in rows}
    flags |= {"report": tmp_path / "report", "image_root": tmp_path / "images"} | more
    run(flags)
    page = (tmp_path / "report" / "report.html").read_text()
    queries = results(flags).get("queries", [fid for _, fid in rows["query"]])
    aps = dict(zip(queries, results(flags)["aps"], strict=True))
    articles = re.findall(r"<article>.*?</article>", page, re.DOTALL)
    assert len(articles) == 4  # of two pids the worst and the best
    for article in articles:
        query, *found = re.findall(r'<li class="(query|true|wrong)" title="\d+, ([^"]+)"', article)
        ranks = 1 + np.flatnonzero([kind == "true" for kind, _ in found])
        assert np.mean(np.arange(1, len(ranks) + 1) / ranks) == pytest.approx(
            aps[query[1]], abs=1e-12
        )
        ignored = re.search(r"/(\d+_c\d)", query[1])[1]
        assert {fid for _, fid in found} == {
            fid for _, fid in rows["gallery"] if ignored not in fid
        }
    assert f"<dd>{results(flags)['mINP']:.1%}</dd>" in page
    for fpr, distance in results(flags)["distance_at_FPR"].items():
        tpr = results(flags)["TPR_at_FPR"][fpr]
        cells = f"<th>FPR {fpr}</th><td>{distance:.4g}</td><td>[^<]*</td><td>{tpr:.2%}</td></tr>"
        assert re.search(cells, page)
    assert "Unknown queries" not in page
    made = results(flags)["made"]
    for name, value in (
        ("date", f"{made['date'][:16]}.*"),  # the minute
        ("version", made["version"]),
        ("query dataset", made["query"]["dataset"]),
        ("gallery embeddings", made["gallery"]["embeddings"]),
        ("excluder", "market1501"),
    ):
        assert re.search(f'<th>{name}</th><td class="text">{value}</td>', page)
    # Constants of what was not done are not shown.
    for constants, flag in (("rerank_", "rerank"), ("query_expansion_alpha", "query_expansion")):
        assert (f"<th>{constants}" in page) == (flag in more)


@pytest.mark.parametrize("orientation", ["exif", None])
def test_the_report_shows_images_as_the_network_saw_them(orientation, tmp_path):
    rng = np.random.default_rng(3)
    flags = {"excluder": "market1501", "metric": "euclidean"}
    (tmp_path / "images").mkdir()
    for part, camera in (("query", 1), ("gallery", 2)):
        pids = [f"000{i % 2 + 1}" for i in range(6)]
        rows = [(pid, f"{pid}_c{camera}s1_{i}_0.jpg") for i, pid in enumerate(pids)]
        write_set(tmp_path, part, rows, rng.normal(size=(6, 3)).astype(np.float32))
        if orientation:
            with h5py.File(tmp_path / f"{part}.h5", "a") as file:
                file.attrs["orientation"] = orientation
        for _, fid in rows:
            (tmp_path / "images" / fid).write_bytes(oriented(6))
        flags[f"{part}_dataset"] = tmp_path / f"{part}.csv"
        flags[f"{part}_embeddings"] = tmp_path / f"{part}.h5"
    run(flags | {"report": tmp_path / "report", "image_root": tmp_path / "images"})
    page = (tmp_path / "report" / "report.html").read_text()
    sizes = re.findall(r'<img src="data[^>]* width="(\d+)" height="(\d+)"', page)
    assert sizes
    for width, height in sizes:
        assert (int(width) > int(height)) == (orientation == "exif")


@pytest.mark.parametrize("report", ["report", None])
def test_a_baseline_has_its_figures_beside_the_network_and_not_in_the_file(
    report, dataset, tmp_path, capsys
):
    rows = list(zip(dataset.pids, dataset.fids, strict=True))
    embs = np.random.default_rng(0).normal(size=(len(rows), 4)).astype(np.float32)
    write_set(tmp_path, "set", rows, embs)
    with h5py.File(tmp_path / "set.h5", "a") as file:
        file.attrs["checkpoint"] = "/experiments/exp/checkpoint-60"
    flags = {"excluder": "diagonal", "metric": "cityblock", "filename": tmp_path / "results.json"}
    flags |= {f"{part}_dataset": tmp_path / "set.csv" for part in ("query", "gallery")}
    flags |= {f"{part}_embeddings": tmp_path / "set.h5" for part in ("query", "gallery")}
    run(flags)
    alone = capsys.readouterr().out
    before = figures_of(flags)
    flags |= {"baseline": "color_histogram", "image_root": dataset.root}
    run(flags | {"report": report and tmp_path / report})
    network, baseline = capsys.readouterr().out.splitlines(keepends=True)
    assert network == alone and figures_of(flags).items() >= before.items()
    figures = re.match(r"(mAP: .*) \(baseline: color_histogram\)\n", baseline)[1]
    mean_ap = float(re.match(r"mAP: ([\d.]+)%", figures)[1])
    assert mean_ap > 70  # the pids of the data set differ in color
    if report:
        page = (tmp_path / report / "report.html").read_text()
        assert f"color_histogram {mean_ap:.1f}%" in page
        assert "<h1>Evaluation of exp, checkpoint-60</h1>" in page


# ------------------------------------------------------------------------- the process


def subprocess_run(*command):
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=PROJECT, capture_output=True, text=True
    )


def test_what_is_not_needed_is_not_imported(small):
    code = (
        "import sys, evaluate; evaluate.main(evaluate.parse_args()); "
        "print(sorted({'tensorflow', 'keras', 'scipy', 'sklearn', 'matplotlib', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess_run("-c", code, *argv(small))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert results(small)["mAP"] == pytest.approx(2.2 / 3)


def test_an_error_is_one_line(small):
    small["query_embeddings"].write_text("no HDF5")
    done = subprocess_run("evaluate.py", *argv(small))
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"evaluate\.py: error: .*query\.h5 cannot be read as HDF5.*\n", done.stderr)


# ------------------------------------------------------------------------- bad input


def lines(part, *rows):
    """Replaces the CSV of a part. Its embeddings do not say of which images they are."""

    def change(flags):
        flags[f"{part}_dataset"].write_text("".join(row + "\n" for row in rows))
        with h5py.File(flags[f"{part}_embeddings"], "a") as file:
            del file["fids"]

    return change


def embeddings(part, value, name="emb"):
    """Replaces what is in the HDF5 file of a part."""

    def change(flags):
        with h5py.File(flags[f"{part}_embeddings"], "w") as file:
            file[name] = value

    return change


def replaced(**flags):
    return lambda before: before.update(flags)


MARKET_ROWS = [",".join(row) for row in QUERY]

# name: what is done to files and flags, words of the message in their order.
BAD = {
    "excluder missing": (replaced(excluder=None), "required: --excluder"),
    "excluder unknown": (
        replaced(excluder="viper"),
        "--excluder: there is no 'viper' .*diagonal, duke, market1501",
    ),
    "excluder private": (replaced(excluder="_camera"), "--excluder: there is no '_camera'"),
    "metric missing": (replaced(metric=None), "required: --metric"),
    "metric unknown": (replaced(metric="manhattan"), "--metric: .*'manhattan'.*cityblock.*cosine"),
    "batch_size 0": (
        replaced(batch_size=0),
        "--batch_size: should be an integer of at least 1. Received: 0",
    ),
    "batch_size not a number": (replaced(batch_size="many"), "--batch_size: .*Received: many"),
    "multi_query unknown": (replaced(multi_query="median"), "--multi_query: .*'median'.*mean.*max"),
    "multi_query without cameras": (
        replaced(multi_query="mean", excluder="diagonal"),
        "--excluder diagonal reads no",
    ),
    "query_expansion 1": (
        replaced(query_expansion=1),
        "--query_expansion: should be .*at least 2. Received: 1",
    ),
    "query_expansion_alpha below 0": (
        replaced(query_expansion=5, query_expansion_alpha=-1),
        "--query_expansion_alpha: .*at least 0. Received: -1",
    ),
    "query_expansion_alpha alone": (
        replaced(query_expansion_alpha=2),
        "_alpha: has no effect without --query_expansi",
    ),
    "rerank_k1 0": (replaced(rerank="", rerank_k1=0), "--rerank_k1: .*at least 1. Received: 0"),
    "rerank_k2 beyond k1": (
        replaced(rerank="", rerank_k1=4),
        "--rerank_k2: .*k1 . 1. Received: 6 with rerank_k1 4",
    ),
    "rerank_lambda beyond 1": (
        replaced(rerank="", rerank_lambda=1.5),
        "--rerank_lambda: .*0..1. Received: 1.5",
    ),
    "rerank_lambda alone": (
        replaced(rerank_lambda=0.5),
        "--rerank_lambda: has no effect without --rerank",
    ),
    "baseline without images": (
        replaced(baseline="color_histogram"),
        "--image_root: needed with --baseline",
    ),
    "baseline unknown": (replaced(baseline="luck"), "--baseline: .*'luck'.*color_histogram"),
    "image_root alone": (
        replaced(image_root="."),
        "--image_root: has no effect without --report or --baseline",
    ),
    "roc without a file": (
        replaced(roc="", filename=None),
        "--roc: has no effect without --filename",
    ),
    "figure unknown": (
        replaced(figures="mAP Recall@0"),
        "--figures: should be one of mAP, .*Recall@K, .*Received: Recall@0",
    ),
    "open_set without unknown pids": (
        replaced(open_set=""),
        "--open_set needs queries .*gallery.csv, but all 3 pids of .*query.csv are in it. Add",
    ),
    "groups without a group": (
        replaced(groups="c1"),
        "--groups: should be a column .*group or camera.*market1501.*Received: c1",
    ),
    "groups of a column that is not there": (
        replaced(groups="group"),
        "--groups group: .*query.csv has no column group",
    ),
    "groups not found": (replaced(groups="(x)"), r"--groups \(x\) .*'q/0001_c1s1_000001_00.jpg'"),
    "flag unknown": (replaced(gallery="x"), "--gallery"),
    "query_dataset missing": (
        replaced(query_dataset="none.csv"),
        "--query_dataset: .*existing file.*none.csv",
    ),
    "gallery_dataset missing": (
        replaced(gallery_dataset="none.csv"),
        "--gallery_dataset: .*existing file.*none.csv",
    ),
    "query_embeddings missing": (
        replaced(query_embeddings="none.h5"),
        "--query_embeddings: .*existing file.*none.h5",
    ),
    "gallery_embeddings a folder": (
        replaced(gallery_embeddings="/tmp"),
        "--gallery_embeddings: .*existing file.*/tmp",
    ),
    "filename a folder": (replaced(filename="/tmp"), "--filename: .*directory.*/tmp"),
    "filename in no folder": (
        replaced(filename="/none/x.json"),
        "--filename: .*/none does not exist",
    ),
    "filename of an input": (
        lambda f: f.update(filename=f["query_dataset"]),
        "--filename: .*--query_dataset",
    ),
    "per_query in no folder": (
        replaced(per_query="/none/x.csv"),
        "--per_query: .*/none does not exist",
    ),
    "per_query of an input": (
        lambda f: f.update(per_query=f["query_dataset"]),
        "--per_query: .*--query_dataset",
    ),
    "per_query of the results": (
        lambda f: f.update(per_query=f["filename"]),
        "--per_query: .*--filename",
    ),
    "per_query of another kind": (
        lambda f: f.update(per_query=f["filename"], filename=None),
        "--per_query: .*another kind",
    ),
    "CSV empty": (lines("query"), "query.csv is empty.*pid,fid"),
    "CSV of one column": (
        lines("gallery", *MARKET_ROWS, "0004"),
        "gallery.csv, line 4: .*two columns.*'0004'",
    ),
    "CSV of three columns": (lines("query", "a,b,c"), "query.csv, line 1: .*two columns.*'a,b,c'"),
    "CSV binary": (
        lambda f: f["query_dataset"].write_bytes(b"\xff\xfe\x00"),
        "query.csv is no CSV",
    ),
    "fid of the query": (
        lines("query", *MARKET_ROWS[:2], "3,3.jpg"),
        "PID_cCsS_.*Received: '3.jpg'.*diagonal",
    ),
    "fid of the gallery": (
        lines("gallery", *["0001,b/c.jpg"] * 6),
        "PID_cCsS_.*Received: 'b/c.jpg'.*diagonal",
    ),
    "excluder of another data set": (
        replaced(excluder="duke"),
        "PID_cC_.*Received: 'q/0001_c1s1_000001_00.jpg'",
    ),
    "HDF5 is a CSV": (
        lambda f: f.update(gallery_embeddings=f["gallery_dataset"]),
        "gallery.csv cannot be read as HDF5",
    ),
    "too few rows": (
        embeddings("query", np.zeros((2, 2))),
        "query.h5 .*query.csv.*2 embeddings, 3 images",
    ),
    "dimensions differ": (
        embeddings("query", np.zeros((3, 5))),
        "same dimension.*5 in .*query.h5, 2 in .*gallery.h5",
    ),
    "no pid in common": (
        lines("query", *(row.removeprefix("000") for row in MARKET_ROWS)),
        "no pid of .*query.csv is in .*gallery.csv.*'1' and '0001'.*leading zeros",
    ),
    "all matches ignored": (
        lines(
            "gallery",
            *(",".join(row).replace("_c2", "_c1").replace("_c3", "_c1") for row in GALLERY),
        ),
        "no query has a true match.*--excluder market1501 .*cameras.*diagonal",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_and_nothing_is_written(name, small, tmp_path, capsys):
    change, words = BAD[name]
    change(small)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises((SystemExit, common.UserError)) as error:
        run(small)
    out, err = capsys.readouterr()
    if error.type is SystemExit:
        assert error.value.code == 2
        message = err.splitlines()[-1]
    else:
        message = str(error.value)
    assert re.search(words, message), message
    assert "\n" not in message
    assert out == ""
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_cannot_be_written_is_told_after_the_figures(small, monkeypatch, capsys):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_json", full_disk)
    with pytest.raises(common.UserError, match="results.json: No space left on device"):
        run(small)
    assert capsys.readouterr().out.startswith("mAP: 73.33%")
    assert small["filename"].read_text() == '{"mAP": 0.5}'
