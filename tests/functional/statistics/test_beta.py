import mpmath
import numpy as np
import pytest

from lightning_graceful.functional import exact_interval
from lightning_graceful.functional.statistics.beta import beta_quantile


def distribution(a, b, x):
    """Distribution function of the beta distribution to 50 digits, by its hypergeometric series."""
    with mpmath.workdps(50):
        a, b, x = (mpmath.mpf(float(value)) for value in (a, b, x))
        scale = mpmath.exp(a * mpmath.log(x) + b * mpmath.log1p(-x) - mpmath.log(a))
        scale *= mpmath.exp(mpmath.loggamma(a + b) - mpmath.loggamma(a) - mpmath.loggamma(b))
        return float(scale * mpmath.hyp2f1(a + b, 1, a + 1, x))


# 1000 is where scipy's own quantile is wrong.
@pytest.mark.parametrize("a", [0.3, 1, 999, 1000, 1001.5, 20_000])
@pytest.mark.parametrize("b", [7.5, 10**6, 10**9, 10**12])
@pytest.mark.parametrize("probability", [0.025, 0.8, 0.995])
def test_quantile_agrees_with_many_digits(a, b, probability):
    quantile = beta_quantile(a, b, probability)
    assert distribution(a, b, quantile) == pytest.approx(probability, rel=1e-7)


@pytest.mark.parametrize("total", [10**7, 10**9, 10**11, 10**12])
def test_ends_never_fall_as_hits_rise(total):
    hits = np.unique(np.concatenate([np.arange(990, 1010), np.logspace(0, np.log10(total), 300).round()]))
    low, high = exact_interval(hits, total)
    assert (np.diff(low) > 0).all()
    assert (np.diff(high[:-1]) > 0).all()
    assert ((low <= hits / total) & (hits / total <= high)).all()


def test_zero_shapes_have_no_quantile():
    assert np.isnan(beta_quantile([0, 2], [2, 0], 0.5)).all()
