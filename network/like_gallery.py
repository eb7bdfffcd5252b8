"""How to embed queries as a gallery was embedded: by the same checkpoint, with the same views.

Without TensorFlow, so that what does not fit is told before anything slow.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common import UserError
from evaluation import embeddings_file
from evaluation.embeddings_file import Origin
from experiment import args_json
from experiment.flags import Architecture
from network import checkpoint_paths, view_flags
from network.view_flags import Views
from runtime.tensorflow import import_tensorflow
from runtime.terminal import log

if TYPE_CHECKING:
    from network.embedder import Embedder


class Plan(NamedTuple):
    """What embeds queries.

    Attributes:
        experiment_root: the experiment.
        checkpoint: path of one of its checkpoints, without suffix.
        weights: "averaged" or "raw", where it has both.
        views: of each image.
        trained: flags of its training.
    """

    experiment_root: str
    checkpoint: Path
    weights: str | None
    views: Views
    trained: Architecture

    @property
    def origin(self) -> Origin:
        """What a file of embeddings would say of these."""
        views = self.views
        return Origin(
            checkpoint=os.path.abspath(self.checkpoint),
            network=checkpoint_paths.fingerprint(self.checkpoint),
            weights=self.weights,
            augmentation_types=tuple(view_flags.view_names(views.flip_augment, views.crop_augment)),
            aggregator=views.aggregator,
        )

    def make_embedder(self, **options: Any) -> "Embedder":
        """The embedder. This imports TensorFlow.

        Args:
            options: batch_size and loading_threads, as of network.embedder.Embedder.

        Raises:
            UserError: the checkpoint is damaged or does not fit.
        """
        import_tensorflow()
        from network.embedder import Embedder

        return Embedder(
            self.experiment_root,
            self.checkpoint.name,
            weights=self.weights,
            **self.views._asdict(),
            **options,
        )


def plan(
    experiment_root: str,
    gallery: Origin,
    dim: int,
    checkpoint: str | None = None,
    weights: str | None = None,
    views: Views | None = None,
) -> Plan:
    """Choose what is not given as the gallery has it, and warn where the two are not alike.

    Args:
        gallery: how its embeddings were made.
        dim: their D.
        checkpoint, weights: as of network.embedder.Embedder; those of the gallery if None.
        views: what is asked for; those of the gallery if None.

    Raises:
        UserError: the experiment or the checkpoint is missing, or has another dimension.
    """
    trained = args_json.architecture(experiment_root, {})
    if trained.embedding_dim != dim:
        raise UserError(
            f"the gallery's embeddings have {dim} numbers, those of {experiment_root} {trained.embedding_dim}. Give "
            "the --experiment_root that embedded the gallery."
        )
    chosen = None if checkpoint else _of_fingerprint(experiment_root, gallery.network)
    if chosen is None:
        chosen = checkpoint_paths.find(experiment_root, checkpoint)
    elif weights is None:
        weights = gallery.weights
    if views is None:
        if gallery.augmentation_types is None:
            log.warning(
                "The gallery does not say how its images were cropped. Queries are resized to the net_input size; for "
                "crops, give --crop_augment."
            )
            views = Views()
        else:
            views = view_flags.of_file(gallery.augmentation_types, gallery.aggregator)
    made = Plan(
        experiment_root,
        chosen,
        checkpoint_paths.chosen_weights(chosen, weights),
        views,
        trained,
    )
    warn_about_differences(made.origin, gallery)
    return made


def _of_fingerprint(experiment_root: str, network: str | None) -> Path | None:
    """The experiment's checkpoint that embedded the gallery; None where it has none."""
    if network is None:
        return None
    for iteration in reversed(checkpoint_paths.iterations(Path(experiment_root))):
        path = Path(experiment_root, f"checkpoint-{iteration}")
        if checkpoint_paths.fingerprint(path) == network:
            return path
    return None


def warn_about_differences(query: Origin, gallery: Origin) -> None:
    """Warn where queries and gallery were embedded in different ways: distances mean little then."""
    for name, of_query, of_gallery in embeddings_file.differences(query, gallery):
        log.warning(
            f"The {name} of the queries is {of_query}, that of the gallery {of_gallery}. Embed both alike, unless this "
            "is meant."
        )
