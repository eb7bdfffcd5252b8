import csv
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

import common
from benchmarks import color_histogram as module
from evaluation.baselines import color_histogram


def run(tmp_path, dataset, *flags):
    filename = tmp_path / "out.h5"
    argv = [
        f"--dataset={dataset.csv}",
        f"--image_root={dataset.root}",
        f"--filename={filename}",
        *flags,
    ]
    module.main(module.parse_args(argv))
    with h5py.File(filename) as file:
        assert file["fids"].asstr()[()].tolist() == list(dataset.fids)
        return file["emb"][()]


def test_the_file_is_in_the_order_of_the_csv(dataset, tmp_path):
    embs = run(tmp_path, dataset)
    assert (embs.shape, embs.dtype) == ((len(dataset.fids), 384), np.float32)
    for fid, emb in zip(dataset.fids, embs, strict=True):
        np.testing.assert_array_equal(
            emb, color_histogram(np.asarray(Image.open(dataset.root / fid)))
        )
    assert os.listdir(tmp_path) == ["out.h5"]


def test_a_file_that_is_no_image_is_named_and_the_old_result_kept(dataset, tmp_path):
    before = run(tmp_path, dataset)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with open(tmp_path / "set.csv", "w", newline="") as file:
        csv.writer(file).writerow(("0001", "broken.jpg"))
    argv = [
        f"--dataset={tmp_path}/set.csv",
        f"--image_root={tmp_path}",
        f"--filename={tmp_path}/out.h5",
    ]
    with pytest.raises(common.UserError, match=r"broken\.jpg cannot be read"):
        module.main(module.parse_args(argv))
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["emb"][()], before)


def test_missing_images_are_counted(dataset, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        common.UserError, match=f"{len(dataset.fids)} of the {len(dataset.fids)} images"
    ):
        run(tmp_path, dataset, f"--image_root={tmp_path / 'empty'}")


def test_the_dataset_is_not_overwritten(dataset, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, dataset, f"--filename={dataset.csv}")
    assert "--filename: should not be the --dataset" in capsys.readouterr().err


def test_the_baseline_and_the_demos_data_do_not_wait_for_tensorflow():
    code = (
        "import sys\n"
        "from benchmarks import color_histogram\n"
        "from data import synthetic\n"
        "sys.exit('tensorflow' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=common.HERE)
