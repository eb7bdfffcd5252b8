"""Try flags of train.py: train with values that Optuna draws, and tell which are best by validation.

    python sweep.py SPACE.json --like recipe.json --trials 20 --directory sweep
    python sweep.py SPACE.json --like recipe.json --trials 20 --directory sweep    # a second worker

Each trial is an experiment in the directory, trained by train.py in a process of its own. Those that
fall behind are ended early. Started several times on a host, for several GPUs say, the calls divide
the trials among them. After Ctrl-C, SIGTERM or a kill the same command goes on: a trial that was
begun is resumed.

It ends with a table of all trials, which flags mattered, a picture (sweep.png) and the best flags as
a file for --like (best.json). Trials are compared by the validation of the training alone; no test set
is looked at. docs/sweep.md says what SPACE.json holds.
"""

import argparse
import contextlib
import importlib.util
import math
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import common
from common import UserError
from experiment import like, rules, space, trials, validations
from experiment.flags import Settings
from experiment.space import Space
from experiment.validations import Validation
from reports import sweep as report
from reports.sweep import Row
from runtime import files, json_files, terminal
from runtime.terminal import log
from uninterrupt import Uninterrupt

if TYPE_CHECKING:
    import optuna

_REQUIREMENT = "optuna>=5,<6"
_MOST_UNFIT = 100  # draws in a row that do not fit together
_MOST_FAILED = 3  # trials of a call that fail before any has succeeded
_UNFIT = "unfit"  # an attribute of trials that were drawn, but not trained


class Plan(NamedTuple):
    """What a sweep does.

    Attributes:
        space: the flags that it tries.
        base: flags of all trials.
        metric: --val_metric, which decides.
        seed: of Optuna.
        prunes: whether trials that fall behind are ended early.
    """

    space: Space
    base: dict[str, Any]
    metric: str
    seed: int
    prunes: bool


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "space",
        type=common.readable_file,
        metavar="SPACE.json",
        help="The flags to try: lists of values, ranges, and values that are the same in all trials.",
    )
    parser.add_argument(
        "--like",
        metavar="EXPERIMENT",
        help="The other flags of all trials, as for train.py: an experiment, a recipe, or a file of flags.",
    )
    parser.add_argument(
        "--trials",
        type=common.positive_int,
        required=True,
        metavar="N",
        help="Trials to make, those of earlier calls and of other workers counted.",
    )
    parser.add_argument(
        "--directory",
        type=common.writeable_directory,
        required=True,
        metavar="DIR",
        help="Directory of the sweep: an experiment for each trial, the study, the results.",
    )
    parser.add_argument(
        "--seed",
        type=common.integer(0, most=2**31 - 1),
        default=0,
        metavar="N",
        help="Seed of what Optuna draws, and of the trainings if no other flag gives theirs: all trials hold out the "
        "same pids.",
    )
    parser.add_argument(
        "--no_pruning",
        action="store_true",
        help="Train every trial to its end. Without this flag, one ends early whose best validation is below the "
        "median of the others at the same iteration.",
    )
    args = parser.parse_args(argv)
    try:
        args.plan = make_plan(args)
    except UserError as error:
        parser.error(common.visible(str(error)))
    return args


def make_plan(args: argparse.Namespace) -> Plan:
    """Read and check what the sweep is to do.

    Raises:
        UserError: a file or a value is wrong, or trials would have no validation.
    """
    tried = space.read(args.space)
    base: dict[str, Any] = {"seed": args.seed}
    names = [*tried.fixed, *tried.varied]
    source = like.read(args.like, names) if args.like else like.Source("", {}, {})
    base |= {name: value for name, value in source.flags.items() if value is not None}
    base |= tried.fixed
    for name in tried.varied:
        base.pop(name, None)
    first = {name: values[0] for name, values in tried.choices.items()}
    first |= {name: each.low for name, each in tried.ranges.items()}
    settings = Settings(experiment_root=args.directory, **base | first)
    for name in ("train_set", "image_root"):
        if getattr(settings, name) is None:
            raise UserError(f"{name} is missing. Give it in {args.space}, or in a file for --like")
    like.check_needs(source, settings)
    if not settings.validates:
        raise UserError(
            "trials are compared by the validation of their training, and never by a test set. Give val_pids, such as "
            f"0.1, or val_query, val_gallery and val_excluder in {args.space} or in a file for --like"
        )
    return Plan(tried, base, settings.val_metric, args.seed, not args.no_pruning)


def main(args: argparse.Namespace) -> None:
    """Make the trials, as many as are left, and tell the results.

    Raises:
        SystemExit with 128 + its number when a signal ended it; the same command goes on.
    """
    terminal.setup_logging("sweep")
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            f"a sweep takes the package optuna. Install it: pip install '{_REQUIREMENT}'"
        )
    with Uninterrupt() as interrupt:
        sweep = Sweep(Path(args.directory), args.plan, args.trials)
        while not interrupt.interrupted and not sweep.is_over():
            with contextlib.ExitStack() as until_done:
                number = sweep.claim(until_done)
                if number is None:
                    time.sleep(1)  # another worker may be killed: then its trial is free
                else:
                    sweep.train(number, interrupt)
    if interrupt.interrupted:
        log.info("Interrupted. The same command goes on.")
        sys.exit(128 + interrupt.number)
    sweep.conclude()


# ------------------------------------------------------------------------- the sweep


class Sweep:
    """A sweep's directory: the study and its trials, which several processes work on.

    A trial belongs to the process that has locked it. The lock goes with the process, so a trial that
    is running in the study, but is not locked, is one whose process was killed.
    """

    def __init__(self, root: Path, plan: Plan, wanted: int):
        import optuna

        self._optuna = optuna
        self._root = root
        self._plan = plan
        self._wanted = wanted
        self._failed = 0
        self._is_waiting = False
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        (root / "study").mkdir(parents=True, exist_ok=True)
        pruners = optuna.pruners
        # What --val_start finds, before the first iteration, is no reason to end a trial.
        by_median = pruners.MedianPruner(n_warmup_steps=1)
        with self._alone():
            self._check_same()
            self._study = optuna.create_study(
                study_name="sweep",
                storage=self._storage(),
                direction="maximize",
                pruner=by_median if plan.prunes else pruners.NopPruner(),
                load_if_exists=True,
            )

    def _storage(self) -> "optuna.storages.RDBStorage":
        path = self._root.absolute() / "study" / "study.db"
        patient = {"connect_args": {"timeout": 100}}  # seconds, while another worker writes
        return self._optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs=patient)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """A context in which no other process begins a trial."""
        with contextlib.ExitStack() as until_done:
            while not self._lock(until_done, "study"):
                time.sleep(0.1)
            yield

    def _lock(self, until_done: contextlib.ExitStack, name: str) -> bool:
        """Lock what has this name, until the end of the context. Returns: False if another has it."""
        context = files.temporary_directory(self._root / "study" / name)
        try:
            until_done.enter_context(context)
        except UserError:
            return False
        return True

    def _check_same(self) -> None:
        """Raises: UserError where the directory has a sweep of other flags, or something else."""
        path = self._root / "study" / "sweep.json"
        of_space = {"choices": self._plan.space.choices, "ranges": self._plan.space.ranges}
        values = {"flags": self._plan.base, "seed": self._plan.seed, **of_space}
        values = json_files.with_digest(values)
        if not path.exists():
            files.write_json(path, values)
            return
        try:
            before = dict(json_files.read(path))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} cannot be read as JSON ({error}). Restore it.") from None
        differing = [name for name in values if values[name] != before.get(name)]
        if differing:
            raise UserError(
                f"{self._root} is a sweep with other {differing[0]}; {path} has them. Give the same SPACE.json, --like "
                "and --seed, or another --directory."
            )

    def _trials(self) -> list["optuna.trial.FrozenTrial"]:
        """Those that count: all but draws that did not fit together."""
        found = self._study.get_trials(deepcopy=False)
        return [trial for trial in found if _UNFIT not in trial.user_attrs]

    def is_over(self) -> bool:
        """Whether all trials are made."""
        found = self._trials()
        return len(found) >= self._wanted and all(trial.state.is_finished() for trial in found)

    def claim(self, until_done: contextlib.ExitStack) -> int | None:
        """Take a trial: one whose process was killed, else a new one.

        Args:
            until_done: a context that has the trial until its end.

        Returns:
            its number; None if the others are all taken.
        """
        with self._alone():
            found = self._trials()
            for trial in found:
                if not trial.state.is_finished() and self._lock(until_done, _name(trial.number)):
                    return trial.number
            if len(found) >= self._wanted:
                if not self._is_waiting:
                    log.info("Nothing is left to begin; waiting for the trials of other workers.")
                self._is_waiting = True
                return None
            number = self._draw()
            while not self._lock(until_done, _name(number)):
                time.sleep(0.1)  # nobody else can want it
            return number

    def _draw(self) -> int:
        """Draw a trial whose flags fit together, and write the file of its flags.

        Raises:
            UserError: none of many does.
        """
        for _ in range(_MOST_UNFIT):
            trial = self._study.ask()
            try:
                self._write_flags(trial)
            except UserError as error:
                reason = str(error)
                trial.set_user_attr(_UNFIT, reason)
                self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            else:
                return trial.number
        raise UserError(
            f"{_MOST_UNFIT} draws in a row do not fit together, the last one because {reason}. Change SPACE.json."
        )

    def _write_flags(self, trial: "optuna.Trial") -> None:
        """Raises: UserError for flags that do not fit together."""
        values = self._plan.base | self._suggested(trial)
        settings = Settings(experiment_root=str(self._place(trial.number).root), **values)
        rules.check_combinations(settings)
        about = {"trial": f"{trial.number} of the sweep {self._root}"}
        files.write_json(self._place(trial.number).flags, {"about": about, "flags": values})

    def _suggested(self, trial: "optuna.Trial") -> dict[str, Any]:
        """The values that are drawn; for a trial that has some, these."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Optuna calls experimental
            # From the trial's number, so that workers do not draw the same.
            seed = self._plan.seed + trial.number
            self._study.sampler = self._optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        values: dict[str, Any] = {}
        for name, choices in self._plan.space.choices.items():
            values[name] = trial.suggest_categorical(name, choices)
        for name, each in self._plan.space.ranges.items():
            if each.is_whole:
                step = int(each.step or 1)
                values[name] = trial.suggest_int(
                    name, int(each.low), int(each.high), step=step, log=each.log
                )
            else:
                values[name] = trial.suggest_float(
                    name, each.low, each.high, step=each.step, log=each.log
                )
        return values

    def _place(self, number: int) -> trials.Trial:
        name = _name(number)
        study = self._root / "study"
        return trials.Trial(self._root / name, study / f"{name}.json", study / f"{name}.log")

    def train(self, number: int, interrupt: Uninterrupt) -> None:
        """Train a claimed trial, from its start or from where it is, and record how it ended."""
        frozen = self._study.get_trials(deepcopy=False)[number]
        if frozen.state.is_finished():  # between the look at it and its lock
            return
        trial = self._optuna.trial.Trial(self._study, frozen._trial_id)
        place = self._place(number)
        if not place.flags.exists():  # its process was killed while it was drawn
            try:
                self._write_flags(trial)
            except UserError as error:
                trial.set_user_attr(_UNFIT, str(error))
                self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)
                return
        words = " ".join(f"{name} {value}" for name, value in trial.params.items())
        doing = "goes on" if place.root.exists() else "begins"
        log.info(f"Trial {number} {doing}: {words}.")
        reported = set(frozen.intermediate_values)

        def is_hopeless(found: list[Validation]) -> bool:
            for each in found:
                if each.iteration not in reported:
                    trial.report(each.value, each.iteration)
                    reported.add(each.iteration)
            return bool(found) and trial.should_prune()

        outcome = trials.train(place, self._plan.metric, is_hopeless, interrupt)
        self._record(number, outcome)

    def _record(self, number: int, outcome: trials.Outcome) -> None:
        states = self._optuna.trial.TrialState
        found = validations.read(self._place(number).root, self._plan.metric)
        best = validations.best(found)
        if outcome.state == "interrupted":
            log.info(f"Trial {number} is interrupted and saved.")
        elif outcome.state == "finished" and best:
            self._study.tell(number, best.value)
            log.info(f"Trial {number}: {self._plan.metric} {best.value:.1%} at {best.iteration}.")
        elif outcome.state == "pruned":
            self._study.tell(number, state=states.PRUNED)
            log.info(f"Trial {number} is behind the others at {found[-1].iteration}: ended early.")
        else:
            reason = outcome.reason or "it has no validation"
            self._study.tell(number, state=states.FAIL)
            log.warning(f"Trial {number} failed: {reason} ({self._place(number).output})")
            self._failed += 1
            good = (states.COMPLETE, states.PRUNED)
            if self._failed >= _MOST_FAILED and not any(t.state in good for t in self._trials()):
                raise UserError(
                    f"{self._failed} trials failed and none succeeded. The last one: {reason}"
                )

    def conclude(self) -> None:
        """Print the table, write the picture and best.json. Raises: UserError: no trial finished."""
        found = [self._row(trial) for trial in self._trials()]
        print("\n".join(terminal.columns(report.table(found, self._plan.metric))))
        best = max((row for row in found if row.state == "finished"), key=_value, default=None)
        if best is None:
            raise UserError("no trial finished, so there is no best one. Look at their logs.")
        importances = self._importances()
        if importances:
            parts = [f"{name} {share:.0%}" for name, share in importances.items()]
            print(f"\nWhat made the difference: {', '.join(parts)}")
        with self._alone():
            report.draw(self._root / "sweep.png", found, self._plan.space.ranges, self._plan.metric)
            self._write_best(best)
        log.info(f"Wrote {self._root / 'sweep.png'} and {self._root / 'best.json'}, for --like.")

    def _row(self, trial: "optuna.trial.FrozenTrial") -> Row:
        states = {"COMPLETE": "finished", "PRUNED": "ended early", "FAIL": "failed"}
        found = validations.read(self._place(trial.number).root, self._plan.metric)
        best = validations.best(found)
        state = states.get(trial.state.name, "running")
        flags_drawn = {name: trial.params[name] for name in self._plan.space.varied}
        return Row(trial.number, state, best, flags_drawn)

    def _importances(self) -> dict[str, float]:
        """Shares of the flags, which sum to 1, the largest first; {} where too little is known."""
        evaluator = self._optuna.importance.PedAnovaImportanceEvaluator
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = self._optuna.importance.get_param_importances(
                    self._study, evaluator=evaluator()
                )
            except (ValueError, RuntimeError):  # fewer than two trials, say
                return {}
        return found if all(map(math.isfinite, found.values())) else {}

    def _write_best(self, best: Row) -> None:
        values = json_files.read(self._place(best.number).flags)
        found = best.best
        assert found
        values["about"] = {
            "trial": f"{best.number} of {len(self._trials())} of the sweep {self._root}",
            "reaches": f"{self._plan.metric} {found.value:.1%} at {found.iteration}, on its validation",
        }
        files.write_json(self._root / "best.json", values)


def _name(number: int) -> str:
    return f"trial-{number:04}"


def _value(row: Row) -> float:
    return row.best.value if row.best else 0.0


if __name__ == "__main__":
    common.run(main, parse_args)
