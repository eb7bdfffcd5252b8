import tomllib
from importlib import metadata

from paths import PROJECT

from runtime import version


def test_the_version_is_that_of_the_project_or_of_the_installation(tmp_path, monkeypatch):
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert version.version() == project["version"]
    monkeypatch.setattr(version, "HERE", tmp_path)
    monkeypatch.setattr(metadata, "version", {"triplet-reid": "7.8.9"}.get)
    assert version.version() == "7.8.9"
