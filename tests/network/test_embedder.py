import numpy as np
import pytest
import small_network
import tensorflow as tf
from image_kinds import KINDS, REFUSED
from small_network import DIM, SIZE, close

from common import UserError
from data import decoding, images
from data.augment import Views
from experiment import args_json
from network.embedder import Embedder, load
from runtime import terminal


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("experiments") / "exp"
    small_network.write_experiment(root, image_root=str(dataset.root), crop_augment=False)
    return root


@pytest.fixture(scope="module")
def expected(trained, dataset):
    """The embeddings by the network alone; see small_network.Expected."""
    return small_network.Expected(trained, dataset)


@pytest.fixture(scope="module")
def embedder(trained):
    return Embedder(trained, batch_size=4)


def test_files_and_arrays_are_embedded(embedder, expected, dataset):
    paths = [dataset.root / fid for fid in dataset.fids]
    wanted = expected(False, None)[0]
    embs = embedder(paths)
    assert (embs.dtype, embs.shape) == (np.float32, (len(paths), DIM))
    close(embs, wanted)
    close(embedder([str(path) for path in paths[:3]]), wanted[:3])
    arrays = [images.decode(tf.io.read_file(str(path))).numpy() for path in paths]
    close(embedder(arrays), wanted)
    close(embedder(np.stack(arrays)), wanted)
    close(embedder([array.astype(float) for array in arrays[:3]]), wanted[:3])
    assert embedder([]).shape == (0, DIM)
    # A few files go another way than many.
    np.testing.assert_array_equal(embedder(paths[:2]), embs[:2])
    # Once, however few are left for the last batch.
    assert embedder._embed.experimental_get_tracing_count() == 1


def test_arrays_of_different_sizes_are_embedded(embedder):
    sizes = (24, 16), (50, 31), (12, 40)
    arrays = [np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    resized = tf.stack([images.resize(array, SIZE) for array in arrays])
    close(embedder(arrays), embedder.network(resized, training=False)["emb"])


def test_variants_are_aggregated(trained, expected, dataset):
    embedder = Embedder(
        trained, "checkpoint-0", flip_augment=True, crop_augment="five", aggregator="mean"
    )
    assert embedder.checkpoint == trained / "checkpoint-0"
    assert embedder.variant_names == Views(SIZE, True, "five").names
    embs = embedder([dataset.root / fid for fid in dataset.fids[:3]])
    close(embs, expected(True, "five", "checkpoint-0").mean(axis=0)[:3])


def test_what_is_no_image_is_told(embedder, dataset, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    image = np.zeros((24, 16, 3), np.uint8)
    cases = {
        "Received: uint8 \\[16, 3\\].*\\[image\\], not image": image,
        "Received: uint8 \\[24, 16\\]": [image[..., 0]],
        "Received: uint8 \\[24, 16, 4\\]": [np.zeros((24, 16, 4), np.uint8)],
        "Received one: a.png. Put it into a list": "a.png",
        "bad.png cannot be read": [dataset.root / dataset.fids[0], tmp_path / "bad.png"],
    }
    for message, given in cases.items():
        with pytest.raises(UserError, match=message):
            embedder(given)


def test_files_are_embedded_as_what_they_show(embedder, tmp_path):
    paths = []
    for number, kind in enumerate(KINDS):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(KINDS[kind][0])
    shown = [decoding.decode(tf.constant(path.read_bytes())).numpy() for path in paths]
    expected = embedder(shown)
    np.testing.assert_allclose(embedder(paths), expected, atol=1e-5)
    alone = [embedder([path])[0] for path in paths]
    np.testing.assert_allclose(alone, expected, atol=1e-5)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("copies", [1, 20])
def test_files_that_are_refused_are_named_with_the_reason(kind, copies, embedder, tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(REFUSED[kind][0])
    message = rf"bad\.jpg cannot be read: .*({REFUSED[kind][1]}).*take its line out"
    with pytest.raises(UserError, match=message) as told:
        embedder([path] * copies)
    assert "\n" not in str(told.value)


def test_an_aggregator_is_needed_for_several_variants(trained):
    with pytest.raises(UserError, match="--aggregator: needed"):
        Embedder(trained, flip_augment=True)


def test_other_crops_than_in_the_training_are_warned_about(trained, capfd):
    terminal.setup_logging("test")
    Embedder(trained)
    load(trained, args_json.architecture(trained, {}))
    assert capfd.readouterr().err == ""
    Embedder(trained, crop_augment="center")
    message = "WARNING] test: --crop_augment is center, but the training was without random crops"
    assert message in capfd.readouterr().err


def test_a_network_is_loaded_alone(trained, embedder):
    path, network = load(trained, embedder.flags)
    assert path == embedder.checkpoint == trained / "checkpoint-3"
    batch = np.random.default_rng(0).uniform(0, 255, (2, *SIZE, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        network(batch, training=False)["emb"], embedder.network(batch, training=False)["emb"]
    )
