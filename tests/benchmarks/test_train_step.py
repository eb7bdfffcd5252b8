"""The advice of the benchmark of a training iteration."""

import pytest

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
