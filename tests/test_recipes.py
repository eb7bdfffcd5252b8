"""The recipes run with a `python` that notes what it is called with: the flags are held against the
real parsers.

Nothing is trained. The CSVs are made, of an imitation of Market-1501's folder.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import train

RECIPES = Path(__file__).parents[1] / "recipes"
PYTHON = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
if sys.argv[1] == "-m":
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
fails = os.path.basename(sys.argv[1]) == os.environ.get("FAILS")
sys.exit(int(os.environ["FAILS_WITH"]) if fails else 0)
"""
TRAINING = {
    "market1501_trinet": ["ckpt"],
    "market1501_lunet": [],
    "market1501_bag_of_tricks": ["ckpt"],
}
each = pytest.mark.parametrize("recipe", TRAINING)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory: market/ with a few empty images, ckpt, and bin/python."""
    for name in (
        "bounding_box_train/0002_c1s1_000451_03",
        "query/0001_c1s1_001051_00",
        "bounding_box_test/0001_c2s1_0_0",
    ):
        path = tmp_path / "market 1501" / f"{name}.jpg"
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "ckpt").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path


def call(recipe, *arguments, code=0):
    """Run a recipe. Returns: what it called python with, as [[script or -m, ...], ...]."""
    Path("calls").write_text("")
    done = subprocess.run(
        [RECIPES / f"{recipe}.sh", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in Path("calls").read_text().splitlines()]


def train_on_market(recipe, **options):
    return call(recipe, "market 1501", *TRAINING[recipe], "out", **options)


def parse(call):
    """The arguments that a script was called with, by its own parser."""
    script, *argv = call
    assert os.path.samefile(Path(script).parent, RECIPES.parent)
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
        (root / (embedding.filename or f"{Path(csv).stem}_embeddings.h5")).touch()


def commands(calls):
    return [Path(script).name for script, *_ in calls]


@each
def test_a_recipe_trains_embeds_and_evaluates_with_flags_that_there_are(recipe, place):
    calls = train_on_market(recipe)
    assert calls[0] == [
        "-m",
        "data.market1501",
        "--image_root",
        "market 1501",
        "--directory",
        "out/csvs",
    ]
    scripts = commands(calls[1:])
    assert list(dict.fromkeys(scripts)) == ["train.py", "embed.py", "evaluate.py"]
    Path("out/experiment").mkdir(parents=True, exist_ok=True)
    training, *others = map(parse, calls[1:])
    count = scripts.count("embed.py")
    embeddings, evaluations = others[:count], others[count:]
    assert (training.train_set, training.image_root) == ("out/csvs/train.csv", "market 1501")
    assert all(args.experiment_root == training.experiment_root for args in embeddings)
    embedded = {}
    for args in embeddings:
        for csv in args.dataset:
            filename = args.filename or f"{Path(csv).stem}_embeddings.h5"
            embedded[csv] = f"{args.experiment_root}/{filename}"
    assert list(embedded) == ["out/csvs/query.csv", "out/csvs/gallery.csv"]
    for evaluation in evaluations:
        assert embedded == {
            evaluation.query_dataset: evaluation.query_embeddings,
            evaluation.gallery_dataset: evaluation.gallery_embeddings,
        }
    assert {evaluation.excluder for evaluation in evaluations} == {"market1501"}
    files = [evaluation.filename for evaluation in evaluations]
    assert all(Path(file).name in (RECIPES / f"{recipe}.sh").read_text() for file in files)


@each
def test_the_numbers_of_a_header_are_those_of_the_flags(recipe, place):
    header = (
        (RECIPES / f"{recipe}.sh")
        .read_text()
        .split("set -euo")[0]
        .replace(",", "")
        .replace("\n# ", " ")
    )
    args = parse(train_on_market(recipe)[1])
    if recipe == "market1501_bag_of_tricks":
        batch = re.search(r"batches of (\d+) pids × (\d+) images", header)
        products = re.findall(r"(\d+) × (\d+) = (\d+)", header)
        milestones = [int(number) for number in args.lr_milestones.split(",")]
        assert [int(n) for *_, n in products] == [
            args.train_iterations,
            args.warmup_iterations,
            *milestones,
        ]
        assert all(int(a) * int(b) == int(n) for a, b, n in products)
    else:
        iterations, *batch = re.search(
            r"on (\d+) batches of (\d+) pids × (\d+) images", header
        ).groups()
        assert int(iterations) == args.train_iterations
        batch = [None, *batch]
    assert (int(batch[1]), int(batch[2])) == (args.batch_p, args.batch_k)
    millions = float(re.search(r"([\d.]+) million images", header)[1])
    assert args.batch_p * args.batch_k * args.train_iterations / 1e6 == pytest.approx(
        millions, abs=0.05
    )


@each
def test_a_recipe_that_was_stopped_resumes(recipe, place):
    first = train_on_market(recipe)
    Path("out/experiment").mkdir()
    Path("out/experiment/args.json").write_text("{}")
    again = train_on_market(recipe)
    assert again[1][1:] == ["--experiment_root", "out/experiment", "--resume"]
    assert again[2:] == first[2:]


@each
@pytest.mark.parametrize("code", [1, 143])
def test_nothing_is_evaluated_after_a_training_that_failed_or_was_interrupted(
    recipe, code, place, monkeypatch
):
    monkeypatch.setenv("FAILS", "train.py")
    monkeypatch.setenv("FAILS_WITH", str(code))
    assert commands(train_on_market(recipe, code=code)[1:]) == ["train.py"]


def test_ten_crops_of_any_data_set(place):
    for name in ("q.csv", "g.csv"):
        Path(name).write_text("1,a.png\n")
    calls = call(
        "evaluate_ten_crop", "exp", "q.csv", "g.csv", "diagonal", "r.json", "--metric", "cityblock"
    )
    query, gallery, evaluation = map(parse, calls)
    for args, csv in ((query, "q.csv"), (gallery, "g.csv")):
        assert (args.experiment_root, args.dataset) == ("exp", [csv])
        assert (args.crop_augment, args.flip_augment, args.aggregator) == ("five", True, "mean")
    assert (evaluation.query_dataset, evaluation.gallery_dataset) == ("q.csv", "g.csv")
    assert (evaluation.query_embeddings, evaluation.gallery_embeddings) == (
        f"exp/{query.filename}",
        f"exp/{gallery.filename}",
    )
    assert (evaluation.excluder, evaluation.filename, evaluation.metric) == (
        "diagonal",
        "r.json",
        "cityblock",
    )


@pytest.mark.parametrize("recipe", [*TRAINING, "evaluate_ten_crop"])
def test_without_arguments_the_usage_is_told(recipe, place):
    assert call(recipe, "market 1501", code=2) == []
    done = subprocess.run([RECIPES / f"{recipe}.sh"], capture_output=True, text=True)
    names = done.stderr.split(f"{recipe}.sh ")[1].strip()
    assert f"#     recipes/{recipe}.sh {names}\n" in (RECIPES / f"{recipe}.sh").read_text()


def test_every_recipe_is_tested_here():
    assert {path.stem for path in RECIPES.glob("[!_]*.sh")} == {*TRAINING, "evaluate_ten_crop"}
