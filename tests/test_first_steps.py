"""The notebook runs from top to bottom. Its cells are plain Python, so no Jupyter is needed."""

import json
import re
import sys

from paths import PROJECT

NOTEBOOK = PROJECT / "docs" / "first_steps.ipynb"


def test_the_notebook_runs_from_top_to_bottom(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)  # noqa: S102
            assert cell["outputs"] == []  # they would be of another machine
    found = re.search(r"mAP ([\d.]+)%, top-1 ([\d.]+)%, top-5", capsys.readouterr().out)
    chance = 100 / len(set(names["gallery"].pids))  # of an image to be right
    assert float(found[1]) > 1.5 * chance
    assert names["row_of"](0).shape == (128, 6 * 64 + 16, 3)
