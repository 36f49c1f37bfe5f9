"""Is a new embedding model compatible with the old one's gallery? Criteria and gains from measures of search.

A *self test* M(new, new) searches a gallery with the model that made it, a *cross test* M(new, old) searches the old
gallery with new queries (Shen et al., Towards Backward-Compatible Representation Learning, CVPR 2020). The *paragon* is
the new model trained without regard to the old one.
"""

import torch
from torch import Tensor

Number = float | Tensor


def update_gain(cross: Number, old_self: Number, paragon_self: Number, *, minimum_gap: float = 0.0) -> Tensor:
    """Compute which share of the gain of re-indexing is had without it.

    .. math:: G = (M(new, old) - M(old, old)) / (M(paragon, paragon) - M(old, old))

    Args:
        cross: Cross test of the new model; a number, or any shape that broadcasts.
        old_self: Self test of the old model.
        paragon_self: Self test of the paragon.
        minimum_gap: Gap ``paragon_self - old_self`` below which the ratio says nothing.

    Returns:
        Gain, float64: at most 0 is not compatible, 1 is as good as re-indexing with the paragon. NaN where the gap is
        not positive or below ``minimum_gap``.

    Raises:
        ValueError: If ``minimum_gap`` is negative.

    Example:
        >>> round(update_gain(0.422, 0.395, 0.663).item(), 2), update_gain(0.5, 0.4, 0.41, minimum_gap=0.05).item()
        (0.1, nan)
    """
    if not minimum_gap >= 0:
        raise ValueError(f"Expected minimum_gap of at least 0, got {minimum_gap}.")
    cross, old_self, paragon_self = _doubles(cross, old_self, paragon_self)
    gap = paragon_self - old_self
    return ((cross - old_self) / gap).where((gap > 0) & (gap >= minimum_gap), torch.nan)


def is_backward_compatible(cross: Number, old_self: Number) -> bool:
    """Tell whether new queries search the old gallery better than old queries do: the empirical criterion.

    Args:
        cross: Cross test of the new model, a number.
        old_self: Self test of the old model, a number.

    Returns:
        ``cross > old_self``; a draw is not compatible.

    Raises:
        ValueError: If one of them is NaN: nothing was measured.

    Example:
        >>> is_backward_compatible(0.422, 0.395), is_backward_compatible(0.395, 0.395)
        (True, False)
    """
    cross, old_self = _doubles(cross, old_self)
    if bool(cross.isnan() | old_self.isnan()):
        raise ValueError(f"Expected two measures, got {cross.item()} and {old_self.item()}. NaN: no query had a match.")
    return bool(cross > old_self)


def self_accuracy_tax(paragon_self: Number, new_self: Number) -> Tensor:
    """Compute what compatibility costs where everything is re-indexed.

    Args:
        paragon_self: Self test of the paragon; a number, or any shape that broadcasts.
        new_self: Self test of the new model.

    Returns:
        ``paragon_self - new_self``, float64; negative where the new model is better.

    Example:
        >>> round(self_accuracy_tax(0.663, 0.556).item(), 3)
        0.107
    """
    paragon_self, new_self = _doubles(paragon_self, new_self)
    return paragon_self - new_self


def average_compatibility(matrix: Tensor) -> Tensor:
    """Compute the share of pairs of versions whose later one beats the earlier in its own gallery.

    AC of Biondi et al., CoReS, TPAMI 2023.

    Args:
        matrix: Measures ``[i, j]`` of queries of version i in the gallery of version j, oldest first, floating, shape
            ``(V, V)``; :func:`compatibility_matrix` gives it.

    Returns:
        Share of the pairs ``i > j`` with ``matrix[i, j] > matrix[j, j]``, float64; NaN for fewer than two versions, or
        where a measure that it needs is NaN.

    Raises:
        ValueError: If the matrix is not square.

    Example:
        >>> average_compatibility(torch.tensor([[0.5, 0.1, 0.1], [0.6, 0.7, 0.1], [0.4, 0.8, 0.9]])).item()
        0.6666666666666666
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"Expected a square matrix of versions, got shape {tuple(matrix.shape)}.")
    later, earlier = torch.tril_indices(len(matrix), len(matrix), offset=-1, device=matrix.device)
    cross, self_test = matrix[later, earlier], matrix[earlier, earlier]
    better = (cross > self_test).double()
    return better.where(~(cross.isnan() | self_test.isnan()), torch.nan).mean()


def _doubles(*numbers: Number) -> list[Tensor]:
    return [torch.as_tensor(number, dtype=torch.float64) for number in numbers]
