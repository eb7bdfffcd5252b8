"""--like: the flags of a new experiment from another one, from a recipe, or from a file of one's own.

A recipe is a JSON or YAML file of

    about: what it is, where it comes from, what it reaches: text by keys, for people
    flags: flags of train.py by their names, without dashes
    needs: flags that it leaves to the caller, and what to give there
    data, embed, evaluate: for recipes/run.sh

Without the key `flags`, a file is the flags themselves. One with an experiment_root is an args.json,
and means what that means: what it lacks is as in the original. Other files are checked strictly: a
name that is no flag is an error.
"""

import argparse
import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import common
from common import UserError, suggestion
from experiment import args_json, flags
from experiment.flags import Settings
from runtime import json_files

RECIPES = common.HERE / "recipes"
PARTS = ("about", "flags", "needs", "data", "embed", "evaluate")

_YAML = (".yaml", ".yml")
_YAML_REQUIREMENT = "pyyaml>=6,<7"
# They depend on the machine, and but for --cache resized change no result. An experiment's are those of its machine.
_OF_THE_MACHINE = ("loading_threads", "cache", "cache_dir")


class Source(NamedTuple):
    """What --like names.

    Attributes:
        path: of its file.
        flags: the values that it gives, checked one by one.
        needs: {name: what to give there} of flags that have to be given beside it.
        notes: lines for the log: what was not taken over.
    """

    path: str
    flags: dict[str, Any]
    needs: dict[str, str]
    notes: tuple[str, ...] = ()


def read(name: str, replaced: Collection[str], without: Collection[str] = ()) -> Source:
    """The flags of an experiment's directory, an args.json, a recipe, or a file of flags.

    Args:
        name: as --like has it; also that of a file of recipes/, without folder and ending.
        replaced: names of flags that the command line has; their values here do not count.
        without: names of flags to leave out, so that they are as by default.

    Raises:
        UserError: there is no such file, it cannot be read, or it has a name or value that train.py
            does not allow.
    """
    path, content = content_of(name)
    if "flags" in content:
        source = _recipe(path, content)
    elif "experiment_root" in content:
        source = _experiment(path, content, {*replaced, *without})
    else:
        source = Source(path, _checked(path, content), {})
    unknown = [each for each in without if each not in source.flags]
    if unknown:
        raise UserError(
            f"--without {unknown[0]} has no effect: {path} has no such flag. Leave it out."
            + suggestion(unknown[0], source.flags)
        )
    values = {each: value for each, value in source.flags.items() if each not in without}
    for each in values.keys() - set(replaced):
        _check_path(path, each, values[each])
    return source._replace(flags=values)


def content_of(name: str) -> tuple[str, dict[str, Any]]:
    """The path and the content of what --like names, before its flags are checked.

    Raises:
        UserError: there is no such file, or it is no object in JSON or YAML.
    """
    path = _find(name)
    return path, _content(path)


def checked(path: str, values: dict[str, Any]) -> dict[str, Any]:
    """Flags that another file has, as a file of --like may have them.

    Raises:
        UserError: a name that is no flag, a value that its flag does not allow, or a file that is
            not there. It names `path`.
    """
    values = _checked(path, values)
    for name, value in values.items():
        _check_path(path, name, value)
    return values


def tell(source: Source, given: Mapping[str, Any]) -> list[str]:
    """Lines for the log: where the flags are from, and which of them the command line replaces.

    Args:
        given: the flags that were typed.
    """
    lines = [f"The flags are those of {source.path}, but for those that are given."]
    lines += source.notes
    lines += [
        f"--{name} is {given[name]}; it is {value} in {source.path}."
        for name, value in source.flags.items()
        if name in given and given[name] != value
    ]
    return lines


def check_needs(source: Source, settings: Settings) -> None:
    """Raises: UserError where a flag that the recipe needs is not given."""
    for name, what in source.needs.items():
        if getattr(settings, name) is None:
            raise UserError(f"argument --{name}: {source.path} needs it: {what}")


def advice(source: Source | None) -> str:
    """The end of a message about flags that do not fit together, where some are of a source."""
    if source is None:
        return ""
    return f". Most flags are those of {source.path}: --without takes its value from a flag"


# ------------------------------------------------------------------------- files


def _find(name: str) -> str:
    path = Path(name)
    if path.is_dir():
        path = path / "args.json"
    if path.is_file():
        return str(path)
    recipes = {each.stem: each for each in sorted(RECIPES.glob("*.json"))}
    if name in recipes:
        return str(recipes[name])
    hint = suggestion(path.stem, recipes)
    raise UserError(
        f"{path} does not exist. Give the directory of an experiment, its args.json, or a recipe: a JSON or YAML file "
        f"of flags, or the name of one that is there: {', '.join(recipes)}.{hint}"
    )


def _content(path: str) -> dict[str, Any]:
    is_yaml = Path(path).suffix.lower() in _YAML
    try:
        content = Path(path).read_bytes()
        values = _parse_yaml(path, content) if is_yaml else json_files.parse(content)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. Check the path and its permissions."
        ) from None
    except ValueError as error:
        kind = "YAML" if is_yaml else "JSON"
        raise UserError(
            f"{path} cannot be read as {kind} ({common.reason(error)}). Repair it."
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold an object of flags. Received: {_kind(values)}.")
    return values


def _parse_yaml(path: str, content: bytes) -> Any:
    """The value of a YAML file. Raises: ValueError; UserError where the package is missing."""
    try:
        import yaml
    except ImportError:
        raise UserError(
            f"reading {path} takes the package pyyaml. Install it: pip install '{_YAML_REQUIREMENT}'. A recipe in JSON "
            "needs no package."
        ) from None

    class Loader(yaml.SafeLoader):
        """Values that JSON has, too; a key that stands there twice is an error, as in JSON."""

        def construct_mapping(self, node, deep=False):
            names = [key.value for key, _ in node.value]
            twice = next((each for each in names if names.count(each) > 1), None)
            if twice is not None:
                raise ValueError(f"{str(twice)[:50]!a} stands there twice")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(content.decode("utf-8-sig"), Loader)  # noqa: S506, it is a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _kind(value: Any) -> str:
    return type(value).__name__


# ------------------------------------------------------------------------- what they hold


def _recipe(path: str, content: dict[str, Any]) -> Source:
    for name in content:
        if name not in PARTS:
            raise UserError(
                f"{path} has {name!r} beside flags.{suggestion(str(name), PARTS)} A recipe has "
                f"{', '.join(PARTS)}."
            )
    values, needs = content["flags"], content.get("needs", {})
    for name, part in (("flags", values), ("needs", needs)):
        if not isinstance(part, dict):
            raise UserError(f"{path}: {name} should be an object. Received: {_kind(part)}.")
    for name in needs:
        _check_name(path, name)
    return Source(path, _checked(path, values), {name: str(what) for name, what in needs.items()})


def _checked(path: str, values: dict[str, Any]) -> dict[str, Any]:
    """Raises: UserError for a name that is no flag, or is none of a recipe, and for a value."""
    checked = {}
    for name, value in values.items():
        field = _check_name(path, name)
        checked[name] = _value(path, field, value)
    return checked


def _check_name(path: str, name: Any) -> dataclasses.Field:
    fields = {field.name: field for field in flags.rows() if field.name != "experiment_root"}
    if name in fields:
        return fields[name]
    if name in args_json.OF_THE_CALL:
        raise UserError(
            f"{path} has {name}, which belongs to a call of train.py. Take it out, and give it there."
        )
    dashes = " Names have no dashes." if str(name).startswith("-") else ""
    raise UserError(
        f"{path} has {str(name)[:100]}, which is no flag of train.py."
        f"{suggestion(str(name), fields)}{dashes} docs/flags.md lists all."
    )


def _value(path: str, field: dataclasses.Field, value: Any) -> Any:
    """Raises: UserError for a value that its flag does not allow."""
    parts = value if isinstance(value, list) else [value]
    wrong = [each for each in parts if not _is_scalar(each)]
    if wrong:
        raise UserError(
            f"{path}: {field.name} should be a value or a list of values. Received: {_kind(wrong[0])}."
        )
    try:
        return args_json.value(field, value)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _experiment(path: str, content: dict[str, Any], replaced: set[str]) -> Source:
    """The flags of an args.json, but for what belongs to its call or its machine."""
    values: dict[str, Any] = {}
    notes = []
    for field in flags.rows():
        name = field.name
        if name in args_json.OF_THE_CALL:
            continue
        if name in content:
            values[name] = _value(path, field, content[name])
            continue
        values[name] = field.metadata["before"]
        if values[name] != flags.default(name) and name not in replaced:
            notes.append(f"{path} lacks {name}: it is {values[name]}, as it was then.")
    for name in sorted(map(str, content.keys() - values.keys() - args_json.NO_FLAGS)):
        hint = suggestion(name, values)
        notes.append(f"{path} has {name}, which is no flag and does nothing.{hint}")
    values["camera_names"] = None  # another data set has others
    machine = {name: values.pop(name) for name in _OF_THE_MACHINE}
    if machine["cache"] == "resized" and "cache" not in replaced:
        del machine["cache"], machine["cache_dir"]
        notes.append(
            f"{path} has --cache resized, which rounds images to whole gray levels. It is not taken from there: for "
            "the same images, give it and a --cache_dir."
        )
    left = [
        f"--{name} {value}"
        for name, value in machine.items()
        if value != flags.default(name) and name not in replaced
    ]
    if left:
        notes.append(f"Not taken from {path}, as it suits a machine: {', '.join(left)}.")
    if values["strategy"] == "multi_worker":  # auto is the same where there are several workers
        values["strategy"] = "auto"
    if json_files.is_changed(content):
        notes.append(f"{path} was changed after train.py wrote it. It counts as it is now.")
    return Source(path, values, {}, tuple(notes))


def _check_path(path: str, name: str, value: Any) -> None:
    """Raises: UserError for a file or directory that is not there."""
    kind: Callable[[str], Any] | None = flags.options(name).get("type")
    if name not in args_json.PATHS or kind is None:
        return
    for each in flags.several(value):
        try:
            kind(each)
        except argparse.ArgumentTypeError as error:
            raise UserError(
                f"{path}: argument --{name}: {error}. Give --{name}, or correct it there."
            ) from None
