from experiment import curves, validations
from experiment.metrics_log import MetricsLog
from experiment.validations import Validation


def test_they_are_read_from_the_log_up_to_an_iteration(tmp_path):
    with MetricsLog(tmp_path) as log:
        for iteration, value in ((10, 0.3), (20, 0.5), (30, 0.4)):
            log.write(iteration, {"loss": 1.0})
            log.write(iteration, validations.tags({"mAP": value, "top-1": 1 - value}))
    assert validations.read(tmp_path, "mAP", until=20) == [Validation(10, 0.3), Validation(20, 0.5)]
    assert validations.read(tmp_path, "top-1") == [
        Validation(10, 0.7),
        Validation(20, 0.5),
        Validation(30, 0.6),
    ]
    assert validations.read(tmp_path, "mINP") == []
    assert validations.read(tmp_path / "nothing", "mAP") == []


def test_the_best_is_the_first_of_the_highest_and_what_came_after_it_is_counted():
    values = [0.3, 0.5, 0.4, 0.5, 0.1]
    found = [Validation(10 * number, value) for number, value in enumerate(values, 1)]
    assert validations.best(found) == Validation(20, 0.5)
    assert [validations.since_highest(found[:n]) for n in range(6)] == [0, 0, 0, 1, 2, 3]
    assert validations.best([]) is None


def test_what_may_be_chance_is_not_the_best_but_is_a_rise(tmp_path):
    with MetricsLog(tmp_path) as log:
        for iteration, value, chance in ((0, 0.3, None), (5, 0.7, 0.1001), (10, 0.5, 0.1)):
            of_chance = {} if chance is None else {validations.CHANCE: chance}
            log.write(iteration, validations.tags({"mAP": value} | of_chance))
    found = validations.read(tmp_path, "mAP")
    assert found == [Validation(0, 0.3), Validation(5, 0.7, 0.1001), Validation(10, 0.5, 0.1)]
    assert validations.best(found) == found[2]
    assert validations.best(found[:2]) == found[0]
    assert validations.since_highest(found) == 1
    assert curves.best_validation(curves.read(tmp_path), "mAP") == 2
    assert curves.best_validation({}, "mAP") is None
