import numpy as np
import pytest
import torch

from lightning_graceful.functional import average_queries, retrieval_metrics, retrieval_per_query
from tests.functional.retrieval import brute_force

K, CMC = (1, 2, 5), 4


def make(seed, queries=12, items=9, dim=3, classes=3, levels=None):
    g = torch.Generator().manual_seed(seed)
    shapes = (queries, dim), (items, dim)
    if levels is None:
        embeddings = [torch.randn(shape, generator=g) for shape in shapes]
    else:  # few values, so that scores tie
        embeddings = [torch.randint(-levels, levels + 1, shape, generator=g).float() for shape in shapes]
    labels = [torch.randint(classes, (n,), generator=g) for n in (queries, items)]
    ids = {
        "query_ids": torch.randint(20, (queries,), generator=g),
        "gallery_ids": torch.randint(20, (items,), generator=g),
    }
    return [*embeddings, *labels], ids


def expected(inputs, ids, distance="cosine"):
    query, gallery, query_labels, gallery_labels = inputs
    scores = np.round(brute_force.scores(query, gallery, distance), 9)
    rows = []
    for i in range(len(query)):
        seen = [j for j in range(len(gallery)) if not ids or ids["query_ids"][i] != ids["gallery_ids"][j]]
        relevant = [bool(query_labels[i] == gallery_labels[j]) for j in seen]
        rows.append(brute_force.per_query(scores[i, seen].tolist(), relevant, K, CMC))
    return rows


def agree(values, rows):
    assert set(values) == {"r_precision", "map", "map_at_r", "cmc"} | {
        f"{m}_at_{k}" for m in ("recall", "precision") for k in K
    }
    for name, value in values.items():
        nothing = np.full(CMC, np.nan) if name == "cmc" else np.nan
        np.testing.assert_allclose(
            value, [nothing if row is None else row[name] for row in rows], atol=1e-12, err_msg=name
        )


@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("with_ids", [False, True])
def test_each_query_gets_what_brute_force_gives(levels, distance, with_ids):
    for seed in range(6):
        inputs, ids = make(seed, items=7, levels=levels)
        ids = ids if with_ids else {}
        values = retrieval_per_query(*inputs, k=K, cmc=CMC, distance=distance, **ids)
        agree(values, expected(inputs, ids, distance))


@pytest.mark.parametrize("memory", [2**16, 2**28])
def test_blocks_of_any_size_give_one_answer(memory):
    inputs, ids = make(7, queries=150, items=1500, dim=4, classes=5, levels=2)
    whole = retrieval_per_query(*inputs, k=K, cmc=CMC, **ids)
    parts = retrieval_per_query(*inputs, k=K, cmc=CMC, memory=memory, **ids)
    for name, value in whole.items():
        # Ranks are counts, so only the last bits of sums may differ: they are padded to another width.
        torch.testing.assert_close(value, parts[name], rtol=0, atol=1e-14, equal_nan=True, msg=name)


def test_no_measure_depends_on_the_order_of_the_gallery():
    inputs, _ = make(8, queries=40, items=300, dim=2, classes=4, levels=1)
    order = inputs[3].argsort()
    values = retrieval_metrics(*inputs, k=K)
    sorted_by_label = retrieval_metrics(inputs[0], inputs[1][order], inputs[2], inputs[3][order], k=K)
    for name, value in values.items():
        torch.testing.assert_close(value, sorted_by_label[name], rtol=0, atol=1e-13, msg=name)


def test_a_collapsed_model_scores_by_chance():
    g = torch.Generator().manual_seed(9)
    labels = torch.arange(1000) // 100  # sorted: ties by position would favour the first class
    values = retrieval_metrics(torch.ones(50, 4), torch.ones(1000, 4), torch.randint(10, (50,), generator=g), labels)
    assert values["recall_at_1"].item() == pytest.approx(0.1, abs=1e-12)
    assert values["recall_at_10"].item() == pytest.approx(
        1 - np.prod([(900 - i) / (1000 - i) for i in range(10)]), abs=1e-12
    )
    assert values["precision_at_10"].item() == pytest.approx(0.1, abs=1e-12)
    assert 0.1 < values["map"] < 0.11


def test_negative_scores_count_like_others():
    gallery = torch.tensor([[-1.0, 0.1], [-1.0, 0.5], [-1.0, 0.9]])
    values = retrieval_metrics(torch.tensor([[1.0, 0.0]]), gallery, torch.tensor([1]), torch.tensor([0, 0, 1]), k=[1])
    assert values["recall_at_1"] == values["map"] == 1


def test_one_class_and_one_item():
    inputs, _ = make(10, classes=1)
    values = retrieval_metrics(*inputs, k=[1])
    assert all(
        values[name].item() == pytest.approx(1, abs=1e-12) for name in ("recall_at_1", "map", "map_at_r", "r_precision")
    )
    one = retrieval_metrics(inputs[0], inputs[1][:1], inputs[2], inputs[3][:1], k=[1, 3], cmc=2)
    assert one["recall_at_3"] == one["map"] == 1
    assert one["precision_at_3"].item() == pytest.approx(1 / 3)
    assert one["cmc"].tolist() == [1, 1]


def test_agrees_with_pytorch_metric_learning():
    package = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator", exc_type=ImportError)
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    inference = pytest.importorskip("pytorch_metric_learning.utils.inference")
    calculator = package.AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision", "mean_average_precision_at_r"),
        k=None,
        knn_func=inference.CustomKNN(distances.CosineSimilarity(), batch_size=64),
    )
    inputs, _ = make(11, queries=60, items=200, dim=8, classes=5)
    theirs = calculator.get_accuracy(inputs[0], inputs[2], inputs[1], inputs[3], ref_includes_query=False)
    ours = retrieval_metrics(*inputs)
    names = {
        "precision_at_1": "precision_at_1",
        "r_precision": "r_precision",
        "map_at_r": "mean_average_precision_at_r",
    }
    for name, their_name in (names | {"map": "mean_average_precision"}).items():
        assert ours[name].item() == pytest.approx(theirs[their_name], abs=1e-6), name


def test_agrees_with_pytorch_metric_learning_where_queries_are_the_gallery():
    package = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator", exc_type=ImportError)
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    inference = pytest.importorskip("pytorch_metric_learning.utils.inference")
    calculator = package.AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=inference.CustomKNN(distances.CosineSimilarity(), batch_size=64),
    )
    inputs, _ = make(12, queries=120, dim=8, classes=5)
    theirs = calculator.get_accuracy(inputs[0], inputs[2])
    own = torch.arange(120)
    ours = retrieval_metrics(inputs[0], inputs[0], inputs[2], inputs[2], query_ids=own, gallery_ids=own)
    assert ours["precision_at_1"].item() == pytest.approx(theirs["precision_at_1"], abs=1e-6)
    assert ours["map_at_r"].item() == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-6)


def test_means_are_over_queries_with_a_match_or_over_classes():
    values = {
        "map": torch.tensor([0.2, 0.4, 0.9, torch.nan, torch.nan]),
        "cmc": torch.tensor([[0.0, 1], [1, 1], [0, 1], [torch.nan] * 2, [torch.nan] * 2]),
    }
    labels = torch.tensor([4, 4, 7, 7, -2])
    micro = average_queries(values, labels)
    assert micro["map"].item() == pytest.approx(0.5)
    assert (micro["queries"].item(), micro["queries_without_match"].item()) == (3, 2)
    macro = average_queries(values, labels, average="macro")
    assert macro["map"].item() == pytest.approx(0.6)
    assert macro["cmc"].tolist() == [0.25, 1]
    each = average_queries(values, labels, average="none")
    assert each["classes"].tolist() == [-2, 4, 7]
    torch.testing.assert_close(each["map"], torch.tensor([torch.nan, 0.3, 0.9]), equal_nan=True)
    assert each["cmc"][1:].tolist() == [[0.5, 1], [0, 1]]
    assert (each["queries"].tolist(), each["queries_without_match"].tolist()) == ([0, 2, 1], [1, 0, 1])


def test_nothing_to_average_is_nan():
    inputs, _ = make(13)
    for rows in (slice(0, 0), slice(None)):
        values = retrieval_metrics(inputs[0][rows], inputs[1], inputs[2][rows] + 100, inputs[3], k=[1])
        assert values["map"].isnan()
        assert values["recall_at_1"].isnan()
        assert values["queries"] == 0
        assert values["queries_without_match"] == len(inputs[0][rows])
    assert retrieval_metrics(inputs[0], inputs[1][:0], inputs[2], inputs[3][:0])["map"].isnan()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": [0]}, "k and cmc to be integers of at least 1"),
        ({"k": [1.5]}, "k and cmc"),
        ({"cmc": -1}, "k and cmc"),
        ({"average": "mean"}, "got 'mean'"),
        ({"query_labels": torch.ones(12)}, "integer query_labels"),
        ({"gallery_labels": torch.ones(3, dtype=torch.int64)}, r"gallery_labels of shape \(9,\)"),
    ],
)
def test_bad_input_is_refused(change, message):
    names = ("query", "gallery", "query_labels", "gallery_labels")
    inputs = dict(zip(names, make(14)[0], strict=True))
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(**(inputs | change))
