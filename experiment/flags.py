"""The flags of a training, in one table: every field of Settings.

From it come the parser of train.py, the checks of args.json and docs/flags.md
(`python -m experiment.flags` prints that page).
"""

import argparse
import dataclasses
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import common
from data import cameras, samplers
from experiment import id_losses

T = TypeVar("T")

# Headings of --help, in their order, each with a sentence or None.
GROUPS = {
    "experiment": None,
    "devices": None,
    "data": None,
    "model": None,
    "loss": None,
    "losses of identities": "They are added to --loss. What they train is not exported.",
    "optimization": None,
    "validation": "Evaluate while training, on images that are not trained on: of identities that are "
    "held out (--val_pids), or of other CSVs (--val_query, --val_gallery).",
}


# What --resume takes from the command line, too: how long, how often, and on which devices.
CHANGED_BY_RESUMING = (
    "train_iterations",
    "decay_to",
    "checkpoint_frequency",
    "keep_checkpoints",
    "log_frequency",
    "histogram_frequency",
    "image_frequency",
    "loading_threads",
    "cache",
    "cache_dir",
    "strategy",
    "val_frequency",
    "early_stop",
    "report_to",
)

# What --lr_factors can name.
LR_PARTS = ("net", "head", "classifier", "bias")

# What --initial_checkpoint can name beside files: what Keras has, and repositories of Hugging Face.
OF_KERAS = "imagenet"
OF_HUB = "hf:"

# Packages that a training can be followed in.
TRACKERS = ("none", "wandb", "mlflow")

# What a validation measures, by the names that evaluate.py has for them.
VALIDATION_FIGURES = ("mAP", "top-1", "top-5", "top-10", "mINP", "MAP@R", "R-precision")

EXIT_CODES = (
    "Exit codes: 0, the training is finished, or ended by --early_stop; 128 + the signal's number, "
    "it was interrupted and is saved (Ctrl-C: 130, SIGTERM: 143, where the system has them SIGHUP: "
    "129 and SIGUSR1: 138); 1, an error; 2, an error in the flags."
)


class OneOrSeveral(argparse.Action):
    """A flag that takes several values: one alone stays itself, as args.json has it."""

    def __call__(self, parser, namespace, values, option_string=None):  # noqa: ARG002, argparse's
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


class OnlyWith(NamedTuple):
    """What another flag has to be for a flag to have an effect."""

    name: str
    values: tuple[str, ...] = ()  # none: any value above 0


def _flag(group: str, help: str, only_with: OnlyWith | None = None, **options) -> Any:
    """One row of the table: a dataclass field that knows how to be a flag.

    Args:
        group: one of GROUPS.
        only_with: the flag has no effect otherwise, and it is an error to give it.
        options: those of argparse.add_argument. Without a `default` it is None. `before` is the
            value for an args.json that lacks the flag, the original's behavior, where that is not
            the default of a new experiment.
    """
    options |= {"help": help}
    options.setdefault("default", False if options.get("action") == "store_true" else None)
    before = options.pop("before", options["default"])
    metadata = {"group": group, "only_with": only_with, "options": options, "before": before}
    default = dataclasses.MISSING if options.get("required") else options["default"]
    return dataclasses.field(default=default, metadata=metadata)


def _switch(group: str, help: str, only_with: OnlyWith | None = None) -> Any:
    """A flag without a value."""
    return _flag(group, help, only_with, action="store_true")


def _shared(group: str, name: str, **changes) -> Any:
    """A flag that other commands have, too; common.py declares it. changes: as of _flag."""
    return _flag(group, **common.shared_flag(name), **changes)


def _pixels(help: str, default: int) -> Any:
    kind = common.integer(1, most=16384)
    return _flag("model", help, type=kind, metavar="PIXELS", default=default)


# ------------------------------------------------------------------------- types of flags

_fraction = common.number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")
_below_one = common.number(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
_non_negative_float = common.real(lambda x: 0 <= x < math.inf, "a finite number of at least 0")


def _pids_to_hold_out(text: str) -> int | float:
    """A number of pids, or a share of them."""
    try:
        value = int(text)
        good = value >= 2
    except ValueError:
        value = common.number(float, lambda x: 0 < x < 1, _NUMBER_OR_SHARE)(text)
        good = True
    if not good:
        raise argparse.ArgumentTypeError(f"should be {_NUMBER_OR_SHARE}. Received: {text}")
    return value


_NUMBER_OR_SHARE = "an integer of at least 2, or a share between 0 and 1"


def _milestones(text: str) -> str:
    """The text itself, as it stands in args.json."""
    parts = text.split(",")
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit()]
    if len(numbers) < len(parts) or [0, *numbers] != sorted({0, *numbers}):
        raise argparse.ArgumentTypeError(
            f"should be rising iterations such as 4000,7000. Received: {text}"
        )
    return text


def _margin_by_count(text: str) -> str:
    """The text itself, as it stands in args.json."""
    try:
        id_losses.MarginByCount.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "should be A,POWER,LEAST: two numbers above 0 and one of at least 0, such as "
            f"0.5,0.25,0.05. Received: {text}"
        ) from None
    return text


def named_numbers(text: str | None) -> dict[str, float]:
    """What NAME=X,NAME=X,... says; an empty dict for None.

    Raises:
        ValueError: it is no such text, a name stands there twice, or a number is not above 0.
    """
    pairs = [part.split("=") for part in (text or "").split(",") if text is not None]
    if any(len(pair) != 2 or not pair[0] for pair in pairs):
        raise ValueError(text)
    values = {name: float(number) for name, number in pairs}
    if len(values) < len(pairs) or not all(0 < x < 3.4e38 for x in values.values()):
        raise ValueError(text)
    return values


def _loss_constants(text: str) -> str:
    """The text itself, as it stands in args.json. rules.py checks the names."""
    try:
        named_numbers(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "should be NAME=NUMBER,NAME=NUMBER,..., each name once and numbers above 0, such as "
            f"gamma=64,m=0.25. Received: {text}"
        ) from None
    return text


def _lr_factors(text: str) -> str:
    """The text itself, as it stands in args.json."""
    try:
        unknown = named_numbers(text).keys() - set(LR_PARTS)
    except ValueError:
        unknown = {text}
    if unknown:
        raise argparse.ArgumentTypeError(
            f"should be numbers above 0 for parts of {', '.join(LR_PARTS)}, each once, such as head=10,bias=2. "
            f"Received: {text}"
        )
    return text


def _margin(text: str) -> float | str:
    if text in ("soft", "none"):
        return text
    return common.real(math.isfinite, '"soft", "none" or a finite number')(text)


def _constants(name: str) -> str:
    """A constant of each loss of identities that has it, in words."""
    values = {loss: getattr(each, name) for loss, each in id_losses.ID_LOSSES.items()}
    parts = [f"{value:g} with {loss}" for loss, value in values.items() if value is not None]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _defaults_of_constants() -> str:
    """The constants of all losses and their defaults, in words."""
    return "; ".join(
        f"{loss} has {', '.join(f'{name} {value:g}' for name, value in constants.items())}"
        for loss, constants in common.LOSS_CONSTANTS.items()
        if constants
    )


# ------------------------------------------------------------------------- the table


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The flags without which a checkpoint cannot be used."""

    model_name: str = _flag(
        "model",
        f"The net, one of: {', '.join(common.plugin_names('nets'))}.",
        type=common.plugin_name("nets"),
        metavar="NET",
        default="resnet_v1_50",
    )
    head_name: str = _flag(
        "model",
        f"The head, one of: {', '.join(common.plugin_names('heads'))}.",
        type=common.plugin_name("heads"),
        metavar="HEAD",
        default="fc1024",
    )
    pooling: str = _flag(
        "model",
        "How the net's last map becomes features: by its mean (avg), or by a generalized mean "
        "whose power is learned, starting at 3 (gem). token takes the class token of a vision transformer instead; "
        "avg is the mean of its patch tokens.",
        choices=("avg", "gem", "token"),
        default="avg",
    )
    last_stride: int = _flag(
        "model",
        "Stride of the net's last stage. With 1 the stage keeps the resolution, so that the last "
        "map is twice as high and wide.",
        type=int,
        choices=(1, 2),
        default=2,
    )
    embedding_dim: int = _flag(
        "model",
        "Dimension of the embeddings.",
        type=common.integer(1, most=1_000_000),
        metavar="D",
        default=128,
    )
    net_input_height: int = _pixels("Height of the network's input.", 256)
    net_input_width: int = _pixels("Width of the network's input.", 128)
    pre_crop_height: int = _pixels("Height that --crop_augment takes its crops from.", 288)
    pre_crop_width: int = _pixels("Width that --crop_augment takes its crops from.", 144)

    @property
    def upright(self) -> bool:
        """Whether images are turned as EXIF says; not for a checkpoint without args.json."""
        return False

    @property
    def reduced(self) -> bool:
        """Whether large JPEGs are decoded smaller; not for a checkpoint without args.json."""
        return False

    @property
    def camera_rule(self) -> str | None:
        """How the cameras that the network is told are read: --cameras. None: it is told none, as for a checkpoint
        without args.json.
        """
        return None

    @property
    def camera_numbers(self) -> dict[str, int]:
        """The number of each camera that has an embedding, by name."""
        return {}

    @property
    def net_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return self.net_input_height, self.net_input_width

    @property
    def pre_crop_size(self) -> tuple[int, int]:
        """Height and width that crops are taken from, in pixels."""
        return self.pre_crop_height, self.pre_crop_width


@dataclass(frozen=True, kw_only=True)
class Settings(Architecture):
    """All flags of a training. train.py makes them once, after all checks; they do not change.

    In a test or a benchmark: Settings(experiment_root="exp", loss="lifted").

    train.py sees to it that a training has a train_set, an image_root and a seed; where an
    experiment is only embedded, args.json may lack them. Use `known` where they have to be there.
    """

    experiment_root: str = _shared("experiment", "experiment_root")
    checkpoint_frequency: int = _flag(
        "experiment",
        "Iterations between checkpoints. 0 writes only the first and the final one.",
        type=common.non_negative_int,
        metavar="N",
        default=1000,
    )
    keep_checkpoints: int = _flag(
        "experiment",
        "Number of newest checkpoints to keep. 0 keeps all.",
        type=common.non_negative_int,
        metavar="N",
        default=0,
    )
    log_frequency: int = _flag(
        "experiment",
        "Iterations between lines in train.log and between scalars in TensorBoard. With "
        "--detailed_logs every iteration is logged.",
        type=common.positive_int,
        metavar="N",
        default=1,
    )
    histogram_frequency: int = _flag(
        "experiment",
        "Iterations between histograms in TensorBoard. The first iteration always has them; 0 "
        "writes no others.",
        type=common.non_negative_int,
        metavar="N",
        default=50,
    )
    image_frequency: int = _flag(
        "experiment",
        "Iterations between pictures of the batch's hardest triplets in TensorBoard. The first "
        "iteration always has them, and a picture of the network's input. 0 writes no pictures.",
        type=common.non_negative_int,
        metavar="N",
        default=500,
    )
    report_to: str | list[str] = _flag(
        "experiment",
        "Trackers that are told flags, scalars, pictures and where checkpoints are: wandb, mlflow or both. They work "
        "offline, in the experiment, unless WANDB_MODE, WANDB_BASE_URL or MLFLOW_TRACKING_URI says otherwise.",
        nargs="+",
        action=OneOrSeveral,
        choices=TRACKERS,
        default="none",
    )
    detailed_logs: bool = _switch(
        "experiment",
        "Keep the embeddings, losses and file ids of every iteration in memory-mapped files.",
    )
    seed: int | None = _flag(
        "experiment",
        "Seed of initial weights, batches and augmentation. If it is not given, it is drawn and "
        "recorded in args.json.",
        type=common.number(int, lambda n: 0 <= n < 2**32, "an integer from 0 to 4294967295"),
        metavar="N",
    )
    deterministic: bool = _switch(
        "experiment",
        "On a GPU, use only operations that give the same bits every time. A CPU does so anyway, "
        "and was a tenth slower with this flag.",
    )
    strategy: str = _shared("devices", "strategy")
    mining: str = _flag(
        "devices",
        "Where each device looks for the positives and negatives of its images: in the whole "
        "batch, which gives the result of one device (global), or in its own part of it (local).",
        choices=("global", "local"),
        default="global",
    )
    no_sync_batch_norm: bool = _switch(
        "devices",
        "Let each device normalize with the statistics of its own part of the batch. Devices "
        "exchange fewer messages; the result differs from that of one device.",
    )
    precision: str = _flag(
        "devices",
        "Precision of the network's activations. Weights, embeddings, distances and losses stay "
        "float32. 16 bits take half the memory, and less time where the processor has operations "
        "for them.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        default="float32",
    )
    chunk: int = _flag(
        "devices",
        "Send the images of each device through the network N at a time, for batches that do not "
        "fit into memory. The loss still compares all images of the batch. It takes about a third "
        "more time. 0 sends them through in one piece.",
        type=common.non_negative_int,
        metavar="N",
        default=0,
    )
    remat: bool = _switch(
        "devices",
        "Keep few of the network's activations and compute the others again for the gradients, one "
        "part of the network after the other, for batches that do not fit into memory. It takes "
        "about a third more time. Unlike --chunk, it changes no number but for rounding.",
    )
    jit_compile: bool = _switch(
        "devices",
        "Compile the iteration with XLA. This is faster on some GPUs and much slower on CPUs. It "
        "works on one device only.",
    )
    train_set: str | list[str] | None = _flag(
        "data",
        "CSV or Parquet file of the training images: pid,fid in each line, or a header with these "
        "and more columns; where it has a column split, its rows of train. Several files are one "
        "set, in which pids of different files are different. Needed unless resuming.",
        type=common.readable_file,
        nargs="+",
        action=OneOrSeveral,
        metavar="CSV",
    )
    image_root: str | list[str] | None = _flag(
        "data",
        "Directory that the file ids of the CSV are relative to: one, or one for each --train_set. "
        "Needed unless resuming.",
        type=common.readable_directory,
        nargs="+",
        action=OneOrSeveral,
        metavar="DIR",
    )
    join_pids: bool = _switch("data", "A pid in several files of --train_set is one identity.")
    set_weights: list[float] | None = _flag(
        "data",
        "For several files of --train_set, a number each: every batch has its share of pids from "
        "each file, and each file has its own epochs. Without this flag, an epoch is all pids of "
        "all files.",
        type=common.positive_float,
        nargs="+",
        metavar="W",
    )
    same_group_batches: bool = _switch(
        "data",
        "Make each batch from one group, as the CSV's column group has it: its negatives are "
        "harder. Groups with fewer than P pids are left out.",
    )
    no_file_check: bool = _shared("data", "no_file_check")
    orientation: str = _shared("data", "orientation", before="stored")
    decode_scale: str = _flag(
        "data",
        "Decode JPEGs that are much larger than needed at a half, a quarter or an eighth of their "
        "size (auto), in less time, or at their size (full). Nothing is enlarged that would not be "
        "anyway. Images come out slightly different, with less aliasing.",
        choices=("full", "auto"),
        default="full",
    )
    sampler: str = _flag(
        "data",
        "Which images make a batch: --batch_k of each of --batch_p pids (pk); --batch_size of all "
        "images, in epochs that see each image once (shuffle); or --batch_size times any pid, with "
        "equal probability, and an image of it (balanced). Only pk gives each image another of its "
        "pid in the batch; the others are for losses of identities.",
        choices=samplers.SAMPLERS,
        default="pk",
    )
    batch_size: int = _flag(
        "data",
        "Number of images in a batch, at least 2.",
        only_with=OnlyWith("sampler", ("shuffle", "balanced")),
        type=common.integer(2, most=10_000_000),
        metavar="B",
        default=128,
    )
    batch_p: int = _flag(
        "data",
        "Number of pids in a batch, at least 2.",
        only_with=OnlyWith("sampler", ("pk",)),
        type=common.integer(1, most=1_000_000),
        metavar="P",
        default=32,
    )
    batch_k: int = _flag(
        "data",
        "Number of images of each pid in a batch, at least 2.",
        only_with=OnlyWith("sampler", ("pk",)),
        type=common.integer(1, most=10_000),
        metavar="K",
        default=4,
    )
    cameras: str | None = _flag(
        "data",
        "Draw the K images of a pid from as many cameras as possible. The camera is that of the "
        f"CSV's column camera ({cameras.COLUMN}), or it is read from the file id, by one of "
        f"{', '.join(cameras.PATTERNS)}, or by a regular expression whose one group is the camera. "
        "Without this flag, cameras play no part.",
        type=cameras.rule,
        metavar="RULE",
    )
    flip_augment: bool = _switch("data", "Mirror half of the images, at random.")
    flip_makes_new_pid: bool = _switch(
        "data",
        "Add a mirrored copy of every image to the training set, as an image of another identity: "
        "there are twice as many then. This is for animals whose left and right flanks differ, where "
        "--flip_augment would call them the same.",
    )
    crop_augment: bool = _switch(
        "data", "Resize to the pre_crop size and take a random crop of the net_input size."
    )
    pad_crop: int = _flag(
        "data",
        "Instead of --crop_augment: resize to the net_input size, pad with this number of black "
        "pixels on each side, and take a random crop of the net_input size. 0 takes no such crop.",
        type=common.non_negative_int,
        metavar="PIXELS",
        default=0,
    )
    random_resized_crop: float = _flag(
        "data",
        "Instead of --crop_augment: take a random part of the image, AREA to all of its area, and "
        "resize it to the net_input size. 0 takes no such crop.",
        type=_fraction,
        metavar="AREA",
        default=0.0,
    )
    crop_aspect: float = _flag(
        "data",
        "The shape (height by width) of a --random_resized_crop is between 1/FACTOR and FACTOR times "
        "that of the image.",
        only_with=OnlyWith("random_resized_crop"),
        type=common.number(float, lambda x: 1 <= x <= 10, "a number from 1 to 10"),
        metavar="FACTOR",
        default=1.33,
    )
    rotation: float = _flag(
        "data",
        "Rotate each image by a random angle, up to DEGREES in either direction; what comes into it "
        "at the corners is black. 0 rotates nothing.",
        type=common.number(float, lambda x: 0 <= x <= 180, "a number from 0 to 180"),
        metavar="DEGREES",
        default=0.0,
    )
    trivial_augment: float = _flag(
        "data",
        "Probability that an image is changed by TrivialAugment: by one of 14 operations on its "
        "geometry and colors, of any strength. The paper has 1. 0 changes nothing.",
        type=_fraction,
        metavar="PROBABILITY",
        default=0.0,
    )
    gray: float = _flag(
        "data",
        "Probability that an image loses its colors. 0 leaves them.",
        type=_fraction,
        metavar="PROBABILITY",
        default=0.0,
    )
    blur: float = _flag(
        "data",
        "Probability that an image is blurred, by a Gaussian whose standard deviation is 0.1 to 2 "
        "pixels where the longer side of the input is 224, and more or less in proportion. 0 blurs "
        "nothing.",
        type=_fraction,
        metavar="PROBABILITY",
        default=0.0,
    )
    color_jitter: float = _flag(
        "data",
        "Multiply brightness, contrast and saturation by random factors from 1 - STRENGTH to "
        "1 + STRENGTH. 0 changes nothing.",
        type=_fraction,
        metavar="STRENGTH",
        default=0.0,
    )
    random_erasing: float = _flag(
        "data",
        "Probability that a random rectangle of an image, 0.02 to 0.4 of its area, is filled with "
        "the mean color of ImageNet. 0 erases nothing.",
        type=_fraction,
        metavar="PROBABILITY",
        default=0.0,
    )
    loading_threads: int = _shared("data", "loading_threads")
    cache: str = _flag(
        "data",
        "What to hold in memory from the start on: nothing, the bytes of all image files "
        "(encoded), or all decoded images, height x width x 3 bytes each (decoded; Market-1501: "
        "320 MB). It does not change any result. Or what to keep on disk, in --cache_dir: all images "
        "as they are resized, rounded to whole gray levels (resized); --random_resized_crop then takes "
        "its parts from these.",
        choices=("none", "encoded", "decoded", "resized"),
        default="none",
    )
    cache_dir: str | None = _flag(
        "data",
        "Directory for the file of --cache resized: images x height x width x 3 bytes, at the "
        "pre_crop size with --crop_augment, else at the net_input size. Trainings of one "
        "data set and one size share it, and images whose files have changed are written anew.",
        only_with=OnlyWith("cache", ("resized",)),
        metavar="DIR",
    )
    on_bad_image: str = _flag(
        "data",
        "What to do with images that cannot be decoded: end with the name of the first (error), "
        "or look at all images before the training and leave such out (skip). A file that cannot be "
        "read is no such image: it is tried again for about a minute, and then ends the training.",
        choices=("error", "skip"),
        default="error",
    )
    allow_any_path: bool = _shared("data", "allow_any_path")
    initial_checkpoint: str | None = _flag(
        "model",
        "Pretrained weights of the net, not of the head: a TF-slim checkpoint, an experiment or a "
        "checkpoint of one (also EXPERIMENT/checkpoint-best), a weights file of Keras, a "
        ".safetensors file of PyTorch or export.py, hf:owner/name[@revision][:file] of Hugging Face, or the word "
        "imagenet for nets that Keras has weights for.",
        metavar="CHECKPOINT",
    )
    drop_path: float = _flag(
        "model",
        "Probability that a block of the net is passed over for an image in training (stochastic depth). It rises "
        "evenly from 0 for the first block to this for the last. It is for ConvNeXt and vision transformers of "
        "PyTorch. 0 passes over none.",
        type=_below_one,
        metavar="PROBABILITY",
        default=0.0,
    )
    camera_embeddings: float = _flag(
        "model",
        "Add a learned vector of the image's camera, times FACTOR, to all tokens of a vision transformer: SIE of "
        "TransReID, where FACTOR is 3. --cameras says which camera an image is of. 0 adds none.",
        type=_non_negative_float,
        metavar="FACTOR",
        default=0.0,
    )
    camera_names: list[str] | None = _flag(
        "model",
        "The cameras that have such a vector. If it is not given, they are those of the training set, and recorded in "
        "args.json.",
        only_with=OnlyWith("camera_embeddings"),
        nargs="+",
        metavar="CAMERA",
    )
    loss: str = _flag(
        "loss", "The loss, one of those in loss.py.", choices=common.LOSSES, default="batch_hard"
    )
    loss_weight: float = _flag(
        "loss",
        "Weight of --loss. With 0 only losses of identities train the network, and this one is only "
        "logged.",
        type=_non_negative_float,
        metavar="W",
        default=1.0,
    )
    margin: float | str = _flag(
        "loss",
        "How the difference x of two distances becomes a loss. A number m gives max(0, m + x), "
        "soft gives log(1 + exp(x)), none gives x. The losses "
        f"{', '.join(common.EMBEDDING_LOSSES)} have --loss_constants instead.",
        type=_margin,
        default="soft",
    )
    loss_constants: str | None = _flag(
        "loss",
        "Constants of the loss, such as gamma=32,m=0.4. Those that are not given have their "
        f"defaults: {_defaults_of_constants()}.",
        type=_loss_constants,
        metavar="NAME=X,...",
    )
    loss_ignore_zero: bool = _switch(
        "loss",
        "Take the mean over the terms that are not 0. This is for "
        f"{' and '.join(common.LOSSES_WITHOUT_ZEROS)}, with a number as margin.",
    )
    memory_batches: int = _flag(
        "loss",
        "Also compare each image with the embeddings of the last N batches, as they were then: many "
        "more negatives for little time. Each takes P x K x D numbers in memory and in checkpoints, or with another "
        "--sampler than pk --batch_size x D. 0 keeps none.",
        type=common.integer(0, most=1_000_000),
        metavar="N",
        default=0,
    )
    memory_start: int = _flag(
        "loss",
        "Iteration from which they are compared with: embeddings change fast at first.",
        only_with=OnlyWith("memory_batches"),
        type=common.non_negative_int,
        metavar="N",
        default=1000,
    )
    metric: str = _flag(
        "loss",
        "How distances of embeddings are measured.",
        choices=common.METRICS,
        default="euclidean",
    )
    id_loss_weight: float = _flag(
        "losses of identities",
        "Weight of --id_loss. 0 leaves it out. The bag of tricks has 1.",
        type=_non_negative_float,
        metavar="W",
        default=0.0,
    )
    id_loss: str = _flag(
        "losses of identities",
        "The loss over the pids of the training set: the cross-entropy of a linear classifier "
        "(softmax); or of cosines with a center of each pid, with a margin in the cosine (cosface), "
        "in the angle (arcface), or by the circle loss (circle); or the proxy anchor loss of such "
        "centers (proxy_anchor), whose learning rate is 100 times as high, as in its paper, unless "
        "--lr_factors has another for classifier.",
        only_with=OnlyWith("id_loss_weight"),
        choices=tuple(id_losses.ID_LOSSES),
        default="softmax",
    )
    id_scale: float | None = _flag(
        "losses of identities",
        f"What --id_loss multiplies cosines by. If it is not given, it is {_constants('scale')}.",
        only_with=OnlyWith("id_loss", id_losses.WITH_COSINES),
        type=common.number(float, lambda x: 0 < x <= 1e4, "a number above 0, at most 10000"),
        metavar="S",
    )
    id_margin: float | None = _flag(
        "losses of identities",
        "Margin of --id_loss: a cosine, or an angle in radians with arcface. If it is not given, it "
        f"is {_constants('margin')}.",
        only_with=OnlyWith("id_loss", id_losses.WITH_COSINES),
        type=_non_negative_float,
        metavar="M",
    )
    id_margin_by_count: str | None = _flag(
        "losses of identities",
        "In place of --id_margin, a margin that is smaller for pids with more images: "
        "A x n^-POWER + LEAST for n images, such as 0.5,0.25,0.05.",
        only_with=OnlyWith("id_loss", id_losses.WITH_MARGIN_BY_COUNT),
        type=_margin_by_count,
        metavar="A,POWER,LEAST",
    )
    id_centers: int = _flag(
        "losses of identities",
        "Number of centers of each pid, of which the nearest counts. More than one is for pids "
        "whose images look different from each other, or are partly wrong.",
        only_with=OnlyWith("id_loss", id_losses.WITH_SUB_CENTERS),
        type=common.integer(1, most=100),
        metavar="N",
        default=1,
    )
    label_smoothing: float | None = _flag(
        "losses of identities",
        "Part of the probability that --id_loss should spread over all pids. If it is not given, it "
        "is 0.1 with softmax and 0 with the others.",
        only_with=OnlyWith("id_loss_weight"),
        type=_below_one,
        metavar="E",
        before=0.1,
    )
    center_loss_weight: float = _flag(
        "losses of identities",
        "Weight of the squared distance to the center of the pid's embeddings. 0 leaves it out. "
        "The bag of tricks has 0.0005.",
        type=_non_negative_float,
        metavar="W",
        default=0.0,
    )
    optimizer: str = _flag(
        "optimization",
        "The optimizer. adamw is adam with --weight_decay. Each wants a --learning_rate of its "
        "own.",
        choices=("adam", "adamw", "sgd", "rmsprop", "adadelta"),
        default="adam",
    )
    learning_rate: float = _flag(
        "optimization",
        "Learning rate after the warm-up and before the decay.",
        type=common.positive_float,
        metavar="RATE",
        default=3e-4,
    )
    train_iterations: int = _flag(
        "optimization",
        "Number of iterations after which training ends.",
        type=common.number(int, lambda n: 1 <= n < 2**31, "an integer from 1 to 2147483647"),
        metavar="N",
        default=25000,
    )
    lr_schedule: str = _flag(
        "optimization",
        "How the learning rate falls. exponential and cosine fall from --decay_start_iteration to "
        "--decay_to, to a thousandth and to 0; multistep falls at --lr_milestones.",
        choices=("exponential", "cosine", "multistep", "constant"),
        default="exponential",
    )
    decay_start_iteration: int = _flag(
        "optimization",
        "Iteration from which the learning rate falls. -1 means no decay. The schedules multistep "
        "and constant do not use it.",
        type=common.number(int, lambda n: -1 <= n < 2**63, "-1 or an integer of at least 0"),
        metavar="N",
        default=15000,
    )
    decay_to: int | None = _flag(
        "optimization",
        "Iteration at which the decay ends; the learning rate stays there after it. If it is not "
        "given, it is --train_iterations. Beside --resume --train_iterations it keeps the curve of "
        "the training so far.",
        only_with=OnlyWith("lr_schedule", ("exponential", "cosine")),
        type=common.number(int, lambda n: 1 <= n < 2**31, "an integer from 1 to 2147483647"),
        metavar="N",
    )
    lr_milestones: str | None = _flag(
        "optimization",
        "Iterations at which the multistep schedule multiplies the learning rate by "
        "--lr_decay_factor.",
        only_with=OnlyWith("lr_schedule", ("multistep",)),
        type=_milestones,
        metavar="N,N,...",
    )
    lr_decay_factor: float = _flag(
        "optimization",
        "Factor of the multistep schedule.",
        only_with=OnlyWith("lr_schedule", ("multistep",)),
        type=common.number(float, lambda x: 0 < x < 1, "a number between 0 and 1"),
        metavar="X",
        default=0.1,
    )
    lr_factors: str | None = _flag(
        "optimization",
        "Factors of the learning rate for parts of the weights, such as head=10,bias=2. net and "
        "head are the net and all that is new: the head, classifiers. classifier is what the losses "
        "train beside the network, where that is not to have the factor of head. bias is for biases "
        "of all layers, those of norms included, times the factor of their part.",
        type=_lr_factors,
        metavar="PART=X,...",
    )
    layer_decay: float = _flag(
        "optimization",
        "Factor of the learning rate for each layer of the net that comes after a weight's own: "
        "with 0.75 the last layer has 0.75 of the rate, the one before 0.75², and so on. Layers are "
        "the blocks of transformers, ConvNeXt and MobileNet, and the stages of other nets. 1 gives "
        "all the same rate.",
        type=common.number(float, lambda x: 0 < x <= 1, "a number above 0 and up to 1"),
        metavar="X",
        default=1.0,
    )
    warmup_iterations: int = _flag(
        "optimization",
        "Let the learning rate rise linearly over the first N iterations, from a hundredth of it. "
        "0 means no warm-up.",
        type=common.non_negative_int,
        metavar="N",
        default=0,
    )
    adam_beta1_decay: bool = _switch(
        "optimization",
        "Lower Adam's beta1 from --adam_beta1 to 0.5 at --decay_start_iteration, as in the paper but "
        "not in its code.",
        only_with=OnlyWith("optimizer", ("adam", "adamw")),
    )
    adam_beta1: float = _flag(
        "optimization",
        "Part of Adam's mean of gradients that a step leaves in place.",
        only_with=OnlyWith("optimizer", ("adam", "adamw")),
        type=_below_one,
        metavar="X",
        default=0.9,
    )
    adam_beta2: float = _flag(
        "optimization",
        "Part of Adam's mean of squared gradients that a step leaves in place.",
        only_with=OnlyWith("optimizer", ("adam", "adamw")),
        type=_below_one,
        metavar="X",
        default=0.999,
    )
    rho: float | None = _flag(
        "optimization",
        "Part of the mean of squared gradients that a step of RMSprop or Adadelta leaves in place. "
        "If it is not given, it is 0.9 for RMSprop and 0.95 for Adadelta.",
        only_with=OnlyWith("optimizer", ("rmsprop", "adadelta")),
        type=_below_one,
        metavar="X",
    )
    optimizer_epsilon: float | None = _flag(
        "optimization",
        "What keeps the optimizer from dividing by 0: Adam adds it to the root of the mean of squared "
        "gradients, RMSprop and Adadelta to the mean below the root. If it is not given, it is 1e-8 "
        "for Adam and 1e-7 for the others.",
        only_with=OnlyWith("optimizer", ("adam", "adamw", "rmsprop", "adadelta")),
        type=common.positive_float,
        metavar="X",
    )
    momentum: float = _flag(
        "optimization",
        "Momentum of SGD and RMSprop.",
        only_with=OnlyWith("optimizer", ("sgd", "rmsprop")),
        type=_below_one,
        metavar="X",
        default=0.0,
    )
    nesterov: bool = _switch(
        "optimization",
        "Use Nesterov's momentum in SGD.",
        only_with=OnlyWith("optimizer", ("sgd",)),
    )
    weight_decay: float = _flag(
        "optimization",
        "Part of each kernel that a step takes away, times its learning rate; not of biases, norms "
        "and other scales, tokens and embeddings of positions or cameras. All optimizers but adam "
        "have it.",
        only_with=OnlyWith("optimizer", ("adamw", "sgd", "rmsprop", "adadelta")),
        type=_non_negative_float,
        metavar="X",
        default=0.0,
    )
    l2: float = _flag(
        "optimization",
        "Part of every weight, those of biases, scales and classifiers included, that is added to its "
        "gradient after --clip_norm: PyTorch's weight_decay of Adam and SGD. The bag of tricks has "
        "0.0005.",
        type=_non_negative_float,
        metavar="X",
        default=0.0,
    )
    clip_norm: float = _flag(
        "optimization",
        "Scale the gradient, taken over all weights together, down to this length where it is "
        "longer. 0 never scales it.",
        type=_non_negative_float,
        metavar="X",
        default=0.0,
    )
    ema: float = _flag(
        "optimization",
        "Keep an average of the weights and of batch norm's statistics, too, which embed.py and "
        "export.py take: each iteration moves it by 1 - DECAY of the way to them, the first ones "
        "by more. With 0.999 about the last thousand iterations count. 0 keeps no average.",
        type=_below_one,
        metavar="DECAY",
        default=0.0,
    )
    freeze_body_iterations: int = _flag(
        "optimization",
        "For the first N iterations train only what has no pretrained weights: all but the net. "
        "The running statistics of its batch norms move all the same. 0 trains all from the start.",
        type=common.non_negative_int,
        metavar="N",
        default=0,
    )
    bn_frozen: bool = _switch(
        "optimization",
        "Normalize with batch norm's running statistics in training, too, and leave them as they "
        "are. This is for pretrained nets. It freezes the head's batch norm, too, which is not "
        "pretrained: with mean 0 and variance 1 it only scales and shifts.",
    )

    val_pids: int | float | None = _flag(
        "validation",
        "Hold out this number of pids, or this share of them such as 0.1, drawn by the seed: they are "
        "not trained on, but validated on. Each of their images is a query that is looked for among "
        "the others. Where --val_excluder reads cameras, one image of each pid and camera is.",
        type=_pids_to_hold_out,
        metavar="N",
    )
    val_distractors: int = _flag(
        "validation",
        "Look for the images of --val_pids among this number of images that are trained on, too, drawn by the seed; "
        "among all of these if there are fewer. A few pids are easily told from one another, but not from all others.",
        type=common.non_negative_int,
        metavar="N",
        default=0,
    )
    val_query: str | None = _flag(
        "validation",
        "CSV of the images to look for in a validation. Needs --val_gallery and --val_excluder.",
        type=common.readable_file,
        metavar="CSV",
    )
    val_gallery: str | None = _flag(
        "validation",
        "CSV of the images that --val_query is looked for in; it may be the same.",
        type=common.readable_file,
        metavar="CSV",
    )
    val_image_root: str | None = _flag(
        "validation",
        "Directory that the file ids of --val_query and --val_gallery are relative to. If it is not "
        "given, it is --image_root.",
        type=common.readable_directory,
        metavar="DIR",
    )
    val_excluder: str | None = _flag(
        "validation",
        "Which images do not count for a query, as in evaluate.py: one of "
        f"{', '.join(common.plugin_names('excluders'))}. If it is not given beside --val_pids, it is "
        "cameras with --cameras and diagonal without.",
        type=common.plugin_name("excluders"),
        metavar="EXCLUDER",
    )
    val_views: str = _flag(
        "validation",
        "Views of an image whose embeddings are averaged: itself, or its mirror image, too (flip). "
        "With --crop_augment a view is the crop at the center.",
        choices=("one", "flip"),
        default="one",
    )
    val_frequency: int = _flag(
        "validation",
        "Iterations between validations. The last iteration is always followed by one.",
        type=common.positive_int,
        metavar="N",
        default=1000,
    )
    val_start: bool = _switch(
        "validation",
        "Also validate before the first iteration, to see what the pretrained net is worth as it is. "
        "The best checkpoint is then never worse than that.",
    )
    val_beyond_chance: bool = _switch(
        "validation",
        "Only let a checkpoint be better than checkpoint-0 if chance alone would raise the mAP as much with a "
        "probability of at most 10 percent, by a randomization test over the pids of the queries. It takes at least 4 "
        "pids. Needs --val_start.",
    )
    val_metric: str = _flag(
        "validation",
        "What is best: checkpoint-best names the checkpoint for which it was highest, and "
        "--early_stop watches it.",
        choices=VALIDATION_FIGURES,
        default="mAP",
    )
    early_stop: int = _flag(
        "validation",
        "End the training when --val_metric has not risen for this number of validations. 0 never "
        "does.",
        type=common.non_negative_int,
        metavar="N",
        default=0,
    )

    @property
    def upright(self) -> bool:
        """Whether images are turned as EXIF says."""
        return self.orientation == "exif"

    @property
    def reduced(self) -> bool:
        """Whether large JPEGs are decoded smaller."""
        return self.decode_scale == "auto"

    @property
    def camera_rule(self) -> str | None:
        """How the cameras that the network is told are read: --cameras. None: it is told none."""
        return self.cameras if self.camera_embeddings else None

    @property
    def camera_numbers(self) -> dict[str, int]:
        """The number of each camera that has an embedding, by name."""
        names = self.camera_names if self.camera_embeddings else None
        return {name: number for number, name in enumerate(names or ())}

    @property
    def images_per_batch(self) -> int:
        """B: how many images are in a batch, of all devices together."""
        return self.batch_p * self.batch_k if self.sampler == "pk" else self.batch_size

    @property
    def images_per_pid(self) -> int:
        """How many images of a pid a batch is taken to have, at least 2: K, where it is P×K."""
        return self.batch_k if self.sampler == "pk" else 2

    @property
    def batch_plan(self) -> samplers.Plan:
        """How batches are made."""
        return samplers.Plan(
            self.sampler,
            P=self.batch_p,
            K=self.batch_k,
            B=self.images_per_batch,
            set_weights=self.set_weights,
            same_group=self.same_group_batches,
        )

    @property
    def validates(self) -> bool:
        """Whether the network is evaluated while it trains."""
        return self.val_pids is not None or self.val_query is not None

    @property
    def metric_to_evaluate(self) -> str:
        """The metric that embeddings are compared by. Some losses have one of their own, cosine."""
        return "cosine" if self.by_cosine else self.metric

    @property
    def by_cosine(self) -> bool:
        """Whether the loss that trains compares by cosine, whatever the metric."""
        if self.loss_weight:
            return self.loss in common.EMBEDDING_LOSSES
        return self.id_loss in id_losses.WITH_COSINES

    @property
    def smoothing(self) -> float | None:
        """The label smoothing of the loss of identities; None where it has no labels to smooth."""
        own = id_losses.ID_LOSSES[self.id_loss].smoothing
        return own if self.label_smoothing is None else self.label_smoothing

    @property
    def constants_of_loss(self) -> dict[str, float]:
        """Those of --loss_constants by name."""
        return named_numbers(self.loss_constants)

    @property
    def factors_of_parts(self) -> dict[str, float]:
        """Those of --lr_factors by part, one of LR_PARTS, and that which --id_loss has of its own."""
        own = id_losses.ID_LOSSES[self.id_loss].rate_factor if self.id_loss_weight else 1.0
        return ({} if own == 1 else {"classifier": own}) | named_numbers(self.lr_factors)

    @property
    def milestones(self) -> list[int]:
        """The iterations of --lr_milestones."""
        return [int(part) for part in (self.lr_milestones or "").split(",") if part]


def known(value: T | None) -> T:
    """A value of Settings that a training always has."""
    assert value is not None
    return value


# ------------------------------------------------------------------------- what comes from it


def several(value: str | list[str] | None) -> list[str]:
    """The values of a flag of OneOrSeveral."""
    return [value] if isinstance(value, str) else list(value or ())


def rows(table: type = Settings) -> Iterator[dataclasses.Field]:
    """The flags of Settings or Architecture, by the order of GROUPS."""
    fields = dataclasses.fields(table)
    for group in GROUPS:
        yield from (field for field in fields if field.metadata["group"] == group)


def _row_of(name: str) -> dataclasses.Field:
    return next(field for field in rows() if field.name == name)


def options(name: str) -> dict:
    """The options of a flag of Settings, as for argparse.add_argument."""
    return _row_of(name).metadata["options"]


def default(name: str) -> Any:
    """The value of a flag that is not given."""
    return options(name)["default"]


def only_with(name: str) -> OnlyWith | None:
    """What another flag has to be for this one to have an effect; None: nothing."""
    return _row_of(name).metadata["only_with"]


def net_options(architecture: Architecture) -> dict[str, Any]:
    """The parameters of a net's build that flags ask for; see nets/__init__.py.

    A net need not have a parameter for its default, so what is as by default is left out.
    """
    options: dict[str, Any] = {}
    if architecture.pooling == "gem":
        options["pooling"] = None
    if architecture.pooling == "token":
        options["class_token"] = True
    if architecture.last_stride == 1:
        options["last_stride"] = 1
    if isinstance(architecture, Settings) and architecture.camera_embeddings:
        options["cameras"] = len(architecture.camera_numbers), architecture.camera_embeddings
    return options


def make_parser(doc: str) -> argparse.ArgumentParser:
    """The parser of train.py: every flag of Settings, and those of how an experiment begins.

    Args:
        doc: the command's docstring.
    """
    parser = common.make_parser(doc)
    parser.epilog = EXIT_CODES
    groups = {name: parser.add_argument_group(name, sentence) for name, sentence in GROUPS.items()}
    for field in rows():
        groups[field.metadata["group"]].add_argument(f"--{field.name}", **field.metadata["options"])
        if field.name == "experiment_root":
            _add_flags_of_the_start(groups["experiment"])
    return parser


def _add_flags_of_the_start(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--resume",
        action="store_true",
        help="Go on with the experiment from its newest checkpoint. All other flags are "
        f"taken from its args.json, unless they are {', '.join(CHANGED_BY_RESUMING)}: these "
        "may be given anew.",
    )
    group.add_argument(
        "--start_or_resume",
        action="store_true",
        help="Start the experiment if its directory is empty or new, and resume it if it was started with these flags: "
        "one command for a job that may be interrupted and called again. Flags may differ "
        "only where --resume may change them.",
    )
    group.add_argument(
        "--accept_changed_data",
        action="store_true",
        help="Beside --resume: go on although the CSV or the image files are not those that were trained on. "
        "provenance.json records it.",
    )
    group.add_argument(
        "--like",
        metavar="EXPERIMENT",
        help="Start with the flags of another experiment (its directory or args.json), of a recipe of the project by "
        "its name, such as market1501_trinet, or of a JSON or YAML file of flags. Flags on the command line win.",
    )
    group.add_argument(
        "--without",
        nargs="+",
        default=[],
        metavar="FLAG",
        help="Beside --like: names of flags that are not taken from there, but have their defaults.",
    )


def add_experiment_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of which experiment, which checkpoint of it, and its architecture."""
    group = parser.add_argument_group("experiment")
    common.add_flag(group, "experiment_root")
    add_checkpoint_flags(group)
    architecture = list(rows(Architecture))
    defaults = ", ".join(f"--{field.name} {field.default}" for field in architecture)
    group = parser.add_argument_group(
        "model",
        "The experiment's args.json has these. For a checkpoint that came without it, give at "
        f"least one of them; the defaults of the others are {defaults}.",
    )
    for field in architecture:
        # Without a default, only those that are given are in the result.
        changed = field.metadata["options"] | {"default": argparse.SUPPRESS}
        group.add_argument(f"--{field.name}", **changed)


def add_checkpoint_flags(group: argparse._ActionsContainer) -> None:
    """Add the flags of which checkpoint of an experiment."""
    group.add_argument(
        "--checkpoint",
        metavar="NAME",
        help="The checkpoint, such as checkpoint-25000, or best: the one that checkpoint-best names, after a training "
        "with validations. Without this flag, the newest.",
    )
    group.add_argument(
        "--weights",
        choices=("averaged", "raw"),
        help="Which weights of the checkpoint, where its training had --ema: the average of them, or those of that "
        "iteration (raw). Without this flag, the average where there is one.",
    )


def architecture_flags(values: argparse.Namespace | Architecture) -> dict[str, Any]:
    """Those of all values that are flags of Architecture. A command line has only the given ones."""
    names = {field.name for field in rows(Architecture)}
    return {name: value for name, value in vars(values).items() if name in names}


def command_line(values: Mapping[str, Any]) -> list[str]:
    """Flags as they are typed, word by word.

    Args:
        values: of flags of train.py, by their names.
    """
    words = []
    for name, value in values.items():
        if value is None or value is False:
            continue
        words.append(f"--{name}")
        if value is not True:
            parts = value if isinstance(value, list) else [value]
            words += [shlex.quote(str(each)) for each in parts]
    return words


# What the page has beside the table: flags that args.json does not keep.
_OF_THE_START = (
    "These are the flags that an experiment keeps in its `args.json`. [experiments.md](experiments.md) describes the "
    "others, which say how it begins or goes on: `--resume`, `--start_or_resume`, `--accept_changed_data`, `--like` "
    "and `--without`."
)


def page() -> str:
    """docs/flags.md: a table of all flags for each group."""
    lines = ["# The flags of train.py", ""]
    lines += ["Made by `python -m experiment.flags > docs/flags.md`; a test keeps it equal.", ""]
    lines += [_OF_THE_START, ""]
    for group, sentence in GROUPS.items():
        lines += [f"## {group.capitalize()}", ""]
        lines += [sentence, ""] if sentence else []
        lines += ["| flag | default | what it does |", "| --- | --- | --- |"]
        lines += [_line(field) for field in rows() if field.metadata["group"] == group]
        lines += [""]
    return "\n".join(lines)


def _line(field: dataclasses.Field) -> str:
    options = field.metadata["options"]
    values = options.get("metavar") or " ".join(map(str, options.get("choices", ())))
    flag = f"`--{field.name} {values}`" if values else f"`--{field.name}`"
    has_default = options["default"] is not None and options["default"] is not False
    shown = "" if not has_default else f"`{options['default']}`"
    text = options["help"] + _effect(field.metadata["only_with"])
    return f"| {flag} | {shown} | {text} |".replace("|  |", "| |")


def _effect(only_with: OnlyWith | None) -> str:
    if only_with is None:
        return ""
    values = " or ".join(only_with.values) or "above 0"
    return f" It has an effect only with `--{only_with.name}` {values}."


if __name__ == "__main__":
    print(page(), end="")
