from typing import NamedTuple

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    WeightedRandomSampler,
    random_split,
)

from lightning_graceful.data import identity
from lightning_graceful.data.identity import base_samples, track, untrack, why_untrackable


class Numbered(Dataset):
    """Sample i says i."""

    def __init__(self, length=23):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([float(index), 0.0]), index % 3


class NumberedBatches(Numbered):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Pair(NamedTuple):
    image: torch.Tensor
    target: torch.Tensor


def as_pair(samples):
    return Pair(torch.stack([x for x, _ in samples]), torch.tensor([y for _, y in samples]))


def numbers_in(batch):
    return batch[0].reshape(-1, 2)[:, 0].long().tolist()


def assert_followed(loader, epochs=2):
    track(loader)
    for _ in range(epochs):
        iterator = iter(loader)
        count = 0
        for batch in iterator:
            assert iterator.take().position.tolist() == numbers_in(batch)
            count += 1
        assert count == len(loader)


data = Numbered()
CASES = {
    "in order": {},
    "shuffled": {"shuffle": True},
    "drop_last": {"shuffle": True, "drop_last": True},
    "workers": {"shuffle": True, "num_workers": 2},
    "persistent, prefetch": {"shuffle": True, "num_workers": 2, "persistent_workers": True, "prefetch_factor": 4},
    "spawned": {"shuffle": True, "num_workers": 1, "multiprocessing_context": "spawn"},
    "weighted": {"sampler": WeightedRandomSampler(torch.rand(23), 40)},
    "batch sampler": {"batch_sampler": BatchSampler(RandomSampler(range(23)), 5, drop_last=False)},
    "ragged": {"batch_sampler": [[3, 1], [2], [7, 7, 7, 9]]},
    "named tuple": {"shuffle": True, "collate_fn": as_pair},
    "one by one": {"batch_size": None, "shuffle": True},
}


@pytest.mark.parametrize("case", CASES)
def test_batches_carry_their_samples(case):
    options = CASES[case]
    size = {} if "batch_size" in options or "batch_sampler" in options else {"batch_size": 4}
    assert_followed(DataLoader(data, **size, **options))


def test_batched_fetch_is_followed():
    assert_followed(DataLoader(NumberedBatches(), batch_size=4, shuffle=True))


def test_two_iterators_do_not_mix():
    loader = DataLoader(data, batch_size=4, shuffle=True)
    track(loader)
    first, second = iter(loader), iter(loader)
    for one, two in zip(first, second, strict=True):
        assert first.take().position.tolist() == numbers_in(one)
        assert second.take().position.tolist() == numbers_in(two)


def test_order_of_batches_is_that_of_an_untracked_loader():
    def order(loader):
        torch.manual_seed(3)
        return [numbers_in(batch) for batch in loader]

    loader = DataLoader(data, batch_size=4, shuffle=True)
    plain = order(loader)
    track(loader)
    assert order(loader) == plain


def test_untracked_loader_has_its_class_back():
    loader = DataLoader(data, batch_size=4)
    track(loader)
    track(loader)
    iter(loader)
    untrack(loader)
    assert type(loader) is DataLoader
    assert "_drawn" not in loader.__dict__


def test_asking_twice_for_one_batch_is_an_error():
    loader = DataLoader(data, batch_size=4)
    track(loader)
    iterator = iter(loader)
    next(iterator)
    iterator.take()
    with pytest.raises(RuntimeError, match="not yet asked for"):
        iterator.take()


def test_base_of_nested_wrappers():
    other = Numbered(10)
    whole = ConcatDataset([Subset(Subset(data, [20, 21, 22]), [2, 0]), other, Subset(data, [5])])
    found = {
        part.dataset: (part.index.tolist(), part.row.tolist()) for part in base_samples(whole, torch.tensor([12, 0, 3]))
    }
    assert found == {data: ([22, 5], [1, 0]), other: ([1], [2])}


def test_base_of_a_random_split_equals_a_walk():
    part, _ = random_split(data, [15, 8], torch.Generator().manual_seed(0))
    (found,) = base_samples(part, torch.arange(15))
    assert found.index.tolist() == [numbers_in([part[i][0]])[0] for i in range(15)]


class Stream(IterableDataset):
    def __iter__(self):
        yield from range(3)


class OwnIterator(DataLoader):
    def __iter__(self):
        return iter([])


class Unsized(Dataset):
    def __getitem__(self, index):
        return index


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        (lambda: [1], "a list"),
        (lambda: DataLoader(Stream()), "IterableDataset"),
        (lambda: DataLoader(data, num_workers=2, in_order=False), "in_order"),
        (lambda: OwnIterator(data), "its own __iter__"),
        (lambda: DataLoader(Unsized(), sampler=[1]), "no length"),
    ],
)
def test_what_cannot_be_followed_says_why(loader, reason):
    assert reason in why_untrackable(loader())


@pytest.mark.parametrize("name", identity.PRIVATES)
def test_private_of_the_dataloader_that_is_gone_is_noticed(monkeypatch, name):
    loader = DataLoader(data)
    assert why_untrackable(loader) is None
    monkeypatch.delattr(DataLoader, name)
    assert "another DataLoader" in why_untrackable(loader)


def test_sampler_of_keys_is_refused():
    loader = DataLoader({"a": 1}, sampler=["a"], batch_size=None)
    track(loader)
    with pytest.raises(ValueError, match="integer positions"):
        next(iter(loader))
