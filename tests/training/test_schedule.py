import math

import numpy as np
import pytest
from paths import GOLDEN

from experiment.flags import Settings
from training.schedule import Schedule, learning_rate


def rates(iterations, **values):
    schedule = Schedule(**({"rate": 3e-4, "kind": "exponential"} | values))
    return [learning_rate(iteration, schedule) for iteration in iterations]


def test_learning_rates_are_the_originals():
    golden = np.load(GOLDEN / "nets_golden.npz")["resnet_v1_50/fc1024/train/lr"]
    got = rates(range(5, 13), rate=3e-6, decay_start=7, end=20)
    np.testing.assert_allclose(got, golden, rtol=1e-6)


@pytest.mark.parametrize("kind", ["exponential", "cosine"])
@pytest.mark.parametrize("start, end", [(-1, 10), (10, 10), (20, 10)])
def test_a_decay_that_never_starts(kind, start, end):
    assert rates(range(end + 1), kind=kind, decay_start=start, end=end) == [3e-4] * (end + 1)


def test_the_exponential_decay_ends_at_a_thousandth():
    assert rates([10], decay_start=5, end=10) == [pytest.approx(3e-7)]


def test_a_decay_that_ends_before_the_training_stays_at_its_end():
    got = rates([10, 15, 20, 21, 40], decay_start=10, end=20)
    np.testing.assert_allclose(got, [3e-4, 3e-4 * 0.001**0.5, 3e-7, 3e-7, 3e-7], rtol=1e-12)
    got = rates([10, 15, 20, 21, 40], kind="cosine", decay_start=10, end=20)
    np.testing.assert_allclose(got, [3e-4, 1.5e-4, 0, 0, 0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["exponential", "cosine"])
def test_decay_to_is_the_end_of_the_schedule_and_of_no_other(kind):
    values = {"experiment_root": "exp", "lr_schedule": kind, "decay_start_iteration": 300}
    short = Schedule.of(Settings(**values, train_iterations=600))
    longer = Schedule.of(Settings(**values, train_iterations=900, decay_to=600))
    for iteration in range(601):
        assert learning_rate(iteration, longer) == learning_rate(iteration, short)
    assert learning_rate(899, longer) == learning_rate(600, short)
    assert Schedule.of(Settings(**values, train_iterations=900)).end == 900


def test_cosine_at_its_boundaries_and_between():
    options = {"kind": "cosine", "rate": 0.1, "decay_start": 4, "end": 16}
    got = rates([0, 3, 4, 7, 8, 10, 12, 16], **options)
    expected = [1, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.75, 0.5, 0.25, 0]
    np.testing.assert_allclose(got, 0.1 * np.array(expected), rtol=1e-12, atol=1e-15)
    # From the first step on: the very first still has all of it.
    assert rates([0], **options | {"decay_start": 0}) == [0.1]


def test_multistep_at_its_milestones():
    options = {"kind": "multistep", "milestones": (4, 7), "rate": 0.8}
    got = rates([0, 3, 4, 6, 7, 100], **options)
    np.testing.assert_allclose(got, [0.8, 0.8, 0.08, 0.08, 0.008, 0.008], rtol=1e-12)
    assert rates([4, 7], factor=0.5, **options) == [0.4, 0.2]


def test_constant():
    assert set(rates([0, 15000, 20000, 25000], kind="constant")) == {3e-4}


@pytest.mark.parametrize("kind", ["exponential", "cosine", "multistep", "constant"])
def test_warm_up_rises_linearly_to_the_schedule(kind):
    options = {"kind": kind, "rate": 0.1, "decay_start": 2, "end": 12, "milestones": (2, 6)}
    plain = np.array(rates(range(13), **options))
    warm = np.array(rates(range(13), warmup=5, **options))
    factors = [0.01, 0.208, 0.406, 0.604, 0.802] + [1] * 8
    np.testing.assert_allclose(warm, plain * factors, rtol=1e-12)
    np.testing.assert_array_equal(warm[5:], plain[5:])
