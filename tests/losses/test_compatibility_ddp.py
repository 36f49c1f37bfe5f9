"""Two ranks with unlike batches: the contrastive loss and its gradient are those of one process, exactly."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_graceful.losses.compatibility import ContrastiveCompatibilityLoss
from lightning_graceful.losses.gathering import gather_rows
from tests.ddp import run_ddp

ROWS, WIDTH, OLD = 9, 5, 4
CASES = [(new_negatives, shares) for new_negatives in (False, True) for shares in ([4, 5], [2, 7], [0, 9])]


def data():
    generator = torch.Generator().manual_seed(0)
    x, old = (torch.randn(ROWS, d, generator=generator, dtype=torch.float64) for d in (3, OLD))
    # The labelled are unlike in number, too: 3 of the last 5 rows, all of the first 4.
    return x, old, torch.tensor([0, 1, 2, 0, -100, 1, 2, -100, 0])


def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(3, WIDTH).double()


def value_and_gradients(model, new_negatives, x, old, target):
    loss = ContrastiveCompatibilityLoss(0.3, new_negatives)(model(x), old, target)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


def on_a_rank(rank, _world_size):
    found = []
    for new_negatives, shares in CASES:
        own = [part.split(shares)[rank] for part in data()]
        found.append(value_and_gradients(DistributedDataParallel(network()), new_negatives, *own))
    rows = torch.arange(rank + 1.0).requires_grad_()
    joined = gather_rows(rows)
    ((rank + 1) * joined.square().sum()).backward()
    return found, joined.detach(), rows.grad


@pytest.fixture(scope="module")
def ranks():
    return run_ddp(on_a_rank)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_ranks_are_one_process_on_the_joined_batch(ranks, case):
    value, gradients = value_and_gradients(network(), CASES[case][0], *data())
    values, found = zip(*(of_rank[0][case] for of_rank in ranks), strict=True)
    torch.testing.assert_close(sum(values) / 2, value, rtol=1e-12, atol=0)
    for of_rank in found:
        torch.testing.assert_close(of_rank, gradients, rtol=1e-10, atol=1e-14)


def test_rows_of_unlike_numbers_are_joined_and_gradients_of_all_ranks_come_home(ranks):
    for rank, (_, joined, grad) in enumerate(ranks):
        assert joined.tolist() == [0.0, 0.0, 1.0]
        assert grad.tolist() == (torch.arange(rank + 1.0) * 2 * 3).tolist()
