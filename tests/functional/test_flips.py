import math
import subprocess
import sys

import pytest
import torch

import lightning_graceful.functional as functional
from lightning_graceful.functional import flip_rates, flip_table, rates_from_counts
from tests import oracles

FUNCTIONS = {
    "nfr": functional.negative_flip_rate,
    "pfr": functional.positive_flip_rate,
    "relative_nfr": functional.relative_negative_flip_rate,
    "nfi": functional.negative_flip_impact,
    "pfi": functional.positive_flip_impact,
    "btc": functional.backward_trust_compatibility,
    "bec": functional.backward_error_compatibility,
    "churn": functional.churn_rate,
}
N, C, L = 40, 4, 3


def labels(*shape, classes=C):
    return lambda g: torch.randint(classes, shape, generator=g)


def scores(*shape):
    return lambda g: torch.randn(shape, generator=g)


def weights(g):
    return torch.rand(N, generator=g).where(torch.rand(N, generator=g) > 0.2, 0)


def costs(size):
    return lambda g: 5 * torch.rand(size, size, generator=g)


# old, new, target, options, groups: each entry is made from a seeded generator.
CASES = {
    "labels": (labels(N), labels(N), labels(N), {"num_classes": C}, C),
    "scores": (scores(N, C), scores(N, C), labels(N), {}, C),
    "labels beside scores": (labels(N), scores(N, C), labels(N), {"ignore_index": 1}, C),
    "half precision": (lambda g: scores(N, C)(g).half(), scores(N, C), labels(N), {}, C),
    "weights": (scores(N, C), labels(N), labels(N), {"weights": weights}, C),
    "costs": (labels(N), scores(N, C), labels(N), {"costs": costs(C), "weights": weights}, C),
    "costs of labels": (labels(N), labels(N), labels(N), {"costs": costs(C), "ignore_index": 0}, C),
    "binary": (scores(N), scores(N), labels(N, classes=2), {"threshold": 0.1}, 2),
    "binary, one in labels": (labels(N, classes=2), scores(N), labels(N, classes=2), {"costs": costs(2)}, 2),
    "pixels": (scores(N, C, 2, 3), labels(N, 2, 3), labels(N, 2, 3), {"ignore_index": 3, "weights": weights}, C),
    "binary pixels": (scores(N, 2, 3), scores(N, 2, 3), labels(N, 2, 3, classes=2), {}, 2),
    "multilabel": (scores(N, L), labels(N, L, classes=2), labels(N, L, classes=2), {"num_labels": L}, L),
    "multilabel, ignored": (
        scores(N, L), scores(N, L), lambda g: labels(N, L, classes=3)(g) - 1,
        {"num_labels": L, "threshold": 0.0, "ignore_index": -1, "weights": weights}, L,
    ),
}  # fmt: skip


def make(name, seed=0):
    g = torch.Generator().manual_seed(seed)
    *tensors, options, groups = CASES[name]
    options = {key: value(g) if callable(value) else value for key, value in options.items()}
    return [tensor(g) for tensor in tensors], options, groups


def agree(rates, expected):
    assert rates.keys() == expected.keys()
    for name, rate in rates.items():
        torch.testing.assert_close(
            rate, torch.tensor(expected[name], dtype=torch.float64), rtol=1e-12, atol=1e-12, equal_nan=True, msg=name
        )


@pytest.mark.parametrize("average", [None, "micro", "macro", "none"])
@pytest.mark.parametrize("name", CASES)
def test_rates_agree_with_a_loop(name, average):
    inputs, options, groups = make(name)
    agree(
        flip_rates(*inputs, average=average, **options),
        oracles.flip_rates(*inputs, average=average, groups=groups, **options),
    )


def test_multilabel_costs_agree_with_a_loop():
    inputs, options, groups = make("multilabel")
    options["costs"] = torch.tensor([[0.0, 1.0], [7.0, 0.0]])
    for average in ("micro", "macro", "none"):
        expected = oracles.flip_rates(*inputs, average=average, groups=groups, **options)
        agree(flip_rates(*inputs, average=average, **options), expected)


@pytest.mark.parametrize("key", FUNCTIONS)
def test_each_function_reads_its_rate(key):
    inputs, options, _ = make("multilabel, ignored")
    for average in (None, "micro", "macro", "none"):
        rate = FUNCTIONS[key](*inputs, average=average, **options)
        torch.testing.assert_close(rate, flip_rates(*inputs, average=average, **options)[key])


@pytest.mark.parametrize(("key", "costly"), [("nfr", "nf_cost"), ("pfr", "pf_cost")])
def test_flip_rates_take_costs(key, costly):
    inputs, options, _ = make("costs")
    assert FUNCTIONS[key](*inputs, **options) == flip_rates(*inputs, **options)[costly]


@pytest.mark.parametrize("key", sorted(FUNCTIONS.keys() - {"nfr", "pfr"}))
def test_ratios_of_counts_take_no_costs(key):
    inputs, options, _ = make("costs")
    with pytest.raises(TypeError, match="costs"):
        FUNCTIONS[key](*inputs, **options)


@pytest.mark.parametrize("name", CASES)
def test_difference_of_errors_is_difference_of_flips(name):
    inputs, options, _ = make(name, seed=1)
    rates = flip_rates(*inputs, **options)
    torch.testing.assert_close(rates["error_new"] - rates["error_old"], rates["nfr"] - rates["pfr"])


@pytest.mark.parametrize("name", ["labels", "scores", "pixels", "binary", "multilabel, ignored"])
def test_table_counts_the_four_cells(name):
    inputs, options, _ = make(name)
    options = {key: value for key, value in options.items() if key not in {"weights", "num_classes"}}
    expected = [[0, 0], [0, 0]]
    for record in oracles.records(*inputs, **options):
        expected[oracles.old_right(record)][oracles.new_right(record)] += 1
    table = flip_table(*inputs, **options)
    assert table.dtype == torch.int64
    assert table.tolist() == expected
    assert expected[1][0] != expected[0][1]


def test_undefined_rates_are_nan():
    rates = flip_rates(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    undefined = {name for name, rate in rates.items() if rate.isnan()}
    assert undefined == {"relative_nfr", "nfi", "bec"}
    assert (rates["btc"], rates["pfi"], rates["nfr"]) == (1, 0, 0)


def empty(*shape):
    return torch.zeros(0, *shape, dtype=torch.int64)


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ((empty(), empty(), empty()), {}),
        ((torch.zeros(0, 5), empty(), empty()), {"average": "macro", "weights": torch.zeros(0)}),
        ((torch.zeros(0, 5, 2), empty(2), empty(2)), {"weights": torch.zeros(0), "costs": torch.ones(5, 5)}),
        ((torch.zeros(0, 3), empty(3), empty(3)), {"num_labels": 3, "average": "macro"}),
        ((torch.tensor([1]), torch.tensor([1]), torch.tensor([-100])), {"ignore_index": -100}),
        ((torch.tensor([1]), torch.tensor([1]), torch.tensor([1])), {"weights": torch.zeros(1)}),
    ],
)
def test_no_decisions_give_nan(inputs, options):
    assert all(rate.isnan() for rate in flip_rates(*inputs, **options).values())


def test_a_class_without_samples_is_nan_and_left_out_of_the_mean():
    inputs = torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0, 1])
    each = functional.negative_flip_rate(*inputs, average="none", num_classes=3)
    torch.testing.assert_close(each, torch.tensor([0.0, 1.0, math.nan], dtype=torch.float64), equal_nan=True)
    assert functional.negative_flip_rate(*inputs, average="macro", num_classes=3) == 0.5


def test_unknown_classes_are_never_chosen():
    old = torch.tensor([[1.0, -math.inf], [-2.0, -math.inf]])
    assert flip_table(old, torch.tensor([0, 1]), torch.tensor([0, 1])).tolist() == [[0, 1], [0, 1]]


def test_scores_are_compared_as_they_are():
    logits, target = torch.tensor([0.2, -0.2]), torch.tensor([1, 0])
    assert flip_table(logits, target, target).tolist() == [[0, 1], [0, 1]]
    assert flip_table(logits, target, target, threshold=0).tolist() == [[0, 0], [0, 2]]


def test_counts_stay_exact_beyond_float32():
    counts = torch.tensor([[[0, 0], [0, 0]], [[0, 1], [2**24, 0]]])
    assert rates_from_counts(counts)["nfr"].item() == 1 / (2**24 + 1)


def test_weights_carry_no_graph():
    weights = torch.ones(2, requires_grad=True)
    labels = torch.tensor([0, 1])
    assert not functional.negative_flip_rate(labels, labels, labels, weights=weights).requires_grad


ONE, TWO = torch.tensor([1]), torch.tensor([0, 1])
SCORES = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ((ONE, TWO, TWO), {}, r"Expected old as labels .* target's shape \(2,\), .* got torch.int64 of shape \(1,\)"),
        ((TWO, torch.zeros(3, 3), TWO), {}, "Expected new as labels"),
        ((TWO, torch.zeros(2, 3, 4), TWO), {}, "Expected new as labels"),
        ((TWO, torch.zeros(2, 1), TWO), {}, "two or more classes, got one"),
        ((SCORES, torch.zeros(2, 4), TWO), {}, "got 3 and 4 of them. Map the old classes .*label_map"),
        ((SCORES, SCORES, TWO), {"num_classes": 4}, r"of 4 classes \(num_classes or costs\), got 3"),
        ((SCORES, SCORES, TWO + 2), {}, r"labels of target in \[0, 3\), got 3. Pass ignore_index"),
        ((TWO, TWO, TWO - 1), {}, "labels of target at least 0, got -1"),
        ((SCORES, SCORES, TWO - 100), {"ignore_index": -1}, "got -100"),
        ((TWO + 2, SCORES, TWO), {}, r"labels of old in \[0, 3\), got 3. Map"),
        ((SCORES, TWO - 1, TWO), {}, r"labels of new in \[0, 3\), got -1. Map"),
        ((SCORES / 0, SCORES, TWO), {}, "finite largest score in each row of old, got NaN"),
        ((SCORES, SCORES + math.inf, TWO), {}, "finite largest score in each row of new"),
        ((SCORES - math.inf, SCORES, TWO), {}, "only -Inf"),
        ((TWO, torch.tensor([0.1, math.nan]), TWO), {}, "below \\+Inf from new, got NaN"),
        ((torch.tensor([0.1, math.inf]), TWO, TWO), {}, "below \\+Inf from old"),
        ((TWO, TWO, TWO), {"weights": torch.tensor([1.0, -1.0])}, "weights of at least 0, got a negative"),
        ((TWO, TWO, TWO), {"weights": torch.tensor([1.0, math.nan])}, "finite weights"),
        ((TWO, TWO, TWO), {"weights": torch.ones(3)}, r"one weight a sample, shape \(2,\), got \(3,\)"),
        ((TWO, TWO, TWO), {"average": "weighted"}, "average to be None, .* got 'weighted'"),
        ((TWO, TWO, TWO), {"average": "none"}, "Expected num_classes with average='none', got labels only"),
        ((TWO, TWO, TWO), {"num_classes": 1}, "num_classes of at least 2, got 1"),
        ((TWO, TWO, TWO), {"num_labels": 0}, "num_labels of at least 1, got 0"),
        ((TWO, TWO, TWO), {"num_labels": 2, "num_classes": 2}, "got both"),
        ((TWO, TWO, TWO), {"num_labels": 2}, r"target of shape \(N, 2\) \(num_labels\), got \(2,\)"),
        ((SCORES, SCORES, TWO), {"costs": torch.ones(2, 3)}, r"shape \(C, C\), got \(2, 3\)"),
        ((SCORES, SCORES, TWO), {"costs": torch.ones(3)}, r"got \(3,\)"),
        ((SCORES, SCORES, TWO), {"costs": torch.ones(2, 2), "num_classes": 3}, r"shape \(3, 3\), got \(2, 2\)"),
        ((SCORES, SCORES, TWO), {"costs": torch.ones(4, 4)}, "of 4 classes .* got 3"),
        ((SCORES, SCORES, TWO), {"costs": -torch.ones(3, 3)}, "finite costs of at least 0"),
        ((SCORES, SCORES, TWO), {"costs": torch.ones(2, 2), "num_labels": 3}, "exact match"),
        ((TWO, TWO, TWO.float()), {}, "target to hold integer labels, got torch.float32"),
        ((ONE[0], ONE[0], ONE[0]), {}, "got a scalar"),
    ],
)
def test_bad_arguments_are_refused(inputs, options, message):
    with pytest.raises(ValueError, match=message):
        flip_rates(*inputs, **options)


def test_multilabel_target_is_zero_or_one():
    target = torch.tensor([[0, 2]])
    with pytest.raises(ValueError, match=r"target in \[0, 2\), got 2"):
        flip_table(target, target, target, num_labels=2)


def test_statistics_load_no_torch():
    code = (
        "import sys; from lightning_graceful.functional import wilson_interval, clustered_difference_interval as c;"
        "wilson_interval(1, 2); c([1.0, 2.0], [0, 1]); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_resolve():
    assert {"flip_rates", "wilson_interval"} <= set(dir(functional))
    with pytest.raises(AttributeError, match="no attribute 'nfr'"):
        functional.nfr  # noqa: B018
