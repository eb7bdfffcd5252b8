import math

import numpy as np
import pytest
from paths import GOLDEN

import experiment
from training import schedule


def args_with(*flags, **values):
    flags = [*flags, *(f"--{name}={value}" for name, value in values.items())]
    return experiment.make_parser().parse_args(["--experiment_root=exp", *flags])


def rates(iterations, **values):
    args = args_with(**values)
    return [schedule.learning_rate(iteration, args) for iteration in iterations]


def test_learning_rates_are_the_originals():
    golden = np.load(GOLDEN / "nets_golden.npz")["resnet_v1_50/fc1024/train/lr"]
    got = rates(range(5, 13), learning_rate=3e-6, decay_start_iteration=7, train_iterations=20)
    np.testing.assert_allclose(got, golden, rtol=1e-6)


@pytest.mark.parametrize("kind", ["exponential", "cosine"])
@pytest.mark.parametrize("start, end", [(-1, 10), (10, 10), (20, 10)])
def test_a_decay_that_never_starts(kind, start, end):
    got = rates(range(end + 1), lr_schedule=kind, decay_start_iteration=start, train_iterations=end)
    assert got == [3e-4] * (end + 1)


def test_the_exponential_decay_ends_at_a_thousandth():
    assert rates([10], decay_start_iteration=5, train_iterations=10) == [pytest.approx(3e-7)]


def test_cosine_at_its_boundaries_and_between():
    options = {
        "lr_schedule": "cosine",
        "learning_rate": 0.1,
        "decay_start_iteration": 4,
        "train_iterations": 16,
    }
    got = rates([0, 3, 4, 7, 8, 10, 12, 16], **options)
    expected = [1, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.75, 0.5, 0.25, 0]
    np.testing.assert_allclose(got, 0.1 * np.array(expected), rtol=1e-12, atol=1e-15)
    # From the first step on: the very first still has all of it.
    assert rates([0], **options | {"decay_start_iteration": 0}) == [0.1]


def test_multistep_at_its_milestones():
    got = rates(
        [0, 3, 4, 6, 7, 100], lr_schedule="multistep", lr_milestones="4,7", learning_rate=0.8
    )
    np.testing.assert_allclose(got, [0.8, 0.8, 0.08, 0.08, 0.008, 0.008], rtol=1e-12)
    got = rates(
        [4, 7], lr_schedule="multistep", lr_milestones="4,7", learning_rate=0.8, lr_decay_factor=0.5
    )
    assert got == [0.4, 0.2]


def test_constant():
    assert set(rates([0, 15000, 20000, 25000], lr_schedule="constant")) == {3e-4}


@pytest.mark.parametrize("kind", ["exponential", "cosine", "multistep", "constant"])
def test_warm_up_rises_linearly_to_the_schedule(kind):
    options = {
        "lr_schedule": kind,
        "learning_rate": 0.1,
        "decay_start_iteration": 2,
        "train_iterations": 12,
    }
    options |= {"lr_milestones": "2,6"} if kind == "multistep" else {}
    plain, warm = (np.array(rates(range(13), warmup_iterations=n, **options)) for n in (0, 5))
    factors = [0.01, 0.208, 0.406, 0.604, 0.802] + [1] * 8
    np.testing.assert_allclose(warm, plain * factors, rtol=1e-12)
    np.testing.assert_array_equal(warm[5:], plain[5:])


def test_the_body_is_frozen_for_the_first_iterations():
    args = args_with(freeze_body_iterations=2)
    assert [schedule.body_is_frozen(iteration, args) for iteration in range(4)] == [
        True,
        True,
        False,
        False,
    ]
    assert not schedule.body_is_frozen(0, args_with())
