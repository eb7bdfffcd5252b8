import numpy as np
import pytest
from paths import GOLDEN

from experiment import folder, provenance, train_log
from experiment.validations import Validation

START = "2026-01-02 03:04:05,678 [INFO] train: "


def iteration_line(iteration):
    losses = np.array([0.0904, 0.5, 1.2041])
    return train_log.iteration_line(
        iteration, losses, batch_k=4, precision=0.92188, seconds=0.1741, seconds_left=3723.9
    )


def early_line(nothing_to_do=False):
    return train_log.stopped_early_line(5, "mAP", 2, Validation(3, 0.5), nothing_to_do)


def write(root, *lines):
    (root / "train.log").write_text("".join(f"{START}{line}\n" for line in lines))
    return root


def test_the_line_of_an_iteration():
    assert iteration_line(120) == (
        "iter:   120, loss min|avg|max: 0.090|0.598| 1.204, batch-p@3: 92.19%, ETA: 1:02:03 "
        "(0.17s/it)"
    )


def test_what_is_written_is_read(tmp_path):
    write(tmp_path, "seed: 1", iteration_line(7), iteration_line(8), "Saved exp/checkpoint-8.")
    assert train_log.last(tmp_path) == (8, "0.598", "92.19%")
    lines = (tmp_path / "train.log").read_bytes().splitlines()
    assert [train_log.iteration_of(line) for line in lines] == [None, 7, 8, None]


def test_the_line_of_a_validation(tmp_path):
    figures = {"mAP": 0.41204, "top-1": 0.5}
    best = Validation(100, 0.43104)
    line = train_log.validation_line(120, figures, "mAP", best, seconds=2.14)
    assert line == "validation:   120, mAP: 41.20%, top-1: 50.00%, best mAP: 43.10% at 100 (2.1s)"
    write(tmp_path, line)
    assert train_log.iteration_of((tmp_path / "train.log").read_bytes()) == 120
    assert train_log.last(tmp_path) is None


def test_lines_of_the_original_are_read():
    assert train_log.last(GOLDEN / "experiment").iteration > 0


def test_the_flags_of_the_run_that_came_to_an_iteration(tmp_path):
    def run(end, *lines):
        return [*train_log.parameter_lines({"train_iterations": end, "decay_to": None}), *lines]

    write(
        tmp_path,
        *run(5, iteration_line(4), "Saved a b/checkpoint-5."),
        *run(9, iteration_line(6), iteration_line(7)),
        *run(20, "Starting training from iteration 5"),  # killed before its first line
    )
    assert train_log.parameters(tmp_path, 5) == {"train_iterations": "5", "decay_to": "None"}
    assert train_log.parameters(tmp_path, 6)["train_iterations"] == "9"
    assert train_log.parameters(tmp_path, 3) == {}
    assert train_log.parameters(tmp_path / "none", 5) == {}
    original = train_log.parameters(GOLDEN / "experiment", 10**6)
    assert original["train_iterations"] == "12" and "iter" not in original


def test_a_line_that_was_cut_counts_for_nothing(tmp_path):
    write(tmp_path, iteration_line(7), iteration_line(8)[:35])
    assert train_log.last(tmp_path).iteration == 7


def test_no_log_and_an_empty_one(tmp_path):
    assert train_log.last(tmp_path) is None and not train_log.has_iterations(tmp_path)
    write(tmp_path)
    assert train_log.last(tmp_path) is None and not train_log.has_iterations(tmp_path)
    assert train_log.state(tmp_path) == "stopped"


def test_a_training_that_was_prolonged_is_not_finished(tmp_path):
    write(tmp_path, iteration_line(5), train_log.finished_line(5))
    assert train_log.state(tmp_path, iterations=5) == "finished"
    assert train_log.state(tmp_path, iterations=6) == "stopped"


@pytest.mark.parametrize(
    "lines, state",
    [
        ([iteration_line(5)], "stopped"),
        ([iteration_line(5), train_log.interrupted_line(5, "train.py --resume")], "interrupted"),
        ([train_log.interrupted_line(5, "train.py --resume"), iteration_line(6)], "stopped"),
        ([iteration_line(5), train_log.finished_line(5)], "finished"),
        ([train_log.finished_line(5), "seed: 1", iteration_line(6)], "stopped"),
        ([iteration_line(5), train_log.nothing_to_do_line(5)], "finished"),
        ([iteration_line(5), early_line()], "finished early"),
        ([early_line(), "seed: 1", early_line(nothing_to_do=True)], "finished early"),
        ([early_line(), iteration_line(6)], "stopped"),
        (["experiment_root: a folder that is called 'Finished all 5 iterations.'"], "stopped"),
    ],
)
def test_the_state_of_a_training(tmp_path, lines, state):
    write(tmp_path, *lines)
    assert train_log.state(tmp_path) == state
    assert provenance.state(tmp_path) == state  # where nothing else is recorded
    with folder.lock(tmp_path):
        assert provenance.state(tmp_path) == "running"


def test_the_value_of_a_flag_is_not_read_as_a_line(tmp_path):
    values = (
        "lr test iter: 5",
        "x] train: iter:     7, loss min|avg|max: 0|9|9, batch-p@3: 1%",
        "a\n" + START + "iter:     7, ",
        "] train: Finished all 9 iterations.",
        "] train: Interrupted after iteration 3. To go on: ",
        "] train: " + "Training using the following parameters:",
    )
    for value in values:
        flags = {"experiment_root": value, "z": "1"}
        write(tmp_path, *train_log.parameter_lines(flags), "Saved x/checkpoint-0.")
        lines = (tmp_path / "train.log").read_bytes().splitlines()
        assert [train_log.iteration_of(line) for line in lines] == [None] * 4
        assert train_log.last(tmp_path) is None
        assert train_log.state(tmp_path) == "stopped"
        assert train_log.parameters(tmp_path, 0)["z"] == "1"
        assert train_log.parameters(tmp_path, 0)["experiment_root"] == value.replace("\n", " ")


def test_numbers_of_5000_digits_are_none(tmp_path):
    many = "9" * 5000
    write(
        tmp_path,
        *train_log.parameter_lines({"seed": 1}),
        iteration_line(3),
        iteration_line(4).replace("4", many, 1),
        f"Finished all {many} iterations.",
        f"Saved x/checkpoint-{many}.",
    )
    assert train_log.last(tmp_path).iteration == 3
    assert train_log.state(tmp_path) == "stopped"
    assert train_log.parameters(tmp_path, 3)["seed"] == "1"
