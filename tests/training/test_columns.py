"""Trainings on what a CSV with a header says: boxes, splits, sets, groups."""

import json

import h5py
import numpy as np
import pytest
from PIL import Image

import embed
import evaluate
import train
from benchmarks import kill_and_resume
from common import UserError
from network import checkpoints

FLAGS = [
    "--model_name=lunet_narrow",
    "--head_name=direct",
    "--embedding_dim=8",
    "--batch_p=4",
    "--batch_k=2",
    "--net_input_height=24",
    "--net_input_width=16",
    "--pre_crop_height=28",
    "--pre_crop_width=18",
    "--crop_augment",
    "--flip_augment",
    "--train_iterations=2",
    "--seed=1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 images, parts of three sheets in boxed.csv, and cut out before in train.csv and so on."""
    folder = tmp_path_factory.mktemp("columns")
    rng = np.random.default_rng(0)
    boxed = ["fid,pid,split,x1,y1,x2,y2,camera,tracklet", "missing.png,9,val,,,,,c0,"]
    cut = {"train": [], "query": [], "gallery": []}
    sheets = rng.integers(0, 256, (3, 60, 80, 3), np.uint8)
    for number, sheet in enumerate(sheets):
        Image.fromarray(sheet).save(folder / f"sheet{number}.png")
    for row in range(24):
        split = "train" if row < 12 else "query" if row < 18 else "gallery"
        x1, y1 = rng.integers(0, 40, 2).tolist()
        x2, y2 = x1 + 10 + row, y1 + 10
        fid = f"{row % 6}_c{row // 6}s1_.png"
        Image.fromarray(sheets[row % 3, y1:y2, x1:x2]).save(folder / fid)
        box = f"{x1},{y1},{x2},{y2}"
        boxed.append(f"sheet{row % 3}.png,{row % 6},{split},{box},{row // 6},t{row // 12}")
        cut[split].append(f"{row % 6},{fid}")
    (folder / "boxed.csv").write_text("\n".join(boxed))
    for split, lines in cut.items():
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def on_boxes(folder):
    """A training on boxed.csv."""
    return run(folder / "boxes", f"--train_set={folder / 'boxed.csv'}", f"--image_root={folder}")


def run(root, *argv):
    train.main(train.parse_args([f"--experiment_root={root}", *FLAGS, *map(str, argv)]))
    return root


def weights(root):
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(checkpoints.newest(root)))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def equal(a, b):
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert kill_and_resume.logged_iterations(a) == kill_and_resume.logged_iterations(b)


def test_a_training_on_boxes_is_one_on_images_that_were_cut_out_before(folder, on_boxes):
    cut = run(folder / "cut", f"--train_set={folder / 'train.csv'}", f"--image_root={folder}")
    equal(on_boxes, cut)
    args = json.loads((on_boxes / "args.json").read_text())
    assert args["train_set"] == f"{folder / 'boxed.csv'}" and args["image_root"] == f"{folder}"


def embedded(root, *argv):
    embed.main(embed.parse_args([f"--experiment_root={root}", "--quiet", *map(str, argv)]))


def evaluated(root, query, gallery, *argv):
    argv = [
        f"--experiment_root={root}",
        f"--query_dataset={query}",
        f"--gallery_dataset={gallery}",
        f"--filename={root / 'result.json'}",
        *argv,
    ]
    evaluate.main(evaluate.parse_args(argv))
    return json.loads((root / "result.json").read_text())


def test_the_commands_take_their_part_of_one_csv(folder, on_boxes):
    names = [folder / f"{part}.csv" for part in ("query", "gallery")]
    embedded(on_boxes, "--dataset", *names)
    expected = evaluated(on_boxes, *names, "--excluder=market1501", "--baseline=color_histogram")
    boxed = folder / "boxed.csv"
    embedded(on_boxes, "--dataset", boxed, "--split", "query", "gallery", "--projector")
    embs = {}
    for part in ("query", "gallery"):
        with (
            h5py.File(on_boxes / f"boxed_{part}_embeddings.h5") as ours,
            h5py.File(on_boxes / f"{part}_embeddings.h5") as theirs,
        ):
            np.testing.assert_array_equal(ours["emb"][()], theirs["emb"][()])
            assert all(b".png#" in fid for fid in ours["fids"][()])
            embs[part] = ours["emb"][()]
    report = ["--excluder=cameras", f"--report={on_boxes / 'report'}"]
    result = evaluated(on_boxes, boxed, boxed, *report)
    assert result["aps"] == expected["aps"] and result["CMC"] == expected["CMC"]
    assert "camera 3" in (on_boxes / "report" / "report.html").read_text()

    # All rows in one file, as embed.py writes them without --split.
    with h5py.File(on_boxes / "boxed_embeddings.h5", "w") as file:
        file["emb"] = np.concatenate(
            [np.full((13, 8), 9, np.float32), embs["query"], embs["gallery"]]
        )
    for part in ("query", "gallery"):
        (on_boxes / f"boxed_{part}_embeddings.h5").unlink()
    assert evaluated(on_boxes, boxed, boxed, "--excluder=cameras")["aps"] == expected["aps"]
    pooled = evaluated(
        on_boxes,
        boxed,
        boxed,
        "--excluder=cameras",
        "--pool_tracklets=mean",
        "--baseline=color_histogram",
    )
    assert pooled["aps"] == expected["aps"]  # one image of each pid and camera is in each tracklet


def test_two_sets_with_weights(folder):
    paths = [folder / "boxed.csv", folder / "train.csv"]
    root = run(
        folder / "weights",
        "--train_set",
        *paths,
        f"--image_root={folder}",
        *("--set_weights", 3, 1),
        "--detailed_logs",
        "--no_file_check",
        "--id_loss_weight=1",
    )
    from experiment import detailed_logs

    fids = detailed_logs.read(root / "fids")
    assert fids.shape == (2, 8)
    for batch in fids:
        assert [fid[:2] for fid in batch.tolist()] == [b"1:"] * 6 + [b"2:"] * 2
        assert all((b"#" in fid) == fid.startswith(b"1:") for fid in batch.tolist())
    args = json.loads((root / "args.json").read_text())
    assert args["train_set"] == [str(path) for path in paths]
    assert args["set_weights"] == [3.0, 1.0] and args["no_file_check"]
    assert weights(root)["classifier/weights"].shape == (8, 12)  # pids of two files are different


def test_pids_that_are_joined_have_one_center_and_the_images_of_all_sets(folder, monkeypatch):
    from training import companions

    seen = []
    build = companions.build
    monkeypatch.setattr(companions, "build", lambda *args: seen.append(args[0]) or build(*args))
    root = run(
        folder / "joined",
        "--train_set",
        folder / "boxed.csv",
        folder / "train.csv",
        f"--image_root={folder}",
        "--join_pids",
        "--id_loss_weight=1",
        "--id_loss=arcface",
        "--id_margin_by_count=0.5,0.25,0.05",
        "--train_iterations=1",
    )
    np.testing.assert_array_equal(seen, [[4] * 6])
    assert weights(root)["classifier/weights"].shape == (8, 6)


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--set_weights", 3, 1],
            r"set 1 of --train_set 3 of the pids of each batch, but it has [12]\.",
        ),
        (["--same_group_batches"], r"no group has the 4 pids of a batch: \w+ \(\d pids\)"),
    ],
)
def test_too_few_pids_beside_those_held_out_are_told_first(folder, tmp_path, flags, message):
    lines = (folder / "train.csv").read_text().splitlines()
    grouped = ["pid,fid,group", *(f"{line},{int(line[0]) % 2}" for line in lines)]
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path in paths:
        path.write_text("\n".join(grouped))
    root = tmp_path / "exp"
    sets = ["--train_set", *paths, f"--image_root={folder}"]
    with pytest.raises(UserError, match=message):
        run(root, *sets, *flags, "--val_pids=7")
    assert not root.exists()
