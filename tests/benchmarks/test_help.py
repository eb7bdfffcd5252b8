import importlib

import pytest
from paths import PROJECT

BENCHMARKS = [path.stem for path in sorted((PROJECT / "benchmarks").glob("[!_]*.py"))]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_help(name, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as end:
        module.parse_args(["--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out
