"""Train an embedding for re-identification with a triplet loss over P×K batches.

python train.py --experiment_root exp --train_set train.csv --image_root images
python train.py --experiment_root exp --resume
python train.py --experiment_root exp2 --like exp --batch_p 16
"""

import argparse
import contextlib
import dataclasses
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
from common import UserError, first_few
from data import cameras, dataset, pids, samplers
from data.dataset import Dataset
from experiment import args_json, flags, folder, like, provenance, rules
from experiment.flags import Settings, known
from experiment.provenance import Run
from network import hub
from runtime import terminal
from runtime.cluster import explain_lost_workers, find_cluster, make_strategy
from runtime.terminal import log
from training import pairs, trackers, validation_set
from training.validation_set import Data


class Call(NamedTuple):
    """What the command line says."""

    settings: Settings  # for a new experiment they are checked; when resuming, args.json counts
    given: dict[str, Any]  # the flags that were typed, or that --like gives
    resume: bool
    accept_changed_data: bool = False
    start_or_resume: bool = False  # `main` looks which of the two it is
    told: Sequence[str] = ()  # what there is to say of --like


def parse_args(argv: list[str] | None = None) -> Call:
    """Parse the command line, and for a new experiment check the flags together."""
    parser = flags.make_parser(__doc__)
    values = vars(parser.parse_args(argv))
    unset = object()
    untyped = argparse.Namespace(**dict.fromkeys(values, unset))
    typed = vars(parser.parse_args(argv, untyped))
    given = {name: value for name, value in typed.items() if value is not unset}
    resume, start_or_resume = values.pop("resume"), values.pop("start_or_resume")
    accept_changed_data = values.pop("accept_changed_data")
    name, without = values.pop("like"), values.pop("without")
    if resume and start_or_resume:
        parser.error("argument --start_or_resume: it resumes where it can. Leave out --resume")
    if resume and name is not None:
        parser.error("argument --like: is for a new experiment. Leave it out beside --resume")
    if accept_changed_data and not (resume or start_or_resume):
        parser.error("argument --accept_changed_data: has an effect only with --resume")
    if without and name is None:
        parser.error("argument --without: has an effect only with --like")
    source = None
    try:
        if name is not None:
            source = like.read(name, given, without)
            values |= source.flags | {each: given[each] for each in given if each in values}
        settings = Settings(**values)
        if not resume:
            _check_new(settings, source)
    except UserError as error:
        parser.error(common.visible(str(error)))
    told: Sequence[str] = ()
    if source:
        told = like.tell(source, given)
        given = {each: value for each, value in source.flags.items() if value is not None} | given
    return Call(settings, given, resume, accept_changed_data, start_or_resume, told)


def _check_new(settings: Settings, source: like.Source | None) -> None:
    """Raises: UserError for flags that are missing for a new experiment, or do not fit together."""
    for name in ("train_set", "image_root"):
        if getattr(settings, name) is None:
            raise UserError(
                f"argument --{name}: needed for a new experiment (to go on with an old one: --resume)"
            )
    if source:
        like.check_needs(source, settings)
    try:
        rules.check_combinations(settings)
    except UserError as error:
        raise UserError(f"{error}{like.advice(source)}") from None


def main(call: Call) -> None:
    """Check all that can be wrong before anything slow and before anything is written; train.

    Raises:
        SystemExit with 128 + its number when a signal interrupted the training, which is saved.
    """
    terminal.setup_logging("train")
    call = _decided(call)
    cluster = find_cluster(_strategy_of(call))
    if not cluster.is_chief:
        log.setLevel("ERROR")  # the chief's lines are enough
    for line in () if call.resume else call.told:
        log.info(line)
    seen = _look(call.settings.experiment_root) if call.resume else None
    settings = _settings_to_resume(call) if call.resume else call.settings
    if settings.seed is None:
        settings = dataclasses.replace(settings, seed=secrets.randbits(31))
    for line in rules.doubtful(settings):
        log.warning(line)
    if cluster.is_chief:
        trackers.check(settings)
        _check_root(call)
    data = _load_data(settings, call.resume)
    is_of_hub = str(settings.initial_checkpoint).startswith(flags.OF_HUB)
    if cluster.is_chief and is_of_hub and not call.resume:
        hub.fetch(known(settings.initial_checkpoint))
    run = _begin_run(settings, data, call, cluster.is_chief)
    lock = _lock(call, seen) if cluster.is_chief else contextlib.nullcontext()
    with lock, explain_lost_workers(cluster):
        strategy = make_strategy(settings.strategy)  # imports TensorFlow
        from training import loop

        signal_number = loop.train(settings, data, strategy, cluster, run)
    if signal_number:
        sys.exit(128 + signal_number)


def _decided(call: Call) -> Call:
    """What --start_or_resume means now: resuming, where there is an experiment.

    Raises:
        UserError: there is one with other flags.
    """
    root = call.settings.experiment_root
    if not call.start_or_resume or not os.path.exists(Path(root, "args.json")):
        return call
    args_json.check_same(call.settings, call.given)
    return call._replace(resume=True)


def _check_root(call: Call) -> None:
    """Raises: UserError unless the directory can be used."""
    root = call.settings.experiment_root
    if call.resume:
        folder.check_writeable(root)
    elif call.start_or_resume:
        folder.check_new(root, "It holds no args.json to resume by. Give another directory.")
    else:
        folder.check_new(root)


@contextlib.contextmanager
def _lock(call: Call, seen: tuple | None) -> Iterator[None]:
    """Have an experiment to oneself.

    Args:
        seen: what was seen of it before, when resuming.

    Raises:
        UserError: another training has it, or had it since then.
    """
    root = call.settings.experiment_root
    with folder.lock(root):
        if seen is None and call.start_or_resume:
            folder.check_new(root, "Another training began there meanwhile. Call again.")
        elif seen is None:
            folder.check_new(root)
        elif seen != _look(root):
            raise UserError(
                f"another training has gone on with {root} while this one was starting. Look at "
                "its train.log, then call again."
            )
        yield


def _look(root: str) -> tuple[dict, int]:
    """What a resumed training is checked against: its flags, and how far it is."""
    return args_json.read(root), folder.newest_iteration(root)


def _strategy_of(call: Call) -> str:
    """--strategy if it was typed; when resuming else that of args.json."""
    if call.resume and "strategy" not in call.given:
        return args_json.load(call.settings.experiment_root)[0].strategy
    return call.settings.strategy


def _settings_to_resume(call: Call) -> Settings:
    root = call.settings.experiment_root
    settings = args_json.resume(call.settings, call.given)
    try:
        rules.check_combinations(settings, resuming=True)
    except UserError as error:
        given = [f"--{name}" for name in flags.CHANGED_BY_RESUMING if name in call.given]
        beside = f", with {' '.join(given)} as given here" if given else ""
        raise UserError(f"in {root}/args.json{beside}: {error}") from None
    return settings


def _load_data(settings: Settings, resuming: bool) -> Data:
    """Read what is trained and validated on, and check that it is good for that."""
    try:
        paths = flags.several(settings.train_set)
        train_set = dataset.load_sets(paths, "train", settings.join_pids)
        cameras.cameras_of(train_set, settings.cameras)
        data = validation_set.load(train_set, settings)
        if settings.camera_rule and settings.camera_names:
            found = known(cameras.cameras_of(data.train_set, settings.camera_rule))
            cameras.check_known(found, settings.camera_names)
        drawn_from = _with_copies(data.train_set, settings)
        sampler = samplers.make(drawn_from, settings.batch_plan, seed=0)
        dataset.check_sets(
            train_set,
            paths,
            flags.several(settings.image_root),
            settings.allow_any_path,
            allow_links=resuming,  # which began before links were looked at, perhaps
            only_first=settings.no_file_check,
        )
    except UserError as error:
        if not resuming:
            raise
        path = Path(settings.experiment_root, "args.json")
        raise UserError(
            f"{error} (When resuming, train_set, image_root, {_size_flag(settings)} and the validation are those of "
            f"{path}.)"
        ) from None
    if sampler.too_small:
        log.warning(
            f"{len(sampler.too_small)} groups have fewer than {sampler.needed}, and are left out: "
            f"{first_few(sampler.too_small)}"
        )
    K = settings.batch_k if settings.sampler == "pk" else None
    for of_file in dataset.pids_by_file(data.train_set, settings.join_pids):
        for line in pids.warnings(of_file, K):
            log.warning(line)
    pairs.check(sampler, drawn_from, settings, resuming)
    return data


def _size_flag(settings: Settings) -> str:
    return "batch_p" if settings.sampler == "pk" else "batch_size"


def _with_copies(train_set: Dataset, settings: Settings) -> Dataset:
    return dataset.with_mirrored(train_set) if settings.flip_makes_new_pid else train_set


def _begin_run(settings: Settings, data: validation_set.Data, call: Call, is_chief: bool) -> Run:
    """What the chief records of a run. Raises: UserError for data that have changed."""
    run = provenance.begin(call.resume)
    if not is_chief:
        return run
    sets = {"train_set": (data.whole, known(settings.image_root))}
    if data.validation and settings.val_query:
        root = data.validation.image_root
        sets["val_query"] = data.validation.query, root
        sets["val_gallery"] = data.validation.gallery, root
    for name, (images, image_root) in sets.items():
        csvs = flags.several(getattr(settings, name))
        run.data[name] = provenance.fingerprint(csvs, images, image_root)
    if not call.resume:
        return run
    return provenance.check(settings.experiment_root, run, call.accept_changed_data)


if __name__ == "__main__":
    common.run(main, parse_args)
