"""Ways from measures of each query, against the intervals one by one."""

import numpy as np
import pytest

from lightning_graceful.functional.statistics.gains import (
    mean_difference_interval,
    mean_interval,
    update_gain_interval,
)
from lightning_graceful.report.compatibility.results import intervals_of, way_of
from tests.report.compatibility.summaries import MEASURES, per_query


def four_tests():
    old, cross, own, paragon = (per_query(shift, 200, ways_seed=k) for k, shift in enumerate((0.0, 0.05, 0.18, 0.2)))
    return {"cross_test": cross, "self_test": own, "old_self_test": old, "paragon_self_test": paragon}


def test_every_interval_is_the_one_that_is_computed_alone():
    given = four_tests()
    way = way_of("copy", **given)
    for measure in MEASURES:
        cross, own, old, paragon = (test[measure] for test in given.values())
        np.testing.assert_allclose(way.cross_test[measure], mean_interval(cross))
        np.testing.assert_allclose(way.self_test[measure], mean_interval(own))
        np.testing.assert_allclose(way.cross_gain[measure], mean_difference_interval(cross, old))
        np.testing.assert_allclose(way.tax[measure], mean_difference_interval(paragon, own))
        np.testing.assert_allclose(way.update_gain[measure], update_gain_interval(cross, old, paragon))
    assert way.shared_self_test == way.self_test
    assert intervals_of(given["old_self_test"])["map"] == mean_interval(given["old_self_test"]["map"])


def test_the_self_test_in_the_old_space_is_apart():
    way = way_of("copy", **four_tests(), shared_self_test=per_query(0.1, 200))
    np.testing.assert_allclose(way.shared_self_test["map"], mean_interval(per_query(0.1, 200)["map"]))
    np.testing.assert_allclose(way.tax["map"], way_of("copy", **four_tests()).tax["map"])


def test_without_a_paragon_there_is_neither_gain_nor_tax():
    way = way_of("copy", **four_tests() | {"paragon_self_test": None})
    assert np.isnan([*way.update_gain["map"], *way.tax["map"]]).all()
    assert np.isfinite(way.cross_gain["map"]).all()


def test_a_small_gap_has_no_gain_and_yet_a_tax():
    way = way_of("copy", **four_tests(), minimum_gap=0.5)
    assert np.isnan(way.update_gain["map"]).all()
    assert np.isfinite(way.tax["map"]).all()


def test_groups_are_measured_apart():
    given, chosen = four_tests(), np.arange(200) < 30
    way = way_of("copy", **given, groups={"old classes": chosen, "new classes": ~chosen, "nobody": chosen & ~chosen})
    for name, mask in (("old classes", chosen), ("new classes", ~chosen)):
        assert way.groups[name]["map"] == mean_interval(given["cross_test"]["map"][:, mask])
    assert np.isnan(way.groups["nobody"]["map"]).all()


def test_tests_are_of_the_same_measures():
    given = four_tests()
    with pytest.raises(ValueError, match="Expected the same measures of every test"):
        way_of("copy", **given | {"self_test": {"map": given["self_test"]["map"]}})
    with pytest.raises(ValueError, match="Expected the same measures of every test"):
        way_of("copy", **{test: {} for test in given})


@pytest.mark.parametrize("mask", [np.ones(199, bool), np.ones(200, int), np.arange(200)])
def test_a_group_is_a_mask(mask):
    with pytest.raises(ValueError, match=r"Expected a group as bool, shape \(200,\)"):
        way_of("copy", **four_tests(), groups={"some": mask})


def test_a_negative_gap_is_refused():
    with pytest.raises(ValueError, match="Expected minimum_gap of at least 0"):
        way_of("copy", **four_tests(), minimum_gap=-1)
