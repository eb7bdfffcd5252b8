import numpy as np
import pytest
import replicas
import tensorflow as tf

from common import UserError
from experiment.flags import Settings
from training import rates
from training.state import State
from training.update import update

PARTS = {
    "net": ["net/conv/weights", "net/conv/biases", "net/norm/gamma", "net/norm/beta"],
    "head": ["emb/weights", "emb/biases", "gem/p"],
    "classifier": ["classifier/weights"],
}


def factors(**of_parts):
    found = rates.factors(PARTS, of_parts, by_depth={})
    assert list(found) == [name for names in PARTS.values() for name in names]
    return list(found.values())


@pytest.mark.parametrize(
    "of_parts, expected",
    [
        ({}, [1, 1, 1, 1, 1, 1, 1, 1]),
        ({"net": 0.5}, [0.5, 0.5, 0.5, 0.5, 1, 1, 1, 1]),
        ({"head": 10}, [1, 1, 1, 1, 10, 10, 10, 10]),
        ({"head": 10, "classifier": 2}, [1, 1, 1, 1, 10, 10, 10, 2]),
        ({"bias": 2}, [1, 2, 1, 2, 1, 2, 1, 1]),
        ({"bias": 2, "net": 0.5, "head": 3}, [0.5, 1, 0.5, 1, 3, 6, 3, 3]),
    ],
)
def test_a_factor_is_for_its_part_and_times_that_of_biases(of_parts, expected):
    assert factors(**of_parts) == expected


@pytest.mark.parametrize(
    "layer, names, above",
    [
        # Blocks of a transformer, of which 1 and 11 are two; what comes before is one layer.
        (
            r"blocks/\d+",
            [
                "pos_embed",
                "patch_embed/w",
                "blocks/0/w",
                "blocks/1/w",
                "blocks/1/b",
                "blocks/11/w",
                "norm/b",
            ],
            [4, 4, 3, 2, 2, 1, 0],
        ),
        # Stages, with what leads to the next between them, and the first conv a layer itself.
        (r"conv\d", ["conv1/w", "conv2/1", "conv2/2", "pool/w", "conv3/w"], [3, 2, 2, 1, 1]),
        # Names may be mixed where a graph has branches.
        (r"layer\d", ["stem", "layer1/a", "layer2/down", "layer1/b", "layer2/c"], [3, 2, 1, 2, 1]),
    ],
)
def test_the_rate_falls_with_each_layer_above(layer, names, above):
    names = [f"net12/{name}" for name in names]
    found = rates.decayed(names, layer, 0.5)
    assert found == {name: 0.5**count for name, count in zip(names, above, strict=True)}


def test_factors_of_depth_and_parts_are_multiplied():
    by_depth = {"net/conv/weights": 0.25, "net/conv/biases": 0.25}
    found = rates.factors(PARTS, {"net": 2.0, "bias": 3.0, "head": 5.0}, by_depth)
    assert list(found.values()) == [0.5, 1.5, 2, 6, 5, 15, 5, 5]


def state_of(**flags):
    settings = Settings(
        experiment_root="exp",
        model_name="lunet_narrow",
        embedding_dim=16,
        net_input_height=24,
        net_input_width=16,
        seed=3,
        optimizer="sgd",
        learning_rate=1.0,
        **flags,
    )
    with replicas.plain_net():
        return State(settings, np.full(4, 3), tf.distribute.get_strategy()), settings


def change(state, settings, gradient=1.0):
    """How far a step takes each variable; a gradient of None is for those of the neck."""
    names = {id(each): name for name, each in state.variables.items()}
    before = [variable.numpy() for variable in state.trainable]
    gradients = [
        None if gradient is None and "Norm" in names[id(each)] else tf.ones(each.shape)
        for each in state.trainable
    ]
    state.optimizer.learning_rate.assign(1.0)
    update(state, gradients, state.trainable, settings)
    return {
        names[id(each)]: np.mean(old - each.numpy())
        for each, old in zip(state.trainable, before, strict=True)
    }


def test_each_variable_of_a_training_has_the_rate_of_its_part():
    moved = change(
        *state_of(
            head_name="fc1024",
            id_loss_weight=1.0,
            lr_factors="net=4,head=4,classifier=8,bias=2",
            layer_decay=0.5,
        )
    )
    assert moved == pytest.approx(
        {
            "plain/conv1/weights": 1,
            "plain/conv1/biases": 2,
            "plain/conv2/weights": 2,
            "plain/conv2/biases": 4,
            "fully_connected/weights": 4,
            "fully_connected/BatchNorm/gamma": 4,
            "fully_connected/BatchNorm/beta": 8,
            "emb/weights": 4,
            "emb/biases": 8,
            "classifier/weights": 8,
        },
        rel=1e-5,
    )


@pytest.mark.parametrize("given, expected", [(None, 100), ("head=4", 100), ("classifier=7", 7)])
def test_proxies_have_the_factor_of_their_paper_unless_another_is_given(given, expected):
    moved = change(*state_of(id_loss="proxy_anchor", id_loss_weight=1.0, lr_factors=given))
    assert moved["classifier/weights"] == pytest.approx(expected, rel=1e-5)
    assert moved["plain/conv1/weights"] == pytest.approx(1, rel=1e-5)


def test_a_factor_for_what_is_not_there_is_an_error():
    with pytest.raises(UserError, match="classifier=10 has no effect: this training has no class"):
        state_of(lr_factors="head=2,classifier=10")


def test_l2_leaves_alone_what_the_loss_does_not_depend_on():
    moved = change(*state_of(head_name="bnneck", l2=0.5), gradient=None)
    assert moved["emb/BatchNorm/gamma"] == 0
    assert moved["plain/conv1/biases"] == 1  # 0.5 of a bias that is 0 is nothing


def test_embeddings_of_cameras_have_the_rate_of_what_is_new():
    settings = Settings(
        experiment_root="exp",
        model_name="vit_small_patch16",
        head_name="direct",
        embedding_dim=4,
        net_input_height=8,
        net_input_width=8,
        cameras="column",
        camera_embeddings=3.0,
        camera_names=["a", "b"],
        optimizer="sgd",
        layer_decay=0.5,
        seed=1,
    )
    with replicas.tiny_transformer():
        state = State(settings, np.full(4, 3), tf.distribute.get_strategy())
    moved = change(state, settings)
    wanted = {"vit/sie/camera_embeddings": 1, "vit/pos_embed": 1 / 8, "emb/weights": 1}
    wanted |= {"vit/blocks/0/norm1/beta": 1 / 4, "vit/norm/beta": 1}
    assert {name: moved[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
