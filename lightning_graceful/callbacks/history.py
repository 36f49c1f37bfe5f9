"""Which samples flip at which epoch of a training, kept on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_graceful.callbacks.base import Callback
from lightning_graceful.callbacks.evaluated import EvaluatedBatch
from lightning_graceful.callbacks.folders import local_path, run_folder
from lightning_graceful.callbacks.history_file import append_row, begin_history
from lightning_graceful.callbacks.logged import is_fit
from lightning_graceful.data.bases import base_samples
from lightning_graceful.data.identity import why_untrackable
from lightning_graceful.report.history import HEADER, NEW_RIGHT, OLD_RIGHT, SEEN, Churn, History, read_history
from lightning_graceful.trainer_seams import loaders

BASE_INDEX, POSITION = "position in the base dataset", "position in the validation dataset"


class FlipHistory(Callback):
    """Keep on disk which samples are flips at each validation of a fit: one byte a sample and validation.

    FlipMonitor tells it what it counted, so add that too. Under DDP every rank's samples are in, each once; rank 0
    writes. A resumed fit goes on after the last row that its checkpoint knows of, also in another folder. In memory
    there is one byte a sample, whatever the number of epochs. ``summary`` shows how flips came and went;
    :func:`lightning_graceful.report.history.read_history` reads the folder without torch.

    Args:
        dirpath: Folder of the history, local; None takes ``flip_history`` in the folder of the run.
        loader: Number of the validation dataloader (of a combined batch: of the leg) that is followed.
        old: Name of the old model that is followed, where FlipMonitor has several.

    Raises:
        ValueError: If ``dirpath`` is a URL.

    Example:
        >>> from lightning_graceful import FlipMonitor, OldModel
        >>> history, old = FlipHistory("history"), OldModel(torch.nn.Linear(2, 3))
        >>> trainer = pl.Trainer(callbacks=[FlipMonitor(old), history], logger=False, enable_checkpointing=False)
    """

    def __init__(self, dirpath: str | Path | None = None, *, loader: int = 0, old: str = "") -> None:
        self.dirpath = local_path(dirpath)
        self.loader = loader
        self.old = old
        self._row: Tensor | None = None
        self._told: set[tuple[int, str]] = set()
        self._history: History | None = None
        self._folder = self.dirpath
        self._known: dict[str, Any] = {}  # how far the history goes that the next checkpoint belongs to

    @property
    def state_key(self) -> str:
        """Tell two histories of one trainer apart."""
        return f"FlipHistory[loader={self.loader}, old={self.old!r}]"

    @property
    def path(self) -> Path:
        """Folder of the history.

        Raises:
            RuntimeError: If it is not chosen yet.
        """
        if self._folder is None:
            raise RuntimeError("Expected a history, got none yet. Call trainer.fit with FlipHistory and FlipMonitor.")
        return Path(self._folder)

    def summary(self) -> Churn:
        """Read how flips came and went, from the disk.

        Returns:
            What :class:`~lightning_graceful.report.history.Churn` describes.
        """
        return read_history(self.path).summary()

    def times_of(self, index: int) -> int:
        """Count the validations at which a sample was a negative flip.

        Args:
            index: Of the sample, in the base dataset.

        Returns:
            How many.
        """
        return read_history(self.path).times_of(index)

    def state_dict(self) -> dict[str, Any]:
        """Return where the history is and how far it goes."""
        return dict(self._known)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self._known, self._history = dict(state_dict), None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the folder, the same on all ranks."""
        self._folder = str(run_folder(trainer, self.dirpath, "flip_history"))
        if self._history is not None and self._history.path != self.path:
            self._history = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with no sample seen.

        Raises:
            RuntimeError: If the loader does not tell which samples it delivers.
        """
        self._row, self._told = None, set()
        if not is_fit(trainer):
            return
        loader = dict(enumerate(loaders(trainer))).get(self.loader)
        reason = "there is no such loader" if loader is None else why_untrackable(loader)
        if loader is None or reason is not None:
            raise RuntimeError(
                f"Expected to know which samples validation loader {self.loader} delivers, but {reason}. Choose "
                "another (loader=), or leave FlipHistory away."
            )
        self._row = torch.zeros(len(loader.dataset), dtype=torch.uint8, device=pl_module.device)
        if self._history is None and trainer.is_global_zero:
            self._history = self._open(loader.dataset)

    def on_evaluated_batch(self, trainer: Any, pl_module: Any, evaluated: EvaluatedBatch) -> None:
        """Note the samples of a batch.

        Raises:
            RuntimeError: If it is not known which they are.
        """
        self._told.add((evaluated.loader, evaluated.old_name))
        if self._row is None or (evaluated.loader, evaluated.old_name) != (self.loader, self.old):
            return
        if evaluated.position is None:
            raise RuntimeError(
                "Expected to know which samples are in a batch, but they cannot be known. Leave FlipHistory away."
            )
        said = SEEN + OLD_RIGHT * evaluated.old_right.byte() + NEW_RIGHT * evaluated.new_right.byte()
        self._row[evaluated.position.to(self._row.device)] = said.to(self._row.device)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the row of all ranks.

        Raises:
            RuntimeError: If FlipMonitor told of no sample.
        """
        if self._row is None or not is_fit(trainer):
            return
        if trainer.world_size > 1:
            dist.all_reduce(self._row, dist.ReduceOp.MAX)  # both ranks say the same of a sample that was repeated
        if not bool(self._row.any()):
            raise RuntimeError(
                f"Expected FlipMonitor to tell of loader {self.loader} and old model {self.old!r}, got "
                f"{sorted(self._told) or 'nothing'}. Add FlipMonitor(old) to the callbacks, or choose (loader=, old=)."
            )
        if trainer.is_global_zero:
            self._write(self._row.cpu().numpy(), int(trainer.current_epoch), int(trainer.global_step))
        self._row = None
        self._known = trainer.strategy.broadcast(self._known)

    # -- on rank 0 ---------------------------------------------------------------------------------------------------

    def _write(self, row: NDArray[np.uint8], epoch: int, step: int) -> None:
        assert self._history is not None
        if len(row) != self._history.num_samples:
            raise RuntimeError(
                f"Expected {self._history.num_samples} validation samples as before, got {len(row)}. A history follows "
                "one dataset: give the other one a FlipHistory of its own folder."
            )
        self._history = append_row(self._history, row, epoch, step)
        self._known = {"path": str(self.path), "rows": len(self._history.rows), "crc": self._history.rows[-1].crc}

    def _open(self, dataset: Any) -> History:
        indices, said = _indices(dataset)
        path, before = self.path, self._before(len(dataset))
        history = History(path, len(dataset), [] if before is None else before.rows, said, self.old)
        if not self._known and (path / HEADER).exists():
            rank_zero_warn(f"{path} holds the history of another run, which is replaced. Choose another dirpath.")
        return begin_history(history, indices, () if before is None else before.bytes())

    def _before(self, num_samples: int) -> History | None:
        # Rows of the resumed run up to its checkpoint; what came after, the run will come to again.
        if not self._known:
            return None
        count = self._known["rows"]
        for path in dict.fromkeys([str(self.path), self._known["path"]]):
            try:
                found = read_history(path)
            except (FileNotFoundError, ValueError):
                continue
            is_ours = len(found.rows) >= count and found.rows[count - 1].crc == self._known["crc"]
            if is_ours and found.num_samples == num_samples:
                return History(found.path, num_samples, found.rows[:count])
        rank_zero_warn(
            f"The first {count} rows of the flip history are neither in {self.path} nor in {self._known['path']}: it "
            "begins with the resumed epoch."
        )
        return None


def _indices(dataset: Any) -> tuple[NDArray[np.int64] | None, str]:
    positions = torch.arange(len(dataset))
    parts = base_samples(dataset, positions)
    if len(parts) != 1:
        return None, POSITION  # of several base datasets two samples may share an index
    index = torch.empty_like(positions)
    index[parts[0].row] = parts[0].index
    return (None if torch.equal(index, positions) else index.numpy()), BASE_INDEX
