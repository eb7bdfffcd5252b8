import pytest

from runtime import devices


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_replicas_take_turns_and_the_last_image_fills_up(count):
    workers = [devices.Turns(replicas=6, own=range(first, first + 3)) for first in (0, 3)]
    taken = [turns.of_worker(count) for turns in workers]
    assert (
        taken
        == {
            0: [[], []],
            1: [[0, 0, 0], [0, 0, 0]],
            5: [[0, 1, 2], [3, 4, 4]],
            6: [[0, 1, 2], [3, 4, 5]],
        }[count]
    )
