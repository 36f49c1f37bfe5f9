"""The largest of many log-probabilities, and what the other classes share: a row of 64 bytes instead of kilobytes."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOWEST = torch.finfo(torch.float16).min  # -65504: a probability that is small, but not none


class TopK(NamedTuple):
    """The largest classes of a batch.

    Attributes:
        log_probs: Float16, shape ``(N, k + 1)``: log-probabilities of the k largest classes, largest first, then the
            log of what all others have together (the tail; ``-inf`` where they have nothing).
        ids: Their classes, int64, shape ``(N, k)``.
    """

    log_probs: Tensor
    ids: Tensor


def compress(logits: Tensor, k: int) -> TopK:
    """Keep the k largest classes and the mass of the rest.

    Probabilities are computed in float64 over all classes and rounded once. A finite log-probability stays finite: what
    float16 cannot hold becomes -65504. The largest class stays the largest. A class at ``-inf`` is among the k only if
    fewer than k are finite; the tail then is ``-inf``, and nothing is lost. Where more than k are finite, it is not
    kept which of the others were at ``-inf``: :func:`expand` gives them their share of the tail, too.

    Args:
        logits: Floating, shape ``(N, C)``, without NaN and ``+inf``, at least one finite in each row.
        k: How many classes to keep, ``1 <= k < C``.

    Returns:
        The largest classes.

    Example:
        >>> kept = compress(torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log(), k=1)
        >>> kept.ids.tolist(), kept.log_probs.exp()
        ([[0]], tensor([[0.7002, 0.3000]], dtype=torch.float16))
    """
    logits = logits.to(torch.float64)
    values, ids = logits.topk(k, dim=1)
    rest = logits.scatter(1, ids, -math.inf)
    log_probs = torch.cat([values, rest.logsumexp(1, keepdim=True)], dim=1) - logits.logsumexp(1, keepdim=True)
    held = torch.where(log_probs.isneginf(), log_probs, log_probs.clamp(min=LOWEST)).to(torch.float16)
    # Where rounding made others as large as the largest, they give way by one step: old predictions are counted.
    others = held[:, 1:k]
    others.view(torch.int16).add_(others == held[:, :1])  # one bit more is one step down, since they are negative
    return TopK(held, ids)


def expand(kept: TopK, num_classes: int) -> Tensor:
    """Give every class a log-probability again: the k largest their own, each other an equal share of the tail.

    Args:
        kept: What :func:`compress` returned, on any device.
        num_classes: C.

    Returns:
        Float32, shape ``(N, C)``; as logits of a softmax they give back the kept probabilities to float16 precision.

    Example:
        >>> expand(compress(torch.tensor([[0.7, 0.2, 0.1, 0.0]]).log(), k=1), num_classes=4).exp()
        tensor([[0.7000, 0.1000, 0.1000, 0.1000]])
    """
    log_probs = kept.log_probs.to(torch.float32)
    k = kept.ids.shape[1]
    share = log_probs[:, k:] - math.log(num_classes - k)
    # Rounding must not lift the others above a class that was larger.
    smallest = log_probs[:, k - 1 : k]
    share = share.minimum(smallest.nextafter(torch.full_like(smallest, -math.inf)))
    return share.repeat(1, num_classes).scatter_(1, kept.ids, log_probs[:, :k])
