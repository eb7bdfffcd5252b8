"""What an experiment is started with: the flags of train.py, kept in its args.json for resuming and
embedding.
"""

import argparse
import contextlib
import difflib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import common
from common import UserError
from data import cameras
from experiment import args_json
from runtime import files

_SIZE = {"type": common.positive_int, "metavar": "PIXELS"}
# The flags without which a checkpoint cannot be used.
ARCHITECTURE = {
    "model_name": {
        "type": common.plugin_name("nets"),
        "default": "resnet_v1_50",
        "metavar": "NET",
        "help": f"One of: {', '.join(common.plugin_names('nets'))}.",
    },
    "head_name": {
        "type": common.plugin_name("heads"),
        "default": "fc1024",
        "metavar": "HEAD",
        "help": f"One of: {', '.join(common.plugin_names('heads'))}.",
    },
    "pooling": {
        "choices": ("avg", "gem"),
        "default": "avg",
        "help": "How the net's last map becomes features: by its mean, or by a generalised mean with a power that is "
        "learned, from 3 on.",
    },
    "last_stride": {
        "type": int,
        "choices": (1, 2),
        "default": 2,
        "help": "1: the net's last stage keeps the resolution, so that the last map is twice as high and wide.",
    },
    "embedding_dim": {
        "type": common.positive_int,
        "default": 128,
        "metavar": "D",
        "help": "Numbers in an embedding.",
    },
    "net_input_height": _SIZE | {"default": 256, "help": "Height of the network's input."},
    "net_input_width": _SIZE | {"default": 128, "help": "Width of the network's input."},
    "pre_crop_height": _SIZE
    | {"default": 288, "help": "Height to crop from, with --crop_augment."},
    "pre_crop_width": _SIZE | {"default": 144, "help": "Width to crop from, with --crop_augment."},
}


def add_architecture_flags(parser: argparse.ArgumentParser, **changes) -> argparse._ArgumentGroup:
    """Add what has to be known to build a network that was trained; `changes` go to each flag.
    Returns: their group.
    """
    group = parser.add_argument_group("model")
    for name, options in ARCHITECTURE.items():
        group.add_argument(f"--{name}", **(options | changes))
    return group


def make_parser(doc: str = __doc__) -> argparse.ArgumentParser:
    """The parser of train.py: every flag of an experiment. `doc` is the command's docstring."""
    parser = common.make_parser(doc)

    group = parser.add_argument_group("experiment")
    common.add_flag(group, "experiment_root")
    group.add_argument(
        "--resume",
        action="store_true",
        help="Go on with the experiment from its newest checkpoint. All other flags are taken from its args.json.",
    )
    group.add_argument(
        "--checkpoint_frequency",
        type=common.non_negative_int,
        default=1000,
        metavar="N",
        help="Iterations between checkpoints. 0: only the first and the final one.",
    )
    group.add_argument(
        "--keep_checkpoints",
        type=common.non_negative_int,
        default=0,
        metavar="N",
        help="How many of the newest checkpoints to keep. 0: all.",
    )
    group.add_argument(
        "--log_frequency",
        type=common.positive_int,
        default=1,
        metavar="N",
        help="Iterations between lines in train.log and scalars in TensorBoard. With --detailed_logs each is told of.",
    )
    group.add_argument(
        "--histogram_frequency",
        type=common.non_negative_int,
        default=50,
        metavar="N",
        help="Iterations between histograms in TensorBoard, beside those of the first. 0: no others.",
    )
    group.add_argument(
        "--image_frequency",
        type=common.non_negative_int,
        default=500,
        metavar="N",
        help="Iterations between pictures of the batch's hardest triplets in TensorBoard, beside those of the first, "
        "with which is one of the network's input. 0: no pictures.",
    )
    group.add_argument(
        "--detailed_logs",
        action="store_true",
        help="Keep embeddings, losses and file ids of every iteration in memory-mapped files.",
    )
    group.add_argument(
        "--seed",
        type=common.number(int, lambda n: 0 <= n < 2**32, "an integer from 0 to 4294967295"),
        metavar="N",
        help="Of initial weights, batches and augmentation. Drawn, and recorded in args.json, when not given.",
    )

    group.add_argument(
        "--deterministic",
        action="store_true",
        help="On a GPU, use only operations that give the same bits each time. A CPU does so anyway, and was a tenth "
        "slower with it.",
    )

    group = parser.add_argument_group("devices")
    common.add_flag(group, "strategy")
    group.add_argument(
        "--mining",
        choices=("global", "local"),
        default="global",
        help="Where each device looks for the positives and negatives of its images: in the whole batch, which gives "
        "what one device would, or in its own part of it.",
    )
    group.add_argument(
        "--no_sync_batch_norm",
        action="store_true",
        help="Let each device normalise with the statistics of its own part of the batch: fewer messages between "
        "devices, other results than on one.",
    )
    group.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        default="float32",
        help="Of the network's inside; weights, embeddings, distances and losses are float32. 16 bits take half the "
        "memory, and less time where the processor has operations for them.",
    )
    group.add_argument(
        "--jit_compile",
        action="store_true",
        help="Compile the iteration with XLA: faster on some GPUs, much slower on CPUs. On one device only.",
    )

    group = parser.add_argument_group("data")
    group.add_argument(
        "--train_set",
        type=common.readable_file,
        metavar="CSV",
        help="Lines of pid,fid without header. Needed unless resuming.",
    )
    common.add_flag(
        group,
        "image_root",
        help="Directory that the file ids of the CSV are relative to. Needed unless resuming.",
    )
    group.add_argument(
        "--batch_p",
        type=common.positive_int,
        default=32,
        metavar="P",
        help="Pids in a batch, at least 2.",
    )
    group.add_argument(
        "--batch_k",
        type=common.positive_int,
        default=4,
        metavar="K",
        help="Images of each pid in a batch, at least 2.",
    )
    group.add_argument(
        "--cameras",
        type=cameras.rule,
        metavar="RULE",
        help="Draw the K images of a pid from as many cameras as possible. The camera is read from the file id: one of "
        f"{', '.join(cameras.FORMS)}, or a regular expression whose one group is the camera. Without, cameras play no "
        "part.",
    )
    group.add_argument(
        "--flip_augment", action="store_true", help="Mirror half of the images, at random."
    )
    group.add_argument(
        "--crop_augment",
        action="store_true",
        help="Resize to the pre_crop size and take a random crop of the net_input size.",
    )
    group.add_argument(
        "--pad_crop",
        type=common.non_negative_int,
        default=0,
        metavar="PIXELS",
        help="Instead of --crop_augment: resize to the net_input size, add so many black pixels on each side, and take "
        "a random crop of the net_input size. 0: no such crop.",
    )
    group.add_argument(
        "--color_jitter",
        type=_fraction,
        default=0.0,
        metavar="STRENGTH",
        help="Multiply brightness, contrast and saturation by random factors of 1 - STRENGTH to 1 + STRENGTH. 0: none.",
    )
    group.add_argument(
        "--random_erasing",
        type=_fraction,
        default=0.0,
        metavar="PROBABILITY",
        help="Probability for an image that a random rectangle of it, 0.02 to 0.4 of its area, is filled with the mean "
        "colour of ImageNet. 0: none.",
    )
    common.add_flag(group, "loading_threads")
    group.add_argument(
        "--cache",
        choices=("none", "encoded", "decoded"),
        default="none",
        help="Hold all images in memory from the start on: encoded, as the bytes of their files, or decoded, as height "
        "x width x 3 bytes each (Market-1501: 320 MB). Does not change any result.",
    )
    group.add_argument(
        "--on_bad_image",
        choices=("error", "skip"),
        default="error",
        help="An image that cannot be decoded: end with its name, or look at all images first and leave such out.",
    )
    common.add_flag(group, "allow_any_path")

    group = add_architecture_flags(parser)
    group.add_argument(
        "--initial_checkpoint",
        metavar="CHECKPOINT",
        help="Pretrained weights of the net, not the head: a TF-slim checkpoint, an experiment or a checkpoint of one, "
        "a weights file of Keras, or the word imagenet for nets that Keras has weights for.",
    )

    group = parser.add_argument_group("loss")
    group.add_argument(
        "--loss", choices=common.LOSSES, default="batch_hard", help="A loss of loss.py."
    )
    group.add_argument(
        "--margin",
        type=_margin,
        default="soft",
        help="A number m: max(0, m + x). soft: log(1 + exp(x)). none: x. Not of "
        f"{' and '.join(common.EMBEDDING_LOSSES)}, which have constants of their own.",
    )
    group.add_argument(
        "--loss_ignore_zero",
        action="store_true",
        help=f"The mean is over the terms that are not 0, of {' and '.join(common.LOSSES_WITHOUT_ZEROS)}, with a "
        "number as margin.",
    )
    common.add_flag(
        group, "metric", default="euclidean", help="How distances of embeddings are measured."
    )
    _add_identity_flags(parser)
    _add_optimisation_flags(parser)
    return parser


def _add_identity_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "losses of identities", "Added to --loss; what they train is not exported."
    )
    group.add_argument(
        "--id_loss_weight",
        type=_non_negative_float,
        default=0.0,
        metavar="W",
        help="Of the cross-entropy of a linear classifier of the pids. 0: none. The bag of tricks has 1.",
    )
    group.add_argument(
        "--label_smoothing",
        type=common.number(float, lambda x: 0 <= x < 1, "a number from 0 to below 1"),
        default=0.1,
        metavar="E",
        help="Part of the probability that the classifier should spread over all pids.",
    )
    group.add_argument(
        "--center_loss_weight",
        type=_non_negative_float,
        default=0.0,
        metavar="W",
        help="Of the squared distance to the center of the pid's embeddings. 0: none. The bag of tricks has 0.0005.",
    )


def _add_optimisation_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimisation")
    group.add_argument(
        "--optimizer",
        choices=("adam", "adamw", "sgd", "rmsprop", "adadelta"),
        default="adam",
        help="adamw is adam with --weight_decay. Each wants a --learning_rate of its own.",
    )
    group.add_argument(
        "--learning_rate",
        type=common.positive_float,
        default=3e-4,
        metavar="RATE",
        help="Before its decay and after the warm-up.",
    )
    group.add_argument(
        "--train_iterations",
        type=common.number(int, lambda n: 1 <= n < 2**31, "an integer from 1 to 2147483647"),
        default=25000,
        metavar="N",
        help="Where training ends.",
    )
    group.add_argument(
        "--lr_schedule",
        choices=("exponential", "cosine", "multistep", "constant"),
        default="exponential",
        help="How the learning rate falls: exponential and cosine from --decay_start_iteration to the end, to a "
        "thousandth and to 0; multistep at --lr_milestones.",
    )
    group.add_argument(
        "--decay_start_iteration",
        type=common.number(int, lambda n: n >= -1, "-1 or an integer of at least 0"),
        default=15000,
        metavar="N",
        help="From here on the learning rate falls. -1: no decay. multistep and constant do not ask for it.",
    )
    group.add_argument(
        "--lr_milestones",
        type=_milestones,
        metavar="N,N,...",
        help="Iterations at each of which multistep multiplies the learning rate with --lr_decay_factor.",
    )
    group.add_argument(
        "--lr_decay_factor",
        type=common.number(float, lambda x: 0 < x < 1, "a number between 0 and 1"),
        default=0.1,
        metavar="X",
        help="Of multistep.",
    )
    group.add_argument(
        "--warmup_iterations",
        type=common.non_negative_int,
        default=0,
        metavar="N",
        help="Let the learning rate rise linearly over the first N iterations, from a hundredth. 0: no warm-up.",
    )
    group.add_argument(
        "--adam_beta1_decay",
        action="store_true",
        help="As in the paper, not in its code: Adam's beta1 is 0.5, not 0.9, from --decay_start_iteration on.",
    )
    group.add_argument(
        "--momentum",
        type=common.number(float, lambda x: 0 <= x < 1, "a number of at least 0 and below 1"),
        default=0.0,
        metavar="X",
        help="Of sgd and rmsprop.",
    )
    group.add_argument("--nesterov", action="store_true", help="Nesterov's momentum, of sgd.")
    group.add_argument(
        "--weight_decay",
        type=_non_negative_float,
        default=0.0,
        metavar="X",
        help="Part of each kernel, not of biases and scales, that a step takes away, times the learning rate. Of all "
        "but adam.",
    )
    group.add_argument(
        "--clip_norm",
        type=_non_negative_float,
        default=0.0,
        metavar="X",
        help="Scale the gradient, that of all weights together, down to this length where it is longer. 0: never.",
    )
    group.add_argument(
        "--freeze_body_iterations",
        type=common.non_negative_int,
        default=0,
        metavar="N",
        help="For the first N iterations train only what has no pretrained weights: all but the net. Its batch norms' "
        "running statistics move all the same. 0: train all from the start.",
    )


_non_negative_float = common.number(
    float, lambda x: 0 <= x < math.inf, "a finite number of at least 0"
)


def _milestones(text: str) -> str:
    """Text stays text: so it is in args.json."""
    parts = text.split(",")
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit()]
    if len(numbers) < len(parts) or [0, *numbers] != sorted({0, *numbers}):
        raise argparse.ArgumentTypeError(
            f"should be rising iterations such as 4000,7000. Received: {text}"
        )
    return text


_fraction = common.number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")


def _margin(text: str) -> float | str:
    if text in ("soft", "none"):
        return text
    return common.number(float, math.isfinite, '"soft", "none" or a finite number')(text)


def check_together(args: argparse.Namespace) -> None:
    """Raises: UserError for values that are each allowed, but not together or not for training."""
    for name in ("batch_p", "batch_k"):
        if getattr(args, name) < 2:
            raise UserError(
                f"--{name} should be at least 2: a triplet is two images of one pid and one of another. Received: "
                f"{getattr(args, name)}"
            )
    if args.jit_compile and args.strategy not in ("auto", "one"):
        raise UserError(
            f"--jit_compile works on one device. Received: --strategy {args.strategy}. Leave out one of the two"
        )
    if args.loss in common.EMBEDDING_LOSSES and args.margin != "soft":
        raise UserError(
            f"--loss {args.loss} has no margin to set. Received: --margin {args.margin}. Leave it out, or take one of "
            f"{', '.join(common.DISTANCE_LOSSES)}"
        )
    if args.loss_ignore_zero and args.loss not in common.LOSSES_WITHOUT_ZEROS:
        raise UserError(
            f"--loss_ignore_zero is for --loss {' and '.join(common.LOSSES_WITHOUT_ZEROS)}. Received: --loss "
            f"{args.loss}"
        )
    if args.loss_ignore_zero and isinstance(args.margin, str):
        raise UserError(
            f"--loss_ignore_zero needs a number as --margin: with {args.margin} no loss is cut off at 0. Received: "
            f"--margin {args.margin}"
        )
    for side in ("height", "width"):
        net, pre_crop = getattr(args, f"net_input_{side}"), getattr(args, f"pre_crop_{side}")
        if args.crop_augment and net > pre_crop:
            raise UserError(
                f"--net_input_{side} {net} is more than --pre_crop_{side} {pre_crop}, from which --crop_augment takes "
                f"its crops. Give a --pre_crop_{side} of at least {net}, or no --crop_augment"
            )
    if args.crop_augment and args.pad_crop:
        raise UserError(
            f"--pad_crop {args.pad_crop} and --crop_augment are two ways to take random crops. Give one of them"
        )
    if args.pad_crop >= min(args.net_input_height, args.net_input_width):
        raise UserError(
            f"--pad_crop should be less than the sides of the input, {args.net_input_height} by {args.net_input_width} "
            f"pixels: crops would be empty. Received: {args.pad_crop}"
        )
    if args.loss in common.EMBEDDING_LOSSES and args.metric not in ("euclidean", "cosine"):
        raise UserError(
            f"--loss {args.loss} compares by cosine. Received: --metric {args.metric}. Leave it out, or give cosine"
        )
    check_architecture(args)
    _check_optimisation(args)


def never_comes(args: argparse.Namespace) -> list[str]:
    """Warnings, one line each: what is planned for an iteration that the training does not reach."""
    end, plans = args.train_iterations, {}
    if args.lr_schedule in ("exponential", "cosine") or args.adam_beta1_decay:
        plans["decay_start_iteration"] = args.decay_start_iteration
    if args.lr_schedule == "multistep":
        plans["lr_milestones"] = min(int(milestone) for milestone in args.lr_milestones.split(","))
    lines = [
        f"--{name} {at} is not before --train_iterations {end}: nothing of the decay takes place. Give one below "
        f"{end}, or --lr_schedule constant if that is meant."
        for name, at in plans.items()
        if at >= end
    ]
    if args.warmup_iterations >= end:
        lines.append(
            f"The warm-up never ends: --warmup_iterations {args.warmup_iterations} should be below {end}."
        )
    return lines


def check_architecture(args: argparse.Namespace) -> None:
    """Raises: UserError for a pooling or a last_stride that the net does not have."""
    for name in ("pooling", "last_stride"):
        value = getattr(args, name)
        if value != ARCHITECTURE[name]["default"] and name not in common.build_options(
            "nets", args.model_name
        ):
            nets = [
                net
                for net in common.plugin_names("nets")
                if name in common.build_options("nets", net)
            ]
            raise UserError(
                f"--{name} {value} is not for --model_name {args.model_name}. Nets that have it: {', '.join(nets)}"
            )


# Flags that mean something only with some values of another.
_OPTIMISATION = {
    "lr_milestones": ("lr_schedule", ("multistep",)),
    "lr_decay_factor": ("lr_schedule", ("multistep",)),
    "adam_beta1_decay": ("optimizer", ("adam", "adamw")),
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "nesterov": ("optimizer", ("sgd",)),
    "weight_decay": ("optimizer", ("adamw", "sgd", "rmsprop", "adadelta")),
}


def _check_optimisation(args: argparse.Namespace) -> None:
    parser = make_parser()
    for name, (other, values) in _OPTIMISATION.items():
        if getattr(args, name) != parser.get_default(name) and getattr(args, other) not in values:
            raise UserError(
                f"--{name} is for --{other} {' or '.join(values)}. Received: {getattr(args, other)}. Leave it out, or "
                f"give another --{other}"
            )
    if args.lr_schedule == "multistep" and args.lr_milestones is None:
        raise UserError("--lr_schedule multistep needs --lr_milestones, such as 4000,7000")
    if args.optimizer == "adamw" and not args.weight_decay:
        raise UserError(
            "--optimizer adamw needs a --weight_decay above 0, such as 0.01; without it is adam"
        )
    if args.label_smoothing != parser.get_default("label_smoothing") and not args.id_loss_weight:
        raise UserError(
            "--label_smoothing is for the ID loss. Add an --id_loss_weight above 0, such as 1, or leave it out"
        )
    if args.nesterov and not args.momentum:
        raise UserError("--nesterov needs a --momentum above 0, such as 0.9")
    if args.adam_beta1_decay and args.decay_start_iteration < 0:
        raise UserError(
            "--adam_beta1_decay needs a --decay_start_iteration, from which beta1 is 0.5. Received: "
            f"{args.decay_start_iteration}"
        )


def read(experiment_root: str | os.PathLike) -> tuple[argparse.Namespace, list[str]]:
    """The flags that an experiment was started with, as its args.json has them. Paths are not
    checked.

    Returns: the flags, and the names of those that args.json lacks (one of the original's, or of an
      older version, say): they have their defaults, which are the original's behaviour.
    Raises: UserError for an args.json that is missing or holds a value that its flag does not
        allow.
    """
    stored = args_json.read(experiment_root)
    parser = make_parser()
    parser.exit_on_error = False
    root_flag = [f"--experiment_root={experiment_root}"]
    defaults = vars(parser.parse_args(root_flag))
    paths = {
        name: stored[name]
        for name in ("train_set", "image_root", "initial_checkpoint")
        if name in stored
    }

    here = {"experiment_root", "resume"}  # of this call: experiments get moved
    argv = list(root_flag)
    for name in sorted(stored.keys() & defaults.keys() - paths.keys() - here):
        value = stored[name]
        if isinstance(value, bool) or isinstance(defaults[name], bool):
            if not isinstance(value, bool) or not isinstance(defaults[name], bool):
                kind = "true or false" if isinstance(defaults[name], bool) else "no true or false"
                raise UserError(
                    f"{experiment_root}/args.json: {name} should be {kind}. Received: {json.dumps(value)}."
                )
            argv += [f"--{name}"] if value else []
        elif value is not None:
            argv.append(f"--{name}={value}")
        elif defaults[name] is not None:
            raise UserError(
                f"{experiment_root}/args.json: {name} should have a value. Received: null. Give one, or "
                "take the line away for the default."
            )
    try:
        args = parser.parse_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(
            f"{experiment_root}/args.json is not as it should be: {error}. Correct it there."
        ) from None
    for name, path in paths.items():
        if not isinstance(path, str | None):
            raise UserError(
                f"{experiment_root}/args.json: {name} should be a path. Received: {json.dumps(path)}."
            )
    vars(args).update(paths)
    return args, sorted(defaults.keys() - stored.keys() - here)


def read_architecture(
    experiment_root: str | os.PathLike, given: dict
) -> tuple[argparse.Namespace, list[str]]:
    """The flags of an experiment to build its network with, or those `given` where there is no
    args.json.

    Args:
      given: flags of ARCHITECTURE, for a checkpoint that came without args.json.

    Returns: all flags, and what is to be warned about: given ones that are not used, or those that
      were assumed. Without args.json, flags that are not of ARCHITECTURE are None.
    Raises: UserError as read and check_architecture do.
    """
    path = Path(experiment_root) / "args.json"
    if not path.exists():
        if not given:
            raise UserError(
                f"{path} does not exist. Give the --experiment_root of a training; for a checkpoint that came without "
                f"it, give --model_name, and what else of --{', --'.join(list(ARCHITECTURE)[1:])} is not the default."
            )
        flags = {
            name: given.get(name, options["default"]) for name, options in ARCHITECTURE.items()
        }
        unknown = dict.fromkeys(
            vars(make_parser().parse_args([f"--experiment_root={experiment_root}"]))
        )
        assumed = (
            ", ".join(f"--{name} {value}" for name, value in flags.items() if name not in given)
            or "nothing"
        )
        args = argparse.Namespace(**(unknown | flags | {"experiment_root": experiment_root}))
        check_architecture(args)
        return args, [f"{path} does not exist. Assumed: {assumed}."]
    args, _ = read(experiment_root)
    check_architecture(args)
    return args, [
        f"--{name} {value} is not used: args.json says {getattr(args, name)}."
        for name, value in given.items()
        if value != getattr(args, name)
    ]


def resume(args: argparse.Namespace, given: dict) -> tuple[argparse.Namespace, list[str]]:
    """The flags to go on with: those of args.json. `given` are the ones of `args` that stood on the
    command line.

    Returns: the flags, and a warning for each given flag that is not used and each flag that
        args.json lacks.
    Raises: as read does.
    """
    resumed, lacking = read(args.experiment_root)
    for name in ("train_set", "image_root"):
        if (
            getattr(resumed, name) is None
            and name not in lacking
            or getattr(args, name) is None
            and name in lacking
        ):
            raise UserError(f"{args.experiment_root}/args.json names no {name}. Add it there.")
    warnings = []
    for name in sorted(args_json.read(args.experiment_root).keys() - vars(resumed).keys()):
        meant = difflib.get_close_matches(name, vars(resumed), 1)
        warnings.append(
            f"args.json has {name}, which is no flag and does nothing{f'. Meant: {meant[0]}?' if meant else '.'}"
        )
    for name in lacking:
        setattr(resumed, name, getattr(args, name))
        warnings.append(f"args.json lacks {name}: it is {getattr(args, name)} from now on.")
    if "strategy" in given:  # devices come and go
        resumed.strategy = given["strategy"]
    for name in sorted(given.keys() - {"experiment_root", "resume"} - set(lacking)):
        if given[name] != getattr(resumed, name):
            warnings.append(
                f"--{name} {given[name]} is not used: args.json says {getattr(resumed, name)}. To change it (more "
                "iterations, say), edit args.json and resume again."
            )
    return resumed, warnings


def store(args: argparse.Namespace) -> None:
    """Write args.json: all flags, `resume` as the first run had it. What else is in it stays."""
    path = Path(args.experiment_root) / "args.json"
    before = args_json.read(args.experiment_root) if path.exists() else {}
    files.write_json(path, before | vars(args) | {"resume": False})


_BEGUN = ("train.log", "args.json.partial")


def check_new_root(experiment_root: str) -> None:
    """Raises: UserError unless experiment_root can be created or is an empty directory that can be
    written to.
    """
    root = Path(experiment_root).absolute()
    if root.exists() and not root.is_dir():
        raise UserError(
            f"--experiment_root {experiment_root} is a file. Give a directory that is empty or new."
        )
    # A run that was killed before it wrote its args.json leaves an empty log and nothing to resume.
    if root.is_dir() and any(
        path.name not in _BEGUN or path.stat().st_size for path in root.iterdir()
    ):
        raise UserError(
            f"--experiment_root {experiment_root} is not empty. To go on with the experiment in it, add --resume; for "
            "a new one, give another directory."
        )
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"--experiment_root {experiment_root} cannot be written: {existing} does not allow it."
        )


def check_writeable(experiment_root: str) -> None:
    """Raises: UserError unless the directory, if it is there, can be written to."""
    if os.path.isdir(experiment_root) and not os.access(experiment_root, os.W_OK | os.X_OK):
        raise UserError(
            f"--experiment_root {experiment_root} cannot be written: its permissions do not allow it. Change "
            "them, or copy the experiment and resume there."
        )


def stopped_before_it_began(experiment_root: str | os.PathLike) -> bool:
    """Whether a run ended before its first checkpoint, which precedes its first iteration: it can
    only begin again.
    """
    root = Path(experiment_root)
    log = root / "train.log"
    untrained = log.exists() and " iter:" not in log.read_text(encoding="utf-8", errors="replace")
    return untrained and not any(root.glob("*checkpoint-*"))


@contextlib.contextmanager
def lock(experiment_root: str | os.PathLike) -> Iterator[None]:
    """Have an experiment's directory to oneself; it is created if need be, and removed if it is
    still empty at the end.

    The lock goes with the process, however that ends.

    Raises: UserError when another training has it.
    """
    root = Path(experiment_root).absolute()
    created = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY)
    try:
        files.lock(
            descriptor,
            f"another training is running in {experiment_root}. Wait for its end, or give another directory.",
        )
        yield
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):  # not empty
            for folder in created:
                folder.rmdir()
