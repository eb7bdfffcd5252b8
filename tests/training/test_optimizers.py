"""Every optimizer: its steps against formulas in float64, its state through checkpoints, clipping
and replicas.
"""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import common
import experiment
from network import checkpoints, model
from network.layers import BatchNorm
from training import optimizers, schedule

KINDS = {
    "adam": [],
    "adam_beta1_decay": ["--adam_beta1_decay", "--decay_start_iteration=2"],
    "adamw": ["--optimizer=adamw", "--weight_decay=0.1"],
    "momentum": ["--optimizer=sgd", "--momentum=0.9", "--weight_decay=0.1"],
    "nesterov": ["--optimizer=sgd", "--momentum=0.9", "--nesterov"],
    "rmsprop": ["--optimizer=rmsprop", "--momentum=0.5"],
    "adadelta": ["--optimizer=adadelta"],
    "clipped": ["--clip_norm=0.05"],
}
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


def args_of(*flags):
    args = experiment.make_parser().parse_args(
        ["--experiment_root=exp", "--learning_rate=0.01", *flags]
    )
    experiment.check_together(args)
    return args


def trajectory(flags, steps=8, delayed=False):
    """The values [steps, 3, 2] of one variable, and its gradients; `delayed`: it is the body."""
    args, variable = (
        args_of(*flags),
        keras.Variable(np.arange(1, 7, dtype=np.float32).reshape(3, 2)),
    )
    optimizer = optimizers.build(args, [variable], [variable] if delayed else [])
    gradients, values = np.random.default_rng(0).normal(size=(steps, 3, 2)).astype(np.float32), []

    @tf.function
    def step(gradient, rate):
        optimizer.learning_rate.assign(rate)
        optimizers.apply(optimizer, [gradient], [variable], args.clip_norm)

    for iteration, gradient in enumerate(gradients):
        if delayed and schedule.body_is_frozen(iteration, args):
            optimizer.iterations.assign(iteration + 1)
        else:
            step(
                tf.constant(gradient),
                tf.constant(schedule.learning_rate(iteration, args), tf.float32),
            )
        values.append(variable.numpy())
    assert int(optimizer.iterations) == steps
    return np.array(values), gradients.astype(np.float64)


def adam(gradients, rates, beta_1s, weight_decay=0.0):
    """tf.train.AdamOptimizer's: the powers of both betas are products over the steps so far."""
    x, m, v, power_1, power_2, values = np.arange(1.0, 7).reshape(3, 2), 0.0, 0.0, 1.0, 1.0, []
    for g, rate, beta_1 in zip(gradients, rates, beta_1s, strict=True):
        power_1, power_2 = power_1 * beta_1, power_2 * 0.999
        m, v = beta_1 * m + (1 - beta_1) * g, 0.999 * v + 0.001 * g * g
        x = x * (1 - rate * weight_decay)
        x = x - rate * np.sqrt(1 - power_2) / (1 - power_1) * m / (np.sqrt(v) + 1e-8)
        values.append(x)
    return np.array(values)


def test_adamw_is_adam_that_takes_a_part_of_the_weights_away():
    got, gradients = trajectory(["--optimizer=adamw", "--weight_decay=0.3"])
    np.testing.assert_allclose(
        got, adam(gradients, [0.01] * 8, [0.9] * 8, weight_decay=0.3), rtol=1e-5
    )


def test_beta_1_falls_to_a_half_and_its_product_goes_on():
    got, gradients = trajectory(
        ["--adam_beta1_decay", "--decay_start_iteration=3", "--lr_schedule=constant"]
    )
    np.testing.assert_allclose(got, adam(gradients, [0.01] * 8, [0.9] * 3 + [0.5] * 5), rtol=1e-5)


@pytest.mark.parametrize(
    "decay, beta_1s", [(1, [0.5] * 5), (3, [0.5] * 5), (5, [0.9, 0.9, 0.5, 0.5, 0.5])]
)
def test_a_frozen_variables_adam_begins_when_it_is_trained(decay, beta_1s):
    flags = ["--adam_beta1_decay", f"--decay_start_iteration={decay}", "--lr_schedule=constant"]
    got, gradients = trajectory([*flags, "--freeze_body_iterations=3"], delayed=True)
    np.testing.assert_array_equal(got[:3], [np.arange(1, 7).reshape(3, 2)] * 3)
    np.testing.assert_allclose(got[3:], adam(gradients[3:], [0.01] * 5, beta_1s), rtol=1e-5)


def test_the_rate_of_each_step_counts():
    flags = ["--warmup_iterations=4", "--lr_schedule=multistep", "--lr_milestones=5,7"]
    got, gradients = trajectory(flags)
    rates = [schedule.learning_rate(iteration, args_of(*flags)) for iteration in range(8)]
    np.testing.assert_allclose(got, adam(gradients, rates, [0.9] * 8), rtol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum(nesterov):
    got, gradients = trajectory([*KINDS["momentum"], *(["--nesterov"] if nesterov else [])])
    x, v, values = np.arange(1.0, 7).reshape(3, 2), 0.0, []
    for g in gradients:
        x, v = x * (1 - 0.01 * 0.1), 0.9 * v - 0.01 * g
        x = x + (0.9 * v - 0.01 * g if nesterov else v)
        values.append(x)
    np.testing.assert_allclose(got, values, rtol=1e-5)


def test_rmsprop_and_adadelta_are_keras_own():
    for flags, other in (
        (KINDS["rmsprop"], keras.optimizers.RMSprop(0.01, momentum=0.5)),
        (KINDS["adadelta"], keras.optimizers.Adadelta(0.01)),
    ):
        got, gradients = trajectory(flags)
        variable = keras.Variable(np.arange(1, 7, dtype=np.float32).reshape(3, 2))
        for gradient, value in zip(gradients, got, strict=True):
            other.apply([tf.constant(gradient, tf.float32)], [variable])
            np.testing.assert_allclose(variable, value, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_only_kernels_decay(kind):
    args = args_of(*KINDS[kind])
    variables = [
        keras.Variable(np.ones(shape, np.float32), name=str(n))
        for n, shape in enumerate([(), (3,), (3, 2)])
    ]
    optimizer = optimizers.build(args, variables)
    optimizer.learning_rate.assign(0.5)
    optimizers.apply(optimizer, [tf.zeros(v.shape) for v in variables], variables, args.clip_norm)
    after = [float(np.mean(variable)) for variable in variables]
    np.testing.assert_allclose(after, [1, 1, 1 - 0.5 * args.weight_decay], rtol=1e-6)


# ------------------------------------------------------------------------- clipping


def clipped_steps(clip_norm, precision):
    """What sgd at rate 1 takes off two variables whose gradients are (3, 0) and (4,)."""
    args = args_of("--optimizer=sgd", "--learning_rate=1", f"--precision={precision}")
    variables = [keras.Variable(np.zeros(size, np.float32)) for size in (2, 1)]
    optimizer = optimizers.build(args, variables)
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
    optimizer = optimizers.build(args_of("--optimizer=sgd"), [variable])
    optimizers.apply(optimizer, [tf.zeros(2)], [variable], 0.5)
    np.testing.assert_array_equal(variable, [1, 1])


REPLICAS = """
import numpy as np, sys
import common, experiment, keras
from runtime.tensorflow import import_tensorflow
from training import optimizers
tf = import_tensorflow()
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
args = experiment.make_parser().parse_args(["--experiment_root=exp", "--learning_rate=0.1", *sys.argv[1:]])
gradients = np.random.default_rng(0).normal(size=(4, 2, 3, 2)).astype(np.float32)

def run(strategy, per_replica):
    with strategy.scope():
        variable = keras.Variable(np.ones((3, 2), np.float32))
        optimizer = optimizers.build(args, [variable], [variable])
    @tf.function
    def step(gradients):
        def on_replica():
            mine = gradients[tf.distribute.get_replica_context().replica_id_in_sync_group]
            optimizers.apply(optimizer, [mine], [variable], args.clip_norm)
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
    flags = [*KINDS[kind], "--clip_norm=0.5"]
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS, *flags], cwd=common.HERE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------- state


class Run:
    """A small network of a body and a head, trained on random batches."""

    def __init__(self, flags, seed):
        keras.utils.set_random_seed(seed)
        self.args = args_of(*flags)
        inputs = keras.Input((4,))
        x = BatchNorm(name="body.BatchNorm")(keras.layers.Dense(5, name="body.a")(inputs))
        images = keras.Input((4,))
        self.network = keras.Model(
            images, keras.layers.Dense(2, name="emb")(keras.Model(inputs, x)(images))
        )
        self.body = model.body(self.network).trainable_variables
        self.weights = self.network.trainable_variables
        self.optimizer = optimizers.build(self.args, self.weights, self.body)
        self.state = checkpoints.named_variables(self.network, self.optimizer)
        self.step = tf.function(self._step)

    def _step(self, images, rate, frozen):
        body = {id(variable) for variable in self.body if frozen}
        weights = [variable for variable in self.weights if id(variable) not in body]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.network(images, training=True) - 1) ** 2)
        self.optimizer.learning_rate.assign(rate)
        optimizers.apply(self.optimizer, tape.gradient(loss, weights), weights, self.args.clip_norm)

    def train(self, end):
        for iteration in range(int(self.optimizer.iterations), end):
            images = np.random.default_rng(iteration).normal(size=(8, 4)).astype(np.float32)
            rate = tf.constant(schedule.learning_rate(iteration, self.args), tf.float32)
            self.step(tf.constant(images), rate, schedule.body_is_frozen(iteration, self.args))
        return {name: variable.numpy() for name, variable in self.state.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_state_has_names_of_its_own(kind):
    names = list(Run(KINDS[kind], 0).state)
    assert sorted(name for name in names if name.startswith("emb/biases/")) == [
        f"emb/biases/{slot}" for slot in SLOTS[kind]
    ]
    assert len(set(names)) == len(names) == 8 + 6 * len(SLOTS[kind]) + 1


@pytest.mark.parametrize("freeze", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(kind, freeze, tmp_path):
    flags = [*KINDS[kind], "--warmup_iterations=4", f"--freeze_body_iterations={freeze}"]
    whole = Run(flags, 0)
    start = {name: variable.numpy() for name, variable in whole.state.items()}
    checkpoints.save(tmp_path, 3, whole.train(3))
    resumed = Run(flags, 1)
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
