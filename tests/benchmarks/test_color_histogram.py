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
from benchmarks.color_histogram import color_histogram


def number_of_color(red, green, blue):
    return (red // 64 * 4 + green // 64) * 4 + blue // 64


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
        assert list(file) == ["emb"]
        return file["emb"][()]


@pytest.mark.parametrize("size", [(128, 64), (12, 1), (7, 5)])
@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (200, 63, 64)])
def test_an_image_of_one_color(color, size):
    expected = np.zeros((6, 64), np.float32)
    expected[:, number_of_color(*color)] = np.sqrt(1 / 6)
    histogram = color_histogram(np.full((*size, 3), color, np.uint8))
    assert histogram.dtype == np.float32
    np.testing.assert_allclose(histogram, expected.ravel(), rtol=1e-6)


def test_stripes_shares_and_borders():
    """Left and right quarters do not count; three of the four pixels in each row of the first
    stripe are red.
    """
    image = np.zeros((12, 8, 3), np.uint8)
    image[:, [0, 1, 6, 7]] = (0, 255, 0)
    image[:2, 2:5] = (255, 0, 0)
    image[10:, 2:6] = (0, 0, 255)
    stripes = color_histogram(image).reshape(6, 64)
    expected = np.zeros((6, 64))
    expected[0, [number_of_color(255, 0, 0), 0]] = np.sqrt([3 / 24, 1 / 24])
    expected[1:5, 0] = np.sqrt(1 / 6)
    expected[5, number_of_color(0, 0, 255)] = np.sqrt(1 / 6)
    np.testing.assert_allclose(stripes, expected, rtol=1e-6)


def test_squares_add_up_to_one():
    image = np.random.default_rng(0).integers(0, 256, (29, 17, 3), dtype=np.uint8)
    assert np.isclose(np.sum(color_histogram(image) ** 2), 1, atol=1e-6)


def test_distance_counts_pixels_not_places():
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    mirrored, upside_down = color_histogram(image[:, ::-1]), color_histogram(image[::-1])
    np.testing.assert_array_equal(mirrored, color_histogram(image))
    np.testing.assert_array_equal(
        upside_down.reshape(6, 64), color_histogram(image).reshape(6, 64)[::-1]
    )


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
