from types import SimpleNamespace

import pytest

from common import UserError
from runtime import devices
from runtime.cluster import Cluster


def strategy_of(replicas):
    return SimpleNamespace(num_replicas_in_sync=replicas)


def test_a_batch_is_shared_out_equally_and_a_replica_has_what_it_mines_in():
    assert devices.shards_of_images(strategy_of(3), Cluster(), 9, "local") == [
        slice(0, 3),
        slice(3, 6),
        slice(6, 9),
    ]
    second = Cluster(size=2, index=1)
    assert devices.shards_of_images(strategy_of(4), second, 4) == [slice(2, 3), slice(3, 4)]
    with pytest.raises(UserError, match=r"Received: 9 images \(--batch_size\), 2 replicas"):
        devices.shards_of_images(strategy_of(2), Cluster(), 9)
    with pytest.raises(UserError, match="--mining local needs at least 2 images on each of 4"):
        devices.shards_of_images(strategy_of(4), Cluster(), 4, "local")
    with pytest.raises(UserError, match=r"Received: 9 images \(--batch_p times --batch_k\), 2 rep"):
        devices.shards(strategy_of(2), Cluster(), 3, 3)


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
