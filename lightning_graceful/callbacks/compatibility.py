"""Is the model in training backward compatible? Self and cross tests after each validation, logged like any metric."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lightning_graceful.callbacks.base import Callback
from lightning_graceful.callbacks.compatibility_tests import CROSS, OLD, SELF, CompatibilityTests
from lightning_graceful.callbacks.evaluated import base_index
from lightning_graceful.callbacks.served import ServedOlds
from lightning_graceful.data.batch import Batch, BatchAdapter, Outputs, default_batch, leg_of
from lightning_graceful.data.identity import Samples
from lightning_graceful.functional.compatibility import is_backward_compatible, self_accuracy_tax, update_gain
from lightning_graceful.functional.retrieval.arguments import check_lengths
from lightning_graceful.functional.retrieval.halves import query_mask
from lightning_graceful.functional.retrieval.rows import Dimensions, Distance
from lightning_graceful.models.capture import OutputCapture, find_module
from lightning_graceful.models.hparams import drop_from_checkpoint
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.trainer_seams import SampleTracker, loaders

Head = str | nn.Module | Callable[[Tensor], Tensor]
OLD_NAME, PARAGON = "old", "paragon"


class CompatibilityMonitor(Callback):
    """Log after each validation and test how the new model searches its own gallery and the old model's.

    - ``val/self_test``: M(new, new), queries and gallery of the new model;
    - ``val/cross_test``: M(new, old), new queries in the old gallery;
    - ``val/old_self_test``: M(old, old), what users have now;
    - ``val/is_backward_compatible``: 1 where the cross test is above the old self test, else 0 (BCT, CVPR 2020);
    - ``val/shared_self_test``: M(new, new) in the space shared with the old model, where ``head`` or ``dimensions``
      make that another than the new model's own;
    - with a paragon (the new model trained without regard to the old one): ``val/paragon_self_test``,
      ``val/update_gain`` and ``val/self_accuracy_tax``.

    M is ``measure``; the other measures have a suffix: ``val/cross_test_recall_at_1``, ``val/update_gain_map_at_r``.
    ``test/...`` likewise; with several loaders ``/dataloader_idx_1`` is appended. ModelCheckpoint, EarlyStopping and
    sweeps can use them. A measure is NaN where no query has another sample of its label to find; classes that the old
    model never knew are searched like others.

    By default the queries are half of the samples and the gallery is the other half, chosen by a hash of each sample's
    index and ``seed`` (:func:`lightning_graceful.functional.retrieval.halves.query_mask`): the disjoint sets of the
    literature, the same in every run, at a quarter of the work. ``query_share=None`` searches all with all, a sample
    never finding itself.

    The new embedding is read while the module's own ``validation_step`` runs; the old one comes from an OldOutputCache
    of the same old model, else from the old model itself. Each rank keeps ``4 * (d_new + d_old) + 17`` bytes a sample
    on its device, ``4 * d`` more for a head and for a paragon that is a model, and at the end of the epoch holds those
    of all ranks. Under DDP each sample counts once, however the sampler pads; where the samples of a loader cannot be
    known (an iterable dataset) they are numbered as they come, and a repeat counts. Of a CombinedLoader's batch one leg
    is counted, that which ``batch`` chooses.

    Args:
        old: The old model with an embedding, ``OldModel(net, embedding="path")``; None takes what the OldOutputCache
            serves.
        embedding: Path of the new model's submodule whose output is the embedding; default: that of a graceful module.
        head: Maps new embeddings ``(N, d_new)`` to the old space for the cross test: an adapter, the head of a term, or
            the path of a submodule of the new model. A module is moved to the new model's device and runs in eval mode.
        measure: What the plain keys hold: ``"map"``, ``"map_at_r"``, ``"r_precision"``, ``"recall_at_<k>"`` or
            ``"precision_at_<k>"``.
        k: Lengths of lists: ``recall_at_<k>`` is logged for each.
        paragon: Self test of the paragon on the same samples: of ``measure``, or by the names of several measures; or
            the paragon itself, an OldModel with an embedding, which runs in each validation unless a cache serves it.
        minimum_gap: ``paragon_self_test - old_self_test`` below which the gain is NaN.
        batch: Function from a batch to ``Batch(inputs, target)``; default: the (cached) old model's, else the usual
            kinds.
        query_share: Share of the samples that are queries; None: all are queries and gallery.
        seed: Of the choice of queries.
        distance: ``"cosine"`` or ``"l2"``.
        dimensions: By how many dimensions new and old embeddings are compared where they have another number:
            ``"shared"``, ``"padded"`` or a number, as in :class:`~lightning_graceful.CrossModelRetrieval`.

    Raises:
        ValueError: If an argument is not as said.

    Example:
        >>> old = OldModel(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), embedding="0")
        >>> monitor = CompatibilityMonitor(old, embedding="net.body", paragon=0.83)
        >>> trainer = pl.Trainer(callbacks=[monitor], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        old: OldModel | None = None,
        *,
        embedding: str | None = None,
        head: Head | None = None,
        measure: str = "map",
        k: Sequence[int] = (1,),
        paragon: float | Mapping[str, float] | OldModel | None = None,
        minimum_gap: float = 0.0,
        batch: BatchAdapter | None = None,
        query_share: float | None = 0.5,
        seed: int = 0,
        distance: Distance = "cosine",
        dimensions: Dimensions = None,
    ) -> None:
        check_lengths(k, None)
        _check_old("old", old)
        if query_share is not None and not 0 < query_share < 1:
            raise ValueError(f"Expected query_share in (0, 1), or None, got {query_share}.")
        self.old = old
        self.measures = _measures(measure, k)
        self.paragon = _checked_paragon(paragon, self.measures)
        self.head = head
        self.minimum_gap = minimum_gap
        self.query_share = query_share
        self.seed = seed
        self._options: Any = {"k": tuple(k), "distance": distance, "dimensions": dimensions}
        self._embedding = embedding
        self._batch = batch
        self._read_batch: BatchAdapter = batch or default_batch
        self._head: Callable[[Tensor], Tensor] | None = None
        self._capture: OutputCapture | None = None
        self._tracker: SampleTracker | None = None
        self._served: ServedOlds | None = None
        self._tests: dict[int, CompatibilityTests] = {}
        self._counts: dict[int, int] = {}
        self._leg: int | None = None
        self._last: dict[str, float] = {}

    @property
    def olds(self) -> dict[str, OldModel | None]:
        """The frozen models that are asked, by name."""
        own = {OLD_NAME: self.old}
        return {**own, PARAGON: self.paragon} if isinstance(self.paragon, OldModel) else own

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to follow the samples, and find out what a cache serves."""
        self._tracker = SampleTracker.of(trainer)
        self._served = ServedOlds(self.olds, trainer)
        adapters = [self._batch, *(old.batch for old in (self.old, *self._served.cached.values()) if old is not None)]
        self._read_batch = next((adapter for adapter in adapters if adapter is not None), default_batch)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take every watch off and free the memory."""
        self._stop_watching()
        self._tests = {}
        if self._tracker is not None:
            self._tracker.remove()
            self._tracker = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with no samples."""
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
        """Keep what the models say of the batch."""
        self._keep(trainer, pl_module, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the tests of all ranks' samples."""
        if not trainer.sanity_checking:
            self._log(pl_module, "val")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the watch off the model and free the memory."""
        self._stop_watching()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with no samples."""
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
        """Keep what the models say of the batch."""
        self._keep(trainer, pl_module, batch, dataloader_idx)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the tests of all ranks' samples."""
        self._log(pl_module, "test")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the watch off the model and free the memory."""
        self._stop_watching()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave old models that are hyper-parameters out of the checkpoint."""
        drop_from_checkpoint(OldModel, checkpoint)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the last tests."""
        if trainer.is_global_zero and self._last and trainer.progress_bar_callback is not None:
            table = Table("test", "last", title="Compatibility with the old model (validation)")
            for name, value in self._last.items():
                table.add_row(name, "n/a" if math.isnan(value) else f"{value:.4f}")
            Console().print(table)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._tracker is not None:
            self._tracker.begin()
        path = self._embedding or getattr(pl_module, "graceful_embedding", None)
        if path is None:
            raise ValueError(
                "Expected the path of the new model's module whose output is the embedding, got none. "
                'CompatibilityMonitor(old, embedding="path.of.module").'
            )
        self._capture = OutputCapture(pl_module, logits=path, embedding=path)
        head = find_module(pl_module, self.head) if isinstance(self.head, str) else self.head
        self._head = head.to(pl_module.device) if isinstance(head, nn.Module) else head
        models = ["new", *self.olds, *(["shared"] if head is not None else [])]
        self._tests = {
            number: CompatibilityTests(
                models, self.measures, leave_one_out=self.query_share is None, **self._options
            ).to(pl_module.device)
            for number in range(len(loaders(trainer)))
        }
        self._counts = dict.fromkeys(self._tests, 0)
        self._leg = None

    def _watch(self) -> None:
        if self._capture is not None:
            self._capture.start()

    def _stop_watching(self) -> None:
        if self._capture is not None:
            self._capture.remove()
            self._capture = None
        self._tests = {}

    def _keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, dataloader_idx: int) -> None:
        if self._capture is None or trainer.sanity_checking:
            return
        parts = self._read_batch(batch)
        if parts.target is None:
            raise RuntimeError("Expected a target in each batch, got none. Pass batch=lambda b: Batch(inputs, target).")
        number, samples, leg = self._find_leg(batch, parts, dataloader_idx)
        new = self._capture.embedding(len(parts.target)).detach()
        self._capture.stop()
        embeddings = {"new": new} | {name: self._ask(name, pl_module, batch, parts, leg) for name in self.olds}
        if self._head is not None:
            embeddings["shared"] = _apply(self._head, new)
        # Ranks take turns, as a DistributedSampler deals: of samples that nobody can follow no two share a number.
        count = torch.arange(len(new)) + self._counts[number]
        self._counts[number] += len(new)
        in_passing = count * trainer.world_size + trainer.global_rank
        index = in_passing if samples is None else base_index(samples)
        share = 0.5 if self.query_share is None else self.query_share
        roles = query_mask(index, share=share, seed=self.seed)
        self._tests[number].update(embeddings, parts.target, in_passing if samples is None else samples.position, roles)

    def _find_leg(self, batch: Any, parts: Batch, dataloader_idx: int) -> tuple[int, Samples | None, Any]:
        if self._tracker is None:
            return dataloader_idx, None, batch
        legs, mirror = self._tracker.legs(batch, dataloader_idx)
        if len(legs) == 1:
            return dataloader_idx, legs[0].samples, batch
        number: int = leg_of(mirror(list(range(len(legs)))), batch, parts)
        self._leg = number
        return number, legs[number].samples, legs[number].batch

    def _ask(self, name: str, pl_module: pl.LightningModule, batch: Any, parts: Batch, leg_batch: Any) -> Tensor:
        old = self.olds[name]
        every = None if self._served is None else self._served.on(pl_module, name)
        served: Outputs | None = leg_of(every, batch, parts)
        if served is not None and served.embedding is not None:
            return served.embedding
        if old is not None and old.device != pl_module.device:
            old.to(pl_module.device)
        # An adapter that chooses the leg is for whole batches; any other is for what the leg's own loader delivers.
        whole = old is not None and self._read_batch is old.batch
        embedding = None if old is None else old.outputs(batch if whole else leg_batch).embedding
        if embedding is None:
            raise RuntimeError(
                "Expected the old model's embedding, got none. CompatibilityMonitor(OldModel(net, embedding="
                '"path.of.module")), or an OldOutputCache of such a model.'
            )
        return embedding

    def _log(self, pl_module: pl.LightningModule, stage: str) -> None:
        several = self._leg is None and len(self._tests) > 1
        for number, tests in self._tests.items():
            if self._leg in {None, number}:  # else another leg of a combined batch
                place = f"/dataloader_idx_{number}" if several else ""
                logged = {f"{stage}/{key}{place}": value for key, value in self._conclude(tests.compute()).items()}
                pl_module.log_dict(logged, sync_dist=True, add_dataloader_idx=False)
                self._last.update({key: float(value) for key, value in logged.items()})

    def _conclude(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # What is logged, by key: the tests, and what follows from them.
        told = self.paragon if isinstance(self.paragon, Mapping) else {}
        values = {**found}
        for name in self.measures:
            cross, old, new = (values[f"{test}_{name}"] for test in (CROSS, OLD, SELF))
            best = cross.new_tensor(told[name]) if name in told else values.get(f"paragon_{SELF}_{name}")
            if best is not None:
                values[f"paragon_{SELF}_{name}"] = best
                values[f"update_gain_{name}"] = update_gain(cross, old, best, minimum_gap=self.minimum_gap)
                values[f"self_accuracy_tax_{name}"] = self_accuracy_tax(best, new)
        plain = self.measures[0]
        logged = {key.removesuffix(f"_{plain}"): value.float() for key, value in values.items()}
        cross, old = values[f"{CROSS}_{plain}"], values[f"{OLD}_{plain}"]
        is_measured = not bool((cross + old).isnan())
        compatible = float(is_backward_compatible(cross, old)) if is_measured else math.nan
        return {**logged, "is_backward_compatible": torch.tensor(compatible, device=cross.device)}


def _apply(head: Callable[[Tensor], Tensor], new: Tensor) -> Tensor:
    modules = [module for module in head.modules() if module.training] if isinstance(head, nn.Module) else []
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            return head(new)
    finally:
        for module in modules:
            module.training = True


def _measures(measure: str, k: Sequence[int]) -> tuple[str, ...]:
    # All that are logged, the plain one first.
    usual = ["map", "map_at_r", *(f"recall_at_{length}" for length in k)]
    known = {*usual, "r_precision", *(f"precision_at_{length}" for length in k)}
    if measure not in known:
        raise ValueError(f"Expected measure among {sorted(known)}, got {measure!r}. Pass k= for other lengths.")
    return measure, *(name for name in usual if name != measure)


def _check_old(name: str, old: Any) -> None:
    if old is not None and (not isinstance(old, OldModel) or old.options["embedding"] is None):
        raise ValueError(
            f'Expected {name} to be an OldModel with an embedding, got {old!r}: OldModel(net, embedding="path").'
        )


def _checked_paragon(paragon: Any, measures: Sequence[str]) -> Mapping[str, float] | OldModel:
    if isinstance(paragon, OldModel):
        _check_old("paragon", paragon)
        return paragon
    named = paragon if isinstance(paragon, Mapping) else {} if paragon is None else {measures[0]: paragon}
    for name, value in named.items():
        if name not in measures or isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(
                f"Expected paragon to be an OldModel, or self tests in [0, 1] by measures of {list(measures)}, got "
                f"{paragon!r}."
            )
    return dict(named)
