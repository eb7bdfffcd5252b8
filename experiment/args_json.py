"""args.json: the flags that an experiment was started with.

It is the only source of architecture and sizes. A key that it lacks means the original's behavior.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from common import UserError, suggestion
from experiment import flags, folder, provenance, rules
from experiment.flags import Architecture, Settings
from runtime import files, json_files
from runtime.terminal import log

# Flags that name files: where an experiment is only embedded, they need not exist.
PATHS = (
    "train_set",
    "image_root",
    "cache_dir",
    "initial_checkpoint",
    "val_query",
    "val_gallery",
    "val_image_root",
)
# Of one call and not of the experiment: experiments get moved.
OF_THE_CALL = {
    "experiment_root",
    "resume",
    "start_or_resume",
    "like",
    "without",
    "accept_changed_data",
}
# Keys of args.json that resuming expects beside the flags of the training.
NO_FLAGS = {*OF_THE_CALL, json_files.DIGEST}


def read(experiment_root: str | os.PathLike) -> dict:
    """What args.json holds, unchecked.

    Raises:
        UserError when there is no args.json, or one that is no JSON object.
    """
    path = Path(experiment_root) / "args.json"
    try:
        stored = json_files.read(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist, so {experiment_root} is no experiment. Give the "
            "--experiment_root of a training."
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. Check the path and its permissions."
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}). Repair it or restore it from a backup."
        ) from None
    if not isinstance(stored, dict):
        raise UserError(
            f"{path} should hold a JSON object of flags. Received: {type(stored).__name__}."
        )
    return stored


def content(settings: Settings) -> dict:
    """The flags by name, with `resume` as the first run had it: what args.json and the log show."""
    return dataclasses.asdict(settings) | {"resume": False}


def shareable(architecture: Architecture) -> dict[str, Any]:
    """The flags by name, for a file that others get: of what lies elsewhere, without its folders."""
    values = dataclasses.asdict(architecture)
    values.pop("experiment_root", None)
    for name in PATHS:
        stored = values.get(name)
        if isinstance(stored, list):
            values[name] = [_without_folders(each) for each in stored]
        elif stored is not None:
            values[name] = _without_folders(stored)
    return values


def _without_folders(path: str) -> str:
    return os.path.basename(path) if os.path.isabs(path) else path


def write(settings: Settings) -> None:
    """Write args.json: all flags and a digest of them. Keys in it that are no flags stay."""
    root = Path(settings.experiment_root)
    before = read(root) if (root / "args.json").exists() else {}
    values = json_files.with_digest(before | content(settings))
    files.write_json(root / "args.json", values)


def warn_if_changed(experiment_root: str | os.PathLike) -> None:
    """Log a warning where args.json is not what train.py wrote: it was edited, or is damaged.

    What has changed is told as far as the flags of the last run are recorded.

    Raises:
        UserError: as `read` does.
    """
    stored = read(experiment_root)
    if not json_files.is_changed(stored):
        return
    logged = provenance.flags_at(experiment_root, folder.newest_iteration(experiment_root))
    changes = [
        f"{name} is {stored.get(name, 'not there')} and was {value}"
        for name, value in logged.items()
        if name not in OF_THE_CALL and value != str(stored.get(name))
    ]
    log.warning(
        f"{Path(experiment_root) / 'args.json'} was changed after train.py wrote it"
        f"{': ' if changes else ''}{', '.join(changes)}. It counts as it is now. If nobody edited it, it is damaged: "
        "restore it from a backup."
    )


def load(experiment_root: str | os.PathLike) -> tuple[Settings, list[str]]:
    """The flags that an experiment was started with. Files that they name need not exist.

    Returns:
        the flags, and the names of those that args.json lacks (one of the original's, or of an
        older version, say): these are as in the original, which may not be their default.
    Raises:
        UserError as `read` does, and for a value that its flag does not allow.
    """
    stored = read(experiment_root)
    values: dict[str, Any] = {"experiment_root": str(experiment_root)}
    lacking = []
    for field in flags.rows():
        if field.name in OF_THE_CALL:
            continue
        if field.name not in stored:
            lacking.append(field.name)
            values[field.name] = field.metadata["before"]
            continue
        try:
            values[field.name] = value(field, stored[field.name])
        except ValueError as error:
            raise UserError(f"{experiment_root}/args.json: {error}") from None
    return Settings(**values), sorted(lacking)


def metric_of_training(experiment_root: str | os.PathLike) -> str:
    """The metric that an experiment was trained for.

    Raises:
        UserError: as load does.
    """
    settings, _ = load(experiment_root)
    return settings.metric_to_evaluate


def value(field: dataclasses.Field, stored: Any) -> Any:
    """A value of a JSON file as its flag has it. Files that it names need not exist.

    Raises:
        ValueError: what is wrong with it.
    """
    options = field.metadata["options"]
    if "nargs" not in options or stored is None:
        return _single_value(field, stored)
    if stored == [] or (isinstance(stored, list) and None in stored):
        raise ValueError(f"{field.name} should have values. Received: {json.dumps(stored)}.")
    parts = stored if isinstance(stored, list) else [stored]
    values = [_single_value(field, each) for each in parts]
    one_stays_itself = options.get("action") is flags.OneOrSeveral
    return values[0] if one_stays_itself and len(values) == 1 else values


def _single_value(field: dataclasses.Field, stored: Any) -> Any:
    name = field.name
    options = field.metadata["options"]
    if name in PATHS:
        if not isinstance(stored, str | None) or (stored and "\0" in stored):
            raise ValueError(f"{name} should be a path. Received: {json.dumps(stored)}.")
        return stored
    is_switch = isinstance(options["default"], bool)
    if isinstance(stored, bool) != is_switch:
        kind = "true or false" if is_switch else "no true or false"
        raise ValueError(f"{name} should be {kind}. Received: {json.dumps(stored)}.")
    if is_switch:
        return stored
    if stored is None:
        if options["default"] is None:
            return None
        raise ValueError(
            f"{name} should have a value. Received: null. Give one, or take the line away for the "
            "default."
        )
    return _converted(name, options, str(stored))


def _converted(name: str, options: dict, text: str) -> Any:
    """What argparse would make of `--name=text`."""
    kind = options.get("type", str)
    choices = options.get("choices")
    try:
        value = kind(text)
        if choices is not None and value not in choices:
            raise argparse.ArgumentTypeError(
                f"should be one of {', '.join(map(str, choices))}. Received: {text}"
            )
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise ValueError(f"argument --{name}: {error}. Correct it there.") from None
    return value


def architecture(experiment_root: str | os.PathLike, given: dict[str, Any]) -> Architecture:
    """The flags of an experiment to build its network with: its Settings, or those `given` where
    there is no args.json. What is assumed or not used is logged as a warning.

    Args:
        given: flags of Architecture, for a checkpoint that came without args.json.

    Raises:
        UserError as `load` and rules.check_architecture do.
    """
    path = Path(experiment_root) / "args.json"
    if path.exists():
        settings, _ = load(experiment_root)
        warn_if_changed(experiment_root)
        rules.check_architecture(settings)
        for name, value in given.items():
            if value != getattr(settings, name):
                log.warning(
                    f"--{name} {value} is not used: args.json says {getattr(settings, name)}."
                )
        return settings
    names = [field.name for field in flags.rows(Architecture)]
    if not given:
        raise UserError(
            f"{path} does not exist. Give the --experiment_root of a training; for a checkpoint "
            f"that came without it, give --{names[0]}, and what else of --{', --'.join(names[1:])} "
            "is not the default."
        )
    assumed = Architecture(**given)
    rules.check_architecture(assumed)
    others = [f"--{name} {getattr(assumed, name)}" for name in names if name not in given]
    if others:
        log.warning(f"{path} does not exist. Assumed: {', '.join(others)}.")
    return assumed


def check_same(settings: Settings, given: Collection[str]) -> None:
    """Check that an experiment was started with the flags of this call.

    What resuming may change need not be the same, nor what args.json lacks, nor a seed that was
    drawn or cameras that were found, nor a flag that was not given and had another default in an
    earlier version. A file is the same by any path.

    Args:
        settings: the flags of this call, as for a new experiment.
        given: the names of those that were given.

    Raises:
        UserError: as `load` does, and for flags that differ, with both values.
    """
    root = settings.experiment_root
    stored, lacking = load(root)
    may_differ = OF_THE_CALL | set(flags.CHANGED_BY_RESUMING) | set(lacking)
    may_differ |= {name for name in ("seed", "camera_names") if getattr(settings, name) is None}
    may_differ |= {
        field.name
        for field in flags.rows()
        if field.name not in given and getattr(stored, field.name) == field.metadata["before"]
    }
    differing = [
        f"--{name} is {now} and was {getattr(stored, name)}"
        for name, now in vars(settings).items()
        if name not in may_differ and not _is_same(name, now, getattr(stored, name))
    ]
    if differing:
        raise UserError(
            f"{root} is an experiment with other flags: {'; '.join(differing)}. Give its flags, another "
            "--experiment_root, or --resume in place of --start_or_resume to go on with its flags."
        )


def _is_same(name: str, one: Any, other: Any) -> bool:
    """Whether two values of a flag mean the same: of paths, one file or directory."""
    return one == other or (name in PATHS and _real_paths(one) == _real_paths(other))


def _real_paths(value: str | list[str] | None) -> list[str]:
    """What --initial_checkpoint has for no path stays as it is."""
    return [
        each if each == flags.OF_KERAS or each.startswith(flags.OF_HUB) else os.path.realpath(each)
        for each in flags.several(value)
    ]


def resume(settings: Settings, given: dict[str, Any]) -> Settings:
    """The flags to go on with: those of args.json, but for those that resuming may change.

    These are flags.CHANGED_BY_RESUMING. The seed may still be None.
    What changes is logged. A warning is logged for each given flag that is not used, each flag that
    args.json lacks, and each of its keys that is no flag.

    Args:
        settings: the flags of this call, whose experiment_root counts.
        given: those of them that stood on the command line.

    Raises:
        UserError as `load` does, for an args.json without a data set, and for fewer
        train_iterations than are finished.
    """
    root = settings.experiment_root
    stored, lacking = load(root)
    warn_if_changed(root)
    for name in ("train_set", "image_root"):
        if getattr(settings if name in lacking else stored, name) is None:
            raise UserError(f"{root}/args.json names no {name}. Add it there.")
    for name in sorted(read(root).keys() - vars(stored).keys() - NO_FLAGS):
        hint = suggestion(name, vars(stored))
        log.warning(f"args.json has {name}, which is no flag and does nothing.{hint}")
    changes = {name: given.get(name, getattr(stored, name)) for name in lacking}
    for name, value in changes.items():
        log.warning(f"args.json lacks {name}: it is {value} from now on.")
    for name in flags.CHANGED_BY_RESUMING:
        if name in given and name not in lacking and given[name] != getattr(stored, name):
            changes[name] = given[name]
            log.info(f"--{name} is {given[name]} from now on; it was {getattr(stored, name)}.")
    if "cache" in changes and "resized" in (stored.cache, changes["cache"]):
        raise UserError(
            f"--cache resized rounds images to whole gray levels, so a training keeps to it or does without. Received: "
            f"--cache {changes['cache']}, where args.json says {stored.cache}. Leave it out."
        )
    resumed = dataclasses.replace(stored, **changes)
    finished = folder.newest_iteration(root)
    if "train_iterations" in given and resumed.train_iterations < finished:
        raise UserError(
            f"--train_iterations should be at least {finished}, the iterations of "
            f"{root}/checkpoint-{finished}. Received: {resumed.train_iterations}."
        )
    for name in sorted(given.keys() - OF_THE_CALL - set(lacking)):
        if not _is_same(name, given[name], getattr(resumed, name)):
            log.warning(
                f"--{name} {given[name]} is not used: args.json says {getattr(resumed, name)}. To "
                "change it, edit args.json and resume again."
            )
    return resumed
