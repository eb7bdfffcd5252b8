"""The files of --detailed_logs, and what they tell of a training: images that stay hard, pids that
get confused.

    python -m experiment.detailed_logs exp
    python -m experiment.detailed_logs exp --directory looked_at

prints the images of the highest loss, the pids that are closest to one another, and how distances
went; with --directory it also writes these as a page with the images, index.html, and the distances
as a PNG.

The files, to be memory-mapped: `embeddings` float32 [iterations, B, D], `losses` float32
[iterations, B] and `fids` bytes [iterations, B], row i belonging to iteration i + 1; beside each a
`<name>.json` = {"dtype": ..., "shape": [...]}. Rows of iterations that did not run yet are 0.
"""

import argparse
import html
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

import common
from common import UserError
from data import dataset
from evaluation import distances
from experiment import args_json
from runtime import files

LAST = 5  # appearances of an image that its loss is the mean of
SHOWN = 20  # images, and pairs of pids
SAMPLED_BATCHES = 1000  # whose distances are computed, at most
PERCENTILES = (5, 50, 95)


class DetailedLogs:
    """The files of an experiment, to write to: a context that opens and closes them.

    They are written to and not mapped: with a mapped file a full disk would kill the process, not
        raise OSError.

    Args:
      root: the experiment's directory.
      files: {name: (dtype, shape)}; {} for no logs. A file that is there may become longer in its
        first dimension; its rows are kept.

    Raises: UserError when a file there is of another dtype or of another shape beyond the first
        dimension.
    """

    def __init__(self, root: str | os.PathLike, files: dict[str, tuple]):
        self._root = Path(root)
        self._files = {
            name: (np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in files.items()
        }
        for name, (dtype, shape) in self._files.items():
            if self._described(name):
                before = read(self._root / name)
                if before.dtype != dtype or before.shape[1:] != shape[1:]:
                    raise UserError(
                        f"{self._root / name} holds {before.dtype} {list(before.shape)}, which does not go on as "
                        f"{dtype} {list(shape)}: the data set or the batch changed since. Move the detailed logs "
                        "elsewhere to go on."
                    )
                self._files[name] = dtype, (max(shape[0], len(before)), *shape[1:])
        self._open = {}

    def _described(self, name: str) -> bool:
        """A kill can leave a file whose description, written last, is not there yet: it is begun
        again.
        """
        return (self._root / name).exists() and (self._root / f"{name}.json").exists()

    def __enter__(self) -> "DetailedLogs":
        for name, (dtype, shape) in self._files.items():
            path = self._root / name
            self._open[name] = open(path, "r+b" if self._described(name) else "w+b")  # noqa: SIM115, __exit__ closes it
            # Sparse: rows take up disk space once they are written.
            self._open[name].truncate(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
            files.write_json(f"{path}.json", {"dtype": dtype.str, "shape": shape})
        return self

    def __exit__(self, *_) -> None:
        for file in self._open.values():
            file.close()

    def write(self, index: int, **rows: np.ndarray) -> None:
        """Row `index` of every file, by its name; rows of files that are not kept are passed over.

        Raises: OSError when the disk is full, ValueError for a row of another shape.
        """
        for name, file in self._open.items():
            dtype, shape = self._files[name]
            row = np.asarray(rows[name], dtype)
            if row.shape != shape[1:]:
                raise ValueError(
                    f"a row of {name} should be {list(shape[1:])}. Received: {list(row.shape)}"
                )
            file.seek(index * row.nbytes)
            file.write(row.tobytes())
            file.flush()

    def sync(self) -> None:
        """Have what was written on the disk."""
        for file in self._open.values():
            os.fsync(file.fileno())


def read(path: str | os.PathLike) -> np.memmap:
    """The whole file, memory-mapped and read-only, as its `<name>.json` describes it."""
    description = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    return np.memmap(path, dtype=description["dtype"], mode="r", shape=tuple(description["shape"]))


# ------------------------------------------------------------------------- what they tell


def hard_images(losses: np.ndarray, fids: np.ndarray, rows: Sequence[int]) -> dict[str, float]:
    """The mean loss of each image over its LAST last appearances, by fid, from the highest on.

    Args:
        losses, fids: as in the files, [iterations, B]. rows: of the iterations that ran, ascending.
    """
    seen = defaultdict(list)
    for row in reversed(rows):
        for fid, loss in zip(fids[row].tolist(), losses[row].tolist(), strict=True):
            if len(seen[fid]) < LAST:
                seen[fid].append(loss)
    means = {fid.decode(): sum(last) / len(last) for fid, last in seen.items()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def confused_pids(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
) -> dict[tuple[str, str], tuple[int, int]]:
    """Pairs of pids, how often an image of the one had its closest other pid in an image of the
    other, and how often it could have, both being in the batch; most often first.

    Args:
        batches: pids [B] and distances [B, B] of each.
    """
    closest, present = Counter(), []
    for pids, dists in batches:
        others = np.where(pids[:, None] == pids, np.inf, dists).argmin(axis=1)
        closest.update(
            tuple(sorted(pair)) for pair in zip(pids.tolist(), pids[others].tolist(), strict=True)
        )
        present.append(Counter(pids.tolist()))
    return {
        (a, b): (count, sum(images[a] + images[b] for images in present if images[a] and images[b]))
        for (a, b), count in closest.most_common(SHOWN)
    }


def distance_percentiles(pids: np.ndarray, dists: np.ndarray) -> np.ndarray:
    """PERCENTILES of a batch's distances, float [2, 3]: of pairs of one pid, without images and
    themselves, and of two.

    Args:
        pids: [B]. dists: [B, B].
    """
    same = pids[:, None] == pids
    return np.stack(
        [
            np.percentile(dists[pairs], PERCENTILES)
            for pairs in (same & ~np.eye(len(pids), dtype=bool), ~same)
        ]
    )


# ------------------------------------------------------------------------- the command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m experiment.detailed_logs"
    parser.add_argument(
        "experiment_root", type=common.readable_directory, metavar="DIR", help="An experiment."
    )
    parser.add_argument(
        "--directory",
        type=common.writeable_directory,
        metavar="DIR",
        help="Also write index.html, with the images, and distances.png there. Created if need be.",
    )
    parser.add_argument(
        "--train_set",
        type=common.readable_file,
        metavar="CSV",
        help="The data set of the training, where it is now. Where args.json says when not given.",
    )
    common.add_flag(
        parser, "image_root", help="Directory that its file ids are relative to, likewise."
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    root = Path(args.experiment_root)
    flags, _ = args_json.load(root)
    train_set, image_root = args.train_set or flags.train_set, args.image_root or flags.image_root
    if not (root / "losses.json").exists():
        raise UserError(f"{root} has no detailed logs. Train with --detailed_logs.")
    embs, losses, fids = (read(root / name) for name in ("embeddings", "losses", "fids"))
    rows = np.flatnonzero(fids[:, 0] != b"").tolist()
    if not rows:
        raise UserError(f"no iteration of {root} is in its detailed logs yet. Wait for the first.")
    pid_of = {fid: pid for pid, fid in zip(*dataset.load(train_set), strict=True)}

    def batch(row):
        """The pids [B] and distances [B, B] of an iteration."""
        try:
            pids = np.array([pid_of[fid.decode()] for fid in fids[row].tolist()])
        except KeyError as error:
            raise UserError(
                f"{train_set} lacks the image {error} of the detailed logs. Give the --train_set of the training."
            ) from None
        return pids, distances.cdist(embs[row], embs[row], flags.metric)

    if args.directory:
        dataset.check_images(train_set, image_root, list(pid_of), flags.allow_any_path)
    hard = hard_images(losses, fids, rows)
    confused = confused_pids(batch(row) for row in _spread(rows[len(rows) // 2 :]))
    sampled = _spread(rows)
    percentiles = np.stack([distance_percentiles(*batch(row)) for row in sampled])

    iterations = np.add(sampled, 1)
    hard_rows = [(f"{loss:.3f}", pid_of[fid], fid) for fid, loss in list(hard.items())[:SHOWN]]
    confused_rows = [
        (a, b, f"{count} of {possible}") for (a, b), (count, possible) in confused.items()
    ]
    print(f"{len(rows)} iterations of {len(fids[0])} images are in the detailed logs of {root}.\n")
    print(f"Hard images: mean loss over the last {LAST} appearances, pid, fid")
    _print(hard_rows)
    print(
        "\nPids that get confused: in the second half, how often an image of the one was closest to the other"
    )
    _print(confused_rows)
    print(f"\nDistances, {flags.metric}: 5 %, median and 95 % of pairs of one pid, and of two")
    some = np.unique(np.linspace(0, len(sampled) - 1, 6).astype(int))
    _print([(f"iter {iterations[i]}", *(f"{x:.3f}" for x in percentiles[i].ravel())) for i in some])
    if args.directory:
        first_fid = {pid: fid for fid, pid in reversed(pid_of.items())}
        _write_page(
            Path(args.directory),
            root,
            image_root,
            hard_rows,
            confused_rows,
            first_fid,
            iterations,
            percentiles,
        )
        print(f"\nWrote {Path(args.directory) / 'index.html'}.")


def _spread(rows: Sequence[int]) -> Sequence[int]:
    """SAMPLED_BATCHES of the rows, evenly spread with both ends, or all."""
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, SAMPLED_BATCHES).astype(int))]


def _print(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  "
            + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _write_page(
    directory: Path,
    root: Path,
    image_root: str,
    hard_rows: Sequence[tuple[str, str, str]],
    confused_rows: Sequence[tuple[str, str, str]],
    first_fid: Mapping[str, str],
    iterations: np.ndarray,
    percentiles: np.ndarray,
) -> None:
    """index.html and distances.png in the directory, created if need be. first_fid: a fid of each
    pid.
    """
    from reports import page

    directory.mkdir(exist_ok=True)

    def picture(pid, fid):
        image = page.picture(page.thumbnail(os.path.join(image_root, fid)), f"{pid}, {fid}")
        return f'<span class="picture" title="{html.escape(f"{pid}, {fid}")}">{image}</span>'

    figure, plot = page.axes("Iteration", "Distance")
    for index, (color, style, name) in enumerate(
        (("true", "-", "one pid"), ("wrong", "--", "two pids"))
    ):
        low, median, high = percentiles[:, index].T
        plot.fill_between(iterations, low, high, color=page.COLORS[color], alpha=0.2, linewidth=0)
        plot.plot(
            iterations,
            median,
            color=page.COLORS[color],
            linestyle=style,
            linewidth=1,
            label=f"pairs of {name}",
        )
    page.legend(plot)
    first, last = (
        f"{low:.3g} and {high:.3g} at iteration {iteration}"
        for iteration, (low, high) in zip(
            iterations[[0, -1]], percentiles[[0, -1], :, 1], strict=True
        )
    )
    caption = f"Medians, and the range from 5 % to 95 %. The medians of one pid and of two: {first}, {last}."
    chart = page.chart(figure, directory, "distances", f"Distances over the iterations. {caption}")
    images = "\n".join(
        f"<li>{picture(pid, fid)}<span>loss {loss}</span><span>{html.escape(pid)}</span></li>"
        for loss, pid, fid in hard_rows
    )
    pairs = "\n".join(
        f"<li>{picture(a, first_fid[a])}{picture(b, first_fid[b])}"
        f"<span>{html.escape(a)}, {html.escape(b)}</span><span>{count}</span></li>"
        for a, b, count in confused_rows
    )
    page.write(
        directory / "index.html",
        "Detailed logs",
        f"""
<h1>Detailed logs</h1>
<p class="muted">{html.escape(str(root))}, iterations {iterations[0]:,} to {iterations[-1]:,}.</p>
<h2>Distances</h2>
<figure class="half">{chart}<figcaption>{caption}</figcaption></figure>
<h2>Images that stay hard</h2>
<p>The mean loss over their last {LAST} appearances is the highest.</p>
<ol class="ranked">
{images}
</ol>
<h2>Pids that get confused</h2>
<p>An image of each. The number tells how often, in the second half of the iterations, the image of another pid that was
closest to one of the pair was one of the other; of how many times that both were in the batch.</p>
<ol class="ranked">
{pairs}
</ol>
""",
    )


if __name__ == "__main__":
    common.run(main, parse_args)
