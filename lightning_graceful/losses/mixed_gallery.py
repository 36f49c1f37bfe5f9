"""A classifier that sees new and old embeddings as one, as a term (Liang et al., MixBCT, arXiv 2308.06948)."""

import torch
from torch import Tensor, nn

from lightning_graceful.functional.embedding_losses.mixed import mixed_gallery_loss

# Draws of two seeds are alike only after so many steps; a prime.
SEEDS_APART = 15_485_863


class MixedGalleryLoss(nn.Module):
    """Cross-entropy on a batch in which a random share of the new embeddings gives way to the old ones.

    See :func:`mixed_gallery_loss`. MixBCT has this in place of the task's own loss: ``weights={"task": 0}``.

    The classifier may be a layer of the module itself, ``MixedGalleryLoss(self.net.fc)`` in ``configure_terms``, or of
    the instance that ``make_graceful`` gets: the term trains it along, and the optimiser holds it once. (Of a class
    ``make_graceful`` makes instances that each have a copy of the term, and no layer is shared.) Or it is a fresh one,
    such as a :class:`CosineClassifier`: then it is trained as the term's own and travels in the term's state. Where it
    normalises, only directions count, as in the search.

    Which rows are replaced is drawn from a seed and the number of the step, which travels in the term's state: it
    leaves torch's global generator alone, and a resumed run draws as one in one go.

    Args:
        classifier: From embeddings as wide as the new ones to scores.
        share: Probability that an embedding is replaced.
        seed: Of the draws.

    Raises:
        ValueError: If the classifier is no module, or the share is not in [0, 1].

    Example:
        >>> loss = MixedGalleryLoss(nn.Linear(4, 3))
        >>> loss(torch.ones(2, 4), torch.ones(2, 6), torch.tensor([0, 2])).ndim
        0
    """

    def __init__(self, classifier: nn.Module, share: float = 0.3, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(classifier, nn.Module):
            raise ValueError(f"Expected a classifier that is an nn.Module, got {type(classifier).__name__}.")
        self.classifier = classifier
        self.draws = Draws(share, seed)

    def forward(self, new_embedding: Tensor, old_embedding: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the labelled rows, a scalar; shapes ``(N, d)``, ``(N, d_old)``, ``(N,)``."""
        is_old = self.draws(new_embedding)
        return mixed_gallery_loss(new_embedding, old_embedding, target, self.classifier, is_old)


class CredibleMixedGalleryLoss(nn.Module):
    """:class:`MixedGalleryLoss` whose old embeddings are those that the old model classifies well: its denoising.

    Args:
        classifier: As in :class:`MixedGalleryLoss`.
        share: Probability that a credible embedding is replaced.
        threshold: An embedding is credible where the old model gives its label at least this probability. The classes
            of ``old_logits`` are the new model's (``OldModel(..., label_map=...)``): one that the old model never knew
            is never credible.
        seed: Of the draws.

    Raises:
        ValueError: If the classifier is no module, or share or threshold are not in [0, 1].

    Example:
        >>> loss = CredibleMixedGalleryLoss(nn.Linear(4, 3))
        >>> loss(torch.ones(2, 4), torch.ones(2, 6), torch.zeros(2, 3), torch.tensor([0, 2])).ndim
        0
    """

    def __init__(self, classifier: nn.Module, share: float = 0.3, threshold: float = 0.9, seed: int = 0) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ValueError(f"Expected threshold in [0, 1], got {threshold}.")
        self.mixed = MixedGalleryLoss(classifier, share, seed)
        self.threshold = threshold

    def forward(self, new_embedding: Tensor, old_embedding: Tensor, old_logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the labelled rows; shapes ``(N, d)``, ``(N, d_old)``, ``(N, C)``, ``(N,)``."""
        is_old = self.mixed.draws(new_embedding) & _is_credible(old_logits, target, self.threshold)
        return mixed_gallery_loss(new_embedding, old_embedding, target, self.mixed.classifier, is_old)

    def extra_repr(self) -> str:
        """Return the options, for ``print(loss)``."""
        return f"threshold={self.threshold}"


class Draws(nn.Module):
    """Random choices of rows that depend on a seed and the number of the draw alone.

    Args:
        share: Probability that a row is chosen.
        seed: Of the draws.

    Raises:
        ValueError: If the share is not in [0, 1].

    Example:
        >>> Draws(1.0, 0)(torch.zeros(2, 4))
        tensor([True, True])
    """

    def __init__(self, share: float, seed: int) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"Expected share in [0, 1], got {share}.")
        self.share = share
        self.seed = seed
        self.drawn = 0

    def forward(self, rows: Tensor) -> Tensor:
        """Return which rows of shape ``(N, d)`` are chosen, bool, shape ``(N,)``."""
        # On the CPU: another device would draw other numbers. Its generator looks at 32 bits of a seed.
        generator = torch.Generator().manual_seed((self.seed * SEEDS_APART + self.drawn) % 2**32)
        self.drawn += 1
        return (torch.rand(len(rows), generator=generator) < self.share).to(rows.device)

    def get_extra_state(self) -> int:
        """Return the number of draws, for ``state_dict``; no tensor, which each draw would bring from the device."""
        return self.drawn

    def set_extra_state(self, state: int) -> None:
        """Go on after a number of draws."""
        self.drawn = state

    def extra_repr(self) -> str:
        """Return the options, for ``print(loss)``."""
        return f"share={self.share}, seed={self.seed}"


def _is_credible(old_logits: Tensor, target: Tensor, threshold: float) -> Tensor:
    if old_logits.ndim != 2 or len(old_logits) != len(target) or old_logits.requires_grad:
        raise ValueError(
            f"Expected old_logits ({len(target)}, C) without grad, got shape {tuple(old_logits.shape)}. Use OldModel."
        )
    if bool((target >= old_logits.shape[1]).any()):
        raise ValueError(
            f"Expected targets below {old_logits.shape[1]}, the classes of old_logits, got {int(target.max())}. "
            "Give the OldModel a label_map: for each new class its column in the old model, or -1."
        )
    share = old_logits.softmax(1).gather(1, target.long().clamp(min=0)[:, None])[:, 0]
    return share >= threshold
