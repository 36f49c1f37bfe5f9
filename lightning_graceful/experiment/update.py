"""One update: the old model, and a new one trained against it."""

import functools
import importlib.util
import logging
import os
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lightning_graceful.experiment.datamodules import UpdateDataModule
from lightning_graceful.experiment.datamodules.search import SearchDataModule
from lightning_graceful.mixin import make_graceful
from lightning_graceful.models.old_model import OldModel

# Callbacks that compare with an old model: none of them has a place in the old model's own training.
ABOUT_OLD = {"old_outputs", "flips", "dashboard", "history", "pareto", "stopping"}

LIGHTNINGS = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")


class Trained(NamedTuple):
    """A new model and what it cost.

    Attributes:
        module: With its last weights.
        seconds: Wall time of training, without the old model's.
        val: What was logged last, such as ``val/nfr``.
    """

    module: pl.LightningModule
    seconds: float
    val: dict[str, float]


def build_data(cfg: DictConfig, seed: int) -> UpdateDataModule:
    """Build the data of a seed.

    Args:
        cfg: The job's config.
        seed: The seed.

    Returns:
        The data module.
    """
    data: UpdateDataModule = instantiate(cfg.data, seed=seed, _convert_="all")
    return data


def obtain_old(cfg: DictConfig, data: UpdateDataModule, directory: Path, seed: int) -> OldModel:
    """Load the old model, or train it first.

    Args:
        cfg: The job's config; ``cfg.old`` holds a ``_target_`` that gives an OldModel, or a model and epochs to train
            it.
        data: The update's data, of which the old model sees a part.
        directory: Where the checkpoint and the log of its training go.
        seed: Of its weights and batches.

    Returns:
        The old model.
    """
    if "_target_" in cfg.old:
        old: OldModel = instantiate(cfg.old, _convert_="all")
        return old
    label_map = data.old_label_map if isinstance(data, SearchDataModule) else None
    pl.seed_everything(seed, verbose=False)
    module = instantiate(cfg.old.model, _convert_="all")
    trainer = _trainer(cfg, directory / "old", "old", skip=ABOUT_OLD, max_epochs=cfg.old.epochs)
    trainer.fit(module, datamodule=data.of_old())
    _finish(trainer)
    return OldModel(module, embedding=cfg.embedding, classifier=cfg.classifier, label_map=label_map)


def train_new(
    cfg: DictConfig,
    losses: DictConfig,
    data: pl.LightningDataModule,
    old: OldModel,
    directory: Path,
    *,
    name: str,
    seed: int,
) -> Trained:
    """Train a new model.

    Args:
        cfg: The job's config.
        losses: ``terms`` and ``weights``; without terms the module is trained as it is. A term with ``_partial_`` is
            called with the old model and the new module.
        data: The update's data.
        old: The old model.
        directory: Where the run goes.
        name: Of the run.
        seed: Of weights and batches.

    Returns:
        The model and its cost.
    """
    pl.seed_everything(seed, verbose=False)
    module = instantiate(cfg.model, _convert_="all")
    if losses.terms:
        terms = {key: _term(node, old, module) for key, node in losses.terms.items()}
        weights: Mapping[str, float] = OmegaConf.to_container(losses.weights, resolve=True)  # type: ignore[assignment]
        module = make_graceful(module, terms, weights, embedding=cfg.embedding)
    # Plain training reads no old outputs; its flips are monitored all the same.
    trainer = _trainer(cfg, directory / name, name, old=old, skip=set() if losses.terms else {"old_outputs"})
    start = time.perf_counter()
    trainer.fit(module, datamodule=data)
    seconds = time.perf_counter() - start
    _finish(trainer)
    val = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
    return Trained(module, seconds, val)


def is_rank_zero() -> bool:
    """Say whether this process is the one that prints and writes (Lightning's subprocess launcher numbers the others).

    Returns:
        True on the first process.
    """
    return int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0


def prepare_process(cfg: DictConfig) -> None:
    """Set threads, and keep Lightning's remarks on each of many short runs out of the way of the jobs' own lines.

    Args:
        cfg: The job's config.
    """
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    os.environ.setdefault("WANDB_SILENT", "true")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")


def _trainer(
    cfg: DictConfig, directory: Path, name: str, *, old: OldModel | None = None, skip: set[str], **changes: Any
) -> pl.Trainer:
    callbacks = [
        _with_old(node, old) for key, node in (cfg.callbacks or {}).items() if key not in skip and node is not None
    ]
    # Here, for each package sets its level when it is imported, and a callback may be the first to import one.
    for package in LIGHTNINGS:
        logging.getLogger(package).setLevel(logging.WARNING)
    return instantiate(  # type: ignore[no-any-return]
        cfg.trainer,
        callbacks=callbacks,
        logger=_loggers(cfg, directory, name),
        default_root_dir=str(directory),
        _convert_="all",
        **changes,
    )


def _term(node: DictConfig, old: OldModel, module: pl.LightningModule) -> Any:
    # A term that is made of parts of the models is a function of them: _partial_ in its config.
    term = instantiate(node, _convert_="all")
    return term(old, module) if isinstance(term, functools.partial) else term


def _with_old(node: DictConfig, old: OldModel | None) -> Any:
    # Build a callback; one that asks for the old model gets the one that is at hand.
    if "old" not in node:
        return instantiate(node, _convert_="all")
    rest = OmegaConf.masked_copy(node, [str(key) for key in node if key != "old"])
    rest._set_parent(node._get_parent())
    return instantiate(rest, _partial_=True, _convert_="all")(old=old)


def _loggers(cfg: DictConfig, directory: Path, name: str) -> list[Any]:
    built = []
    for key, node in (cfg.logger or {}).items():
        placed = {"save_dir": str(directory)} if "save_dir" in node else {}
        named = {"name": name, "group": str(directory.parent.name)} if key == "wandb" else {}
        if key == "wandb" and importlib.util.find_spec("wandb") is None:
            Console(stderr=True).print("No W&B log: wandb is not installed (pip install wandb). The CSV log goes on.")
            continue
        built.append(instantiate(node, **placed, **named, _convert_="all"))
    return built


def _finish(trainer: pl.Trainer) -> None:
    # End the W&B run that this job began: the next one in this process would continue it.
    wandb = sys.modules.get("wandb")
    if trainer.is_global_zero and wandb is not None and wandb.run is not None:
        wandb.finish()
