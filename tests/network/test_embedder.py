import dataclasses
import json
import shutil

import numpy as np
import pytest
import small_network
import tensorflow as tf
from image_kinds import GRADIENT, KINDS, REFUSED, oriented
from PIL import Image, ImageOps
from small_network import DIM, SIZE, close

from common import UserError
from data import decoding, images
from data.augment import Views
from data.dataset import WHOLE, ImageFiles
from experiment import args_json
from experiment.flags import Architecture
from network import embedder as module
from network.embedder import Embedder, load
from runtime import terminal

ARCHITECTURE = {field.name for field in dataclasses.fields(Architecture)}


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
    # Products of fewer rows may add up in another order.
    close(embedder(paths[:2]), embs[:2])
    # Once, however few are left for the last batch.
    assert embedder._embed.experimental_get_tracing_count() == 1


def test_boxes_are_embedded(embedder, dataset):
    paths = np.array([str(dataset.root / fid) for fid in dataset.fids], dtype=object)
    boxes = np.int32([[1, 2, 15, 20] if row % 3 else WHOLE for row in range(len(paths))])
    arrays = [images.decode(tf.io.read_file(path)).numpy() for path in paths]
    cut = [array[2:20, 1:15] if row % 3 else array for row, array in enumerate(arrays)]
    close(embedder(ImageFiles(paths, boxes)), embedder(cut))
    close(embedder(ImageFiles(paths[:3], boxes[:3])), embedder(cut[:3]))


def test_images_are_turned_as_in_the_training(trained, embedder, tmp_path):
    root = tmp_path / "exp"
    shutil.copytree(trained, root)
    args = json.loads((root / "args.json").read_text())
    (root / "args.json").write_text(json.dumps(args | {"orientation": "exif"}))
    upright = Embedder(root)
    paths = [tmp_path / f"{orientation}.png" for orientation in range(1, 9)]
    turned = []
    for orientation, path in enumerate(paths, 1):
        path.write_bytes(oriented(orientation, format="PNG"))
        turned.append(np.asarray(ImageOps.exif_transpose(Image.open(path))))
    stored = [np.asarray(GRADIENT)] * 8
    files = ImageFiles(list(map(str, paths)))
    close(embedder(paths), embedder(stored))
    close(embedder(dataclasses.replace(files, upright=True)), embedder(stored))
    close(upright(paths), embedder(turned))
    close(upright(ImageFiles([*map(str, paths), str(paths[5])])), embedder([*turned, turned[5]]))
    close(upright(stored), embedder(stored))
    # Without args.json, as of the original.
    architecture = {name: value for name, value in args.items() if name in ARCHITECTURE}
    (root / "args.json").unlink()
    close(Embedder(root, **architecture)(paths), embedder(stored))


def test_a_batch_size_beyond_sense_is_all_images_at_once(trained, expected, dataset):
    embs = Embedder(trained, batch_size=10**13)([dataset.root / fid for fid in dataset.fids])
    close(embs, expected(False, None)[0])


def test_arrays_of_different_sizes_are_embedded(embedder):
    sizes = (24, 16), (50, 31), (12, 40)
    arrays = [np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    resized = tf.stack([images.resize(array, SIZE) for array in arrays])
    close(embedder(arrays), embedder.network(resized, training=False)["emb"])


def test_views_are_aggregated(trained, expected, dataset):
    embedder = Embedder(
        trained, "checkpoint-0", flip_augment=True, crop_augment="five", aggregator="mean"
    )
    assert embedder.checkpoint == trained / "checkpoint-0"
    assert embedder.view_names == Views(SIZE, True, "five").names
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


NOISE = np.random.default_rng(0).uniform(0, 1, (24, 16, 3))
# Arrays of other scales, and what is told of them.
OTHER_SCALES = {
    "0..1": (NOISE, "float64 of .* to 0.99.*scale 0..1: multiply by 255"),
    "float32 in 0..1": (NOISE.astype(np.float32), "float32 of .*scale 0..1"),
    "almost black in 0..1": (NOISE / 1000, "scale 0..1"),
    "-1..1": (NOISE * 2 - 1, "float64 of -0.99.* to 0.99.*normalized numbers: leave that out"),
    "normalized, and dark": (NOISE - 2.1, "of -2.* to -1.*normalized"),
    "normalized as for ImageNet": ((NOISE - 0.45) / 0.22, "normalized"),
    "a mean taken from it": (NOISE * 255 - 110, "normalized"),
    "16 bits": ((NOISE * 65535).astype(np.uint16), "uint16 of .*16 bits by dividing by 257"),
    "16 bits as float": (NOISE * 65535, "bring it to 0..255"),
    "12 bits": ((NOISE * 4095).astype(np.int32), "bring it to 0..255"),
    "a little too much": (np.full((24, 16, 3), 256), "int64 of 256 to 256, .*bring it to 0..255"),
    "negative integers": ((NOISE * 255).astype(np.int16) - 128, "int16 of -128 to .*normalized"),
    "a mask": (NOISE > 0.5, "bool of 0 to 1, a mask: multiply it by 255"),
    "not a number": (np.where(NOISE < 0.1, np.nan, NOISE), "not finite"),
    "infinite": (np.where(NOISE < 0.1, np.inf, NOISE), "not finite"),
}


@pytest.mark.parametrize("scale", OTHER_SCALES)
def test_arrays_of_other_scales_are_refused(scale, embedder):
    array, message = OTHER_SCALES[scale]
    good = np.zeros((24, 16, 3), np.uint8)
    with pytest.raises(UserError, match=f"numbers in 0..255, .*Received: .*{message}") as told:
        embedder([good, array])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float16, np.float32, np.float64])
def test_arrays_in_the_range_of_a_file_are_embedded(dtype, embedder):
    image = np.uint8(NOISE * 255)
    np.testing.assert_allclose(embedder([image.astype(dtype)]), embedder([image]), atol=1e-5)


def test_a_resized_image_may_leave_the_range_a_little(embedder):
    image = NOISE * 300 - 20
    assert embedder([image]).shape == (1, embedder.flags.embedding_dim)


def test_a_black_float_image_is_warned_about_once(embedder, capfd):
    terminal.setup_logging("test")
    module._warn_about_black.cache_clear()
    black = np.zeros((24, 16, 3))
    embs = embedder([black, black, black + 0.0])
    assert capfd.readouterr().err.count("is all 0, black") == 1
    np.testing.assert_array_equal(embs, embedder([np.zeros((24, 16, 3), np.uint8)] * 3))
    assert capfd.readouterr().err == ""


def test_files_are_embedded_as_what_they_show(embedder, tmp_path):
    paths = []
    for number, kind in enumerate(KINDS):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(KINDS[kind][0])
    shown = [decoding.decode(tf.constant(path.read_bytes())).numpy() for path in paths]
    expected = embedder(shown)
    np.testing.assert_allclose(embedder(paths), expected, rtol=1e-5, atol=1e-5)
    alone = [embedder([path])[0] for path in paths]
    np.testing.assert_allclose(alone, expected, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("copies", [1, 20])
def test_files_that_are_refused_are_named_with_the_reason(kind, copies, embedder, tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(REFUSED[kind][0])
    message = rf"bad\.jpg cannot be read: .*({REFUSED[kind][1]}).*take its line out"
    with pytest.raises(UserError, match=message) as told:
        embedder([path] * copies)
    assert "\n" not in str(told.value)


def test_an_aggregator_is_needed_for_several_views(trained):
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
    restored, network = load(trained, embedder.flags)
    assert restored.path == embedder.checkpoint == trained / "checkpoint-3"
    batch = np.random.default_rng(0).uniform(0, 255, (2, *SIZE, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        network(batch, training=False)["emb"], embedder.network(batch, training=False)["emb"]
    )
