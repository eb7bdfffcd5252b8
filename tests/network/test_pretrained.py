import os
import shutil

import numpy as np
import pytest
from golden.fill import fill
from weights import assert_same, make, refuse, scramble, values, write_v1, write_v2

from network import checkpoints, model, pretrained

NET = "lunet_narrow"


def slim(net, without=()):
    """What a public TF-slim checkpoint holds: the net, a classifier and things of the training."""
    arrays = {
        name: fill(name, variable.shape) for name, variable in net.items() if name not in without
    }
    return arrays | {
        "lunet_narrow/logits/weights": np.zeros((1, 1, 4, 5), np.float32),
        "lunet_narrow/logits/biases": np.zeros(5, np.float32),
        "lunet_narrow/mean_rgb": np.zeros(3, np.float32),
        "global_step": np.int64(7),
    }


@pytest.fixture(scope="module")
def made():
    return make()


@pytest.fixture
def state(made):
    """Variables of a network and its Adam, all with values of their own."""
    scramble(made[2])
    return made[2]


@pytest.fixture
def net(made):
    """Variables of a net, all with values of their own."""
    variables = checkpoints.named_variables(model.net_of(made[0]))
    scramble(variables)
    return variables


@pytest.mark.parametrize("format", ["V1", "V2", "V2 by its index", "V2 by its data"])
def test_a_slim_checkpoint_fills_the_net(tmp_path, net, format):
    path = tmp_path / "net.ckpt"
    if format == "V1":
        write_v1(path, slim(net))
    else:
        write_v2(path, slim(net))
        suffix = {"V2": "", "V2 by its index": ".index", "V2 by its data": ".data-00000-of-00001"}[
            format
        ]
        path = f"{path}{suffix}"
    loaded = pretrained.load_net(path, NET, net)
    assert_same(net, {name: fill(name, variable.shape) for name, variable in net.items()})
    assert loaded.taken == list(net)
    assert loaded.passed_over == [
        "global_step",
        "lunet_narrow/logits/biases",
        "lunet_narrow/logits/weights",
        "lunet_narrow/mean_rgb",
    ]
    assert loaded.missing == []
    assert str(loaded) == (
        f"{len(net)} variables taken, 4 passed over (global_step, lunet_narrow/logits/biases, "
        "lunet_narrow/logits/weights, ...), 0 missing"
    )


def test_a_net_of_an_experiment_is_taken_without_head_and_optimizer(tmp_path, state, made):
    checkpoints.save(tmp_path, 1, state)
    scramble(state, seed=1)
    checkpoints.save(tmp_path, 10, state)
    saved = values(state)
    network, _, others = make(head="direct")
    before = values(others)
    net = checkpoints.named_variables(model.net_of(network))
    for path in (tmp_path, tmp_path / "checkpoint-10", tmp_path / "checkpoint-10.index"):
        scramble(net)
        loaded = pretrained.load_net(path, NET, net)
        assert (len(loaded.taken), loaded.missing) == (len(net), [])
        assert {"emb/weights", "global_step", "lunet_narrow/conv1/weights/Adam"} <= set(
            loaded.passed_over
        )
        assert_same(net, {name: saved[name] for name in net})
        rest = {name: variable for name, variable in others.items() if name not in net}
        assert_same(rest, {name: before[name] for name in rest})


def test_what_the_file_lacks_stays_and_is_named(tmp_path, net):
    name = "lunet_narrow/last/conv1/weights"
    before = net[name].numpy().copy()
    loaded = pretrained.load_net(write_v2(tmp_path / "a", slim(net, without=[name])), NET, net)
    assert loaded.missing == [name]
    assert str(loaded).endswith(f"1 missing and left at their initial value ({name})")
    np.testing.assert_array_equal(net[name], before)


def test_a_net_that_does_not_fit_is_told_and_assigns_nothing(tmp_path, net):
    before = values(net)
    arrays = slim(net) | {"lunet_narrow/conv1/weights": np.zeros((7, 7, 3, 99), np.float32)}
    path = write_v2(tmp_path / "wide", arrays)
    refuse(
        lambda: pretrained.load_net(path, NET, net),
        r"wide does not fit this net: lunet_narrow/conv1/weights is \[7, 7, 3, 99\] there and \[7, 7, 3, 32\] here",
    )
    path = write_v2(tmp_path / "other", {"vgg_16/conv1/weights": np.zeros(3, np.float32)})
    refuse(
        lambda: pretrained.load_net(path, NET, net),
        "nothing in .*other fits: it holds vgg_16/conv1/weights",
    )
    assert_same(net, before)


def test_nets_that_cannot_be_read_are_told(tmp_path, net):
    before = values(net)
    refuse(
        lambda: pretrained.load_net(tmp_path / "none.ckpt", NET, net),
        "none.ckpt does not exist",
        r"\.index",
    )
    refuse(lambda: pretrained.load_net(tmp_path, NET, net), "no checkpoint in")
    (tmp_path / "text").write_text("no checkpoint " * 100)
    refuse(
        lambda: pretrained.load_net(tmp_path / "text", NET, net),
        "cannot read the checkpoint .*text: ",
    )
    path = write_v1(tmp_path / "v1.ckpt", slim(net))
    for part in (0, 0.3, 0.95):
        os.truncate(shutil.copy(path, tmp_path / "cut"), int(part * path.stat().st_size))
        refuse(
            lambda: pretrained.load_net(tmp_path / "cut", NET, net),
            "cannot read the checkpoint .*cut: ",
        )
    assert_same(net, before)
