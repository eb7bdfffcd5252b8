"""The values that PyTorch's nets had when the numbers of torch_nets.npz were made."""

import zlib

import numpy as np


def fill(name: str, shape: list[int]) -> np.ndarray:
    """The value of a parameter or a buffer, from its name and its shape."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), 0])
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return np.asarray(0, np.int64)
    if last in ("running_var", "gamma") or (last == "weight" and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if last in ("bias", "running_mean"):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    if last in ("pos_embed", "cls_token"):
        return (0.5 * rng.standard_normal(shape)).astype(np.float32)
    spread = np.sqrt(1.0 / np.prod(shape[1:]))
    return (rng.standard_normal(shape) * spread).astype(np.float32)
