"""The evaluations of an experiment: the JSON files that evaluate.py wrote into its directory."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import common
from runtime import json_files
from runtime.terminal import log

_NONE = "-"

# Flags of evaluate.py that change the figures of the same embeddings.
_POST_PROCESSING = ("pool_tracklets", "multi_query", "query_expansion", "rerank", "use_market_ap")


class Kind(NamedTuple):
    """What must be the same in evaluations that are compared."""

    data: str  # query set, gallery and excluder
    extras: tuple[str, ...] | None  # what was done besides; None where the file does not tell

    @property
    def words(self) -> str:
        return _NONE if self.extras is None else ", ".join(self.extras) or "plain"

    @property
    def plainness(self) -> tuple[int, str]:
        """For sorting: first the plain ones, then those of which it is not known."""
        return (1 if self.extras is None else 2 * len(self.extras)), str(self)


class Evaluation(NamedTuple):
    """What evaluate.py wrote to a file."""

    path: Path
    mean_ap: float
    top_1: float
    kind: Kind


def read(root: Path) -> Iterator[Evaluation]:
    """The evaluations in an experiment's directory, from the oldest to the newest.

    A file that has changed, or that cannot be read, is told in a warning.
    """
    found = [path for path in root.glob("*.json") if path.is_file() and path.name != "args.json"]
    for path in sorted(found, key=lambda path: (path.stat().st_mtime, path)):
        try:
            result = json_files.read(path)
        except (OSError, ValueError) as error:
            log.warning(f"{path} is left out: {common.reason(error)}.")
            continue
        if isinstance(result, dict) and json_files.is_changed(result):
            log.warning(
                f"{path} was changed after evaluate.py wrote it. If nobody edited it, it is damaged: evaluate again."
            )
        try:
            yield Evaluation(path, float(result["mAP"]), float(result["CMC"][0]), kind_of(result))
        except (ValueError, TypeError, LookupError):  # another JSON file
            continue


def kind_of(result: dict) -> Kind:
    """The kind of an evaluation, from `made` of its JSON file, which older files lack."""
    made = _part(result, "made")
    flags = _part(made, "flags")
    if not flags:
        return Kind(_NONE, None)
    sets = [_part(made, name) for name in ("query", "gallery")]
    views = max(len(_views(part)) for part in sets)
    extras = [f"{views} views"] if views > 1 else []
    for name in _POST_PROCESSING:
        value = flags.get(name)
        if value:
            extras.append(name if value is True else f"{name} {value}")
    names = ["/".join(Path(str(part.get("dataset", "?"))).parts[-2:]) for part in sets]
    return Kind(f"{' in '.join(names)}, {flags.get('excluder', '?')}", tuple(extras))


def _part(values: dict, name: str) -> dict:
    part = values.get(name)
    return part if isinstance(part, dict) else {}


def _views(part: dict) -> list:
    """Names of the views of each image; [] where a file does not tell."""
    names = part.get("views")
    return names if isinstance(names, list) else []
