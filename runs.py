"""Several experiments side by side: what differs between them, how far they are, how well they do.

    python runs.py exp1 exp2
    python runs.py experiments        # all that are in a folder
    python runs.py experiments --csv > runs.csv
    python runs.py exp1 exp2 --report runs     # runs/training.html: their curves
    python runs.py exp --finished && python embed.py --experiment_root exp ...

A row for each experiment: its name; the last iteration of those planned; its state; mean loss and
batch-p@(K-1) of that iteration; of its evaluations, the JSON files of evaluate.py in its directory,
the one with the highest mAP and, where that is another, the newest; then the flags that are not the
same in all. A dash stands for what is not there. Of a training with validations the best of them,
by its --val_metric, and the last stand behind the iteration's figures.

Like is compared with like: only evaluations of one kind count, the plainest one that all experiments
have, or where there is none, the plainest one of each. The column `kind` says it: plain, or what was
done besides (10 views, rerank, ...); a dash where the file is of an older version and does not tell.
The column `data` is there where evaluations of several data sets or excluders were found.

The state is finished; finished early, by --early_stop; running; interrupted, by Ctrl-C or a
scheduler's signal; or stopped, where the training was killed or ended with an error. With --finished
the exit code is 1 unless all experiments of the table are finished.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import common
from common import UserError
from experiment import args_json, evaluations, metrics_log, provenance, train_log, validations
from experiment.evaluations import Evaluation
from runtime import json_files, terminal
from runtime.terminal import log

if TYPE_CHECKING:
    import pandas as pd

# Different in each experiment, or without a part in what it learns.
_NOT_COMPARED = {"experiment_root", "resume", json_files.DIGEST}
_NONE = "-"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "experiments",
        nargs="+",
        type=common.readable_directory,
        metavar="DIR",
        help="Directories of experiments, or folders that hold some.",
    )
    parser.add_argument("--csv", action="store_true", help="Write the table as CSV.")
    parser.add_argument(
        "--finished",
        action="store_true",
        help="Exit with code 1 unless all experiments of the table are finished, for shell scripts.",
    )
    parser.add_argument(
        "--report",
        type=common.writeable_directory,
        metavar="DIR",
        help="Write a page into this directory, training.html: the curves of the experiments over one another, with "
        "the best validations, whether they are healthy, and the flags that are not the defaults.",
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    terminal.setup_logging("runs")
    roots = [root for directory in args.experiments for root in experiments(directory)]
    flags = flags_of(roots)
    runs = table(roots, flags)
    if args.report:
        from reports import training

        rows = [list(runs), *runs.to_numpy().tolist()]
        page = training.write(args.report, training.read(roots, flags), rows)
        log.info(f"Wrote {page}.")
    if args.csv:
        runs.to_csv(sys.stdout, index=False, lineterminator="\n")
    else:
        print(as_text(runs))
    if args.finished and not runs["state"].isin(["finished", "finished early"]).all():
        sys.exit(1)


def experiments(directory: str) -> list[Path]:
    """The directory itself if it is an experiment, else the experiments in it, by name.

    Raises:
        UserError: there is none.
    """
    found = [Path(directory)] if Path(directory, "args.json").exists() else []
    found = found or sorted(path.parent for path in Path(directory).glob("*/args.json"))
    if not found:
        raise UserError(
            f"{directory} is no experiment and holds none: there is no args.json in it. Give the --experiment_root of "
            "a training, or the folder above."
        )
    return found


def table(roots: Sequence[Path], flags: Sequence[dict]) -> "pd.DataFrame":
    """A row of text for each experiment; columns in which there is nothing are left out.

    Args:
        flags: what the args.json of each holds.
    """
    import pandas as pd  # only here, so that --help does not wait for it

    differing = differing_flags(flags)
    found = [list(evaluations.read(root)) for root in roots]
    several = len({evaluation.kind.data for of_run in found for evaluation in of_run}) > 1
    rows = []
    for root, args, alike in zip(roots, flags, compare_alike(found), strict=True):
        row = {"experiment": str(root)} | _progress(root, args)
        row |= _validations(root, args) | _evaluations(alike)
        for name in differing:
            row[name] = _NONE if args.get(name) is None else _text(args[name])
        rows.append(row)
    runs = pd.DataFrame(rows, dtype="str")
    if not several:
        del runs["data"]
    return runs.loc[:, (runs != _NONE).any()]


def flags_of(roots: Sequence[Path]) -> list[dict]:
    """What the args.json of each holds; {}, with a warning, where it cannot be read."""
    return [_flags_of(root) for root in roots]


def _flags_of(root: Path) -> dict:
    try:
        args_json.warn_if_changed(root)
        return args_json.read(root)
    except UserError as error:
        log.warning(str(error))
        return {}


def differing_flags(flags: Sequence[dict]) -> list[str]:
    """Names of the flags that do not have the same value in all experiments."""
    names = sorted(set().union(*flags) - _NOT_COMPARED)
    return [name for name in names if len({json.dumps(args.get(name)) for args in flags}) > 1]


def as_text(runs: "pd.DataFrame") -> str:
    """The table in columns of equal width, for a terminal."""
    return "\n".join(terminal.columns([list(runs), *runs.to_numpy().tolist()]))


def compare_alike(found: Sequence[Sequence[Evaluation]]) -> list[list[Evaluation]]:
    """Of the evaluations of each experiment, those of one kind; the same for all, if possible."""
    kinds = [{evaluation.kind for evaluation in of_run} for of_run in found if of_run]
    shared = set.intersection(*kinds) if kinds else set()
    comparable = []
    for of_run in found:
        if not of_run:
            comparable.append([])
            continue
        candidates = shared or {evaluation.kind for evaluation in of_run}
        kind = min(candidates, key=lambda kind: kind.plainness)
        comparable.append([evaluation for evaluation in of_run if evaluation.kind == kind])
    return comparable


def _progress(root: Path, args: dict) -> dict[str, str]:
    planned = args.get("train_iterations", "?")
    last = None
    try:
        last = _last(root)
        state = provenance.state(root, planned if isinstance(planned, int) else None)
    except OSError as error:
        log.warning(f"{root / 'train.log'} cannot be read: {common.reason(error)}.")
        state = _NONE
    last = last or train_log.Logged(0, _NONE, _NONE)
    return {
        "iteration": f"{last.iteration} of {planned}",
        "state": state,
        "loss": last.loss,
        "batch-p": last.precision,
    }


def _last(root: Path) -> train_log.Logged | None:
    """The numbers of the last iteration: from metrics.jsonl, which has checksums, where it exists."""
    found = metrics_log.last(root)
    if found is None:
        return train_log.last(root)
    precision = [value for tag, value in found.items() if tag.startswith("batch_prec_at_")]
    return train_log.Logged(
        found["iteration"],
        "nan" if found["loss"] is None else f"{found['loss']:.3f}",
        f"{precision[0]:.2%}" if precision and precision[0] is not None else _NONE,
    )


def _validations(root: Path, args: dict) -> dict[str, str]:
    """The cells for what was found while training."""
    metric = str(args.get("val_metric"))
    found = validations.read(root, metric)
    best = validations.best(found)
    if best is None:
        return dict.fromkeys(("best validation", "last validation"), _NONE)
    return {
        "best validation": f"{metric} {best.value:.1%} at {best.iteration}",
        "last validation": f"{found[-1].value:.1%} at {found[-1].iteration}",
    }


def _evaluations(found: Sequence[Evaluation]) -> dict[str, str]:
    """The cells for the evaluations of an experiment, which are of one kind, the newest last."""
    if not found:
        return dict.fromkeys(("best mAP", "top-1", "file", "kind", "data", "newest mAP"), _NONE)
    best = max(found, key=lambda evaluation: evaluation.mean_ap)
    newest = found[-1]
    return {
        "best mAP": f"{best.mean_ap:.1%}",
        "top-1": f"{best.top_1:.1%}",
        "file": best.path.name,
        "kind": best.kind.words,
        "data": best.kind.data,
        "newest mAP": _NONE if newest is best else f"{newest.mean_ap:.1%}",
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    common.run(main, parse_args)
