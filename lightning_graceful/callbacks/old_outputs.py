"""What the old model says of each sample, computed once and read ever after."""

from pathlib import Path
from typing import Any, Literal, get_args

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_graceful.callbacks.stores import DatasetStores
from lightning_graceful.data.batch import Outputs, batch_size, default_batch
from lightning_graceful.data.identity import Samples, why_untrackable
from lightning_graceful.data.rows import CacheError, Dtype
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.trainer_seams import SampleTracker, deliver, loaders

Fill = Literal["ahead", "lazy", "never"]


class OldOutputCache(pl.Callback):
    """Set ``pl_module.old_outputs`` before each step, from a store on disk that is keyed by sample.

    Drop-in: dataset, DataLoader, DataModule and LightningModule stay as they are. Which samples are in a batch is
        learnt at
    the sampler. The store belongs to the old model's weights and to the bytes of a few probe samples: other weights,
    another dataset or transform begin another store. A stored row costs ``classes * bytes of dtype`` plus 16 bytes.
    ``sample_index`` on the module is the key of each sample in the batch.

    With ``limit_*_batches``, ``overfit_batches`` or ``fast_dev_run`` the cache fills lazily. Where the samples of a
    batch cannot be known for certain, the old model runs live, with one warning.

    Args:
        old: The old model; None reads only: a row that is missing is an error.
        cache_dir: Folder of the stores; many runs may share it at once.
        fill: ``"ahead"``: compute missing rows when a stage starts, then free the old model's device memory;
            ``"lazy"``: compute on a miss; ``"never"``: run the old model live and store nothing.
        dtype: Precision of stored rows: ``"float16"``, ``"bfloat16"`` or ``"float32"`` (bit for bit).
        views: Stored views of a sample; this version keeps one, of samples without random transforms.

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
        old: OldModel | None,
        cache_dir: str | Path,
        *,
        fill: Fill = "ahead",
        dtype: Dtype = "float16",
        views: int = 1,
    ) -> None:
        if old is not None and not isinstance(old, OldModel):
            raise ValueError(f"Expected an OldModel (or None to read only), got {type(old).__name__}: OldModel(model).")
        if fill not in get_args(Fill):
            raise ValueError(f"Expected fill to be one of {list(get_args(Fill))}, got {fill!r}.")
        if dtype not in get_args(Dtype):
            raise ValueError(f"Expected dtype to be one of {list(get_args(Dtype))}, got {dtype!r}.")
        if views != 1:
            raise ValueError(
                f'Expected views=1, got {views}. For random transforms run the old model live: fill="never".'
            )
        if old is None and fill == "never":
            raise ValueError('Expected an old model to run live with fill="never", got None.')
        self.old = old
        self.cache_dir = Path(cache_dir)
        self.fill: Fill = fill
        self.dtype: Dtype = dtype
        self._tracker: SampleTracker | None = None
        self._stores: DatasetStores | None = None
        self._reasons_told: set[str] = set()

    @property
    def state_key(self) -> str:
        """Tell two caches of one trainer apart."""
        return f"OldOutputCache[{self.cache_dir}]"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to follow the samples; the loaders come later."""
        self._tracker = None if self.fill == "never" else SampleTracker.of(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give back loaders, files and memory."""
        if self._tracker is not None:
            self._tracker.remove()
            self._tracker = None
        if self._stores is not None:
            self._stores.close()
            self._stores = None
        for name in ("old_outputs", "sample_index"):
            pl_module.__dict__.pop(name, None)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the training data's stores and fill them."""
        self._prepare(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the validation data's stores and fill them."""
        self._prepare(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the test data's stores and fill them."""
        self._prepare(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Serve the old outputs of the batch."""
        self._serve(pl_module, batch)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Serve the old outputs of the batch."""
        self._serve(pl_module, batch)

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Serve the old outputs of the batch."""
        self._serve(pl_module, batch)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.fill == "never":
            return
        if self._stores is None:
            self._stores = DatasetStores(
                self.old,
                self.cache_dir,
                self.dtype,
                read_batch=default_batch if self.old is None else self.old.batch,
                deliver=lambda batch: deliver(trainer, batch),
                device=pl_module.device,
            )
        console = Console(quiet=not trainer.is_global_zero or trainer.progress_bar_callback is None)
        for loader in loaders(trainer):
            reason = why_untrackable(loader)
            if reason is None:
                self._stores.open(loader, console=console)
                if self.fill == "ahead" and self.old is not None and not _is_limited(trainer):
                    self._fill(trainer, loader, console)
            else:
                self._tell(reason)
        trainer.strategy.barrier("old outputs")

    def _fill(self, trainer: pl.Trainer, loader: DataLoader[Any], console: Console) -> None:
        assert self._stores is not None
        for dataset, rows in self._stores.missing(loader.dataset):
            # Split by position, not by place in the list: a rank that looks later sees fewer missing rows.
            mine = rows[rows % trainer.world_size == trainer.global_rank]
            if len(mine):
                self._stores.fill(loader, dataset, mine, console=console)

    def _serve(self, pl_module: pl.LightningModule, batch: Any) -> None:
        samples = None if self._tracker is None else self._tracker.samples(batch)
        index: Tensor | None = None
        if samples is None or self._stores is None:
            outputs = self._live(pl_module, batch)
        else:
            outputs, index = self._stored(samples, batch)
        device = pl_module.device
        move = (None if part is None else part.to(device, non_blocking=True) for part in outputs)
        # Past nn.Module.__setattr__: plain values, and no module must find them among its parts.
        pl_module.__dict__["old_outputs"] = Outputs(*move)
        pl_module.__dict__["sample_index"] = None if index is None else index.to(device, non_blocking=True)

    def _live(self, pl_module: pl.LightningModule, batch: Any) -> Outputs:
        if self.old is None:
            raise CacheError(
                "Expected to know the samples of each batch, since there is no old model to run (read only), but this "
                "loader's cannot be followed. Give the old model: OldOutputCache(old, cache_dir)."
            )
        if self.fill != "never" and not self._reasons_told:
            self._tell("its batches are combined from several loaders, or its iterator is not ours")
        return self.old.to(pl_module.device).outputs(batch)

    def _stored(self, samples: Samples, batch: Any) -> tuple[Outputs, Tensor]:
        assert self._stores is not None
        read = default_batch if self.old is None else self.old.batch
        raw = read(samples.batch)
        if batch_size(raw) != len(samples.position):
            raise RuntimeError(
                f"Expected a batch of the {len(samples.position)} samples that were drawn, got {batch_size(raw)}: "
                "the collate function drops or adds samples. Run the old model live: "
                'OldOutputCache(old, cache_dir, fill="never").'
            )
        return self._stores.serve(samples, raw.target, batch)

    def _tell(self, reason: str) -> None:
        if self.old is None:
            raise CacheError(
                f"Expected a loader whose samples can be followed (there is no old model to run), but {reason}."
            )
        if reason not in self._reasons_told:
            self._reasons_told.add(reason)
            rank_zero_warn(
                f"The old model runs live on a loader: {reason}. Nothing is read from or written to the cache for it."
            )


def _is_limited(trainer: Any) -> bool:
    limits = {
        "train": trainer.limit_train_batches,
        "validate": trainer.limit_val_batches,
        "sanity_check": trainer.limit_val_batches,
        "test": trainer.limit_test_batches,
    }
    stage = str(getattr(trainer.state.stage, "value", trainer.state.stage))
    return bool(trainer.fast_dev_run or trainer.overfit_batches or limits.get(stage, 1.0) != 1.0)
