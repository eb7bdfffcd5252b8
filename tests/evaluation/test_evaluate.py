import json
import re
import subprocess
import sys

import brute
import h5py
import numpy as np
import pytest
from paths import GOLDEN, PROJECT
from PIL import Image

import common
import evaluate
from runtime import files

NUMBERS = GOLDEN / "eval"
CASES = sorted(path.stem for path in NUMBERS.glob("*.json"))


def run(flags):
    evaluate.main(evaluate.parse_args(argv(flags)))


def argv(flags):
    """`--name value` for each of a dict; None leaves a flag out, "" is a flag without a value."""
    return [
        text
        for name, value in flags.items()
        if value is not None
        for text in (f"--{name}", str(value))
        if text
    ]


def write_set(folder, part, rows, embs):
    (folder / f"{part}.csv").write_text("".join(f"{pid},{fid}\n" for pid, fid in rows))
    with h5py.File(folder / f"{part}.h5", "w") as file:
        file["emb"] = embs


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


@pytest.mark.parametrize("case", CASES)
def test_figures_are_those_of_the_original(case, tmp_path, capsys):
    data, excluder, metric = case.split("_")[:3]
    query = f"{data}_diag_query" if excluder == "diagonal" else f"{data}_query"
    flags = {"excluder": excluder, "metric": metric, "filename": tmp_path / "results.json"}
    flags |= {
        "query_dataset": NUMBERS / f"{query}.csv",
        "query_embeddings": NUMBERS / f"{query}.h5",
    }
    flags |= {
        "gallery_dataset": NUMBERS / f"{data}_gallery.csv",
        "gallery_embeddings": NUMBERS / f"{data}_gallery.h5",
    }
    run(flags | ({"use_market_ap": ""} if case.endswith("_marketap") else {}))

    wanted, got = (
        json.loads((NUMBERS / f"{case}.json").read_text()),
        json.loads((tmp_path / "results.json").read_text()),
    )
    assert got.keys() == {"mAP", "mINP", "CMC", "aps", "inps", "precision_at_recall"}
    assert got["mAP"] == pytest.approx(wanted["mAP"], abs=1e-5)
    np.testing.assert_allclose(got["aps"], wanted["aps"], rtol=0, atol=1e-3)
    assert len(got["CMC"]) == 1200
    np.testing.assert_allclose(
        got["CMC"][:50], wanted["CMC"], rtol=0, atol=1.001 / len(wanted["aps"])
    )
    assert f"mAP: {got['mAP']:.2%} | top-1: {got['CMC'][0]:.2%} top-2: " in capsys.readouterr().out


def test_there_is_a_golden_case_of_every_kind():
    assert len(CASES) == 16
    for part in (
        "diagonal",
        "duke_duke",
        "market1501_market1501",
        "euclidean",
        "sqeuclidean",
        "cityblock",
        "marketap",
    ):
        assert any(part in case for case in CASES)


def results(flags):
    return json.loads(flags["filename"].read_text())


def test_the_summary_and_the_file(small, capsys):
    # Ranks of the matches: 1 (the same camera and junk are closer, and ignored); 1 and 5; 2.
    run(small)
    out, err = capsys.readouterr()
    assert (
        out
        == "mAP: 73.33% | top-1: 66.67% top-2: 100.00% | top-5: 100.00% | top-10: 100.00% | mINP: 63.33%\n"
    )
    assert err == ""
    assert results(small)["aps"] == pytest.approx([1, 0.7, 0.5])
    assert results(small)["mAP"] == pytest.approx(2.2 / 3)
    assert results(small)["inps"] == pytest.approx([1, 2 / 5, 1 / 2])
    assert results(small)["mINP"] == pytest.approx((1 + 2 / 5 + 1 / 2) / 3)
    precisions = [2.5 / 3] * 5 + [
        1.9 / 3
    ] * 5  # the second query's are 1 up to a recall of 0.5, then 2/5
    assert list(results(small)["precision_at_recall"].values()) == pytest.approx(precisions)
    assert list(results(small)["precision_at_recall"]) == [
        *(f"0.{tenth}" for tenth in range(1, 10)),
        "1.0",
    ]
    assert results(small)["CMC"] == pytest.approx([2 / 3, 1, 1, 1, 1, 1])
    assert sorted(path.name for path in small["filename"].parent.iterdir()) == [
        "gallery.csv",
        "gallery.h5",
        "query.csv",
        "query.h5",
        "results.json",
    ]


def test_market_ap(small):
    run(small | {"use_market_ap": ""})
    assert results(small)["aps"] == pytest.approx(
        [1, (1 + (1 / 4 + 2 / 5) / 2) / 2, (0 + 1 / 2) / 2]
    )


def test_without_a_filename_nothing_is_written(small, capsys):
    run(small | {"filename": None})
    assert capsys.readouterr().out.startswith("mAP: 73.33%")
    assert small["filename"].read_text() == '{"mAP": 0.5}'


def test_batch_size_changes_nothing(small):
    run(small)
    wanted = results(small)
    run(small | {"batch_size": 1})
    assert results(small) == wanted


@pytest.mark.parametrize("size", range(1, 12))
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


def test_augmented_embeddings_and_other_precisions(small):
    for dtype in (np.float16, np.float64):
        for part in ("query", "gallery"):
            with h5py.File(small[f"{part}_embeddings"], "r+") as file:
                emb = file["emb"][()]
                del file["emb"]
                file["emb"] = emb.astype(dtype)
                if "emb_aug" not in file:
                    file["emb_aug"] = np.full((2, *emb.shape), np.nan, np.float32)
                    file["augmentation_types"] = np.array(
                        ["original_resize", "original_flip_resize"], dtype="S"
                    )
        run(small)
        assert results(small)["mAP"] == pytest.approx(2.2 / 3)


def test_chunked_compressed_and_foreign_files_give_the_same(small):
    for options in ({"chunks": (2, 1)}, {"compression": "gzip", "shuffle": True}, {"dtype": ">f4"}):
        for part in ("query", "gallery"):
            with h5py.File(small[f"{part}_embeddings"], "r+") as file:
                emb = file["emb"][()]
                del file["emb"]
                file.create_dataset("emb", data=emb, **options)
        run(small)
        assert results(small)["mAP"] == pytest.approx(2.2 / 3)


def test_what_lies_in_one_piece_is_mapped_and_not_read(tmp_path):
    embs = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
    with h5py.File(tmp_path / "emb.h5", "w", userblock_size=512) as file:
        file["augmentation_types"] = np.array(["original_resize"], dtype="S")
        file["emb"] = embs
    got = evaluate.load_embeddings(tmp_path / "emb.h5", "emb.csv", 50)
    assert got.dtype == np.float32
    assert not got.flags.owndata and not got.flags.writeable
    np.testing.assert_array_equal(got, embs)


def test_embeddings_that_were_never_written_are_zeros(tmp_path):
    with h5py.File(tmp_path / "emb.h5", "w") as file:
        file.create_dataset("emb", (4, 3), np.float32)
    np.testing.assert_array_equal(
        evaluate.load_embeddings(tmp_path / "emb.h5", "emb.csv", 4), np.zeros((4, 3))
    )


# ------------------------------------------------------------------------- after the network


@pytest.fixture(params=range(3))
def crowd(request, tmp_path):
    """Flags for a random pair of sets with cameras, junk, and queries that share pid and camera;
    and its contents.
    """
    rng = np.random.default_rng(request.param)
    centers = rng.standard_normal((12, 6))
    flags, rows, embs = {"excluder": "market1501", "filename": tmp_path / "results.json"}, {}, {}
    for part, count in (("query", 40), ("gallery", 160)):
        pids, cameras = rng.integers(0, 12, count), rng.integers(1, 4, count)
        embs[part] = (centers[pids] + rng.standard_normal((count, 6))).astype(np.float32)
        if part == "gallery":
            pids[rng.random(count) < 0.1] = -1
        rows[part] = [(str(pid), str(camera)) for pid, camera in zip(pids, cameras, strict=True)]
        write_set(
            tmp_path,
            part,
            [(p, f"{p}_c{c}s1_{i}.jpg") for i, (p, c) in enumerate(rows[part])],
            embs[part],
        )
        flags |= {
            f"{part}_dataset": tmp_path / f"{part}.csv",
            f"{part}_embeddings": tmp_path / f"{part}.h5",
        }
    return flags, rows, embs


OPTIONS = {
    "nothing": {},
    "pooled": {"multi_query": "mean"},
    "pooled by max": {"multi_query": "max"},
    "expanded": {"query_expansion": 5},
    "expanded by default": {"query_expansion": ""},
    "expanded further": {"query_expansion": 9, "query_expansion_alpha": 0.5},
    "reranked": {"rerank": ""},
    "reranked otherwise": {"rerank": "", "rerank_k1": 9, "rerank_k2": 3, "rerank_lambda": 0.1},
    "all together": {"multi_query": "mean", "query_expansion": 4, "rerank": "", "rerank_k1": 7},
}


@pytest.mark.parametrize("metric", evaluate.ranking.METRICS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_figures_are_those_of_plain_loops(options, metric, crowd):
    flags, rows, embs = crowd
    run(flags | options | {"metric": metric})

    query_rows, query = rows["query"], embs["query"]
    if "multi_query" in options:
        query_rows, query = brute.pool(query_rows, query, options["multi_query"])
        assert len(query) < 40
        names = {f"{pid}_c{camera}" for pid, camera in query_rows}
        assert {name.split("s1_")[0] for name in results(flags)["queries"]} == names
    gallery = embs["gallery"]
    if "query_expansion" in options:
        both = np.concatenate([query, gallery])
        both = brute.expand(
            both, options["query_expansion"] or 5, options.get("query_expansion_alpha", 3)
        )
        query, gallery = both[: len(query)], both[len(query) :]
    if "rerank" in options:
        parts = (
            options.get(f"rerank_{name}", default)
            for name, default in (("k1", 20), ("k2", 6), ("lambda", 0.3))
        )
        dists = brute.rerank(query, gallery, metric, *parts)
    else:
        dists = brute.distances(query, gallery, metric)
    wanted = brute.score(dists, query_rows, rows["gallery"])

    got = results(flags)
    assert got["aps"] == [w and pytest.approx(w[0]) for w in wanted]
    assert got["inps"] == [w and pytest.approx(w[1]) for w in wanted]
    aps, inps, firsts = zip(*filter(None, wanted), strict=True)
    assert got["mAP"] == pytest.approx(np.mean(aps))
    assert got["mINP"] == pytest.approx(np.mean(inps))
    np.testing.assert_allclose(got["CMC"], [np.mean(np.array(firsts) <= k) for k in range(1, 161)])


@pytest.mark.parametrize(
    "options", [{}, {"query_expansion": 2}, {"rerank": "", "rerank_k1": 6, "rerank_k2": 3}]
)
def test_one_set_as_query_and_gallery_has_each_image_once(options, crowd):
    flags, rows, embs = crowd
    one_set = {
        "query_dataset": flags["gallery_dataset"],
        "query_embeddings": flags["gallery_embeddings"],
    }
    run(flags | one_set | options | {"metric": "euclidean", "excluder": "diagonal"})
    rows = [
        (pid, number) for number, (pid, _) in enumerate(rows["gallery"])
    ]  # each image has a camera of its own
    rows = [
        ("junk" if pid == "-1" else pid, number) for pid, number in rows
    ]  # to this excluder a pid like any other
    everyone = embs["gallery"]
    if "query_expansion" in options:
        everyone = brute.expand(everyone, 2, 3)
    dists = brute.distances(everyone, everyone, "euclidean")
    if "rerank" in options:
        for number in range(0, len(everyone), 20):
            (row,) = brute.rerank(
                everyone[[number]], np.delete(everyone, number, axis=0), "euclidean", 6, 3, 0.3
            )
            dists[number] = np.insert(row, number, 0)
    step = 20 if "rerank" in options else 1
    wanted = brute.score(dists[::step], rows[::step], rows)
    assert results(flags)["aps"][::step] == [w and pytest.approx(w[0]) for w in wanted]


def test_images_of_one_name_and_two_embeddings_are_two():
    same = evaluate.queries_in_gallery(
        ["a", "b"], np.eye(2), ["b", "c", "a"], np.float32([[0, 1], [0, 1], [1, 1]])
    )
    assert same.tolist() == [1, -1, -1]


def test_embeddings_that_were_made_differently_are_warned_about(crowd, capsys):
    flags, _, _ = crowd
    for part in ("query", "gallery"):
        with h5py.File(flags[f"{part}_embeddings"], "a") as file:
            file.attrs["checkpoint"] = f"exp/checkpoint-{len(part)}"
            file["augmentation_types"] = np.array(["original_center"], "S")
    run(flags | {"metric": "euclidean"})
    err = capsys.readouterr().err
    assert (
        "The checkpoint of " in err and "is exp/checkpoint-5" in err and " exp/checkpoint-7." in err
    )
    assert "augmentation_types" not in err


def test_embeddings_of_one_point_are_warned_about(crowd, capsys):
    flags, rows, embs = crowd
    with h5py.File(flags["query_embeddings"], "a") as file:
        file["emb"][:] = 1
    run(flags | {"metric": "euclidean"})
    assert (
        f"All embeddings of {flags['query_embeddings']} seem to be one point"
        in capsys.readouterr().err
    )


def test_roc(crowd):
    flags, rows, embs = crowd
    run(flags | {"metric": "cosine", "roc": ""})
    pairs = [
        (dist, query[0] == other[0])
        for query, row in zip(
            rows["query"], brute.distances(embs["query"], embs["gallery"], "cosine"), strict=True
        )
        for other, dist in zip(rows["gallery"], row, strict=True)
        if other[0] != "-1" and other != query
    ]
    true, wrong = (sorted(dist for dist, same in pairs if same == kind) for kind in (True, False))
    wanted = {
        str(fpr): np.mean(true < wrong[int(fpr * len(wrong))]) for fpr in (1e-4, 1e-3, 1e-2, 1e-1)
    }
    assert results(flags)["TPR_at_FPR"] == pytest.approx(wanted, abs=1.5 / len(true))


def test_pooled_queries_are_told(crowd, capsys):
    flags, rows, _ = crowd
    run(flags | {"metric": "euclidean", "multi_query": "mean"})
    assert (
        f"Pooled the 40 queries of the same pid and camera into {len(set(rows['query']))}."
        in capsys.readouterr().err
    )


def test_a_pool_of_one_each_is_warned_about(crowd, capsys):
    flags, rows, embs = crowd
    firsts = sorted(
        {row: number for number, row in reversed(list(enumerate(rows["query"])))}.values()
    )
    fids = [(rows["query"][i][0], "{}_c{}s1_{}.jpg".format(*rows["query"][i], i)) for i in firsts]
    write_set(flags["query_dataset"].parent, "query", fids, embs["query"][firsts])
    run(flags | {"metric": "euclidean", "multi_query": "mean"})
    assert "--multi_query pooled nothing" in capsys.readouterr().err


# ------------------------------------------------------------------------- the report


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"metric": "cosine"},
        {"query_expansion": 2},
        {"rerank": "", "rerank_k2": 2},
        {"multi_query": "mean"},
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
    """Replaces the CSV of a part."""
    return lambda flags: flags[f"{part}_dataset"].write_text("".join(row + "\n" for row in rows))


def embeddings(part, value, name="emb"):
    """Replaces what is in the HDF5 file of a part."""

    def change(flags):
        with h5py.File(flags[f"{part}_embeddings"], "w") as file:
            file[name] = value

    return change


def cut(flags):
    path = flags["gallery_embeddings"]
    path.write_bytes(path.read_bytes()[:-20])


def scrambled(flags):
    data = bytearray(flags["gallery_embeddings"].read_bytes())
    data[96:800] = bytes(704)
    flags["gallery_embeddings"].write_bytes(data)


def emb_is_a_group(flags):
    with h5py.File(flags["query_embeddings"], "w") as file:
        file.create_group("emb")


def with_value(value, row):
    emb = np.zeros((6, 2), np.float64)
    emb[row:, 1] = value
    return embeddings("gallery", emb)


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
        "--rerank_k2: .*k1 . 1. Received: 6 with --rerank_k1 4",
    ),
    "rerank_lambda beyond 1": (
        replaced(rerank="", rerank_lambda=1.5),
        "--rerank_lambda: .*0..1. Received: 1.5",
    ),
    "rerank_lambda alone": (
        replaced(rerank_lambda=0.5),
        "--rerank_lambda: has no effect without --rerank",
    ),
    "roc without a file": (
        replaced(roc="", filename=None),
        "--roc: has no effect without --filename",
    ),
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
        lines("gallery", *["a,b/c.jpg"] * 6),
        "PID_cCsS_.*Received: 'b/c.jpg'.*diagonal",
    ),
    "excluder of another data set": (
        replaced(excluder="duke"),
        "PID_cC_.*Received: 'q/0001_c1s1_000001_00.jpg'",
    ),
    "HDF5 empty file": (
        lambda f: f["query_embeddings"].write_bytes(b""),
        "query.h5 cannot be read as HDF5",
    ),
    "HDF5 is a CSV": (
        lambda f: f.update(gallery_embeddings=f["gallery_dataset"]),
        "gallery.csv cannot be read as HDF5",
    ),
    "HDF5 cut": (cut, "gallery.h5 cannot be read as HDF5.*embed.py"),
    "HDF5 scrambled": (scrambled, "gallery.h5 cannot be read as HDF5.*embed.py"),
    "no emb": (
        embeddings("query", np.zeros((3, 2)), "embs"),
        "query.h5 .*`emb`.*Received: .'embs'.*embed.py",
    ),
    "emb a group": (emb_is_a_group, "query.h5 .*`emb`"),
    "emb a scalar": (embeddings("query", 1.5), "`emb` in .*query.h5 .*Received: float64 .."),
    "emb of 1 axis": (
        embeddings("query", np.zeros(3)),
        r"`emb` in .*query.h5 .*Received: float64 \[3\]",
    ),
    "emb of 3 axes": (
        embeddings("query", np.zeros((2, 3, 2), "f4")),
        r"query.h5 .*Received: float32 \[2, 3, 2\]",
    ),
    "emb of integers": (
        embeddings("gallery", np.zeros((6, 2), int)),
        r"gallery.h5 .*floats.*Received: int64 \[6, 2\]",
    ),
    "emb of text": (embeddings("gallery", [["a"]] * 6), "gallery.h5 .*floats.*Received: object"),
    "emb of no dimension": (
        embeddings("gallery", np.zeros((6, 0))),
        r"gallery.h5 .*Received: float64 \[6, 0\]",
    ),
    "too few rows": (
        embeddings("query", np.zeros((2, 2))),
        "query.h5 .*query.csv.*2 embeddings, 3 images",
    ),
    "too many rows": (
        embeddings("gallery", np.zeros((7, 2))),
        "gallery.h5 .*gallery.csv.*7 embeddings, 6 images",
    ),
    "dimensions differ": (
        embeddings("query", np.zeros((3, 5))),
        "same dimension.*5 in .*query.h5, 2 in .*gallery.h5",
    ),
    "NaN": (
        with_value(np.nan, 4),
        "2 of the 6 embeddings in .*gallery.h5 are NaN or infinite.* row 4",
    ),
    "infinite": (with_value(-np.inf, 5), "1 of the 6 embeddings in .*gallery.h5 .* row 5"),
    "beyond float32": (
        with_value(1e300, 0),
        "6 of the 6 embeddings in .*gallery.h5 .*infinite in float32.* row 0",
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
