"""What old and new models say of the test samples, each read once."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Subset

from lightning_graceful.data.batch import default_batch
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.report.files import write_predictions


class Answers(NamedTuple):
    """One model's answers to the test samples of one or more seeds.

    Attributes:
        id: Position in the base dataset, int64, shape ``(N,)``.
        seed: Seed of the run, int64, shape ``(N,)``.
        target: True class, int64, shape ``(N,)``.
        label: Predicted class, int64, shape ``(N,)``.
        confidence: Probability it gave to that class, float32, shape ``(N,)``.
        target_score: Probability it gave to the true class, float32, shape ``(N,)``.
    """

    id: NDArray[np.int64]
    seed: NDArray[np.int64]
    target: NDArray[np.int64]
    label: NDArray[np.int64]
    confidence: NDArray[np.float32]
    target_score: NDArray[np.float32]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Which answers are wrong, bool, shape ``(N,)``."""
        return np.asarray(self.label != self.target, np.bool_)


def answers(
    model: OldModel | nn.Module, loader: DataLoader[tuple[torch.Tensor, torch.Tensor]], *, seed: int
) -> Answers:
    """Ask a model about every sample of a loader that does not shuffle; 40 bytes a sample are held.

    Args:
        model: An old model, or a module that returns logits of a batch of inputs.
        loader: Gives ``(inputs, target)`` of a Subset of a base dataset.
        seed: Of the run.

    Returns:
        The answers, in the order of the samples.
    """
    assert isinstance(loader.dataset, Subset)
    old = model if isinstance(model, OldModel) else OldModel(model)
    parts = []
    for batch in loader:
        logits, target = old.outputs(batch).logits, default_batch(batch).target
        assert logits is not None  # of a model without embedding path, or an error was raised
        assert target is not None
        scores = logits.softmax(-1).float()
        confidence, label = scores.max(-1)
        parts.append((target, label, confidence, scores.gather(1, target[:, None])[:, 0]))
    index = np.asarray(loader.dataset.indices, dtype=np.int64)
    columns = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
    return Answers(index, np.full_like(index, seed), *columns)


def pooled(parts: Iterable[Answers]) -> Answers:
    """Put the answers of several seeds below each other.

    Args:
        parts: Answers of each seed.

    Returns:
        All of them.
    """
    return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def write_answers(path: Path, said: Answers, class_names: Sequence[str]) -> Path:
    """Write answers as a prediction file, classes by name.

    Args:
        path: File to write, .csv or .parquet.
        said: The answers.
        class_names: Name of each class.

    Returns:
        The path.
    """
    names = np.asarray(class_names, dtype=object)
    return write_predictions(
        path, id=said.id, seed=said.seed, target=names[said.target], label=names[said.label],
        confidence=said.confidence, target_score=said.target_score,
    )  # fmt: skip
