import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import small_network
from image_kinds import oriented
from PIL import Image
from web_page import Page

import common
import embed
import search
from data.dataset import load
from evaluation import Embedded, Options, embeddings_file, evaluate
from runtime import files


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """An experiment that has embedded the data set: with its first checkpoint, and a crop."""
    root = tmp_path_factory.mktemp("experiments") / "exp"
    small_network.write_experiment(
        root, image_root=str(dataset.root), crop_augment=True, metric="euclidean"
    )
    argv = f"--experiment_root={root} --dataset={dataset.csv} --quiet --checkpoint=checkpoint-0"
    embed.main(embed.parse_args([*argv.split(), "--crop_augment=center"]))
    return root


@pytest.fixture(scope="module")
def embs(trained, dataset):
    return embeddings_file.load(trained / "all_embeddings.h5", load(dataset.csv))


def run(*argv):
    search.main(search.parse_args([str(word) for word in argv]))


def found_in(path):
    """From the name of each query to its rows."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    by_query = {}
    for row in rows:
        by_query.setdefault(row["query"], []).append(row)
    return by_query


@pytest.mark.parametrize("excluder", ["diagonal", "market1501"])
def test_what_is_found_first_is_what_evaluate_ranks_first(
    excluder, trained, dataset, embs, tmp_path
):
    flags = [f"--experiment_root={trained}", f"--gallery={dataset.csv}", f"--query={dataset.csv}"]
    run(*flags, f"--excluder={excluder}", "--top_k=5", f"--filename={tmp_path / 'out.csv'}")
    images = Embedded(load(dataset.csv), embs)
    results = evaluate(images, images, Options("euclidean", excluder))
    dists = results.distances(np.arange(len(embs)))
    nearest = np.argsort(dists, axis=1, kind="stable")[:, :5]
    found = found_in(tmp_path / "out.csv")
    assert list(found) == list(dataset.fids)
    for row, each in enumerate(found.values()):
        assert [one["fid"] for one in each] == [dataset.fids[place] for place in nearest[row]]
        assert [one["pid"] for one in each] == [dataset.pids[place] for place in nearest[row]]
        wanted = dists[row, nearest[row]]
        np.testing.assert_allclose([float(one["distance"]) for one in each], wanted, rtol=1e-3)


def test_an_image_finds_itself_with_the_views_of_the_gallery(trained, dataset, tmp_path, capfd):
    path = dataset.root / dataset.fids[4]
    flags = [f"--experiment_root={trained}", f"--gallery={trained / 'all_embeddings.h5'}"]
    run(*flags, f"--query={path}", f"--filename={tmp_path / 'out.json'}", "--threshold=0.05")
    err = capfd.readouterr().err
    assert (
        "Embedding the queries, 1, with" in err and "checkpoint-0" in err and "WARNING" not in err
    )
    values = json.loads((tmp_path / "out.json").read_text())
    assert values["made"]["threshold"] == 0.05 and values["made"]["metric"] == "euclidean"
    (query,) = values["queries"]
    assert query["query"] == str(path) and len(query["found"]) == 10
    first, second = query["found"][:2]
    assert first["fid"] == dataset.fids[4] and first["pid"] is None and first["same"] is True
    assert first["distance"] < 1e-3 < second["distance"]
    run(*flags, f"--query={path}", "--top_k=2", "--threshold=0.05")
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["query", "rank", "pid", "fid", "distance", "same"]
    assert lines[1].split()[2:3] == [dataset.fids[4]] and lines[1].endswith("same")
    assert len(lines) == 3


def test_a_query_that_stands_there_twice_has_two_entries(trained, dataset, tmp_path):
    rows = [f"{pid},{dataset.fids[0]}\n" for pid in (dataset.pids[0], "another")]
    (tmp_path / "twice.csv").write_text("".join(rows))
    flags = [f"--experiment_root={trained}", f"--gallery={dataset.csv}", "--top_k=3"]
    run(*flags, f"--query={tmp_path / 'twice.csv'}", f"--filename={tmp_path / 'out.json'}")
    queries = json.loads((tmp_path / "out.json").read_text())["queries"]
    assert [query["query"] for query in queries] == [dataset.fids[0]] * 2
    assert [[row["rank"] for row in query["found"]] for query in queries] == [[1, 2, 3]] * 2


def test_another_checkpoint_or_other_views_are_told(trained, dataset, tmp_path, capfd):
    flags = [f"--experiment_root={trained}", f"--gallery={dataset.csv}"]
    flags += [f"--query={dataset.root / dataset.fids[4]}", f"--filename={tmp_path / 'out.csv'}"]
    run(*flags, "--checkpoint=checkpoint-3", "--flip_augment", "--aggregator=mean")
    err = capfd.readouterr().err
    assert re.search("checkpoint of the queries is .*checkpoint-3, that of the gallery .*-0", err)
    assert "augmentation_types of the queries is original_resize, original_flip_resize" in err


def test_a_crop_is_a_box_of_the_image_as_it_is_stored(trained, dataset, embs, tmp_path):
    root = tmp_path / "exp"
    shutil.copytree(trained, root)
    args = json.loads((root / "args.json").read_text()) | {"orientation": "exif"}
    files.write_json(root / "args.json", args)
    with Image.open(dataset.root / dataset.fids[4]) as image:
        whole = Image.new("RGB", (60, 70), "red")
        whole.paste(image, (10, 20))
        whole.save(tmp_path / "whole.png")
    flags = [f"--experiment_root={root}", f"--gallery={dataset.csv}", "--top_k=1"]
    out = tmp_path / "out.csv"
    run(*flags, f"--query={tmp_path}/whole.png", "--crop=10,20,26,44", f"--filename={out}")
    ((name, (first,)),) = found_in(out).items()
    assert name == f"{tmp_path}/whole.png#10,20,26,44"
    assert first["fid"] == dataset.fids[4] and float(first["distance"]) < 1e-3
    # Turned files are the same image to a network that was trained so.
    folder = tmp_path / "turned"
    folder.mkdir()
    for orientation in (1, 6):
        (folder / f"{orientation}.png").write_bytes(oriented(orientation, format="PNG"))
    run(*flags, f"--query={folder}", f"--filename={out}")
    one, other = found_in(out).values()
    turned = embed.Embedder(root, "checkpoint-0", crop_augment="center")(
        [folder / "1.png", folder / "6.png"]
    )
    for emb, (first,) in zip(turned, (one, other), strict=True):
        dists = np.linalg.norm(embs - emb, axis=1)
        assert first["fid"] == dataset.fids[dists.argmin()]
        assert float(first["distance"]) == pytest.approx(dists.min(), rel=1e-3)


def test_embeddings_are_searched_for_without_tensorflow_and_in_an_index(trained, dataset, tmp_path):
    shutil.copy(trained / "all_embeddings.h5", tmp_path / "gallery.h5")
    words = "--metric cosine --gallery gallery.h5 --query gallery.h5 --top_k 40 --filename"
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); import search; del sys.argv[0]; "
    code += "search.main(search.parse_args()); assert 'tensorflow' not in sys.modules"
    command = [sys.executable, "-c", code, str(common.HERE), "search.py", *words.split(), "out.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "The gallery has only 19 images." in done.stderr
    found = found_in(tmp_path / "out.csv")
    assert [each[0]["fid"] for each in found.values()] == list(dataset.fids)
    assert {len(each) for each in found.values()} == {19}
    flags = [f"--gallery={tmp_path}/gallery.h5", f"--index={tmp_path}/index"]
    run(*flags, "--metric=cosine", "--build=ivf")
    run(
        *flags,
        f"--query={tmp_path}/gallery.h5",
        "--top_k=40",
        f"--filename={tmp_path}/by_index.csv",
    )
    assert (tmp_path / "by_index.csv").read_text() == (tmp_path / "out.csv").read_text()


def test_the_page_escapes_hostile_names(trained, tmp_path):
    folder = tmp_path / "queries"
    folder.mkdir()
    hostile = "<script>alert('x')</script>\"&\x1b[2J\u202e.png".replace("/", "∕")
    Image.new("RGB", (20, 30), "blue").save(folder / hostile)
    Image.new("RGB", (90, 30), "green").save(folder / "wide.png")
    (tmp_path / "g.csv").write_text(
        f'<b>1</b>,"{hostile.replace(chr(34), chr(34) * 2)}"\n2,wide.png\n'
    )
    argv = f"--experiment_root={trained} --dataset={tmp_path}/g.csv --image_root={folder} --quiet"
    embed.main(embed.parse_args([*argv.split(), f"--filename={tmp_path}/g.h5"]))
    flags = [f"--experiment_root={trained}", f"--gallery={tmp_path}/g.csv"]
    flags += [f"--gallery_embeddings={tmp_path}/g.h5", f"--query={folder}", "--threshold=0.01"]
    run(*flags, f"--report={tmp_path}/report", f"--filename={tmp_path}/out.csv")
    text = (tmp_path / "report" / "search.html").read_text("utf-8")
    page = Page(text)
    assert (
        len(page.all("script")) == 1 and len(page.all("article")) == 2 and not page.all("b", id="")
    )
    images = page.all("img")
    assert len(images) == 6 and all(image["src"].startswith("data:image/jpeg") for image in images)
    visible = common.visible(hostile)
    assert {image["alt"] for image in images[:3]} >= {f"Query: {visible}"}
    assert "\x1b" not in text and "\u202e" not in text
    assert "<b>1</b>" not in text and "&lt;b&gt;1&lt;/b&gt;" in text
    assert [tag["class"] for tag in page.all("li")] == ["query", "true", "plain"] * 2
    assert "distance is below 0.01000 (given)" in page.text
    assert list(found_in(tmp_path / "out.csv")) == [hostile, "wide.png"]
    (tmp_path / "report" / "search.html").write_text("of somebody")
    with pytest.raises(common.UserError, match="is not of an earlier report"):
        run(*flags, f"--report={tmp_path}/report")


BAD_FLAGS = {
    "no query": (["--gallery=CSV"], "required: --query. Give an image, a folder or a CSV"),
    "missing gallery": (["--gallery=no.h5", "--query=x"], "--gallery: should be an existing file"),
    "build without index": (["--gallery=CSV", "--build=ivf"], "--build: needs --index"),
    "a box that is none": (
        ["--gallery=CSV", "--query=x", "--crop=5,5,1,9"],
        "--crop: should be whole pixels x1,y1,x2,y2.*Received: 5,5,1,9",
    ),
    "another suffix": (
        ["--gallery=CSV", "--query=x", "--filename=x.txt"],
        "--filename: should end in .csv or .json. Received: x.txt",
    ),
    "excluder with index": (
        ["--gallery=CSV", "--query=x", "--index=i", "--excluder=diagonal"],
        "--excluder: not with --index",
    ),
    "k of 0": (["--gallery=CSV", "--query=x", "--top_k=0"], "--top_k.*at least 1. Received: 0"),
    "views that do not fit": (
        ["--gallery=CSV", "--query=x", "--flip_augment"],
        "--aggregator: needed with --flip_augment",
    ),
    "output of no query": (
        ["--gallery=CSV", "--build=ivf", "--index=i", "--report=."],
        "--report: has no effect without --query",
    ),
    "a checkpoint of no query": (
        ["--gallery=CSV", "--build=ivf", "--index=i", "--checkpoint=best"],
        "--checkpoint: has no effect without --query",
    ),
    "a recall without build": (
        ["--gallery=CSV", "--query=x", "--index=i", "--recall=0.9"],
        "--recall: has no effect without --build",
    ),
    "an FPR without threshold": (
        ["--gallery=CSV", "--query=x", "--threshold_at=EER"],
        "--threshold_at: has no effect without --threshold",
    ),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_a_bad_flag_ends_with_what_is_wrong(case, dataset, capsys):
    argv, message = BAD_FLAGS[case]
    with pytest.raises(SystemExit) as end:
        search.parse_args([flag.replace("CSV", str(dataset.csv)) for flag in argv])
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err.strip().splitlines()[-1])


def test_bad_input_is_told_before_tensorflow_is_asked_and_nothing_is_written(
    trained, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(search.like_gallery, "import_tensorflow", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no image")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "outside.csv").write_text("1,../../etc/passwd\n")
    np.save(tmp_path / "wide.npy", np.ones((19, 9), np.float32))
    image = dataset.root / dataset.fids[0]
    before = sorted(path.name for path in tmp_path.rglob("*"))
    cases = {
        "--query should be an existing image, folder or CSV. Received: nowhere.jpg": [
            "--query=nowhere.jpg"
        ],
        "--query empty has no image.*Received: no files": ["--query=empty"],
        "broken/a.png cannot be read": ["--query=broken"],
        "text.jpg cannot be read: it is of an unknown kind": ["--query=text.jpg"],
        "are not below --image_root": ["--query=outside.csv"],
        "--crop is for a query that is one image. Received: broken": [
            "--query=broken",
            "--crop=0,0,1,1",
        ],
        r"the box 0,0,99,1 of .* is not within the image": [f"--query={image}", "--crop=0,0,99,1"],
        "embeddings have 9 numbers, those of .* 8": [
            f"--query={image}",
            "--gallery_embeddings=wide.npy",
        ],
        "there is no checkpoint 'checkpoint-7'": [f"--query={image}", "--checkpoint=checkpoint-7"],
        "is no index": [f"--query={image}", "--index=empty"],
        "--index broken is not empty": ["--index=broken", "--build=flat"],
        "no index for --metric cityblock": ["--index=new", "--build=flat", "--metric=cityblock"],
        "--threshold should be a number": [f"--query={image}", "--threshold=no.json"],
    }
    for message, flags in cases.items():
        argv = [f"--experiment_root={trained}", f"--gallery={dataset.csv}", "--filename=out.csv"]
        argv = argv[:2] if "--build=flat" in flags else argv
        with pytest.raises(common.UserError, match=message):
            run(*argv, *flags)
    # Of files of embeddings, fids matter as soon as their images are to be shown.
    with embeddings_file.create("hostile.h5", 19, 8, fids=["../x.png"] * 19) as file:
        file.add(np.ones((19, 8), np.float32))
    flags = ["--metric=cosine", f"--image_root={dataset.root}", "--report=report"]
    hostile, good = "hostile.h5", f"{trained}/all_embeddings.h5"
    for gallery, query in ((hostile, good), (good, hostile)):
        with pytest.raises(
            common.UserError, match="19 of the 19 images of hostile.h5 are not below"
        ):
            run(*flags, f"--gallery={gallery}", f"--query={query}")
    (tmp_path / "hostile.h5").unlink()
    flags = ["--metric=cosine", f"--gallery={good}", f"--query={good}"]
    for flag in ("--checkpoint=best", "--weights=raw", "--crop_augment=center"):
        with pytest.raises(common.UserError, match="has no effect: .* has embeddings already"):
            run(*flags, flag)
    with pytest.raises(common.UserError, match="--experiment_root is needed to embed"):
        run(f"--gallery={trained}/all_embeddings.h5", f"--query={image}", "--metric=cosine")
    with pytest.raises(common.UserError, match="which --metric"):
        run(f"--gallery={trained}/all_embeddings.h5", f"--query={image}")
    monkeypatch.undo()
    content = image.read_bytes()
    (tmp_path / "broken" / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(common.UserError, match="broken/a.png cannot be read"):
        run(*argv, f"--query={tmp_path}/broken", f"--filename={tmp_path}/out.csv")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
