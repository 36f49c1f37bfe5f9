"""Search of one model's gallery by another's queries as a torchmetrics class."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_graceful.functional.retrieval.arguments import check_lengths, check_memory, check_rates, integers
from lightning_graceful.functional.retrieval.identification import identification_rates
from lightning_graceful.functional.retrieval.measures import RetrievalAverage, retrieval_metrics
from lightning_graceful.functional.retrieval.pairs import MEMORY
from lightning_graceful.functional.retrieval.rows import Dimensions, Distance
from lightning_graceful.functional.retrieval.verification import verification_rates

_SIDES = ("query", "gallery")


class CrossModelRetrieval(Metric):
    """Search a gallery embedded by one model with queries embedded by another (or the same).

    The state is every embedding, label and id seen: ``4 * d + 16`` bytes a query and a gallery item, on each rank while
    ``compute`` runs for those of all ranks; ``compute_on_cpu=True`` keeps it off the accelerator. Beside it ``compute``
    takes ``memory`` bytes and a float32 copy. With ids, an item that is repeated (a ``DistributedSampler`` pads shards)
    counts once; without, each repeat counts. The answer is the same for any split over batches and ranks.

    Args:
        k: Lengths of lists of ``recall_at_<k>`` and ``precision_at_<k>``.
        cmc: Length of the cumulative match curve; None: no curve.
        far: False accept rates at which ``tar_at_far_<rate>`` is given.
        fpir: False positive identification rates at which ``tnir_at_fpir_<rate>`` is given.
        average: ``"micro"``, ``"macro"`` or ``"none"``, as in
            :func:`lightning_graceful.functional.retrieval_metrics`.
        distance: ``"cosine"`` or ``"l2"``.
        dimensions: How many leading dimensions are compared; ``"shared"``: as many as the narrower model has;
            ``"padded"``: as many as the wider has, zeros filling up the other; None: all, which then must be as many.
        memory: Bytes that blocks of scores may take.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of its domain.

    Example:
        >>> metric = CrossModelRetrieval(k=[1])
        >>> old = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> new = torch.tensor([[1.0, 0.1], [0.1, 1.0], [0.0, 1.0]])
        >>> metric.update(query=new, gallery=old, labels=torch.tensor([0, 0, 1]), ids=torch.tensor([5, 6, 7]))
        >>> {name: value.item() for name, value in metric.compute().items() if name in ("map", "queries_without_match")}
        {'map': 0.75, 'queries_without_match': 1}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(
        self,
        *,
        k: Sequence[int] = (1, 5, 10),
        cmc: int | None = None,
        far: Sequence[float] = (),
        fpir: Sequence[float] = (),
        average: RetrievalAverage = "micro",
        distance: Distance = "cosine",
        dimensions: Dimensions = None,
        memory: int = MEMORY,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if average not in {"micro", "macro", "none"}:
            raise ValueError(f"Expected average to be 'micro', 'macro' or 'none', got {average!r}.")
        check_lengths(k, cmc)
        check_memory(memory)
        for name, rates in {"far": far, "fpir": fpir}.items():
            check_rates(name, rates or [0.0])
        self.k, self.cmc, self.far, self.fpir, self.average = tuple(k), cmc, tuple(far), tuple(fpir), average
        self.distance, self.dimensions, self.memory = distance, dimensions, memory
        for side in _SIDES:
            for part in ("numbers", "labels", "ids"):
                self.add_state(f"{side}_{part}", [], dist_reduce_fx="cat")

    def update(
        self,
        query: Tensor | None = None,
        gallery: Tensor | None = None,
        *,
        labels: Tensor,
        ids: Tensor | None = None,
    ) -> None:
        """Add queries, gallery items, or both: the same items as two models embed them.

        Args:
            query: Floating embeddings, shape ``(N, d)``.
            gallery: Floating embeddings, shape ``(N, d)``.
            labels: Integer, shape ``(N,)``.
            ids: Which items these are, integer, shape ``(N,)``; a query does not find the item with its id. Needed
                where queries and gallery are given together; otherwise for all batches of a side or for none. Those of
                one side alone only remove its repeats.

        Raises:
            ValueError: If nothing is given, ids are missing, or a shape or kind differs from these or earlier batches.
        """
        given = {name: x for name, x in zip(_SIDES, (query, gallery), strict=True) if x is not None}
        if not given:
            raise ValueError("Expected query, gallery or both, got neither.")
        if len(given) == 2 and ids is None:
            raise ValueError("Expected ids with query and gallery of the same items, got None: each would find itself.")
        checked = [self._check(side, x, labels, ids) for side, x in given.items()]
        for side, (x, own_labels, own_ids) in zip(given, checked, strict=True):
            # Flat, so that a rank without any has a state of the same shape.
            getattr(self, f"{side}_numbers").append(x.detach().float().flatten().to(self.device))
            getattr(self, f"{side}_labels").append(own_labels.to(self.device))
            if own_ids is not None:
                getattr(self, f"{side}_ids").append(own_ids.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Search with all queries of all ranks.

        Returns:
            What :func:`lightning_graceful.functional.retrieval_metrics` gives; ``tar_at_far_<rate>`` and
            ``tnir_at_fpir_<rate>`` for the rates asked for.

        Raises:
            ValueError: If an argument is not as said, or an id has two labels.
        """
        query, query_labels, query_ids = self._items("query")
        gallery, gallery_labels, gallery_ids = self._items("gallery")
        width = max(query.shape[1], gallery.shape[1])
        query, gallery = (x if len(x) else x.new_zeros(0, width) for x in (query, gallery))
        both = query_ids is not None and gallery_ids is not None
        shared: Any = {
            "query_ids": query_ids if both else None,
            "gallery_ids": gallery_ids if both else None,
            "distance": self.distance,
            "dimensions": self.dimensions,
            "memory": self.memory,
        }
        items = query, gallery, query_labels, gallery_labels
        values = retrieval_metrics(*items, k=self.k, cmc=self.cmc, average=self.average, **shared)
        if self.far:
            rates = verification_rates(*items, far=self.far, **shared).tar
            values |= {f"tar_at_far_{rate:g}": value for rate, value in zip(self.far, rates, strict=True)}
        if self.fpir:
            rates = identification_rates(*items, fpir=self.fpir, **shared).tnir
            values |= {f"tnir_at_fpir_{rate:g}": value for rate, value in zip(self.fpir, rates, strict=True)}
        return values

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all ranks, as :class:`torchmetrics.Metric` does.

        Args:
            *args: As there.
            **kwargs: As there.
        """
        for side in _SIDES:  # a rank that saw nothing must take part with the right kind of nothing
            for part, dtype in (("numbers", torch.float32), ("labels", torch.int64), ("ids", torch.int64)):
                state = getattr(self, f"{side}_{part}")
                if isinstance(state, list) and not state:
                    state.append(torch.zeros(0, dtype=dtype, device=self.device))
        super().sync(*args, **kwargs)

    def _check(self, side: str, x: Tensor, labels: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        if x.ndim != 2 or not x.is_floating_point():
            raise ValueError(
                f"Expected {side} embeddings as a floating matrix (N, d), got {x.dtype} of shape {tuple(x.shape)}."
            )
        numbers, seen, known = (getattr(self, f"{side}_{part}") for part in ("numbers", "labels", "ids"))
        if seen and len(seen[-1]) and numbers[-1].numel() != len(seen[-1]) * x.shape[1]:
            raise ValueError(
                f"Expected {side} embeddings of {numbers[-1].numel() // len(seen[-1])} dimensions as before, "
                f"got {x.shape[1]}."
            )
        if seen and bool(known) != (ids is not None):
            raise ValueError(f"Expected ids with all {side} batches or with none. Pass ids= every time.")
        return x, integers("labels", labels, x), None if ids is None else integers("ids", ids, x)

    def _items(self, side: str) -> tuple[Tensor, Tensor, Tensor | None]:
        # Rows, labels and ids of all ranks; each id once, in the order of ids.
        numbers, labels, ids = (self._joined(f"{side}_{part}") for part in ("numbers", "labels", "ids"))
        labels, ids = labels.long(), ids.long()
        rows = numbers.view(len(labels), -1) if len(labels) else numbers.view(0, 1)
        if not len(ids):
            return rows, labels, None
        if len(ids) != len(labels):
            raise ValueError(f"Expected ids for all {len(labels)} of {side} on all ranks, got {len(ids)}.")
        ids, order = ids.sort(stable=True)
        rows, labels = rows[order], labels[order]
        repeated = ids[1:] == ids[:-1]
        if bool((repeated & (labels[1:] != labels[:-1])).any()):
            raise ValueError(f"Expected one label an id, got several for an id of {side}. Give every item its own id.")
        first = torch.cat([repeated.new_ones(1), ~repeated])
        return rows[first], labels[first], ids[first]

    def _joined(self, name: str) -> Tensor:
        state = getattr(self, name)
        if isinstance(state, Tensor):
            return state
        return torch.cat(state) if state else torch.zeros(0, device=self.device)
