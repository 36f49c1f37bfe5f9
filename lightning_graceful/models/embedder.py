"""Features, an embedding of them, and a linear classifier on it: what backward-compatible training is tried on."""

from torch import Tensor, nn


class Embedder(nn.Module):
    """Features of an image, a linear embedding of them, and a linear classifier that a search does without.

    Args:
        features: Gives ``(N, features.out_features)`` of images.
        width: Dimensions of the embedding.
        num_classes: Number of logits.

    Attributes:
        embedding: A linear layer: ``OldModel(model, embedding="embedding", classifier="classifier")``.
        classifier: A linear layer.

    Raises:
        ValueError: If the features do not say how many there are.

    Example:
        >>> import torch
        >>> from lightning_graceful.models.resnet import PooledStages
        >>> Embedder(PooledStages(1, widths=(8, 16)), width=32, num_classes=10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, features: nn.Module, *, width: int, num_classes: int) -> None:
        super().__init__()
        size = getattr(features, "out_features", None)
        if not isinstance(size, int):
            raise ValueError(f"Expected features with out_features, an int, got {type(features).__name__}.")
        self.features = features
        self.embedding = nn.Linear(size, width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)``."""
        return self.classifier(self.embedding(self.features(image)))  # type: ignore[no-any-return]
