import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from data.dataset import ImageFiles
from experiment.rewind import rewind
from training import pictures, summaries

PIDS = ["a", "a", "b", "b"]
FLAGS = {
    "experiment_root": "exps/one",
    "image_root": "images",
    "margin": "soft",
    "batch_k": 2,
    "learning_rate": 3e-4,
    "seed": 7,
    "initial_checkpoint": None,
    "flip_augment": True,
    "betas": (0.9, 0.999),
}


def events(root):
    """Of all tags: steps and tensors, sorted: files of the same second are read in any order."""
    accumulator = EventAccumulator(str(root), size_guidance={"tensors": 0}).Reload()
    return {
        tag: sorted(
            (event.step, event.tensor_proto.SerializeToString())
            for event in accumulator.Tensors(tag)
        )
        for tag in accumulator.Tags()["tensors"]
    }


def decoded(root, tag):
    """Step, and the picture, of each event of an image tag."""
    accumulator = EventAccumulator(str(root), size_guidance={"tensors": 0}).Reload()
    for event in accumulator.Tensors(tag):
        width, height, encoded = tf.make_ndarray(event.tensor_proto)
        picture = tf.io.decode_png(encoded).numpy()
        assert picture.shape == (int(height), int(width), 3)
        yield event.step, picture


@pytest.fixture
def batches(tmp_path):
    """Of iterations 1 to 4: images and distances; with them the paths."""
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{number}.png") for number in range(4)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (24, 16, 3), np.uint8)).save(path)
    images = rng.uniform(0, 255, (4, 4, 24, 16, 3)).astype(np.float32)
    return list(zip(images, rng.random((4, 4, 4)).astype(np.float32), strict=True)), paths


def write(root, batches, paths, first=1):
    """What a run writes that begins at an iteration."""
    with tf.summary.create_file_writer(str(root)).as_default():
        for iteration in range(first, 5):
            images, dists = batches[iteration - 1]
            if iteration == 1:
                summaries.write_hparams(iteration, FLAGS)
                summaries.write_layout(iteration)
                summaries.write_network_input(iteration, images, 2)
            if iteration != 3:
                summaries.write_hardest_triplets(iteration, ImageFiles(paths), PIDS, dists)
        summaries.write_end(4)


def test_pictures_are_those_of_their_iterations(batches, tmp_path):
    batches, paths = batches
    write(tmp_path / "exp", batches, paths)
    triplets = list(decoded(tmp_path / "exp", "hardest_triplets"))
    assert [step for step, _ in triplets] == [1, 2, 4]
    for step, picture in triplets:
        np.testing.assert_array_equal(
            picture, pictures.draw_triplets(ImageFiles(paths), PIDS, batches[step - 1][1])
        )
    ((step, picture),) = decoded(tmp_path / "exp", "network_input")
    assert step == 1
    np.testing.assert_array_equal(picture, pictures.network_input(batches[0][0], 2))


def test_hparams_are_the_flags_that_have_values(tmp_path):
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        summaries.write_hparams(1, FLAGS)
    accumulator = EventAccumulator(str(tmp_path)).Reload()
    content = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    info = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    values = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in info.hparams.items()
    }
    assert values == {
        "margin": "soft",
        "batch_k": 2,
        "learning_rate": 3e-4,
        "seed": 7,
        "flip_augment": True,
    }
    assert info.group_name == ""  # a row for each directory


def test_the_page_of_custom_scalars_shows_tags_that_there_are(tmp_path):
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        summaries.write_layout(1)
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    (event,) = accumulator.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(tf.make_ndarray(event.tensor_proto).item())
    patterns = [tag for chart in layout.category[0].chart for tag in chart.multiline.tag]
    tags = {tag.replace("_at_", "_at_3") for tag in summaries.DESCRIPTIONS}
    assert event.step == 1
    for pattern in patterns:
        assert [tag for tag in tags if re.search(pattern, tag)], pattern
    assert len(layout.category[0].chart) == 5


def test_descriptions_are_written_once(tmp_path):
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        for iteration in (1, 2):
            summaries.write_scalars(iteration, {"batch_prec_at_3": 0.5})
    (file,) = tmp_path.iterdir()
    text = summaries.DESCRIPTIONS["batch_prec_at_"].encode()
    assert file.read_bytes().count(text) == 1


@pytest.mark.parametrize("checkpoint", [0, 1, 2, 3])
def test_a_run_that_was_killed_and_resumed_has_the_same_events(checkpoint, batches, tmp_path):
    write(tmp_path / "whole", *batches)
    write(tmp_path / "killed", *batches)
    rewind(tmp_path / "killed", checkpoint)
    assert (
        max(
            (step for series in events(tmp_path / "killed").values() for step, _ in series),
            default=0,
        )
        <= checkpoint
    )
    write(tmp_path / "killed", *batches, first=checkpoint + 1)
    assert set(events(tmp_path / "whole")) == {
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
        "custom_scalars__config__",
        "network_input",
        "hardest_triplets",
    }
    assert events(tmp_path / "killed") == events(tmp_path / "whole")


def test_every_number_of_the_step_is_shown_but_those_of_the_loop():
    result = {
        "loss": np.float32(0.5),
        "center_loss": np.float32(2),
        "losses": np.zeros(4, np.float32),
        "top1": np.float32(0.25),
        "precision": np.float32(0.75),
        "active_count": np.int32(3),
        "mine": np.float32(7),
        "furthest": np.float32(9),
        "stop": np.int32(0),
    }
    assert summaries.scalars(result, batch_k=4) == {
        "loss": 0.5,
        "center_loss": 2,
        "batch_top1": 0.25,
        "batch_prec_at_3": 0.75,
        "active_count": 3,
        "mine": 7,
    }
