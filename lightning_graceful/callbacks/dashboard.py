"""What an update breaks, shown after fit and test: files and a page on disk, and the same in the user's W&B run."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from lightning_graceful.callbacks.base import Callback
from lightning_graceful.callbacks.collecting import Collected, Collector, Wanted, gathered, merged
from lightning_graceful.callbacks.evaluated import EvaluatedBatch
from lightning_graceful.callbacks.flip_files import FileFormat, Place, table_of, write_files
from lightning_graceful.callbacks.folders import local_path, run_folder
from lightning_graceful.callbacks.neighbours import fingerprint_of, history_of, monitor_of
from lightning_graceful.callbacks.pictures import PictureSource, TextSource
from lightning_graceful.callbacks.slices import SliceSource, slices_of
from lightning_graceful.callbacks.wandb_run import define_axes, find_run, is_online, log_artifacts, log_flips
from lightning_graceful.callbacks.workspace import flip_workspace, is_available, write_workspace

MAX_ROWS = 10_000  # wandb.Table.MAX_ROWS: of more, W&B shows none
HYPERPARAMETERS = 8  # axes of the view of a sweep


class FlipDashboard(Callback):
    """Show what the update breaks, after ``fit`` (of its last validation), ``validate`` and ``test``.

    FlipMonitor tells it what it counted, so add that too. Rank zero writes into ``<dirpath>/flips/val`` and
    ``.../test``: ``predictions_old.parquet`` and ``predictions_new.parquet`` for ``graceful compare``, ``flips.csv``
    and ``page.html``. With a WandbLogger, of either namespace, the same goes into its run, which this callback neither
    begins nor ends: ``flips/val_table`` (both models' answers joined, flips first), ``flips/val_nfr_by_class``,
    ``flips/val_between_classes``, ``flips/val_confidence``, ``flips/val_page``, and ``flips/test_...``; prediction
    files and the old model's fingerprint as artifacts. With wandb-workspaces, ``workspace.json`` is a W&B view that
    opens on flips.

    With several olds the name is appended, ``flips/val_table/v1``, with several loaders ``/dataloader_idx_1``: as
    FlipMonitor's keys, and so are the folders. Under DDP each sample is in once; ranks send what they hold to rank zero
    at the end of each validation, so that after an exception or Ctrl+C rank zero shows the last whole validation
    without help of the others.

    Memory: 44 bytes a sample, old model and loader (2 more a slice), on each rank of its own samples and on rank zero
    of all; plus texts of ``max_rows`` samples of at most 500 characters, and ``max_images`` pictures of at most 128
    pixels a side, 49 kB, each: 10 MB for 200, on each rank.

    Args:
        dirpath: Folder in which ``flips`` is made; None takes the folder of the run, as ModelCheckpoint does.
        max_rows: Most rows of the W&B table, at most 10,000: flips first, then a draw of the rest.
        max_images: Most negative flips that are shown with a picture: the surest mistakes.
        images: Function from a batch to pictures, ``(N, 1 or 3, H, W)`` or ``(N, H, W)``, uint8 or floating; "auto":
            the inputs where they are such; None: no pictures.
        text: Function from a batch to a text a sample, or its key in batches that are dicts; None: no texts.
        slices: Ways to cut the data, as in FlipMonitor; None takes FlipMonitor's.
        class_names: Names by class; None takes the dataset's ``classes``, else numbers.
        seed: Of the draw.
        file_format: Of the prediction files.
        save_workspace: Whether to save the view to the W&B project, once a fit, unless W&B is offline.

    Raises:
        ValueError: If an argument is out of range, or ``dirpath`` is a URL.

    Example:
        >>> from torch import nn
        >>> from lightning_graceful import FlipMonitor, OldModel
        >>> monitor = FlipMonitor(OldModel(nn.Linear(2, 3)))
        >>> trainer = pl.Trainer(callbacks=[monitor, FlipDashboard()], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        *,
        max_rows: int = MAX_ROWS,
        max_images: int = 200,
        images: PictureSource | Literal[False] | None = "auto",
        text: TextSource | None = "text",
        slices: Mapping[str, SliceSource] | None = None,
        class_names: Sequence[str] | None = None,
        seed: int = 0,
        file_format: FileFormat = "parquet",
        save_workspace: bool = False,
    ) -> None:
        _check(max_rows, max_images, images, text, class_names, file_format)
        slices_of(slices)
        self.dirpath = local_path(dirpath)
        self.max_rows, self.max_images, self.seed = max_rows, max_images, seed
        self.images, self.text, self.slices = images or None, text, slices
        self.class_names = tuple(class_names or ())
        self.file_format: FileFormat = file_format
        self.save_workspace = save_workspace
        self._wanted = Wanted(max_rows, max_images)
        self._folder = Path()
        self._now: dict[tuple[str, int], Collector] = {}
        self._whole: dict[tuple[str, int], Collected] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find FlipMonitor, the folder and the W&B run.

        Raises:
            ImportError: If what draws the page is not installed.
            RuntimeError: If there is no FlipMonitor.
        """
        if stage == "predict":
            return
        monitor = monitor_of(trainer)
        _check_extra()
        slices = slices_of(monitor.slices if self.slices is None else self.slices)
        self._wanted = Wanted(self.max_rows, self.max_images, self.images, self.text, slices, self.seed)
        self._folder = run_folder(trainer, None if self.dirpath is None else f"{self.dirpath}/flips", "flips")
        self._whole = {}
        run = find_run(trainer)
        if run is not None:
            define_axes(run)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the memory back."""
        self._now, self._whole = {}, {}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with no sample."""
        self._now = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with no sample."""
        self._now = {}

    def on_evaluated_batch(self, trainer: Any, pl_module: Any, evaluated: EvaluatedBatch) -> None:
        """Keep what is needed of a batch that FlipMonitor has counted."""
        key = evaluated.old_name, evaluated.loader
        if key not in self._now:
            self._now[key] = Collector(self._wanted, trainer.global_rank, trainer.world_size)
        self._now[key].add(evaluated)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring all ranks' samples to rank zero; of a sanity check FlipMonitor tells nothing."""
        self._gather()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring all ranks' samples to rank zero."""
        self._gather()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the flips of a validation that is not part of a fit."""
        if trainer.state.fn == "validate":
            self._show(trainer, pl_module, "val")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the flips of the last validation."""
        self._show(trainer, pl_module, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the flips of the test."""
        self._show(trainer, pl_module, "test")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Show the flips of the last whole validation, without help of other ranks, which may be gone."""
        self._now = {}
        try:
            self._show(trainer, pl_module, "test" if trainer.state.fn == "test" else "val")
        except Exception as error:
            rank_zero_warn(f"The flips of the last validation could not be shown: {error}")

    # -- inside ------------------------------------------------------------------------------------------------------

    def _gather(self) -> None:
        mine = {key: collector.collected(self.class_names) for key, collector in self._now.items()}
        self._now = {}
        everyone = gathered(mine)
        keys = sorted({key for one in everyone for key in one})
        self._whole = {key: merged([one[key] for one in everyone if key in one], self._wanted) for key in keys}

    def _show(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        whole, self._whole = self._whole, {}
        several = len({loader for _, loader in whole}) > 1
        for (name, loader), collected in whole.items():
            self._show_one(trainer, pl_module, Place(stage, name, loader, several), collected)
        if whole:
            self._show_workspace(trainer, pl_module)

    def _show_one(self, trainer: Any, pl_module: pl.LightningModule, place: Place, collected: Collected) -> None:
        table = table_of(collected, self.seed)
        old_model = f"old model {place.old_name}".strip()
        written = write_files(
            table,
            self._folder / place.folder,
            title=f"{type(pl_module).__name__} against the {old_model} ({place.stage})",
            file_format=self.file_format,
            history=history_of(trainer, place),
        )
        rank_zero_info(f"Flips against the {old_model} ({place.stage}): {written.files[-1]}")
        run = find_run(trainer)
        if run is not None:
            log_flips(run, place, table, written, max_rows=self.max_rows, step=int(trainer.global_step))
            log_artifacts(run, place, written, fingerprint_of(trainer, place.old_name))

    def _show_workspace(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        run = find_run(trainer)
        if run is None or not is_available():
            return
        plain = [key for key, value in pl_module.hparams.items() if isinstance(value, int | float | str)]
        workspace = flip_workspace(run.project or "", run.entity or "", hyperparameters=plain[:HYPERPARAMETERS])
        write_workspace(self._folder / "workspace.json", workspace)
        if self.save_workspace and trainer.state.fn == "fit" and is_online(run):
            workspace.save()


def _check(
    max_rows: int, max_images: int, images: Any, text: Any, class_names: Sequence[str] | None, file_format: str
) -> None:
    if not 1 <= max_rows <= MAX_ROWS:
        raise ValueError(f"Expected max_rows from 1 to {MAX_ROWS:,}, which is what W&B shows, got {max_rows}.")
    if max_images < 0:
        raise ValueError(f"Expected max_images of at least 0, got {max_images}.")
    if images and images != "auto" and not callable(images):
        raise ValueError(f'Expected images to be "auto", a function of a batch, or None, got {images!r}.')
    if text is not None and not isinstance(text, str) and not callable(text):
        raise ValueError(f"Expected text to be a key, a function of a batch, or None, got {text!r}.")
    if isinstance(class_names, str) or len({*(class_names or ())}) < len(class_names or ()):
        raise ValueError(f"Expected a name for each class, each another, got {class_names!r}.")
    if file_format not in {"parquet", "csv"}:
        raise ValueError(f'Expected file_format to be "parquet" or "csv", got {file_format!r}.')


def _check_extra() -> None:
    # Now, not after hours of training.
    missing = [name for name in ("jinja2", "plotly", "PIL") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"Expected {', '.join(missing)} to draw the page, got none: pip install 'lightning-graceful[report]'."
        )
