"""The benchmarks of a training iteration: what they advise, and what they refuse."""

import pytest

from benchmarks import chunks, train_step
from benchmarks.train_step import advice


@pytest.mark.parametrize(
    ("ratio", "told"),
    [
        (0.654, "0.65 of the time of float32 here, and half the memory: use it"),
        (1.4, "1.40 of the time of float32 here: stay with float32"),
        (0.97, "0.97 of the time of float32 here, which is no difference"),
        (1.03, "1.03 of the time of float32 here, which is no difference"),
    ],
)
def test_advice_follows_the_measurement(ratio, told):
    assert told in advice(ratio)


@pytest.mark.parametrize(
    ("module", "flag"),
    [
        (train_step, "batch_p"),
        (train_step, "batch_k"),
        (chunks, "batch_p"),
        (chunks, "batch_k"),
        (chunks, "large_k"),
    ],
)
def test_a_batch_without_triplets_is_refused(module, flag, capsys):
    with pytest.raises(SystemExit):
        module.parse_args([f"--{flag}=1"])
    told = capsys.readouterr().err
    assert f"--{flag}: should be an integer of at least 2. Received: 1" in told
