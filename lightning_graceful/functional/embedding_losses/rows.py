"""Embeddings of two models as rows of one width, and the cosines between them."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Float32 cosines of equal rows are 1 to about 1e-7; an angle of 0.0014 is not told from none.
SAME_DIRECTION = 1 - 1e-6


def fit_width(embedding: Tensor, width: int | None) -> Tensor:
    """Cut rows to their first dimensions, or fill them up with zeros.

    The first dimensions of a wider new embedding are the old-compatible ones (Shen et al., CVPR 2020).

    Args:
        embedding: Shape ``(N, d)``.
        width: Dimensions wanted; None leaves the rows as they are.

    Returns:
        Shape ``(N, width)``.

    Example:
        >>> fit_width(torch.tensor([[1.0, 2.0]]), 3), fit_width(torch.tensor([[1.0, 2.0]]), 1)
        (tensor([[1., 2., 0.]]), tensor([[1.]]))
    """
    if width is None or embedding.shape[1] == width:
        return embedding
    if embedding.shape[1] > width:
        return embedding[:, :width]
    return F.pad(embedding, (0, width - embedding.shape[1]))


def directions(embedding: Tensor, width: int | None = None) -> Tensor:
    """Give rows one width, then length 1.

    A row of zeros has no direction and stays: its cosine with all others is 0, and its gradient is finite.

    Args:
        embedding: Floating, shape ``(N, d)``; nothing is taken for granted of its norms.
        width: As in :func:`fit_width`.

    Returns:
        Float32 (float64 for float64 embeddings), shape ``(N, width)``.

    Example:
        >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    rows = fit_width(in_single(embedding), width)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norms.where(norms > 0, 1)


def in_single(rows: Tensor) -> Tensor:
    """Bring half precision to float32: its 3 digits are too few for a norm or a low temperature.

    Args:
        rows: Floating.

    Returns:
        Float32, or float64 if they were.
    """
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def cosines(query: Tensor, gallery: Tensor) -> Tensor:
    """Multiply directions, also under autocast in their own precision.

    Args:
        query: From :func:`directions`, shape ``(Q, d)``.
        gallery: From :func:`directions`, shape ``(G, d)``.

    Returns:
        Shape ``(Q, G)``.
    """
    with torch.autocast(query.device.type, enabled=False):
        return query @ gallery.to(query.dtype).T


def is_same_direction(query: Tensor, gallery: Tensor) -> Tensor:
    """Tell which old rows are the query's own: an item is not searched for itself.

    The old model is frozen, so that a sample has the same old embedding in each epoch. A copy of it in the gallery says
    nothing of its neighbours, and at a low temperature would outweigh them all.

    Args:
        query: Old embeddings of the queries, shape ``(Q, d)``.
        gallery: Old embeddings of the gallery, shape ``(G, d)``.

    Returns:
        Whether the cosine is above ``1 - 1e-6``, bool, shape ``(Q, G)``.

    Example:
        >>> is_same_direction(torch.eye(2), torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
        tensor([[ True, False],
                [False, False]])
    """
    return cosines(directions(query), directions(gallery)) > SAME_DIRECTION
