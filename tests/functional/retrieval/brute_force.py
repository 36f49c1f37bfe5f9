"""Search the slow, obvious way: float64 numpy scores, python loops, and for ties every order of the tied items."""

import itertools
import math

import numpy as np


def scores(query, gallery, distance="cosine"):
    query, gallery = (np.asarray(x, np.float64) for x in (query, gallery))
    if distance == "l2":
        return -np.sqrt(((query[:, None] - gallery[None]) ** 2).sum(2))
    length = [np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) for x in (query, gallery)]
    return (query / length[0]) @ (gallery / length[1]).T


def nearest(row, k, left_out=()):
    """Positions by falling score, ties by position; -1 fills up."""
    order = sorted((i for i in range(len(row)) if i not in left_out), key=lambda i: (-row[i], i))[:k]
    return order + [-1] * (k - len(order))


def of_list(relevant, k, cmc):
    """Measures of one ranked list of booleans."""
    matches = sum(relevant)
    precision = [sum(relevant[: i + 1]) / (i + 1) for i in range(len(relevant))]
    return {
        **{f"recall_at_{n}": float(any(relevant[:n])) for n in k},
        **{f"precision_at_{n}": sum(relevant[:n]) / n for n in k},
        "r_precision": sum(relevant[:matches]) / matches,
        "map": math.fsum(p for p, hit in zip(precision, relevant, strict=True) if hit) / matches,
        "map_at_r": math.fsum(p for p, hit in list(zip(precision, relevant, strict=True))[:matches] if hit) / matches,
        "cmc": np.array([float(any(relevant[: n + 1])) for n in range(cmc)]),
    }


def per_query(row, relevant, k, cmc):
    """Mean of the measures over all orders of items with one score; None without a relevant item."""
    if not any(relevant):
        return None
    groups = [[i for i in range(len(row)) if row[i] == value] for value in sorted(set(row), reverse=True)]
    orders = itertools.product(*(itertools.permutations(group) for group in groups))
    found = [of_list([relevant[i] for group in order for i in group], k, cmc) for order in orders]
    return {name: sum(one[name] for one in found) / len(found) for name in found[0]}
