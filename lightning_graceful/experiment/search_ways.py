"""Ways to search the old gallery with a new model: trained with terms, adapted afterwards, or a baseline."""

import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from lightning_graceful.data.relabelled import Sample
from lightning_graceful.data.views import UnlabelledViews
from lightning_graceful.experiment.datamodules.search import SearchDataModule, SearchHalves
from lightning_graceful.experiment.update import train_new
from lightning_graceful.functional.embedding_losses import class_means
from lightning_graceful.gallery.embedding import embed_gallery
from lightning_graceful.models.old_model import OldModel

BATCH = 1000


class Rows(NamedTuple):
    """Queries and gallery as one model embeds them.

    Attributes:
        query: Float32, shape ``(Q, d)``.
        gallery: Float32, shape ``(G, d)``.
    """

    query: Tensor
    gallery: Tensor


class Searched(NamedTuple):
    """What a way gives to search with.

    Attributes:
        native: In the new model's own space.
        shared: In the space that is compatible with the old gallery.
        seconds: Time of training or fitting.
    """

    native: Rows
    shared: Rows
    seconds: float


@dataclass(frozen=True)
class Trial:
    """One seed of one protocol: data, the old model, and the paragon.

    Attributes:
        cfg: The job's config.
        data: Who is trained on what, and what is searched.
        halves: Queries and gallery.
        old: The old model.
        old_rows: As it embeds them.
        paragon: The new model trained without regard to the old one, with its embedding.
        paragon_module: Its module.
        paragon_rows: As it embeds them.
        directory: Where runs go.
        seed: Of weights and batches.
    """

    cfg: DictConfig
    data: SearchDataModule
    halves: SearchHalves
    old: OldModel
    old_rows: Rows
    paragon: OldModel
    paragon_module: nn.Module
    paragon_rows: Rows
    directory: Path
    seed: int

    @functools.cached_property
    def old_train(self) -> tuple[Tensor, Tensor]:
        """Training samples as the old model embeds them, and the dataset's labels: every adapter asks for them."""
        samples = self.data.train_eval
        return embed(self.old, samples), labels_of(samples)


class SearchWay(ABC):
    """A way to get new embeddings that search the old gallery."""

    detail = ""

    @abstractmethod
    def search(self, name: str, trial: Trial) -> Searched:
        """Train or fit, and embed queries and gallery.

        Args:
            name: Of the way.
            trial: The seed.

        Returns:
            Embeddings in both spaces.
        """


class IndependentWay(SearchWay):
    """The paragon's own embedding, as if its space were the old one."""

    detail = "no regard to the old model"

    def search(self, name: str, trial: Trial) -> Searched:
        """Return the paragon's rows."""
        return Searched(trial.paragon_rows, trial.paragon_rows, 0.0)


class TrainedWay(SearchWay):
    """A new model trained with terms.

    Args:
        terms: Losses by name, as in ``conf/losses``.
        weights: Of the terms, and of the task.
        unlabelled: As many views without a label as this share of the training samples; 0: none.
    """

    def __init__(self, terms: DictConfig, weights: DictConfig, *, unlabelled: float = 0.0) -> None:
        self.losses = OmegaConf.create({"terms": terms, "weights": weights})
        self.unlabelled = unlabelled
        self.detail = ", ".join(f"{key!s} {value:g}" for key, value in weights.items())

    def search(self, name: str, trial: Trial) -> Searched:
        """Train a new model, and embed with it; its first dimensions are the shared space.

        Returns:
            Embeddings in both spaces.
        """
        data = WithViews(trial.data, self.unlabelled) if self.unlabelled else trial.data
        trained = train_new(
            trial.cfg, self.losses, data, trial.old, trial.directory, name=name.replace(" ", "_"), seed=trial.seed
        )
        rows = rows_of(OldModel(trained.module.cpu(), embedding=trial.cfg.embedding), trial.halves)
        width = trial.old_rows.gallery.shape[1]
        return Searched(rows, Rows(*(part[:, :width] for part in rows)), trained.seconds)


class AdaptedWay(SearchWay):
    """The paragon with an adapter into the old space, fitted on the training samples.

    Args:
        fit: Function of the paragon's rows, the old embeddings and the labels that returns the adapter.
        source: Path of the paragon's module whose output is mapped; None: its embedding.
        unlabelled: As many views without a label as this share of the training samples, which ``fit`` is given as
            ``unlabelled=(new, old)``; 0: none, and no such argument.
        held_out_images: As many training images of the held-out classes, without their labels, are given likewise:
            neither model was trained on them, and none is a query or in the gallery. 0 is the open protocol; with any,
            a sample of what will be searched is at hand.
    """

    def __init__(
        self,
        fit: Callable[..., nn.Module],
        *,
        source: str | None = None,
        unlabelled: float = 0.0,
        held_out_images: int = 0,
    ) -> None:
        self.fit = fit
        self.source = source
        self.unlabelled = unlabelled
        self.held_out_images = held_out_images
        self.detail = "".join([
            "after training",
            f", of {source}" if source else "",
            f", given {held_out_images} images of held-out classes" if held_out_images else "",
        ])

    def search(self, name: str, trial: Trial) -> Searched:
        """Fit the adapter, and map queries and gallery.

        Returns:
            Embeddings in both spaces.
        """
        source = OldModel(trial.paragon_module, embedding=self.source or trial.cfg.embedding)
        samples = trial.data.train_eval
        further: dict[str, Any] = {}
        old_rows, labels = trial.old_train
        start = time.perf_counter()
        unlabelled: list[Dataset[Any]] = []
        if self.unlabelled:
            unlabelled.append(UnlabelledViews(samples, share=self.unlabelled, seed=trial.seed))
        if self.held_out_images:
            unlabelled.append(trial.data.held_out_sample(self.held_out_images, seed=trial.seed))
        if unlabelled:
            further["unlabelled"] = tuple(
                torch.cat([embed(model, part) for part in unlabelled]) for model in (source, trial.old)
            )
        adapter = self.fit(embed(source, samples), old_rows, labels, **further)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            shared = Rows(*(adapter(part) for part in rows_of(source, trial.halves)))
        return Searched(trial.paragon_rows, shared, seconds)


class CollapsedWay(SearchWay):
    """The old class mean of the class that the paragon predicts: a baseline whose mean looks better than its search."""

    detail = "old class mean of the predicted class"

    def search(self, name: str, trial: Trial) -> Searched:
        """Look the mean of each sample's predicted class up.

        Returns:
            Embeddings in both spaces.
        """
        old_rows, labels = trial.old_train
        start = time.perf_counter()
        means = class_means(old_rows, labels, trial.data.new_classes)
        shared = Rows(*(means[predicted(trial.paragon, half)] for half in trial.halves))
        return Searched(trial.paragon_rows, shared, time.perf_counter() - start)


class WithViews(pl.LightningDataModule):
    """An update's data, with unlabelled views among the training batches.

    Args:
        data: The update's data.
        share: As many views as this share of its training samples.
    """

    def __init__(self, data: SearchDataModule, share: float) -> None:
        super().__init__()
        self.data = data
        self.train_set: ConcatDataset[Sample] = ConcatDataset([
            data.train_set,
            UnlabelledViews(data.train_set, share=share, seed=data.seed),
        ])

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return shuffled batches of labelled and unlabelled samples."""
        return self.data.loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return the update's validation batches."""
        return self.data.val_dataloader()


def unlabelled_fit(fit: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Let an adapter that is fitted without labels stand where one with labels does.

    Args:
        fit: Function of source and target rows.

    Returns:
        Function of source rows, target rows and labels.
    """
    return lambda source, target, labels: fit(source, target)


def rows_of(model: OldModel, halves: SearchHalves) -> Rows:
    """Embed queries and gallery.

    Args:
        model: With an embedding.
        halves: Queries and gallery.

    Returns:
        Their rows, in the order of the samples.
    """
    return Rows(*(embed(model, half) for half in halves))


def embed(model: OldModel, samples: Dataset[Any]) -> Tensor:
    """Embed samples, ``4 * d`` bytes each.

    Args:
        model: With an embedding.
        samples: In the order in which they are returned.

    Returns:
        Float32, shape ``(N, d)``.
    """
    return embed_gallery(model, DataLoader(samples, BATCH)).embeddings


def labels_of(samples: "Subset[Sample]") -> Tensor:
    """Return the labels of samples, int64, shape ``(N,)``, without a look at the images.

    Args:
        samples: Of a base dataset.

    Returns:
        The labels.
    """
    base: Any = samples.dataset
    labels: Tensor = base.target[list(samples.indices)]
    return labels


def predicted(model: OldModel, samples: "Subset[Sample]") -> Tensor:
    """Return the class that a model predicts for each sample, int64, shape ``(N,)``.

    Args:
        model: With logits.
        samples: What it is asked about.

    Returns:
        Its classes.
    """
    parts = []
    for batch in DataLoader(samples, BATCH):
        logits = model.outputs(batch).logits
        assert logits is not None
        parts.append(logits.argmax(-1))
    return torch.cat(parts)
