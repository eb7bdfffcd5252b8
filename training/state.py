"""All that training changes: the network, its average, what accompanies it, and the optimizer."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

import common
from experiment import flags, folder
from experiment.flags import Settings
from network import checkpoint_paths, checkpoints, model, pretrained
from network.layers import CAMERA_EMBEDDINGS
from network.segments import Segments
from runtime import devices
from runtime.cluster import Cluster
from runtime.terminal import log
from training import averages, companions, optimizers, rates


class State:
    """The variables of a training.

    Attributes:
        network: images -> {"emb_raw", "emb"}, see network/model.py.
        segments: of the network, for --remat; else None.
        net: the net inside it, without pooling and head.
        average: the network of --ema, whose weights follow those of the other; else None.
        companions: the layers of the losses of identities.
        optimizer: built for all of them.
        trainable: the variables that gradients change.
        variables: all variables by their names in checkpoints.
    """

    def __init__(self, settings: Settings, pid_images: np.ndarray, strategy):
        """Draw initial weights by settings.seed.

        Args:
            pid_images: number of images of each pid in the training set, int [N].
            strategy: a tf.distribute.Strategy, whose devices hold the variables.
        """
        keras.utils.set_random_seed(settings.seed)
        with strategy.scope():
            self.network = _build_network(settings, settings.precision)
            self.companions = companions.build(pid_images, settings)
            self.net = model.net_of(self.network)
            self.trainable = [
                *self.network.trainable_variables,
                *self.companions.trainable_variables,
            ]
            self.optimizer = optimizers.build(
                _optimizer_options(settings),
                self.trainable,
                factors=self._rate_factors(settings),
                frozen=self.net.trainable_variables,
                frozen_iterations=settings.freeze_body_iterations,
            )
        if settings.no_sync_batch_norm:
            model.normalize_apart(self.network)
        if settings.bn_frozen:
            model.freeze_statistics(self.network)
        self.variables = checkpoints.named_variables(
            [self.network, *self.companions.layers], self.optimizer
        )
        self.segments = Segments(self.network) if settings.remat else None
        self._settings = settings
        self._strategy = strategy
        self._copy: keras.Model | None = None
        # Last, so that all else draws what it draws without it.
        self.average = self._build_another() if settings.ema else None
        self._names_of_averages: set[str] = set()
        if self.average:
            averaged = averages.named_variables(self.average, self.network)
            self._names_of_averages.update(averaged)
            self.variables |= averaged

    def _rate_factors(self, settings: Settings) -> list[float]:
        """The factor of the learning rate of each trainable variable."""
        net = _trainable_names([self.net])
        network = _trainable_names([self.network])
        companions = _trainable_names(self.companions.layers)
        parts = {
            "net": net.values(),
            "head": [name for key, name in network.items() if key not in net],
            "classifier": companions.values(),
        }
        by_depth = {}
        if settings.layer_decay != 1:
            layers = common.load_plugin("nets", settings.model_name).LAYERS
            # Embeddings of cameras are as new as the head.
            names = [name for name in net.values() if not name.endswith(CAMERA_EMBEDDINGS)]
            by_depth = rates.decayed(names, layers, settings.layer_decay)
        by_name = rates.factors(parts, settings.factors_of_parts, by_depth)
        named = network | companions
        return [by_name[named[id(variable)]] for variable in self.trainable]

    def _build_another(self) -> keras.Model:
        """The network as embed.py builds it, in float32, with weights that do not matter."""
        with self._strategy.scope():
            return _build_network(self._settings, "float32")

    def embedded(self) -> keras.Model:
        """The network as embed.py would load it from a checkpoint of now.

        It is in float32, and has the averaged weights with --ema. All workers call this together,
        outside of replicas. It is the same model in every call, with the weights of the last
        one where the training goes on in 16 bits without --ema; otherwise they stay up to date.

        Returns:
            a model as of network/model.py. Call it with training=False.
        """
        if self.average:
            return self.average
        if self._settings.precision == "float32":
            return self.network
        self._copy = self._copy or self._build_another()
        averages.copy(self._strategy, self._copy, self.network)
        return self._copy

    @property
    def iteration(self) -> int:
        """The number of finished iterations."""
        return int(self.optimizer.iterations.numpy())

    def initialize(self, settings: Settings, cluster: Cluster, resuming: bool, strategy) -> str:
        """Take the newest checkpoint when resuming, else pretrained weights, if there are any.

        The chief reads; the other workers receive its values.

        Returns:
            where the values come from, in words.
        Raises:
            UserError for a checkpoint that is missing, damaged or does not fit.
        """
        source = "initial weights drawn at random"
        checkpoint = None
        root = Path(settings.experiment_root)
        if cluster.is_chief and resuming and not folder.never_started(root):
            # It lacks averages if --ema came later, by hand.
            checkpoint = checkpoints.restore_newest(root, self.variables, self._names_of_averages)
            source = str(checkpoint)
        elif cluster.is_chief and settings.initial_checkpoint:
            source = self._load_pretrained(settings.initial_checkpoint, settings.model_name)
        elif not resuming and not settings.initial_checkpoint:
            _warn_about_random_weights(settings.model_name)
        if self.average and not (checkpoint and checkpoint_paths.has_averages(checkpoint)):
            averages.copy(strategy, self.average, self.network)
        devices.assign_those_of_chief(strategy, cluster, self.variables)
        return source

    def _load_pretrained(self, checkpoint: str, model_name: str) -> str:
        variables = checkpoints.named_variables(self.net)
        loaded = pretrained.load_net(checkpoint, model_name, variables)
        source = f"{checkpoint}: {loaded}"
        if loaded.missing:
            log.warning(f"--initial_checkpoint fits in part only. {source}.")
        return source


def _trainable_names(layers: Sequence[keras.layers.Layer]) -> dict[int, str]:
    """The trained variables' names in checkpoints, by their ids."""
    variables = checkpoints.named_variables(layers)
    return {id(each): name for name, each in variables.items() if each.trainable}


def _build_network(settings: Settings, precision: str) -> keras.Model:
    options = flags.net_options(settings)
    if settings.drop_path:
        options["drop_path"] = settings.drop_path
    return model.build(
        settings.model_name,
        settings.head_name,
        settings.embedding_dim,
        (*settings.net_size, 3),
        options,
        precision=precision,
    )


def _warn_about_random_weights(model_name: str) -> None:
    if not getattr(common.load_plugin("nets", model_name), "FROM_SCRATCH", False):
        log.warning(
            f"{model_name} begins with random weights, with which the loss often stays where it "
            "is. Give it pretrained ones by --initial_checkpoint, or take a net that is made for "
            "this (lunet, lunet_narrow)."
        )


def _optimizer_options(settings: Settings) -> optimizers.Options:
    beta1_from = settings.decay_start_iteration if settings.adam_beta1_decay else None
    return optimizers.Options(
        name=settings.optimizer,
        rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        l2=settings.l2,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        beta_1=settings.adam_beta1,
        beta_2=settings.adam_beta2,
        low_beta_1_from=beta1_from,
        rho=settings.rho,
        epsilon=settings.optimizer_epsilon,
        scale_loss=settings.precision == "mixed_float16",
    )
