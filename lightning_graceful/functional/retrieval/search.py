"""The nearest gallery items of each query: found in float32, scored again without rounding, hence exact."""

import importlib.util
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from lightning_graceful.functional.retrieval.pairs import PairOptions, Pairs, expand, hide, pair_up

Backend = Literal["auto", "torch", "faiss"]
# Gallery items of which only the largest score is looked at first.
_GROUP = 32
# Candidates a query that may wait to be merged with the best so far.
_WAITING = 16
# Faiss bounds its memory itself, and is fast only for queries of so many numbers together.
_FAISS_BATCH, _FAISS_NUMBERS = 4096, 128_000


class Neighbours(NamedTuple):
    """The nearest gallery items of each query, nearest first.

    Attributes:
        scores: Cosine, or minus the Euclidean distance; float64, shape ``(Q, k)``; ``-inf`` where there is no item.
        positions: Position in the gallery, int64, shape ``(Q, k)``; -1 where there is no item (fewer than ``k``).
    """

    scores: Tensor
    positions: Tensor


def search_gallery(
    query: Tensor, gallery: Tensor, *, k: int = 10, backend: Backend = "auto", **options: Unpack[PairOptions]
) -> Neighbours:
    """Find the ``k`` nearest gallery items of each query; exact, and the same on any machine.

    Candidates come from float32 products, a few more than wanted; these are scored without rounding. Where the
    rounding of the products might have hidden a nearer item, as among many equal ones, that query is searched again
    without rounding, which is much slower. Of items with the same score, the first in the gallery comes first.

    Args:
        query: Floating embeddings, shape ``(Q, d)``.
        gallery: Floating embeddings, shape ``(G, d)``.
        k: How many items.
        backend: What finds candidates: ``"faiss"`` (CPU only), ``"torch"``, or ``"auto"``: faiss where it is installed
            and faster. The answers are the same.
        **options: ``query_ids, gallery_ids, distance, dimensions, memory`` of
            :func:`lightning_graceful.functional.retrieval.pairs.pair_up`; items with the id of the query are left out.

    Returns:
        Scores and positions.

    Raises:
        ValueError: If an argument is not as said.
        ModuleNotFoundError: If faiss is asked for and not installed.

    Example:
        >>> gallery = torch.tensor([[0.0, 1.0], [1.0, 0.1], [2.0, 0.2]])
        >>> search_gallery(torch.tensor([[1.0, 0.0]]), gallery, k=2).positions
        tensor([[1, 2]])
    """
    if k < 1:
        raise ValueError(f"Expected k of at least 1, got {k}.")
    pairs = pair_up(query, gallery, **options)
    use_faiss = _use_faiss(backend, pairs)
    batches = pairs.batches(size=_FAISS_BATCH if use_faiss else None)
    found = [_search_batch(pairs, rows, k, use_faiss) for rows in batches]
    if not found:
        return Neighbours(pairs.query.new_zeros(0, k, dtype=torch.float64), torch.zeros(0, k, dtype=torch.int64))
    scores, positions = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Neighbours(pairs.unscaled(scores), positions)


def _use_faiss(backend: Backend, pairs: Pairs) -> bool:
    if backend not in {"auto", "torch", "faiss"}:
        raise ValueError(f"Expected backend to be 'auto', 'torch' or 'faiss', got {backend!r}.")
    installed = importlib.util.find_spec("faiss") is not None
    if backend == "faiss" and not installed:
        raise ModuleNotFoundError("Expected faiss with backend='faiss': pip install faiss-cpu, or backend='torch'.")
    if backend == "faiss" and pairs.query.device.type != "cpu":
        raise ValueError(f"Expected embeddings on the CPU with backend='faiss', got {pairs.query.device}. Move them.")
    worthwhile = backend == "faiss" or (pairs.query.device.type == "cpu" and pairs.query.numel() >= _FAISS_NUMBERS)
    return backend != "torch" and installed and worthwhile


def _search_batch(pairs: Pairs, rows: Tensor, k: int, use_faiss: bool) -> tuple[Tensor, Tensor]:
    wanted = min(k + max(16, k // 4), len(pairs.gallery))
    approximate, candidates = (_candidates_by_faiss if use_faiss else _candidates)(pairs, rows, wanted)
    scores, positions, certain = _score_again(pairs, rows, approximate, candidates, k)
    if not bool(certain.all()):
        again = (~certain).nonzero()[:, 0]
        scores[again], positions[again] = _search_exactly(pairs, rows[again], k)
    return scores, positions


def _candidates(pairs: Pairs, rows: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    query, same, width = pairs.query[rows], pairs.same(rows), pairs.block_shape[1]
    best = query.new_full((len(rows), wanted), -torch.inf)
    positions = torch.full(best.shape, -1, device=query.device)
    memory = query.new_empty(len(rows) * width)  # of all blocks: new pages for each would cost a third of the time
    floor = query.new_full((len(rows),), -torch.inf)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(pairs.gallery), width):
        scores = hide(_rough_scores(pairs, query, pairs.gallery[start : start + width], memory), same, start)
        if start == 0:
            top = scores.topk(min(wanted, scores.shape[1]))
            best[:, : top.values.shape[1]], positions[:, : top.values.shape[1]] = top
        else:
            row, column = _above(scores, floor)
            found.append((row, scores[row, column], column + start))
        if start == 0 or sum(len(row) for row, _, _ in found) > _WAITING * len(rows):
            best, positions = _merge(best, positions, found)
            floor, found = best.amin(1), []
    best, positions = _merge(best, positions, found)
    return best, positions.where(best > -torch.inf, -1)


def _rough_scores(pairs: Pairs, query: Tensor, gallery: Tensor, memory: Tensor) -> Tensor:
    out = memory[: len(query) * len(gallery)].view(len(query), -1)
    with torch.autocast(query.device.type, enabled=False):
        if pairs.distance == "cosine":
            return torch.mm(query, gallery.T, out=out)
        return torch.addmm(-gallery.square().sum(1), query, gallery.T, alpha=2, out=out)


def _above(scores: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    # Places of the scores above a query's floor, row by row. Few are, so that most groups are dismissed by their
    # largest.
    whole = scores.shape[1] // _GROUP * _GROUP
    groups = scores[:, :whole].view(len(scores), whole // _GROUP, _GROUP)
    row, group = (groups.amax(2) > floor[:, None]).nonzero(as_tuple=True)
    hit, item = (groups[row, group] > floor[row, None]).nonzero(as_tuple=True)
    tail_row, tail = (scores[:, whole:] > floor[:, None]).nonzero(as_tuple=True)
    return torch.cat([row[hit], tail_row]), torch.cat([group[hit] * _GROUP + item, tail + whole])


def _merge(best: Tensor, positions: Tensor, found: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if not found:
        return best, positions
    row, scores, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = row.argsort(stable=True)
    counts = torch.bincount(row, minlength=len(best))
    _, nth = expand(counts)
    wanted = best.shape[1]
    size = (len(best), wanted + int(counts.max()))
    every, every_position = best.new_full(size, -torch.inf), positions.new_full(size, -1)
    every[:, :wanted], every_position[:, :wanted] = best, positions
    every[row[order], wanted + nth], every_position[row[order], wanted + nth] = scores[order], places[order]
    best, chosen = every.topk(wanted)
    return best, every_position.gather(1, chosen)


def _candidates_by_faiss(pairs: Pairs, rows: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    import faiss

    same = pairs.same(rows)
    most = 0 if same is None or not len(same[0]) else int(torch.bincount(same[0]).max())
    asked = min(wanted + most, len(pairs.gallery))
    query, metric = pairs.query[rows], faiss.METRIC_INNER_PRODUCT
    if pairs.distance == "l2":
        metric = faiss.METRIC_L2
    values, places = faiss.knn(query.numpy(), pairs.gallery.numpy(), asked, metric=metric)
    approximate, positions = torch.from_numpy(values), torch.from_numpy(places)
    if pairs.distance == "l2":  # as _rough_scores: without the square of the query
        approximate = query.square().sum(1, keepdim=True) - approximate
    if same is not None:
        keys = same[0] * len(pairs.gallery) + same[1]
        here = torch.arange(len(rows))[:, None] * len(pairs.gallery) + positions
        approximate = approximate.masked_fill(torch.isin(here, keys), -torch.inf)
    best, chosen = approximate.topk(wanted)
    return best, positions.gather(1, chosen).where(best > -torch.inf, -1)


def _score_again(
    pairs: Pairs, rows: Tensor, approximate: Tensor, candidates: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    candidates, order = candidates.sort(1)
    query, rough = pairs.query[rows], approximate.gather(1, order).double()
    parts = zip(torch.split(query, 64), torch.split(candidates, 64), strict=True)
    exact = torch.cat([_score_rows(pairs, some, pairs.gallery[places.clamp(min=0)]) for some, places in parts])
    exact = exact.masked_fill(candidates < 0, -torch.inf)
    scores, positions = _first(exact, candidates, k)
    # A bound on the rounding of sums of d products of float32 in any order (squared distances sum more and larger
    # ones). Where a processor was told to compute float32 with fewer bits it does not hold: the candidates show it.
    error = (query.shape[1] + 4) * (2.0**-23 if pairs.distance == "cosine" else 2.0**-21)
    shift = 0.0 if pairs.distance == "cosine" else query.double().square().sum(1, keepdim=True)
    off = (rough - shift - exact).abs().nan_to_num(0.0).amax(1) if exact.shape[1] else exact.new_zeros(len(rows))
    lowest = (rough - shift).amin(1) if exact.shape[1] else exact.new_zeros(len(rows))
    all_seen = exact.shape[1] == len(pairs.gallery)
    return scores, positions, (off <= error) & (all_seen | lowest.isneginf() | (scores[:, -1] > lowest + error))


def _score_rows(pairs: Pairs, query: Tensor, items: Tensor) -> Tensor:
    # Shapes (B, d) and (B, K, d): each query has items of its own.
    query, items = query.double()[:, None], items.double()
    return (query * items).sum(2) if pairs.distance == "cosine" else -(query - items).square().sum(2)


def _search_exactly(pairs: Pairs, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = pairs.query.new_full((len(rows), k), -torch.inf, dtype=torch.float64)
    positions = torch.full((len(rows), k), -1, device=rows.device)
    for start, scores in pairs.blocks(rows):
        places = torch.arange(start, start + scores.shape[1], device=rows.device).expand_as(scores)
        best, positions = _first(torch.cat([best, scores], 1), torch.cat([positions, places], 1), k)
    return best, positions


def _first(scores: Tensor, positions: Tensor, k: int) -> tuple[Tensor, Tensor]:
    # The k best columns; of equal scores those further left, where topk alone would take any.
    if scores.shape[1] < k:
        missing = (0, k - scores.shape[1])
        scores = torch.nn.functional.pad(scores, missing, value=-torch.inf)
        positions = torch.nn.functional.pad(positions, missing, value=-1)
    last = scores.topk(k).values[:, -1:]
    columns = torch.arange(scores.shape[1], device=scores.device)
    # Those above the last one, then those equal to it from the left.
    key = torch.where(scores > last, -1, torch.where(scores == last, columns, scores.shape[1]))
    chosen = key.topk(k, largest=False).indices.sort(1).values
    best = scores.gather(1, chosen)
    best, order = best.sort(dim=1, descending=True, stable=True)
    positions = positions.gather(1, chosen).gather(1, order)
    return best, positions.where(best > -torch.inf, -1)
