"""A paired sample: the same items as two models embed them, checked, and its means and second moments in one pass."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Pairs = Iterable[tuple[Tensor, Tensor]]
# Rows taken to float64 at a time.
PART = 2**12


@dataclass(frozen=True, eq=False)
class Moments:
    """What the closed forms need of a paired sample: its size does not grow with the sample.

    Attributes:
        count: Pairs.
        source_mean: Float64, shape ``(d_from,)``.
        target_mean: Float64, shape ``(d_to,)``.
        source: Sum of the outer products of source rows less their mean, float64, shape ``(d_from, d_from)``.
        cross: Sum of the outer products of target and source rows, less their means, shape ``(d_to, d_from)``.
        target_square: Sum of the squared lengths of target rows less their mean, shape ``()``.
    """

    count: int
    source_mean: Tensor
    target_mean: Tensor
    source: Tensor
    cross: Tensor
    target_square: Tensor

    def joined(self, other: "Moments") -> "Moments":
        """Add the moments of other pairs (Chan et al., 1983), so that no large sums are subtracted.

        Args:
            other: Moments of pairs of the same widths.

        Returns:
            Moments of all pairs.
        """
        count = self.count + other.count
        source, target = other.source_mean - self.source_mean, other.target_mean - self.target_mean
        weight, share = self.count * other.count / count, other.count / count
        return Moments(
            count,
            self.source_mean + share * source,
            self.target_mean + share * target,
            self.source + other.source + weight * torch.outer(source, source),
            self.cross + other.cross + weight * torch.outer(target, source),
            self.target_square + other.target_square + weight * target.square().sum(),
        )


def paired_moments(
    source: Tensor | Pairs, target: Tensor | None = None, *, unit_source: bool = False, unit_target: bool = False
) -> Moments:
    """Add up the moments of a paired sample in float64.

    Args:
        source: Floating embeddings, shape ``(N, d_from)``; or batches ``(source, target)`` with any number of rows.
        target: Embeddings of the same items in the other space, shape ``(N, d_to)``; None with batches.
        unit_source: Bring source rows to length 1 first.
        unit_target: Likewise target rows.

    Returns:
        The moments, on the device of the embeddings.

    Raises:
        ValueError: If there are fewer than two pairs, or embeddings are no finite floating matrices of as many rows.

    Example:
        >>> source, target = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0, 0.0], [1.0, 4.0]])
        >>> moments = paired_moments(source, target)
        >>> moments.source, moments.cross
        (tensor([[2.]], dtype=torch.float64), tensor([[0.],
                [4.]], dtype=torch.float64))
    """
    total = None
    for part in _parts(source, target):
        x, y = (_unit(z) if unit else z for z, unit in zip(part, (unit_source, unit_target), strict=True))
        if total is not None and (total.source.shape[1], total.cross.shape[0]) != (x.shape[1], y.shape[1]):
            raise ValueError(
                f"Expected batches of {total.source.shape[1]} source and {total.cross.shape[0]} target dimensions like "
                f"the first, got {x.shape[1]} and {y.shape[1]}."
            )
        moments = _of_part(x, y)
        total = moments if total is None else total.joined(moments)
    if total is None or total.count < 2:
        raise ValueError(f"Expected at least two pairs, got {0 if total is None else total.count}. Give more.")
    return total


def check_pairs(source: Tensor, target: Tensor, *, names: tuple[str, str] = ("source", "target")) -> None:
    """Check that two embeddings are of the same items.

    Args:
        source: Should be a finite floating matrix, shape ``(N, d_from)``.
        target: Likewise, shape ``(N, d_to)``.
        names: What errors call them.

    Raises:
        ValueError: If not, or they are on two devices.
    """
    for name, x in zip(names, (source, target), strict=True):
        check_matrix(name, x)
        finite = torch.cat([
            x.new_ones(0, dtype=torch.bool),
            *(part.isfinite().all(1) for part in torch.split(x, PART)),
        ])
        if not bool(finite.all()):
            bad = (~finite).nonzero()
            raise ValueError(
                f"Expected finite {name} embeddings, got NaN or Inf in {len(bad)} of {len(x)} rows, first in row "
                f"{bad[0].item()}. Look at that model's outputs."
            )
    if len(source) != len(target) or source.device != target.device:
        raise ValueError(
            f"Expected the same items in {names[0]} and {names[1]} on one device, got {len(source)} rows on "
            f"{source.device} and {len(target)} on {target.device}."
        )


def check_matrix(name: str, x: Tensor, width: int | None = None) -> None:
    """Check that embeddings are a floating matrix.

    Args:
        name: What errors call them.
        x: The embeddings.
        width: Dimensions that they should have; None: at least one.

    Raises:
        ValueError: If they are not.
    """
    if x.ndim != 2 or not x.is_floating_point() or x.shape[1] < 1 or width not in {None, x.shape[1]}:
        raise ValueError(
            f"Expected {name} embeddings as a floating matrix (N, {width or 'd'}), got {x.dtype} of shape "
            f"{tuple(x.shape)}."
        )


def _parts(source: Tensor | Pairs, target: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(source, Tensor) != isinstance(target, Tensor):
        raise ValueError(
            f"Expected two matrices, or batches of (source, target) alone, got {type(source).__name__} and "
            f"{type(target).__name__}."
        )
    pairs = [(source, target)] if isinstance(source, Tensor) and target is not None else source
    for x, y in pairs:
        check_pairs(x, y)
        yield from zip(torch.split(x, PART), torch.split(y, PART), strict=True) if len(x) else ()


def _of_part(x: Tensor, y: Tensor) -> Moments:
    x, y = _double(x), _double(y)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    return Moments(len(x), x_mean, y_mean, x.T @ x, y.T @ x, y.square().sum())


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(_double(x), dim=1)


def _double(x: Tensor) -> Tensor:
    # Apple's accelerator has no float64.
    return (x.cpu() if x.device.type == "mps" else x).detach().double()
