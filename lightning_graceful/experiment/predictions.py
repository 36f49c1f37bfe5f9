"""What old and new models say of the test samples, each read once."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Subset

from lightning_graceful.data.batch import default_batch
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.report.evidence import Predictions


class Answers(NamedTuple):
    """One model's answers, in the order of the samples.

    Attributes:
        label: Predicted class, int64, shape ``(N,)``.
        confidence: Probability it gave to that class, float32, shape ``(N,)``.
    """

    label: NDArray[np.int64]
    confidence: NDArray[np.float32]


class TestSamples(NamedTuple):
    """The samples that answers are about.

    Attributes:
        id: Position in the base dataset, int64, shape ``(N,)``.
        target: True class, int64, shape ``(N,)``.
    """

    id: NDArray[np.int64]
    target: NDArray[np.int64]


def answers(model: OldModel | nn.Module, loader: DataLoader[tuple[torch.Tensor, torch.Tensor]]) -> Answers:
    """Ask a model about every sample of a loader that does not shuffle; 12 bytes a sample are held.

    Args:
        model: An old model, or a module that returns logits of a batch of inputs.
        loader: Gives ``(inputs, target)``.

    Returns:
        The answers.
    """
    old = model if isinstance(model, OldModel) else OldModel(model)
    labels, confidences = [], []
    for batch in loader:
        logits = old.outputs(batch).logits
        assert logits is not None  # of a model without embedding path, or an error was raised
        confidence, label = logits.softmax(-1).max(-1)
        labels.append(label.numpy())
        confidences.append(confidence.float().numpy())
    return Answers(np.concatenate(labels), np.concatenate(confidences))


def samples(loader: DataLoader[tuple[torch.Tensor, torch.Tensor]]) -> TestSamples:
    """Return ids and targets of a loader that does not shuffle.

    Args:
        loader: Over a Subset of a base dataset.

    Returns:
        The samples.
    """
    assert isinstance(loader.dataset, Subset)
    targets = [default_batch(batch).target for batch in loader]
    return TestSamples(
        np.asarray(loader.dataset.indices, dtype=np.int64),
        np.concatenate([target.numpy() for target in targets if target is not None]),
    )


def predictions(of: TestSamples, old: Answers, new: Answers, *, seed: int) -> Predictions:
    """Join what both models say of the same samples.

    Args:
        of: The samples.
        old: The old model's answers.
        new: The new model's answers.
        seed: Of the run.

    Returns:
        The joined table.
    """
    seeds = np.full(len(of.id), seed, dtype=np.int64)
    return Predictions(of.id, seeds, of.target, old.label, new.label, old.confidence, new.confidence)


def pooled(parts: Iterable[Predictions]) -> Predictions:
    """Put the seeds of one way below each other.

    Args:
        parts: One table a seed.

    Returns:
        One table.
    """
    parts = list(parts)
    names = ("id", "seed", "target", "old", "new", "old_confidence", "new_confidence")
    return Predictions(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
