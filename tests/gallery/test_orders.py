import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from lightning_graceful.gallery.orders import distance_to_class_mean_order, random_order, uncertainty_order


def rows(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_random_orders_belong_to_their_seed():
    assert random_order(50, 3).tolist() == random_order(50, 3).tolist() != random_order(50, 4).tolist()
    assert sorted(random_order(50).tolist()) == list(range(50))
    assert random_order(0).tolist() == []
    state = torch.get_rng_state()
    random_order(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_most_uncertain_come_first():
    logits = 2 * rows(40, 5)
    shares = np.exp(logits.double().numpy())
    by_entropy = sorted(range(40), key=lambda i: -entropy(shares[i]))
    assert uncertainty_order(logits).tolist() == by_entropy
    top = np.sort(shares / shares.sum(1, keepdims=True), 1)
    assert uncertainty_order(logits, by="margin").tolist() == sorted(range(40), key=lambda i: top[i, -1] - top[i, -2])
    assert by_entropy != uncertainty_order(logits, by="margin").tolist()


def test_classes_that_cannot_be_count_for_nothing():
    logits = torch.tensor([[0.0, 0.0, -math.inf], [0.0, 1.0, -math.inf], [0.0, -math.inf, -math.inf]])
    assert uncertainty_order(logits).tolist() == uncertainty_order(logits, by="margin").tolist() == [0, 1, 2]


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_the_farthest_from_their_class_mean_come_first(distance):
    x, labels = rows(60, 4) * torch.linspace(0.2, 5, 60)[:, None], torch.randint(5, (60,)) * 7 - 9
    far = np.zeros(60)
    for label in set(labels.tolist()):
        places = [i for i in range(60) if labels[i] == label]
        own = x[places].double().numpy()
        if distance == "cosine":
            own /= np.linalg.norm(own, axis=1, keepdims=True)
            mean = own.mean(0) / np.linalg.norm(own.mean(0))
            far[places] = [1 - row @ mean for row in own]
        else:
            far[places] = np.linalg.norm(own - own.mean(0), axis=1)
    order = distance_to_class_mean_order(x, labels, distance=distance).tolist()
    assert order == sorted(range(60), key=lambda i: -far[i])


def test_equal_items_keep_their_order():
    assert uncertainty_order(torch.zeros(9, 3)).tolist() == list(range(9))
    ones = torch.ones(9, 2)
    assert distance_to_class_mean_order(ones, torch.zeros(9, dtype=torch.int64)).tolist() == list(range(9))
    empty = distance_to_class_mean_order(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert empty.tolist() == uncertainty_order(torch.zeros(0, 2)).tolist() == []


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (lambda: random_order(-1), "at least 0, got -1"),
        (lambda: uncertainty_order(torch.ones(3, 1)), "two classes or more"),
        (lambda: uncertainty_order(torch.ones(3, 2, dtype=torch.int64)), "floating matrix"),
        (lambda: uncertainty_order(torch.ones(3, 2), by="least"), "got 'least'"),
        (lambda: uncertainty_order(torch.tensor([[0.0, 1], [0, torch.nan]])), "1 of 2 rows, first in row 1"),
        (lambda: uncertainty_order(torch.full((1, 2), -torch.inf)), "first in row 0"),
        (lambda: uncertainty_order(torch.tensor([[0.0, torch.inf]])), r"\+inf"),
        (lambda: distance_to_class_mean_order(torch.ones(3), torch.arange(3)), "floating matrix"),
        (lambda: distance_to_class_mean_order(torch.ones(3, 2), torch.arange(2)), "integer labels"),
        (lambda: distance_to_class_mean_order(torch.ones(3, 2) * torch.nan, torch.arange(3)), "finite"),
        (lambda: distance_to_class_mean_order(torch.ones(3, 2), torch.arange(3), distance="dot"), "got 'dot'"),
    ],
)
def test_bad_arguments_are_refused(order, message):
    with pytest.raises(ValueError, match=message):
        order()
