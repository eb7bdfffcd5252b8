"""What the ladder tells and draws, with a stand-in for its trainings."""

import pytest
from PIL import Image

from benchmarks import ladder

RUNG = "the original's recipe"
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
