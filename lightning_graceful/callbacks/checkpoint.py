"""Checkpoints on the frontier of error and negative flips."""

import json
import uuid
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn

from lightning_graceful.callbacks.folders import local_path, run_folder, write_json
from lightning_graceful.callbacks.frontier import ParetoPoint, best_of, frontier_of
from lightning_graceful.callbacks.logged import is_fit, is_within, logged_value

RECORD = "frontier.json"


def _checkpoint_bases() -> tuple[Any, ...]:
    # A trainer calls its own namespace's Checkpoints last, when all other callbacks have their state ready to be saved.
    try:
        return (pl.callbacks.Checkpoint, import_module("lightning.pytorch.callbacks").Checkpoint)
    except ImportError:
        return (pl.callbacks.Checkpoint,)


if TYPE_CHECKING:
    Checkpoint = pl.callbacks.Checkpoint
else:
    Checkpoint = type("Checkpoint", _checkpoint_bases(), {"__doc__": "Base of those that save, for either namespace."})


class ParetoCheckpoint(Checkpoint):
    """Keep the checkpoints that no other one beats in both validation error and negative-flip rate.

    After each validation of a fit the model is saved if no earlier one is at least as good in both, and checkpoints
    that it beats are deleted. The choice between the rest is a matter of the budget: ``best_model_path`` is the least
    error among those with an NFR of at most ``budget`` (where there is none, the least NFR, with a warning when the fit
    ends), ``best_under`` asks for another budget. ``trainer.test(ckpt_path=pareto.best_model_path)`` tests it, and
    ``ckpt_path="best"`` too where it is the only, or first, checkpoint callback. Rates of a selected checkpoint are
    biased low: report those of test data.

    How much is kept: at most one checkpoint for each NFR that occurs. While error and NFR fall together it is one or
    two; it grows where each epoch buys error with flips, in the worst case to one an epoch. ``save_weights_only`` makes
    each a third with Adam.

    ``frontier.json`` beside the checkpoints lists every validation: ``epoch, step, error, nfr, path, kept``. NaN and
    Inf are listed as null, never kept, and warned about once. No file of another run is overwritten. A resumed run goes
    on with the frontier of its own folder; in another folder it leaves the old folder's files alone, and goes on with
    those that are there.

    It goes beside ModelCheckpoint (which keeps the last weights, say), is a checkpoint callback to the Trainer
    (``enable_checkpointing=False`` refuses it, and no default ModelCheckpoint is added), and ranks under DDP save
    together and agree on rank 0's values.

    Args:
        dirpath: Folder of the checkpoints, local; None takes ``pareto`` in the folder of the run.
        budget: Highest NFR of ``best_model_path``; None allows any.
        error: Logged key of the error; any key where less is better.
        nfr: Logged key of the negative-flip rate; any other key where less is better.
        save_weights_only: Leave out the state of optimisers, schedulers and callbacks.

    Attributes:
        best_model_path: Path of the checkpoint to take; ``""`` before the first.

    Raises:
        ValueError: If ``dirpath`` is a URL, the budget is negative, or both keys are the same.

    Example:
        >>> pareto = ParetoCheckpoint("checkpoints", budget=0.01)
        >>> trainer = pl.Trainer(callbacks=[pareto], logger=False)
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        *,
        budget: float | None = None,
        error: str = "val/error_new",
        nfr: str = "val/nfr",
        save_weights_only: bool = False,
    ) -> None:
        if budget is not None and not budget >= 0:
            raise ValueError(f"Expected a budget of at least 0, got {budget}. 0.01 is one in a hundred.")
        if error == nfr:
            raise ValueError(f"Expected two different keys, got {error!r} twice. Name what is traded for what.")
        self.dirpath = local_path(dirpath)
        self.budget = budget
        self.error = error
        self.nfr = nfr
        self.save_weights_only = save_weights_only
        self.best_model_path = ""
        self._points: dict[int, ParetoPoint] = {}
        self._run = ""
        self._folder = Path()
        self._is_due = False
        self._has_warned = False

    @property
    def state_key(self) -> str:
        """Tell two of one trainer apart."""
        return f"ParetoCheckpoint[error={self.error}, nfr={self.nfr}]"

    @property
    def points(self) -> list[ParetoPoint]:
        """Every validation, in the order of the steps."""
        return [self._points[step] for step in sorted(self._points)]

    @property
    def frontier(self) -> list[ParetoPoint]:
        """What is kept, from the lowest NFR to the lowest error."""
        return frontier_of(point for point in self._points.values() if point.path is not None)

    def best_under(self, budget: float) -> ParetoPoint:
        """Choose the least error among the kept points within a budget.

        Args:
            budget: Highest NFR that is allowed.

        Returns:
            The point; the one of least NFR, with a warning, where none is within the budget.

        Raises:
            RuntimeError: If nothing is kept yet.
        """
        if not self.frontier:
            raise RuntimeError("Expected a checkpoint on the frontier, got none yet. Call trainer.fit first.")
        best = best_of(self.frontier, budget)
        if not is_within(best.nfr, budget):
            rank_zero_warn(
                f"No checkpoint has {self.nfr} within the budget of {budget:g}. The one that comes nearest, of epoch "
                f"{best.epoch}, has {best.nfr:.4g}."
            )
        return best

    def state_dict(self) -> dict[str, Any]:
        """Return all points."""
        return {"run": self._run, "folder": str(self._folder), "points": [p._asdict() for p in self.points]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the points over; which of them are still on disk, is looked up when the fit starts."""
        self._run = state_dict["run"]
        self._points = {point["step"]: ParetoPoint(**point) for point in state_dict["points"]}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the folder, and find the frontier of a resumed run there."""
        self._folder = run_folder(trainer, self.dirpath, "pareto")
        self._run, points = trainer.strategy.broadcast((self._run or uuid.uuid4().hex, self._found_points()))
        self._points = {point.step: point for point in points}
        self._is_due = False
        self._choose()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the model, now or, where the epoch ends with the validation, when it has ended."""
        if not is_fit(trainer) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._is_due = True
        if not _validates_at_epoch_end(trainer):
            self._consider(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the model of an epoch that ends with a validation."""
        if self._is_due:
            self._consider(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn where no checkpoint is within the budget."""
        if self.budget is not None and self.frontier:
            self.best_under(self.budget)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _consider(self, trainer: pl.Trainer) -> None:
        self._is_due = False
        asker = type(self).__name__
        here = logged_value(trainer, self.error, asker), logged_value(trainer, self.nfr, asker)
        error, nfr = trainer.strategy.broadcast(here)
        epoch, step = int(trainer.current_epoch), int(trainer.global_step)
        point = ParetoPoint(epoch, step, error, nfr, None)
        if not point.is_finite:
            self._warn_of(point)
        others = [other for other in self.frontier if other.step != step]
        if point in frontier_of([*others, point]):
            point = point._replace(path=trainer.strategy.broadcast(self._free_path(point)))
        self._points[step] = point
        self._choose()
        if point.path is not None:
            trainer.save_checkpoint(point.path, self.save_weights_only)
        # In this order: after a crash the record names what is there, and what is there beyond it is in nobody's way.
        if trainer.is_global_zero:
            self._write_record()
        self._delete_dominated(trainer)

    def _free_path(self, point: ParetoPoint) -> str:
        before, name = self._points.get(point.step), f"epoch={point.epoch}-step={point.step}"
        if before is not None and before.path is not None and Path(before.path).parent == self._folder:
            return before.path  # of this run, before it was resumed
        names = [f"{name}.ckpt", *(f"{name}-v{number}.ckpt" for number in range(1, 1000))]
        return str(next(path for name in names if not (path := self._folder / name).exists()))

    def _choose(self) -> None:
        self.best_model_path = str(best_of(self.frontier, self.budget).path) if self.frontier else ""

    def _delete_dominated(self, trainer: pl.Trainer) -> None:
        kept = {point.path for point in self.frontier}
        for point in self.points:
            if point.path is not None and point.path not in kept and Path(point.path).parent == self._folder:
                trainer.strategy.remove_checkpoint(point.path)
                self._points[point.step] = point._replace(path=None)

    def _write_record(self) -> None:
        kept = {point.path for point in self.frontier}
        self._folder.mkdir(parents=True, exist_ok=True)
        listed = [_to_json(point, self._folder) | {"kept": point.path in kept} for point in self.points]
        keys = {"error": self.error, "nfr": self.nfr, "budget": self.budget}
        write_json(self._folder / RECORD, {"run": self._run, "keys": keys, "points": listed})

    def _found_points(self) -> list[ParetoPoint]:
        # On rank 0. Of its own run the folder knows more than the checkpoint that was resumed from: what was saved and
        # deleted after it.
        record = self._folder / RECORD
        said: dict[str, Any] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        if record.exists() and said.get("run") != self._run:
            rank_zero_warn(f"{self._folder} holds the frontier of another run, whose record is replaced.")
        points = dict(self._points)
        if self._run and said.get("run") == self._run:
            points |= {point["step"]: _from_json(point, self._folder) for point in said["points"]}
        return [p if p.path and Path(p.path).exists() else p._replace(path=None) for p in points.values()]

    def _warn_of(self, point: ParetoPoint) -> None:
        if not self._has_warned:
            self._has_warned = True
            rank_zero_warn(
                f"{self.error} is {point.error} and {self.nfr} is {point.nfr} in epoch {point.epoch}: ParetoCheckpoint "
                "keeps no checkpoint of such epochs."
            )


def _validates_at_epoch_end(trainer: Any) -> bool:
    # As ModelCheckpoint does: what is saved after the epoch resumes with the next one.
    return isinstance(trainer.val_check_interval, float) and trainer.val_check_interval == 1.0


def _to_json(point: ParetoPoint, folder: Path) -> dict[str, Any]:
    path = None if point.path is None else Path(point.path)
    said = point._asdict() | {"path": None if path is None else path.name if path.parent == folder else str(path)}
    return said if point.is_finite else said | {"error": _or_null(point.error), "nfr": _or_null(point.nfr)}


def _from_json(said: dict[str, Any], folder: Path) -> ParetoPoint:
    nan = float("nan")
    error, nfr = (nan if said[key] is None else said[key] for key in ("error", "nfr"))
    return ParetoPoint(said["epoch"], said["step"], error, nfr, said["path"] and str(folder / said["path"]))


def _or_null(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
