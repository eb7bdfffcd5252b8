import pytest

from common import UserError
from experiment import flags, rules
from experiment.flags import Settings


def settings_of(*argv):
    values = vars(flags.make_parser("x").parse_args(["--experiment_root=exp", *argv]))
    values.pop("resume")
    return Settings(**values)


@pytest.mark.parametrize(
    "argv, warned",
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
def test_what_the_training_ends_before_is_warned_about(argv, warned):
    lines = rules.unreached(settings_of(*argv))
    assert len(lines) == len(warned)
    assert all(part in line for part, line in zip(warned, lines, strict=True))


EXAMPLES = {
    "label_smoothing": "0.2",
    "decay_to": "20000",
    "lr_milestones": "4,7",
    "lr_decay_factor": "0.5",
    "adam_beta1_decay": None,
    "momentum": "0.9",
    "nesterov": None,
    "weight_decay": "0.01",
}


def test_there_is_an_example_of_every_flag_that_needs_another():
    assert EXAMPLES.keys() == {row.name for row in flags.rows() if row.metadata["only_with"]}


@pytest.mark.parametrize("start, end", [(-1, 9), (9, 9), (10, 9)])
def test_a_decay_ends_after_it_starts(start, end):
    with pytest.raises(UserError, match=f"--decay_to needs .*Received: .*{start} --decay_to {end}"):
        rules.check_combinations(
            settings_of(f"--decay_start_iteration={start}", f"--decay_to={end}")
        )
    rules.check_combinations(settings_of("--decay_start_iteration=8", "--decay_to=9"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_flag_without_effect_is_an_error(name):
    only_with = flags.only_with(name)
    flag = f"--{name}" if EXAMPLES[name] is None else f"--{name}={EXAMPLES[name]}"
    choices = flags.options(only_with.name).get("choices", ("0",))
    (wrong, *_) = [choice for choice in choices if choice not in only_with.values]
    with pytest.raises(UserError, match=f"--{name} is for --{only_with.name} .*Received: {wrong}"):
        rules.check_combinations(settings_of(flag, f"--{only_with.name}={wrong}"))
