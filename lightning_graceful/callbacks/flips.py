"""Flip rates of the model in training against the old one, logged like any other metric."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_graceful.callbacks.base import Callback
from lightning_graceful.callbacks.evaluated import EvaluatedBatch, base_index, tell
from lightning_graceful.callbacks.served import ServedOlds
from lightning_graceful.callbacks.slice_counts import SliceMonitor
from lightning_graceful.callbacks.slices import SliceSource, slices_of
from lightning_graceful.data.batch import Batch, BatchAdapter, Outputs, default_batch, leg_of
from lightning_graceful.data.identity import Samples, why_untrackable
from lightning_graceful.metrics.flips import FlipRates
from lightning_graceful.models.capture import OutputCapture
from lightning_graceful.models.hparams import drop_from_checkpoint
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.trainer_seams import SampleTracker, loaders

LOGGED = ("nfr", "pfr", "relative_nfr", "nfi", "pfi", "btc", "bec", "churn", "error_old", "error_new")
MEMORISED = 0.05


class FlipMonitor(Callback):
    """Log flip rates after each validation and test.

    The keys are ``val/nfr``, ``val/pfr``, ``val/relative_nfr``, ``val/nfi``, ``val/pfi``, ``val/btc``, ``val/bec``,
    ``val/churn``, ``val/error_old`` and ``val/error_new``, and ``test/...`` likewise.

    ModelCheckpoint, EarlyStopping and sweeps can use them. Under DDP each sample counts once, however the sampler pads.
    The new model's logits are read while its own ``validation_step`` runs; the old ones come from an OldOutputCache of
    the same old model, whatever it is called there, else from the old model itself. ``train/old_correct`` is logged
    beside ``val/old_correct`` where a cache serves the training data: a gap of over 5 points means that the old model
    has memorised what it was trained on (a warning says so). With several olds the name is appended: ``val/nfr/v1``;
    with several loaders ``/dataloader_idx_1``. Of a CombinedLoader's batch one leg is counted, that which ``batch``
    chooses: ``batch=lambda b: Batch(*b["labeled"])``; old models are then given that leg's batch.

    ``slices={"country": ...}`` also counts each value of a slice on its own: ``val/nfr/country=IS``, ``val/pfr/...``,
    ``val/error_old/...``, ``val/error_new/...`` and ``val/samples/country=IS``, how many there are. Values are
    compared as text; in a key ``/`` becomes ``%2F``, and so on for other signs that loggers mind. Under DDP, too, each
    sample counts once (2 bytes a sample for each slice and old model), and values that one rank alone met are logged by
    all.

    What was counted is told to callbacks that have a method ``on_evaluated_batch``, see
    :class:`~lightning_graceful.callbacks.evaluated.EvaluatedBatch`.

    Args:
        old: The old model; several by name; None takes what the OldOutputCache serves.
        batch: Function from a batch to ``Batch(inputs, target)``; default: the (cached) old model's, else the usual
            kinds.
        logits: Path of the new model's submodule whose output is the logits; None finds it.
        slices: By name either a function of a batch (of a CombinedLoader: of the leg that is counted) that returns one
            str or int a sample, in a sequence or tensor; or a sequence, array or tensor of such values by base index,
            one for each sample of the dataset beneath any Subset. At most 1,000 values a slice.

    Raises:
        ValueError: If ``old`` is no OldModel, or a slice is of another kind.

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
        slices: Mapping[str, SliceSource] | None = None,
    ) -> None:
        olds: dict[str, OldModel | None] = {**old} if isinstance(old, Mapping) else {"": old}
        if not olds or not all(value is None or isinstance(value, OldModel) for value in olds.values()):
            raise ValueError(f"Expected an OldModel, several by name, or None, got {old!r}: OldModel(model).")
        self.olds = olds
        self.slices = slices
        self._batch = batch
        self._read_batch: BatchAdapter = batch or default_batch
        self._logits_path = logits
        self._capture: OutputCapture | None = None
        self._tracker: SampleTracker | None = None
        self._rates: dict[tuple[int, str], FlipRates] = {}
        self._slices = SliceMonitor(slices_of(slices))
        self._served: ServedOlds | None = None
        self._leg: int | None = None
        self._last: dict[str, float] = {}
        self._warned = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to follow the samples, and find out which old models a cache serves."""
        self._tracker = SampleTracker.of(trainer)
        self._served = ServedOlds(self.olds, trainer)
        olds = [next(iter(self.olds.values())), *self._served.cached.values()]
        adapters = [self._batch, *(old.batch for old in olds if old is not None), default_batch]
        self._read_batch = next(adapter for adapter in adapters if adapter is not None)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take every watch off."""
        self._stop_watching()
        self._rates = {}
        self._slices.clear()
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
            self._log(trainer, pl_module, "val")
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
        self._log(trainer, pl_module, "test")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the watch off the model."""
        self._stop_watching()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log how often the old models are right on what they may have been trained on."""
        for name in self.olds:
            served, target = self._training_leg(name, pl_module, batch)
            if served is not None and served.logits is not None and target is not None:
                labelled = target >= 0  # unlabelled samples are nobody's errors
                right = (served.logits.argmax(-1) == target)[labelled].float().mean().nan_to_num()
                key, size = f"train/old_correct{_place(name)}", int(labelled.sum())
                pl_module.log(key, right, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave old models that are hyper-parameters out of the checkpoint."""
        drop_from_checkpoint(OldModel, checkpoint)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the last rates."""
        if trainer.is_global_zero and self._last and trainer.progress_bar_callback is not None:
            table = Table("metric", "last", title="Flips against the old model (validation)")
            for name, value in self._last.items():
                table.add_row(name, "n/a" if value != value else f"{value:.2%}")
            Console().print(table)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._tracker is not None:
            self._tracker.begin()
        self._capture = OutputCapture(pl_module, logits=self._logits_path)
        self._rates = {}
        self._slices.clear()
        self._leg = None
        for number, loader in enumerate(loaders(trainer)):
            # One rank sees every sample once; several see the padding of a DistributedSampler, too.
            once = trainer.world_size > 1 and why_untrackable(loader) is None
            for name in self.olds:
                length = len(loader.dataset) if once else None
                self._rates[number, name] = FlipRates(num_samples=length).to(pl_module.device)
                self._slices.begin(number, name, length, pl_module.device)

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
        parts = self._read_batch(batch)
        target = parts.target
        if target is None:
            raise RuntimeError("Expected a target in each batch, got none. Pass batch=lambda b: Batch(inputs, target).")
        number, samples, leg = self._find_leg(batch, parts, dataloader_idx)
        olds = {name: self._old_logits(name, pl_module, batch, parts, leg) for name in self.olds}
        classes = next(iter(olds.values())).shape[1]
        new = self._capture.logits(len(target), classes)
        self._capture.stop()
        stage, told = "test" if trainer.testing else "val", []
        index = None if samples is None else base_index(samples)
        place, data = (None, None) if samples is None else (samples.position, samples.dataset)
        for name, old in olds.items():
            code = self._decide(self._rates[number, name], old, new, target, place)
            told.append(EvaluatedBatch(stage, name, number, index, target.long(), old, new, leg, place, data, code))
        self._slices.update(told)
        tell(trainer, pl_module, told)

    def _decide(self, rates: FlipRates, old: Tensor, new: Tensor, target: Tensor, position: Tensor | None) -> Tensor:
        once = rates.num_samples is not None and position is not None
        rates.update(old, new, target, position.to(target.device) if once and position is not None else None)
        assert rates.last_codes is not None
        return rates.last_codes

    def _find_leg(self, batch: Any, parts: Batch, dataloader_idx: int) -> tuple[int, Samples | None, Any]:
        if self._tracker is None:
            return dataloader_idx, None, batch
        legs, mirror = self._tracker.legs(batch, dataloader_idx)
        if len(legs) == 1:
            return dataloader_idx, legs[0].samples, batch
        number: int = leg_of(mirror(list(range(len(legs)))), batch, parts)
        self._leg = number
        return number, legs[number].samples, legs[number].batch

    def _on_module(self, pl_module: Any, name: str) -> Any:
        return None if self._served is None else self._served.on(pl_module, name)

    def _training_leg(self, name: str, pl_module: Any, batch: Any) -> tuple[Outputs | None, Tensor | None]:
        every = self._on_module(pl_module, name)
        if isinstance(every, Outputs):
            return every, self._read_batch(batch).target
        # Which leg of a combined batch is trained on, a graceful module knows; ours is for validation.
        if every is None or not hasattr(pl_module, "graceful_batch"):
            return None, None
        parts = pl_module.graceful_batch(batch)
        return leg_of(every, batch, parts), parts.target

    def _old_logits(self, name: str, pl_module: pl.LightningModule, batch: Any, parts: Batch, leg_batch: Any) -> Tensor:
        old = self.olds[name]
        served: Outputs | None = leg_of(self._on_module(pl_module, name), batch, parts)
        if served is not None and served.logits is not None:
            return served.logits
        if old is not None and old.device != pl_module.device:
            old.to(pl_module.device)
        # An adapter that chooses the leg is for whole batches; any other is for what the leg's own loader delivers.
        whole = old is not None and self._read_batch is old.batch
        logits = None if old is None else old.outputs(batch if whole else leg_batch).logits
        if logits is None:
            raise RuntimeError("Expected the old model's logits, got none. FlipMonitor(old), or add an OldOutputCache.")
        return logits

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        several = self._leg is None and len({number for number, _ in self._rates}) > 1
        for loader, name, key, sliced in self._slices.compute(reduce=trainer.world_size > 1):
            if self._leg in {None, loader}:
                place = f"{_place(name)}/{key}" + (f"/dataloader_idx_{loader}" if several else "")
                logged = {f"{stage}/{rate}{place}": value for rate, value in sliced.items()}
                pl_module.log_dict(logged, sync_dist=True, add_dataloader_idx=False)
        for (number, name), rates in self._rates.items():
            if self._leg not in {None, number}:
                continue  # another leg of a combined batch
            place = _place(name) + (f"/dataloader_idx_{number}" if several else "")
            values = rates.compute()
            logged = {f"{stage}/{key}{place}": values[key].float() for key in LOGGED}
            logged[f"{stage}/old_correct{place}"] = 1 - logged[f"{stage}/error_old{place}"]
            pl_module.log_dict(logged, sync_dist=True, add_dataloader_idx=False)
            self._last.update({key: float(value) for key, value in logged.items()})

    def _warn_if_memorised(self, trainer: pl.Trainer) -> None:
        for name in self.olds:
            train = trainer.callback_metrics.get(f"train/old_correct{_place(name)}")
            val = self._last.get(f"val/old_correct{_place(name)}")
            if train is not None and val is not None and float(train) - val > MEMORISED and not self._warned:
                self._warned = True
                rank_zero_warn(
                    f"The old model{' ' * bool(name)}{name} is right on {float(train):.1%} of the training samples but "
                    f"on {val:.1%} of the validation samples: it has memorised training samples, where its outputs say "
                    "little about new ones."
                )


def _place(name: str) -> str:
    return f"/{name}" if name else ""
