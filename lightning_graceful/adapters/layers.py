"""Layers of maps between embedding spaces."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_graceful.adapters.sample import PART


class Standardize(nn.Module):
    """Take a mean from each dimension and divide by its standard deviation; both are data, not weights.

    Args:
        width: Dimensions.

    Example:
        >>> layer = Standardize(1)
        >>> layer.fit(torch.tensor([[1.0], [3.0]]))
        >>> layer(torch.tensor([[5.0]]))
        tensor([[3.]])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def fit(self, sample: Tensor) -> None:
        """Take mean and deviation of a sample; a dimension that is always the same is only centred.

        Args:
            sample: Finite, floating, at least one row, shape ``(N, width)``.
        """
        parts = torch.split(sample, PART)
        mean = torch.stack([part.sum(0, dtype=torch.float32) for part in parts]).sum(0) / len(sample)
        square = torch.stack([(part.float() - mean).square().sum(0) for part in parts]).sum(0) / len(sample)
        constant = square.sqrt() <= 1e-6 * sample.abs().amax(0).float()
        self.mean.copy_(mean)
        self.deviation.copy_(square.sqrt().masked_fill(constant, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows standardised, shape ``(N, width)``."""
        return (x - self.mean) / self.deviation


class Restore(Standardize):
    """Undo :class:`Standardize`: what layers before it say in standard deviations gets its mean and scale.

    Args:
        width: Dimensions.

    Example:
        >>> layer = Restore(1)
        >>> layer.fit(torch.tensor([[1.0], [3.0]]))
        >>> layer(torch.tensor([[3.0]]))
        tensor([[5.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows with the sample's mean and deviation, shape ``(N, width)``."""
        return x * self.deviation + self.mean


def fit_scales(module: nn.Module, source: Tensor, target: Tensor) -> None:
    """Fit each :class:`Standardize` in a module to what goes in, each :class:`Restore` to what is to come out.

    Args:
        module: The module.
        source: Inputs of the sample, finite, shape ``(N, d_from)``.
        target: Outputs wanted, finite, shape ``(N, d_to)``.

    Raises:
        ValueError: If there are no rows.
    """
    if not len(source):
        raise ValueError("Expected at least one pair, got none.")
    for layer in module.modules():
        if isinstance(layer, Standardize):
            layer.fit(target if isinstance(layer, Restore) else source)


class EvalBatchNorm(nn.BatchNorm1d):
    """BatchNorm that never looks at its batch, as FCT trains it: a scale and a shift of each dimension."""

    def train(self, mode: bool = True) -> "EvalBatchNorm":
        """Stay in eval mode, whatever the holder is told.

        Args:
            mode: Is not heeded.

        Returns:
            This layer.
        """
        del mode
        super().train(False)
        return self


def perceptron(widths: Sequence[int]) -> list[nn.Module]:
    """List linear layers, each but the last followed by a ReLU.

    Args:
        widths: Of the input, of each hidden layer and of the output.

    Returns:
        The layers.

    Example:
        >>> [type(layer).__name__ for layer in perceptron([4, 8, 2])]
        ['Linear', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return layers[:-1]


def normed_perceptron(widths: Sequence[int]) -> list[nn.Module]:
    """List linear layers, each followed by an :class:`EvalBatchNorm` and a ReLU.

    Args:
        widths: Of the input and of each layer.

    Returns:
        The layers.
    """
    return [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), EvalBatchNorm(pair[1]), nn.ReLU())]


def as_widths(widths: Sequence[int], *, least: int = 2) -> tuple[int, ...]:
    """Check widths of layers.

    Args:
        widths: Should be integers of at least 1.
        least: How many there should be at least.

    Returns:
        The same.

    Raises:
        ValueError: If they are not.
    """
    if len(widths) < least or any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in widths):
        raise ValueError(f"Expected {least} or more widths, integers of at least 1, got {list(widths)}.")
    return tuple(widths)
