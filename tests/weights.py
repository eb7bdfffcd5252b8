"""What the tests of checkpoints share: small networks, their values, files of TensorFlow 1."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from common import UserError
from network import checkpoints, model

SHAPE = (16, 16, 3)


def make(head="fc1024", dim=8, net="lunet_narrow"):
    """A network, its Adam, and the variables of both by their names."""
    network = model.build(net, head, dim, SHAPE)
    optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-8)
    optimizer.build(network.trainable_variables)
    return network, optimizer, checkpoints.named_variables(network, optimizer)


def scramble(variables, seed=0):
    """Give all variables values of their own."""
    rng = np.random.default_rng(seed)
    for variable in variables.values():
        integer = variable.dtype.startswith("int")
        variable.assign(rng.integers(1, 1000) if integer else rng.normal(size=variable.shape))


def values(variables):
    return {name: variable.numpy().copy() for name, variable in variables.items()}


def assert_same(variables, expected):
    assert set(variables) == set(expected)
    for name, variable in variables.items():
        np.testing.assert_array_equal(variable.numpy(), expected[name], err_msg=name)


def refuse(call, *patterns):
    """The call should raise a UserError of one line that matches all patterns."""
    with pytest.raises(UserError) as error:
        call()
    for pattern in patterns:
        assert re.search(pattern, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


def write_v2(prefix, arrays):
    names = sorted(arrays)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.convert_to_tensor(arrays[name]) for name in names],
    )
    return prefix


def write_v1(path, arrays):
    """The single file that TF-slim's checkpoints are, by the saver of TensorFlow 1."""
    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        for name, array in arrays.items():
            tf1.get_variable(name, initializer=np.asarray(array), use_resource=False)
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver(write_version=tf1.train.SaverDef.V1).save(
            session, str(path), write_meta_graph=False
        )
    return path
