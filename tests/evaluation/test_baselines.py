import h5py
import numpy as np
import pytest

import common
from benchmarks import color_histogram as command
from data.dataset import ImageFiles, load
from evaluation import Embedded, Options, baselines, evaluate
from evaluation.baselines import color_histogram


def number_of_color(red, green, blue):
    return (red // 64 * 4 + green // 64) * 4 + blue // 64


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


@pytest.mark.parametrize("same", [True, False])
def test_a_baseline_is_evaluated_as_its_embeddings_in_a_file_are(same, dataset, tmp_path):
    embs = tmp_path / "embs.h5"
    argv = [f"--dataset={dataset.csv}", f"--image_root={dataset.root}", f"--filename={embs}"]
    command.main(command.parse_args(argv))
    with h5py.File(embs) as file:
        everything = Embedded(load(dataset.csv), file["emb"][()])
    options = Options(metric="euclidean", excluder="diagonal" if same else "market1501")
    rows = slice(None) if same else slice(0, None, 2)
    query = Embedded(
        everything.dataset.select(np.arange(len(dataset.fids))[rows]), everything.embs[rows]
    )
    expected = evaluate(query, everything, options)
    found = baselines.evaluate_baseline(
        "color_histogram",
        query.dataset,
        everything.dataset,
        dataset.root,
        # The metric of the network is not that of the histograms.
        Options(metric="cityblock", excluder=options.excluder, fprs=(0.1,)),
    )
    assert found.aps == expected.aps and found.mAP == expected.mAP
    np.testing.assert_array_equal(found.cmc, expected.cmc)


def test_an_image_in_query_and_gallery_is_read_once(dataset, monkeypatch):
    asked = []

    def ones(images):
        asked.extend(images.paths)
        return np.ones((len(images), 2), np.float32)

    monkeypatch.setitem(baselines.BASELINES, "ones", ones)
    images = load(dataset.csv)
    options = Options(metric="euclidean", excluder="diagonal")
    baselines.evaluate_baseline("ones", images, images, dataset.root, options)
    assert asked == list(images.paths(dataset.root))


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(common.UserError, match=r"broken\.jpg cannot be read"):
        baselines.color_histograms(ImageFiles([str(tmp_path / "broken.jpg")]))
