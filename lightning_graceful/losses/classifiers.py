"""Classifiers of embeddings: by cosine, and an old one with rows for new classes."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_graceful.functional.embedding_losses.rows import cosines, directions
from lightning_graceful.models.frozen import Frozen

# What layers call the width of their input.
WIDTHS = ("in_features", "num_features")


class CosineClassifier(nn.Module):
    """Scores that are cosines to one row a class, times a fixed scale.

    Trainable as it is; :class:`~lightning_graceful.losses.influence.InfluenceLoss` freezes the one that it holds. The
    scores are computed in float32 at least, also under autocast.

    Args:
        weight: One row a class, floating, shape ``(C, d)``; any lengths. Copied.
        scale: Of the scores. At 1 even a perfect row stays near the uniform distribution; 30 is openBCT's.

    Raises:
        ValueError: If the rows are no floating matrix, hold NaN or Inf, or the scale is not positive.

    Example:
        >>> CosineClassifier(torch.eye(2), scale=10.0)(torch.tensor([[3.0, 4.0]])).detach()
        tensor([[6., 8.]])
    """

    def __init__(self, weight: Tensor, scale: float = 30.0) -> None:
        super().__init__()
        _check_weight("weight", weight)
        if not scale > 0:
            raise ValueError(f"Expected scale > 0, got {scale}.")
        self.weight = nn.Parameter(weight.detach().clone())
        self.scale = scale

    @classmethod
    def from_linear(cls, layer: nn.Linear, scale: float = 30.0) -> "CosineClassifier":
        """Take the rows of a linear layer; its bias has no place here.

        Args:
            layer: Its weights are copied.
            scale: Of the scores.

        Returns:
            The classifier.

        Example:
            >>> CosineClassifier.from_linear(nn.Linear(4, 3)).out_features
            3
        """
        return cls(layer.weight, scale)

    @property
    def in_features(self) -> int:
        """Width of the embeddings."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Number of classes."""
        return self.weight.shape[0]

    def forward(self, embedding: Tensor) -> Tensor:
        """Return scores, shape ``(N, C)``, of embeddings, shape ``(N, d)``."""
        return self.scale * cosines(directions(embedding), directions(self.weight))

    def extra_repr(self) -> str:
        """Return the options, for ``print(classifier)``."""
        return f"in_features={self.in_features}, out_features={self.out_features}, scale={self.scale}"


class ExtendedClassifier(nn.Module):
    """An old classifier with further rows, whose scores come first.

    First, so that the columns of the old classes can be told without knowing how many there are. The rows are scored as
    the classifier does: by cosine if it is a :class:`CosineClassifier`, else as those of a linear layer without bias.

    Args:
        classifier: From embeddings ``(N, d)`` to scores ``(N, C)``.
        rows: Of further classes, such as :func:`class_means`, floating, shape ``(E, d)``.

    Raises:
        ValueError: If the rows are no floating matrix, or hold NaN or Inf.

    Example:
        >>> ExtendedClassifier(CosineClassifier(torch.eye(2), 1.0), torch.tensor([[3.0, 4.0]]))(torch.eye(2))
        tensor([[0.6000, 1.0000, 0.0000],
                [0.8000, 0.0000, 1.0000]])
    """

    def __init__(self, classifier: nn.Module, rows: Tensor) -> None:
        super().__init__()
        _check_weight("extra_rows", rows)
        self.classifier = frozen(classifier)
        held = self.classifier.frozen
        self.rows = Frozen(
            CosineClassifier(rows, held.scale) if isinstance(held, CosineClassifier) else _Products(rows)
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Return scores, shape ``(N, E + C)``, of embeddings, shape ``(N, d)``."""
        return torch.cat([self.rows(embedding), self.classifier(embedding)], dim=1)


def frozen(classifier: nn.Module) -> Frozen:
    """Freeze a copy of a classifier; ``OldModel.classifier`` is one already.

    Args:
        classifier: Any module.

    Returns:
        The frozen copy.

    Raises:
        ValueError: If it is no module.
    """
    if not isinstance(classifier, nn.Module):
        raise ValueError(
            f"Expected the old classifier as an nn.Module, got {type(classifier).__name__}. "
            'OldModel(model, classifier="path.of.head").classifier is one.'
        )
    return classifier if isinstance(classifier, Frozen) else Frozen(copy.deepcopy(classifier))


def input_width(classifier: nn.Module) -> int | None:
    """Find the width of the embeddings that a classifier takes.

    Args:
        classifier: Any module.

    Returns:
        What its first layer of a known kind (linear, batch norm, :class:`CosineClassifier`) says; None without one.

    Example:
        >>> input_width(nn.Sequential(nn.ReLU(), nn.Linear(4, 3)))
        4
    """
    held = classifier.frozen if isinstance(classifier, Frozen) else classifier
    widths = (getattr(layer, name, None) for layer in held.modules() for name in WIDTHS)
    return next((width for width in widths if isinstance(width, int) and width > 0), None)


class _Products(nn.Module):
    # A linear layer without bias; nn.Linear's random start would move the user's random numbers.
    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(rows.detach().clone())

    def forward(self, embedding: Tensor) -> Tensor:
        return F.linear(embedding, self.weight)


def _check_weight(name: str, rows: Tensor) -> None:
    if rows.ndim != 2 or not rows.is_floating_point() or not torch.isfinite(rows.detach()).all():
        raise ValueError(
            f"Expected {name} as a finite floating matrix, one row a class, got {rows.dtype} of shape "
            f"{tuple(rows.shape)}{'' if rows.ndim != 2 else ', or NaN or Inf in it'}."
        )
