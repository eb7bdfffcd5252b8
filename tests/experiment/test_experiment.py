import json
import os

import pytest
from paths import GOLDEN

import common
import experiment
import train
from runtime import files

ORIGINALS_ARGS = json.loads((GOLDEN / "experiment" / "args.json").read_text())

# Flags of the original with their defaults, as SPEC tells them, and what it does without a flag for
# it.
DEFAULTS = {
    "experiment_root": "exp",
    "train_set": None,
    "image_root": None,
    "resume": False,
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


def write_args(root, **changes):
    files.write_json(root / "args.json", ORIGINALS_ARGS | changes)
    return root


@pytest.mark.parametrize(
    "flags, warned",
    [
        ([], []),
        (["--decay_start_iteration=-1"], []),
        (
            ["--train_iterations=15000"],
            ["--decay_start_iteration 15000 is not before --train_iterations 15000"],
        ),
        (["--train_iterations=9", "--lr_schedule=constant"], []),
        (
            ["--train_iterations=9", "--lr_schedule=constant", "--adam_beta1_decay"],
            ["--decay_start_iteration 15000"],
        ),
        (["--train_iterations=9", "--lr_schedule=multistep", "--lr_milestones=8,12"], []),
        (
            ["--train_iterations=8", "--lr_schedule=multistep", "--lr_milestones=8,12"],
            ["--lr_milestones 8 is not"],
        ),
        (["--warmup_iterations=25000"], ["The warm-up never ends"]),
    ],
)
def test_what_the_training_ends_before_is_warned_about(flags, warned):
    lines = experiment.never_comes(
        experiment.make_parser().parse_args(["--experiment_root", "exp", *flags])
    )
    assert len(lines) == len(warned) and all(
        part in line for part, line in zip(warned, lines, strict=True)
    )


def test_every_flag_of_the_original_has_its_default():
    args = vars(experiment.make_parser().parse_args(["--experiment_root", "exp"]))
    assert {name: args[name] for name in DEFAULTS} == DEFAULTS
    assert ORIGINALS_ARGS.keys() <= args.keys()


def test_args_json_of_the_original_is_read(tmp_path):
    args, lacking = experiment.read(write_args(tmp_path, margin=0.2))
    expected = ORIGINALS_ARGS | {"experiment_root": str(tmp_path), "margin": 0.2}
    assert {name: vars(args)[name] for name in ORIGINALS_ARGS} == expected
    assert set(lacking) == vars(args).keys() - ORIGINALS_ARGS.keys() and "seed" in lacking


def test_what_args_json_lacks_has_its_default(tmp_path):
    (tmp_path / "args.json").write_text('{"embedding_dim": 7, "a_flag_of_tomorrow": 3}')
    args, lacking = experiment.read(tmp_path)
    assert args.embedding_dim == 7 and args.batch_p == 32 and args.margin == "soft"
    assert "batch_p" in lacking and "embedding_dim" not in lacking


@pytest.mark.parametrize(
    "name, value",
    [
        ("batch_p", 0),
        ("batch_p", "many"),
        ("batch_p", 4.5),
        ("batch_p", True),
        ("model_name", "resnet_v1_51"),
        ("model_name", "../train"),
        ("head_name", "none"),
        ("metric", "manhattan"),
        ("loss", "batch_easy"),
        ("margin", "hard"),
        ("learning_rate", -1),
        ("crop_augment", "yes"),
        ("decay_start_iteration", -2),
    ],
)
def test_a_value_in_args_json_that_is_not_allowed_is_told_by_name(tmp_path, name, value):
    with pytest.raises(common.UserError, match=f"args.json.*{name}"):
        experiment.read(write_args(tmp_path, **{name: value}))


def test_resuming_takes_args_json_and_warns(tmp_path):
    write_args(tmp_path)
    args = train.parse_args(
        [
            f"--experiment_root={tmp_path}",
            "--resume",
            "--batch_p=16",
            "--train_iterations=99",
            "--seed=5",
        ]
    )
    given = vars(args).pop("given")
    resumed, warnings = experiment.resume(args, given)
    assert (resumed.batch_p, resumed.train_iterations, resumed.seed) == (16, 12, 5)
    assert any("args.json lacks seed: it is 5" in warning for warning in warnings)
    unused = [warning for warning in warnings if "not used" in warning]
    assert len(unused) == 1  # batch_p is as it was
    assert "--train_iterations 99 is not used" in unused[0] and "edit args.json" in unused[0]


def test_a_key_of_args_json_that_is_no_flag_is_warned_about(tmp_path):
    write_args(tmp_path, lerning_rate=5)
    args = train.parse_args([f"--experiment_root={tmp_path}", "--resume"])
    _, warnings = experiment.resume(args, vars(args).pop("given"))
    assert any(
        line
        == "args.json has lerning_rate, which is no flag and does nothing. Meant: learning_rate?"
        for line in warnings
    )


def test_a_directory_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    experiment.check_writeable(tmp_path / "new")
    experiment.check_writeable(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root's rights would hide it
    with pytest.raises(common.UserError, match="cannot be written"):
        experiment.check_writeable(tmp_path)


def test_stored_args_are_read_back(tmp_path):
    args = experiment.make_parser().parse_args(
        [f"--experiment_root={tmp_path}", "--margin=0.5", "--seed=3", "--resume"]
    )
    experiment.store(args)
    stored = json.loads((tmp_path / "args.json").read_text())
    assert list(stored) == sorted(stored) and stored["resume"] is False and stored["margin"] == 0.5
    assert experiment.read(tmp_path)[1] == []
    files.write_json(tmp_path / "args.json", stored | {"a_note": "mine"})
    experiment.store(args)
    assert json.loads((tmp_path / "args.json").read_text()) == stored | {"a_note": "mine"}


def test_an_experiment_root_that_will_not_do(tmp_path, monkeypatch):
    experiment.check_new_root(tmp_path)  # empty
    experiment.check_new_root(tmp_path / "new" / "deep")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for root, message in ((tmp_path, "not empty.*--resume"), (tmp_path / "file", "is a file")):
        with pytest.raises(common.UserError, match=message):
            experiment.check_new_root(root)
    with pytest.raises(common.UserError, match="cannot be written"):
        experiment.check_new_root(tmp_path / "file" / "below")
    monkeypatch.setattr(experiment.os, "access", lambda *_: False)
    with pytest.raises(common.UserError, match="cannot be written"):
        experiment.check_new_root(tmp_path / "new")
