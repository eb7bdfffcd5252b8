"""What the ladder keeps, tells and draws, with a stand-in for its trainings."""

import json
import re
import shlex

import pytest
from paths import PROJECT
from PIL import Image

from benchmarks import ladder
from common import UserError

RUNG = "the original's recipe"
OTHER = "ten crops"
HELD_OUT = "a tenth of the pids held out"


@pytest.fixture
def climbed(tmp_path, monkeypatch):
    """The (rung, seed) that are trained, in order. There are the data sets `one` and `two`."""
    found = []

    def climb(args, rung, seed, root):
        found.append((rung, seed))
        figures = {"mAP": 0.5 + seed / 100, "top-1": 1.0}
        if "--val_pids" in rung.train:
            figures = {ladder.HELD_OUT_MAP: 0.25, **figures}
        return figures

    monkeypatch.setattr(ladder, "climb", climb)
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return found


def call(*changes, rungs=(RUNG,), seeds=2):
    argv = ["--data", "one", "--excluder", "diagonal", "--seeds", str(seeds), *changes]
    ladder.main(ladder.parse_args([*argv, "--rungs", *rungs]))


# ------------------------------------------------------------------------- what is finished


def test_what_is_finished_is_not_trained_again(climbed, tmp_path, capsys):
    call()
    assert [seed for _, seed in climbed] == [1, 2]
    table = capsys.readouterr().out
    call("--data", str(tmp_path / "two" / ".." / "one"))  # the same by another path
    assert len(climbed) == 2
    assert capsys.readouterr().out == table
    call(seeds=3)
    assert [seed for _, seed in climbed] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["--data", "two"], r"ladder\.py --data \S+/one \(now \S+/two\)"),
        (["--excluder", "market1501"], r"--excluder diagonal \(now market1501\)"),
        (["--image_root", "two"], r"train\.py --image_root \S+/one \(now \S+/two\)"),
        (
            ["--net_input_width", "64"],
            r"train\.py --net_input_width 32 \(now 64\), --pre_crop_width",
        ),
        (["--iterations", "7"], r"--train_iterations 400 \(now 7\), --decay_start_iteration"),
        (["--held_out"], r"--val_pids not given \(now 0\.25\)"),
        (["--with=--bn_frozen"], r"--bn_frozen not given \(now given\)"),
        (["--with=--margin=1"], r"--margin not given \(now 1\)"),
    ],
)
def test_figures_of_something_else_are_refused(changes, told, climbed):
    call()
    climbed.clear()
    # The first file that is there is that of the second rung.
    with pytest.raises(UserError, match=told) as error:
        call(*changes, rungs=(OTHER, RUNG))
    assert "ladder/the_original's_recipe-1.json" in str(error.value)
    assert "Give another --directory" in str(error.value) and "\n" not in str(error.value)
    assert not climbed
    call(*changes, "--directory", "another", rungs=(OTHER, RUNG))
    assert len(climbed) == 4


def test_a_rung_that_was_changed_is_refused(climbed, monkeypatch):
    call()
    changed = (ladder.CROPS, "--crop_augment five", "--metric euclidean --rerank")
    monkeypatch.setitem(ladder.FROM_SCRATCH, RUNG, changed)
    with pytest.raises(UserError, match=r"embed\.py --crop_augment center \(now five\)"):
        call()


def test_a_recipe_that_was_changed_is_refused(climbed, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"flags": {"margin": 0.5}}')
    rung = ("--like recipe.json", ladder.CENTER, ladder.COSINE)
    monkeypatch.setitem(ladder.FROM_SCRATCH, RUNG, rung)
    call()
    recipe.write_text('{"flags": {"margin": 1.0}}')
    with pytest.raises(UserError, match=r"the recipe --margin 0\.5 \(now 1\.0\)"):
        call()


@pytest.mark.parametrize("content", ['{"mAP": 0.5, "top-1": 0.9}', "[]", "{"])
def test_a_file_that_does_not_say_what_it_is_of_is_refused(content, climbed, tmp_path):
    (tmp_path / "ladder").mkdir()
    (tmp_path / "ladder" / "ten_crops-2.json").write_text(content)
    with pytest.raises(UserError, match=r"ten_crops-2\.json does not say .* another --directory"):
        call(rungs=(RUNG, OTHER))
    assert not climbed


def test_names_of_weights_are_no_paths():
    words = ["--initial_checkpoint", "hf:timm/net", "--train_set", "a.csv", "b.csv"]
    found = ladder.by_name(words)
    assert found["--initial_checkpoint"] == "hf:timm/net"
    assert re.fullmatch(r"/\S+/a\.csv /\S+/b\.csv", found["--train_set"])


# ------------------------------------------------------------------------- the table


def cells(line):
    """The name of a rung, and the cells of the columns."""
    return line[:38].strip(), [line[at : at + 22].strip() for at in range(38, len(line), 22)]


@pytest.mark.parametrize("rungs", [(RUNG, HELD_OUT), (HELD_OUT, RUNG)])
def test_rungs_with_and_without_a_held_out_figure(rungs, climbed, tmp_path, capsys):
    call("--picture", "ladder.png", rungs=rungs)
    heading, *lines = map(cells, capsys.readouterr().out.splitlines())
    assert heading == ("", ["held-out mAP", "mAP", "top-1"])
    others = ["51.5 (51.0-52.0)", "100.0 (100.0-100.0)"]
    assert [name for name, _ in lines] == list(rungs)
    assert dict(lines) == {
        RUNG: ["–", *others],
        HELD_OUT: ["25.0 (25.0-25.0)", *others],
    }
    with Image.open(tmp_path / "ladder.png") as picture:
        picture.load()
        assert picture.width > 1000  # three panels


def test_without_held_out_figures_there_is_no_such_column(climbed, capsys):
    call()
    heading, _ = map(cells, capsys.readouterr().out.splitlines())
    assert heading == ("", ["mAP", "top-1"])


def test_an_order_of_keys_in_a_file_does_not_count(climbed, tmp_path, capsys):
    call(rungs=(HELD_OUT,), seeds=1)
    table = capsys.readouterr().out
    path = tmp_path / "ladder" / "a_tenth_of_the_pids_held_out-1.json"
    stored = json.loads(path.read_text())
    stored["figures"] = dict(reversed(stored["figures"].items()))
    path.write_text(json.dumps(stored))
    call(rungs=(HELD_OUT,), seeds=1)
    assert capsys.readouterr().out == table


# ------------------------------------------------------------------------- the page


def commands():
    """The flags of each command of docs/ladder.md."""
    page = (PROJECT / "docs" / "ladder.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[3:] for line in lines if "benchmarks.ladder" in line]


def test_commands_of_the_page_climb_rungs_that_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("FOLDER/images", "demo/data"):
        (tmp_path / name).mkdir(parents=True)
    calls = [ladder.parse_args(argv) for argv in commands()]
    assert len({args.directory for args in calls}) == len(calls) == 3
    assert [len(ladder.rungs_of(args)) for args in calls] == [4, 25, 25]


def test_steps_are_from_pretrained_weights(tmp_path, capsys):
    argv = ["--data", str(tmp_path), "--excluder", "diagonal", "--steps"]
    with pytest.raises(SystemExit, match="2"):
        ladder.parse_args(argv)
    assert "--steps needs --initial_checkpoint" in capsys.readouterr().err
    args = ladder.parse_args([*argv, "--initial_checkpoint", "x.safetensors"])
    assert tuple(ladder.rungs_of(args)) == ladder.STEPS
