from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.linear_model import Ridge

from lightning_graceful.adapters import closed_forms
from lightning_graceful.adapters.sample import paired_moments

RNG = np.random.default_rng(0)


def sample(rows=60, d_from=6, d_to=6, noise=0.3, mean=0.0):
    source = RNG.normal(size=(rows, d_from)) * np.geomspace(1, 0.05, d_from) + mean
    target = source @ RNG.normal(size=(d_from, d_to)) + noise * RNG.normal(size=(rows, d_to)) - mean
    return source, target


def moments(source, target, **options):
    return paired_moments(torch.from_numpy(source), torch.from_numpy(target), **options)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def padded(x, width):
    return np.pad(x, [(0, 0), (0, width - x.shape[1])])


@pytest.mark.parametrize(("d_from", "d_to"), [(6, 6), (4, 7), (7, 4)])
@pytest.mark.parametrize("centred", [False, True])
def test_rotation_is_scipys_of_rows_filled_up_to_one_width(d_from, d_to, centred):
    source, target = sample(d_from=d_from, d_to=d_to, mean=1.0)
    weight, bias = (x.numpy() for x in closed_forms.procrustes(moments(source, target), centred=centred))
    middle = [x.mean(0) if centred else np.zeros(x.shape[1]) for x in (source, target)]
    width = max(d_from, d_to)
    x, y = padded(source - middle[0], width), padded(target - middle[1], width)
    rotation, _ = scipy.linalg.orthogonal_procrustes(x, y)
    np.testing.assert_allclose(source @ weight.T + bias, (x @ rotation)[:, :d_to] + middle[1], atol=1e-10)
    short = weight.T @ weight if d_from <= d_to else weight @ weight.T
    np.testing.assert_allclose(short, np.eye(min(d_from, d_to)), atol=1e-12)


@pytest.mark.parametrize("penalty", [1e-3, 0.5])
@pytest.mark.parametrize(("d_from", "d_to"), [(6, 3), (3, 6)])
def test_ridge_is_scikit_learns(penalty, d_from, d_to):
    source, target = sample(d_from=d_from, d_to=d_to, mean=2.0)
    weight, bias = closed_forms.ridge(moments(source, target), penalty)
    expected = Ridge(alpha=penalty * len(source), solver="svd").fit(source, target)
    np.testing.assert_allclose(weight, expected.coef_, atol=1e-10)
    np.testing.assert_allclose(bias, expected.intercept_, atol=1e-10)


def test_without_penalty_the_smallest_best_map_is_taken():
    source, target = sample()
    source[:, 5] = source[:, 4]
    weight, bias = closed_forms.ridge(moments(source, target), 0.0)
    x, y = source - source.mean(0), target - target.mean(0)
    np.testing.assert_allclose(weight, (np.linalg.pinv(x) @ y).T, atol=1e-8)
    np.testing.assert_allclose(bias, target.mean(0) - weight.numpy() @ source.mean(0), atol=1e-8)


def generalised_error(source, target, penalty):
    x = np.hstack([np.ones((len(source), 1)), source])
    shrink = penalty * len(source) * np.diag([0.0] + [1.0] * source.shape[1])
    hat = x @ np.linalg.solve(x.T @ x + shrink, x.T)
    residual = ((target - hat @ target) ** 2).sum() / len(source)
    return residual / (1 - np.trace(hat) / len(source)) ** 2


def test_error_on_new_pairs_is_estimated_as_by_the_hat_matrix():
    source, target = sample(noise=1.0, mean=3.0)
    penalties = [1e-4, 1e-2, 1.0, 100.0]
    found = closed_forms.generalised_error(moments(source, target), torch.tensor(penalties, dtype=torch.float64))
    np.testing.assert_allclose(found, [generalised_error(source, target, p) for p in penalties], rtol=1e-9)


def test_the_penalty_chosen_has_the_least_estimated_error():
    source, target = sample(rows=40, d_from=20, noise=2.0)
    weight, _ = closed_forms.ridge(moments(source, target))
    tried = np.geomspace(1e-8, 1e3, 200) * source.var(0).mean()
    best = tried[np.argmin([generalised_error(source, target, penalty) for penalty in tried])]
    expected = Ridge(alpha=best * len(source)).fit(source, target).coef_
    np.testing.assert_allclose(weight, expected, atol=0.05 * np.abs(expected).max())


def test_few_pairs_of_many_dimensions_are_shrunk_rather_than_learnt_by_heart():
    source, target = sample(rows=12, d_from=30, d_to=4, noise=3.0)
    weight, _ = closed_forms.ridge(moments(source, target))
    by_heart, _ = closed_forms.ridge(moments(source, target), 0.0)
    assert weight.isfinite().all()
    assert weight.norm() < 0.5 * by_heart.norm()


@pytest.mark.parametrize("penalty", [0.0, 0.2])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_low_rank_is_ridge_projected_on_what_it_fits_best(penalty, rank):
    source, target = sample(d_from=6, d_to=4, noise=1.0, mean=1.0)
    into, out, bias = (x.numpy() for x in closed_forms.low_rank(moments(source, target), rank, penalty))
    x, y = source - source.mean(0), target - target.mean(0)
    # Penalised least squares are plain ones with further rows; of these, the truncated SVD of the fit is the best.
    x_more = np.vstack([x, np.sqrt(penalty * len(x)) * np.eye(6)])
    y_more = np.vstack([y, np.zeros((6, 4))])
    coefficients = np.linalg.lstsq(x_more, y_more, rcond=None)[0]
    _, _, vh = np.linalg.svd(x_more @ coefficients)
    expected = coefficients @ vh[:rank].T @ vh[:rank]
    np.testing.assert_allclose(out @ into, expected.T, atol=1e-9)
    np.testing.assert_allclose(bias, target.mean(0) - expected.T @ source.mean(0), atol=1e-9)
    np.testing.assert_allclose(out.T @ out, np.eye(rank), atol=1e-12)


def test_batches_give_what_the_whole_sample_gives():
    source, target = (torch.from_numpy(x) for x in sample(rows=1000, d_from=5, d_to=3, mean=4.0))
    cuts = [0, 1, 1, 300, 999, 1000]
    batches = [(source[a:b], target[a:b]) for a, b in pairwise(cuts)]
    whole, parts = paired_moments(source, target), paired_moments(iter(batches))
    assert parts.count == 1000
    for name in ("source_mean", "target_mean", "source", "cross", "target_square"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-12, atol=1e-11)
    x, y = (z.numpy() - z.numpy().mean(0) for z in (source, target))
    np.testing.assert_allclose(whole.cross, y.T @ x, rtol=1e-11)
    np.testing.assert_allclose(whole.target_square, (y**2).sum())


def test_rows_are_brought_to_length_one_where_asked():
    source, target = sample()
    found = moments(source, target, unit_source=True, unit_target=True)
    y = unit(target)
    np.testing.assert_allclose(found.source_mean, unit(source).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.target_square, ((y - y.mean(0)) ** 2).sum(), rtol=1e-12)


def test_a_far_mean_costs_no_digits():
    source, target = sample(rows=5000, noise=0.0)
    near = moments(source, target)
    far = moments(source + 2.0**20, target - 2.0**20)
    torch.testing.assert_close(far.cross, near.cross, rtol=1e-7, atol=1e-6)


ONES = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (ONES[:1], ONES[:1], "at least two pairs, got 1"),
        ([], None, "at least two pairs, got 0"),
        (ONES, ONES[:2], "got 3 rows on cpu and 2 on cpu"),
        (ONES, None, "got Tensor and NoneType"),
        ([(ONES, ONES)], ONES, "got list and Tensor"),
        (ONES.long(), ONES, "source embeddings as a floating matrix"),
        (ONES, ONES[0], "target embeddings as a floating matrix"),
        (ONES, torch.tensor([[1.0], [torch.nan], [torch.inf]]), "NaN or Inf in 2 of 3 rows, first in row 1"),
        ([(ONES, ONES), (ONES[:, :1], ONES)], None, "2 source and 2 target dimensions like the first, got 1 and 2"),
    ],
)
def test_bad_samples_are_refused(source, target, message):
    with pytest.raises(ValueError, match=message):
        paired_moments(source, target)


@pytest.mark.parametrize("penalty", [-1.0, float("nan"), float("inf")])
def test_bad_penalties_are_refused(penalty):
    with pytest.raises(ValueError, match="penalty of at least 0"):
        closed_forms.ridge(moments(*sample()), penalty)


@pytest.mark.parametrize("rank", [0, 5, True, 1.0])
def test_bad_ranks_are_refused(rank):
    with pytest.raises(ValueError, match="rank from 1 to 4"):
        closed_forms.low_rank(moments(*sample(d_from=6, d_to=4)), rank)
