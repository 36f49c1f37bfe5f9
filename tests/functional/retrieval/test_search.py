import sys

import numpy as np
import pytest
import torch

import lightning_graceful.functional.retrieval.search as search
from lightning_graceful.functional import search_gallery
from lightning_graceful.functional.retrieval.pairs import pair_up
from tests.functional.retrieval import brute_force

HAS_FAISS = search.importlib.util.find_spec("faiss") is not None
BACKENDS = ["torch", pytest.param("faiss", marks=pytest.mark.skipif(not HAS_FAISS, reason="faiss is not installed"))]


def random_rows(rows, dim, seed, levels=None):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, dim, generator=g)
        if levels is None
        else torch.randint(-levels, levels + 1, (rows, dim), generator=g).float()
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("memory", [2**16, 2**28])
def test_answers_are_those_of_brute_force(backend, distance, memory):
    query, gallery = random_rows(30, 9, 0), random_rows(2500, 9, 1)
    found = search_gallery(query, gallery, k=20, backend=backend, distance=distance, memory=memory)
    expected = brute_force.scores(query, gallery, distance)
    assert found.positions.tolist() == [brute_force.nearest(row, 20) for row in expected]
    np.testing.assert_allclose(found.scores, np.take_along_axis(expected, found.positions.numpy(), 1), atol=1e-6)


# Integer vectors with a common norm of components give many exactly equal scores.
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("memory", [2**16, 2**28])
@pytest.mark.parametrize("with_ids", [False, True])
def test_ties_come_by_position_whatever_finds_them(backend, distance, memory, with_ids):
    query, gallery = random_rows(20, 4, 2, levels=1), random_rows(3000, 4, 3, levels=1)
    query_ids, gallery_ids = torch.arange(20), torch.arange(3000) % 900
    ids = {"query_ids": query_ids, "gallery_ids": gallery_ids} if with_ids else {}
    found = search_gallery(query, gallery, k=50, backend=backend, distance=distance, memory=memory, **ids)
    expected = np.round(brute_force.scores(query, gallery, distance), 9)
    for row in range(20):
        left_out = set((gallery_ids == query_ids[row]).nonzero()[:, 0].tolist()) if with_ids else ()
        assert found.positions[row].tolist() == brute_force.nearest(expected[row], 50, left_out)


def test_scores_do_not_depend_on_how_they_are_found():
    query, gallery = random_rows(3, 128, 4), random_rows(400, 128, 5)
    whole = search_gallery(query, gallery, k=400, memory=2**28)
    for row in range(3):
        alone = search_gallery(query[row : row + 1], gallery, k=400, memory=2**16)
        assert torch.equal(alone.positions[0], whole.positions[row])
        assert torch.equal(alone.scores[0], whole.scores[row])
    order = torch.randperm(400, generator=torch.Generator().manual_seed(6))
    shuffled = search_gallery(query, gallery[order], k=400)
    assert torch.equal(shuffled.scores, whole.scores)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_scores_are_exact_on_the_grid(distance):
    pairs = pair_up(random_rows(4, 33, 7), random_rows(5, 33, 8), distance=distance)
    scores = pairs.score(pairs.query, pairs.gallery)
    for i in range(4):
        for j in range(5):
            whole = [[int(value * 2**24) for value in row.tolist()] for row in (pairs.query[i], pairs.gallery[j])]
            dot = sum(a * b for a, b in zip(*whole, strict=True))
            exact = dot if distance == "cosine" else -sum((a - b) ** 2 for a, b in zip(*whole, strict=True))
            assert int(scores[i, j] * 2**48) == exact


def test_queries_that_rounding_might_deceive_are_searched_again(monkeypatch):
    # 300 items within float32 rounding of each other: more than there are candidates.
    gallery = torch.zeros(500, 64)
    gallery[:, 0] = 1
    gallery[:300, 1] = torch.linspace(1e-3, 1.0001e-3, 300)
    gallery[300:, 1] = 1
    query = torch.zeros(2, 64)
    query[:, 0] = 1
    again, original = [], search._search_exactly
    monkeypatch.setattr(search, "_search_exactly", lambda *args: again.append(args) or original(*args))
    found = search_gallery(query, gallery, k=10, backend="torch")
    assert len(again) == 1
    expected = pair_up(query, gallery)
    scores = expected.score(expected.query, expected.gallery)
    assert found.positions.tolist() == [brute_force.nearest(row.tolist(), 10) for row in scores]


@pytest.mark.parametrize("precision", ["autocast", "bfloat16"])
def test_less_precise_products_do_not_change_the_answer(precision, monkeypatch):
    query, gallery = random_rows(30, 64, 9), random_rows(1000, 64, 10)
    expected = search_gallery(query, gallery, k=10)
    if precision == "bfloat16":  # what a processor does that was told to
        rough = lambda pairs, q, g, memory: (q.bfloat16() @ g.bfloat16().T).float()  # noqa: E731
        monkeypatch.setattr(search, "_rough_scores", rough)
    with torch.autocast("cpu", enabled=precision == "autocast"):
        found = search_gallery(query, gallery, k=10, backend="torch")
    assert torch.equal(found.positions, expected.positions)
    assert torch.equal(found.scores, expected.scores)


def test_rough_scores_that_are_all_alike_are_noticed(monkeypatch):
    # Cosines from 0.5 to 0.5018, which bfloat16 rounds to 0.5: below all of them, so that the last candidate seems far.
    order = torch.randperm(60, generator=torch.Generator().manual_seed(11))
    cosine = torch.zeros(500).index_put_((torch.arange(60),), 0.50002 + 3e-5 * order)
    gallery = torch.stack([cosine, (1 - cosine.square()).sqrt()], 1)
    rough = lambda pairs, q, g, memory: (q.bfloat16() @ g.bfloat16().T).float()  # noqa: E731
    monkeypatch.setattr(search, "_rough_scores", rough)
    found = search_gallery(torch.tensor([[1.0, 0.0]]), gallery, k=10, backend="torch")
    assert found.positions[0].tolist() == order.argsort(descending=True)[:10].tolist()


def test_short_galleries_leave_places_empty():
    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = search_gallery(gallery, gallery, k=3, query_ids=torch.arange(2), gallery_ids=torch.arange(2))
    assert found.positions.tolist() == [[1, -1, -1], [0, -1, -1]]
    assert found.scores[:, 1:].isneginf().all()
    assert search_gallery(gallery, gallery[:1], k=1).positions.tolist() == [[0], [0]]
    assert search_gallery(gallery, gallery[:0], k=2).positions.tolist() == [[-1, -1], [-1, -1]]
    assert search_gallery(gallery[:0], gallery, k=2).positions.shape == (0, 2)


def test_norms_do_not_matter_to_cosine_and_do_to_l2():
    query, gallery = random_rows(5, 8, 11), random_rows(50, 8, 12)
    scaled = gallery * torch.linspace(0.1, 5, 50)[:, None]
    assert torch.equal(
        search_gallery(query * 3, scaled, k=50).positions, search_gallery(query, gallery, k=50).positions
    )
    found = search_gallery(query, scaled, k=50, distance="l2")
    expected = brute_force.scores(query, scaled, "l2")
    assert found.positions.tolist() == [brute_force.nearest(row, 50) for row in expected]
    np.testing.assert_allclose(found.scores, -np.sort(-expected, 1), rtol=1e-5)


def test_a_row_of_zeros_has_cosine_zero():
    gallery = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert search_gallery(torch.tensor([[2.0, 0.0]]), gallery, k=3).scores.tolist() == [[1.0, 0.0, -1.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_they_are(dtype):
    query, gallery = random_rows(5, 8, 13).to(dtype), random_rows(50, 8, 14).to(dtype)
    found = search_gallery(query, gallery, k=5)
    expected = brute_force.scores(query.double(), gallery.double())
    assert found.positions.tolist() == [brute_force.nearest(row, 5) for row in expected]


def test_dimensions_may_be_cut_to_those_shared():
    query, gallery = random_rows(5, 12, 15), random_rows(50, 8, 16)
    cut = search_gallery(query[:, :8], gallery, k=5)
    for dimensions in ("shared", 8):
        assert torch.equal(search_gallery(query, gallery, k=5, dimensions=dimensions).scores, cut.scores)
    four = brute_force.scores(query[:, :4], gallery[:, :4])
    found = search_gallery(query, gallery, k=5, dimensions=4)
    assert found.positions.tolist() == [brute_force.nearest(row, 5) for row in four]


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("widths", [(12, 8), (8, 12), (8, 8)])
def test_the_narrower_side_may_be_filled_up_with_zeros(distance, widths):
    query, gallery = random_rows(5, widths[0], 15), random_rows(50, widths[1], 16)
    found = search_gallery(query, gallery, k=50, dimensions="padded", distance=distance)
    filled = [np.pad(x.numpy(), ((0, 0), (0, 12 - x.shape[1]))) for x in (query, gallery)]
    expected = brute_force.scores(*filled, distance)
    assert found.positions.tolist() == [brute_force.nearest(row, 50) for row in expected]
    np.testing.assert_allclose(found.scores, np.take_along_axis(expected, found.positions.numpy(), 1), atol=1e-6)


def test_padding_counts_the_length_of_the_whole_row_and_cutting_does_not():
    query, gallery = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0]])
    assert search_gallery(query, gallery, k=1, dimensions="padded").scores.item() == pytest.approx(0.6)
    assert search_gallery(query, gallery, k=1, dimensions="shared").scores.item() == 1
    l2 = {name: search_gallery(query, gallery, k=1, dimensions=name, distance="l2") for name in ("padded", "shared")}
    assert l2["padded"].scores.item() == pytest.approx(-(20**0.5))
    assert l2["shared"].scores.item() == pytest.approx(-2)


def test_inputs_that_require_grad_or_are_inference_tensors_are_taken():
    query = random_rows(3, 4, 17).requires_grad_()
    with torch.inference_mode():
        gallery = random_rows(5, 4, 18)
    assert not search_gallery(query, gallery, k=2).scores.requires_grad


def test_faiss_that_is_asked_for_and_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    rows = torch.ones(600, 256)
    assert search_gallery(rows, rows[:3], k=1).positions.shape == (600, 1)
    with pytest.raises(ModuleNotFoundError, match="pip install faiss-cpu"):
        search_gallery(rows, rows, k=1, backend="faiss")


GOOD = {"query": torch.ones(3, 4), "gallery": torch.ones(5, 4)}
NAN = torch.ones(5, 4).index_fill(0, torch.tensor([2, 3]), torch.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"gallery": torch.ones(5, 3)},
            r"got 4 \(query\) and 3 \(gallery\). Pass dimensions='shared'.* or 'padded' .* to 4",
        ),
        ({"gallery": NAN}, "finite gallery embeddings, got NaN or Inf in 2 of 5 rows, first in row 2"),
        ({"query": GOOD["query"] * torch.inf}, "finite query"),
        ({"query": torch.ones(3, 4, dtype=torch.int64)}, r"floating matrix \(N, d\), got torch.int64"),
        ({"query": torch.ones(4)}, r"of shape \(4,\)"),
        ({"query": torch.ones(3, 0), "gallery": torch.ones(5, 0)}, "at least one dimension"),
        ({"dimensions": 5}, r"dimensions in \[1, 4\]"),
        ({"dimensions": 0}, "got 0"),
        ({"dimensions": "first"}, "got 'first'"),
        ({"k": 0}, "k of at least 1"),
        ({"distance": "dot"}, "'cosine' or 'l2', got 'dot'"),
        ({"backend": "annoy"}, "got 'annoy'"),
        ({"memory": 100}, "memory of at least 65536 bytes"),
        ({"query_ids": torch.arange(3)}, "query_ids and gallery_ids, or neither"),
        ({"query_ids": torch.arange(2), "gallery_ids": torch.arange(5)}, r"query_ids of shape \(3,\)"),
        ({"query_ids": torch.arange(3), "gallery_ids": torch.ones(5)}, "integer gallery_ids"),
        (
            {"gallery": torch.ones(5, 4).index_fill(0, torch.tensor([0]), 1e6), "distance": "l2"},
            "64 times their median",
        ),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        search_gallery(**{**GOOD, **change})
