import numpy as np
import pytest
from scipy import stats

from lightning_graceful.functional import exact_interval, minimum_detectable_nfr, rows_needed


def first_count_found(total, baseline, alpha):
    return next((count for count in range(total + 1) if stats.binom.sf(count - 1, total, baseline) < alpha), None)


@pytest.mark.parametrize("total", [1, 50, 10**4, 10**9])
@pytest.mark.parametrize("power", [0.8, 0.95])
def test_without_baseline_any_flip_is_found(total, power):
    closed = -np.expm1(np.log1p(-power) / total)
    np.testing.assert_allclose(minimum_detectable_nfr(total, power=power), closed, rtol=1e-9)


@pytest.mark.parametrize(("total", "baseline", "alpha"), [(50, 0.1, 0.025), (300, 0.01, 0.05), (2000, 0.002, 0.005)])
def test_the_smallest_rate_is_found_with_just_the_power_asked_for(total, baseline, alpha):
    count = first_count_found(total, baseline, alpha)
    rate = minimum_detectable_nfr(total, baseline=baseline, power=0.7, alpha=alpha)
    assert rate > baseline
    np.testing.assert_allclose(stats.binom.sf(count - 1, total, rate), 0.7)
    assert exact_interval(count, total, 1 - 2 * alpha)[0] > baseline
    assert exact_interval(count - 1, total, 1 - 2 * alpha)[0] <= baseline


def test_a_billion_rows_are_planned_like_the_normal_limit():
    baseline, total = 0.01, 10**9
    shift = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * np.sqrt(baseline * (1 - baseline) / total)
    np.testing.assert_allclose(minimum_detectable_nfr(total, baseline=baseline) - baseline, shift, rtol=1e-3)


@pytest.mark.parametrize(("total", "baseline"), [(1, 0.5), (5, 0.9), (10, 1.0)])
def test_too_few_rows_find_nothing(total, baseline):
    assert first_count_found(total, baseline, 0.025) is None
    assert np.isnan(minimum_detectable_nfr(total, baseline=baseline))


def rows_by_counting(rate, budget, confidence):
    for total in range(1, 20_000):
        low, high = ends(rate * total, total, confidence)
        if high < budget or (low > budget and rate * total >= 1):
            return total
    return None


def ends(count, total, confidence):
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, count, total - count + 1) if count > 0 else 0.0
    return low, stats.beta.isf(tail, count + 1, total - count) if count < total else 1.0


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize(
    ("rate", "budget"), [(0, 0.01), (0.01, 0.02), (0.05, 0.03), (0.3, 0.5), (1, 0.9), (0.95, 0.9), (0.2, 0), (0.7, 1)]
)
def test_rows_needed_agree_with_counting_up(rate, budget, confidence):
    assert rows_needed(rate, budget, confidence=confidence) == rows_by_counting(rate, budget, confidence)


@pytest.mark.parametrize(("rate", "budget"), [(0.0, 1e-9), (1e-9, 2e-9), (0.0101, 0.01), (3e-9, 1e-9)])
def test_many_rows_needed_are_just_enough(rate, budget):
    total = rows_needed(rate, budget)
    for rows, settled in ((total, True), (total - max(total // 10**6, 1), False)):
        low, high = exact_interval(rate * rows, rows)
        assert (low > budget or high < budget) == settled


def test_no_number_of_rows_settles_a_tie_or_nearly_one():
    assert rows_needed(0.01, 0.01) is None
    assert rows_needed(0.01, 0.01 + 1e-9) is None
    assert isinstance(rows_needed(0.01, 0.02), int)


@pytest.mark.parametrize(
    ("total", "options", "message"),
    [
        (0, {}, "total of at least 1, got 0"),
        (10, {"baseline": -0.1}, r"baseline in \[0, 1\], got -0.1"),
        (10, {"baseline": np.nan}, r"baseline in \[0, 1\], got nan"),
        (10, {"power": 1.0}, "power between 0 and 1, got 1.0"),
        (10, {"alpha": 0.0}, "level between 0 and 1, got 0.0"),
    ],
)
def test_impossible_plans_are_refused(total, options, message):
    with pytest.raises(ValueError, match=message):
        minimum_detectable_nfr(total, **options)


@pytest.mark.parametrize(
    ("rate", "budget", "confidence", "message"),
    [
        (-0.1, 0.5, 0.95, r"rate in \[0, 1\], got -0.1"),
        (0.1, 1.5, 0.95, r"budget in \[0, 1\], got 1.5"),
        (np.nan, 0.5, 0.95, r"rate in \[0, 1\], got nan"),
        (0.1, 0.5, 95, "confidence between 0 and 1, got 95"),
    ],
)
def test_impossible_rates_are_refused(rate, budget, confidence, message):
    with pytest.raises(ValueError, match=message):
        rows_needed(rate, budget, confidence=confidence)
