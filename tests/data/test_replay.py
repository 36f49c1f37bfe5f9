import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from lightning_graceful.data.fetch import chosen_batches, few_batches
from lightning_graceful.data.identity import track
from lightning_graceful.data.replay import Draw, Replayed, original, replayable, seeded, view_of


class Augmented(Dataset):
    """Says its index and three random numbers."""

    classes = ("a", "b")

    def __len__(self):
        return 30

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), float(torch.rand(()))])


class AugmentedLists(Augmented):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


def fetched(loader, dataset, row, views):
    return few_batches(loader, dataset, [torch.tensor([row])], views=views)[0][0]


@pytest.mark.parametrize("kind", [Augmented, AugmentedLists])
@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_loader_delivers_is_what_is_fetched_by_row(kind, workers):
    """The two ways to a view: drawn in training, and fetched to be filled, from whichever process."""
    data = kind()
    loader = DataLoader(Subset(data, range(5, 30)), 4, shuffle=True, num_workers=workers)
    plain = DataLoader(data, 4)
    epoch = [0]
    track(loader, views=3, epoch=lambda: epoch[0])
    seen = set()
    for epoch[0] in range(3):
        iterator = iter(loader)
        for batch in iterator:
            samples = iterator.take()
            for sample, view in zip(batch, samples.view.tolist(), strict=True):
                assert torch.equal(sample, fetched(plain, data, int(sample[0]) * 3 + view, 3))
                seen.add((int(sample[0]), view))
    assert seen == {(index, view) for index in range(5, 30) for view in range(3)}


def test_views_differ_and_samples_differ():
    data = Augmented()
    loader = DataLoader(data, 4)
    (batch,) = chosen_batches(loader, data, [torch.arange(90)], views=3)
    assert len(set(batch[:, 1].tolist())) == 90


def test_random_states_are_left_as_they_were():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    with seeded(3):
        random.random(), np.random.rand(), torch.rand(())
    Replayed(Augmented())[Draw(3, 9)]
    assert states() == before


def test_seeds_of_neighbours_are_unrelated():
    index = torch.arange(1000).repeat_interleave(4)
    seeds = [draw.seed for draw in replayable(index, index, torch.arange(4).repeat(1000))]
    assert len(set(seeds)) >= 3998  # of 2**32
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert abs(np.mean(seeds) / 2**32 - 0.5) < 0.02


def test_each_sample_goes_through_all_its_views():
    index = torch.arange(50)
    shown = torch.stack([view_of(index, epoch, 4) for epoch in range(8)])
    assert torch.equal(shown[:4].sort(dim=0).values, torch.arange(4)[:, None].expand(4, 50))
    assert torch.equal(shown[4:], shown[:4])


def test_replayed_looks_like_the_dataset():
    data = Augmented()
    replayed = Replayed(data)
    assert isinstance(replayed, Augmented)
    assert len(replayed) == 30
    assert replayed.classes == ("a", "b")
    replayed.scale = 2
    assert data.scale == 2
    assert original(replayed) is data
    assert original(data) is data
    assert original(pickle.loads(pickle.dumps(replayed))).scale == 2


def test_draw_is_a_position_that_keeps_its_seed():
    draw = pickle.loads(pickle.dumps(Draw(7, 123)))
    assert (draw, draw.seed) == (7, 123)


def test_a_list_is_refused():
    with pytest.raises(ValueError, match="one by one"):
        Replayed(Augmented())[[1, 2]]


def test_fetching_leaves_the_order_of_training_alone():
    data = Augmented()
    torch.manual_seed(0)
    plain = torch.rand(3)
    torch.manual_seed(0)
    list(chosen_batches(DataLoader(data, 4, num_workers=1), data, [torch.arange(4), torch.arange(3)]))
    assert torch.equal(torch.rand(3), plain)
