"""Saves checkpoints while training goes on."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common import UserError, first_few
from experiment import folder
from network import checkpoints
from runtime import files
from runtime.terminal import log


class Saver:
    """Writes checkpoints one at a time, in a thread of its own: a context that waits for it.

    Args:
        root: the directory of the experiment.
        variables: {name: variable}, what a checkpoint holds.
        keep: number of newest checkpoints to keep. 0 keeps all.
        sync: called in the thread before each save: what was logged up to a checkpoint is on the
            disk before it.
        saved: called in the thread after each save, with its iteration and whether it is the best.
        active: False for a worker that is not the chief; nothing is written then.
    """

    def __init__(
        self,
        root: Path,
        variables: Mapping,
        keep: int,
        sync: Callable[[], None],
        saved: Callable[[int, bool], None] = lambda *_: None,
        active: bool = True,
    ):
        self._root = root
        self._variables = variables
        self._keep = keep
        self._sync = sync
        self._saved = saved
        self._active = active
        self._there = set(checkpoints.iterations(root))  # they stay as they are
        self._kept_as_best: int | None = None
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind, *_) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def save(self, iteration: int, is_best: bool = False, is_due: bool = True) -> None:
        """Save `checkpoint-<iteration>` with the values that the variables have now.

        It waits for an earlier save.

        Args:
            is_best: checkpoint-best is to name it, once it is complete.
            is_due: False for one that is saved only because it is the best: it is deleted when a
                better one is saved.

        Raises:
            what the earlier save raised.
        """
        if not self._active:
            return
        self.wait()
        values = {name: np.copy(var.numpy()) for name, var in self._variables.items()}
        # float16 makes the optimizer skip steps, which it does not count; we do.
        values["global_step"] = np.asarray(iteration, values["global_step"].dtype)
        self._pending = self._thread.submit(self._save, iteration, values, is_best, is_due)

    def check(self) -> None:
        """Raises: what a save that is over raised."""
        if self._pending and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until all is saved. Raises: what the save raised."""
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def _save(
        self, iteration: int, values: dict[str, np.ndarray], is_best: bool, is_due: bool
    ) -> None:
        unfit = [name for name, value in values.items() if not np.isfinite(value).all()]
        if unfit:
            raise UserError(
                f"weights are not finite at iteration {iteration}: {first_few(unfit)}. They were "
                "not saved. Resume with a lower learning_rate in args.json."
            )
        folder.check_still_there(self._root)
        self._sync()
        files.check_disk_space(self._root)
        path = self._root / f"checkpoint-{iteration}"
        if iteration not in self._there:
            checkpoints.save(self._root, iteration, values)
            self._there.add(iteration)
        if is_best:
            checkpoints.point_to_best(self._root, iteration)
            if self._kept_as_best is not None:
                checkpoints.delete(self._root, self._kept_as_best)
            self._kept_as_best = None if is_due else iteration
        checkpoints.keep_newest(self._root, self._keep)
        self._saved(iteration, is_best)
        log.info(f"Saved {path}.")
