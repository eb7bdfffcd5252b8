import json

import pytest
from paths import GOLDEN

import train
from common import UserError
from experiment import args_json, train_log
from experiment.flags import Settings
from runtime import files, terminal

ORIGINALS_ARGS = json.loads((GOLDEN / "experiment" / "args.json").read_text())


def write_args(root, **changes):
    files.write_json(root / "args.json", ORIGINALS_ARGS | changes)
    return root


@pytest.mark.parametrize(
    "text, message", [(None, "no experiment"), ("{", "cannot be read as JSON"), ("[1]", "list")]
)
def test_a_file_that_is_no_args_json(tmp_path, text, message):
    if text is not None:
        (tmp_path / "args.json").write_text(text)
    with pytest.raises(UserError, match=message):
        args_json.read(tmp_path)


def test_args_json_of_the_original_is_read(tmp_path):
    settings, lacking = args_json.load(write_args(tmp_path, margin=0.2))
    expected = ORIGINALS_ARGS | {"experiment_root": str(tmp_path), "margin": 0.2}
    assert {name: args_json.content(settings)[name] for name in ORIGINALS_ARGS} == expected
    assert set(lacking) == vars(settings).keys() - ORIGINALS_ARGS.keys() and "seed" in lacking


def test_what_args_json_lacks_is_as_in_the_original(tmp_path):
    (tmp_path / "args.json").write_text('{"embedding_dim": 7, "a_flag_of_tomorrow": 3}')
    settings, lacking = args_json.load(tmp_path)
    assert settings == Settings(
        experiment_root=str(tmp_path),
        embedding_dim=7,
        orientation="stored",
        label_smoothing=0.1,
    )
    assert not settings.upright and Settings(experiment_root="new").upright
    assert "batch_p" in lacking and "embedding_dim" not in lacking


def test_resuming_keeps_what_args_json_lacks_as_in_the_original(tmp_path, capfd):
    write_args(tmp_path)
    settings, warnings = resumed(tmp_path, capfd)
    assert settings.orientation == "stored"
    assert any("args.json lacks orientation: it is stored" in warning for warning in warnings)
    args_json.write(settings)
    settings, _ = resumed(tmp_path, capfd, "--orientation=exif")
    assert settings.orientation == "stored"


@pytest.mark.parametrize(
    "name, value",
    [
        ("batch_p", 0),
        ("batch_p", "many"),
        ("batch_p", 4.5),
        ("batch_p", True),
        ("batch_p", None),
        ("model_name", "resnet_v1_51"),
        ("model_name", "../train"),
        ("head_name", "none"),
        ("metric", "manhattan"),
        ("loss", "batch_easy"),
        ("margin", "hard"),
        ("learning_rate", -1),
        ("crop_augment", "yes"),
        ("decay_start_iteration", -2),
        ("train_set", 5),
        ("train_set", "a\0b"),
        ("image_root", [1]),
        ("train_set", ["a.csv", None]),
        ("set_weights", ["one"]),
        ("set_weights", [0]),
        ("set_weights", []),
        ("train_set", []),
    ],
)
def test_a_value_that_is_not_allowed_is_told_by_name(tmp_path, name, value):
    with pytest.raises(UserError, match=f"args.json.*{name}"):
        args_json.load(write_args(tmp_path, **{name: value}))


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("set_weights", 2, [2.0]),
        ("set_weights", [1, 2], [1.0, 2.0]),
        ("set_weights", None, None),
        ("train_set", "a.csv", "a.csv"),
        ("train_set", ["a.csv"], "a.csv"),
        ("image_root", ["images"], "images"),
        ("train_set", ["a.csv", "b.csv"], ["a.csv", "b.csv"]),
    ],
)
def test_flags_of_several_values(tmp_path, name, value, expected):
    settings, _ = args_json.load(write_args(tmp_path, **{name: value}))
    assert getattr(settings, name) == expected


def resumed(root, capfd, *argv):
    """The settings to go on with, and the warnings."""
    terminal.setup_logging("test")
    call = train.parse_args([f"--experiment_root={root}", "--resume", *argv])
    settings = args_json.resume(call.settings, call.given)
    return settings, capfd.readouterr().err.splitlines()


def test_resuming_takes_args_json_and_warns(tmp_path, capfd):
    write_args(tmp_path)
    flags = ["--batch_p=16", "--learning_rate=0.5", "--seed=5"]
    settings, warnings = resumed(tmp_path, capfd, *flags)
    assert (settings.batch_p, settings.learning_rate, settings.seed) == (16, 3e-4, 5)
    assert any("args.json lacks seed: it is 5" in warning for warning in warnings)
    unused = [warning for warning in warnings if "not used" in warning]
    assert len(unused) == 1  # batch_p is as it was
    assert "--learning_rate 0.5 is not used" in unused[0] and "edit args.json" in unused[0]


@pytest.mark.parametrize(
    "name, value",
    [
        ("train_iterations", 99),
        ("checkpoint_frequency", 7),
        ("keep_checkpoints", 2),
        ("log_frequency", 10),
        ("histogram_frequency", 0),
        ("image_frequency", 11),
        ("loading_threads", 3),
        ("cache", "decoded"),
        ("strategy", "one"),
    ],
)
def test_how_long_how_often_and_on_what_may_be_given_anew(name, value, tmp_path, capfd):
    before = args_json.content(args_json.load(write_args(tmp_path))[0])
    write_args(tmp_path, **before)
    settings, lines = resumed(tmp_path, capfd, f"--{name}={value}")
    assert args_json.content(settings) == before | {name: value}
    assert any(f"--{name} is {value} from now on; it was {before[name]}." in line for line in lines)
    assert not any("not used" in line for line in lines)


@pytest.mark.parametrize("began, given", [("resized", "none"), ("none", "resized")])
def test_rounded_images_are_kept_to(began, given, tmp_path, capfd):
    write_args(tmp_path, cache=began, cache_dir="a")
    with pytest.raises(UserError, match=f"Received: --cache {given}, where args.json says {began}"):
        resumed(tmp_path, capfd, f"--cache={given}")
    settings, _ = resumed(tmp_path, capfd, f"--cache={began}", "--cache_dir=b")
    assert (settings.cache, settings.cache_dir) == (began, "b")


def test_fewer_iterations_than_are_finished_are_an_error(tmp_path, capfd):
    write_args(tmp_path)
    for name in ("checkpoint-9.index", "checkpoint-10.index", "checkpoint-99.data", "x-11.index"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="should be at least 10.*checkpoint-10.*Received: 9"):
        resumed(tmp_path, capfd, "--train_iterations=9")
    assert resumed(tmp_path, capfd, "--train_iterations=10")[0].train_iterations == 10


def test_the_strategy_may_be_another_one(tmp_path, capfd):
    files.write_json(tmp_path / "args.json", ORIGINALS_ARGS | {"strategy": "multi_worker"})
    assert resumed(tmp_path, capfd)[0].strategy == "multi_worker"
    settings, warnings = resumed(tmp_path, capfd, "--strategy=one")
    assert settings.strategy == "one" and not any("not used" in line for line in warnings)


def test_a_key_that_is_no_flag_is_warned_about(tmp_path, capfd):
    _, warnings = resumed(write_args(tmp_path, lerning_rate=5), capfd)
    expected = (
        "args.json has lerning_rate, which is no flag and does nothing. Meant: learning_rate?"
    )
    assert any(line.endswith(expected) for line in warnings)


def test_what_is_written_is_read_back(tmp_path):
    settings = Settings(experiment_root=str(tmp_path), margin=0.5, seed=3)
    args_json.write(settings)
    stored = json.loads((tmp_path / "args.json").read_text())
    assert list(stored) == sorted(stored) and stored["resume"] is False and stored["margin"] == 0.5
    assert args_json.load(tmp_path) == (settings, [])
    (tmp_path / "args.json").write_text(json.dumps(stored), encoding="utf-8-sig")
    assert args_json.load(tmp_path) == (settings, [])
    files.write_json(tmp_path / "args.json", stored | {"a_note": "mine"})
    args_json.write(settings)
    noted = json.loads((tmp_path / "args.json").read_text())
    assert noted.pop("digest") != stored.pop("digest")
    assert noted == stored | {"a_note": "mine"}


def test_what_changed_since_it_was_written_is_told_and_counts(tmp_path, capfd):
    root = str(tmp_path)
    settings = Settings(experiment_root=root, train_set="a.csv", image_root="i", batch_p=16, seed=3)
    args_json.write(settings)
    assert not any("was changed" in line for line in resumed(tmp_path, capfd)[1])
    lines = train_log.parameter_lines(args_json.content(settings))
    (tmp_path / "train.log").write_text("".join(f"0 0 [INFO] train: {line}\n" for line in lines))
    with open(tmp_path / "train.log", "a") as log:
        log.write("0 0 [INFO] train: Saved x/checkpoint-0.\n")
    path = tmp_path / "args.json"
    path.write_text(path.read_text().replace('"batch_p": 16', '"batch_p": 18'))
    for _ in range(2):
        changed, warnings = resumed(tmp_path, capfd)
        (line,) = [line for line in warnings if "was changed" in line]
        assert "after train.py wrote it: batch_p is 18 and was 16. It counts" in line
        assert changed.batch_p == 18
    args_json.architecture(tmp_path, {})
    assert "batch_p is 18 and was 16" in capfd.readouterr().err
    args_json.write(changed)
    assert not any("was changed" in line for line in resumed(tmp_path, capfd)[1])
