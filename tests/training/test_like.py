"""A training with --like ends in the bits of the experiment that it is like."""

import json

import pytest
import replicas

import train
from benchmarks import kill_and_resume

FLAGS = "--model_name=lunet_narrow --head_name=direct --embedding_dim=4 --batch_p=3 --batch_k=2 --crop_augment"
FLAGS += " --net_input_height=24 --net_input_width=16 --pre_crop_height=28 --pre_crop_width=18 --flip_augment"
FLAGS += " --train_iterations=2 --image_frequency=0 --loading_threads=3 --detailed_logs"


def run(root, *argv):
    train.main(train.parse_args([f"--experiment_root={root}", *argv]))


@pytest.fixture
def old(dataset, tmp_path):
    """An experiment whose seed was drawn."""
    with replicas.plain_net():
        data = [f"--train_set={dataset.csv}", f"--image_root={dataset.root}"]
        run(tmp_path / "old", *data, *FLAGS.split())
        yield tmp_path / "old"


def test_an_experiment_is_replicated_bit_for_bit(old, tmp_path):
    new, other = tmp_path / "new", tmp_path / "other"
    run(new, f"--like={old}")
    assert kill_and_resume.differences(old, new) == []
    stored = [json.loads((root / "args.json").read_text()) for root in (old, new)]
    differing = {name for name in stored[0] if stored[0][name] != stored[1][name]}
    assert differing == {"experiment_root", "loading_threads", "digest"}

    run(other, f"--like={old}", "--learning_rate=0.1", "--without", "seed", "--start_or_resume")
    log = (other / "train.log").read_text()
    assert f"--learning_rate is 0.1; it is 0.0003 in {old}/args.json." in log
    assert f"Not taken from {old}/args.json" in log and "--loading_threads 3." in log
    assert kill_and_resume.differences(old, other)
