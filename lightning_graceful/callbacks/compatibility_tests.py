"""Several models' embeddings of the same samples, gathered from all ranks, and what searches among them give."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_graceful.functional.retrieval.arguments import integers
from lightning_graceful.functional.retrieval.measures import retrieval_metrics
from lightning_graceful.functional.retrieval.rows import Dimensions, Distance, check_shapes, common_width

PARTS = {"labels": torch.int64, "ids": torch.int64, "roles": torch.uint8}
SELF, CROSS, OLD = "self_test", "cross_test", "old_self_test"


class CompatibilityTests(Metric):
    """Self tests and the cross test of one set of samples, part queries, part gallery.

    The state is ``4 * d`` bytes a sample and model, and 17 bytes a sample; on each rank, while ``compute`` runs, for
    the samples of all ranks. A sample that comes again with the same id (a ``DistributedSampler`` pads shards) counts
    once. The answer is the same for any split over batches and ranks.

    Args:
        models: Whose embeddings there are: ``"new"`` and ``"old"``; ``"shared"``: the new model's in the old space,
            where that is another than its own; ``"paragon"``.
        measures: Names of what :func:`lightning_graceful.functional.retrieval_metrics` returns.
        k: Lengths of lists.
        leave_one_out: Search all with all, but no sample with itself; else queries search the gallery.
        distance: ``"cosine"`` or ``"l2"``.
        dimensions: By how many dimensions new and old embeddings are compared.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> tests = CompatibilityTests(["new", "old"], ["map"], [1], leave_one_out=True)
        >>> old = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.2]])
        >>> tests.update({"new": old * 2, "old": old}, torch.tensor([0, 1, 0]), torch.arange(3), torch.zeros(3))
        >>> {name: value.item() for name, value in tests.compute().items()}
        {'self_test_map': 1.0, 'cross_test_map': 1.0, 'old_self_test_map': 1.0}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(
        self,
        models: Sequence[str],
        measures: Sequence[str],
        k: Sequence[int],
        *,
        leave_one_out: bool = False,
        distance: Distance = "cosine",
        dimensions: Dimensions = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.models, self.measures, self.k = tuple(models), tuple(measures), tuple(k)
        self.leave_one_out, self.distance, self.dimensions = leave_one_out, distance, dimensions
        for part in (*self.models, *PARTS):
            self.add_state(f"{part}_seen", [], dist_reduce_fx="cat")

    def update(self, embeddings: Mapping[str, Tensor], labels: Tensor, ids: Tensor, is_query: Tensor) -> None:
        """Add samples.

        Args:
            embeddings: Of each model, floating, shape ``(N, d)``.
            labels: Integer, shape ``(N,)``.
            ids: Which samples these are, integer, shape ``(N,)``.
            is_query: Whether each is a query; else it is of the gallery; shape ``(N,)``.

        Raises:
            ValueError: If a shape or kind is another.
        """
        check_shapes(embeddings)
        checked = [integers("target", labels, row) for row in embeddings.values()]
        for name in self.models:
            # Flat, so that a rank without any has a state of the same shape.
            getattr(self, f"{name}_seen").append(embeddings[name].detach().float().flatten().to(self.device))
        for name, values in {"labels": checked[0], "ids": ids, "roles": is_query}.items():
            getattr(self, f"{name}_seen").append(values.to(self.device, PARTS[name]))

    def compute(self) -> dict[str, Tensor]:
        """Search with all samples of all ranks.

        Returns:
            ``<test>_<measure>``, float64, for the tests ``self_test``, ``cross_test``, ``old_self_test``,
            ``shared_self_test`` where new and old embeddings share but a part or an image of the new space, and
            ``paragon_self_test``; NaN where no query has a match.

        Raises:
            ValueError: If an embedding holds NaN or Inf, widths do not fit, or a measure is unknown.
        """
        _, first = _first_of_each(self._joined("ids"))
        labels, roles = self._joined("labels")[first], self._joined("roles")[first] > 0
        rows = {name: self._rows(name, len(self._joined("ids")))[first] for name in self.models}
        for name, embeddings in rows.items():
            _refuse_nan(name, embeddings, self._joined("ids")[first])
        new, old = rows.get("shared", rows["new"]), rows["old"]
        tests: dict[str, tuple[Tensor, Tensor, Dimensions]] = {
            SELF: (rows["new"], rows["new"], None),
            CROSS: (new, old, self.dimensions),
            OLD: (old, old, None),
        }
        width = common_width({"new": new.shape[1], "old": old.shape[1]}, self.dimensions) if len(labels) else 0
        if "shared" in rows or 0 < width < new.shape[1]:
            tests["shared_self_test"] = new, new, min(width, new.shape[1]) or None
        if "paragon" in rows:
            tests["paragon_self_test"] = rows["paragon"], rows["paragon"], None
        found = {name: self._search(*test, labels, roles) for name, test in tests.items()}
        return {f"{name}_{key}": value for name, values in found.items() for key, value in values.items()}

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all ranks, as :class:`torchmetrics.Metric` does.

        Args:
            *args: As there.
            **kwargs: As there.
        """
        for part in (*self.models, *PARTS):  # a rank that saw nothing takes part with the right kind of nothing
            state = getattr(self, f"{part}_seen")
            if isinstance(state, list) and not state:
                state.append(torch.zeros(0, dtype=PARTS.get(part, torch.float32), device=self.device))
        super().sync(*args, **kwargs)

    def _search(
        self, query: Tensor, gallery: Tensor, dimensions: Dimensions, labels: Tensor, is_query: Tensor
    ) -> dict[str, Tensor]:
        options: Any = {"k": self.k, "distance": self.distance, "dimensions": dimensions}
        if self.leave_one_out:
            ids = torch.arange(len(labels), device=labels.device)
            found = retrieval_metrics(query, gallery, labels, labels, query_ids=ids, gallery_ids=ids, **options)
        else:
            asked, held = is_query, ~is_query
            found = retrieval_metrics(query[asked], gallery[held], labels[asked], labels[held], **options)
        unknown = [name for name in self.measures if name not in found]
        if unknown:
            raise ValueError(f"Expected measures among {[*found]}, got {unknown}.")
        return {name: found[name] for name in self.measures}

    def _rows(self, name: str, samples: int) -> Tensor:
        numbers = self._joined(name)
        return numbers.view(samples, -1) if samples else numbers.view(0, 1)

    def _joined(self, part: str) -> Tensor:
        state = getattr(self, f"{part}_seen")
        if isinstance(state, Tensor):
            return state
        return torch.cat(state) if state else torch.zeros(0, dtype=PARTS.get(part, torch.float32), device=self.device)


def _first_of_each(ids: Tensor) -> tuple[Tensor, Tensor]:
    # The ids, ascending, and where each is first.
    ordered, order = ids.sort(stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first], order[is_first]


def _refuse_nan(name: str, rows: Tensor, ids: Tensor) -> None:
    bad = (~rows.isfinite().all(1)).nonzero()[:, 0]
    if len(bad):
        whose = {"shared": "new model, in the old space,", "paragon": "paragon"}.get(name, f"{name} model")
        raise ValueError(
            f"Expected finite embeddings of the {whose} got NaN or Inf for {len(bad)} of {len(rows)} samples, such as "
            f"{ids[bad[:3]].tolist()}. Look at its outputs for these."
        )
