"""args.json: the flags that an experiment was started with."""

import json
import os
from pathlib import Path

from common import UserError


def read(experiment_root: str | os.PathLike) -> dict:
    """The flags an experiment was started with.

    Raises: UserError when there is no args.json in it, or one that is no JSON object.
    """
    path = Path(experiment_root) / "args.json"
    try:
        args = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist, so {experiment_root} is no experiment. Give the --experiment_root of a training."
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. Check the path and its permissions."
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}). Repair it or restore it from a backup."
        ) from None
    if not isinstance(args, dict):
        raise UserError(
            f"{path} should hold a JSON object of flags. Received: {type(args).__name__}."
        )
    return args
