import pytest

from benchmarks import flipped_bytes

WITHOUT_TENSORFLOW = (
    "args.json",
    "provenance.json",
    "train.log",
    "metrics.jsonl",
    "detailed logs",
    "their descriptions",
    "HDF5",
    "Parquet",
    "result JSON",
)


@pytest.mark.parametrize("name", WITHOUT_TENSORFLOW)
def test_a_flipped_bit_is_told_or_makes_no_difference(name, tmp_path):
    """The command does the same with more of them, and with all kinds of files."""
    kind = flipped_bytes.KINDS[name]
    found = list(flipped_bytes.outcomes(kind, tmp_path, seed=0, flips=range(25)))
    assert len(found) == 25
    for outcome, said in found:
        assert outcome in ("no difference", "told", "refused"), said
        assert outcome != "refused" or "\n" not in said


def test_another_number_without_a_word_is_a_fault(tmp_path):
    kind = flipped_bytes.KINDS["args.json"]._replace(
        use=lambda root: (root / "set.csv").read_text()
    )
    found = list(flipped_bytes.outcomes(kind, tmp_path, seed=0, flips=range(3)))
    assert {outcome for outcome, _ in found} == {"no difference"}
    kind = kind._replace(use=lambda root: (root / "args.json").read_bytes())
    ((outcome, _),) = flipped_bytes.outcomes(kind, tmp_path / "used", seed=0, flips=range(1))
    assert outcome == "other without a word" and outcome in flipped_bytes.FAULTS
