import pickle

import pytest
import torch
from torch.utils.data import DistributedSampler
from torchmetrics import MetricCollection

import lightning_graceful.metrics.flips as flips
from lightning_graceful import FlipRates, NegativeFlipRate, PositiveFlipRate
from lightning_graceful.functional import flip_rates, flip_table
from tests.ddp import run_ddp

CLASSES = {
    "nfr": flips.NegativeFlipRate,
    "pfr": flips.PositiveFlipRate,
    "relative_nfr": flips.RelativeNegativeFlipRate,
    "nfi": flips.NegativeFlipImpact,
    "pfi": flips.PositiveFlipImpact,
    "btc": flips.BackwardTrustCompatibility,
    "bec": flips.BackwardErrorCompatibility,
    "churn": flips.ChurnRate,
}
N, C, L = 101, 4, 3
COSTS = torch.tensor([[0.0, 1, 2, 3], [3, 0, 1, 2], [5, 1, 0, 1], [1, 2, 4, 0]])


def random_inputs(kind, seed=0):
    g = torch.Generator().manual_seed(seed)
    if kind == "labels":
        return [torch.randint(C, (N,), generator=g) for _ in range(3)]
    if kind == "multilabel":
        return [torch.randn(N, L, generator=g), *(torch.randint(2, (N, L), generator=g) for _ in range(2))]
    shape = (2, 2) if kind == "pixels" else ()
    return [*(torch.randn(N, C, *shape, generator=g) for _ in range(2)), torch.randint(C, (N, *shape), generator=g)]


# kind of inputs, options of function and metric, whether there are weights
CASES = {
    "labels": ("labels", {}, False),
    "scores per class": ("scores", {"average": "none", "num_classes": C}, False),
    "macro, ignored, weights": ("labels", {"average": "macro", "num_classes": C, "ignore_index": 2}, True),
    "costs and weights": ("scores", {"costs": COSTS}, True),
    "costs per class": ("labels", {"costs": COSTS, "average": "none"}, False),
    "multilabel": ("multilabel", {"num_labels": L, "ignore_index": 0}, True),
    "pixels": ("pixels", {"ignore_index": 1}, True),
    "labels pooled": ("multilabel", {"num_labels": L, "average": "micro"}, False),
}
ONE_DECISION_A_SAMPLE = [name for name in CASES if name not in {"pixels", "labels pooled"}]


def make(name):
    kind, options, weighted = CASES[name]
    weights = torch.rand(N, generator=torch.Generator().manual_seed(1)) if weighted else None
    return random_inputs(kind), weights, options


def equal(rates, expected, exact=True):
    assert rates.keys() == expected.keys()
    for name, rate in rates.items():
        tolerance = 0 if exact else 1e-12
        torch.testing.assert_close(rate, expected[name], rtol=tolerance, atol=tolerance, equal_nan=True, msg=name)


def update(metric, inputs, rows, weights=None, **index):
    metric.update(*(x[rows] for x in inputs), weights=None if weights is None else weights[rows], **index)


def rates_of_shard(rank, world_size, rows):
    """All cases, each rank with its rows; a rank without rows never calls update."""
    rates = {}
    for name in CASES:
        inputs, weights, options = make(name)
        metric = FlipRates(**options)
        for batch in rows.split(16) if len(rows) else ():
            update(metric, inputs, batch, weights)
        rates[name] = metric.compute()
    return rates


def rates_of_padded_shard(rank, world_size):
    """All cases with one decision a sample, each rank with the rows of a sampler that repeats some; then the table."""
    rows = torch.tensor(list(DistributedSampler(range(N), world_size, rank, seed=3)))
    rates = {}
    for name in ONE_DECISION_A_SAMPLE:
        inputs, weights, options = make(name)
        metric = FlipRates(num_samples=N, weighted=weights is not None, **options)
        for batch in torch.cat([rows, rows[:5]]).split(16):
            update(metric, inputs, batch, weights, index=batch)
        rates[name] = metric.compute()
        with metric.sync_context():
            rates[name]["table"] = metric.table
    return rates


SHARDS = {1: [(101,)], 2: [(30, 71), (101, 0)]}


def work(rank, world_size):
    rows = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    shards = [rates_of_shard(rank, world_size, rows.split(sizes)[rank]) for sizes in SHARDS[world_size]]
    return shards, rates_of_padded_shard(rank, world_size)


@pytest.fixture(scope="module", params=SHARDS)
def ranks(request):
    """Results of each rank; one run for all tests, since a process takes seconds to start."""
    return run_ddp(work, request.param)


def test_ranks_give_the_answer_of_one_process(ranks):
    for shards, _ in ranks:
        for name, rates in ((name, shard[name]) for shard in shards for name in CASES):
            inputs, weights, options = make(name)
            exact = weights is None and "costs" not in options
            equal(rates, flip_rates(*inputs, weights=weights, **options), exact=exact)


def test_repeated_samples_count_once(ranks):
    for _, padded in ranks:
        for name, rates in padded.items():
            inputs, weights, options = make(name)
            counted = {key: options[key] for key in ("num_labels", "ignore_index") if key in options}
            assert torch.equal(rates["table"], flip_table(*inputs, **counted))
            expected = flip_rates(*inputs, weights=weights, **options)
            equal({key: rate for key, rate in rates.items() if key != "table"}, expected)


@pytest.mark.parametrize("key", CLASSES)
def test_each_class_reads_its_rate(key):
    inputs, _, options = make("scores per class")
    metric = CLASSES[key](**options)
    for rows in torch.arange(N).split(40):
        update(metric, inputs, rows)
    torch.testing.assert_close(metric.compute(), flip_rates(*inputs, **options)[key], rtol=0, atol=0)


@pytest.mark.parametrize(("metric", "key"), [(NegativeFlipRate, "nf_cost"), (PositiveFlipRate, "pf_cost")])
def test_flip_rates_take_costs(metric, key):
    inputs, weights, options = make("costs and weights")
    rate = metric(**options)
    rate.update(*inputs, weights=weights)
    assert rate.compute() == flip_rates(*inputs, weights=weights, **options)[key]


def test_batches_with_and_without_weights_add_up():
    inputs = random_inputs("labels")
    weights = torch.ones(N).index_fill(0, torch.arange(50, N), 0.5)
    metric = FlipRates()
    update(metric, inputs, slice(0, 50))
    update(metric, inputs, slice(50, N), weights)
    equal(metric.compute(), flip_rates(*inputs, weights=weights), exact=False)


@pytest.mark.parametrize("num_samples", [None, N])
def test_forward_gives_the_batch_and_keeps_the_sum(num_samples):
    inputs, metric = random_inputs("labels"), NegativeFlipRate(num_samples=num_samples)
    for rows in torch.arange(N).split(40):
        batch = [x[rows] for x in inputs]
        assert metric(*batch, index=None if num_samples is None else rows) == flip_rates(*batch)["nfr"]
    assert metric.compute() == flip_rates(*inputs)["nfr"]


@pytest.mark.parametrize("num_samples", [None, N])
def test_copies_carry_the_state(num_samples):
    inputs, metric = random_inputs("labels"), FlipRates(num_samples=num_samples, costs=COSTS)
    index = None if num_samples is None else torch.arange(N)
    metric.update(*inputs, index=index)
    for copy in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        equal(copy.compute(), metric.compute())
        copy.reset()
        copy.update(*inputs, index=index)
        equal(copy.compute(), metric.compute())


def test_counts_stay_exact_beyond_float32():
    label, metric = torch.tensor([0]), NegativeFlipRate()
    metric.counts[1, 1, 0] = 2**24
    metric.update(label, label, label)
    metric.update(label, label + 1, label)
    assert metric.table.tolist() == [[0, 0], [1, 2**24 + 1]]
    assert metric.compute().item() == 1 / (2**24 + 2)


def test_state_made_in_inference_mode_can_be_used_outside():
    inputs = random_inputs("labels")
    with torch.inference_mode():
        metric = NegativeFlipRate()
        update(metric, inputs, slice(0, 50))
    update(metric, inputs, slice(50, N))
    assert metric.compute() == flip_rates(*inputs)["nfr"]


def test_state_has_the_documented_size():
    def bytes_a_sample(**options):
        states = FlipRates(num_samples=1000, **options).metric_state.values()
        return sum(state.nbytes for state in states if len(state.shape) and len(state) == 1000) / 1000

    assert bytes_a_sample() == 1
    assert bytes_a_sample(average="none", num_classes=32767) == 3
    assert bytes_a_sample(average="none", num_classes=32768) == 5
    assert bytes_a_sample(weighted=True, costs=COSTS) == 9


@pytest.mark.parametrize("classes", [32767, 32768])
def test_last_class_of_many_is_kept(classes):
    last = torch.tensor([classes - 1])
    metric = NegativeFlipRate(num_samples=1, average="none", num_classes=classes)
    metric.update(last, last - 1, last, index=torch.tensor([0]))
    assert metric.compute()[-1] == 1


def test_metrics_set_up_alike_share_a_state():
    collection = MetricCollection([cls() for cls in CLASSES.values()] + [FlipRates()])
    inputs = random_inputs("labels")
    for rows in torch.arange(N).split(40):
        update(collection, inputs, rows)
    assert len(collection.compute_groups) == 1
    rates = flip_rates(*inputs)
    assert all(collection.compute()[cls.__name__] == rates[key] for key, cls in CLASSES.items())


def test_metrics_set_up_otherwise_share_none_even_if_a_batch_agrees():
    collection = MetricCollection({"low": NegativeFlipRate(threshold=0.3), "high": NegativeFlipRate()})
    target = torch.tensor([1, 1])
    for new in (torch.tensor([0.9, 0.1]), torch.tensor([0.4, 0.4])):
        collection.update(target, new, target)
    assert {name: rate.item() for name, rate in collection.compute().items()} == {"low": 0.25, "high": 0.75}


def test_directions_are_those_of_the_rates():
    better = {key: cls.higher_is_better for key, cls in CLASSES.items()}
    assert {key for key, higher in better.items() if higher} == {"pfr", "pfi", "btc"}
    assert {key for key, higher in better.items() if higher is None} == {"bec"}


LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": "macro"}, "Expected num_classes with average='macro', got None"),
        ({"average": "mean"}, "Expected average to be None"),
        ({"num_samples": 0}, "num_samples of at least 1, got 0. Pass len"),
        ({"num_samples": 2, "num_labels": 2, "average": "micro"}, "one decision a sample with num_samples. Leave"),
        ({"compute_on_steps": True}, "Unexpected keyword arguments"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FlipRates(**options)


@pytest.mark.parametrize("key", sorted(CLASSES.keys() - {"nfr", "pfr"}))
def test_ratios_of_counts_take_no_costs(key):
    with pytest.raises(ValueError, match=f"no costs: {CLASSES[key].__name__} is a ratio of counts"):
        CLASSES[key](costs=COSTS)


@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        ({}, {"index": LABELS}, "num_samples with index, got None. Pass num_samples=len"),
        ({"num_samples": 2}, {}, "index with num_samples, got None. Pass index="),
        ({"num_samples": 2}, {"index": LABELS + 1}, r"index in \[0, 2\), got 1 to 2"),
        ({"num_samples": 2}, {"index": LABELS - 1}, "got -1 to 0"),
        ({"num_samples": 2}, {"index": LABELS[:1]}, r"integer index of shape \(2,\), got torch.int64 of shape \(1,\)"),
        ({"num_samples": 2}, {"index": LABELS.float()}, "got torch.float32"),
        (
            {"num_samples": 2},
            {"index": LABELS, "weights": torch.ones(2)},
            "no weights with num_samples, got some. Pass weighted=True",
        ),
        ({"num_samples": 2}, {"target": torch.ones(2, 3, dtype=torch.int64), "index": LABELS}, "Drop num_samples"),
        ({}, {"weights": -torch.ones(2)}, "weights of at least 0"),
        ({}, {"target": LABELS.float()}, "target to hold integer labels"),
    ],
)
def test_bad_batches_are_refused(options, batch, message):
    with pytest.raises(ValueError, match=message):
        NegativeFlipRate(**options).update(**{"old": LABELS, "new": LABELS, "target": LABELS, **batch})


def test_validate_args_decides_on_checks_of_values():
    scores = torch.full((2, 3), torch.nan)
    with pytest.raises(ValueError, match="got NaN"):
        NegativeFlipRate().update(scores, scores, LABELS)
    NegativeFlipRate(validate_args=False).update(scores, scores, LABELS)
    with pytest.raises(ValueError, match="Expected new as labels"):
        NegativeFlipRate(validate_args=False).update(LABELS, scores[:1], LABELS)
