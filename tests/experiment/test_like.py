"""--like, --without and --start_or_resume, as far as they are decided before a training."""

import json
import re
import sys

import pytest
from paths import GOLDEN, PROJECT

import train
from common import UserError
from experiment import args_json
from experiment.flags import Settings
from runtime import files, terminal

ORIGINALS_ARGS = json.loads((GOLDEN / "experiment" / "args.json").read_text())


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The working directory, with a CSV and a folder of images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text("1,a.png\n")
    (tmp_path / "images").mkdir()
    return tmp_path


def experiment(root, **changes):
    """An experiment's args.json, as train.py writes it. Returns: its settings."""
    values = {"train_set": "data.csv", "image_root": "images", "seed": 5} | changes
    settings = Settings(experiment_root=root, **values)
    args_json.write(settings)
    return settings


def make_folder(path):
    path.mkdir()
    return path


def parse(*argv, root="new"):
    return train.parse_args([f"--experiment_root={root}", *argv])


def refused(capsys, *argv):
    """The one line of an error in the flags."""
    with pytest.raises(SystemExit) as end:
        parse(*argv)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.partition(": error: ")[2]


def write(name, text):
    with open(name, "w", encoding="utf-8") as file:
        file.write(text if isinstance(text, str) else json.dumps(text))
    return name


# ------------------------------------------------------------------------- an experiment


def test_a_new_experiment_has_the_flags_of_another_one_and_its_seed(place):
    make_folder(place / "old")
    before = experiment("old", batch_p=7, margin=0.3, cameras="column", strategy="mirrored")
    for name in ("old", "old/args.json"):
        call = parse("--like", name)
        assert call.settings.experiment_root == "new" and not call.resume
        assert vars(call.settings) | {"experiment_root": "old"} == vars(before)
        assert len(call.told) == 1


def test_the_command_line_wins_and_both_values_are_told(place):
    make_folder(place / "old")
    experiment("old", batch_p=7, learning_rate=0.5)
    call = parse("--like=old", "--batch_p=9", "--learning_rate=0.5", "--loss=lifted")
    assert (call.settings.batch_p, call.settings.loss) == (9, "lifted")
    assert call.told[1:] == [
        "--batch_p is 9; it is 7 in old/args.json.",
        "--loss is lifted; it is batch_hard in old/args.json.",
    ]


def test_what_belongs_to_a_call_or_a_machine_is_not_taken_over(place):
    make_folder(place / "old")
    machine = {"loading_threads": 31, "cache": "resized", "cache_dir": "/fast"}
    experiment("old", strategy="multi_worker", **machine)
    call = parse("--like=old")
    assert (call.settings.loading_threads, call.settings.cache) == (8, "none")
    assert call.settings.strategy == "auto"
    rounded, line = call.told[1:]
    assert "Not taken from old/args.json" in line
    assert line.endswith("--loading_threads 31.")
    assert "--cache resized, which rounds images to whole gray levels. It is not taken" in rounded
    call = parse("--like=old", "--cache=encoded", "--loading_threads=31")
    assert "--cache_dir /fast." in call.told[1] and "31" not in call.told[1]


def test_an_old_args_json_means_what_it_meant(place):
    make_folder(place / "old")
    stored = ORIGINALS_ARGS | {"train_set": "data.csv", "image_root": "images", "a_note": 1}
    files.write_json("old/args.json", stored)
    call = parse("--like=old")
    assert call.settings.orientation == "stored" and call.settings.seed is None
    assert call.settings.batch_p == stored["batch_p"]
    assert any("lacks orientation: it is stored, as it was" in line for line in call.told)
    assert any("a_note, which is no flag" in line for line in call.told)
    call = parse("--like=old", "--orientation=exif")
    assert call.settings.orientation == "exif"


def test_an_edited_args_json_is_told(place):
    make_folder(place / "old")
    experiment("old", batch_p=7)
    path = place / "old" / "args.json"
    path.write_text(path.read_text().replace('"batch_p": 7', '"batch_p": 8'))
    call = parse("--like=old")
    assert call.settings.batch_p == 8 and "was changed" in call.told[1]


def test_data_that_are_gone_are_told_unless_others_are_given(place, capsys):
    make_folder(place / "old")
    experiment("old", train_set=["data.csv", "gone.csv"], val_query="gone.csv")
    message = refused(capsys, "--like=old", "--without", "val_query")
    assert message == (
        "old/args.json: argument --train_set: should be an existing file. Received: gone.csv. Give --train_set, or "
        "correct it there."
    )
    call = parse("--like=old", "--train_set=data.csv", "--without", "val_query")
    assert call.settings.train_set == "data.csv"


def test_flags_are_left_out_by_name(place, capsys):
    make_folder(place / "old")
    experiment("old", flip_augment=True, lr_schedule="multistep", lr_milestones="3,5")
    call = parse("--like=old", "--without", "flip_augment", "seed")
    assert not call.settings.flip_augment and call.settings.seed is None
    message = refused(capsys, "--like=old", "--lr_schedule=constant")
    assert "--lr_milestones is for --lr_schedule multistep" in message
    assert "those of old/args.json: --without" in message
    parse("--like=old", "--lr_schedule=constant", "--without", "lr_milestones")
    message = refused(capsys, "--like=old", "--without", "flipaugment")
    assert "--without flipaugment has no effect" in message
    assert message.endswith("Meant: flip_augment?")
    assert "only with --like" in refused(capsys, "--without", "seed")


# ------------------------------------------------------------------------- files of flags

RECIPE = {"about": {"title": "Mine"}, "flags": {"batch_p": 6, "margin": 0.2, "flip_augment": True}}
DATA = ("--train_set=data.csv", "--image_root=images")


@pytest.mark.parametrize(
    "name, text",
    [
        ("recipe.json", RECIPE),
        ("flags.json", RECIPE["flags"]),
        ("flags.yaml", "batch_p: 6\nmargin: 2e-1  # YAML takes it for text\nflip_augment: true\n"),
        ("recipe.YML", "about: {title: Mine}\nflags: {batch_p: 6, margin: 0.2, flip_augment: on}"),
    ],
)
def test_a_recipe_may_leave_out_the_data(name, text, capsys):
    write(name, text)
    settings = parse("--like", name, *DATA).settings
    assert (settings.batch_p, settings.margin, settings.flip_augment) == (6, 0.2, True)
    assert settings.orientation == "exif" and settings.image_root == "images"
    assert "--train_set: needed for a new experiment" in refused(capsys, "--like", name)


def test_what_a_recipe_needs_is_asked_for(capsys):
    needs = {"initial_checkpoint": "ImageNet weights"}
    write("recipe.json", RECIPE | {"needs": needs})
    message = refused(capsys, "--like=recipe.json", *DATA)
    assert message == "argument --initial_checkpoint: recipe.json needs it: ImageNet weights"
    parse("--like=recipe.json", *DATA, "--initial_checkpoint=imagenet")


@pytest.mark.parametrize(
    "content, message",
    [
        ({"lerning_rate": 1}, "has lerning_rate, which is no flag .*Meant: learning_rate?"),
        ({"flags": {"--batch_p": 1}}, "--batch_p, which is no flag.* Names have no dashes"),
        ({"flags": {"resume": True}}, "has resume, which belongs to a call"),
        ({"flags": {"experiment_root": "x"}}, "has experiment_root, which belongs to a call"),
        ({"flags": {"batch_p": "many"}}, "x.json: argument --batch_p: should be an integer.*many"),
        ({"flags": {"batch_p": True}}, "batch_p should be no true or false"),
        ({"flags": {"batch_p": {"a": 1}}}, "batch_p should be a value or a list.*dict"),
        ({"flags": {"batch_p": 1}}, "--batch_p should be at least 2.*Received: 1"),
        ({"flags": {"loss": "batch_hrad"}}, "--loss: should be one of"),
        ({"flags": []}, "flags should be an object. Received: list"),
        ({"flags": {}, "need": {}}, "has 'need' beside flags. Meant: needs?"),
        ({"flags": {}, "needs": {"chekpoint": ""}}, "has chekpoint, which is no flag"),
        ({"\x1b[31m": 1}, r"\\x1b\[31m, which is no flag"),
        ([1], "should hold an object of flags. Received: list"),
        ("{", "x.json cannot be read as JSON"),
        ('{"batch_p": 1, "batch_p": 2}', "stands there twice"),
        ("{" * 100_000, "x.json cannot be read as JSON"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(content, message, capsys):
    write("x.json", content)
    assert re.search(message.replace("?", "[?]"), refused(capsys, "--like=x.json", *DATA))


@pytest.mark.parametrize(
    "content, message",
    [
        ("batch_p: 3\nbatch_p: 4", "'batch_p' stands there twice"),
        ("{batch_p: 3", "cannot be read as YAML"),
        ("batch_p: !!python/object/apply:os.system ['touch run']", "could not determine a constr"),
        ("batch_p: 2001-01-01", "batch_p should be a value or a list of values. Received: date"),
        ("margin: .nan", "--margin: should be"),
        ("5: 3", "has 5, which is no flag"),
        ("? [a]\n: 3", "cannot be read as YAML"),
        ("[" * 5000, "cannot be read as YAML"),
        ("a: &a [b, b]\nb: &b [*a, *a]\nbatch_p: *b", "has a, which is no flag"),
    ],
)
def test_what_is_wrong_in_yaml_is_one_line(content, message, capsys, place):
    write("x.yaml", content)
    assert re.search(message, refused(capsys, "--like=x.yaml", *DATA))
    assert not (place / "run").exists()


def test_yaml_without_its_package_is_told(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    write("x.yaml", "batch_p: 3")
    assert "pip install 'pyyaml" in refused(capsys, "--like=x.yaml", *DATA)


def test_a_file_that_is_not_there_is_told(place, capsys):
    make_folder(place / "empty")
    assert "empty/args.json does not exist" in refused(capsys, "--like=empty", *DATA)
    message = refused(capsys, "--like=recipes/market1501_trinett.json", *DATA)
    assert message.endswith("Meant: market1501_trinet?")


def test_a_recipe_of_the_project_has_a_name_but_a_file_of_that_name_counts_first(place):
    by_name = parse("--like=wildlife", *DATA)
    by_path = parse(f"--like={PROJECT / 'recipes' / 'wildlife.json'}", *DATA)
    assert by_name.settings == by_path.settings and by_name.settings.batch_p != 5
    write("wildlife", {"flags": {"batch_p": 5}})
    assert parse("--like=wildlife", *DATA).settings.batch_p == 5


def test_like_is_for_a_new_experiment(capsys):
    assert "--like: is for a new experiment" in refused(capsys, "--like=x", "--resume")


# ------------------------------------------------------------------------- --start_or_resume


def decided(*argv, root="exp"):
    return train._decided(parse(*argv, "--start_or_resume", root=root))


def test_it_starts_where_there_is_nothing(place):
    assert not decided(*DATA).resume
    make_folder(place / "exp")
    (place / "exp" / "train.log").touch()  # what a kill can leave before there is an args.json
    assert not decided(*DATA).resume
    train._check_root(decided(*DATA))
    (place / "exp" / "mine").touch()
    with pytest.raises(UserError, match="exp is not empty. It holds no args.json to resume by"):
        train._check_root(decided(*DATA))


def test_it_resumes_what_was_started_with_the_same_flags(place):
    make_folder(place / "exp")
    experiment("exp", batch_p=7, train_iterations=30)
    call = decided(*DATA, "--batch_p=7")
    assert call.resume
    assert args_json.resume(call.settings, call.given).train_iterations == 30
    call = decided(*DATA, "--batch_p=7", "--train_iterations=40", "--cache=encoded")
    settings = args_json.resume(call.settings, call.given)
    assert (settings.train_iterations, settings.cache, settings.seed) == (40, "encoded", 5)


def test_a_file_is_the_same_by_any_path(place, capsys):
    make_folder(place / "exp")
    make_folder(place / "more")
    write("more.csv", "2,b.png\n")
    (place / "link").symlink_to("images")
    experiment("exp", train_set=["data.csv", "more.csv"], image_root=["images", "more"])
    sets = ["--train_set", "./data.csv", str(place / "more.csv")]
    call = decided(*sets, "--image_root", "link/", "images/../more")
    assert call.resume
    terminal.setup_logging("test")
    settings = args_json.resume(call.settings, call.given)
    assert settings.image_root == ["images", "more"]
    assert "not used" not in capsys.readouterr().err
    with pytest.raises(UserError, match="--image_root is .* and was"):
        decided(*sets, "--image_root", "more", "images")


def test_a_word_in_place_of_a_checkpoint_is_no_path(place):
    make_folder(place / "exp")
    write("imagenet", "")
    experiment("exp", initial_checkpoint="imagenet", model_name="resnet50")
    flags = [*DATA, "--model_name=resnet50"]
    assert decided(*flags, "--initial_checkpoint=imagenet").resume
    with pytest.raises(UserError, match="--initial_checkpoint is ./imagenet and was imagenet"):
        decided(*flags, "--initial_checkpoint=./imagenet")


def test_it_refuses_other_flags_with_both_values(place):
    make_folder(place / "exp")
    experiment("exp", batch_p=7, loss="lifted")
    with pytest.raises(UserError) as error:
        decided(*DATA, "--batch_p=8", "--seed=6")
    assert str(error.value).startswith(
        "exp is an experiment with other flags: --seed is 6 and was 5; --batch_p is 8 and was 7; "
        "--loss is batch_hard and was lifted. Give its flags"
    )


def test_it_resumes_what_an_earlier_version_started(place):
    make_folder(place / "exp")
    stored = ORIGINALS_ARGS | {"train_set": "data.csv", "image_root": "images"}
    files.write_json("exp/args.json", stored)
    names = ("model_name", "head_name", "embedding_dim", "batch_p", "batch_k", "train_iterations")
    names += ("net_input_height", "net_input_width", "pre_crop_height", "pre_crop_width")
    names += ("decay_start_iteration", "learning_rate", "metric", "margin", "loss")
    argv = [f"--{name}={stored[name]}" for name in names]
    argv += [
        f"--{name}" for name in ("flip_augment", "crop_augment", "detailed_logs") if stored[name]
    ]
    call = decided(*DATA, *argv)
    assert call.resume
    terminal.setup_logging("test")
    assert args_json.resume(call.settings, call.given).orientation == "stored"


def test_an_earlier_default_is_no_difference(place):
    make_folder(place / "exp")
    experiment("exp", orientation="stored")
    assert decided(*DATA).resume
    with pytest.raises(UserError, match="--orientation is exif and was stored"):
        decided(*DATA, "--orientation=exif")


def test_it_goes_with_like(place):
    make_folder(place / "old")
    make_folder(place / "exp")
    files.write_json("old/args.json", vars(experiment("old", loss="lifted")) | {"seed": None})
    experiment("exp", loss="lifted")
    assert decided("--like=old").resume
    call = decided("--like=old")
    assert args_json.resume(call.settings, call.given).seed == 5
    write("recipe.json", {"flags": {"loss": "batch_all"}})
    with pytest.raises(UserError, match="--loss is batch_all and was lifted"):
        decided("--like=recipe.json", *DATA)


def test_two_ways_to_resume_are_one_too_many(capsys):
    message = refused(capsys, *DATA, "--resume", "--start_or_resume")
    assert "--start_or_resume: it resumes where it can. Leave out --resume" in message
