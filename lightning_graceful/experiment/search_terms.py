"""Terms that are made of parts of the old and the new model: the ``_partial_`` losses of ``conf/ways/bct``."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch import nn

from lightning_graceful.losses.classifiers import CosineClassifier
from lightning_graceful.losses.influence import InfluenceLoss
from lightning_graceful.losses.mixed_gallery import MixedGalleryLoss
from lightning_graceful.models.frozen import Frozen
from lightning_graceful.models.old_model import OldModel


def influence(old: OldModel, module: pl.LightningModule) -> InfluenceLoss:
    """Make the influence loss of the old model's own classifier; samples of classes that it lacks are left out.

    Args:
        old: With a classifier.
        module: The new model, which is not looked at.

    Returns:
        The term.

    Raises:
        ValueError: If the old model has no classifier.
    """
    return InfluenceLoss(_head_of(old), new_to_old=_columns_of(old))


def cosine_influence(old: OldModel, module: pl.LightningModule, *, scale: float = 16.0) -> InfluenceLoss:
    """Make the influence loss of the rows of the old model's linear classifier, by cosine; see :func:`influence`.

    Args:
        old: With a linear classifier.
        module: The new model, which is not looked at.
        scale: Of the cosines.

    Returns:
        The term.

    Raises:
        ValueError: If the old model has no linear classifier.
    """
    head = _head_of(old)
    held = head.frozen if isinstance(head, Frozen) else head
    if not isinstance(held, nn.Linear):
        raise ValueError(f"Expected an old classifier that is an nn.Linear, got {type(held).__name__}.")
    return InfluenceLoss(CosineClassifier.from_linear(held, scale), new_to_old=_columns_of(old))


def mixed_gallery(
    old: OldModel, module: pl.LightningModule, *, classifier: str, share: float = 0.3
) -> MixedGalleryLoss:
    """Make MixBCT's loss of the new model's own classifier.

    Args:
        old: Not looked at.
        module: The new model.
        classifier: Path of its classifier.
        share: Of the embeddings that are replaced by old ones.

    Returns:
        The term.
    """
    return MixedGalleryLoss(module.get_submodule(classifier), share)


def _columns_of(old: OldModel) -> Sequence[int] | None:
    columns: Any = old.options["label_map"]
    return columns  # type: ignore[no-any-return]


def _head_of(old: OldModel) -> nn.Module:
    if old.classifier is None:
        raise ValueError("Expected an old model with a classifier, got none: classifier=net.classifier.")
    return old.classifier
