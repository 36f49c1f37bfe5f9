import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from lightning_graceful.functional import identification_rates, verification_rates
from lightning_graceful.functional.retrieval.verification import allowed
from tests.functional.retrieval import brute_force

RATES = [0.0, 0.003, 0.01, 0.1, 0.25, 0.5, 1.0]


def make(seed, queries=25, items=40, dim=4, classes=4, tied=False):
    g = torch.Generator().manual_seed(seed)
    shapes = (queries, dim), (items, dim)
    if tied:  # corners of a cube, of length 2: their cosines are few and exact
        embeddings = [torch.randint(2, shape, generator=g) * 2.0 - 1 for shape in shapes]
    else:
        embeddings = [torch.randn(shape, generator=g) for shape in shapes]
    return [*embeddings, *(torch.randint(classes, (n,), generator=g) for n in (queries, items))]


def all_pairs(inputs, distance, ids=None):
    scores = np.round(brute_force.scores(*inputs[:2], distance), 9)
    same = (inputs[2][:, None] == inputs[3]).numpy()
    kept = np.ones_like(same) if ids is None else (ids["query_ids"][:, None] != ids["gallery_ids"]).numpy()
    return scores[kept], same[kept]


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("memory", [2**16, 2**28])
def test_tar_is_the_best_point_of_the_roc_curve(distance, tied, memory):
    inputs = make(0, tied=tied)
    found = verification_rates(*inputs, far=RATES, distance=distance, memory=memory)
    scores, same = all_pairs(inputs, distance)
    fpr, tpr, _ = roc_curve(same, scores, drop_intermediate=False)
    for rate, tar, threshold in zip(RATES, found.tar.tolist(), found.threshold.tolist(), strict=True):
        assert tar == pytest.approx(tpr[fpr <= rate + 1e-12].max(), abs=1e-12), rate
        assert (scores[~same] > threshold + 1e-6).mean() <= rate + 1e-12
    assert (found.positives.item(), found.negatives.item()) == (same.sum(), (~same).sum())


def test_pairs_with_one_id_are_left_out():
    inputs = make(1)
    ids = {"query_ids": torch.arange(25) % 9, "gallery_ids": torch.arange(40) % 11}
    found = verification_rates(*inputs, far=RATES, **ids)
    scores, same = all_pairs(inputs, "cosine", ids)
    fpr, tpr, _ = roc_curve(same, scores, drop_intermediate=False)
    assert found.tar.tolist() == pytest.approx([tpr[fpr <= rate + 1e-12].max() for rate in RATES])
    assert found.positives == same.sum()


def test_thresholds_tell_scores_apart_that_differ_by_one_step():
    # Two negatives and a positive one step of the grid apart: any coarser histogram would join them.
    step = 2.0**-24
    gallery = torch.tensor([[0.5], [0.5 + step], [0.5 + 2 * step]])
    query = torch.tensor([[0.5]])  # distances 0, 1 and 2 steps
    found = verification_rates(
        query, gallery, torch.tensor([1]), torch.tensor([0, 1, 0]), far=[0.0, 0.5], distance="l2"
    )
    assert found.tar.tolist() == [0, 1]


def test_only_one_kind_of_pairs():
    inputs = make(2, classes=1)
    found = verification_rates(*inputs, far=[0.0, 0.5])
    assert found.tar.tolist() == [1, 1]
    assert found.threshold.isneginf().all()
    different = verification_rates(*inputs[:3], inputs[3] + 1, far=[0.5])
    assert different.tar.isnan().all()
    assert verification_rates(inputs[0][:0], inputs[1], inputs[2][:0], inputs[3]).tar.isnan().all()


def test_a_rate_allows_what_its_decimal_says():
    assert [allowed(rate, 10) for rate in (0.0, 0.1, 0.3, 0.7, 0.99, 1.0)] == [0, 1, 3, 7, 9, 10]
    assert allowed(0.29, 100) == 29


def identify(inputs, rate, ids=None):
    # Every threshold tried: the highest share identified with at most this share of wrong answers.
    scores = np.round(brute_force.scores(*inputs[:2]), 9)
    same = (inputs[2][:, None] == inputs[3]).numpy()
    if ids is not None:
        scores[(ids["query_ids"][:, None] == ids["gallery_ids"]).numpy()] = -np.inf
    same &= np.isfinite(scores)
    mated, best = same.any(1), scores.max(1)
    right = np.array([same[i, scores[i] == best[i]].mean() for i in range(len(best))])
    shares = [
        (right * (best > threshold))[mated].sum() / mated.sum()
        for threshold in [-np.inf, *np.unique(best)]
        if not len(best[~mated]) or (best[~mated] > threshold).mean() <= rate + 1e-12
    ]
    return max(shares), mated.sum()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("memory", [2**16, 2**28])
def test_identification_tries_no_worse_than_every_threshold(tied, with_ids, memory):
    inputs = make(3, queries=60, items=1200, tied=tied)
    inputs[2] = torch.where(torch.arange(60) < 20, inputs[2] + 50, inputs[2])  # nobody knows the first 20
    ids = {"query_ids": torch.arange(60), "gallery_ids": torch.arange(1200) % 70} if with_ids else None
    found = identification_rates(*inputs, fpir=RATES, memory=memory, **(ids or {}))
    for rate, tnir in zip(RATES, found.tnir.tolist(), strict=True):
        expected, mated = identify(inputs, rate, ids)
        assert tnir == pytest.approx(expected, abs=1e-12)
    assert (found.mated.item(), found.non_mated.item()) == (mated, 60 - mated)


def test_identification_with_and_without_strangers():
    inputs = make(4)
    closed = identification_rates(*inputs, fpir=[0.0])
    assert closed.threshold.isneginf().all()
    assert closed.tnir.item() == identify(inputs, 0.0)[0]
    assert identification_rates(*inputs[:2], inputs[2] + 9, inputs[3], fpir=[0.5]).tnir.isnan()
    assert identification_rates(inputs[0], inputs[1][:0], inputs[2], inputs[3][:0]).mated == 0


@pytest.mark.parametrize(("function", "name"), [(verification_rates, "far"), (identification_rates, "fpir")])
@pytest.mark.parametrize("rates", [[], [-0.1], [1.5], [float("nan")]])
def test_bad_rates_are_refused(function, name, rates):
    with pytest.raises(ValueError, match=rf"{name} in \[0, 1\], one or more"):
        function(*make(5), **{name: rates})
