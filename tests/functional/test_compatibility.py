import math

import pytest
import torch

from lightning_graceful.functional import (
    average_compatibility,
    is_backward_compatible,
    self_accuracy_tax,
    update_gain,
)


def test_gain_is_the_share_of_the_gap():
    # openBCT's ImageNet figures, papers.md 2.3
    assert update_gain(42.2, 39.5, 66.3).item() == pytest.approx(0.10, abs=0.005)
    assert update_gain(46.8, 39.5, 66.3).item() == pytest.approx(0.27, abs=0.005)
    assert update_gain(13.0, 39.5, 66.3) < 0
    assert update_gain(0.7, 0.4, 0.6).item() == pytest.approx(1.5)


@pytest.mark.parametrize(("paragon", "minimum"), [(0.4, 0.0), (0.3, 0.0), (0.44, 0.05), (math.nan, 0.0)])
def test_gain_over_no_gap_is_nan(paragon, minimum):
    assert update_gain(0.5, 0.4, paragon, minimum_gap=minimum).isnan()


def test_gains_are_computed_elementwise():
    gains = update_gain(torch.tensor([0.5, 0.3]), 0.4, torch.tensor([0.6, 0.6]))
    torch.testing.assert_close(gains, torch.tensor([0.5, -0.5], dtype=torch.float64), atol=1e-6, rtol=0)


def test_negative_minimum_is_refused():
    with pytest.raises(ValueError, match="minimum_gap of at least 0"):
        update_gain(0.5, 0.4, 0.6, minimum_gap=-1)


def test_criterion_is_strict():
    assert is_backward_compatible(torch.tensor(0.51), torch.tensor(0.5))
    assert not is_backward_compatible(0.5, 0.5)
    assert not is_backward_compatible(0.49, 0.5)
    with pytest.raises(ValueError, match="no query had a match"):
        is_backward_compatible(math.nan, 0.5)


def test_tax_is_what_the_paragon_has_more():
    assert self_accuracy_tax(66.3, 55.6).item() == pytest.approx(10.7)


def test_average_compatibility_reads_the_lower_triangle_against_the_diagonal():
    matrix = torch.tensor([[0.5, 0.9, 0.9], [0.6, 0.7, 0.9], [0.5, 0.8, 0.1]])
    assert average_compatibility(matrix).item() == pytest.approx(2 / 3)  # a draw is not compatible
    assert average_compatibility(matrix[:1, :1]).isnan()
    matrix[2, 0] = torch.nan
    assert average_compatibility(matrix).isnan()
    with pytest.raises(ValueError, match=r"square matrix of versions, got shape \(2, 3\)"):
        average_compatibility(matrix[:2])
