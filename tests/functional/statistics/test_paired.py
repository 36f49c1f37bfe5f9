import inspect
import math

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from lightning_graceful.functional import (
    equivalence,
    mcnemar_exact,
    nfr_difference_interval,
    non_inferiority,
    paired_difference_interval,
)

CASES = [(0, 0, 40), (1, 0, 44), (1, 7, 21), (40, 20, 160), (9, 9, 50), (0, 5, 5), (7, 0, 7), (3, 2, 5), (30, 2, 2000)]


@pytest.mark.parametrize(("broke", "fixed"), [(0, 0), (1, 0), (0, 6), (3, 9), (9, 3), (7, 7), (120, 180)])
def test_mcnemar_agrees_with_statsmodels(broke, fixed):
    expected = mcnemar([[50, broke], [fixed, 60]], exact=True).pvalue
    np.testing.assert_allclose(mcnemar_exact(broke, fixed), expected, rtol=1e-12)


def test_mcnemar_is_elementwise_and_keeps_small_digits():
    p_values = mcnemar_exact([0, 5, 1000], [4, 5, 0])
    np.testing.assert_allclose(p_values, [2 * 0.5**4, 1, 2 * 0.5**1000], rtol=1e-12)


def score_by_search(broke, fixed, total, delta):
    """Root of Pearson's chi-square against the cells that maximise the likelihood under delta, found by search."""
    observed = np.array([broke, fixed, total - broke - fixed], float)

    def cells(only_fixed):
        return np.array([only_fixed + delta, only_fixed, 1 - 2 * only_fixed - delta])

    def surprise(only_fixed):
        seen = observed > 0
        return -(observed[seen] @ np.log(np.maximum(cells(only_fixed)[seen], 1e-300)))

    bounds = (max(0.0, -delta), (1 - delta) / 2)
    best = optimize.minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    expected = total * cells(best)
    square = ((observed - expected) ** 2 / np.maximum(expected, 1e-300))[(expected > 1e-9) | (observed > 0)].sum()
    return math.copysign(math.sqrt(square), broke - fixed - total * delta)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_agrees_with_a_search_for_the_likelihood(case, confidence):
    z, interval = stats.norm.ppf((1 + confidence) / 2), paired_difference_interval(*case, confidence)
    assert interval.mean == (case[0] - case[1]) / case[2]
    assert -1 <= interval.low <= interval.mean <= interval.high <= 1
    if interval.low > -1:
        assert score_by_search(*case, interval.low) == pytest.approx(z, abs=2e-4)
    if interval.high < 1:
        assert score_by_search(*case, interval.high) == pytest.approx(-z, abs=2e-4)


@pytest.mark.parametrize(
    ("case", "published"),
    [
        # Fagerland, Lydersen & Laake (Statistics in Medicine 2014), airway hyper-responsiveness.
        ((1, 7, 21), (-0.517, -0.026)),
    ],
)
def test_interval_is_the_published_one(case, published):
    np.testing.assert_allclose(paired_difference_interval(*case)[1:], published, atol=5e-4)


@pytest.mark.parametrize("total", [1, 30, 10**6, 10**9])
def test_no_discordant_sample_leaves_the_closed_form(total):
    square = stats.norm.ppf(0.975) ** 2
    end = square / (total + square)
    np.testing.assert_allclose(paired_difference_interval(0, 0, total), (0, -end, end), rtol=1e-9)


def test_no_sample_leaves_nothing():
    assert np.isnan(paired_difference_interval(0, 0, 0)).all()
    for test in (non_inferiority, equivalence):
        difference, p_value, holds = test(0, 0, 0, margin=0.1)
        assert np.isnan([difference, p_value]).all()
        assert holds is False


@pytest.mark.parametrize("scale", [1, 10**3, 10**7])
def test_a_rare_difference_is_that_of_poisson_counts_however_large_the_total(scale):
    # Conditional on 12 discordant samples of so many, their share is Wilson's but for the width of the total.
    low, high = np.array(paired_difference_interval(9, 3, 100 * scale)[1:]) * 100 * scale
    large_low, large_high = np.array(paired_difference_interval(9, 3, 10**9)[1:]) * 10**9
    np.testing.assert_allclose((low, high), (large_low, large_high), rtol=0.2 / scale, atol=1e-5)
    assert large_low < 6 < large_high


def test_a_billion_samples_have_the_normal_interval():
    broke, fixed, total = 3 * 10**6, 2 * 10**6, 10**9
    mean = (broke - fixed) / total
    half = stats.norm.ppf(0.975) * math.sqrt((broke + fixed) / total - mean**2) / math.sqrt(total)
    np.testing.assert_allclose(
        paired_difference_interval(broke, fixed, total), (mean, mean - half, mean + half), rtol=1e-5
    )


@pytest.mark.parametrize("case", CASES)
def test_swapping_the_models_turns_the_interval(case):
    broke, fixed, total = case
    mean, low, high = paired_difference_interval(broke, fixed, total)
    assert paired_difference_interval(fixed, broke, total) == (-mean, -high, -low)
    assert nfr_difference_interval(broke, fixed, total, 0.9) == paired_difference_interval(broke, fixed, total, 0.9)


@pytest.mark.parametrize(("only_old", "only_new"), [(0.02, 0.02), (0.1, 0.02), (0.3, 0.25), (0.05, 0.3)])
def test_interval_covers_the_true_difference(only_old, only_new):
    total, covered = 40, 0.0
    for broke in range(total + 1):
        for fixed in range(total + 1 - broke):
            interval = paired_difference_interval(broke, fixed, total)
            if interval.low <= only_old - only_new <= interval.high:
                covered += stats.multinomial.pmf(
                    [broke, fixed, total - broke - fixed], total, [only_old, only_new, 1 - only_old - only_new]
                )
    assert covered >= 0.93


def test_tests_and_interval_decide_alike():
    rng, decided = np.random.default_rng(0), set()
    for _ in range(1500):
        total = int(rng.integers(5, 3000))
        broke, fixed, _ = rng.multinomial(total, rng.dirichlet([0.3, 0.3, 3])).tolist()
        margin, alpha = float(rng.uniform(0.001, 0.3)), float(rng.choice([0.01, 0.025, 0.1]))
        _, low, high = paired_difference_interval(broke, fixed, total, 1 - 2 * alpha)
        below, within = (
            test(broke, fixed, total, margin=margin, alpha=alpha) for test in (non_inferiority, equivalence)
        )
        assert below.holds == (below.p_value < alpha) == (high < margin)
        assert within.holds == (within.p_value < alpha) == (-margin < low and high < margin)
        assert below.difference == within.difference == (broke - fixed) / total
        assert within.p_value >= below.p_value
        decided.add((below.holds, within.holds))
    assert decided == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("case", [(0, 0, 40), (1, 7, 21), (40, 20, 160)])
def test_p_value_agrees_with_a_search_for_the_likelihood(case):
    expected = stats.norm.cdf(score_by_search(*case, 0.2))
    assert non_inferiority(*case, margin=0.2).p_value == pytest.approx(expected, rel=1e-4)


def test_small_p_values_keep_their_digits():
    assert 0 < non_inferiority(0, 0, 10_000, margin=0.1).p_value < 1e-200
    assert non_inferiority(0, 0, 10_000, margin=0.1).p_value == pytest.approx(stats.norm.cdf(-math.sqrt(10_000 / 9)))


def test_the_wrong_way_is_not_taken():
    # A new model that breaks much is inferior, one that fixes much is better but not equivalent.
    assert not non_inferiority(200, 0, 1000, margin=0.05).holds
    assert non_inferiority(0, 200, 1000, margin=0.05).holds
    assert not equivalence(0, 200, 1000, margin=0.05).holds


@pytest.mark.parametrize("count", [-1, np.nan, np.inf])
def test_mcnemar_refuses_impossible_counts(count):
    with pytest.raises(ValueError, match="Expected 0 <= count <= total"):
        mcnemar_exact(count, 3)


@pytest.mark.parametrize(
    "asking",
    [paired_difference_interval, nfr_difference_interval, non_inferiority, equivalence],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize(
    "counts", [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (np.nan, 0, 5), (0, 0, np.inf), (0, 0, -1), (1, 1, np.nan)]
)
def test_impossible_counts_are_refused(asking, counts):
    options = {"margin": 0.1} if "margin" in inspect.signature(asking).parameters else {}
    with pytest.raises(ValueError, match=r"Expected counts .* got .* and .*\. Pass the discordant counts"):
        asking(*counts, **options)


@pytest.mark.parametrize("test", [non_inferiority, equivalence])
def test_margin_and_level_are_shares(test):
    for margin in (0, -0.1, 1, np.nan):
        with pytest.raises(ValueError, match="a margin between 0 and 1, got"):
            test(1, 2, 10, margin=margin)
    for alpha in (0, 0.5, 5, np.nan):
        with pytest.raises(ValueError, match=r"a level between 0 and 0\.5, got"):
            test(1, 2, 10, margin=0.1, alpha=alpha)


def test_confidence_of_a_difference_is_a_share():
    with pytest.raises(ValueError, match="confidence between 0 and 1, got 95"):
        paired_difference_interval(1, 2, 10, 95)
