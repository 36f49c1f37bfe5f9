"""What the old model says of each sample, computed once and read ever after."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_graceful.callbacks.base import Callback
from lightning_graceful.callbacks.filling import fill_ahead
from lightning_graceful.callbacks.keys import SampleKey, keys_in, length_of
from lightning_graceful.callbacks.serving import OldServer
from lightning_graceful.callbacks.stores import OldStores
from lightning_graceful.callbacks.verifying import verify_share
from lightning_graceful.data.bases import base_datasets
from lightning_graceful.data.batch import Outputs, default_batch
from lightning_graceful.data.identity import Samples, why_untrackable
from lightning_graceful.data.inventory import parse_bytes
from lightning_graceful.data.probe import is_random
from lightning_graceful.data.rows import CacheError, Dtype
from lightning_graceful.models.hparams import drop_from_checkpoint
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.trainer_seams import Leg, SampleTracker, changes_batches, deliver, is_combined, loaders

Fill = Literal["ahead", "lazy", "never"]


class OldOutputCache(Callback):
    """Set ``pl_module.old_outputs`` before each step, from a store on disk that is keyed by sample.

    Drop-in: dataset, DataLoader, DataModule and LightningModule stay as they are. Which samples are in a batch is
    learnt at the sampler, and the rows of coming batches are read and checked in the background. The store belongs to
    the old model's weights and to the bytes of a few probe samples: other weights, another dataset or transform begin
    another store. A stored row costs ``classes * bytes of dtype`` plus 16 bytes (``top_k=10``: 64 bytes), times
    ``views``. Any number of runs and ranks may share ``cache_dir`` and fill it together.

    ``sample_index`` on the module is the key of each sample in the batch. With a CombinedLoader ``old_outputs`` and
    ``sample_index`` have the structure of the batch. With several old models ``all_old_outputs`` holds what each says,
    by name, and ``old_outputs`` what the first says. With ``limit_*_batches``, ``overfit_batches`` or ``fast_dev_run``
    the cache fills lazily. Where the samples of a batch cannot be known for certain, the old model runs live, with one
    warning.

    Args:
        old: The old model, or several by name; None reads only: a row that is missing is an error.
        cache_dir: Folder of the stores.
        fill: ``"ahead"``: compute missing rows when a stage starts, then free the old model's memory; ``"lazy"``:
            compute on a miss; ``"never"``: run the old model live and store nothing.
        dtype: Precision of stored rows: ``"float16"``, ``"bfloat16"`` or ``"float32"`` (bit for bit).
        top_k: Keep the log-probabilities of the k most likely classes and the mass of the rest; the others share it
            evenly, so that a distillation at a high temperature sees less of the old model. None keeps all logits.
        views: Views of each sample that are kept where the dataset has random transforms: these are replayed, epoch by
            epoch another one. 1 refuses random transforms.
        verify: Share of samples that the old model is asked about again when a stage starts, to compare with what is
            stored; at least one sample where it is positive.
        quota: Bytes that ``cache_dir`` may take, such as ``"50GB"``; None for no bound but the disk.
        index: Where a batch holds the samples' own integer keys: a key of the dict, a place in the tuple, or a function
            of the batch. For iterable datasets, and for collate functions that reorder or drop; fills lazily.
        num_samples: Keys lie in ``[0, num_samples)``; default: the length of the dataset. Only with ``index``.

    Raises:
        ValueError: If an argument is unknown, or ``old`` is missing where it is needed.

    Example:
        >>> from torch import nn
        >>> cache = OldOutputCache(OldModel(nn.Linear(2, 3)), "old_outputs")
        >>> trainer = pl.Trainer(callbacks=[cache], logger=False, enable_checkpointing=False)
    """

    provides_old_outputs = True

    def __init__(
        self,
        old: OldModel | Mapping[str, OldModel] | None,
        cache_dir: str | Path,
        *,
        fill: Fill = "ahead",
        dtype: Dtype = "float16",
        top_k: int | None = None,
        views: int = 1,
        verify: float = 0.001,
        quota: int | str | None = None,
        index: SampleKey | None = None,
        num_samples: int | None = None,
    ) -> None:
        _check_old(old, fill)
        _check_options(fill, dtype, top_k, views, verify)
        if num_samples is not None and index is None:
            raise ValueError("Expected index= with num_samples=: where does a batch hold its samples' keys?")
        self.olds: dict[str, OldModel | None] = {**old} if isinstance(old, Mapping) else {"": old}
        self.old = next(iter(self.olds.values()))
        self.cache_dir = Path(cache_dir)
        self.fill: Fill = fill
        self.dtype: Dtype = dtype
        self.top_k = top_k
        self.views = views
        self.verify = verify
        self.quota = None if quota is None else parse_bytes(quota)
        self.index = index
        self.num_samples = num_samples
        self._tracker: SampleTracker | None = None
        self._servers: dict[str, OldServer] = {}
        self._prepared: dict[int, Any] = {}  # by id, and held, so that the id stays theirs
        self._live_loaders: dict[int, Any] = {}
        self._verified: set[Path] = set()
        self._reasons_told: set[str] = set()

    @property
    def state_key(self) -> str:
        """Tell two caches of one trainer apart."""
        return f"OldOutputCache[{self.cache_dir}]"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to follow the samples; the loaders come later."""
        self._tracker = SampleTracker.of(trainer)
        if self.fill != "never" and self.index is None:
            self._tracker.views_of = self._views_of
            self._tracker.listen(self._fetch)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give back loaders, files and memory."""
        if self._tracker is not None:
            self._tracker.remove()
            self._tracker = None
        for server in self._servers.values():
            server.close()
            server.stores.close()
        self._servers.clear()
        self._prepared.clear()
        self._live_loaders.clear()
        for name in ("old_outputs", "all_old_outputs", "sample_index"):
            pl_module.__dict__.pop(name, None)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the training data's stores and fill them."""
        self._prepare(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open and fill the stores of a loader that was replaced."""
        self._prepare(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the validation data's stores and fill them."""
        self._prepare(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the test data's stores and fill them."""
        self._prepare(trainer, pl_module)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the stores of the data to predict and fill them."""
        self._prepare(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Serve the old outputs of the batch."""
        self._serve(trainer, pl_module, batch)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Serve the old outputs of the batch."""
        self._serve(trainer, pl_module, batch, dataloader_idx)

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Serve the old outputs of the batch."""
        self._serve(trainer, pl_module, batch, dataloader_idx)

    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Serve the old outputs of the batch."""
        self._serve(trainer, pl_module, batch, dataloader_idx)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave old models that are hyper-parameters out of the checkpoint."""
        drop_from_checkpoint(OldModel, checkpoint)

    # -- before a stage ----------------------------------------------------------------------------------------------

    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self._tracker is not None
        waiting = self._tracker.begin()
        if self.fill == "never":
            return
        self._make_servers(trainer, pl_module)
        new = [loader for loader in loaders(trainer) if id(loader) not in self._prepared]
        for loader in new if self.index is None else []:
            reason = why_untrackable(loader)
            if reason is None and is_combined(trainer) and changes_batches(trainer):
                reason = "a transfer hook, such as on_after_batch_transfer, sees the parts of a combined batch together"
            if reason is None:
                self._open(trainer, loader, several=len(loaders(trainer)) > 1)
            else:
                self._live_loaders[id(loader)] = loader
                self._tell(reason)
        if new:
            self._prepared |= {id(loader): loader for loader in new}
            trainer.strategy.barrier("old outputs")
            if self.fill == "ahead" and not _is_limited(trainer) and not self._live_loaders and self.index is None:
                self._free_olds()
        if self.index is None:
            for samples in waiting:
                self._fetch(samples)

    def _make_servers(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, old in self.olds.items():
            if name not in self._servers:
                stores = OldStores(
                    old,
                    self.cache_dir,
                    dtype=self.dtype,
                    top_k=self.top_k,
                    read_batch=default_batch if old is None else old.batch,
                    deliver=lambda batch: deliver(trainer, batch),
                    device=pl_module.device,
                    console=Console(quiet=not trainer.is_global_zero or trainer.progress_bar_callback is None),
                )
                self._servers[name] = OldServer(stores)

    def _open(self, trainer: pl.Trainer, loader: DataLoader[Any], *, several: bool) -> None:
        for server in self._servers.values():
            stores = server.stores
            try:
                wanted = stores.open(loader)
            except ValueError as error:
                # One of several legs may be of a kind that says nothing to the old model.
                if not several:
                    raise
                self._live_loaders[id(loader)] = loader
                self._tell(f"one of several loaders is of another kind ({error})")
                return
            computed = 0
            if self.fill == "ahead" and stores.old is not None and not _is_limited(trainer):
                computed = fill_ahead(stores, loader, wanted, quota=self.quota, console=stores.console)
            if self.fill == "ahead" or stores.old is None:
                for opened, _ in wanted:
                    opened.store.populate()  # not before: holes would fill the memory with zeros
            # What this run has just computed, or has looked at, needs no second look.
            unseen = [] if computed else [one for one in wanted if one[0].store.path not in self._verified]
            self._verified |= {opened.store.path for opened, _ in wanted}
            if self.verify and stores.old is not None:
                verify_share(stores, loader, unseen, self.verify / trainer.world_size)

    def _free_olds(self) -> None:
        for old in self.olds.values():
            if old is not None:
                old.to("cpu").park(self.cache_dir)

    def _views_of(self, loader: DataLoader[Any]) -> int:
        if self.views == 1:
            return 1
        drawn_from = [dataset for dataset, _ in base_datasets(loader.dataset)]
        return self.views if any(is_random(loader, dataset) for dataset in drawn_from) else 1

    # -- each step ---------------------------------------------------------------------------------------------------

    def _fetch(self, samples: Samples) -> None:
        for server in self._servers.values():
            server.fetch(samples)

    def _serve(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, dataloader_idx: int = 0) -> None:
        assert self._tracker is not None
        legs, mirror = self._tracker.legs(batch, dataloader_idx)
        served: dict[str, Any] = {}
        index = None
        for name in self.olds:
            parts = [self._leg(trainer, name, leg, several=len(legs) > 1) for leg in legs]
            served[name] = mirror([outputs for outputs, _ in parts])
            index = mirror([None if key is None else key.to(pl_module.device, non_blocking=True) for _, key in parts])
        # Past nn.Module.__setattr__: plain values, and no module must find them among its parts.
        pl_module.__dict__["old_outputs"] = next(iter(served.values()))
        pl_module.__dict__["all_old_outputs"] = served
        pl_module.__dict__["sample_index"] = index

    def _leg(self, trainer: pl.Trainer, name: str, leg: Leg, *, several: bool) -> tuple[Outputs | None, Tensor | None]:
        if leg.batch is None:
            return None, None  # its loader is exhausted
        if self.fill == "never" or id(leg.loader) in self._live_loaders:
            return self._live(name, leg, several=several), None
        if self.index is not None:
            return self._keyed(trainer, name, leg)
        if leg.samples is None:
            if not self._reasons_told:
                self._tell("its samples cannot be followed (another version of torch or Lightning?)")
            return self._live(name, leg, several=several), None
        return self._servers[name].serve(leg.samples, leg.batch)

    def _live(self, name: str, leg: Leg, *, several: bool) -> Outputs | None:
        old = self.olds[name]
        if old is None:
            raise CacheError(
                "Expected to know the samples of each batch, since there is no old model to run (read only), but this "
                "loader's cannot be followed. Give the old model: OldOutputCache(old, cache_dir)."
            )
        try:
            return old.to(_device_of(leg.batch, old.device)).outputs(leg.batch)
        except ValueError:
            if not several:
                raise
            return None  # the leg says nothing to the old model; a term that needs it says so

    def _keyed(self, trainer: pl.Trainer, name: str, leg: Leg) -> tuple[Outputs, Tensor]:
        raw = leg.batch if leg.samples is None else leg.samples.batch
        keys = keys_in(raw, self.index)
        server, number = self._servers[name], loaders(trainer).index(leg.loader)
        length = self.num_samples if self.num_samples is not None else length_of(leg.loader)
        opened = server.stores.open_stream(leg.loader, f"{_stage(trainer)}/{number}", length, raw)
        return server.serve_keys(opened, keys, raw, leg.batch), keys

    def _tell(self, reason: str) -> None:
        if None in self.olds.values():
            raise CacheError(
                f"Expected a loader whose samples can be followed (there is no old model to run), but {reason}."
            )
        if reason not in self._reasons_told:
            self._reasons_told.add(reason)
            rank_zero_warn(
                f"The old model runs live on a loader: {reason}. Nothing is read from or written to the cache for it. "
                'If its batches hold an integer key of each sample, name it: OldOutputCache(..., index="index").'
            )


def _check_old(old: Any, fill: str) -> None:
    olds = list(old.values()) if isinstance(old, Mapping) else [old]
    if not olds or not all(isinstance(one, OldModel) or (one is None and olds == [old]) for one in olds):
        got = type(old).__name__
        raise ValueError(f"Expected an OldModel, several by name, or None to read only, got {got}: OldModel(model).")
    if old is None and fill == "never":
        raise ValueError('Expected an old model to run live with fill="never", got None.')


def _check_options(fill: str, dtype: str, top_k: int | None, views: int, verify: float) -> None:
    if fill not in get_args(Fill):
        raise ValueError(f"Expected fill to be one of {list(get_args(Fill))}, got {fill!r}.")
    if dtype not in get_args(Dtype):
        raise ValueError(f"Expected dtype to be one of {list(get_args(Dtype))}, got {dtype!r}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"Expected top_k to be None or at least 1, got {top_k}.")
    if views < 1:
        raise ValueError(f"Expected views to be at least 1, got {views}.")
    if not 0 <= verify <= 1:
        raise ValueError(f"Expected verify to be a share in [0, 1], got {verify}.")


def _stage(trainer: Any) -> str:
    stage = str(getattr(trainer.state.stage, "value", trainer.state.stage))
    return "validate" if stage == "sanity_check" else stage


def _device_of(batch: Any, default: torch.device) -> torch.device:
    for value in (
        batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else [batch]
    ):
        if isinstance(value, Tensor):
            return value.device
    return default


def _is_limited(trainer: Any) -> bool:
    limits = {
        "train": trainer.limit_train_batches,
        "validate": trainer.limit_val_batches,
        "test": trainer.limit_test_batches,
        "predict": trainer.limit_predict_batches,
    }
    return bool(trainer.fast_dev_run or trainer.overfit_batches or limits.get(_stage(trainer), 1.0) != 1.0)
