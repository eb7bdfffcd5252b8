"""Flags that do not go with the batch norm of a network, which only the network itself tells."""

import keras

from common import UserError
from experiment.flags import Settings
from network import model
from runtime.terminal import log


def check(network: keras.Model, settings: Settings, devices: int, resuming: bool) -> None:
    """Refuse what does not fit, or warn of it where an experiment began with it.

    Args:
        network: of network/model.py.
        devices: how many share a batch.

    Raises:
        UserError: a new experiment would train with wrong statistics, or on nothing, or has a flag
            without effect.
    """
    lines = faults(network, settings, devices)
    if lines and not resuming:
        raise UserError(lines[0])
    for line in lines:
        log.warning(line)


def faults(network: keras.Model, settings: Settings, devices: int) -> list[str]:
    """One line for each thing that does not fit. Arguments are those of `check`."""
    lines = (
        _of_other_layers(network, settings),
        _of_nothing_to_freeze(network, settings),
        _of_single_numbers(network, settings, devices),
    )
    return [line for line in lines if line]


def _of_other_layers(network: keras.Model, settings: Settings) -> str | None:
    """Keras' own layer moves its statistics in each pass, and is not told to freeze them."""
    given = [f"--{name}" for name in ("chunk", "remat", "bn_frozen") if getattr(settings, name)]
    others = model.other_batch_norms(network)
    if not given or not others:
        return None
    return (
        f"{' and '.join(given)} should have batch norm by network.layers.BatchNorm only. Received: the "
        f"keras.layers.BatchNormalization {others[0].name} in --model_name {settings.model_name} with --head_name "
        f"{settings.head_name}. Put network.layers.BatchNorm in its place, or leave out {' and '.join(given)}."
    )


def _of_nothing_to_freeze(network: keras.Model, settings: Settings) -> str | None:
    if not settings.bn_frozen or model.batch_norms(network) or model.other_batch_norms(network):
        return None
    return (
        f"--bn_frozen has no effect: --model_name {settings.model_name} with --head_name {settings.head_name} has no "
        "batch norm that is trained. Leave it out."
    )


def _of_single_numbers(network: keras.Model, settings: Settings, devices: int) -> str | None:
    """What is normalized over one number is a constant, without a gradient."""
    b = settings.images_per_batch // devices
    together = 1 if settings.no_sync_batch_norm else devices
    images = (settings.chunk or b) * together
    alone = [norm for norm in model.batch_norms(network) if norm.places == 1 and not norm.frozen]
    if images > 1 or not alone:
        return None
    received, larger = f"{b} image on each device", "batch"
    if settings.chunk:
        received, larger = f"--chunk {settings.chunk}", "--chunk"
    if settings.no_sync_batch_norm:
        received += " with --no_sync_batch_norm"
    return (
        f"batch norm should take the statistics of at least 2 images: of one, {alone[0].name} makes a constant, and "
        f"nothing before it learns. Received: {received}. Give a larger {larger}, or --bn_frozen."
    )
