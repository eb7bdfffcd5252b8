import numpy as np
import pytest

from experiment.flags import Settings
from training import start


def settings_of(**values):
    return Settings(experiment_root="exp", **values)


def test_the_data_in_numbers():
    labels = np.repeat([0, 1, 2, 3, 4], [1, 2, 2, 7, 4])
    assert start.describe_data(labels, "an epoch, every pid once, is 2 iterations") == (
        "16 images of 5 pids, 1/2/7 images a pid (min/median/max); an epoch, every pid once, is 2 "
        "iterations;"
    )


def test_the_flags_that_differ_can_be_pasted(tmp_path):
    settings = settings_of(
        train_set="my data.csv", batch_p=16, crop_augment=True, learning_rate=1e-3, margin=0.2
    )
    typed = start.describe_flags(settings)
    expected = (
        "--train_set 'my data.csv' --batch_p 16 --crop_augment --margin 0.2 --learning_rate 0.001"
    )
    assert typed == expected
    assert start.describe_flags(settings_of()) == ""


LONGER = {"train_iterations": 900, "decay_start_iteration": 300, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    "kind, old, new", [("exponential", "1e-06", "3.16e-05"), ("cosine", "0", "0.0005")]
)
def test_a_rate_that_jumps_is_told_with_both_rates(kind, old, new):
    warning = start.rate_jump(
        settings_of(**LONGER, lr_schedule=kind), {"train_iterations": "600"}, 600
    )
    assert f"The learning rate of iteration 601 jumps to {new}; it was to be {old}:" in warning
    assert warning.endswith("resume with --decay_to 600.")


@pytest.mark.parametrize(
    "more, ran_with, iteration",
    [
        ({"decay_to": 600}, {"train_iterations": "600"}, 600),
        ({"decay_to": 600}, {"train_iterations": "900", "decay_to": "600"}, 700),
        ({}, {"train_iterations": "900"}, 600),
        ({}, {"train_iterations": "600"}, 300),  # the decay has not begun
        ({"lr_schedule": "constant"}, {"train_iterations": "600"}, 600),
        ({}, {}, 600),
        ({}, {"train_iterations": "many"}, 600),
    ],
)
def test_a_rate_that_goes_on_is_not(more, ran_with, iteration):
    assert start.rate_jump(settings_of(**LONGER | more), ran_with, iteration) is None


def test_an_end_of_the_decay_that_moves_is_told():
    settings = settings_of(**LONGER, decay_to=800)
    warning = start.rate_jump(settings, {"train_iterations": "900", "decay_to": "600"}, 500)
    assert "now ends at iteration 800, not at 600" in warning
