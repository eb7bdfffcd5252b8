import pytest

from benchmarks import fuzzing


@pytest.mark.parametrize("name", fuzzing.KINDS)
def test_hostile_input_is_used_or_refused(name, tmp_path):
    """The command does the same for minutes."""
    fuzzing.check(fuzzing.KINDS[name], tmp_path, seed=0, examples=60)


def test_a_finding_is_raised(tmp_path):
    def use(folder, content):
        raise ZeroDivisionError(content)

    kind = fuzzing.KINDS["csv"]._replace(use=use)
    with pytest.raises(ZeroDivisionError):
        fuzzing.check(kind, tmp_path, seed=0, examples=5)
