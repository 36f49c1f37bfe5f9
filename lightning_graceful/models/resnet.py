"""A small residual network for experiments (He et al., Deep Residual Learning, CVPR 2016), sized by its widths."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ResNet(nn.Module):
    """One residual block a stage; each stage but the first halves the image.

    Args:
        in_channels: Channels of the image.
        num_classes: Number of logits.
        widths: Channels of each stage.
        stem_stride: Stride of the first convolution.

    Example:
        >>> ResNet(1, 10, widths=(8, 16))(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, widths: Sequence[int] = (16, 32, 64), stem_stride: int = 1
    ) -> None:
        super().__init__()
        self.stem, self.stages = _stem(in_channels, widths[0], stem_stride), _stages(widths)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` of images ``(N, in_channels, H, W)``."""
        embedding = self.pool(self.stages(self.stem(image))).flatten(1)
        return self.fc(embedding)  # type: ignore[no-any-return]


class PooledStages(nn.Module):
    """The stages of a :class:`ResNet`, each averaged over a grid of cells, side by side: features to embed.

    Early stages tell apart what the last one has learnt to ignore, such as two classes that it was never shown.

    Args:
        in_channels: Channels of the image.
        widths: Channels of each stage.
        stem_stride: Stride of the first convolution.
        kept: How many of the last stages are pooled; None: all.
        grid: Cells a side.

    Raises:
        ValueError: If there are not so many stages to keep.

    Example:
        >>> PooledStages(1, widths=(8, 16), grid=2)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 96])
    """

    def __init__(
        self,
        in_channels: int,
        *,
        widths: Sequence[int] = (16, 32, 64),
        stem_stride: int = 1,
        kept: int | None = None,
        grid: int = 1,
    ) -> None:
        super().__init__()
        self.kept = len(widths) if kept is None else kept
        if not 1 <= self.kept <= len(widths):
            raise ValueError(f"Expected kept in [1, {len(widths)}], the number of stages, got {kept}.")
        self.stem, self.stages = _stem(in_channels, widths[0], stem_stride), _stages(widths)
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.out_features = sum(widths[-self.kept :]) * grid**2

    def forward(self, image: Tensor) -> Tensor:
        """Return features ``(N, out_features)`` of images ``(N, in_channels, H, W)``."""
        x, pooled = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            pooled.append(self.pool(x).flatten(1))
        return torch.cat(pooled[-self.kept :], dim=1)


def _stem(in_channels: int, width: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


def _stages(widths: Sequence[int]) -> nn.Sequential:
    before = (widths[0], *widths[:-1])
    strides = (1, *[2] * (len(widths) - 1))
    return nn.Sequential(*[_Block(*sizes) for sizes in zip(before, widths, strides, strict=True)])


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))
