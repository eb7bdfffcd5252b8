"""What the detailed logs tell of a training: images that stay hard, pids that get confused.

    python -m reports.hard_images exp
    python -m reports.hard_images exp --directory looked_at

prints the images whose loss is highest beside that of their batches, the pids that are closest to
one another, and how distances changed. With --directory it also writes these as a page with the
images, index.html, and the distances as a PNG.
"""

import argparse
import dataclasses
import html
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import common
from common import UserError
from data import dataset
from data.dataset import ImageFiles
from evaluation import distances
from experiment import args_json, detailed_logs
from experiment.detailed_logs import Logged
from experiment.flags import OneOrSeveral, known, several
from reports import page
from runtime import terminal
from runtime.terminal import log

LAST = 5  # batches with an image that count
MIN_BATCHES = 3  # an image that was in fewer is not ranked, unless none was in so many
SHOWN = 20  # images, and pairs of pids
SAMPLED_BATCHES = 1000  # whose distances are computed, at most
PRINTED_BATCHES = 6  # of these
PERCENTILES = (5, 50, 95)


class HardImage(NamedTuple):
    """An image and its last batches, LAST at most."""

    pid: str
    fid: str
    loss: float  # its mean
    relative: float  # its mean, divided by the mean of the batches
    batches: int


class ConfusedPids(NamedTuple):
    pid: str
    other: str
    counts: str  # how often they were confused, of how many times that they could be


class Findings(NamedTuple):
    """What the logs tell."""

    hard: list[HardImage]
    min_batches: int  # that an image was in, to be ranked
    confused: list[ConfusedPids]
    iterations: np.ndarray  # int [n], those whose distances were computed
    percentiles: np.ndarray  # float [n, 2, 3], as from distance_percentiles


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m reports.hard_images"
    parser.add_argument(
        "experiment_root",
        type=common.readable_directory,
        metavar="DIR",
        help="Directory of an experiment that was trained with --detailed_logs.",
    )
    parser.add_argument(
        "--directory",
        type=common.writeable_directory,
        metavar="DIR",
        help="Also write a page with the images, index.html, and a chart, distances.png, to this "
        "directory. It is created if it does not exist.",
    )
    parser.add_argument(
        "--train_set",
        type=common.readable_file,
        nargs="+",
        action=OneOrSeveral,
        metavar="CSV",
        help="CSV of the training set. Without this flag, it is read from where args.json says.",
    )
    common.add_flag(
        parser,
        "image_root",
        nargs="+",
        action=OneOrSeveral,
        help="Directory that the file ids of the CSV are relative to. Without this flag, that of args.json.",
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    terminal.setup_logging("hard_images")
    root = Path(args.experiment_root)
    settings, _ = args_json.load(root)
    train_set = several(known(args.train_set or settings.train_set))
    image_root = several(known(args.image_root or settings.image_root))
    logged = detailed_logs.read_all(root)
    images = dataset.load_sets(train_set, "train", settings.join_pids)
    if settings.flip_makes_new_pid:
        images = dataset.with_mirrored(images)
    pid_of = dict(zip(images.names(), images.pids, strict=True))
    _warn_about_several_pids(images, pid_of)
    if args.directory:
        page.check_replaced(args.directory, "index.html", ["distances.png"])
        dataset.check_sets(images, train_set, image_root, settings.allow_any_path)
    try:
        findings = find(logged, pid_of, settings.metric)
    except KeyError as error:
        raise UserError(
            f"{images.path} lacks the image {error} of the detailed logs. Give the --train_set of the training."
        ) from None
    B = len(logged.fids[0])
    print(f"{len(logged.rows)} iterations of {B} images are in the detailed logs of {root}.\n")
    _print(findings, settings.metric)
    if args.directory:
        fid_of = {pid: fid for fid, pid in reversed(pid_of.items())}  # the first of each pid
        images = dataclasses.replace(images, upright=settings.upright)
        files = images.files(image_root if len(image_root) > 1 else image_root[0])
        rows = {name: row for row, name in enumerate(images.names())}
        _Report(root, files, rows, fid_of).write(Path(args.directory), findings)
        print(f"\nWrote {Path(args.directory) / 'index.html'}.")


def _warn_about_several_pids(images: dataset.Dataset, pid_of: Mapping[str, str]) -> None:
    pairs = zip(images.pids, images.names(), strict=True)
    several = sorted({name for pid, name in pairs if pid_of[name] != pid})
    if several:
        log.warning(
            f"{len(several)} of the images of {images.path} stand under several pids. The last one counts here, with "
            f"whichever an image was trained: {common.first_few(several)}"
        )


# ------------------------------------------------------------------------- what the logs tell


def find(logged: Logged, pid_of: Mapping[str, str], metric: str) -> Findings:
    """Look through the logs.

    Raises:
        KeyError for a fid that pid_of lacks.
    """

    def batch(row):
        """The pids [B] and distances [B, B] of an iteration."""
        pids = np.array([pid_of[_text(fid)] for fid in logged.fids[row].tolist()], dtype=object)
        embs = logged.embeddings[row]
        return pids, distances.cdist(embs, embs, metric)

    hard, min_batches = hard_images(logged, pid_of)
    second_half = logged.rows[len(logged.rows) // 2 :]
    pairs = confused_pids(batch(row) for row in _spread(second_half, SAMPLED_BATCHES))
    confused = [
        ConfusedPids(pid, other, f"{count} of {possible}")
        for (pid, other), (count, possible) in pairs.items()
    ]
    sampled = _spread(logged.rows, SAMPLED_BATCHES)
    percentiles = np.stack([distance_percentiles(*batch(row)) for row in sampled])
    return Findings(hard[:SHOWN], min_batches, confused, sampled + 1, percentiles)


def hard_images(logged: Logged, pid_of: Mapping[str, str]) -> tuple[list[HardImage], int]:
    """Rank images by their loss beside that of the batches that they were in, the hardest first.

    Losses fall during a training: the loss alone would put those first that were last drawn early.
    Several copies of an image in a batch count as one, with their mean.

    Returns:
        The images, and the number of batches that each of them was in at least.
    """
    seen = defaultdict(list)  # (its loss, the batch's mean), the newest first
    for row in reversed(logged.rows):
        losses = logged.losses[row].astype(np.float64)
        copies = defaultdict(list)
        for fid, loss in zip(logged.fids[row].tolist(), losses.tolist(), strict=True):
            copies[fid].append(loss)
        for fid, of_copies in copies.items():
            if len(seen[fid]) < LAST:
                seen[fid].append((np.mean(of_copies), losses.mean()))
    min_batches = min(MIN_BATCHES, max(map(len, seen.values())))
    images = []
    for encoded, pairs in seen.items():
        if len(pairs) < min_batches:
            continue
        fid = _text(encoded)
        loss, of_batches = np.mean(pairs, axis=0).tolist()
        relative = loss / of_batches if of_batches else 0.0  # all losses of the batches are 0
        images.append(HardImage(pid_of[fid], fid, loss, relative, len(pairs)))
    return sorted(images, key=lambda image: -image.relative), min_batches


def confused_pids(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
) -> dict[tuple[str, str], tuple[int, int]]:
    """The pairs of pids that are confused most often, SHOWN of them.

    A pair is confused when an image of the one has its closest other pid in an image of the other.

    Args:
        batches: pids [B] and distances [B, B] of each.

    Returns:
        how often each pair was confused, and how often it could be, both being in the batch; the
        most often confused one first.
    """
    closest = Counter()
    present = []
    for pids, dists in batches:
        same = _same(pids)
        others = np.where(same, np.inf, dists).argmin(axis=1)
        anchors = np.flatnonzero(~same.all(axis=1))  # none, if the batch is of one pid
        pairs = zip(pids[anchors].tolist(), pids[others[anchors]].tolist(), strict=True)
        closest.update(tuple(sorted(pair)) for pair in pairs)
        present.append(Counter(pids.tolist()))
    found = {}
    for (a, b), count in closest.most_common(SHOWN):
        possible = sum(images[a] + images[b] for images in present if images[a] and images[b])
        found[a, b] = count, possible
    return found


def distance_percentiles(pids: np.ndarray, dists: np.ndarray) -> np.ndarray:
    """PERCENTILES of a batch's distances, float [2, 3]: of pairs of one pid, and of two pids.

    An image and itself are no pair. NaN where a batch that is not P×K has no such pair.

    Args:
        pids: [B].
        dists: [B, B].
    """
    same = _same(pids)
    one_pid = dists[same & ~np.eye(len(pids), dtype=bool)]
    two_pids = dists[~same]
    return np.stack(
        [
            np.percentile(pairs, PERCENTILES) if pairs.size else np.full(len(PERCENTILES), np.nan)
            for pairs in (one_pid, two_pids)
        ]
    )


def _text(fid: bytes) -> str:
    return fid.decode("utf-8", "replace")  # what is damaged is no image of the CSV


def _same(pids: np.ndarray) -> np.ndarray:
    """Which pairs are of one pid: [B] -> bool [B, B]."""
    return pids[:, None] == pids


def _spread(values: Sequence[int], count: int) -> np.ndarray:
    """`count` of the values, evenly spread with both ends, or all."""
    places = np.linspace(0, len(values) - 1, count).astype(int)
    return np.asarray(values)[np.unique(places)]


# ------------------------------------------------------------------------- in the terminal


def _print(findings: Findings, metric: str) -> None:
    print(
        f"Hard images: loss beside that of its batches, loss, batches (the last {LAST}), pid, fid"
    )
    print(f"(of images in at least {findings.min_batches} batches)")
    _print_columns(
        [
            (f"{image.relative:.2f} times", f"{image.loss:.3f}", str(image.batches), *image[:2])
            for image in findings.hard
        ]
    )
    print(
        "\nPids that get confused: in the second half, how often an image of the one was closest to the other"
    )
    _print_columns(findings.confused)
    print(f"\nDistances, {metric}: 5%, median and 95% of pairs of one pid, and of two")
    rows = []
    for index in _spread(range(len(findings.iterations)), PRINTED_BATCHES):
        numbers = [f"{number:.3f}" for number in findings.percentiles[index].ravel()]
        rows.append([f"iter {findings.iterations[index]}", *numbers])
    _print_columns(rows)


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    for line in terminal.columns(rows):
        print(f"  {line}")


# ------------------------------------------------------------------------- as a page


class _Report:
    """The page of an experiment's detailed logs.

    Args:
        root: of the experiment.
        files: of the data set.
        rows: the row of each image, by its name.
        fid_of: the name of an image of each pid.
    """

    def __init__(
        self, root: Path, files: ImageFiles, rows: Mapping[str, int], fid_of: Mapping[str, str]
    ):
        self._root = root
        self._files = files
        self._rows = rows
        self._fid_of = fid_of

    def write(self, directory: Path, findings: Findings) -> None:
        """Write index.html and distances.png into the directory, created if need be."""
        directory.mkdir(exist_ok=True)
        iterations = findings.iterations
        caption = _caption(findings)
        alt = f"Distances over the iterations. {caption}"
        chart = page.chart(_figure(findings), directory, "distances", alt)
        hard = "\n".join(map(self._hard_image, findings.hard))
        confused = "\n".join(map(self._confused_pids, findings.confused))
        page.write(
            directory / "index.html",
            "Detailed logs",
            f"""
<h1>Detailed logs</h1>
<p class="muted">{html.escape(str(self._root))}, iterations {iterations[0]:,} to {iterations[-1]:,}.</p>
<h2>Distances</h2>
<figure class="half">{chart}<figcaption>{caption}</figcaption></figure>
<h2>Images that stay hard</h2>
<p>Their loss is highest beside the mean loss of the batches that they were in, the last {LAST} that had them: 2 times
means twice that mean. Images in fewer than {findings.min_batches} batches are left out.</p>
<ol class="ranked">
{hard}
</ol>
<h2>Pids that get confused</h2>
<p>An image of each. The number tells how often, in the second half of the iterations, the image of another pid that was
closest to one of the pair was one of the other; of how many times that both were in the batch.</p>
<ol class="ranked">
{confused}
</ol>
""",
        )

    def _hard_image(self, image: HardImage) -> str:
        picture = self._picture(image.pid, image.fid)
        pid = html.escape(image.pid)
        return (
            f"<li>{picture}<span>{image.relative:.2f} times</span><span>loss {image.loss:.3f}</span>"
            f"<span>{pid}</span></li>"
        )

    def _confused_pids(self, pair: ConfusedPids) -> str:
        pictures = "".join(self._picture(pid, self._fid_of[pid]) for pid in (pair.pid, pair.other))
        pids = f"{html.escape(pair.pid)}, {html.escape(pair.other)}"
        return f"<li>{pictures}<span>{pids}</span><span>{pair.counts}</span></li>"

    def _picture(self, pid: str, fid: str) -> str:
        title = f"{pid}, {fid}"
        row = self._rows[fid]
        thumbnail = page.thumbnail(self._files, row)
        image = page.picture(thumbnail, title)
        return f'<span class="picture" title="{html.escape(title)}">{image}</span>'


def _caption(findings: Findings) -> str:
    ends = []
    whole = np.flatnonzero(np.isfinite(findings.percentiles).all(axis=(1, 2)))
    if not len(whole):
        return "Medians, and the range from 5% to 95%. No batch has pairs of one pid and of two."
    for index in (whole[0], whole[-1]):
        low, high = findings.percentiles[index, :, 1]
        ends.append(f"{low:.3g} and {high:.3g} at iteration {findings.iterations[index]}")
    return (
        "Medians, and the range from 5% to 95%. The medians of one pid and of two: "
        f"{', '.join(ends)}."
    )


def _figure(findings: Findings):
    """A Matplotlib figure of the distances over the iterations."""
    figure, plot = page.axes("Iteration", "Distance")
    for index, color, style, name in ((0, "true", "-", "one pid"), (1, "wrong", "--", "two pids")):
        low, median, high = findings.percentiles[:, index].T
        color = page.COLORS[color]
        plot.fill_between(findings.iterations, low, high, color=color, alpha=0.2, linewidth=0)
        plot.plot(
            findings.iterations,
            median,
            color=color,
            linestyle=style,
            linewidth=1,
            label=f"pairs of {name}",
        )
    page.legend(plot)
    return figure


if __name__ == "__main__":
    common.run(main, parse_args)
