"""Rows for classes that the old classifier does not know: the means of their old embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_graceful.functional.embedding_losses.arguments import check_embeddings, check_target
from lightning_graceful.functional.embedding_losses.rows import in_single


def class_means(old_embedding: Tensor, target: Tensor, classes: Sequence[int]) -> Tensor:
    """Average the old embeddings of each class (Shen et al., CVPR 2020: synthesised classifier rows).

    Summed in float64. Of embeddings of unlike lengths the long ones count for more: give them length 1 before, where
    that is not meant.

    Args:
        old_embedding: Of the old model, floating, shape ``(N, d)``; must not require grad.
        target: Labels, integer, shape ``(N,)``; rows of other classes, or below 0, are left out.
        classes: Whose means are wanted.

    Returns:
        Means in the order of ``classes``, float32 (float64 for float64 embeddings), shape ``(len(classes), d)``.

    Raises:
        ValueError: If a class has no row, or is there twice, or an embedding holds NaN or Inf.

    Example:
        >>> class_means(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), torch.tensor([7, 7, 2]), [2, 7])
        tensor([[0., 5.],
                [2., 0.]])
    """
    check_embeddings(old_embedding=old_embedding)
    check_target(target, old_embedding)
    wanted = torch.as_tensor(classes, dtype=torch.int64, device=target.device)
    if wanted.ndim != 1 or len(set(wanted.tolist())) != len(wanted):
        raise ValueError(f"Expected classes as a list, each once, got {classes!r}.")
    is_of = (wanted[:, None] == target).double()
    counts = is_of.sum(1)
    if bool((counts == 0).any()):
        raise ValueError(
            f"Expected an old embedding of each class, got none of {wanted[counts == 0].tolist()}. "
            "Leave the class at -1 in new_to_old, so that its rows are left out."
        )
    return (is_of @ old_embedding.double() / counts[:, None]).to(in_single(old_embedding).dtype)
