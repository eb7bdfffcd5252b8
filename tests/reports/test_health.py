import numpy as np
import pytest

from experiment.curves import Curve
from reports.health import COLLAPSE, findings
from training.collapse import CollapseWatch

N = 100


def curve(values, every=1):
    return Curve(np.arange(1, len(values) + 1) * every, np.array(values, np.float64))


def rising(end=0.8):
    return curve(np.linspace(0.1, end, N))


GOOD = {
    "loss": curve(np.linspace(2, 0.5, N)),
    "precision": rising(),
    "waiting": curve(np.full(N, 0.05)),
    "validation/mAP": curve([0.2, 0.4, 0.5, 0.5, 0.5, 0.5], every=10),
}

WRONG = {
    "by heart": (
        {"precision": rising(0.999), "validation/mAP": curve([0.3, 0.5, 0.45, 0.4], every=10)},
        "fell from 50.0% at iteration 20 to 40.0%, while the precision in the batch is",
    ),
    "falls": (
        {"validation/mAP": curve([0.3, 0.5, 0.4], every=10)},
        "fell from 50.0% at iteration 20 to 40.0%. Take the best",
    ),
    "too short": (
        {"validation/mAP": curve([0.1, 0.2, 0.3, 0.4], every=10)},
        "was still rising at the end, to 40.0%",
    ),
    "slow input": ({"waiting": curve(np.full(N, 0.375))}, "waits for its images 38% of the time"),
    "nothing learned": ({"precision": curve(np.full(N, 0.25))}, "did not rise: 25.0% at the start"),
    "not finite": (
        {"loss": curve([1.0, 1.0, np.nan, 1.0])},
        "not finite from iteration 3 on",
    ),
}


def texts(curves, warnings=(), over=True):
    return [(found.good, found.text) for found in findings(curves, "mAP", warnings, over)]


def test_a_good_training_has_nothing_wrong():
    assert texts(GOOD) == [
        (True, "The validation's best mAP is 50.0%, at iteration 30; the last is 50.0%."),
        (True, "Nothing in the curves is wrong."),
    ]


@pytest.mark.parametrize("name", WRONG)
def test_each_fault_is_told_first_and_alone(name):
    changed, expected = WRONG[name]
    (good, text), *others = texts(GOOD | changed)
    assert not good
    assert expected in text
    assert all(is_good for is_good, _ in others)


def test_a_training_that_goes_on_may_still_rise():
    changed, _ = WRONG["too short"]
    assert all(good for good, _ in texts(GOOD | changed, over=False))


def test_small_changes_at_the_end_count_as_nothing():
    assert all(good for good, _ in texts(GOOD | {"validation/mAP": curve([0.4, 0.5, 0.495])}))
    assert all(good for good, _ in texts(GOOD | {"validation/mAP": curve([0.49, 0.495, 0.5])}))


def test_without_validation_nobody_knows():
    without = {name: each for name, each in GOOD.items() if name != "validation/mAP"}
    ((good, text), _) = texts(without)
    assert good
    assert "no validation" in text
    ((good, text),) = texts(without | {"precision": rising(0.999)})
    assert not good
    assert "by heart" in text


def test_the_warning_of_a_collapse_is_repeated():
    watch = CollapseWatch("batch_hard", "soft", patience=1)
    warning = watch(1, 0.0, 0.7)
    assert warning.startswith(COLLAPSE)
    assert texts(GOOD, ["something else", warning])[0] == (False, warning)


def test_an_empty_training_is_no_error():
    assert texts({}, over=False)[0][0]
