"""SPACE.json: the flags that a sweep tries. It is read here alone.

    {
      "learning_rate": {"low": 1e-4, "high": 1e-2, "log": true},
      "batch_p": {"low": 8, "high": 32, "step": 8},
      "loss": ["batch_hard", "lifted"],
      "flip_augment": [true, false],
      "train_iterations": 5000
    }

By flags of train.py: a list has the values to choose from; an object is a range, of whole numbers where
`low` and `high` are whole; any other value is the same in all trials and wins over that of --like.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import common
from common import UserError
from experiment import like
from runtime import json_files

_OF_A_RANGE = ("low", "high", "log", "step")


class Range(NamedTuple):
    """Numbers from low to high, both included."""

    low: float
    high: float
    log: bool = False  # drawn evenly by their logarithms
    step: float | None = None  # between neighbors; None: 1 for whole numbers, else none

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


class Space(NamedTuple):
    """What a sweep tries, by flags."""

    fixed: dict[str, Any]
    choices: dict[str, list]
    ranges: dict[str, Range]

    @property
    def varied(self) -> list[str]:
        return [*self.choices, *self.ranges]


def read(path: str | os.PathLike) -> Space:
    """The space of a file, all values checked one by one.

    Raises:
        UserError: it cannot be read, has a name or value that train.py does not allow, or varies
            nothing, or what trials are compared by.
    """
    path = str(path)
    try:
        content = json_files.read(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({common.reason(error)}). Repair it, or check the path."
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path} should hold an object of flags. Received: {type(content).__name__}."
        )
    space = Space({}, {}, {})
    for name, value in content.items():
        if isinstance(value, list):
            space.choices[name] = _choices(path, name, value)
        elif isinstance(value, dict):
            space.ranges[name] = _range(path, name, value)
        else:
            space.fixed.update(like.checked(path, {name: value}))
    if not space.varied:
        raise UserError(
            f"{path} varies nothing. Give a flag a list of values, or a range: "
            '{"low": 1e-4, "high": 1e-2, "log": true}.'
        )
    for name in space.varied:
        if name.startswith("val_"):
            raise UserError(
                f"{path} varies {name}, but trials are compared by their validations, which have to be the same. Give "
                "it one value."
            )
    return space


def _choices(path: str, name: str, values: list) -> list:
    if not values or any(isinstance(value, list | dict) for value in values):
        raise UserError(f"{path}: {name} should be a list of single values. Received: {values}.")
    checked = [like.checked(path, {name: value})[name] for value in values]
    if len({(type(value), value) for value in checked}) < len(checked):
        raise UserError(f"{path}: {name} has a value twice. Received: {values}.")
    return checked


def _range(path: str, name: str, given: Mapping[str, Any]) -> Range:
    unknown = [each for each in given if each not in _OF_A_RANGE]
    numbers = [given.get(each) for each in ("low", "high", "step") if each in given]
    are_numbers = all(type(number) in (int, float) for number in numbers)
    if unknown or not {"low", "high"} <= given.keys() or not are_numbers:
        raise UserError(
            f"{path}: the range of {name} should have numbers low and high, and perhaps step, or log: true. "
            f"Received: {dict(given)}."
        )
    found = Range(given["low"], given["high"], given.get("log", False), given.get("step"))
    _check_range(path, name, found)
    for end in (found.low, found.high):
        like.checked(path, {name: end})
    return found


def _check_range(path: str, name: str, found: Range) -> None:
    wrong = None
    if not found.low < found.high:
        wrong = f"low should be below high. Received: {found.low} and {found.high}"
    elif not isinstance(found.log, bool):
        wrong = f"log should be true or false. Received: {found.log}"
    elif found.log and found.low <= 0:
        wrong = f"low should be above 0 where log is true. Received: {found.low}"
    elif found.step is not None and (found.log or not 0 < found.step <= found.high - found.low):
        wrong = f"step should fit between low and high, without log. Received: {found.step}"
    elif found.step is not None and found.is_whole and not isinstance(found.step, int):
        wrong = f"step should be whole, as low and high are. Received: {found.step}"
    if wrong:
        raise UserError(f"{path}: in the range of {name} {wrong}.")
