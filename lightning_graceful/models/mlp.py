"""A multilayer perceptron for experiments on small images."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Flatten, hidden layers with ReLU, logits.

    Args:
        in_features: Values of one input.
        num_classes: Number of logits.
        hidden: Width of each hidden layer.

    Example:
        >>> import torch
        >>> MLP(64, 10, hidden=(32,))(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_features: int, num_classes: int, *, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        widths = (in_features, *hidden)
        layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.body = nn.Sequential(nn.Flatten(), *layers)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` of inputs ``(N, ...)``."""
        return self.fc(self.body(x))  # type: ignore[no-any-return]
