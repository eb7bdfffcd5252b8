import itertools
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import common
from experiment import detailed_logs
from experiment.detailed_logs import DetailedLogs, Logged
from reports import hard_images
from runtime.files import write_json


def logged_of(fids, losses, rows):
    fids = np.array([[fid.encode() for fid in batch] for batch in fids])
    return Logged(None, np.float32(losses), fids, np.array(rows))


PIDS = {fid: fid.upper() for fid in "abcdef"}


def test_hard_images_are_those_of_the_last_batches_beside_their_means(monkeypatch):
    monkeypatch.setattr(hard_images, "LAST", 2)
    monkeypatch.setattr(hard_images, "MIN_BATCHES", 1)
    logged = logged_of(["ab", "ac", "ff", "ab"], [[9, 1], [1, 5], [7, 7], [2, 0.5]], [0, 1, 3])
    found, min_batches = hard_images.hard_images(logged, PIDS)
    assert min_batches == 1
    assert [image[:2] for image in found] == [("C", "c"), ("A", "a"), ("B", "b")]
    means = [3, (1.25 + 3) / 2, (1.25 + 5) / 2]  # of the batches 1; 3 and 1; 3 and 0
    losses = [5, 1.5, 0.75]
    assert [image.loss for image in found] == losses
    ratios = [loss / mean for loss, mean in zip(losses, means, strict=True)]
    np.testing.assert_allclose([image.relative for image in found], ratios)
    assert [image.batches for image in found] == [1, 2, 2]


def test_who_was_drawn_early_is_not_hard_for_that():
    """Losses fall from 1 to 0.1. b was drawn at first only, c is the hard one."""
    scale = np.linspace(1, 0.1, 8)[:, None]
    fids = ["abdd"] * 3 + ["acdd"] * 5
    losses = scale * [1, 1, 1, 1] + np.array([[0] * 4] * 3 + [[0, 0.05, 0, 0]] * 5)
    found, _ = hard_images.hard_images(logged_of(fids, losses, range(8)), PIDS)
    assert found[0].fid == "c" and found[0].loss < max(image.loss for image in found)


def test_images_of_few_batches_are_left_out_and_copies_in_a_batch_are_one():
    fids = ["aabc", "aabc", "aabd"]
    logged = logged_of(fids, [[1, 3, 2, 9]] * 3, range(3))
    found, min_batches = hard_images.hard_images(logged, PIDS)
    assert min_batches == 3 == hard_images.MIN_BATCHES
    assert [(image.fid, image.loss, image.batches) for image in found] == [("a", 2, 3), ("b", 2, 3)]
    found, min_batches = hard_images.hard_images(logged_of(fids[:2], logged.losses, [0, 1]), PIDS)
    assert min_batches == 2 and [image.fid for image in found] == ["c", "a", "b"]


def test_images_of_batches_without_any_loss_come_last():
    logged = logged_of(["ab", "cd"], [[0, 0], [0, 1]], [0, 1])
    found, _ = hard_images.hard_images(logged, PIDS)
    assert [(image.fid, image.relative) for image in found] == [
        ("d", 2), ("c", 0), ("a", 0), ("b", 0)
    ]  # fmt: skip


def random_batches(count=6, P=4, K=3):
    rng = np.random.default_rng(0)
    for _ in range(count):
        pids = np.repeat(rng.choice(list("uvwxyz"), P, replace=False), K)
        embs = rng.normal(size=(P * K, 2))
        yield pids, np.linalg.norm(embs[:, None] - embs, axis=-1)


def test_confused_pids_are_counted_as_by_a_loop(monkeypatch):
    monkeypatch.setattr(hard_images, "SHOWN", 100)
    closest, possible = Counter(), Counter()
    for pids, dists in random_batches():
        for i, pid in enumerate(pids):
            others = [(dists[i, j], other) for j, other in enumerate(pids) if other != pid]
            closest[frozenset([pid, min(others)[1]])] += 1
            for other in {other for _, other in others}:
                possible[frozenset([pid, other])] += 1
    found = hard_images.confused_pids(random_batches())
    assert {frozenset(pair): counts for pair, counts in found.items()} == {
        pair: (count, possible[pair]) for pair, count in closest.items()
    }
    counts = [count for count, _ in found.values()]
    assert counts == sorted(counts, reverse=True)


def test_distance_percentiles_are_those_of_all_pairs_but_images_with_themselves():
    for pids, dists in random_batches():
        pairs = list(itertools.permutations(range(len(pids)), 2))
        expected = [
            np.percentile(
                [dists[i, j] for i, j in pairs if (pids[i] == pids[j]) == same], (5, 50, 95)
            )
            for same in (True, False)
        ]
        np.testing.assert_allclose(
            hard_images.distance_percentiles(pids, dists), expected, rtol=1e-12
        )


@pytest.fixture
def experiment(dataset, tmp_path):
    """An experiment that was to run 4 iterations and ran 3; the second image of the data set is the
    hardest.
    """
    root = tmp_path / "exp"
    root.mkdir()
    flags = {"train_set": str(dataset.csv), "image_root": str(dataset.root), "metric": "cityblock"}
    write_json(root / "args.json", flags)
    fids = np.array([[fid.encode() for fid in dataset.fids[:8]]] * 3)
    rng = np.random.default_rng(1)
    layout = detailed_logs.layout(iterations=4, B=8, D=5, fids=dataset.fids)
    with DetailedLogs(root, layout) as logs:
        for row in range(3):
            logs.write(
                row,
                embeddings=rng.normal(size=(8, 5)),
                losses=[1, 3.25, 1, 1, 1, 1, 1, 1],
                fids=fids[row],
            )
    return root


def look(*argv):
    hard_images.main(hard_images.parse_args([str(text) for text in argv]))


def test_the_command_prints_and_writes_a_page_that_needs_nothing_else(
    experiment, dataset, tmp_path, capsys
):
    look(experiment, "--directory", tmp_path / "page")
    printed = capsys.readouterr().out
    assert printed.startswith("3 iterations of 8 images")
    assert re.search(
        r"Hard images.*\n.*at least 3 batches.*\n +2\.54 times +3\.250 +3 +0000 +"
        + re.escape(dataset.fids[1]),
        printed,
    )
    assert re.search(r"\n +iter 1 .*\n +iter 2 .*\n +iter 3 ", printed)
    assert "iter 4" not in printed
    page = (tmp_path / "page" / "index.html").read_text()
    assert page.index("2.54 times") < page.index("loss 3.250") < page.index("loss 1.000")
    assert page.count('src="data:image/jpeg') == 8 + 2 * 3  # the images, and pairs of three pids
    with Image.open(tmp_path / "page" / "distances.png") as chart:
        assert chart.format == "PNG"
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == [
        "distances.png",
        "index.html",
    ]


def test_percentiles_of_the_command_are_those_of_the_experiments_metric(
    experiment, dataset, capsys
):
    look(experiment)
    embs = detailed_logs.read(experiment / "embeddings")[0].astype(np.float64)
    pids = np.array(dataset.pids[:8])
    expected = hard_images.distance_percentiles(pids, np.abs(embs[:, None] - embs).sum(axis=-1))
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith("  iter 1 ")
    )
    assert line.split()[2:] == [f"{number:.3f}" for number in expected.ravel()]


def test_what_is_missing_is_named(experiment, tmp_path):
    (tmp_path / "few.csv").write_text("0000,another.png\n")
    with pytest.raises(common.UserError, match="few.csv lacks the image .*Give the --train_set"):
        look(experiment, "--train_set", tmp_path / "few.csv")
    with pytest.raises(
        common.UserError, match="1 of the 1 images of .*few.csv are not in --image_root"
    ):
        look(experiment, "--train_set", tmp_path / "few.csv", "--directory", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_an_image_under_two_pids_is_told(experiment, dataset, tmp_path, capfd):
    lines = dataset.csv.read_text()
    (tmp_path / "twice.csv").write_text(f"9999,{dataset.fids[1]}\n{lines}")
    look(experiment, "--train_set", tmp_path / "twice.csv")
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert f"1 of the images of {tmp_path / 'twice.csv'} stand under several pids" in line
    assert line.endswith(dataset.fids[1]) and "3.250  3  0000" in out
