"""The frozen old classifier as a term (Shen et al., Backward-Compatible Representation Learning, CVPR 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_graceful.functional.embedding_losses.arguments import check_temperature
from lightning_graceful.functional.embedding_losses.influence import influence_loss, soft_influence_loss
from lightning_graceful.losses.classifiers import ExtendedClassifier, frozen, input_width


class InfluenceLoss(nn.Module):
    """Cross-entropy of the old classifier on the new embedding; see :func:`influence_loss`.

    The classifier is a frozen copy in eval mode: neither in the optimiser nor in checkpoints, which it would grow.
    Labels that the old model does not know are an error, unless ``new_to_old`` marks them -1. Rows of such classes are
    then left out, or, with ``extra_rows``, classified among the old classes by rows made of old embeddings.

    Args:
        classifier: Old head, any module from embeddings to scores; ``OldModel.classifier`` is used as it is, anything
            else is copied. An old head that normalises: :class:`CosineClassifier`, with its scale.
        new_to_old: For each class of the new model its column of the old classifier, or -1; default: they are the same.
        extra_rows: One row for each class that is -1 in ``new_to_old``, in their order, shape ``(E, width)``:
            ``class_means(old_embedding, target, classes)``. Scored by cosine if the classifier is a
            :class:`CosineClassifier` (recommended: a mean is longer than the rows of most linear layers), else as rows
            of a linear layer.
        width: Dimensions of the new embedding that the classifier sees, the first ones, filled up with zeros; default:
            what its first linear layer takes.

    Raises:
        ValueError: If there is no classifier, or there are not as many extra rows as classes without a column.

    Example:
        >>> loss = InfluenceLoss(nn.Linear(4, 2), new_to_old=[1, 0, -1])
        >>> new_embedding = torch.zeros(3, 6, requires_grad=True)
        >>> loss(new_embedding, torch.tensor([0, 2, -100])).ndim, len(list(loss.parameters())), loss.state_dict()
        (0, 0, OrderedDict())
    """

    new_to_old: Tensor | None

    def __init__(
        self,
        classifier: nn.Module,
        *,
        new_to_old: Sequence[int] | None = None,
        extra_rows: Tensor | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.classifier: nn.Module = frozen(classifier)
        self.width = input_width(self.classifier) if width is None else width
        columns = _checked_map(new_to_old)
        if extra_rows is not None:
            columns = _columns_with_extra(columns, extra_rows)
            self.classifier = ExtendedClassifier(self.classifier, extra_rows)
        self.register_buffer("new_to_old", columns, persistent=False)

    def forward(self, new_embedding: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the rows that count, a scalar; shapes ``(N, d)``, ``(N,)``."""
        return influence_loss(new_embedding, target, self.classifier, new_to_old=self.new_to_old, width=self.width)


class SoftInfluenceLoss(nn.Module):
    """Influence loss that distils the old classifier's own scores where it has no class.

    See :func:`soft_influence_loss`: rows of a class that ``new_to_old`` marks -1, and unlabelled ones, have the scores
    of the old embedding for a target.

    Args:
        classifier: Old head, as in :class:`InfluenceLoss`.
        new_to_old: For each class of the new model its column of the old classifier, or -1; default: they are the same.
        temperature: Softening of the distilled scores.

    Raises:
        ValueError: If there is no classifier, or the temperature is not positive.

    Example:
        >>> loss = SoftInfluenceLoss(nn.Linear(4, 2), new_to_old=[1, 0, -1])
        >>> loss(torch.ones(1, 4), torch.ones(1, 4), torch.tensor([2]))
        tensor(0.)
    """

    new_to_old: Tensor | None

    def __init__(
        self, classifier: nn.Module, *, new_to_old: Sequence[int] | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        self.classifier = frozen(classifier)
        self.register_buffer("new_to_old", _checked_map(new_to_old), persistent=False)
        self.temperature = temperature

    def forward(self, new_embedding: Tensor, old_embedding: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar; shapes ``(N, d)``, ``(N, d_old)``, ``(N,)``."""
        return soft_influence_loss(
            new_embedding,
            old_embedding,
            target,
            self.classifier,
            new_to_old=self.new_to_old,
            temperature=self.temperature,
        )

    def extra_repr(self) -> str:
        """Return the options, for ``print(loss)``."""
        return f"temperature={self.temperature}"


def _checked_map(new_to_old: Sequence[int] | None) -> Tensor | None:
    if new_to_old is None:
        return None
    columns = torch.as_tensor(new_to_old)
    if columns.ndim != 1 or columns.is_floating_point() or not len(columns) or int(columns.min()) < -1:
        raise ValueError(f"Expected new_to_old as a list of columns of the old classifier, or -1, got {new_to_old!r}.")
    return columns.to("cpu", torch.int64)


def _columns_with_extra(columns: Tensor | None, extra_rows: Tensor) -> Tensor:
    missing = 0 if columns is None else int((columns < 0).sum())
    if columns is None or missing != len(extra_rows):
        raise ValueError(
            f"Expected one of extra_rows for each class that is -1 in new_to_old, {missing}, got {len(extra_rows)}."
        )
    # The scores of the extra rows come first.
    return (columns + missing).where(columns >= 0, (columns < 0).cumsum(0) - 1)
