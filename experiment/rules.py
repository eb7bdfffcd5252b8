"""Which flags fit together: checked before anything slow, for new and for resumed experiments."""

from collections.abc import Callable
from typing import Any

import common
from common import UserError
from data import pk_sampler
from experiment import flags, id_losses
from experiment.flags import Architecture, Settings


def check_combinations(settings: Settings, resuming: bool = False) -> None:
    """Raises: UserError for values that are each allowed, but not together or not for training.

    Args:
        resuming: whether these are flags of an experiment that goes on; some began when fewer values were refused.
    """
    _check_batch(settings)
    _check_trackers(settings)
    _check_sets(settings)
    _check_cache(settings)
    _check_loss(settings)
    if not resuming:
        _check_ranges_of_constants(settings)
        _check_frozen(settings)
    _check_loss_weight(settings)
    _check_id_loss(settings)
    _check_crops(settings)
    _check_flips(settings)
    check_architecture(settings)
    if settings.drop_path:
        _check_option_of_net("drop_path", "drop_path", settings.drop_path, settings.model_name)
    _check_cameras(settings)
    _check_only_with(settings)
    _check_optimization(settings)
    _check_layer_decay(settings)
    _check_validation(settings)
    if settings.jit_compile and settings.strategy not in ("auto", "one"):
        raise UserError(
            f"--jit_compile works on one device. Received: --strategy {settings.strategy}. Leave "
            "out one of the two"
        )


def _check_trackers(settings: Settings) -> None:
    names = flags.several(settings.report_to)
    twice = [name for name in names if names.count(name) > 1]
    if twice or ("none" in names and len(names) > 1):
        raise UserError(
            f"--report_to should name each tracker once, or none. Received: {' '.join(names)}"
        )


def _check_batch(settings: Settings) -> None:
    for name, value in {"batch_p": settings.batch_p, "batch_k": settings.batch_k}.items():
        if value < 2 and settings.sampler == "pk":
            raise UserError(
                f"--{name} should be at least 2: a triplet is two images of one pid and one of "
                f"another. Received: {value}"
            )
    B = settings.images_per_batch
    if settings.chunk and B % settings.chunk:
        flags_of_size = "--batch_p times --batch_k" if settings.sampler == "pk" else "--batch_size"
        raise UserError(
            f"--chunk should divide the {B} images of a batch ({flags_of_size}). Received: {settings.chunk}"
        )
    has_use = settings.val_pids is not None or settings.camera_embeddings
    if settings.sampler == "shuffle" and settings.cameras and not has_use:
        raise UserError(
            f"--sampler shuffle draws images without regard to cameras. Received: --cameras {settings.cameras}. Leave "
            "it out, or take --sampler pk or balanced"
        )


def _check_sets(settings: Settings) -> None:
    sets = flags.several(settings.train_set)
    roots = flags.several(settings.image_root)
    weights = settings.set_weights
    if len(roots) > 1 and len(roots) != len(sets):
        raise UserError(
            f"--image_root should be one directory, or one for each --train_set. Received: {len(roots)} of them for "
            f"{len(sets)} files"
        )
    twice = [path for path in sets if sets.count(path) > 1]
    if twice:
        raise UserError(f"--train_set should name each file once. Received twice: {twice[0]}")
    for name in ("join_pids", "set_weights"):
        if len(sets) == 1 and getattr(settings, name):
            raise UserError(
                f"--{name} is for several files of --train_set. Received one: {sets[0]}"
            )
    if weights is None:
        return
    if settings.same_group_batches:
        raise UserError(
            "--set_weights divide each batch among files, and --same_group_batches makes it from one group. Give one "
            "of them"
        )
    if len(weights) != len(sets):
        raise UserError(
            f"--set_weights should be one number for each --train_set. Received: {len(weights)} for {len(sets)} files"
        )
    pk = settings.sampler == "pk"
    count, unit, flag = (
        (settings.batch_p, "pid", "p") if pk else (settings.batch_size, "image", "size")
    )
    shares = pk_sampler.shares(count, weights)
    if 0 in shares:
        raise UserError(
            f"--set_weights {' '.join(map(str, weights))} would give the {count} {unit}s of a batch as "
            f"{' and '.join(map(str, shares))} to the files. Give each a weight that makes at least one {unit}, or a "
            f"larger --batch_{flag}"
        )


def _check_cache(settings: Settings) -> None:
    if settings.cache == "resized" and not settings.cache_dir:
        raise UserError(
            "--cache resized needs a --cache_dir, a directory that several trainings may share"
        )


def _check_loss(settings: Settings) -> None:
    loss, margin = settings.loss, settings.margin
    if settings.sampler != "pk" and (loss, margin) == ("batch_hard", "none"):
        raise UserError(
            f"--loss batch_hard with --margin none is -infinity where a batch is of one pid, as those of --sampler "
            f"{settings.sampler} may be. Give another --margin, or --sampler pk"
        )
    if loss in common.EMBEDDING_LOSSES and margin != "soft":
        raise UserError(
            f"--loss {loss} has no margin to set. Received: --margin {margin}. Leave it out, or "
            f"take one of {', '.join(common.DISTANCE_LOSSES)}"
        )
    if loss in common.EMBEDDING_LOSSES and settings.metric not in ("euclidean", "cosine"):
        raise UserError(
            f"--loss {loss} compares by cosine. Received: --metric {settings.metric}. Leave it "
            "out, or give cosine"
        )
    _check_loss_constants(settings)
    if settings.loss_ignore_zero and loss not in common.LOSSES_WITHOUT_ZEROS:
        raise UserError(
            f"--loss_ignore_zero is for --loss {' and '.join(common.LOSSES_WITHOUT_ZEROS)}. "
            f"Received: --loss {loss}"
        )
    if settings.loss_ignore_zero and isinstance(margin, str):
        raise UserError(
            f"--loss_ignore_zero needs a number as --margin: with {margin} no loss is cut off at "
            f"0. Received: --margin {margin}"
        )


def _check_loss_weight(settings: Settings) -> None:
    if settings.loss_weight:
        return
    if not settings.id_loss_weight:
        raise UserError(
            "--loss_weight 0 leaves nothing that tells pids apart. Add an --id_loss_weight above 0, or "
            "leave it out"
        )
    if settings.memory_batches:
        raise UserError(
            f"--memory_batches {settings.memory_batches} is for a --loss that trains. Received: --loss_weight 0. Leave "
            "out one of the two"
        )
    if settings.by_cosine and settings.metric not in ("euclidean", "cosine"):
        raise UserError(
            f"--id_loss {settings.id_loss} compares by cosine, and --loss_weight 0 leaves no other loss. Received: "
            f"--metric {settings.metric}. Leave it out, or give cosine"
        )


def _check_id_loss(settings: Settings) -> None:
    own = id_losses.ID_LOSSES[settings.id_loss]
    if own.smoothing is None and settings.label_smoothing:
        raise UserError(
            f"--id_loss {settings.id_loss} has no labels to smooth. Received: --label_smoothing "
            f"{settings.label_smoothing}. Leave it out"
        )
    margin, by_count = settings.id_margin, settings.id_margin_by_count
    if by_count is not None and margin is not None:
        raise UserError(
            f"--id_margin {margin} is one margin for all pids, and --id_margin_by_count {by_count} one for each. Give "
            "one of them"
        )
    largest = {"id_margin": margin or 0.0}
    if by_count is not None:
        parsed = id_losses.MarginByCount.parse(by_count)
        largest["id_margin_by_count"] = parsed.a + parsed.least
    for name, value in largest.items():
        if own.margin is not None and value >= own.margin_below:
            unit = " radians (0.5 are 28.6 degrees)" if settings.id_loss == "arcface" else ""
            raise UserError(
                f"--{name} of --id_loss {settings.id_loss} should give margins from 0 to below "
                f"{own.margin_below:.3g}{unit}. Received: {getattr(settings, name)}"
            )


def _check_loss_constants(settings: Settings) -> None:
    constants = common.LOSS_CONSTANTS[settings.loss]
    unknown = [name for name in settings.constants_of_loss if name not in constants]
    if unknown and constants:
        raise UserError(
            f"--loss {settings.loss} has no constant {unknown[0]}. Received: --loss_constants "
            f"{settings.loss_constants}. Give those of {', '.join(constants)} that are to differ from their defaults"
        )
    if unknown:
        losses = [name for name, constants in common.LOSS_CONSTANTS.items() if constants]
        raise UserError(
            f"--loss {settings.loss} has no constants to set. Received: --loss_constants "
            f"{settings.loss_constants}. Leave it out, or take one of {', '.join(losses)}"
        )


# Constants that cosines are held against: beyond these ends the loss is soon 0, or the same for all pairs. The others
# may be any number above 0, as their flag has it.
_CONSTANTS_OF_COSINES: dict[tuple[str, str], tuple[Callable[[float], bool], str]] = {
    ("circle", "m"): (lambda m: m < 1, "between 0 and 1"),
    ("multi_similarity", "base"): (lambda base: base <= 1, "above 0 and at most 1"),
}


def _check_ranges_of_constants(settings: Settings) -> None:
    constants = common.LOSS_CONSTANTS[settings.loss]
    given = settings.constants_of_loss
    for (loss, name), (is_good, allowed) in _CONSTANTS_OF_COSINES.items():
        if loss == settings.loss and name in given and not is_good(given[name]):
            raise UserError(
                f"--loss_constants {name} of --loss {settings.loss} should be {allowed}. Received: --loss_constants "
                f"{settings.loss_constants}. Leave it out for {constants[name]:g}"
            )


def _check_crops(settings: Settings) -> None:
    sizes = zip(("height", "width"), settings.net_size, settings.pre_crop_size, strict=True)
    for side, net, pre_crop in sizes:
        if settings.crop_augment and net > pre_crop:
            raise UserError(
                f"--net_input_{side} {net} is more than --pre_crop_{side} {pre_crop}, from which "
                f"--crop_augment takes its crops. Give a --pre_crop_{side} of at least {net}, or "
                "no --crop_augment"
            )
    ways = [
        f"--{name}" if value is True else f"--{name} {value}"
        for name in ("pad_crop", "random_resized_crop", "crop_augment")
        if (value := getattr(settings, name))
    ]
    if len(ways) > 1:
        raise UserError(
            f"{ways[0]} and {ways[1]} are two ways to take random crops. Give one of them"
        )
    if settings.pad_crop >= min(settings.net_size):
        raise UserError(
            f"--pad_crop should be less than the sides of the input, {settings.net_input_height} "
            f"by {settings.net_input_width} pixels: crops would be empty. Received: "
            f"{settings.pad_crop}"
        )


def _check_flips(settings: Settings) -> None:
    if not settings.flip_makes_new_pid:
        return
    if settings.flip_augment:
        raise UserError(
            "--flip_makes_new_pid says that a mirrored image shows another identity, and --flip_augment that it shows "
            "the same. Give one of them"
        )
    if settings.val_views == "flip":
        raise UserError(
            "--val_views flip takes the mean of an image and its mirror image, which with --flip_makes_new_pid are two "
            "identities. Leave out one of the two"
        )


def check_architecture(architecture: Architecture) -> None:
    """Raises: UserError for a pooling, a last_stride or cameras that the net does not have."""
    of_options = {"class_token": "pooling", "cameras": "camera_embeddings"}
    for option in flags.net_options(architecture):
        name = of_options.get(option, option)
        _check_option_of_net(option, name, getattr(architecture, name), architecture.model_name)


def _check_option_of_net(option: str, name: str, value: Any, net: str) -> None:
    """Raises: UserError, if a net's build lacks the parameter that a flag asks for."""
    if option in common.build_options("nets", net):
        return
    nets = [
        other
        for other in common.plugin_names("nets")
        if option in common.build_options("nets", other)
    ]
    raise UserError(
        f"--{name} {value} is not for --model_name {net}. Nets that have it: {', '.join(nets)}"
    )


def _check_cameras(settings: Settings) -> None:
    if settings.camera_embeddings and not settings.cameras:
        raise UserError(
            f"--camera_embeddings {settings.camera_embeddings:g} needs --cameras, which says which camera an image is "
            "of, such as market1501 or column"
        )
    names = settings.camera_names or []
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"--camera_names should name each camera once. Received twice: {twice[0]}")


def _check_only_with(settings: Settings) -> None:
    """A flag that has no effect is an error: whoever gave it expects one."""
    for field in flags.rows():
        only_with = field.metadata["only_with"]
        # What old experiments have without having been given it is as good as the default.
        unset = flags.default(field.name), field.metadata["before"]
        if only_with is None or getattr(settings, field.name) in unset:
            continue
        value = getattr(settings, only_with.name)
        if not _allows(only_with, value):
            wanted = f"--{only_with.name} {' or '.join(only_with.values) or 'above 0'}"
            raise UserError(
                f"--{field.name} is for {wanted}. Received: {value}. Leave it out, or give another "
                f"--{only_with.name}"
            )


def _allows(only_with: flags.OnlyWith, value: Any) -> bool:
    return value in only_with.values if only_with.values else value > 0


def _check_optimization(settings: Settings) -> None:
    if settings.lr_schedule == "multistep" and settings.lr_milestones is None:
        raise UserError("--lr_schedule multistep needs --lr_milestones, such as 4000,7000")
    start, end = settings.decay_start_iteration, settings.decay_to
    if end is not None and not 0 <= start < end:
        raise UserError(
            "--decay_to needs a --decay_start_iteration from 0 to below it, from which the learning "
            f"rate falls. Received: --decay_start_iteration {start} --decay_to {end}"
        )
    if "classifier" in settings.factors_of_parts and not settings.id_loss_weight:
        raise UserError(
            "--lr_factors has a factor for classifier, which only --id_loss_weight above 0 adds. Received: "
            f"--lr_factors {settings.lr_factors}. Leave classifier out, or give an --id_loss_weight"
        )
    if settings.optimizer == "adamw" and not settings.weight_decay:
        raise UserError(
            "--optimizer adamw needs a --weight_decay above 0, such as 0.01; without it is adam"
        )
    if settings.nesterov and not settings.momentum:
        raise UserError("--nesterov needs a --momentum above 0, such as 0.9")
    if settings.adam_beta1_decay and settings.adam_beta1 <= 0.5:
        raise UserError(
            f"--adam_beta1_decay lowers beta1 to 0.5. Received: --adam_beta1 {settings.adam_beta1}. Leave it out, or "
            "give a higher --adam_beta1"
        )
    if settings.adam_beta1_decay and settings.decay_start_iteration < 0:
        raise UserError(
            "--adam_beta1_decay needs a --decay_start_iteration, from which beta1 is 0.5. "
            f"Received: {settings.decay_start_iteration}"
        )


def _check_layer_decay(settings: Settings) -> None:
    net = settings.model_name
    if settings.layer_decay == 1 or "LAYERS" in common.constants("nets", net):
        return
    names = common.plugin_names("nets")
    nets = [name for name in names if "LAYERS" in common.constants("nets", name)]
    raise UserError(
        f"--layer_decay is not for --model_name {net}, which does not say what its layers are. Received: "
        f"{settings.layer_decay}. Nets that do: {', '.join(nets)}"
    )


def _check_validation(settings: Settings) -> None:
    given = {
        field.name
        for field in flags.rows()
        if field.metadata["group"] == "validation"
        and getattr(settings, field.name) != flags.default(field.name)
    }
    if given and not given & {"val_pids", "val_query", "val_gallery"}:
        raise UserError(
            f"--{min(given)} has no effect without a validation. Add --val_pids, or --val_query and "
            "--val_gallery, or leave it out"
        )
    others = sorted(given & {"val_query", "val_gallery", "val_image_root"})
    if "val_pids" in given and others:
        raise UserError(
            "--val_pids takes images of the training set, so others are not used. Received: "
            f"--val_pids and --{', --'.join(others)}. Give one way to validate"
        )
    if settings.val_distractors and "val_pids" not in given:
        raise UserError(
            "--val_distractors adds images of the training set to those of --val_pids. Received: --val_distractors "
            f"{settings.val_distractors} beside --val_query and --val_gallery. Leave it out, or take --val_pids"
        )
    if settings.val_beyond_chance and not settings.val_start:
        raise UserError(
            "--val_beyond_chance compares with a validation before the first iteration. Add --val_start, or leave it "
            "out"
        )
    if settings.val_beyond_chance and settings.val_metric != "mAP":
        raise UserError(
            f"--val_beyond_chance compares the AP of pids. Received: --val_metric {settings.val_metric}. Leave out one "
            "of the two"
        )
    needed = ("val_query", "val_gallery", "val_excluder")
    missing = [name for name in needed if name not in given]
    if given and "val_pids" not in given and missing:
        raise UserError(
            f"--val_query and --val_gallery need each other and a --val_excluder, which says what does "
            f"not count for a query. Missing: --{', --'.join(missing)}"
        )


def _check_frozen(settings: Settings) -> None:
    if settings.bn_frozen and settings.no_sync_batch_norm:
        raise UserError(
            "--no_sync_batch_norm has no effect beside --bn_frozen, which takes no statistics of images. Leave out one "
            "of the two"
        )


def doubtful(settings: Settings) -> list[str]:
    """One line for each thing that is allowed, but probably not meant."""
    return [*unreached(settings), *enlarged(settings), *whole(settings)]


def unreached(settings: Settings) -> list[str]:
    """One line for each plan that is for an iteration which the training does not reach."""
    end = settings.train_iterations
    plans = {}
    if settings.lr_schedule in ("exponential", "cosine"):
        plans["decay_start_iteration"] = settings.decay_start_iteration
    if settings.lr_schedule == "multistep":
        plans["lr_milestones"] = settings.milestones[0]
    lines = [
        f"--{name} {at} is not before --train_iterations {end}: the learning rate never decays. "
        f"Give one below {end}, or --lr_schedule constant if that is meant."
        for name, at in plans.items()
        if at >= end
    ]
    beta1_from = settings.decay_start_iteration
    if settings.adam_beta1_decay and beta1_from >= end:
        lines.append(
            f"--adam_beta1_decay has no effect: --decay_start_iteration {beta1_from} is not before --train_iterations "
            f"{end}. Give one below {end}, or leave it out."
        )
    if settings.memory_batches and settings.memory_start >= end:
        lines.append(
            f"The memory is never used: --memory_start {settings.memory_start} should be below {end}."
        )
    if settings.warmup_iterations >= end:
        lines.append(
            f"The warm-up never ends: --warmup_iterations {settings.warmup_iterations} should be "
            f"below {end}."
        )
    return lines


def whole(settings: Settings) -> list[str]:
    """A line where random parts of images are always the whole image, whatever their shape may be."""
    if settings.random_resized_crop != 1:
        return []
    return [
        "--random_resized_crop 1 takes the whole of each image, and --crop_aspect has no effect then. Give the least "
        "area of a part, such as 0.16, or leave both out."
    ]


def enlarged(settings: Settings) -> list[str]:
    """A line where images on disk have less than what is made of them."""
    if settings.cache != "resized" or not settings.random_resized_crop:
        return []
    height, width = settings.net_size
    return [
        f"--cache resized keeps images of {height}x{width} pixels, and --random_resized_crop enlarges parts of these: "
        "they are less sharp than without the cache. Give --cache decoded, unless that is meant."
    ]
