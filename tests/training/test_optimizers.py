"""Every optimizer: its steps against formulas in float64, its state through checkpoints, clipping
and replicas.
"""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import common
from network import checkpoints, model
from network.layers import BatchNorm
from training import optimizers
from training.adam import Adam
from training.optimizers import Options
from training.schedule import Schedule, learning_rate

KINDS = {
    "adam": Options(),
    "adam_beta1_decay": Options(low_beta_1_from=2),
    "adamw": Options(name="adamw", weight_decay=0.1),
    "momentum": Options(name="sgd", momentum=0.9, weight_decay=0.1),
    "nesterov": Options(name="sgd", momentum=0.9, nesterov=True),
    "rmsprop": Options(name="rmsprop", momentum=0.5),
    "adadelta": Options(name="adadelta"),
    "clipped": Options(),
}
CLIP_NORM = {"clipped": 0.05}
CONSTANT = Schedule(rate=0.01)
SLOTS = {
    "adam": ["Adam", "Adam_1"],
    "adam_beta1_decay": ["Adam", "Adam_1"],
    "adamw": ["Adam", "Adam_1"],
    "momentum": ["momentum"],
    "nesterov": ["momentum"],
    "rmsprop": ["momentum", "velocity"],
    "adadelta": ["accumulated_delta_var", "accumulated_grad"],
    "clipped": ["Adam", "Adam_1"],
}


def trajectory(options, schedule=CONSTANT, frozen_iterations=0, steps=8, factor=1.0):
    """The values [steps, 3, 2] of one variable, and its gradients."""
    variable = keras.Variable(np.arange(1, 7, dtype=np.float32).reshape(3, 2))
    frozen = [variable] if frozen_iterations else []
    optimizer = optimizers.build(options, [variable], [factor], frozen, frozen_iterations)
    gradients = np.random.default_rng(0).normal(size=(steps, 3, 2)).astype(np.float32)
    values = []

    @tf.function
    def step(gradient, rate):
        optimizer.learning_rate.assign(rate)
        optimizers.apply(optimizer, [gradient], [variable], clip_norm=0.0)

    for iteration, gradient in enumerate(gradients):
        if iteration < frozen_iterations:
            optimizer.iterations.assign(iteration + 1)
        else:
            rate = tf.constant(learning_rate(iteration, schedule), tf.float32)
            step(tf.constant(gradient), rate)
        values.append(variable.numpy())
    assert int(optimizer.iterations) == steps
    return np.array(values), gradients.astype(np.float64)


def adam(gradients, rates, beta_1s, **constants):
    """tf.train.AdamOptimizer's: the powers of both betas are products over the steps so far."""
    beta_2, epsilon = constants.get("beta_2", 0.999), constants.get("epsilon", 1e-8)
    x, m, v, power_1, power_2, values = np.arange(1.0, 7).reshape(3, 2), 0.0, 0.0, 1.0, 1.0, []
    for g, rate, beta_1 in zip(gradients, rates, beta_1s, strict=True):
        g = g + constants.get("l2", 0.0) * x
        power_1, power_2 = power_1 * beta_1, power_2 * beta_2
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g * g
        x = x * (1 - rate * constants.get("weight_decay", 0.0))
        x = x - rate * np.sqrt(1 - power_2) / (1 - power_1) * m / (np.sqrt(v) + epsilon)
        values.append(x)
    return np.array(values)


def test_adamw_is_adam_that_takes_a_part_of_the_weights_away():
    got, gradients = trajectory(Options(name="adamw", weight_decay=0.3))
    np.testing.assert_allclose(
        got, adam(gradients, [0.01] * 8, [0.9] * 8, weight_decay=0.3), rtol=1e-5
    )


def test_beta_1_falls_to_a_half_and_its_product_goes_on():
    got, gradients = trajectory(Options(low_beta_1_from=3))
    np.testing.assert_allclose(got, adam(gradients, [0.01] * 8, [0.9] * 3 + [0.5] * 5), rtol=1e-5)


@pytest.mark.parametrize(
    "decay, beta_1s", [(1, [0.5] * 5), (3, [0.5] * 5), (5, [0.9, 0.9, 0.5, 0.5, 0.5])]
)
def test_a_frozen_variables_adam_begins_when_it_is_trained(decay, beta_1s):
    got, gradients = trajectory(Options(low_beta_1_from=decay), frozen_iterations=3)
    np.testing.assert_array_equal(got[:3], [np.arange(1, 7).reshape(3, 2)] * 3)
    np.testing.assert_allclose(got[3:], adam(gradients[3:], [0.01] * 5, beta_1s), rtol=1e-5)


def test_the_rate_of_each_step_counts():
    schedule = Schedule(rate=0.01, kind="multistep", milestones=(5, 7), warmup=4)
    got, gradients = trajectory(Options(), schedule)
    rates = [learning_rate(iteration, schedule) for iteration in range(8)]
    np.testing.assert_allclose(got, adam(gradients, rates, [0.9] * 8), rtol=1e-5)


@pytest.mark.parametrize("beta_1", [0.5, 0.0])
def test_adams_constants(beta_1):
    constants = {"beta_2": 0.9, "epsilon": 0.01}
    got, gradients = trajectory(Options(beta_1=beta_1, **constants))
    np.testing.assert_allclose(
        got, adam(gradients, [0.01] * 8, [beta_1] * 8, **constants), rtol=1e-5
    )


def test_l2_is_added_to_the_gradient():
    got, gradients = trajectory(Options(l2=0.3))
    np.testing.assert_allclose(got, adam(gradients, [0.01] * 8, [0.9] * 8, l2=0.3), rtol=1e-5)
    got, gradients = trajectory(Options(name="sgd", l2=0.3))
    values = [np.arange(1.0, 7).reshape(3, 2)]
    for gradient in gradients:
        values.append(values[-1] - 0.01 * (gradient + 0.3 * values[-1]))
    np.testing.assert_allclose(got, values[1:], rtol=1e-5)


def test_l2_is_of_all_weights_and_is_not_clipped():
    options = Options(name="sgd", rate=1.0, l2=0.25)
    variables = [keras.Variable(np.full(shape, 4.0, np.float32)) for shape in [(), (3,), (3, 2)]]
    optimizer = optimizers.build(options, variables)
    gradients = [tf.zeros(v.shape) for v in variables]
    optimizers.apply(optimizer, gradients, variables, clip_norm=0.01)
    for variable in variables:
        np.testing.assert_array_equal(variable, np.full(variable.shape, 3.0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_makes_the_steps_of_that_rate(kind):
    options = KINDS[kind]._replace(l2=0.1)
    got, _ = trajectory(options, factor=0.25)
    expected, _ = trajectory(options, Schedule(rate=0.0025))
    np.testing.assert_array_equal(got, expected)
    others, _ = trajectory(options)
    assert (others != expected).all()


def operations_of_a_step(optimizer, variables):
    @tf.function
    def step(gradients):
        optimizer.apply(gradients, variables)

    gradients = [tf.zeros(variable.shape) for variable in variables]
    graph = step.get_concrete_function(gradients).graph
    return sorted(operation.type for operation in graph.get_operations())


def test_what_has_no_effect_adds_no_operation_and_a_factor_one_for_all_its_variables():
    variables = [keras.Variable(np.ones((3, 2), np.float32)) for _ in range(6)]
    plain = Adam(0.01, epsilon=1e-8)
    plain.build(variables)
    expected = operations_of_a_step(plain, variables)
    optimizer = optimizers.build(Options(), variables)
    assert operations_of_a_step(optimizer, variables) == expected
    optimizer = optimizers.build(Options(), variables, [1.0, 2.0, 2.0, 2.0, 3.0, 3.0])
    more = operations_of_a_step(optimizer, variables)
    assert len(more) - len(expected) <= 2 * 3  # the rate is read, and times a constant
    assert more.count("ResourceApplyAdam") == 6


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum(nesterov):
    got, gradients = trajectory(KINDS["momentum"]._replace(nesterov=nesterov))
    x, v, values = np.arange(1.0, 7).reshape(3, 2), 0.0, []
    for g in gradients:
        x, v = x * (1 - 0.01 * 0.1), 0.9 * v - 0.01 * g
        x = x + (0.9 * v - 0.01 * g if nesterov else v)
        values.append(x)
    np.testing.assert_allclose(got, values, rtol=1e-5)


def test_rmsprop_and_adadelta_are_keras_own():
    for options, other in (
        (KINDS["rmsprop"], keras.optimizers.RMSprop(0.01, momentum=0.5)),
        (KINDS["adadelta"], keras.optimizers.Adadelta(0.01)),
        (
            Options(name="rmsprop", rho=0.5, epsilon=1e-3),
            keras.optimizers.RMSprop(0.01, rho=0.5, epsilon=1e-3),
        ),
        (
            Options(name="adadelta", rho=0.5, epsilon=1e-3),
            keras.optimizers.Adadelta(0.01, rho=0.5, epsilon=1e-3),
        ),
    ):
        got, gradients = trajectory(options)
        variable = keras.Variable(np.arange(1, 7, dtype=np.float32).reshape(3, 2))
        for gradient, value in zip(gradients, got, strict=True):
            other.apply([tf.constant(gradient, tf.float32)], [variable])
            np.testing.assert_allclose(variable, value, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_only_kernels_decay(kind):
    options = KINDS[kind]
    variables = [
        keras.Variable(np.ones(shape, np.float32), name=str(n))
        for n, shape in enumerate([(), (3,), (3, 2)])
    ]
    optimizer = optimizers.build(options, variables)
    optimizer.learning_rate.assign(0.5)
    optimizers.apply(optimizer, [tf.zeros(v.shape) for v in variables], variables, clip_norm=0.0)
    after = [float(np.mean(variable)) for variable in variables]
    np.testing.assert_allclose(after, [1, 1, 1 - 0.5 * options.weight_decay], rtol=1e-6)


def test_tokens_and_embeddings_do_not_decay():
    names = ("kernel", "cls_token", "pos_embed", "class_position", "camera_embed")
    variables = [keras.Variable(np.ones((2, 3), np.float32), name=name) for name in names]
    optimizer = optimizers.build(Options(name="sgd", rate=0.5, weight_decay=0.5), variables)
    optimizers.apply(optimizer, [tf.zeros((2, 3))] * len(names), variables, clip_norm=0.0)
    assert [float(np.mean(variable)) for variable in variables] == [0.75, 1, 1, 1, 1]


# ------------------------------------------------------------------------- clipping


def clipped_steps(clip_norm, precision):
    """What sgd at rate 1 takes off two variables whose gradients are (3, 0) and (4,)."""
    options = Options(name="sgd", rate=1.0, scale_loss=precision == "mixed_float16")
    variables = [keras.Variable(np.zeros(size, np.float32)) for size in (2, 1)]
    optimizer = optimizers.build(options, variables)
    gradients = [optimizer.scale_loss(tf.constant(g)) for g in ([3.0, 0.0], [4.0])]
    optimizers.apply(optimizer, gradients, variables, clip_norm)
    return np.concatenate([-variable.numpy() for variable in variables])


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("clip_norm, factor", [(0.0, 1), (0.5, 0.1), (5.0, 1), (9.0, 1)])
def test_a_gradient_that_is_too_long_is_scaled_down_as_a_whole(clip_norm, factor, precision):
    np.testing.assert_allclose(
        clipped_steps(clip_norm, precision), np.array([3, 0, 4]) * factor, rtol=1e-6
    )


def test_a_zero_gradient_stays_zero_when_clipped():
    variable = keras.Variable(np.ones(2, np.float32))
    optimizer = optimizers.build(Options(name="sgd"), [variable])
    optimizers.apply(optimizer, [tf.zeros(2)], [variable], 0.5)
    np.testing.assert_array_equal(variable, [1, 1])


REPLICAS = """
import json, numpy as np, sys
from runtime.tensorflow import import_tensorflow
tf = import_tensorflow()
import keras
from training import optimizers
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
options = optimizers.Options(**json.loads(sys.argv[1]))
gradients = np.random.default_rng(0).normal(size=(4, 2, 3, 2)).astype(np.float32)

def run(strategy, per_replica):
    with strategy.scope():
        variable = keras.Variable(np.ones((3, 2), np.float32))
        optimizer = optimizers.build(options, [variable], [0.5])
    @tf.function
    def step(gradients):
        def on_replica():
            mine = gradients[tf.distribute.get_replica_context().replica_id_in_sync_group]
            optimizers.apply(optimizer, [mine], [variable], clip_norm=0.5)
        strategy.run(on_replica)
    for gradient in per_replica:
        step(tf.constant(gradient))
    return variable.numpy()

two = run(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), gradients)
one = run(tf.distribute.get_strategy(), gradients.sum(axis=1, keepdims=True))
np.testing.assert_allclose(two, one, rtol=1e-6)
assert np.abs(one - 1).max() > 1e-3
"""


@pytest.mark.parametrize("kind", ["adam_beta1_decay", "momentum"])
def test_two_replicas_take_the_step_of_the_summed_gradient(kind):
    options = json.dumps(KINDS[kind]._replace(rate=0.1, l2=0.1)._asdict())
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS, options], cwd=common.HERE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------- state


class Run:
    """A small network of a body and a head, trained on random batches."""

    def __init__(self, kind, seed, frozen_iterations=0):
        keras.utils.set_random_seed(seed)
        self.frozen_iterations = frozen_iterations
        self.clip_norm = CLIP_NORM.get(kind, 0.0)
        inputs = keras.Input((4,))
        x = BatchNorm(name="body.BatchNorm")(keras.layers.Dense(5, name="body.a")(inputs))
        images = keras.Input((4,))
        self.network = keras.Model(
            images, keras.layers.Dense(2, name="emb")(keras.Model(inputs, x)(images))
        )
        self.body = model.net_of(self.network).trainable_variables
        self.weights = self.network.trainable_variables
        self.optimizer = optimizers.build(
            KINDS[kind], self.weights, frozen=self.body, frozen_iterations=frozen_iterations
        )
        self.state = checkpoints.named_variables(self.network, self.optimizer)
        self.step = tf.function(self._step)

    def _step(self, images, rate, frozen):
        body = {id(variable) for variable in self.body if frozen}
        weights = [variable for variable in self.weights if id(variable) not in body]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.network(images, training=True) - 1) ** 2)
        self.optimizer.learning_rate.assign(rate)
        gradients = tape.gradient(loss, weights)
        optimizers.apply(self.optimizer, gradients, weights, self.clip_norm)

    def train(self, end):
        for iteration in range(int(self.optimizer.iterations), end):
            images = np.random.default_rng(iteration).normal(size=(8, 4)).astype(np.float32)
            rate = tf.constant(learning_rate(iteration, Schedule(rate=0.01, warmup=4)), tf.float32)
            self.step(tf.constant(images), rate, iteration < self.frozen_iterations)
        return {name: variable.numpy() for name, variable in self.state.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_state_has_names_of_its_own(kind):
    names = list(Run(kind, 0).state)
    assert sorted(name for name in names if name.startswith("emb/biases/")) == [
        f"emb/biases/{slot}" for slot in SLOTS[kind]
    ]
    assert len(set(names)) == len(names) == 8 + 6 * len(SLOTS[kind]) + 1


@pytest.mark.parametrize("freeze", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(kind, freeze, tmp_path):
    whole = Run(kind, 0, freeze)
    start = {name: variable.numpy() for name, variable in whole.state.items()}
    checkpoints.save(tmp_path, 3, whole.train(3))
    resumed = Run(kind, 1, freeze)
    checkpoints.restore(tmp_path / "checkpoint-3", resumed.state)
    at_three, expected, got = whole.train(3), whole.train(6), resumed.train(6)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    moved = {name for name in start if not np.array_equal(start[name], at_three[name])}
    assert {"emb/weights", "body/BatchNorm/moving_mean", "global_step"} <= moved
    # Nothing of a body that is frozen moves but its statistics.
    trained_body = {name for name in moved if name.startswith("body/") and "moving" not in name}
    assert bool(trained_body) == (freeze < 3)
    assert not np.array_equal(start["body/a/weights"], expected["body/a/weights"])
    assert whole.step.experimental_get_tracing_count() == 2
