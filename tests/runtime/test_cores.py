import os

import pytest

from runtime import cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A host of 256 cores, with control groups in a folder."""
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 256)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


def test_without_a_quota_the_affinity_counts(machine):
    assert cores.count() == 8
    (machine / "cpu.max").write_text("max 100000\n")
    assert cores.count() == 8


@pytest.mark.parametrize(
    "text, count", [("50000 100000", 1), ("100000 100000", 1), ("250000 100000", 3), ("x y z", 8)]
)
def test_the_quota_of_a_container(machine, text, count):
    (machine / "cpu.max").write_text(f"{text}\n")
    assert cores.count() == count


@pytest.mark.parametrize("quota, count", [("-1", 8), ("200000", 2), ("9900000", 8)])
def test_the_quota_of_an_older_container(machine, quota, count):
    (machine / "cpu").mkdir()
    (machine / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (machine / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.count() == count


def test_a_system_without_affinity(machine, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores.count() == 256
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.count() == 1
