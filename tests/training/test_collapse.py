import pytest

from training.collapse import CollapseWatch

POINT, SPREAD = 1e-3, 5.0  # largest distances


def warnings(watch, furthest, loss, times, start=1, every=1):
    return [watch(start + number * every, furthest, loss) for number in range(times)]


@pytest.mark.parametrize("margin, loss", [("soft", 0.6932), (0.2, 0.2), (1.0, 1.0), ("none", 0.0)])
def test_one_warning_after_as_many_iterations_as_it_takes(margin, loss):
    got = warnings(CollapseWatch("batch_hard", margin, patience=5), POINT, loss, 20)
    assert [bool(warning) for warning in got] == [False] * 4 + [True] + [False] * 15
    assert "collapsed" in got[4] and "pretrained weights" in got[4] and "--learning_rate" in got[4]


@pytest.mark.parametrize("margin, loss", [("soft", 0.693), (0.5, 0.5)])
def test_a_loss_that_sits_at_its_value_of_no_difference_counts_too(margin, loss):
    assert any(warnings(CollapseWatch("batch_hard", margin, patience=5), SPREAD, loss, 5))


@pytest.mark.parametrize("margin, loss", [("soft", 0.2), ("soft", 2.0), (0.2, 0.05), (1.0, 3.0)])
def test_a_healthy_run_is_not_warned_about(margin, loss):
    assert not any(warnings(CollapseWatch("batch_hard", margin, patience=5), SPREAD, loss, 50))


@pytest.mark.parametrize("margin, loss", [(0.0, 0.0), (0.004, 0.0), ("none", 0.0), (-1.0, 0.0)])
def test_no_loss_at_all_between_persons_that_are_far_apart_is_no_collapse(margin, loss):
    assert not any(warnings(CollapseWatch("batch_hard", margin, patience=5), SPREAD, loss, 50))


@pytest.mark.parametrize(
    "loss, furthest", [("lifted", SPREAD), ("circle", POINT), ("multi_similarity", POINT)]
)
def test_what_means_nothing_for_other_losses(loss, furthest):
    assert not any(warnings(CollapseWatch(loss, "soft", patience=5), furthest, 0.693, 50))


def test_a_margin_beyond_all_distances_is_no_collapse():
    assert not any(warnings(CollapseWatch("batch_hard", 30.0, patience=5), 1.9, 29.0, 50))


def test_a_good_iteration_starts_the_count_anew_and_a_second_collapse_is_told_again():
    watch = CollapseWatch("batch_hard", "soft", patience=5)
    got = warnings(watch, POINT, 0.693, 4) + [watch(5, SPREAD, 0.3)]
    got += warnings(watch, POINT, 0.693, 5, start=6)
    assert [bool(warning) for warning in got] == [False] * 9 + [True]
    watch(11, SPREAD, 0.3)
    assert any(warnings(watch, POINT, 0.693, 5, start=12))


@pytest.mark.parametrize("every, first", [(1, 6), (2, 4), (4, 3), (9, 2)])
def test_iterations_count_that_were_not_looked_at_but_one_look_is_no_collapse(every, first):
    watch = CollapseWatch("batch_hard", "soft", patience=6)
    got = warnings(watch, POINT, 0.693, 20, every=every)
    assert [bool(warning) for warning in got] == [call == first for call in range(1, 21)]
    assert f"for {1 + every * (first - 1)} iterations" in got[first - 1]
