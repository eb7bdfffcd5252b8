"""The original's numbers for its nets and heads, and what the tests do to arrive at them."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from golden.fill import fill

import loss

_HERE = Path(__file__).parent
ARRAYS = np.load(_HERE / "nets_golden.npz")
# {"<net>/<head>": {TF1 name: shape}, "<net>/<head>/train_state": ..., "<net>/prefix": scope of the
# body}
VARIABLES = json.loads((_HERE / "nets_golden_variables.json").read_text())
CASES = sorted(key for key in VARIABLES if key.count("/") == 1 and not key.endswith("/prefix"))
INPUT_SHAPE = ARRAYS["images"].shape[1:]
EMBEDDING_DIM = 32


def assign_filled(variables: dict) -> None:
    for name, variable in variables.items():
        variable.assign(fill(name, variable.shape))


def deviation(got, expected) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float(np.linalg.norm(np.asarray(got) - expected) / np.linalg.norm(expected))


def images(iteration: int = 0) -> np.ndarray:
    """The batch of a training step: mirrored at odd ones."""
    batch = ARRAYS["images"].astype(np.float32)
    return batch[:, :, ::-1] if iteration % 2 else batch


def assign_moved(variables, values, seed: int = 0) -> None:
    """Assign values, those of float32 moved up or down by 2^-23 of themselves, as by chance."""
    rng = np.random.default_rng(seed)
    for variable, value in zip(variables, values, strict=True):
        if value.dtype == np.float32:
            signs = rng.choice([-1, 1], value.shape).astype(np.float32)
            value = value * (1 + signs * np.float32(2**-23))
        variable.assign(value)


def adam_steps(model, optimizer, case: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Train `count` steps as the original did. Returns: emb of the first step [B, D] and all losses
    [count, B].
    """
    first, losses = None, []
    for step in range(count):
        optimizer.learning_rate.assign(ARRAYS[f"{case}/train/lr"][step])
        with tf.GradientTape() as tape:
            emb = model(images(step), training=True)["emb"]
            losses.append(
                loss.batch_hard(loss.cdist(emb, emb), tf.constant(ARRAYS["pids"]), "soft")
            )
            mean = tf.reduce_mean(losses[-1])
        optimizer.apply(tape.gradient(mean, model.trainable_variables), model.trainable_variables)
        first = emb.numpy() if first is None else first
    return first, np.stack(losses)
