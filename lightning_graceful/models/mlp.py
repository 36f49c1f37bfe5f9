"""A multilayer perceptron for experiments on small images."""

from collections.abc import Sequence
from itertools import pairwise

import torch
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


class HiddenLayers(nn.Module):
    """Flatten, hidden layers with ReLU, all of them side by side: features to embed.

    Args:
        in_features: Values of one input.
        hidden: Width of each hidden layer, of one or more.

    Example:
        >>> HiddenLayers(64, hidden=(32, 16))(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 48])
    """

    def __init__(self, in_features: int, *, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        widths = (in_features, *hidden)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(*pair), nn.ReLU()) for pair in pairwise(widths)])
        self.out_features = sum(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(N, out_features)`` of inputs ``(N, ...)``."""
        x, found = x.flatten(1), []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return torch.cat(found, dim=1)
