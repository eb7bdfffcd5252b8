from experiment import validations
from experiment.metrics_log import MetricsLog
from experiment.validations import Validation


def test_they_are_read_from_the_log_up_to_an_iteration(tmp_path):
    with MetricsLog(tmp_path) as log:
        for iteration, value in ((10, 0.3), (20, 0.5), (30, 0.4)):
            log.write(iteration, {"loss": 1.0})
            log.write(iteration, validations.tags({"mAP": value, "top-1": 1 - value}))
    assert validations.read(tmp_path, "mAP", until=20) == [(10, 0.3), (20, 0.5)]
    assert validations.read(tmp_path, "top-1") == [(10, 0.7), (20, 0.5), (30, 0.6)]
    assert validations.read(tmp_path, "mINP") == []
    assert validations.read(tmp_path / "nothing", "mAP") == []


def test_the_best_is_the_first_of_the_highest_and_what_came_after_it_is_counted():
    values = [0.3, 0.5, 0.4, 0.5, 0.1]
    found = [Validation(10 * number, value) for number, value in enumerate(values, 1)]
    assert validations.best(found) == (20, 0.5)
    assert [validations.since_best(found[:n]) for n in range(6)] == [0, 0, 0, 1, 2, 3]
    assert validations.best([]) is None
