import pytest

from common import UserError
from experiment import flags, rules
from experiment.flags import Settings


def settings_of(*argv):
    values = vars(flags.make_parser("x").parse_args(["--experiment_root=exp", *argv]))
    return Settings(**{field.name: values[field.name] for field in flags.rows()})


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
            ["--adam_beta1_decay has no effect: --decay_start_iteration 15000 is not before"],
        ),
        (
            ["--train_iterations=9", "--adam_beta1_decay"],
            ["the learning rate never decays", "--adam_beta1_decay has no effect"],
        ),
        (["--train_iterations=9", "--lr_schedule=multistep", "--lr_milestones=8,12"], []),
        (
            ["--train_iterations=8", "--lr_schedule=multistep", "--lr_milestones=8,12"],
            ["--lr_milestones 8 is not"],
        ),
        (["--warmup_iterations=25000"], ["The warm-up never ends"]),
        (["--memory_batches=2", "--memory_start=25000"], ["The memory is never used"]),
    ],
)
def test_what_the_training_ends_before_is_warned_about(argv, warned):
    lines = rules.unreached(settings_of(*argv))
    assert len(lines) == len(warned)
    assert all(part in line for part, line in zip(warned, lines, strict=True))


def test_parts_of_images_that_are_small_on_disk_are_warned_about():
    part, cache = ["--random_resized_crop=0.3"], ["--cache=resized", "--cache_dir=somewhere"]
    (line,) = rules.enlarged(settings_of(*part, *cache))
    assert "keeps images of 256x128 pixels" in line and "Give --cache decoded" in line
    for argv in (part, cache, [*part, "--cache=decoded"], [*cache, "--crop_augment"]):
        assert not rules.enlarged(settings_of(*argv))


def test_parts_that_are_always_the_whole_image_are_warned_about():
    (line,) = rules.doubtful(settings_of("--random_resized_crop=1", "--crop_aspect=2"))
    assert "takes the whole of each image, and --crop_aspect has no effect" in line
    assert (
        rules.doubtful(settings_of("--random_resized_crop=0.99"))
        == rules.doubtful(settings_of())
        == []
    )


def test_flags_that_freeze_and_synchronize_the_same_are_told():
    both = settings_of("--bn_frozen", "--no_sync_batch_norm")
    with pytest.raises(UserError, match="--no_sync_batch_norm has no effect beside --bn_frozen"):
        rules.check_combinations(both)
    rules.check_combinations(both, resuming=True)  # it may have begun with both
    for argv in ([], ["--bn_frozen"], ["--no_sync_batch_norm"]):
        rules.check_combinations(settings_of(*argv))


EXAMPLES = {
    "camera_names": "1",
    "cache_dir": "somewhere",
    "memory_start": "5",
    "id_loss": "arcface",
    "id_scale": "30",
    "id_margin": "0.3",
    "id_margin_by_count": "0.5,0.25,0.05",
    "id_centers": "2",
    "crop_aspect": "2",
    "batch_size": "64",
    "batch_p": "8",
    "batch_k": "2",
    "label_smoothing": "0.2",
    "decay_to": "20000",
    "lr_milestones": "4,7",
    "lr_decay_factor": "0.5",
    "adam_beta1_decay": None,
    "adam_beta1": "0.8",
    "adam_beta2": "0.99",
    "rho": "0.8",
    "optimizer_epsilon": "1e-3",
    "momentum": "0.9",
    "nesterov": None,
    "weight_decay": "0.01",
}


def test_there_is_an_example_of_every_flag_that_needs_another():
    assert EXAMPLES.keys() == {row.name for row in flags.rows() if row.metadata["only_with"]}


def test_what_every_args_json_has_is_no_error():
    """Before, 0.1 was the default of the label smoothing, also where nothing is smoothed."""
    rules.check_combinations(settings_of("--label_smoothing=0.1"))


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


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["--loss_constants=m=0.3"],
            "--loss batch_hard has no constants .*Received: --loss_constants m=0.3. .*multi_similarity, circle",
        ),
        (
            ["--loss=circle", "--loss_constants=m=0.3,alpha=3"],
            "--loss circle has no constant alpha. Received: .*m=0.3,alpha=3. Give those of m, gamma",
        ),
        (
            ["--loss=circle", "--loss_constants=gamma=32,m=5"],
            "constants m of --loss circle should be between 0 and 1. Received: .*gamma=32,m=5. Leave it out for 0.25",
        ),
        (["--loss=circle", "--loss_constants=m=1"], "m of --loss circle should be between 0 and 1"),
        (
            ["--loss=multi_similarity", "--loss_constants=base=2"],
            "base of --loss multi_similarity should be above 0 and at most 1. .* base=2. Leave it out for 0.5",
        ),
        (
            ["--lr_factors=head=2,classifier=10"],
            "only --id_loss_weight above 0 adds. Received: --lr_factors head=2,classifier=10. Leave classifier out, or",
        ),
        (
            ["--adam_beta1_decay", "--adam_beta1=0.5"],
            "--adam_beta1_decay lowers beta1 to 0.5. Received: --adam_beta1 0.5",
        ),
    ],
)
def test_constants_that_do_not_fit_are_refused(argv, message):
    with pytest.raises(UserError, match=message):
        rules.check_combinations(settings_of(*argv))


def test_an_experiment_that_began_with_other_constants_goes_on():
    settings = settings_of("--loss=circle", "--loss_constants=m=1.1")
    rules.check_combinations(settings, resuming=True)
    with pytest.raises(UserError, match="should be between 0 and 1"):
        rules.check_combinations(settings)


def test_a_layer_decay_is_for_nets_that_say_what_their_layers_are(tmp_path, monkeypatch):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "plain.py").write_text("def build(input_shape): pass")
    (tmp_path / "nets" / "deep.py").write_text('LAYERS = r"layer\\d"\ndef build(input_shape): pass')
    monkeypatch.chdir(tmp_path)
    rules.check_combinations(settings_of("--model_name=deep", "--layer_decay=0.5"))
    rules.check_combinations(settings_of("--model_name=plain", "--layer_decay=1"))
    with pytest.raises(
        UserError, match="for --model_name plain.*Received: 0.5. Nets .*lunet.*deep"
    ):
        rules.check_combinations(settings_of("--model_name=plain", "--layer_decay=0.5"))


def test_constants_that_fit():
    settings = settings_of(
        "--loss=circle", "--loss_constants=gamma=32", "--lr_factors=bias=2,net=.1"
    )
    rules.check_combinations(settings)
    assert settings.constants_of_loss == {"gamma": 32}
    assert settings.factors_of_parts == {"bias": 2, "net": 0.1}
    rules.check_combinations(settings_of("--lr_factors=classifier=10", "--id_loss_weight=1"))
    rules.check_combinations(settings_of("--lr_factors=head=10", "--center_loss_weight=1"))
    assert settings_of().constants_of_loss == settings_of().factors_of_parts == {}


@pytest.mark.parametrize(
    "loss, constants",
    [
        ("circle", "m=0.99,gamma=1000"),
        ("multi_similarity", "alpha=9,beta=90,base=1,epsilon=2"),
        ("supcon", "temperature=3"),
    ],
)
def test_constants_at_the_ends_of_what_is_allowed(loss, constants):
    rules.check_combinations(settings_of(f"--loss={loss}", f"--loss_constants={constants}"))


@pytest.mark.parametrize(
    "text",
    ["", "2", "m", "=2", "m=", "m=x", "m=0", "m=-1", "m=nan", "m=inf", "m=1,m=2", "m=1,", "m=1=2"],
)
@pytest.mark.parametrize("flag, name", [("loss_constants", "m"), ("lr_factors", "net")])
def test_other_texts_than_names_with_numbers_are_refused(flag, name, text, capsys):
    with pytest.raises(SystemExit):
        settings_of(f"--{flag}={text.replace('m', name)}")
    told = capsys.readouterr().err
    assert "each" in told and "above 0" in told and "Received: " in told


def test_factors_are_for_parts_that_there_are(capsys):
    with pytest.raises(SystemExit):
        settings_of("--lr_factors=head=10,body=2")
    told = capsys.readouterr().err
    assert (
        "--lr_factors: should be numbers above 0 for parts of net, head, classifier, bias" in told
    )
    assert "Received: head=10,body=2" in told


GOOD = ["--val_query=a.csv", "--val_gallery=b.csv", "--val_excluder=diagonal"]


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["--val_frequency=5"],
            "--val_frequency has no effect without a validation. Add --val_pids",
        ),
        (["--early_stop=5", "--val_metric=top-1"], "--early_stop has no effect"),
        (["--val_image_root=x"], "--val_image_root has no effect"),
        (["--val_pids=5", *GOOD], "Received: --val_pids and --val_gallery, --val_query. Give one"),
        (["--val_pids=5", "--val_image_root=x"], "Received: --val_pids and --val_image_root."),
        (GOOD[:1], "Missing: --val_gallery, --val_excluder"),
        (GOOD[1:], "Missing: --val_query"),
        (
            ["--val_distractors=9"],
            "--val_distractors has no effect without a validation. Add --val_pids",
        ),
        (
            [*GOOD, "--val_distractors=9"],
            "Received: --val_distractors 9 beside --val_query .*take --val_pids",
        ),
        (["--val_beyond_chance"], "--val_beyond_chance has no effect without a validation"),
        ([*GOOD, "--val_beyond_chance"], "compares with a validation before .*Add --val_start"),
        (
            [*GOOD, "--val_start", "--val_beyond_chance", "--val_metric=top-1"],
            "compares the AP of pids. Received: --val_metric top-1. Leave out one",
        ),
        (GOOD[:2], "which says what does not count for a query. Missing: --val_excluder"),
    ],
)
def test_flags_of_a_validation_that_do_not_fit_together_are_refused(argv, message):
    with pytest.raises(UserError, match=message):
        rules.check_combinations(validating(argv))


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--val_pids=0.1", "--val_views=flip"],
        GOOD,
        [*GOOD, "--val_start", "--val_beyond_chance"],
    ],
)
def test_flags_of_a_validation_that_fit_together(argv):
    settings = validating([*argv, *(["--early_stop=3"] if argv else [])])
    rules.check_combinations(settings)
    assert settings.validates == bool(argv)


def validating(argv):
    """Settings with files that need not exist."""
    parts = [flag.removeprefix("--").partition("=") for flag in argv]
    values = {name: value if equals else True for name, equals, value in parts}
    for name in ("val_frequency", "early_stop"):
        if name in values:
            values[name] = int(values[name])
    return Settings(experiment_root="exp", **values)


@pytest.mark.parametrize("text, value", [("2", 2), ("100", 100), ("0.1", 0.1), ("1e-3", 1e-3)])
def test_pids_to_hold_out_are_a_number_or_a_share(text, value):
    found = settings_of(f"--val_pids={text}").val_pids
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["1", "0", "-3", "1.0", "0.0", "2.5", "nan", "many"])
def test_other_numbers_of_pids_to_hold_out_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        settings_of(f"--val_pids={text}")
    told = capsys.readouterr().err
    assert f"integer of at least 2, or a share between 0 and 1. Received: {text}" in told


@pytest.fixture
def files(tmp_path, monkeypatch):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).touch()
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)


TWO = "--train_set a.csv b.csv --image_root A B"


@pytest.mark.parametrize(
    "argv",
    [
        "--train_set a.csv --image_root A",
        TWO,
        "--train_set a.csv b.csv --image_root A",
        f"{TWO} --join_pids --set_weights 1 0.5",
        f"{TWO} --same_group_batches --no_file_check",
    ],
)
def test_sets_that_go_together(argv, files):
    rules.check_combinations(settings_of(*argv.split()))


@pytest.mark.parametrize(
    "argv, message",
    [
        ("--train_set a.csv --image_root A B", "one directory, .* Received: 2 of them for 1 files"),
        ("--train_set a.csv a.csv --image_root A", "each file once. Received twice: a.csv"),
        ("--train_set a.csv --join_pids", "--join_pids is for several files .*one: a.csv"),
        ("--train_set a.csv --set_weights 1", "--set_weights is for several files"),
        (f"{TWO} --set_weights 1", "one number for each --train_set. Received: 1 for 2 files"),
        (f"{TWO} --set_weights 1 2 --same_group_batches", "Give one of them"),
        (
            f"{TWO} --set_weights 100 1 --batch_p 4",
            "--set_weights 100.0 1.0 would give the 4 pids of a batch as 4 and 0 to the files",
        ),
    ],
)
def test_sets_that_do_not_go_together(argv, message, files):
    with pytest.raises(UserError, match=message):
        rules.check_combinations(settings_of(*argv.split()))


def test_images_on_disk_need_a_place():
    with pytest.raises(UserError, match="--cache resized needs a --cache_dir"):
        rules.check_combinations(settings_of("--cache=resized"))
    rules.check_combinations(settings_of("--cache=resized", "--cache_dir=somewhere"))


@pytest.mark.parametrize(
    "argv, metric",
    [
        ([], "euclidean"),
        (["--loss=supcon"], "cosine"),
        (["--id_loss_weight=1", "--id_loss=arcface", "--metric=cityblock"], "cityblock"),
        (["--loss_weight=0", "--id_loss_weight=1", "--id_loss=arcface"], "cosine"),
        (["--loss_weight=0", "--id_loss_weight=1", "--loss=supcon"], "euclidean"),
    ],
)
def test_embeddings_are_compared_as_by_the_loss_that_trains(argv, metric):
    settings = settings_of(*argv)
    rules.check_combinations(settings)
    assert settings.metric_to_evaluate == metric
