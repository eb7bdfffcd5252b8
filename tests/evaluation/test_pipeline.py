import dataclasses
import json
import subprocess
import sys
from typing import NamedTuple

import brute
import numpy as np
import pandas as pd
import pytest
from paths import GOLDEN, PROJECT

from common import UserError
from data import cameras, dataset
from data.dataset import Dataset
from evaluation import Embedded, Options, distances, embeddings_file, evaluate

FIGURES = GOLDEN / "eval"
CASES = sorted(path.stem for path in FIGURES.glob("*.json"))


def embedded(rows, embs):
    """rows: of (pid, fid)."""
    pids = np.array([pid for pid, _ in rows], dtype=object)
    fids = np.array([fid for _, fid in rows], dtype=object)
    images = Dataset(pids=pids, fids=fids, path="images.csv")
    return Embedded(images, np.float32(embs))


# ------------------------------------------------------------------------- golden numbers


def golden_set(name):
    images = dataset.load(FIGURES / f"{name}.csv")
    path = FIGURES / f"{name}.h5"
    return Embedded(images, embeddings_file.load(path, images))


@pytest.mark.parametrize("case", CASES)
def test_figures_are_those_of_the_original(case):
    data, excluder, metric = case.split("_")[:3]
    query = golden_set(f"{data}_diag_query" if excluder == "diagonal" else f"{data}_query")
    gallery = golden_set(f"{data}_gallery")
    market = case.endswith("_marketap")
    got = evaluate(query, gallery, Options(metric, excluder, use_market_ap=market))

    wanted = json.loads((FIGURES / f"{case}.json").read_text())
    assert got.mAP == pytest.approx(wanted["mAP"], abs=1e-5)
    np.testing.assert_allclose(got.aps, wanted["aps"], rtol=0, atol=1e-3)
    assert len(got.cmc) == 1200
    tolerance = 1.001 / len(wanted["aps"])
    np.testing.assert_allclose(got.cmc[:50], wanted["CMC"], rtol=0, atol=tolerance)


def test_there_is_a_golden_case_of_every_kind():
    assert len(CASES) == 16
    for part in ("diagonal", "duke_duke", "market1501_market1501", "marketap"):
        assert any(part in case for case in CASES)
    for metric in ("euclidean", "sqeuclidean", "cityblock"):
        assert any(metric in case for case in CASES)


# ------------------------------------------------------------------------- by hand

QUERY = [
    ("0001", "0001_c1s1_1_0.jpg"),
    ("0002", "0002_c1s1_1_0.jpg"),
    ("0003", "0003_c1s1_1_0.jpg"),
]
GALLERY = [
    ("0001", "0001_c2s1_1_0.jpg"),
    ("0002", "0002_c2s1_1_0.jpg"),
    ("0001", "0001_c1s1_2_0.jpg"),
    ("0002", "0002_c3s1_1_0.jpg"),
    ("0003", "0003_c2s1_1_0.jpg"),
    ("-1", "-1_c2s1_1_0.jpg"),
]
# Ranks of the matches: 1 (the same camera and junk are closer, and ignored); 1 and 5; 2.
SMALL = (
    embedded(QUERY, [[0, 0], [10, 0], [20, 0]]),
    embedded(GALLERY, [[1, 0], [9, 0], [0, 0], [-30, 0], [35, 0], [0, 0]]),
)
EUCLIDEAN = Options("euclidean", "market1501")


def test_figures_by_hand():
    results = evaluate(*SMALL, EUCLIDEAN)
    assert [ranks.tolist() for ranks in results.ranks] == [[1], [1, 5], [2]]
    assert results.aps == pytest.approx([1, 0.7, 0.5])
    assert results.mAP == pytest.approx(2.2 / 3)
    assert results.inps == pytest.approx([1, 2 / 5, 1 / 2])
    assert results.mINP == pytest.approx((1 + 2 / 5 + 1 / 2) / 3)
    assert results.cmc == pytest.approx([2 / 3, 1, 1, 1, 1, 1])
    assert [results.top(k) for k in (1, 2, 6, 100)] == pytest.approx([2 / 3, 1, 1, 1])
    # The first finds its one match, the second one of its two among its first two.
    assert results.map_at_r == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert results.r_precision == pytest.approx((1 + 1 / 2 + 0) / 3)
    # The precisions of the second query are 1 up to a recall of 0.5, then 2/5.
    precisions = [2.5 / 3] * 5 + [1.9 / 3] * 5
    assert list(results.precision_at_recall) == [tenth / 10 for tenth in range(1, 11)]
    assert list(results.precision_at_recall.values()) == pytest.approx(precisions)


def test_figures_have_names():
    results = evaluate(*SMALL, EUCLIDEAN)
    names = {"mAP": results.mAP, "mINP": results.mINP, "MAP@R": 0.5, "R-precision": 0.5}
    for k in (1, 2, 6, 100):
        names |= {f"top-{k}": results.top(k), f"Recall@{k}": results.top(k)}
    for name, value in names.items():
        assert results.figure(name) == pytest.approx(value)
    for name in ("top-0", "top-", "Recall", "map"):
        with pytest.raises(KeyError, match=name):
            results.figure(name)


def test_where_no_cameras_are_read_top_k_is_also_called_recall():
    assert "Recall_at_K" not in evaluate(*SMALL, EUCLIDEAN).as_json()
    results = evaluate(*SMALL, Options("euclidean", "diagonal"))
    assert list(results.as_json()["Recall_at_K"]) == [1, 2, 4]  # of six images
    assert results.as_json()["Recall_at_K"][2] == results.top(2)


def test_market_ap_by_hand():
    results = evaluate(*SMALL, Options("euclidean", "market1501", use_market_ap=True))
    assert results.aps == pytest.approx([1, (1 + (1 / 4 + 2 / 5) / 2) / 2, (0 + 1 / 2) / 2])


def test_distances_of_results_are_inf_where_an_image_is_ignored():
    inf = np.inf
    dists = evaluate(*SMALL, EUCLIDEAN).distances([2, 0])
    np.testing.assert_allclose(dists, [[19, 11, 20, 50, 15, inf], [1, 9, inf, 30, 35, inf]])


def test_batch_size_changes_nothing():
    small = Options("euclidean", "market1501", batch_size=1)
    assert evaluate(*SMALL, small).as_json() == evaluate(*SMALL, EUCLIDEAN).as_json()


def test_queries_without_a_match_are_in_the_table_and_not_in_the_means():
    query, gallery = SMALL
    gallery = embedded([GALLERY[0], *[("x", fid) for _, fid in GALLERY[1:]]], gallery.embs)
    results = evaluate(query, gallery, EUCLIDEAN)
    assert results.aps == [1, None, None] and results.inps == [1, None, None]
    assert results.mAP == results.mINP == 1
    assert results.cmc.tolist() == [1] * 6

    table = evaluate(*SMALL, EUCLIDEAN).per_query()
    assert list(table) == ["pid", "fid", "AP", "INP", "matches", "first_rank", "last_rank"]
    assert table["pid"].tolist() == ["0001", "0002", "0003"]
    assert table["AP"].tolist() == pytest.approx([1, 0.7, 0.5])
    assert table["matches"].tolist() == [1, 2, 1]
    assert table["last_rank"].tolist() == [1, 5, 2]
    table = results.per_query()
    assert table["matches"].tolist() == [1, 0, 0]
    assert table["first_rank"].tolist() == [1, pd.NA, pd.NA]
    assert table["AP"].isna().tolist() == [False, True, True]


# ------------------------------------------------------------------------- against plain loops


class Crowd(NamedTuple):
    """A random pair of sets with cameras, junk, and queries that share pid and camera."""

    query: Embedded
    gallery: Embedded
    rows: dict  # of (pid, camera) of each image, for brute.score


def crowd(seed):
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((12, 6))
    sets, rows = {}, {}
    for part, count in (("query", 40), ("gallery", 160)):
        pids = rng.integers(0, 12, count)
        cameras = rng.integers(1, 4, count)
        embs = centers[pids] + rng.standard_normal((count, 6))
        if part == "gallery":
            pids[rng.random(count) < 0.1] = -1
        rows[part] = [(str(pid), str(camera)) for pid, camera in zip(pids, cameras, strict=True)]
        fids = [f"{pid}_c{camera}s1_{i}.jpg" for i, (pid, camera) in enumerate(rows[part])]
        sets[part] = embedded(list(zip(pids.astype(str), fids, strict=True)), embs)
    return Crowd(sets["query"], sets["gallery"], rows)


OPTIONS = {
    "nothing": {},
    "pooled": {"multi_query": "mean"},
    "pooled by max": {"multi_query": "max"},
    "expanded": {"query_expansion": 5},
    "expanded further": {"query_expansion": 9, "query_expansion_alpha": 0.5},
    "reranked": {"rerank": True},
    "reranked otherwise": {"rerank": True, "rerank_k1": 9, "rerank_k2": 3, "rerank_lambda": 0.1},
    "all together": {"multi_query": "mean", "query_expansion": 4, "rerank": True, "rerank_k1": 7},
}


@pytest.mark.parametrize("metric", distances.METRICS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_figures_are_those_of_plain_loops(options, metric):
    query, gallery, rows = crowd(seed=0)
    options = Options(metric, "market1501", **options)
    got = evaluate(query, gallery, options)

    query_rows, query_embs = rows["query"], query.embs
    kept = np.array([pid != "-1" for pid, _ in rows["gallery"]])
    assert 5 < (~kept).sum() < 40
    gallery_rows = [row for row in rows["gallery"] if row[0] != "-1"]
    gallery_embs = gallery.embs[kept]
    if options.multi_query:
        query_rows, query_embs = brute.pool(query_rows, query_embs, options.multi_query)
        assert len(query_embs) < 40
        names = {f"{pid}_c{camera}" for pid, camera in query_rows}
        assert {name.split("s1_")[0] for name in got.as_json()["queries"]} == names
    if options.query_expansion:
        both = np.concatenate([query_embs, gallery_embs])
        both = brute.expand(both, options.query_expansion, options.query_expansion_alpha)
        query_embs, gallery_embs = both[: len(query_embs)], both[len(query_embs) :]
    if options.rerank:
        constants = (options.rerank_k1, options.rerank_k2, options.rerank_lambda)
        dists = brute.rerank(query_embs, gallery_embs, metric, *constants)
    else:
        dists = brute.distances(query_embs, gallery_embs, metric)
    wanted = brute.score(dists, query_rows, gallery_rows)

    assert got.aps == [w and pytest.approx(w[0]) for w in wanted]
    assert got.inps == [w and pytest.approx(w[1]) for w in wanted]
    aps, inps, map_at_rs, r_precisions, firsts = zip(*filter(None, wanted), strict=True)
    assert got.mAP == pytest.approx(np.mean(aps))
    assert got.mINP == pytest.approx(np.mean(inps))
    assert got.map_at_r == pytest.approx(np.mean(map_at_rs))
    assert got.r_precision == pytest.approx(np.mean(r_precisions))
    np.testing.assert_allclose(got.cmc, [np.mean(np.array(firsts) <= k) for k in range(1, 161)])
    if metric == "cityblock" or options.rerank:  # brute has the others squared
        dists_of_two = got.distances([3, 0])
        assert (dists_of_two[:, ~kept] == np.inf).all()
        dists_of_two = dists_of_two[:, kept]
        counted = np.isfinite(dists_of_two)
        np.testing.assert_allclose(dists_of_two[counted], dists[[3, 0]][counted], atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"query_expansion": 4},
        {"rerank": True, "rerank_k1": 9},
        {"query_expansion": 4, "rerank": True, "open_set": True, "fprs": (0.1,)},
    ],
    ids=str,
)
def test_junk_changes_nothing(options):
    query, gallery, rows = crowd(seed=5)
    if "open_set" in options:
        gone = gallery.dataset.pids == "4"
        gallery.dataset.pids[gone] = "5"
    options = Options("euclidean", "market1501", **options)
    kept = np.array([pid != "-1" for pid, _ in rows["gallery"]])
    without = Embedded(gallery.dataset.select(kept), gallery.embs[kept])
    # Between the persons, where it would be the neighbor of many.
    between = gallery.embs.copy()
    between[~kept] = gallery.embs[kept].mean(axis=0)
    between = gallery._replace(embs=between)
    wanted = evaluate(query, without, options).as_json()
    for got in (evaluate(query, gallery, options), evaluate(query, between, options)):
        got = got.as_json()
        assert len(got["CMC"]) == 160
        got["CMC"] = got["CMC"][: kept.sum()]
        assert got == wanted


def test_an_excluder_that_does_not_say_what_is_junk_keeps_all():
    query, gallery, _ = crowd(seed=5)
    names = [f"x{fid}" for fid in gallery.dataset.fids]  # the pid is x-1: no junk
    named = dataclasses.replace(gallery.dataset, fids=names)
    options = Options("euclidean", "market1501", rerank=True, rerank_k1=9)
    with_junk = evaluate(query, gallery._replace(dataset=named), options)
    assert with_junk.mAP != evaluate(query, gallery, options).mAP


def test_a_gallery_of_junk_alone_is_told():
    query, gallery = SMALL
    junk = embedded([("0001", "-1_c2s1_1_0.jpg")] * 6, gallery.embs)
    for more in ({"rerank": True}, {"query_expansion": 2}, {}):
        with pytest.raises(UserError, match="no query has a true match"):
            evaluate(query, junk, Options("euclidean", "market1501", **more))


@pytest.mark.parametrize(
    "options", [{}, {"query_expansion": 2}, {"rerank": True, "rerank_k1": 6, "rerank_k2": 3}]
)
def test_one_set_as_query_and_gallery_has_each_image_once(options):
    _, gallery, rows = crowd(seed=1)
    got = evaluate(gallery, gallery, Options("euclidean", "diagonal", **options))

    # To this excluder each image has a camera of its own, and -1 is a pid like any other.
    rows = [
        ("junk" if pid == "-1" else pid, number) for number, (pid, _) in enumerate(rows["gallery"])
    ]
    embs = gallery.embs
    if "query_expansion" in options:
        embs = brute.expand(embs, 2, 3)
    dists = brute.distances(embs, embs, "euclidean")
    step = 1
    if "rerank" in options:
        step = 20
        for number in range(0, len(embs), step):
            others = np.delete(embs, number, axis=0)
            (row,) = brute.rerank(embs[[number]], others, "euclidean", 6, 3, 0.3)
            dists[number] = np.insert(row, number, 0)
    wanted = brute.score(dists[::step], rows[::step], rows)
    assert got.aps[::step] == [w and pytest.approx(w[0]) for w in wanted]


def test_roc():
    query, gallery, rows = crowd(seed=0)
    fprs = (1e-4, 1e-3, 1e-2, 1e-1)
    got = evaluate(query, gallery, Options("cosine", "market1501", fprs=fprs))
    pairs = [
        (dist, query_row[0] == row[0])
        for query_row, dists in zip(
            rows["query"], brute.distances(query.embs, gallery.embs, "cosine"), strict=True
        )
        for row, dist in zip(rows["gallery"], dists, strict=True)
        if row[0] != "-1" and row != query_row
    ]
    true = np.sort([dist for dist, same in pairs if same])
    wrong = np.sort([dist for dist, same in pairs if not same])
    wanted = {fpr: np.mean(true < wrong[int(fpr * len(wrong))]) for fpr in fprs}
    assert got.tpr_at_fpr == pytest.approx(wanted, abs=1.5 / len(true))
    assert got.as_json()["TPR_at_FPR"] == got.tpr_at_fpr
    for fpr, distance in got.as_json()["distance_at_FPR"].items():
        limit = wrong[int(fpr * len(wrong))]
        assert limit - 2 / 2**15 < distance < limit * (1 + 1e-6)


@pytest.mark.parametrize("options", [{}, {"rerank": True, "rerank_k1": 9}], ids=str)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_an_open_set_is_that_of_plain_loops(metric, options):
    query, gallery, rows = crowd(seed=2)
    gone = np.isin(gallery.dataset.pids, ["3", "7"])  # two pids become unknown
    gallery = gallery._replace(dataset=gallery.dataset.select(~gone), embs=gallery.embs[~gone])
    kept = [row for row, out in zip(rows["gallery"], gone, strict=True) if not out]
    got = evaluate(query, gallery, Options(metric, "market1501", open_set=True, **options))

    dists = got.distances(np.arange(len(query.embs)))
    unknown, known = [], []
    for row, (pid, _) in zip(dists, rows["query"], strict=True):
        same = np.array([pid == other for other, _ in kept])
        counted = np.isfinite(row)
        if pid in ("3", "7"):
            unknown.append(row[counted].min())
        elif (counted & same).any():
            match, wrong = row[counted & same].min(), row[counted & ~same].min()
            known.append(match if match < wrong else np.inf)
    assert len(unknown) > 3 and len(known) > 20
    np.testing.assert_allclose(got.open_set.unknown, np.sort(unknown), rtol=1e-6)
    np.testing.assert_allclose(got.open_set.known, np.sort(known), rtol=1e-6)

    error = got.verification.equal_error()
    values = got.as_json()
    assert values["EER"] == error.fpr == got.figure("EER")
    assert values["EER_distance"] == error.distance
    assert values["open_set"]["accepted_at_EER"] == np.mean(np.array(unknown) < error.distance)
    assert values["open_set"]["found_at_EER"] == np.mean(np.array(known) < error.distance)
    assert [point.name for point in got.operating_points()][0] == "equal errors"


def test_an_open_set_needs_a_pid_that_the_gallery_lacks():
    with pytest.raises(UserError, match="--open_set needs queries .*all 3 pids of the query set"):
        evaluate(*SMALL, Options("euclidean", "market1501", open_set=True))


def test_figures_of_the_roc_have_names():
    query, gallery, _ = crowd(seed=0)
    got = evaluate(query, gallery, Options("cosine", "market1501", fprs=(0.1,)))
    assert got.figure("TPR@0.1") == got.figure("TPR@1e-1") == got.tpr_at_fpr[0.1]
    assert got.as_json()["distance_at_FPR"] == {0.1: got.verification.at_fpr(0.1).distance}
    alone = evaluate(query, gallery, Options("cosine", "market1501"))
    assert np.isnan(alone.figure("EER")) and alone.operating_points() == []
    assert alone.as_json().keys() == got.as_json().keys() - {
        "TPR_at_FPR",
        "distance_at_FPR",
        "EER",
        "EER_distance",
    }


@pytest.mark.parametrize("options", [{}, {"rerank": True, "rerank_k1": 9}], ids=str)
def test_figures_by_camera_pair_are_those_of_plain_loops(options):
    query, gallery, rows = crowd(seed=4)
    got = evaluate(query, gallery, Options("cosine", "market1501", groups="market1501", **options))

    dists = got.distances(np.arange(len(query.embs)))
    of_query = np.array([camera for _, camera in rows["query"]])
    of_image = np.array([camera for _, camera in rows["gallery"]])
    assert list(got.groups.queries) == ["1", "2", "3"]
    for camera, values in got.groups.queries.items():
        aps = [ap for ap, one in zip(got.aps, of_query, strict=True) if one == camera and ap]
        assert values["queries"] == len(aps)
        assert values["mAP"] == pytest.approx(np.mean(aps))
    assert len(got.groups.pairs) == 6  # in the same camera all matches are ignored
    for (one, other), values in got.groups.pairs.items():
        query_rows = np.flatnonzero(of_query == one)
        images = np.flatnonzero(of_image == other)
        wanted = brute.score(
            dists[np.ix_(query_rows, images)],
            [rows["query"][row] for row in query_rows],
            [rows["gallery"][image] for image in images],
        )
        aps, inps, map_at_rs, r_precisions, firsts = zip(*filter(None, wanted), strict=True)
        assert values["queries"] == len(aps)
        assert values["mAP"] == pytest.approx(np.mean(aps))
        assert values["mINP"] == pytest.approx(np.mean(inps))
        assert values["MAP_at_R"] == pytest.approx(np.mean(map_at_rs))
        assert values["R_precision"] == pytest.approx(np.mean(r_precisions))
        assert values["top_5"] == np.mean(np.array(firsts) <= 5)


def test_groups_are_those_of_a_column():
    query, gallery = SMALL
    named = dataclasses.replace(query.dataset, groups=["x", "y", "x"])
    options = Options("euclidean", "market1501", groups="group")
    got = evaluate(query._replace(dataset=named), gallery, options)
    assert {name: values["mAP"] for name, values in got.groups.queries.items()} == pytest.approx(
        {"x": 0.75, "y": 0.7}
    )
    assert got.groups.pairs == {}  # the gallery has no such column
    with pytest.raises(UserError, match="--groups group: images.csv has no column group"):
        evaluate(query, gallery, options)


# ------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "manhattan"}, "metric: .*euclidean.*cosine. Received: manhattan"),
        ({"multi_query": "median"}, "multi_query: .*mean, max. Received: median"),
        ({"query_expansion": 1}, "query_expansion: .*at least 2 or None. Received: 1"),
        ({"query_expansion_alpha": -1}, "query_expansion_alpha: .*Received: -1"),
        ({"rerank_k1": 0}, "rerank_k1: .*Received: 0"),
        ({"rerank_k1": 4}, "rerank_k2: .*at most rerank_k1 . 1. Received: 6 with rerank_k1 4"),
        ({"rerank_k2": 0}, "rerank_k2: .*Received: 0"),
        ({"rerank_lambda": 1.5}, "rerank_lambda: .*in 0..1. Received: 1.5"),
        ({"recalls": (0, 0.5)}, "recalls: .*above 0"),
        ({"fprs": (0.1, 2)}, "fprs: .*in 0..1"),
    ],
)
def test_options_that_are_not_allowed(options, words):
    with pytest.raises(UserError, match=words):
        Options(**{"metric": "euclidean", "excluder": "market1501"} | options)


@pytest.mark.parametrize(
    ("query", "gallery", "words"),
    [
        (SMALL[0]._replace(embs=np.zeros((2, 2), "f4")), SMALL[1], r"\[3, dim.*\[2, 2\]"),
        (SMALL[0]._replace(embs=np.zeros((3, 5), "f4")), SMALL[1], "dimension.*5 in .*2 in "),
        (SMALL[0], SMALL[1]._replace(embs=np.full((6, 2), np.nan)), "gallery should be finite"),
        (embedded([("1", QUERY[0][1])], [[0, 0]]), SMALL[1], "no pid.*'1' and '0001'"),
        (embedded([("0001", "1.jpg")], [[0, 0]]), SMALL[1], "PID_cCsS_.*Received: '1.jpg'"),
        (SMALL[0], embedded([("0001", "1.jpg")], [[0, 0]]), "PID_cCsS_.*Received: '1.jpg'"),
        (SMALL[0], embedded([("0001", QUERY[0][1])], [[0, 0]]), "no query has a true match"),
    ],
)
def test_sets_that_do_not_fit(query, gallery, words):
    with pytest.raises(UserError, match=words):
        evaluate(query, gallery, EUCLIDEAN)


def test_an_excluder_without_cameras_pools_nothing():
    with pytest.raises(UserError, match="--excluder diagonal reads no cameras"):
        evaluate(*SMALL, Options("euclidean", "diagonal", multi_query="mean"))


def test_the_room_imports_what_is_asked_for_and_nothing_else():
    code = (
        "import sys, evaluation; assert 'numpy' not in sys.modules; "
        "from evaluation import evaluate, Options; "
        "print(sorted({'tensorflow', 'pandas', 'scipy', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# ------------------------------------------------------------------------- columns


def test_cameras_by_column_are_those_of_the_file_names():
    query, gallery = golden_set("market1501_query"), golden_set("market1501_gallery")
    expected = evaluate(query, gallery, Options("euclidean", "market1501"))

    def by_column(images):
        fids = images.dataset.fids
        keys = [cameras.pid_and_camera("market1501", fid) for fid in fids]
        renamed = [f"{row}.jpg" for row in range(len(fids))]
        columns = Dataset([key[0] for key in keys], renamed, cameras=[key[1] for key in keys])
        return Embedded(columns, images.embs)

    got = evaluate(by_column(query), by_column(gallery), Options("euclidean", "cameras"))
    assert got.aps == expected.aps and (got.cmc == expected.cmc).all()
    pooled = evaluate(query, gallery, Options("euclidean", "market1501", multi_query="mean"))
    got = evaluate(
        by_column(query), by_column(gallery), Options("euclidean", "cameras", multi_query="mean")
    )
    assert got.aps == pooled.aps


def test_cameras_by_column_need_the_column():
    images = embedded([("1", "a"), ("1", "b")], [[0], [1]])
    with pytest.raises(UserError, match="images.csv has no column camera"):
        evaluate(images, images, Options("euclidean", "cameras"))


def test_boxes_of_one_file_are_images_of_their_own():
    boxes = [[0, 0, 5, 5], [5, 0, 9, 5], [0, 0, 0, 0]]
    data = Dataset(["1", "1", "2"], ["a.jpg", "./a.jpg", "a.jpg"], boxes=boxes)
    images = Embedded(data, np.float32([[0], [1], [5]]))
    results = evaluate(images, images, Options("euclidean", "diagonal", rerank=True, rerank_k2=1))
    assert results.aps == [1.0, 1.0, None]


def test_tracklets_are_pooled_in_query_set_and_gallery():
    rng = np.random.default_rng(0)
    pids = ["1", "1", "1", "2", "2", "1", "2", "2"]
    tracklets = ["t", "t", "", "t", "t", "u", "u", "u"]
    cameras = ["a", "a", "a", "a", "a", "b", "b", "c"]
    names = [f"{row}.jpg" for row in range(8)]
    embs = np.float32(rng.normal(size=(8, 3)))
    images = Embedded(Dataset(pids, names, cameras=cameras, tracklets=tracklets), embs)
    rows = [[0, 1], [2], [3, 4], [5], [6], [7]]  # of one tracklet, pid and camera
    firsts = [row[0] for row in rows]
    for how, pool in (("mean", np.mean), ("max", np.max)):
        pooled = np.float32([pool(embs[row], axis=0) for row in rows])
        expected = evaluate(
            Embedded(images.dataset.select(firsts), pooled),
            Embedded(images.dataset.select(firsts), pooled),
            Options("euclidean", "cameras"),
        )
        got = evaluate(images, images, Options("euclidean", "cameras", pool_tracklets=how))
        assert got.aps == expected.aps and got.pooled
        assert got.query.fids.tolist() == [names[row] for row in firsts]
    bare = Embedded(Dataset(pids, names, cameras=cameras), embs)
    evaluate(bare, images, Options("euclidean", "cameras", pool_tracklets="mean"))
    with pytest.raises(UserError, match="--pool_tracklets needs a column tracklet"):
        evaluate(bare, bare, Options("euclidean", "cameras", pool_tracklets="mean"))
