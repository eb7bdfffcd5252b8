import dataclasses
import re
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import replicas
import tensorflow as tf
from paths import TESTS
from tensorflow.python.eager import context

import common
from experiment.flags import Settings
from network import layers
from training import loop, objective
from training.state import State
from training.step import make_step
from training.update import trained, update

SIZE, P, K, D = (24, 16), 4, 3, 16
B = P * K
CAMERAS = np.arange(B, dtype=np.int32) % 5 - 1  # the first is not known


def random_net(input_shape):
    """Batch norm and dropout -> features [B, 8]."""
    images = keras.Input(input_shape, dtype="float32", name="images")
    x = keras.layers.Conv2D(8, 3, strides=4, name="random.conv")(images / 128.0 - 1.0)
    x = layers.BatchNorm(name="random.BatchNorm")(x)
    x = layers.DropPath(0.2, 0)(x)
    x = keras.layers.Dropout(0.3, seed=5, name="random.dropout")(keras.layers.ReLU()(x))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D(dtype="float32")(x))


def use_random_net():
    """Within the context it stands in for lunet_narrow."""
    return common.plugin("nets", "lunet_narrow", SimpleNamespace(build=random_net))


def settings(**flags):
    sizes = {"net_input_height": SIZE[0], "net_input_width": SIZE[1], "embedding_dim": D}
    names = {"model_name": "lunet_narrow", "head_name": "direct_normalize"}
    flags = names | {"learning_rate": 1e-4} | sizes | flags
    return Settings(experiment_root="exp", batch_p=P, batch_k=K, seed=3, **flags)


def make(flags):
    return State(flags, np.full(P, K), tf.distribute.get_strategy())


def batches(count):
    rng = np.random.default_rng(0)
    labels = tf.constant(np.repeat(np.arange(P), K))
    # Images of a pid are alike, and pids differ, so that losses have gradients.
    of_pid = rng.uniform(0, 255, (P, 1, *SIZE, 3))
    for iteration in range(count):
        images = 0.5 * of_pid + 0.5 * rng.uniform(0, 255, (P, K, *SIZE, 3))
        yield tf.constant(images.reshape(B, *SIZE, 3), tf.float32), labels, iteration


def train(flags, iterations=10):
    """Returns: all variables by their names, and what the last step told."""
    state = make(flags)
    step = make_step(tf.distribute.get_strategy(), state, flags)
    for images, labels, iteration in batches(iterations):
        told = step(
            images,
            labels,
            iteration=tf.constant(iteration, tf.int64),
            rate=tf.constant(flags.learning_rate),
            stop=tf.constant(0),
            frozen=iteration < flags.freeze_body_iterations,
            cameras=tf.constant(CAMERAS) if flags.camera_rule else None,
        )
    assert step.experimental_get_tracing_count() == 1 + bool(flags.freeze_body_iterations)
    return values(state), {name: value.numpy() for name, value in told.items()}


def begun(flags):
    """What `train` starts from."""
    return values(make(flags))


def values(state):
    return {name: variable.numpy() for name, variable in state.variables.items()}


def assert_moved_alike(got, expected, begun, tolerance=1e-3):
    """Two trainings changed all variables in the same way, but for a part of the change.

    Weights of a layer are one vector, statistics another: biases may have next to no gradient.
    """
    assert got.keys() == expected.keys() == begun.keys()
    parts = {}
    for name in expected:
        if not re.search("Adam|momentum|global_step", name):
            part = layer_of(name), name.partition("/moving_")[1]
            parts.setdefault(part, []).append(name)
    for part, names in parts.items():
        ours, theirs, before = (
            np.concatenate([x[name].ravel().astype(np.float64) for name in names])
            for x in (got, expected, begun)
        )
        difference = np.linalg.norm(ours - theirs)
        moved = np.linalg.norm(theirs - before)
        assert difference <= tolerance * moved, f"{part}: {difference} of {moved}"


def layer_of(name):
    return name.removesuffix("/ExponentialMovingAverage").rpartition("/")[0]


# The bias of a head has no gradient but rounding where the loss takes differences of embeddings;
# Adam would make steps of full length of it.
SGD = {"optimizer": "sgd", "learning_rate": 0.01}
WITHOUT_BATCH_NORM = {
    **{loss: {"loss": loss} for loss in common.LOSSES},
    **{
        head: {"head_name": head, "bn_frozen": True, "id_loss_weight": 1.0} | SGD
        for head in common.plugin_names("heads")
    },
    "centers": {"center_loss_weight": 0.1, "metric": "cosine"},
    "a neck that is not trained": {"head_name": "bnneck", "bn_frozen": True},
    "without zeros": {"loss": "batch_all", "margin": 0.2, "loss_ignore_zero": True},
    "arcface": {"id_loss": "arcface", "id_loss_weight": 1.0} | SGD,
    "circle of identities": {"id_loss": "circle", "id_loss_weight": 1.0} | SGD,
    "proxies": {"id_loss": "proxy_anchor", "id_loss_weight": 0.1} | SGD,
    "a memory": {"loss": "multi_similarity", "memory_batches": 2, "memory_start": 1} | SGD,
    "averages": SGD | {"momentum": 0.9, "clip_norm": 0.1, "ema": 0.9},
    "a frozen body": {"freeze_body_iterations": 5, "head_name": "fc1024", "bn_frozen": True} | SGD,
}


@pytest.mark.parametrize("case", WITHOUT_BATCH_NORM)
def test_chunks_train_as_one_piece_does(case):
    flags = WITHOUT_BATCH_NORM[case]
    with replicas.plain_net():
        before = begun(settings(**flags))
        expected, told_of_one = train(settings(**flags))
        got, told = train(settings(**flags, chunk=3))
    assert_moved_alike(got, expected, before)
    assert told.keys() == told_of_one.keys()
    for name in told:
        np.testing.assert_allclose(told[name], told_of_one[name], rtol=1e-5, atol=1e-6)


def test_stochastic_depth_draws_for_chunks_what_it_draws_for_one_piece():
    flags = SGD | {"drop_path": 0.5}
    with common.plugin("nets", "lunet_narrow", SimpleNamespace(build=replicas.build_tiny)):
        before = begun(settings(**flags))
        expected, _ = train(settings(**flags), iterations=3)
        got, _ = train(settings(**flags, chunk=4), iterations=3)
        other, _ = train(settings(**SGD, drop_path=0.1), iterations=3)
    assert_moved_alike(got, expected, before)
    with pytest.raises(AssertionError):
        assert_moved_alike(other, expected, before)


def test_each_chunk_and_each_segment_is_told_its_cameras():
    flags = SGD | {"cameras": "column", "camera_embeddings": 3.0, "camera_names": list("abcd")}
    with common.plugin("nets", "lunet_narrow", SimpleNamespace(build=replicas.build_tiny)):
        before = begun(settings(**flags))
        expected, _ = train(settings(**flags), iterations=3)
        for more in ({"chunk": 4}, {"remat": True}):
            got, _ = train(settings(**flags, **more), iterations=3)
            assert_moved_alike(got, expected, before)
    name = "vit/sie/camera_embeddings"
    assert (np.abs(expected[name] - before[name]).max(axis=1) > 1e-6).all()


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_chunks_in_16_bits(precision):
    with replicas.plain_net():
        before = begun(settings(precision=precision))
        expected, _ = train(settings(precision=precision), iterations=3)
        got, _ = train(settings(precision=precision, chunk=3), iterations=3)
    # Sums of 16 bits over other numbers of images.
    assert_moved_alike(got, expected, before, 0.03)


REMAT = {
    "neck": {"head_name": "bnneck", "id_loss_weight": 1.0, "center_loss_weight": 0.1},
    "frozen body": {"freeze_body_iterations": 1, "head_name": "fc1024"},
    "frozen statistics and averages": {"bn_frozen": True, "ema": 0.9},
    "float16": {"precision": "mixed_float16"},
    "chunks": {"chunk": 4},
    "a memory": {"loss": "multi_similarity", "memory_batches": 2, "memory_start": 1},
}


@pytest.mark.parametrize("case", REMAT)
def test_activations_that_are_computed_again_change_nothing(case):
    flags = REMAT[case] | SGD
    with use_random_net():
        before = begun(settings(**flags))
        expected, told_of_one = train(settings(**flags), iterations=3)
        got, told = train(settings(**flags, remat=True), iterations=3)
    assert_moved_alike(got, expected, before)
    state = "random/dropout/seed_generator_state"
    np.testing.assert_array_equal(got[state], expected[state])
    for name in told:
        np.testing.assert_allclose(told[name], told_of_one[name], rtol=1e-5, atol=1e-6)


def by_one_tape(flags, iterations):
    """The same chunks, their statistics and their draws, with all activations kept."""
    state = make(flags)
    for images, labels, iteration in batches(iterations):
        parts = []
        with tf.GradientTape() as tape:
            for index in range(B // flags.chunk):
                images_of_chunk = images[index * flags.chunk : (index + 1) * flags.chunk]
                chunk = layers.Chunk(tf.constant(index), B // flags.chunk, moves=True)
                draws = layers.drawing(flags.seed, tf.constant(iteration, tf.int64))
                with layers.calling_with(chunk), draws:
                    parts.append(state.network(images_of_chunk, training=True))
            embs = {name: tf.concat([part[name] for part in parts], axis=0) for name in parts[0]}
            batch = objective.of_embeddings(
                embs, labels, tf.constant(iteration, tf.int64), state, flags
            )
        variables = trained(state, frozen=False)
        update(state, tape.gradient(batch.scaled, variables), variables, flags)
    return values(state)


@pytest.mark.parametrize("flags", [{}, {"head_name": "bnneck", "id_loss_weight": 1.0}])
def test_both_passes_see_the_same_statistics_and_draws(flags):
    flags = settings(**flags, chunk=4, optimizer="sgd", learning_rate=0.1)
    with use_random_net():
        got, _ = train(flags, iterations=3)
        expected = by_one_tape(flags, iterations=3)
        before = begun(flags)
    assert_moved_alike(got, expected, before)
    state = "random/dropout/seed_generator_state"
    np.testing.assert_array_equal(got[state], expected[state])
    for name in ("random/BatchNorm/moving_mean", "random/BatchNorm/gamma", state):
        assert (got[name] != before[name]).any()


def test_chunks_on_two_devices_are_normalized_together(tmp_path):
    """As larger chunks of one device, which has the images in another order."""
    file = tmp_path / "values.npz"
    command = [sys.executable, str(TESTS / "chunks_on_two.py"), str(file)]
    subprocess.run(command, check=True, capture_output=True)
    found = {"before": {}, "one": {}, "two": {}, "remat": {}}
    for key, value in np.load(file).items():
        way, _, name = key.partition("/")
        found[way][name] = value
    for way in ("two", "remat"):
        assert_moved_alike(found[way], found["one"], found["before"])


def test_a_single_chunk_is_one_piece_with_batch_norm_and_dropout():
    flags = settings(optimizer="sgd", learning_rate=0.1)
    with use_random_net():
        before = begun(flags)
        expected, _ = train(flags, iterations=3)
        got, _ = train(dataclasses.replace(flags, chunk=B), iterations=3)
    assert_moved_alike(got, expected, before)


def test_frozen_statistics_stay_and_are_used():
    flags = settings(bn_frozen=True, **SGD)
    with use_random_net():
        state = make(flags)
        images, _, _ = next(batches(1))
        rng = np.random.default_rng(1)
        norm = state.network.get_layer(index=1).get_layer("random.BatchNorm")
        norm.moving_mean.assign(rng.normal(size=8))
        got = norm(tf.ones([2, 3, 3, 8]), training=True)
        expected = norm(tf.ones([2, 3, 3, 8]), training=False)
        np.testing.assert_array_equal(got, expected)
        before = begun(flags)
        after, _ = train(flags, iterations=2)
    for name in ("moving_mean", "moving_variance"):
        name = f"random/BatchNorm/{name}"
        np.testing.assert_array_equal(after[name], before[name])
    assert (after["random/BatchNorm/gamma"] != before["random/BatchNorm/gamma"]).any()


def test_nothing_to_train_is_told():
    flags = settings(chunk=4, head_name="bnneck", freeze_body_iterations=5)
    with replicas.plain_net(), pytest.raises(common.UserError, match="nothing to train"):
        train(flags)


def test_chunks_have_to_divide_what_each_device_has(caplog):
    class Strategy:
        num_replicas_in_sync = 2

    loop._check_devices(settings(chunk=3), Strategy)
    loop._check_devices(settings(), Strategy)
    assert not caplog.records
    loop._check_devices(settings(chunk=6), Strategy)
    assert "--chunk 6 is one chunk: each device has 6 images." in caplog.text
    with pytest.raises(common.UserError, match="--chunk .*Received: 4, with 6 images on each of 2"):
        loop._check_devices(settings(chunk=4), Strategy)


UPDATED = {  # how many of the first inputs
    "ResourceApplyAdam": 3,
    "AssignVariableOp": 1,
    "AssignAddVariableOp": 1,
    "AssignSubVariableOp": 1,
}
MEMORY = {"loss": "multi_similarity", "memory_batches": 2, "memory_start": 0}
RACES = [
    {},
    {"remat": True},
    {"remat": True, "ema": 0.9},
    {"chunk": 4},
    {"chunk": 4, "remat": True, **MEMORY},
    {"remat": True, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
]


def unordered(graph):
    """Reads and updates of one variable of a graph that may run in either order."""
    nodes = {node.name: node for node in graph.node}
    next_ones = {name: [] for name in nodes}
    for node in graph.node:
        for name in node.input:
            next_ones[name_of(name)].append(node.name)

    def variable(name):
        while nodes[name_of(name)].op == "Identity":
            name = nodes[name_of(name)].input[0]
        return name_of(name)

    def after(name):
        found, left = set(), [name]
        while left:
            new = set(next_ones[left.pop()]) - found
            found |= new
            left += new
        return found

    reads = [node.name for node in graph.node if node.op == "ReadVariableOp"]
    updates = [node for node in graph.node if node.op in UPDATED]
    assert reads and updates
    follow = {name: after(name) for name in (*reads, *(node.name for node in updates))}
    return [
        (read, node.name)
        for node in updates
        for written in node.input[: UPDATED[node.op]]
        for read in reads
        if variable(nodes[read].input[0]) == variable(written)
        and node.name not in follow[read]
        and read not in follow[node.name]
    ]


def name_of(node_input):
    return node_input.removeprefix("^").partition(":")[0]


@pytest.mark.parametrize("flags", RACES)
@pytest.mark.parametrize("net", [use_random_net, replicas.tiny_transformer])
def test_a_weight_is_updated_after_all_that_reads_it(net, flags):
    """TensorFlow's optimization of graphs let the two race where only the gradient by x read it."""
    name = "lunet_narrow" if net is use_random_net else "vit_small_patch16"
    with net(), context.collect_graphs(optimized=True) as graphs:
        train(settings(model_name=name, head_name="fc1024", id_loss_weight=1.0, **flags), 1)
    assert unordered(max(graphs, key=lambda graph: len(graph.node))) == []
