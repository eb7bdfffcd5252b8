import json

import pytest

from common import UserError
from experiment import space
from experiment.space import Range


def read(tmp_path, values):
    path = tmp_path / "space.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return space.read(path)


def test_lists_are_choices_objects_are_ranges_and_others_are_fixed(tmp_path):
    found = read(
        tmp_path,
        {
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "batch_p": {"low": 8, "high": 32, "step": 8},
            "margin": ["soft", 0.2],
            "flip_augment": [True, False],
            "train_iterations": 100,
        },
    )
    assert found.fixed == {"train_iterations": 100}
    assert found.choices == {"margin": ["soft", 0.2], "flip_augment": [True, False]}
    assert found.ranges == {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "batch_p": Range(8, 32, step=8),
    }
    assert found.ranges["batch_p"].is_whole and not found.ranges["learning_rate"].is_whole
    assert found.varied == ["margin", "flip_augment", "learning_rate", "batch_p"]


@pytest.mark.parametrize(
    "values, message",
    [
        ("{", "cannot be read as JSON"),
        ([1], "should hold an object of flags. Received: list"),
        ({"train_iterations": 5}, "varies nothing"),
        ({"learning_rat": [1, 2]}, "no flag of train.py. Meant: learning_rate?"),
        ({"experiment_root": ["a", "b"]}, "belongs to a call of train.py"),
        ({"val_pids": [4, 5]}, "varies val_pids, but trials are compared by their validations"),
        ({"loss": ["batch_hard", "hinge"]}, "argument --loss: should be one of"),
        ({"loss": []}, "should be a list of single values"),
        ({"train_set": [["a.csv", "b.csv"]]}, "should be a list of single values"),
        ({"loss": ["lifted", "lifted"]}, "has a value twice"),
        ({"train_set": ["no.csv", "nor.csv"]}, "should be an existing file. Received: no.csv"),
        ({"margin": {"low": 1}}, "should have numbers low and high"),
        ({"margin": {"low": 1, "high": "2"}}, "should have numbers low and high"),
        ({"margin": {"low": 1, "high": 2, "lo": 1}}, "should have numbers low and high"),
        ({"margin": {"low": 2, "high": 1}}, "low should be below high. Received: 2 and 1"),
        ({"margin": {"low": 1, "high": 2, "log": 1}}, "log should be true or false. Received: 1"),
        ({"margin": {"low": 0, "high": 2, "log": True}}, "low should be above 0 where log is true"),
        ({"margin": {"low": 1, "high": 2, "step": 3}}, "step should fit between low and high"),
        ({"batch_p": {"low": 2, "high": 4, "step": 0.5}}, "step should be whole"),
        ({"batch_p": {"low": 2.0, "high": 4.5}}, "batch_p: .*should be an integer"),
        ({"batch_p": {"low": 0, "high": 4}}, "argument --batch_p: should be"),
        ({"loss": {"low": 0, "high": 4}}, "argument --loss: should be one of"),
    ],
)
def test_a_space_that_cannot_be_tried_is_refused(tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, values)
