import math

import numpy as np
import pytest
import torch
from torch import nn

from lightning_graceful.functional import flip_rates, verification_rates
from lightning_graceful.functional.downstream import old_head_rates, threshold_drift, threshold_rates
from tests.functional.retrieval import brute_force


def make(seed=0, queries=25, items=80, classes=4):
    g = torch.Generator().manual_seed(seed)
    labels = [torch.randint(classes, (n,), generator=g) for n in (queries, items)]
    centres = torch.randn(classes, 6, generator=g)

    def embed(side, noise):
        return centres[labels[side]] + noise * torch.randn(len(labels[side]), 6, generator=g)

    return labels, embed


def by_loops(query, gallery, labels, thresholds, distance, ids=None):
    scores = brute_force.scores(query, gallery, distance)
    pairs = [(i, j) for i in range(len(query)) for j in range(len(gallery)) if ids is None or ids[0][i] != ids[1][j]]
    alike = {pair: bool(labels[0][pair[0]] == labels[1][pair[1]]) for pair in pairs}
    return [
        [np.mean([scores[pair] > least for pair in pairs if alike[pair] is kind]) for least in thresholds]
        for kind in (False, True)
    ]


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("memory", [2**16, 2**28])
@pytest.mark.parametrize("with_ids", [False, True])
def test_rates_are_those_of_a_loop_over_all_pairs(distance, memory, with_ids):
    labels, embed = make(items=1500)
    query, gallery = embed(0, 0.5), embed(1, 0.7)
    thresholds = [-math.inf, 0.1, 0.6, 2.0] if distance == "cosine" else [-3.0, -2.0, -math.inf, 0.0]
    ids = (torch.arange(25), torch.arange(1500) % 60) if with_ids else None
    options = {} if ids is None else {"query_ids": ids[0], "gallery_ids": ids[1]}
    found = threshold_rates(query, gallery, *labels, thresholds, distance=distance, memory=memory, **options)
    far, tar = by_loops(query, gallery, labels, thresholds, distance, ids)
    assert found.far.tolist() == pytest.approx(far, abs=1e-12)
    assert found.tar.tolist() == pytest.approx(tar, abs=1e-12)
    same = sum(
        int(labels[0][i] == y) for i in range(25) for j, y in enumerate(labels[1]) if not with_ids or i != j % 60
    )
    assert found.positives.item() == same
    assert (found.positives + found.negatives).item() == 25 * 1500 - (25 * 25 if with_ids else 0)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_a_threshold_keeps_its_promise_on_the_pairs_it_was_chosen_on(distance):
    labels, embed = make(1)
    query, gallery = embed(0, 0.5), embed(1, 0.5)
    gallery[40:] = gallery[:40]  # ties: one more accepted would be two
    far = [0.0, 0.01, 0.1, 0.5, 1.0]
    chosen = verification_rates(query, gallery, *labels, far=far, distance=distance)
    found = threshold_rates(query, gallery, *labels, chosen.threshold, distance=distance)
    assert torch.equal(found.tar, chosen.tar)
    assert (found.far <= torch.tensor(far, dtype=torch.float64)).all()
    assert (found.positives, found.negatives) == (chosen.positives, chosen.negatives)


def test_one_threshold_is_enough_and_absent_pairs_are_nan():
    x = torch.eye(2)
    found = threshold_rates(x[:1], x[:1], torch.tensor([3]), torch.tensor([3]), 0.5)
    assert found.tar.tolist() == [1.0]
    assert found.far.isnan().all()
    assert threshold_rates(x[:0], x, torch.zeros(0).long(), torch.tensor([3, 4]), 0.5).tar.isnan().all()


def test_drift_is_told_from_what_was_asked():
    labels, embed = make(2)
    old = embed(0, 0.5), embed(1, 0.5)
    new = old[0] + 3.0, old[1] + 3.0  # all cosines rise
    drift = threshold_drift(*old, *new, *labels, far=[0.01, 0.1])
    chosen = verification_rates(*old, *labels, far=[0.01, 0.1])
    assert drift.asked.tolist() == [0.01, 0.1]
    assert torch.equal(drift.threshold, chosen.threshold)
    for name, pair in {"old": old, "cross": (new[0], old[1]), "new": new}.items():
        far, tar = by_loops(*pair, labels, chosen.threshold.tolist(), "cosine")
        found = getattr(drift, name)
        assert found.far.tolist() == pytest.approx(far, abs=2e-3)
        assert found.tar.tolist() == pytest.approx(tar, abs=2e-3)
    assert (drift.old.far <= drift.asked).all()
    assert (drift.new.far > 2 * drift.asked).all()


@pytest.mark.parametrize("threshold", [math.nan, [], [0.5, math.nan]])
def test_thresholds_that_are_none_are_refused(threshold):
    x, labels = torch.eye(2), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="one or more thresholds"):
        threshold_rates(x, x, labels, labels, threshold)


def test_the_old_head_is_asked_about_both():
    g = torch.Generator().manual_seed(0)
    old, new = torch.randn(2, 50, 4, generator=g)
    target = torch.randint(3, (50,), generator=g)
    head = nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 3), nn.BatchNorm1d(3))
    head[0].eval()
    state = {name: value.clone() for name, value in head.state_dict().items()}
    weight, bias = head[1].weight.detach(), head[1].bias.detach()
    found = old_head_rates(head, old, new, target, batch_size=7)
    said = [(x @ weight.T + bias).argmax(1) for x in (old, new)]
    expected = flip_rates(*said, target)
    assert {name: value.item() for name, value in found.items()} == {n: v.item() for n, v in expected.items()}
    assert found["error_new"].item() == pytest.approx((said[1] != target).double().mean().item())
    assert [module.training for module in head.modules()] == [True, False, True, True]
    assert all(torch.equal(state[name], value) for name, value in head.state_dict().items())


def test_the_mode_of_the_old_head_comes_back_after_an_error():
    head = nn.Linear(3, 2)
    with pytest.raises(RuntimeError):
        old_head_rates(head, torch.ones(2, 4), torch.ones(2, 4), torch.tensor([0, 1]))
    assert head.training


def test_options_of_flip_rates_reach_it():
    x, target = torch.eye(3), torch.tensor([0, 1, 1])
    found = old_head_rates(lambda rows: rows, x, x.flip(0), target, average="none")
    assert found["nfr"][:2].tolist() == [1.0, 0.0]  # of two items of label 1 the old head knows one, still
    assert old_head_rates(lambda rows: rows, x[:0], x[:0], target[:0])["nfr"].isnan()


def test_bad_embeddings_are_refused():
    x, target = torch.eye(3), torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="to the width of the old head"):
        old_head_rates(nn.Identity(), x, x[:, :2], target)
    with pytest.raises(ValueError, match="finite new embeddings"):
        old_head_rates(nn.Identity(), x, x / 0, target)
