import numpy as np
import pytest
import torch

from lightning_graceful.functional import (
    average_compatibility,
    backfill_curve,
    compatibility_matrix,
    pairwise_compatibility,
    retrieval_metrics,
)
from tests.functional.retrieval import brute_force


def make(seed=0, queries=20, items=30, classes=4):
    g = torch.Generator().manual_seed(seed)
    labels = [torch.randint(classes, (n,), generator=g) for n in (queries, items)]
    centres = torch.randn(classes, 8, generator=g)

    def embed(side, noise, turn):
        x = centres[labels[side]] + noise * torch.randn(len(labels[side]), 8, generator=g)
        return x @ torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(turn))).Q

    return labels, embed


def test_matrix_holds_queries_in_rows_and_galleries_in_columns():
    labels, embed = make()
    queries = {"v1": embed(0, 2.0, 1), "v2": embed(0, 1.0, 1), "v3": embed(0, 0.5, 2)}
    galleries = {"v1": embed(1, 2.0, 1), "v2": embed(1, 1.0, 1), "v3": embed(1, 0.5, 2)}
    for measure in ("map", "recall_at_1"):
        matrix = compatibility_matrix(queries, galleries, *labels, measure=measure)
        assert matrix.versions == ("v1", "v2", "v3")
        for i, query in enumerate(queries.values()):
            for j, gallery in enumerate(galleries.values()):
                assert matrix.values[i, j] == retrieval_metrics(query, gallery, *labels)[measure]
        values = matrix.values.numpy()
        better = [values[i, j] > values[j, j] for i in range(3) for j in range(i)]
        assert matrix.average_compatibility.item() == pytest.approx(np.mean(better))
        assert average_compatibility(matrix.values.T) != matrix.average_compatibility or np.allclose(values, values.T)


def test_versions_of_other_widths_are_cut_to_what_they_share():
    labels, embed = make(1)
    queries, galleries = (
        {"old": embed(0, 1, 1)[:, :5], "new": embed(0, 1, 1)},
        {"old": embed(1, 1, 1)[:, :5], "new": embed(1, 1, 1)},
    )
    matrix = compatibility_matrix(queries, galleries, *labels, dimensions="shared")
    assert matrix.values[1, 0] == retrieval_metrics(queries["new"][:, :5], galleries["old"], *labels)["map"]
    assert matrix.values[1, 1] == retrieval_metrics(queries["new"], galleries["new"], *labels)["map"]
    with pytest.raises(ValueError, match="dimensions='shared'"):
        compatibility_matrix(queries, galleries, *labels)


def test_curve_replaces_the_gallery_in_the_order_given():
    labels, embed = make(2)
    query, old, new = embed(0, 0.3, 1), embed(1, 2.0, 1), embed(1, 0.3, 1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    curve = backfill_curve(query, old, new, *labels, order=order, parts=4)
    ends = [0, 8, 15, 22, 30]
    assert curve.share.tolist() == pytest.approx([end / 30 for end in ends])
    for value, end in zip(curve.values, ends, strict=True):
        mixed = torch.stack([new[i] if i in order[:end].tolist() else old[i] for i in range(30)])
        assert value == retrieval_metrics(query, mixed, *labels)["map"]
    values, share = curve.values.tolist(), curve.share.tolist()
    area = sum((values[i] + values[i + 1]) / 2 * (share[i + 1] - share[i]) for i in range(4))
    assert curve.area.item() == pytest.approx(area)
    assert curve.values[0] == retrieval_metrics(query, old, *labels)["map"]
    assert curve.values[-1] == retrieval_metrics(query, new, *labels)["map"]


def test_curve_leaves_the_galleries_alone_and_takes_other_widths():
    labels, embed = make(3)
    query, old, new = embed(0, 0.3, 1), embed(1, 2.0, 1)[:, :5], embed(1, 0.3, 1)
    kept = old.clone()
    curve = backfill_curve(query, old, new, *labels, order=torch.arange(30), parts=2, dimensions="shared")
    assert torch.equal(old, kept)
    assert curve.values[-1] == retrieval_metrics(query[:, :5], new[:, :5], *labels)["map"]


def filled(x):
    return torch.cat([x, torch.zeros(len(x), 8 - x.shape[1])], 1)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("widths", [(5, 8), (8, 5)])
def test_curve_and_matrix_may_fill_up_with_zeros(distance, widths):
    labels, embed = make(3)
    query, old, new = (
        embed(0, 0.3, 1)[:, : widths[1]],
        embed(1, 2.0, 1)[:, : widths[0]],
        embed(1, 0.3, 1)[:, : widths[1]],
    )
    options = {"order": torch.arange(30).flip(0), "parts": 3, "distance": distance}
    curve = backfill_curve(query, old, new, *labels, dimensions="padded", **options)
    expected = backfill_curve(filled(query), filled(old), filled(new), *labels, **options)
    assert torch.equal(curve.values, expected.values)
    queries, galleries = {"old": embed(0, 1, 1)[:, : widths[0]], "new": query}, {"old": old, "new": new}
    matrix = compatibility_matrix(queries, galleries, *labels, dimensions="padded", distance=distance)
    wide = [{name: filled(x) for name, x in side.items()} for side in (queries, galleries)]
    assert torch.equal(matrix.values, compatibility_matrix(*wide, *labels, distance=distance).values)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_padded_measures_are_those_of_a_loop(distance):
    labels, embed = make(6, queries=9, items=20)
    query, gallery = embed(0, 1.0, 1), embed(1, 1.0, 1)[:, :5]
    found = retrieval_metrics(query, gallery, *labels, k=[1], dimensions="padded", distance=distance)
    scores = brute_force.scores(query, filled(gallery), distance)
    relevant = (labels[0][:, None] == labels[1]).numpy()
    lists = [relevant[i, np.argsort(-scores[i])].tolist() for i in range(9)]
    expected = [brute_force.of_list(one, [1], 1) for one in lists if any(one)]
    for name in ("map", "map_at_r", "recall_at_1"):
        assert found[name].item() == pytest.approx(np.mean([one[name] for one in expected]))


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("memory", [2**16, 2**28])
@pytest.mark.parametrize("with_ids", [False, True])
def test_pairwise_shares_are_those_of_a_loop(distance, memory, with_ids):
    labels, embed = make(4, items=900)
    old_query, new_query, gallery = embed(0, 1.0, 1), embed(0, 0.5, 1), embed(1, 1.0, 1)
    new_query[:5] = old_query[:5]  # equality meets both inequalities
    ids = {"query_ids": torch.arange(20), "gallery_ids": torch.arange(900) % 60} if with_ids else {}
    found = pairwise_compatibility(old_query, new_query, gallery, *labels, distance=distance, memory=memory, **ids)
    before, after = (brute_force.scores(q, gallery, distance) for q in (old_query, new_query))
    after[:5] = before[:5]
    held = {True: [], False: []}
    for i in range(20):
        for j in range(900):
            if not ids or ids["query_ids"][i] != ids["gallery_ids"][j]:
                alike = bool(labels[0][i] == labels[1][j])
                held[alike].append(after[i, j] >= before[i, j] if alike else after[i, j] <= before[i, j])
    expected = [np.mean(held[True]), np.mean(held[False]), np.mean(held[True] + held[False])]
    assert [share.item() for share in found] == pytest.approx(expected, abs=1e-12)


def test_pairs_of_one_kind_only_leave_the_other_nan():
    labels, embed = make(5, classes=1)
    found = pairwise_compatibility(embed(0, 1, 1), embed(0, 1, 1), embed(1, 1, 1), *labels)
    assert found.different.isnan()
    assert found.same == found.both


LABELS = torch.tensor([0, 1, 1])
ROWS = torch.eye(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": torch.tensor([0, 1, 1])}, "each gallery position from 0 to 2 once"),
        ({"order": torch.tensor([0.0, 1, 2])}, "integer order"),
        ({"parts": 4}, "parts from 1 to the 3 items"),
        ({"parts": 0}, "got 0"),
        ({"new_gallery": ROWS[:2]}, "got 3 old and 2 new"),
        ({"new_gallery": ROWS[:, :2]}, r"got 3 \(old\) and 2 \(new\)"),
        ({"new_gallery": ROWS[:, :2], "dimensions": 3}, r"dimensions in \[1, 2\]"),
        ({"measure": "mrr"}, "got 'mrr'"),
        ({"measure": "cmc", "cmc": 3}, "got 'cmc'"),
    ],
)
def test_bad_refreshes_are_refused(change, message):
    good = {"query": ROWS, "old_gallery": ROWS, "new_gallery": ROWS, "query_labels": LABELS, "gallery_labels": LABELS}
    with pytest.raises(ValueError, match=message):
        backfill_curve(**{**good, "order": torch.arange(3), "parts": 1, **change})


def test_versions_that_differ_are_refused():
    with pytest.raises(ValueError, match="the same versions in one order"):
        compatibility_matrix({"a": ROWS, "b": ROWS}, {"b": ROWS, "a": ROWS}, LABELS, LABELS)
    with pytest.raises(ValueError, match="got 3 old and 2 new"):
        pairwise_compatibility(ROWS, ROWS[:2], ROWS, LABELS, LABELS)
