import pickle

import pytest
import torch
from torch.utils.data import DistributedSampler
from torchmetrics import MetricCollection

from lightning_graceful import CrossModelRetrieval
from lightning_graceful.functional import identification_rates, retrieval_metrics, verification_rates
from tests.ddp import run_ddp

N, G = 41, 67
OPTIONS = {"k": [1, 3], "cmc": 4, "far": [0.01, 0.1], "fpir": [0.1], "average": "micro"}


def make(seed=0, ties=False):
    g = torch.Generator().manual_seed(seed)
    query, gallery = torch.randn(N, 6, generator=g), torch.randn(G, 6, generator=g)
    if ties:
        query, gallery = query.sign(), gallery.sign()
    query_labels, gallery_labels = torch.randint(6, (N,), generator=g), torch.randint(5, (G,), generator=g)
    query_ids, gallery_ids = torch.randperm(90, generator=g)[:N], torch.randperm(90, generator=g)[:G]
    return (query, query_labels, query_ids), (gallery, gallery_labels, gallery_ids)


def expected(sides, with_ids=True):
    (query, query_labels, query_ids), (gallery, gallery_labels, gallery_ids) = sides
    ids = {"query_ids": query_ids, "gallery_ids": gallery_ids} if with_ids else {}
    items = query, gallery, query_labels, gallery_labels
    values = retrieval_metrics(*items, k=[1, 3], cmc=4, **ids)
    tar, tnir = (
        verification_rates(*items, far=[0.01, 0.1], **ids).tar,
        identification_rates(*items, fpir=[0.1], **ids).tnir,
    )
    return values | {"tar_at_far_0.01": tar[0], "tar_at_far_0.1": tar[1], "tnir_at_fpir_0.1": tnir[0]}


def equal(values, wanted):
    assert values.keys() == wanted.keys()
    for name, value in values.items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=1e-13, equal_nan=True, msg=name)


def feed(metric, side, items, rows, with_ids=True, batch=16):
    for some in rows.split(batch) if len(rows) else ():
        x, labels, ids = (part[some] for part in items)
        metric.update(**{side: x}, labels=labels, ids=ids if with_ids else None)


def of_shards(rank, world_size, query_sizes, gallery_sizes, with_ids):
    """Each rank with its rows of both sides; one without any never calls update."""
    metric = CrossModelRetrieval(**OPTIONS)
    for side, items, sizes in zip(("query", "gallery"), make(ties=True), (query_sizes, gallery_sizes), strict=True):
        rows = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(1)).split(sizes)[rank]
        feed(metric, side, items, rows, with_ids)
    values = metric.compute()
    equal(metric.compute(), values)
    kept = len(torch.cat(metric.query_labels)) if metric.query_labels else 0
    return values, kept


def of_padded_shards(rank, world_size):
    metric = CrossModelRetrieval(**OPTIONS)
    for side, items in zip(("query", "gallery"), make(ties=True), strict=True):
        rows = torch.tensor(list(DistributedSampler(range(len(items[0])), world_size, rank, seed=3)))
        feed(metric, side, items, torch.cat([rows, rows[:5]]))
    return metric.compute()


SHARDS = {1: [((N,), (G,))], 2: [((11, 30), (60, 7)), ((N, 0), (G, 0)), ((N, 0), (0, G))]}


def work(rank, world_size):
    shards = [
        (with_ids, sizes, of_shards(rank, world_size, *sizes, with_ids))
        for sizes in SHARDS[world_size]
        for with_ids in (True, False)
    ]
    return shards, of_padded_shards(rank, world_size)


@pytest.fixture(scope="module", params=SHARDS)
def ranks(request):
    return run_ddp(work, request.param)


def test_ranks_give_the_answer_of_one_process(ranks):
    for rank, (shards, _) in enumerate(ranks):
        for with_ids, sizes, (values, kept) in shards:
            equal(values, expected(make(ties=True), with_ids))
            assert kept == sizes[0][rank]


def test_repeated_items_count_once(ranks):
    for _, padded in ranks:
        equal(padded, expected(make(ties=True)))


def test_sides_may_come_together_or_apart():
    (query, labels, ids), _ = make()
    other = query + 0.1 * torch.randn(N, 6, generator=torch.Generator().manual_seed(5))
    metric = CrossModelRetrieval(**OPTIONS)
    for rows in torch.arange(N).split(16):
        metric.update(query=query[rows], gallery=other[rows], labels=labels[rows], ids=ids[rows])
    equal(metric.compute(), expected(((query, labels, ids), (other, labels, ids))))


def test_per_class_answers_name_their_classes():
    (query, query_labels, _), (gallery, gallery_labels, _) = make()
    metric = CrossModelRetrieval(k=[1], average="none")
    metric.update(query=query, labels=query_labels)
    metric.update(gallery=gallery, labels=gallery_labels)
    values = metric.compute()
    equal(values, retrieval_metrics(query, gallery, query_labels, gallery_labels, k=[1], average="none"))
    assert values["queries_without_match"][values["classes"] == 5] > 0


@pytest.mark.parametrize("dimensions", ["padded", "shared", 3])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_widths_may_differ(dimensions, distance):
    (query, query_labels, _), (gallery, gallery_labels, _) = make()
    options = {"k": [1], "far": [0.1], "fpir": [0.1], "distance": distance}
    metric = CrossModelRetrieval(dimensions=dimensions, **options)
    metric.update(query=query, labels=query_labels)
    metric.update(gallery=gallery[:, :4], labels=gallery_labels)
    zeros = gallery.clone()
    zeros[:, 4:] = 0
    width = {"padded": 6, "shared": 4, 3: 3}[dimensions]
    plain = CrossModelRetrieval(**options)
    plain.update(query=query[:, :width], labels=query_labels)
    plain.update(gallery=zeros[:, :width], labels=gallery_labels)
    equal(metric.compute(), plain.compute())


def test_forward_gives_the_batch_and_keeps_the_rest():
    (query, labels, ids), _ = make()
    metric = CrossModelRetrieval(k=[1])
    for rows in torch.arange(N).split(20):
        own = {"query_ids": ids[rows], "gallery_ids": ids[rows]}
        batch = metric(query=query[rows], gallery=query[rows], labels=labels[rows], ids=ids[rows])
        equal(batch, retrieval_metrics(query[rows], query[rows], labels[rows], labels[rows], k=[1], **own))
    equal(metric.compute(), retrieval_metrics(query, query, labels, labels, k=[1], query_ids=ids, gallery_ids=ids))


def test_copies_carry_the_state_and_reset_forgets_it():
    sides = make()
    metric = CrossModelRetrieval(**OPTIONS)
    for side, items in zip(("query", "gallery"), sides, strict=True):
        feed(metric, side, items, torch.arange(len(items[0])))
    for copy in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        equal(copy.compute(), expected(sides))
        copy.reset()
        copy.update(query=torch.ones(2, 3), gallery=torch.ones(2, 3), labels=torch.arange(2), ids=torch.arange(2))
        assert copy.compute()["queries_without_match"] == 2


def test_state_has_the_documented_size():
    (query, labels, ids), _ = make()
    metric = CrossModelRetrieval()
    metric.update(query=query.double(), gallery=query, labels=labels, ids=ids)
    for side in ("query", "gallery"):
        states = [torch.cat(getattr(metric, f"{side}_{part}")) for part in ("numbers", "labels", "ids")]
        assert sum(state.nbytes for state in states) == N * (4 * 6 + 16)


def test_metrics_of_other_options_share_the_state_but_not_the_answer():
    sides = make()
    collection = MetricCollection({"one": CrossModelRetrieval(k=[1]), "three": CrossModelRetrieval(k=[3])})
    for side, (x, labels, _) in zip(("query", "gallery"), sides, strict=True):
        collection.update(**{side: x}, labels=labels)
    values = collection.compute()
    single = retrieval_metrics(sides[0][0], sides[1][0], sides[0][1], sides[1][1], k=[1, 3])
    for name in ("recall_at_1", "recall_at_3"):
        assert next(value for key, value in values.items() if key.endswith(name)) == single[name]


def test_state_made_in_inference_mode_can_be_used_outside():
    sides = make()
    metric = CrossModelRetrieval(**OPTIONS)
    with torch.inference_mode():
        feed(metric, "query", sides[0], torch.arange(N))
    feed(metric, "gallery", sides[1], torch.arange(G))
    equal(metric.compute(), expected(sides))


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nothing_seen_is_nan():
    assert CrossModelRetrieval().compute()["map"].isnan()
    metric = CrossModelRetrieval()
    metric.update(query=torch.ones(2, 3), labels=torch.arange(2))
    assert metric.compute()["queries_without_match"] == 2


ROWS, LABELS = torch.eye(2), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "query, gallery or both, got neither"),
        ({"query": ROWS, "gallery": ROWS}, "each would find itself"),
        ({"query": ROWS.long()}, "floating matrix"),
        ({"query": ROWS[0]}, r"of shape \(2,\)"),
        ({"query": ROWS, "labels": LABELS.float()}, "integer labels"),
        ({"query": ROWS, "labels": LABELS[:1]}, r"integer labels of shape \(2,\)"),
        ({"query": ROWS, "ids": LABELS[:1]}, "integer ids"),
    ],
)
def test_bad_batches_are_refused(batch, message):
    metric = CrossModelRetrieval()
    with pytest.raises(ValueError, match=message):
        metric.update(**{"labels": LABELS, **batch})
    assert metric.query_labels == []


def test_batches_must_agree():
    metric = CrossModelRetrieval()
    metric.update(query=ROWS, labels=LABELS, ids=LABELS)
    with pytest.raises(ValueError, match="of 2 dimensions as before, got 3"):
        metric.update(query=torch.ones(2, 3), labels=LABELS, ids=LABELS)
    with pytest.raises(ValueError, match="ids with all query batches or with none"):
        metric.update(query=ROWS, labels=LABELS)
    metric.update(query=ROWS, labels=1 - LABELS, ids=LABELS)
    with pytest.raises(ValueError, match="one label an id"):
        metric.compute()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": "mean"}, "got 'mean'"),
        ({"k": [0]}, "k and cmc"),
        ({"far": [2.0]}, "far in"),
        ({"memory": 1}, "memory of"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CrossModelRetrieval(**options)


def test_nan_embeddings_are_named_when_computed():
    metric = CrossModelRetrieval()
    metric.update(query=ROWS, labels=LABELS)
    metric.update(gallery=ROWS * torch.nan, labels=LABELS)
    with pytest.raises(ValueError, match="finite gallery embeddings"):
        metric.compute()
