"""Linear maps between two spaces that are solved for, from the moments of a paired sample, in float64."""

import torch
from torch import Tensor

from lightning_graceful.adapters.sample import Moments

# Penalties tried, as multiples of the mean variance of a source dimension.
_PENALTIES = torch.logspace(-10, 4, 113, dtype=torch.float64)
# With fewer spare pairs than this share, the criterion is a ratio of two roundings.
_SPARE = 0.01


def procrustes(moments: Moments, *, centred: bool = False) -> tuple[Tensor, Tensor]:
    """Find the rotation (with reflection) that brings source rows nearest to target rows (Schoenemann, 1966).

    Args:
        moments: Of the paired sample.
        centred: Move the mean of the source to that of the target, too.

    Returns:
        Weight with orthonormal columns (into a wider space), rows (into a narrower one), or both, float64, shape
        ``(d_to, d_from)``; bias, shape ``(d_to,)``, zeros unless centred.

    Example:
        >>> from lightning_graceful.adapters.sample import paired_moments
        >>> turned = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> (procrustes(paired_moments(torch.eye(2), turned))[0] @ torch.eye(2).double()).T.round().abs()
        tensor([[0., 1.],
                [1., 0.]], dtype=torch.float64)
    """
    cross = moments.cross
    if not centred:
        cross = cross + moments.count * torch.outer(moments.target_mean, moments.source_mean)
    u, _, vh = torch.linalg.svd(cross, full_matrices=False)
    weight = u @ vh
    bias = moments.target_mean - weight @ moments.source_mean
    return weight, bias if centred else torch.zeros_like(bias)


def ridge(moments: Moments, penalty: float | None = None) -> tuple[Tensor, Tensor]:
    """Minimise the mean of ``|target - weight @ source - bias|^2``, plus ``penalty * |weight|^2``.

    Args:
        moments: Of the paired sample.
        penalty: At least 0 (then of all best maps the smallest is taken), or None: that of the least
            :func:`generalised_error`.

    Returns:
        Weight, float64, shape ``(d_to, d_from)``; bias, shape ``(d_to,)``.

    Raises:
        ValueError: If the penalty is negative or not finite.

    Example:
        >>> from lightning_graceful.adapters.sample import paired_moments
        >>> source = torch.tensor([[0.0], [1.0], [2.0]])
        >>> [x.item() for x in ridge(paired_moments(source, 2 * source + 1), penalty=0.0)]
        [2.0, 1.0]
    """
    _check_penalty(penalty)
    values, vectors = _spectrum(moments)
    if penalty is None:
        penalty = _best_penalty(moments, values, vectors)
    least = values.max() * len(values) * torch.finfo(torch.float64).eps
    inverse = torch.where(values > least, 1 / (values + penalty), 0.0)
    weight = (moments.cross / moments.count @ vectors) * inverse @ vectors.T
    return weight, moments.target_mean - weight @ moments.source_mean


def low_rank(moments: Moments, rank: int, penalty: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Solve :func:`ridge` among the weights of a rank at most (Mukherjee and Zhu, 2011).

    Args:
        moments: Of the paired sample.
        rank: From 1 to the smaller of both widths.
        penalty: As in :func:`ridge`; None: the one that suits the full rank.

    Returns:
        Weights into the few dimensions, float64, shape ``(rank, d_from)``, and out of them, shape ``(d_to, rank)``,
        with orthonormal columns; bias, shape ``(d_to,)``.

    Raises:
        ValueError: If rank or penalty are not as said.

    Example:
        >>> from lightning_graceful.adapters.sample import paired_moments
        >>> source = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
        >>> into, out, _ = low_rank(paired_moments(source, source), rank=1, penalty=0.0)
        >>> (out @ into).round().abs()
        tensor([[1., 0.],
                [0., 0.]], dtype=torch.float64)
    """
    most = min(moments.cross.shape)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
        raise ValueError(f"Expected rank from 1 to {most}, the smaller of both widths, got {rank}.")
    weight, _ = ridge(moments, penalty)
    # weight' (source + penalty) weight is weight' cross', since ridge solves for just this.
    fitted = weight @ moments.cross.T
    _, vectors = torch.linalg.eigh((fitted + fitted.T) / 2)
    out = vectors[:, -rank:].flip(1)
    into = out.T @ weight
    return into, out, moments.target_mean - out @ (into @ moments.source_mean)


def generalised_error(moments: Moments, penalties: Tensor) -> Tensor:
    """Estimate the error of ridge maps on new pairs by generalised cross-validation (Golub et al., 1979).

    It is leave-one-out with the mean leverage in place of each pair's own, and needs no second look at the sample. Like
    this, it takes the pairs for independent: of items with many near copies it advises too small a penalty.

    Args:
        moments: Of the paired sample.
        penalties: At least 0, float64, shape ``(P,)``.

    Returns:
        Estimated mean squared distance, float64, shape ``(P,)``; infinite where the map has nearly as many degrees of
        freedom as there are pairs.
    """
    return _generalised_error(moments, *_spectrum(moments), penalties)


def _generalised_error(moments: Moments, values: Tensor, vectors: Tensor, penalties: Tensor) -> Tensor:
    explained = (moments.cross / moments.count @ vectors).square().sum(0)
    shrunk = values + penalties[:, None]
    total = moments.target_square / moments.count
    removed = torch.where(shrunk > 0, explained * (values + 2 * penalties[:, None]) / shrunk.square(), 0.0)
    residual = (total - removed.sum(1)).clamp(min=total * torch.finfo(torch.float64).eps)
    freedom = 1 + torch.where(shrunk > 0, values / shrunk, 0.0).sum(1)
    spare = 1 - freedom / moments.count
    return torch.where(spare > _SPARE, residual / spare.square(), torch.inf)


def _best_penalty(moments: Moments, values: Tensor, vectors: Tensor) -> float:
    penalties = _PENALTIES.to(values.device) * values.mean()
    errors = _generalised_error(moments, values, vectors, penalties)
    # The largest of equally good ones; a source without variance has no best one.
    return float(penalties.flip(0)[errors.flip(0).argmin()]) or 1.0


def _spectrum(moments: Moments) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(moments.source / moments.count)
    return values.clamp(min=0), vectors


def _check_penalty(penalty: float | None) -> None:
    if penalty is not None and not 0 <= penalty < float("inf"):
        raise ValueError(f"Expected penalty of at least 0, or None, got {penalty}.")
