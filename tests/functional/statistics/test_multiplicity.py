import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from lightning_graceful.functional import benjamini_hochberg, holm

METHODS = [(holm, "holm"), (benjamini_hochberg, "fdr_bh")]


@pytest.mark.parametrize(("adjust", "method"), METHODS)
@pytest.mark.parametrize("rng_seed", range(5))
def test_adjusted_p_values_agree_with_statsmodels(adjust, method, rng_seed):
    rng = np.random.default_rng(rng_seed)
    p_values = rng.choice([0, 1, *(rng.random(20) ** 3)], 30)  # with ties
    np.testing.assert_allclose(adjust(p_values), multipletests(p_values, method=method)[1], rtol=1e-12)


@pytest.mark.parametrize(("adjust", "method"), METHODS)
def test_missing_tests_stay_missing_and_do_not_count(adjust, method):
    p_values = np.array([[0.01, np.nan, 0.04], [np.nan, 0.03, 0.005]])
    adjusted, tested = adjust(p_values), ~np.isnan(p_values)
    np.testing.assert_array_equal(np.isnan(adjusted), ~tested)
    np.testing.assert_allclose(adjusted[tested], multipletests(p_values[tested], method=method)[1])
    assert p_values[0, 0] == 0.01  # not adjusted in place


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_one_test_or_none_is_left_as_it_is(adjust):
    assert adjust(0.3) == adjust([0.3])[0] == 0.3
    assert adjust([]).shape == (0,)
    assert np.isnan(adjust([np.nan])).all()


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
@pytest.mark.parametrize("p_value", [-0.01, 1.01, np.inf])
def test_impossible_p_values_are_refused(adjust, p_value):
    with pytest.raises(ValueError, match=r"Expected p-values in \[0, 1\], got one outside"):
        adjust([0.1, p_value])
