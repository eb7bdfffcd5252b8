import dataclasses
import json

import pytest
from paths import GOLDEN, PROJECT

from experiment import flags
from experiment.flags import Settings

ORIGINALS_ARGS = json.loads((GOLDEN / "experiment" / "args.json").read_text())

# Flags of the original with their defaults, and what it does without a flag for it.
DEFAULTS = {
    "experiment_root": "exp",
    "train_set": None,
    "image_root": None,
    "model_name": "resnet_v1_50",
    "head_name": "fc1024",
    "pooling": "avg",
    "last_stride": 2,
    "embedding_dim": 128,
    "initial_checkpoint": None,
    "batch_p": 32,
    "batch_k": 4,
    "net_input_height": 256,
    "net_input_width": 128,
    "pre_crop_height": 288,
    "pre_crop_width": 144,
    "loading_threads": 8,
    "margin": "soft",
    "metric": "euclidean",
    "loss": "batch_hard",
    "learning_rate": 3e-4,
    "optimizer": "adam",
    "lr_schedule": "exponential",
    "warmup_iterations": 0,
    "adam_beta1_decay": False,
    "clip_norm": 0.0,
    "freeze_body_iterations": 0,
    "train_iterations": 25000,
    "decay_start_iteration": 15000,
    "checkpoint_frequency": 1000,
    "flip_augment": False,
    "crop_augment": False,
    "detailed_logs": False,
}


def test_every_flag_of_the_original_has_its_default():
    args = vars(flags.make_parser("x").parse_args(["--experiment_root", "exp"]))
    assert {name: args[name] for name in DEFAULTS} == DEFAULTS
    assert ORIGINALS_ARGS.keys() <= args.keys()
    of_settings = {field.name: args.pop(field.name) for field in flags.rows()}
    assert Settings(**of_settings) == Settings(experiment_root="exp")
    assert not any(args.values())  # resume and its like


def test_settings_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings(experiment_root="exp").batch_p = 5


def test_every_flag_says_what_it_does_in_sentences():
    for field in flags.rows():
        text = field.metadata["options"]["help"]
        assert text[0].isupper() or text.split()[0] in field.metadata["options"]["choices"]
        assert text.endswith("."), field.name


def test_flags_that_need_another_name_one_that_there_is():
    names = {field.name: field for field in flags.rows()}
    for field in names.values():
        if only_with := field.metadata["only_with"]:
            choices = names[only_with.name].metadata["options"].get("choices", ())
            assert set(only_with.values) <= set(choices)


def test_the_page_of_flags_is_as_the_table():
    assert (PROJECT / "docs" / "flags.md").read_text() == flags.page()
