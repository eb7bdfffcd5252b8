import dataclasses
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from web_page import Page

from common import UserError
from data.dataset import Dataset
from evaluation import Results
from evaluation.grouping import Groups
from evaluation.verification import OpenSet, Verification
from reports import evaluation as report


def images(pids, fids):
    return Dataset(
        pids=np.array(pids, dtype=object),
        fids=np.array(fids, dtype=object),
        path="images.csv",
    )


def results_of(query, gallery, distances, aps=(), cmc=(1.0,), ranks=(), cameras=True):
    """Results of two Datasets; distances: from rows of queries to [n, G]."""
    known = [ap for ap in aps if ap is not None]
    return Results(
        query=query,
        gallery=gallery,
        ranks=[np.array(r, np.int64) for r in ranks],
        aps=list(aps),
        inps=[],
        mAP=float(np.mean(known)) if known else 0.0,
        mINP=0.4321,
        map_at_r=0.2345,
        r_precision=0.3456,
        cmc=np.array(cmc),
        precision_at_recall={},
        tpr_at_fpr={},
        verification=None,
        open_set=None,
        groups=None,
        pooled=False,
        cameras=cameras,
        distances=distances,
    )


class Case:
    """12 queries of 4 pids and 30 gallery images, with distances of which many are equal and some
    are ignored.
    """

    def __init__(self, root):
        rng = np.random.default_rng(0)
        names = ["0001", "0002", "<i>&\"'", "0004"]
        self.root = root
        self.query = images(
            pids=[names[i % 4] for i in range(12)],
            fids=[f'q"<{i}>_c{i % 3}s1.png' for i in range(12)],
        )
        self.gallery = images(
            pids=[names[i % 4] for i in range(30)], fids=[f"g{i}_c{i % 5}.png" for i in range(30)]
        )
        for fid in [*self.query.fids, *self.gallery.fids]:
            Image.fromarray(rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)).save(root / fid)
        self.dists = rng.integers(0, 12, (12, 30)).astype(float)
        self.dists[rng.random((12, 30)) < 0.2] = np.inf
        self.dists[5, [self.query.pids[5] == pid for pid in self.gallery.pids]] = (
            np.inf
        )  # no true match
        self.ranks = [self.ranks_of(row) for row in range(12)]
        self.aps = [
            np.mean([(n + 1) / r for n, r in enumerate(ranks)]) if ranks else None
            for ranks in self.ranks
        ]
        cmc = np.mean([[r[0] <= k for k in range(1, 31)] for r in self.ranks if r], axis=0)
        self.results = results_of(
            self.query, self.gallery, lambda rows: self.dists[rows], self.aps, cmc, self.ranks
        )

    def order(self, row):
        """Rows of the gallery by distance, wrong ones first where it is equal, without the ignored."""
        pid = self.query.pids[row]
        kept = [i for i in range(30) if np.isfinite(self.dists[row, i])]
        return sorted(kept, key=lambda i: (self.dists[row, i], self.gallery.pids[i] == pid, i))

    def ranks_of(self, row):
        return [
            n
            for n, i in enumerate(self.order(row), 1)
            if self.gallery.pids[i] == self.query.pids[row]
        ]

    def write(self, directory, flags=None, activations=None, **more):
        report.write(directory, self.results, self.root, flags or {}, activations, **more)
        return Page((directory / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def written(case, tmp_path_factory):
    """A directory with the report of the case, and its page."""
    directory = tmp_path_factory.mktemp("reports") / "new"
    return directory, case.write(
        directory, {"metric": "<euclidean>", "lambda": 0.0, "roc": False, "rerank": None}
    )


def test_ranked_lists_are_those_of_a_loop(case):
    for row in set(range(12)) - {5}:
        rows, dists, ranks, true_ranks = report.ranked(case.results, row)
        order, expected = case.order(row), list(range(1, report.LENGTH + 1))
        if case.ranks[row][0] > report.LENGTH:
            expected.append(case.ranks[row][0])
        assert ranks.tolist() == expected
        assert rows.tolist() == [order[rank - 1] for rank in expected]
        assert dists.tolist() == case.dists[row, rows].tolist()
        assert true_ranks.tolist() == case.ranks[row]


def test_a_first_match_beyond_the_list_is_put_at_its_end():
    query = images(pids=["a"], fids=["q"])
    gallery = images(pids=["b"] * 20 + ["a"], fids=[str(i) for i in range(21)])
    results = results_of(query, gallery, lambda rows: np.arange(21.0)[None])
    rows, dists, ranks, true_ranks = report.ranked(results, 0)
    assert rows.tolist() == [*range(10), 20] and dists.tolist() == [*range(10), 20]
    assert ranks.tolist() == [*range(1, 11), 21] and true_ranks.tolist() == [21]


def test_extremes_are_one_query_of_each_pid_and_leave_out_those_that_do_not_count(monkeypatch):
    monkeypatch.setattr(report, "LISTS", 2)
    aps = np.array([0.5, 0.1, 0.2, 1, 1, np.nan, 1])
    pids = ["a", "b", "b", "a", "c", "d", "e"]
    assert report.extremes(aps, pids, ["a", "c", "c", "e"]) == ([1, 0], [4, 3])


def test_all_distances_are_there_when_there_are_few(case):
    true, wrong = report.sampled_distances(case.results)
    expected = {True: Counter(), False: Counter()}
    for pid, row in zip(case.query.pids, case.dists, strict=True):
        for other, dist in zip(case.gallery.pids, row, strict=True):
            if np.isfinite(dist):
                expected[pid == other][dist] += 1
    assert Counter(true.tolist()) == expected[True] and Counter(wrong.tolist()) == expected[False]


def test_of_many_distances_a_sample_is_asked_for_in_blocks(monkeypatch):
    monkeypatch.setattr(report, "_MAX_DISTANCES", 7000)
    Q, G, asked = 1000, 3000, []

    def distances(rows):
        asked.append(rows)
        return np.tile(np.arange(G, dtype=float), (len(rows), 1)) + rows[:, None]

    query = images(pids=["a"] * Q, fids=[""] * Q)
    gallery = images(pids=["a"] + ["b"] * (G - 1), fids=[""] * G)
    true, wrong = report.sampled_distances(results_of(query, gallery, distances))
    rows = np.concatenate(asked)
    assert max(map(len, asked)) == 2
    assert (
        len(rows) == len(set(rows)) == report.SAMPLED_QUERIES
        and rows.min() == 0
        and rows.max() == Q - 1
    )
    np.testing.assert_array_equal(true, rows)
    per_query = (wrong.reshape(len(rows), report.SAMPLED_WRONG) - rows[:, None]).astype(int)
    assert all(
        len(set(row)) == len(row) and min(row) >= 1 and max(row) < G for row in per_query.tolist()
    )


@pytest.mark.parametrize(
    "fid, camera",
    [
        ("query/0001_c1s1_001051_00.jpg", "1"),
        ("0001_c12_f0046302.jpg", "12"),
        ("a_c3/0001.jpg", None),
        ("0001_cam.jpg", None),
    ],
)
def test_cameras_are_read_from_the_names_of_files(fid, camera):
    assert report.camera(fid) == camera


def test_the_page_holds_figures_lists_and_identities(case, written):
    page = written[1]
    for name, share in {
        "mINP": 0.4321,
        "mAP": case.results.mAP,
        "MAP@R": 0.2345,
        "R-precision": 0.3456,
        "top-5": case.results.cmc[4],
    }.items():
        assert f"{name}{share:.1%}" in page.text
    assert "12 queries, 30 gallery images. Without a true match, and so left out: 1." in page.text
    assert "metric<euclidean>\nlambda0.0\n\n" in page.text
    assert "rerank" not in page.text and "roc" not in page.text

    worst = min((ap, row) for row, ap in enumerate(case.aps) if ap is not None)[1]
    items = page.all("li")
    start = next(i for i, item in enumerate(items) if item.get("class") == "query")
    assert "Of each identity" in page.text and "person" not in page.text
    assert items[start]["title"] == f"{case.query.pids[worst]}, {case.query.fids[worst]}"
    for rank, item in enumerate(items[start + 1 : start + 1 + report.LENGTH]):
        index = case.order(worst)[rank]
        assert item["title"] == f"{case.gallery.pids[index]}, {case.gallery.fids[index]}"
        assert item["class"] == (
            "true" if case.gallery.pids[index] == case.query.pids[worst] else "wrong"
        )
    assert page.text.count("✓") == 1 + len(
        page.all("li", **{"class": "true"})
    )  # one of them explains it
    assert page.text.count("✗") == 1 + len(page.all("li", **{"class": "wrong"}))

    for pid in set(case.query.pids):
        aps = [
            ap
            for other, ap in zip(case.query.pids, case.aps, strict=True)
            if other == pid and ap is not None
        ]
        assert f"{pid}{len(aps)}{np.mean(aps):.1%}{min(aps):.1%}" in page.text


def test_the_page_asks_for_no_other_file_and_can_be_heard(written):
    directory, page = written
    text = (directory / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)|<script src|<iframe", text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action"):
            assert attributes.get(name, "#").startswith(("data:", "#")), (tag, attributes)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)
    assert all(image["alt"] for image in page.all("img")) and all(
        svg["aria-label"] for svg in page.all("svg")
    )
    assert [tag for tag, _ in page.tags if tag in ("h1", "main", "nav")] == ["main", "h1", "nav"]
    assert page.all("html", lang="en")
    assert "<i>" not in text and 'q"<' not in text


def test_confusions_are_those_of_a_loop(case):
    expected = Counter()
    for row in range(12):
        order = case.order(row)
        if case.ranks[row] and case.ranks[row][0] > 1:
            expected[case.query.pids[row], case.gallery.pids[order[0]]] += 1
    mistakes = report.mistaken_queries(case.results)
    assert len(mistakes) == sum(expected.values()) > 3 and 5 not in mistakes
    pairs = report.confusions(case.results, mistakes)
    assert {(pair.pid, pair.other): pair.queries for pair in pairs} == expected
    assert [pair.queries for pair in pairs] == sorted(expected.values(), reverse=True)
    for pair in pairs:
        assert case.query.pids[pair.query] == pair.pid
        assert case.dists[pair.query, pair.wrong] == case.dists[pair.query].min()


def test_of_many_mistakes_a_sample_is_looked_at(monkeypatch):
    monkeypatch.setattr(report, "SAMPLED_MISTAKES", 3)
    query = images(pids=["a"] * 9, fids=[""] * 9)
    gallery = images(pids=["b", "a"], fids=["", ""])
    results = results_of(
        query, gallery, lambda rows: np.zeros((len(rows), 2)), ranks=[[2]] * 8 + [[]]
    )
    mistakes = report.mistaken_queries(results)
    assert mistakes.tolist() == list(range(8))
    assert report.confusions(results, mistakes) == [("a", "b", 3, 0, 0)]
    assert report.confusions(results, mistakes[:0]) == []


def test_the_page_shows_pairs_with_a_picture_of_each(case, written):
    page = written[1]
    pairs = report.confusions(case.results, report.mistaken_queries(case.results))
    count = sum(pair.queries for pair in pairs)
    assert f"{count} queries are taken for another identity, in {len(pairs)} pairs" in page.text
    assert len(page.all("span", **{"class": "pair"})) == min(len(pairs), report.PAIRS)
    first = pairs[0]
    assert f"{first.queries} of 3 queries" in page.text
    assert page.all("span", **{"class": "query"})[0]["title"] == (
        f"{first.pid}, {case.query.fids[first.query]}"
    )
    assert page.all("span", **{"class": "wrong"})[0]["title"] == (
        f"{first.other}, {case.gallery.fids[first.wrong]}"
    )


def test_without_mistakes_the_page_says_so(case, tmp_path):
    query = images(pids=["a"], fids=case.query.fids[:1])
    gallery = images(pids=["a"], fids=case.gallery.fids[:1])
    results = results_of(query, gallery, lambda rows: np.zeros((1, 1)), [1.0], ranks=[[1]])
    report.write(tmp_path, results, case.root, {})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "None: the nearest image of every query is a true match." in text


def test_experiment_and_checkpoint_have_their_names(case, tmp_path):
    one, other = "/a/b/<exp>/checkpoint-60", "/a/b/other/checkpoint-9"
    for name, paths, heading in (
        ("both", [one, one], "Evaluation of <exp>, checkpoint-60"),
        ("two", [one, other], "Evaluation of <exp>, checkpoint-60 and other, checkpoint-9"),
        ("half", [None, other], "Evaluation of other, checkpoint-9"),
        ("none", [None, None], "Evaluation"),
    ):
        page = case.write(tmp_path / name, checkpoints=paths)
        assert f"{heading}\n12 queries" in page.text
        assert f"{heading}, mAP" in page.text  # the title
        for path in (one, other):
            assert (path in page.text) == (path in paths)


def test_a_baseline_stands_beside_each_figure(case, tmp_path):
    baseline = results_of(case.query, case.gallery, None, [0.123], np.linspace(0.01, 1, 30))
    page = case.write(tmp_path, baselines={"color_histogram": baseline})
    assert f"mAP{case.results.mAP:.1%}color_histogram 12.3%" in page.text
    assert f"top-10{case.results.top(10):.1%}color_histogram {baseline.top(10):.1%}" in page.text
    assert "color_histogram" not in case.write(tmp_path / "without").text


def test_where_no_cameras_are_read_top_k_is_called_recall(case, written, tmp_path):
    assert "Recall@" not in written[1].text
    results = dataclasses.replace(case.results, cameras=False)
    report.write(tmp_path, results, case.root, {})
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert f"Recall@4{results.cmc[3]:.1%}" in text and "top-1" not in text


def test_no_file_of_somebody_else_is_replaced(case, written, tmp_path):
    report.check_replaced(written[0])
    names = [path.name for path in written[0].iterdir()]
    assert len(names) > 3
    for name in [*names, "roc.png"]:
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match=f"{name} is not of an earlier report"):
            report.write(tmp_path, case.results, case.root, {})
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_the_page_shows_thresholds(case, written, tmp_path):
    assert "thresholds" not in (written[0] / "report.html").read_text(encoding="utf-8")
    # Of 100 wrong pairs one each is at 1, 2, ..., of 10 true ones one each at 5, 10, ...
    pairs = Verification(
        thresholds=np.arange(101.0) + 0.5,
        true_below=np.minimum(np.arange(101) // 5, 10),
        wrong_below=np.arange(101),
        true_count=10,
        wrong_count=100,
    )
    open_set = OpenSet(unknown=np.array([7.0, 9, 11, 13]), known=np.array([5, 9, np.inf]))
    results = dataclasses.replace(case.results, verification=pairs, tpr_at_fpr={0.1: 0.2})
    report.write(tmp_path / "closed", results, case.root, {})
    page = Page((tmp_path / "closed" / "report.html").read_text(encoding="utf-8"))
    assert "FPR 0.110.510.00%20.00%\n" in page.text
    # 0.34 of the wrong pairs and 0.6 of the true ones are below 34.5, 0.35 and 0.7 below 35.5.
    assert "equal errors35.0534.55%65.45%\n" in page.text
    assert "unknown" not in page.text
    assert page.all("a", href="#thresholds") and page.all("h2", id="thresholds")
    assert (tmp_path / "closed" / "roc.png").exists()

    results = dataclasses.replace(results, open_set=open_set)
    report.write(tmp_path / "open", results, case.root, {})
    page = Page((tmp_path / "open" / "report.html").read_text(encoding="utf-8"))
    assert "4 queries have a pid that the gallery lacks" in page.text
    assert "FPR 0.110.510.00%20.00%50.00%66.67%\n" in page.text


def test_the_page_shows_groups(case, written, tmp_path):
    assert "groups" not in (written[0] / "report.html").read_text(encoding="utf-8")
    names = ("mAP", "mINP", "MAP_at_R", "R_precision", "top_1", "top_5", "top_10")
    a, b = ({"queries": 3} | dict.fromkeys(names, share) for share in (0.8, 0.4))
    pairs = {("<a>", "10"): a, ("<a>", "9"): b, ("b", "10"): a}
    for name, groups, tables in (
        ("several", Groups({"<a>": a, "b": b}, pairs), 2),
        ("one", Groups({"<a>": a}, {("<a>", "9"): a}), 1),
        ("many", Groups({"<a>": a}, {("<a>", str(i)): a for i in range(report.MATRIX + 1)}), 1),
    ):
        results = dataclasses.replace(case.results, groups=groups)
        report.write(tmp_path / name, results, case.root, {})
        text = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        page = Page(text)
        section = page.text[page.text.rindex("\nGroups\n") : page.text.rindex("\nWorst queries\n")]
        labels = [tag["aria-label"] for tag in page.all("div", role="region")]
        assert sum("group" in label for label in labels) == tables
        assert "<a>380.0%80.0%80.0%80.0%80.0%\n" in section and "<a>" not in text
        if name == "several":
            assert "Queries are of 2 groups, whose mAP has a mean of 60.0%." in section
            assert section.index("b340.0%") < section.index("<a>380.0%")
            assert "910\n\n<a>40.0%80.0%\nb80.0%\n" in section


def test_charts_are_there_as_png(written):
    directory, _ = written
    assert sorted(path.name for path in directory.iterdir()) == [
        "cmc.png",
        "distances.png",
        "identities.png",
        "report.html",
    ]
    for path in directory.glob("*.png"):
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) > 300


def test_with_activations_each_picture_has_a_second_one(case, written, tmp_path):
    plain, asked = written[1], []

    def activations(images):
        asked.extend(images.paths)
        return [np.zeros((2, 1), np.float32)] * len(images)

    page = case.write(tmp_path, activations=activations)
    assert len(asked) == len(set(asked))
    assert len(page.all("img")) == 2 * len(plain.all("img"))
    assert len(page.all("img", **{"class": "map"})) == len(plain.all("img"))
    assert page.all("input", type="checkbox", id="maps") and not plain.all("input")


def test_an_overlay_is_bright_where_the_map_is_high():
    small = Image.fromarray(np.full((32, 16, 3), 128, np.uint8))
    overlaid = np.asarray(report.overlay(small, np.float32([[0.0], [1.0]]))).astype(int)
    assert overlaid.shape == (32, 16, 3)
    assert overlaid[-1].sum() > 2 * overlaid[0].sum()


def test_of_thousands_of_queries_only_the_lists_have_pictures(case, tmp_path):
    Q, G = 3000, 2000
    rng = np.random.default_rng(0)
    fids = case.gallery.fids
    query = images(pids=[f"{i % 700:04d}" for i in range(Q)], fids=[fids[i % 30] for i in range(Q)])
    gallery = images(
        pids=[f"{i % 700:04d}" for i in range(G)], fids=[fids[i % 30] for i in range(G)]
    )
    base = rng.random(G)
    results = results_of(
        query,
        gallery,
        lambda rows: base + rng.random((len(rows), 1)),
        aps=rng.random(Q).tolist(),
        cmc=np.linspace(0.1, 1, G),
        ranks=[[2]] * Q,
    )
    report.write(tmp_path, results, case.root, {})
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.all("article")) == 2 * report.LISTS
    shown = 2 * report.LISTS * (report.LENGTH + 2) + 2 * report.PAIRS
    assert len(page.all("img")) <= shown
    assert (tmp_path / "report.html").stat().st_size < 1e6
