"""What a training is validated on. Without TensorFlow: it is checked before anything slow."""

import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import common
from common import UserError, first_few
from data import cameras, dataset, fids, holdout
from data.dataset import Dataset, labels_of
from evaluation import pipeline
from evaluation.pipeline import Embedded, Options
from experiment.flags import Settings, known
from runtime.terminal import log

_BLOCK = 256  # queries compared at a time


class ValidationSet(NamedTuple):
    """Queries, the gallery that they are looked for in, and how they are compared."""

    query: Dataset
    gallery: Dataset
    image_root: str | Sequence[str]
    options: Options

    def to_compare(self) -> list[Embedded]:
        """Query and gallery, still without embeddings, and with their files where these matter."""
        by_file = pipeline.excludes_by_file(self.options.excluder)
        return [
            pipeline.without_embs(
                images,
                fids.real_paths(images.paths(self.image_root), os.curdir) if by_file else None,
            )
            for images in (self.query, self.gallery)
        ]


class Data(NamedTuple):
    """What a training works with."""

    whole: Dataset  # the CSV of the training set
    train_set: Dataset  # without what is held out of it
    validation: ValidationSet | None


def load(whole: Dataset, settings: Settings) -> Data:
    """Hold out a part of a training set, or load another set to validate on, or neither.

    Raises:
        UserError: too few pids, a CSV or images that are missing, or nothing that can be found.
    """
    if settings.val_pids is not None:
        return _hold_out(whole, settings)
    if settings.val_query is None:
        return Data(whole, whole, None)
    root = settings.val_image_root or known(settings.image_root)
    if not isinstance(root, str):
        raise UserError(
            f"--val_query needs a --val_image_root, since there are several --image_root: {', '.join(root)}. Give the "
            "directory of its images."
        )
    csvs = settings.val_query, known(settings.val_gallery)
    query, gallery = _load_part(csvs[0], "query"), _load_part(csvs[1], "gallery")
    options = _options(settings, known(settings.val_excluder))
    pipeline.check_datasets(query, gallery, options, csvs)
    for csv, images in zip(csvs, (query, gallery), strict=True):
        dataset.check_sets(
            images,
            [csv],
            [root],
            settings.allow_any_path,
            allow_links=False,
            only_first=settings.no_file_check,
        )
    found = ValidationSet(query, gallery, root, options)
    check_matches(found)
    trained = dataset.pids_by_file(whole, settings.join_pids)
    _warn_about_pids_of_training(found, set().union(*trained))
    return Data(whole, whole, found)


def _load_part(csv: str, split: str) -> Dataset:
    """Of a CSV with a column split the rows of val, or where there are none those of `split`."""
    images = dataset.load(csv)
    if images.splits is None:
        return images
    return dataset.part(images, "val" if "val" in images.splits else split)


def with_seed(data: Data, settings: Settings) -> Data:
    """The same data, but what is held out is drawn by the seed of other settings."""
    return data if settings.val_pids is None else _hold_out(data.whole, settings)


def _hold_out(whole: Dataset, settings: Settings) -> Data:
    excluder = settings.val_excluder
    if excluder is None:
        # However --cameras reads them, the columns of the data set have them from here on.
        found_cameras = cameras.cameras_of(whole, settings.cameras)
        excluder = "diagonal" if found_cameras is None else "cameras"
        if found_cameras is not None:
            whole = dataclasses.replace(whole, cameras=found_cameras)
    names = pipeline.names_for(excluder, pipeline.without_embs(whole))
    made = common.load_plugin("excluders", excluder).Excluder(names)
    held, queries, gallery = holdout.hold_out(
        whole.pids,
        [camera for _, camera in made.keys(names)] if hasattr(made, "keys") else None,
        known(settings.val_pids),
        known(settings.seed),
        junk=getattr(made, "junk", None),
        distractors=settings.val_distractors,
    )
    train_set = whole.select(~held)
    pid_count = len(set(train_set.pids))
    trained = pid_count * (2 if settings.flip_makes_new_pid else 1)
    if settings.sampler == "pk" and trained < settings.batch_p:
        ways = [f"a --batch_p of at most {trained}"] if trained > 1 else []
        ways += ["a smaller --val_pids"] if len(set(whole.pids)) - pid_count > 2 else []
        ways = ways or ["more pids", "--val_query and --val_gallery in place of --val_pids"]
        raise UserError(
            f"--val_pids {settings.val_pids} leaves {pid_count} pid{'s' * (pid_count != 1)} to train on, fewer than "
            f"--batch_p {settings.batch_p} takes. Give {', or '.join(ways)}."
        )
    found = ValidationSet(
        whole.select(queries),
        whole.select(gallery),
        known(settings.image_root),
        _options(settings, excluder),
    )
    return Data(whole, train_set, found)


def _options(settings: Settings, excluder: str) -> Options:
    return Options(metric=settings.metric_to_evaluate, excluder=excluder, recalls=())


def check_matches(found: ValidationSet) -> None:
    """Warn about queries without a true match. Raises: UserError where no query has one."""
    query, gallery, _, options = found
    labels = labels_of([*query.pids, *gallery.pids])
    query_labels, gallery_labels = np.split(labels, [len(query)])
    query_names, gallery_names = (
        pipeline.names_for(options.excluder, images) for images in found.to_compare()
    )
    excluder = common.load_plugin("excluders", options.excluder).Excluder(gallery_names)
    unmatched = []
    for start in range(0, len(query), _BLOCK):
        block = slice(start, start + _BLOCK)
        same = query_labels[block, None] == gallery_labels
        has_match = (same & ~excluder(query_names[block])).any(axis=1)
        unmatched += query.fids[block][~has_match].tolist()
    if len(unmatched) == len(query):
        raise UserError(
            f"no query of {query.path} has a true match in {gallery.path} that --val_excluder "
            f"{options.excluder} does not ignore. Give the excluder that fits the data set, or a "
            "gallery with other images of these pids."
        )
    if unmatched:
        log.warning(
            f"{len(unmatched)} of the {len(query)} queries of {query.path} have no true match and "
            f"are left out of validations: {first_few(unmatched)}"
        )


def _warn_about_pids_of_training(found: ValidationSet, trained: set[str]) -> None:
    validated = set(found.query.pids)
    shared = sorted(validated & trained)
    if shared:
        log.warning(
            f"{len(shared)} of the {len(validated)} pids of {found.query.path} are in the training "
            f"set, too: {first_few(shared)}. If these are the same identities, validations will "
            "look better than a test on others."
        )
