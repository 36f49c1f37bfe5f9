import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from lightning_graceful.functional import clustered_difference_interval, exact_interval, exact_p_value, wilson_interval

METHODS = [(wilson_interval, "wilson"), (exact_interval, "beta")]
INTERVALS = [wilson_interval, exact_interval]


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(("interval", "method"), METHODS)
def test_intervals_agree_with_statsmodels(interval, method, confidence):
    count = np.array([0, 1, 7, 50, 99, 100, 3, 0, 5 * 10**8])
    total = np.array([100, 100, 9, 100, 100, 100, 10**9, 10**9, 10**9])
    expected = proportion_confint(count, total, alpha=1 - confidence, method=method)
    np.testing.assert_allclose(interval(count, total, confidence), expected, rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("interval", INTERVALS)
def test_ends_are_exact_and_nothing_is_undefined(interval):
    low, high = interval([0, 7, 0], [7, 7, 0])
    assert (low[0], high[1]) == (0, 1)
    assert 0 < low[1] < 1
    assert np.isnan([low[2], high[2]]).all()
    assert interval(1, 2)[0].shape == ()


@pytest.mark.parametrize("total", [1, 100, 10**6, 10**12])
def test_no_hit_leaves_the_closed_form_above_it(total):
    closed = -np.expm1(np.log(0.025) / total)
    np.testing.assert_allclose(exact_interval(0, total)[1], closed, rtol=1e-9)


def test_exact_interval_takes_real_counts_between_those_of_integers():
    low, high = exact_interval([3, 3.4, 4], 50.5)
    assert low[0] < low[1] < low[2]
    assert high[0] < high[1] < high[2]
    np.testing.assert_allclose(low[1], stats.beta.ppf(0.025, 3.4, 48.1))
    np.testing.assert_allclose(high[1], stats.beta.ppf(0.975, 4.4, 47.1))


@pytest.mark.parametrize("rate", [0.002, 0.03, 0.5, 0.9])
def test_exact_interval_covers_at_every_rate(rate):
    count = np.arange(61)
    low, high = exact_interval(count, 60, 0.9)
    assert stats.binom.pmf(count[(low <= rate) & (rate <= high)], 60, rate).sum() >= 0.9


@pytest.mark.parametrize("alternative", ["greater", "less"])
@pytest.mark.parametrize(
    ("count", "total", "rate"), [(0, 9, 0.1), (3, 9, 0.1), (9, 9, 0.5), (2, 5, 0.0), (40, 900, 1.0)]
)
def test_p_value_agrees_with_scipy(count, total, rate, alternative):
    expected = stats.binomtest(count, total, rate, alternative=alternative).pvalue
    np.testing.assert_allclose(exact_p_value(count, total, rate, alternative=alternative), expected, rtol=1e-12)


def test_small_p_values_keep_their_digits():
    np.testing.assert_allclose(exact_p_value(60, 1000, 0.001, alternative="greater"), stats.binom.sf(59, 1000, 0.001))
    np.testing.assert_allclose(exact_p_value(0, 1000, 0.5, alternative="less"), 0.5**1000)


def test_p_value_and_interval_decide_alike():
    rng = np.random.default_rng(0)
    total = rng.uniform(1, 300, 4000)
    count, rate = rng.uniform(0, 1, 4000) ** 3 * total, rng.uniform(0, 1, 4000) ** 3
    low, high = exact_interval(count, total, 0.9)
    above, below = low > rate, high < rate
    np.testing.assert_array_equal(above, exact_p_value(count, total, rate, alternative="greater") < 0.05)
    np.testing.assert_array_equal(below, exact_p_value(count, total, rate, alternative="less") < 0.05)
    assert above.any()
    assert below.any()


def test_no_trial_is_no_evidence():
    assert exact_p_value(0, 0, 0.1, alternative="greater") == exact_p_value(0, 0, 0.1, alternative="less") == 1


@pytest.mark.parametrize("refusing", [*INTERVALS, lambda k, n: exact_p_value(k, n, 0.5, alternative="less")])
@pytest.mark.parametrize(("count", "total"), [(3, 2), (-1, 2), (np.nan, 2), (1, np.inf), ([0, 3], [1, 2])])
def test_impossible_counts_are_refused(refusing, count, total):
    with pytest.raises(ValueError, match="Expected 0 <= count <= total"):
        refusing(count, total)


@pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match=r"Expected rates in \[0, 1\]"):
        exact_p_value(1, 2, rate, alternative="less")


def test_unknown_alternative_is_refused():
    with pytest.raises(ValueError, match="'greater' or 'less', got 'two-sided'"):
        exact_p_value(1, 2, 0.5, alternative="two-sided")


@pytest.mark.parametrize("confidence", [0, 1, 95, np.nan])
def test_confidence_is_a_share(confidence):
    for interval in INTERVALS:
        with pytest.raises(ValueError, match="confidence between 0 and 1"):
            interval(1, 2, confidence)
    with pytest.raises(ValueError, match="confidence between 0 and 1"):
        clustered_difference_interval([0.0, 1.0], [0, 1], confidence=confidence)
