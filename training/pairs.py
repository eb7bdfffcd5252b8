"""Whether batches that are not P×K have pairs of a pid. Without TensorFlow: it is checked before anything slow."""

from common import UserError
from data import dataset, pids, pk_sampler, samplers
from data.dataset import Dataset
from data.samplers import Sampler
from experiment.flags import Settings
from runtime.terminal import log

# Below this share of images with a positive a batch is warned about. A convention, not measured.
_FEW = 0.5


def check(sampler: Sampler, train_set: Dataset, settings: Settings, resuming: bool) -> None:
    """Warn of batches that have few pairs of a pid, or copies of an image for pairs.

    Args:
        train_set: what is drawn from, with mirrored copies if they are other pids.

    Raises:
        UserError: there are none, for a training that is new and needs them.
    """
    if isinstance(sampler, pk_sampler.Sampler) or not settings.loss_weight:
        return
    if isinstance(sampler, samplers.Balanced):
        for line in pids.often_drawn(*sampler.copied()):
            log.warning(line)
    labels = dataset.labels_of(train_set.pids)
    share = sampler.share_with_positive(labels)
    single = labels.max() + 1 == len(labels)  # in a memory each would find only itself, as it was
    in_memory = settings.memory_batches and not single
    needed = "several images of a pid" if single else "--sampler pk or a larger --batch_size"
    if not share and not (in_memory or settings.id_loss_weight or resuming):
        raise UserError(
            f"--sampler {settings.sampler}: no image of a batch has another of its pid, as --loss {settings.loss} "
            "needs. Add an --id_loss_weight, or give several images of a pid."
        )
    if in_memory:
        if settings.memory_start and share * settings.batch_size < 1:
            log.warning(
                f"--sampler {settings.sampler}: before --memory_start {settings.memory_start} a batch has next to no "
                f"images of one pid, as --loss {settings.loss} needs. Give a smaller --memory_start, or --sampler pk."
            )
    elif share < _FEW:
        if settings.id_loss_weight:
            needed += f", or --loss_weight 0 if only --id_loss {settings.id_loss} is to train"
        log.warning(
            f"--sampler {settings.sampler}: of the {settings.batch_size} images of a batch, {share:.1%} have another "
            f"of their pid in it, on average. The others are only negatives to --loss {settings.loss}. Give {needed}."
        )
