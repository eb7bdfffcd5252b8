"""Every recipe is parsed, trains two iterations on a small imitation, and is what its page says.

recipes/run.sh runs with a `python` that notes what it is called with: nothing is trained, and the
flags are held against the real parsers. The CSVs are made, of an imitation of Market-1501's folder.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
from paths import PROJECT

import common
import embed
import evaluate
import train
from data import csv_builder
from experiment import flags, recipes

RECIPES = {path.stem: json.loads(path.read_text()) for path in recipes.paths()}
each = pytest.mark.parametrize("name", RECIPES)


def path_of(name):
    return str(PROJECT / "recipes" / f"{name}.json")


# ------------------------------------------------------------------------- what they say


def test_the_page_shows_what_the_recipes_say():
    text = recipes.PAGE.read_text(encoding="utf-8")
    assert recipes.MARK in text
    assert recipes.page(text) == text, "python -m experiment.recipes"


@each
def test_a_recipe_tells_where_it_comes_from_and_what_was_measured(name):
    about = RECIPES[name]["about"]
    assert {"title", "source", "hardware", "expected", "measured here"} <= about.keys()
    assert all(isinstance(text, str) for text in about.values())


@each
def test_its_iterations_are_those_that_it_derives(name):
    """Products such as 120 × 202 = 24240 are right, and of flags or of images."""
    recipe = RECIPES[name]
    values = [part for each in recipe["flags"].values() for part in str(each).split(",")]
    products = re.findall(r"(\d+)[a-z ]* × (\d+) = (\d+)(\D*)", " ".join(recipe["about"].values()))
    assert recipe["about"].get("iterations") is None or products
    for a, b, product, what in products:
        assert int(a) * int(b) == int(product)
        assert product in values or what.startswith(" images"), product


@each
def test_its_flags_are_flags_of_the_commands(name, tmp_path, dataset):
    recipe = RECIPES[name]
    weights = "imagenet" if "needs" in recipe else None
    call = train.parse_args(start(name, tmp_path / "new", dataset, weights))
    for flag, value in recipe["flags"].items():
        wanted = flags.options(flag).get("type", type(value))(
            str(value) if value is not True else value
        )
        assert getattr(call.settings, flag) == wanted
    data = f"--experiment_root={tmp_path} --dataset={dataset.csv}"
    embed.parse_args([*data.split(), *recipe.get("embed", "").split()])
    file = f"--query_dataset={dataset.csv} --gallery_dataset={dataset.csv} --metric=cosine"
    file += f" --query_embeddings={dataset.csv} --gallery_embeddings={dataset.csv} "
    assert recipe["evaluate"]
    for more in recipe["evaluate"].values():
        evaluate.parse_args([*file.split(), *more.split()])
    if "data" in recipe:
        module, *more = recipe["data"].split()
        argv = [f"--image_root={tmp_path}", f"--directory={tmp_path}", *more]
        builder = importlib.import_module(f"data.{module}")
        if hasattr(builder, "parse_args"):
            builder.parse_args(argv)
        else:
            csv_builder.parse_args(builder.__doc__, argv)


# ------------------------------------------------------------------------- two iterations


def build_tiny(input_shape, pooling="avg", **options):
    """A convolution: images -> features [B, 16], or its map. Other options of nets change nothing."""
    images = keras.Input(input_shape, dtype="float32", name="images")
    x = keras.layers.Conv2D(16, 3, strides=4, activation="relu", name="tiny.conv")(images / 128.0)
    features = keras.layers.GlobalAveragePooling2D(dtype="float32")(x) if pooling else x
    return keras.Model(images, features, name="tiny")


def start(name, root, dataset, checkpoint=None):
    """The flags to start an experiment by a recipe."""
    argv = ["--experiment_root", str(root), "--like", path_of(name)]
    argv += ["--train_set", str(dataset.csv), "--image_root", str(dataset.root)]
    if checkpoint and not RECIPES[name]["flags"]["model_name"].startswith("lunet"):
        argv += [f"--initial_checkpoint={checkpoint}"]
    return argv


@pytest.fixture(scope="module")
def tiny_weights(dataset, tmp_path_factory):
    """An experiment with the small net, in the place of pretrained weights."""
    root = tmp_path_factory.mktemp("weights") / "exp"
    train_two_iterations("market1501_lunet", root, dataset)
    return root


def train_two_iterations(name, root, dataset, checkpoint=None):
    values = RECIPES[name]["flags"]
    small = "--net_input_height=24 --net_input_width=16 --pre_crop_height=28 --pre_crop_width=18 --embedding_dim=8"
    small += " --train_iterations=2 --image_frequency=0"
    small += " --batch_size=6" if "batch_size" in values else " --batch_p=3 --batch_k=2"
    argv = [*start(name, root, dataset, checkpoint), *small.split()]
    with common.plugin("nets", values["model_name"], SimpleNamespace(build=build_tiny)):
        train.main(train.parse_args(argv))


@each
def test_it_trains_two_iterations(name, dataset, tiny_weights, tmp_path):
    root = tiny_weights
    if name != "market1501_lunet":
        root = tmp_path / "exp"
        train_two_iterations(name, root, dataset, tiny_weights)
        assert "2 variables taken" in (root / "train.log").read_text()
    assert (root / "checkpoint-2.index").exists()


# ------------------------------------------------------------------------- run.sh

PYTHON = f"""#!{sys.executable}
import json, os, sys
if sys.argv[1:3] == ["-m", "experiment.recipes"]:
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
with open(os.environ["CALLS"], "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
if sys.argv[1] == "-m":
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
fails = os.path.basename(sys.argv[1]) == os.environ.get("FAILS")
sys.exit(int(os.environ["FAILS_WITH"]) if fails else 0)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory: market 1501/ with a few empty images, and bin/python."""
    for name in (
        "bounding_box_train/0002_c1s1_000451_03",
        "query/0001_c1s1_001051_00",
        "bounding_box_test/0001_c2s1_0_0",
    ):
        path = tmp_path / "market 1501" / f"{name}.jpg"
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path


def call(*arguments, code=0):
    """Run the script. Returns: what it called python with, as [[script or -m, ...], ...]."""
    Path("calls").write_text("")
    command = [PROJECT / "recipes" / "run.sh", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    Path("told").write_text(done.stderr)
    return [json.loads(line) for line in Path("calls").read_text().splitlines()]


def parse(call):
    """The arguments that a script was called with, by its own parser."""
    script, *argv = call
    assert os.path.samefile(Path(script).parent, PROJECT)
    parsed = importlib.import_module(Path(script).stem).parse_args(argv)
    if script.endswith("embed.py"):
        write_outputs(parsed)
    return parsed.settings if isinstance(parsed, train.Call) else parsed


def write_outputs(embedding):
    """What embed.py would have written, empty, and the args.json of the experiment."""
    root = Path(embedding.experiment_root)
    root.mkdir(parents=True, exist_ok=True)
    (root / "args.json").write_text('{"metric": "euclidean"}')
    for csv in embedding.dataset:
        (root / f"{Path(csv).stem}_embeddings.h5").touch()


def commands(calls):
    return [Path(script).name for script, *_ in calls]


def test_from_a_downloaded_data_set_to_figures(place):
    recipe = path_of("market1501_trinet")
    calls = call(recipe, "market 1501", "out", "--initial_checkpoint=imagenet")
    assert calls[0][:2] == ["-m", "data.market1501"]
    assert calls[0][2:] == ["--image_root", "market 1501", "--directory", "out/csvs"]
    assert commands(calls[1:]) == ["train.py", "embed.py", "evaluate.py", "evaluate.py"]
    training, embedding, *evaluations = map(parse, calls[1:])
    assert "--start_or_resume" in calls[1]
    assert (training.train_set, training.image_root) == ("out/csvs/train.csv", "market 1501")
    assert (training.batch_p, training.initial_checkpoint) == (18, "imagenet")
    assert embedding.experiment_root == training.experiment_root
    assert embedding.dataset == ["out/csvs/query.csv", "out/csvs/gallery.csv"]
    assert (embedding.crop_augment, embedding.flip_augment, embedding.aggregator) == (
        "five",
        True,
        "mean",
    )
    for evaluation in evaluations:
        assert [evaluation.query_dataset, evaluation.gallery_dataset] == embedding.dataset
        assert evaluation.excluder == "market1501" and evaluation.use_market_ap
    assert [(each.filename, each.rerank) for each in evaluations] == [
        ("out/experiment/ten_crop.json", False),
        ("out/experiment/reranked.json", True),
    ]


def test_test_images_are_queries_and_gallery_where_there_is_no_query_set(place):
    recipe = json.loads(Path(path_of("market1501_lunet")).read_text()) | {"data": "mine"}
    Path("mine.json").write_text(json.dumps(recipe))
    Path("out/csvs").mkdir(parents=True)
    for name in ("train", "test"):
        Path(f"out/csvs/{name}.csv").write_text("1,a.png\n")
    Path("data").mkdir()
    calls = call("mine.json", "market 1501", "out", code=1)
    assert commands(calls) == ["-m"]  # there is no such module
    Path("bin/python").write_text(PYTHON.replace('if sys.argv[1] == "-m"', "if False"))
    calls = call("mine.json", "market 1501", "out")
    embedding, evaluation = map(parse, calls[2:])
    assert embedding.dataset == ["out/csvs/test.csv"]
    assert evaluation.query_dataset == evaluation.gallery_dataset == "out/csvs/test.csv"


@pytest.mark.parametrize("code", [1, 143])
def test_nothing_is_evaluated_after_a_training_that_failed_or_was_interrupted(
    code, place, monkeypatch
):
    monkeypatch.setenv("FAILS", "train.py")
    monkeypatch.setenv("FAILS_WITH", str(code))
    calls = call(path_of("market1501_lunet"), "market 1501", "out", code=code)
    assert commands(calls[1:]) == ["train.py"]


def test_a_recipe_may_be_given_by_its_name(place):
    by_file = call(path_of("market1501_lunet"), "market 1501", "out")
    by_name = call("market1501_lunet", "market 1501", "out")
    file = by_file[1].index(path_of("market1501_lunet"))
    assert by_name[1][file] == "market1501_lunet"
    assert by_name[2:] == by_file[2:] and len(by_name) == 4
    assert parse(by_name[1]) == parse(by_file[1])


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("market1501_lunte", None, "market1501_lunte does not exist. .* Meant: market1501_lunet"),
        ("recipes/mine.json", None, "mine.json does not exist. Give the directory of an exp"),
        ("mine.json", '{"flags": ', "mine.json cannot be read as JSON .* Repair it"),
        ("mine.json", "[]", "mine.json should hold an object of flags. Received: list"),
        ("mine.json", '{"data": ["a"]}', "data should have flags in a line .* Received: .*'a'"),
        ("mine.json", '{"data": "a\\nb"}', "data should have flags in a line of text. Received"),
        ("mine.json", '{"evaluate": "a"}', "evaluate should be an object of .* Received: str"),
        ("mine.json", '{"evaluate": {"a b": ""}}', "evaluate should have names in one word.*a b"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_told_in_a_line_before_anything(place, name, content, told):
    if content:
        Path(name).write_text(content)
    assert call(name, "market 1501", "out", code=1) == []
    written = Path("told").read_text()
    assert re.search(told, written) and written.count("\n") == 1
    assert not Path("out").exists()


def test_what_is_missing_is_told(place):
    assert call(path_of("market1501_lunet"), "market 1501", code=2) == []
    Path("mine.json").write_text('{"flags": {}}')
    assert call("mine.json", "market 1501", "out", code=2) == []
