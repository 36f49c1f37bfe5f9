"""Flip rates of the model in training against the old one, logged like any other metric."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_graceful.data.batch import BatchAdapter, Outputs, default_batch
from lightning_graceful.data.identity import why_untrackable
from lightning_graceful.metrics.flips import FlipRates
from lightning_graceful.models.capture import OutputCapture
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.trainer_seams import SampleTracker, loaders

LOGGED = ("nfr", "pfr", "relative_nfr", "nfi", "pfi", "btc", "bec", "churn", "error_old", "error_new")
MEMORISED = 0.05


class FlipMonitor(pl.Callback):
    """Log flip rates after each validation and test.

    The keys are ``val/nfr``, ``val/pfr``, ``val/relative_nfr``, ``val/nfi``, ``val/pfi``, ``val/btc``, ``val/bec``,
    ``val/churn``, ``val/error_old`` and ``val/error_new``, and ``test/...`` likewise.

    ModelCheckpoint, EarlyStopping and sweeps can use them. Under DDP each sample counts once, however the sampler pads.
    The new model's logits are read while its own ``validation_step`` runs; the old ones come from an OldOutputCache of
    the same old model, else from the old model itself. ``train/old_correct`` is logged beside ``val/old_correct`` where
    a cache serves the training data: a gap of over 5 points means that the old model has memorised what it was trained
    on (a warning says so). With several olds the name is appended: ``val/nfr/v1``; with several loaders
    ``/dataloader_idx_1``.

    Args:
        old: The old model; several by name; None takes what the OldOutputCache serves.
        batch: Function from a batch to ``Batch(inputs, target)``; default: the old model's, else the usual kinds.
        logits: Path of the new model's submodule whose output is the logits; None finds it.

    Raises:
        ValueError: If ``old`` is no OldModel.

    Example:
        >>> from torch import nn
        >>> old = OldModel(nn.Linear(2, 3))
        >>> trainer = pl.Trainer(callbacks=[FlipMonitor(old)], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        old: OldModel | Mapping[str, OldModel] | None = None,
        *,
        batch: BatchAdapter | None = None,
        logits: str | None = None,
    ) -> None:
        olds: dict[str, OldModel | None] = {**old} if isinstance(old, Mapping) else {"": old}
        if not olds or not all(value is None or isinstance(value, OldModel) for value in olds.values()):
            raise ValueError(f"Expected an OldModel, several by name, or None, got {old!r}: OldModel(model).")
        self.olds = olds
        first = next(iter(olds.values()))
        self._read_batch: BatchAdapter = batch or (default_batch if first is None else first.batch)
        self._logits_path = logits
        self._capture: OutputCapture | None = None
        self._tracker: SampleTracker | None = None
        self._rates: dict[tuple[int, str], FlipRates] = {}
        self._cached: set[str] = set()
        self._last: dict[str, float] = {}
        self._warned = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to follow the samples."""
        self._tracker = SampleTracker.of(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take every watch off."""
        self._stop_watching()
        self._rates = {}
        if self._tracker is not None:
            self._tracker.remove()
            self._tracker = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with empty counts."""
        self._begin(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Watch the new model."""
        self._watch()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        self._count(trainer, pl_module, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the rates of all ranks."""
        if not trainer.sanity_checking:
            self._log(pl_module, "val")
            self._warn_if_memorised(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the watch off the model: training steps are none of this callback's business."""
        self._stop_watching()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with empty counts."""
        self._begin(trainer, pl_module)

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Watch the new model."""
        self._watch()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        self._count(trainer, pl_module, batch, dataloader_idx)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the rates of all ranks."""
        self._log(pl_module, "test")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the watch off the model."""
        self._stop_watching()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log how often the old model is right on what it may have been trained on."""
        served: Outputs | None = getattr(pl_module, "old_outputs", None)
        target = self._read_batch(batch).target
        if served is not None and served.logits is not None and target is not None:
            right = (served.logits.argmax(-1) == target).float().mean()
            pl_module.log(
                "train/old_correct", right, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(target)
            )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the last rates."""
        if trainer.is_global_zero and self._last and trainer.progress_bar_callback is not None:
            table = Table("metric", "last", title="Flips against the old model (validation)")
            for name, value in self._last.items():
                table.add_row(name, "n/a" if value != value else f"{value:.2%}")
            Console().print(table)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._capture = OutputCapture(pl_module, logits=self._logits_path)
        self._rates = {}
        caches = [getattr(callback, "old", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
        served = {cached.fingerprint for cached in caches if isinstance(cached, OldModel)}
        self._cached = {name for name, old in self.olds.items() if old is None or old.fingerprint in served}
        for number, loader in enumerate(loaders(trainer)):
            # One rank sees every sample once; several see the padding of a DistributedSampler, too.
            once = trainer.world_size > 1 and why_untrackable(loader) is None
            for name in self.olds:
                rates = FlipRates(num_samples=len(loader.dataset) if once else None)
                self._rates[number, name] = rates.to(pl_module.device)

    def _watch(self) -> None:
        if self._capture is not None:
            self._capture.start()

    def _stop_watching(self) -> None:
        if self._capture is not None:
            self._capture.remove()
            self._capture = None

    def _count(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, dataloader_idx: int) -> None:
        if self._capture is None or trainer.sanity_checking:
            return
        target = self._read_batch(batch).target
        if target is None:
            raise RuntimeError("Expected a target in each batch, got none. Pass batch=lambda b: Batch(inputs, target).")
        samples = None if self._tracker is None else self._tracker.samples(batch)
        olds = {name: self._old_logits(name, pl_module, batch) for name in self.olds}
        classes = next(iter(olds.values())).shape[1]
        new = self._capture.logits(len(target), classes)
        self._capture.stop()
        for name, old in olds.items():
            rates = self._rates[dataloader_idx, name]
            index = None if rates.num_samples is None or samples is None else samples.position.to(target.device)
            rates.update(old, new, target, index)

    def _old_logits(self, name: str, pl_module: pl.LightningModule, batch: Any) -> Tensor:
        old = self.olds[name]
        served: Outputs | None = getattr(pl_module, "old_outputs", None)
        if served is not None and served.logits is not None and name in self._cached:
            return served.logits
        logits = None if old is None else old.to(pl_module.device).outputs(batch).logits
        if logits is None:
            raise RuntimeError("Expected the old model's logits, got none. FlipMonitor(old), or add an OldOutputCache.")
        return logits

    def _log(self, pl_module: pl.LightningModule, stage: str) -> None:
        several = len({number for number, _ in self._rates}) > 1
        for (number, name), rates in self._rates.items():
            place = (f"/{name}" if name else "") + (f"/dataloader_idx_{number}" if several else "")
            values = rates.compute()
            logged = {f"{stage}/{key}{place}": values[key].float() for key in LOGGED}
            logged[f"{stage}/old_correct{place}"] = 1 - logged[f"{stage}/error_old{place}"]
            pl_module.log_dict(logged, sync_dist=True, add_dataloader_idx=False)
            self._last.update({key: float(value) for key, value in logged.items()})

    def _warn_if_memorised(self, trainer: pl.Trainer) -> None:
        train, val = trainer.callback_metrics.get("train/old_correct"), self._last.get("val/old_correct")
        if train is not None and val is not None and float(train) - val > MEMORISED and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"The old model is right on {float(train):.1%} of the training samples but on {val:.1%} of the "
                "validation samples: it has memorised training samples, where its outputs say little about new ones."
            )
