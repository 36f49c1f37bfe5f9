import gc
import weakref
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
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_graceful.data import identity
from lightning_graceful.data.bases import base_datasets, base_samples
from lightning_graceful.data.identity import TrackedIterator, track, untrack, why_untrackable


class Numbered(Dataset):
    """Sample i says i."""

    def __init__(self, length=23):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if isinstance(index, list):
            return torch.utils.data.default_collate([self[one] for one in index])
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
    "the sampler batches": {"batch_size": None, "sampler": BatchSampler(RandomSampler(range(23)), 4, drop_last=False)},
    "out of order": {"shuffle": True, "num_workers": 3, "in_order": False},
    "out of order, persistent": {"shuffle": True, "num_workers": 3, "in_order": False, "persistent_workers": True},
}


# Three workers on a small machine.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
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
    assert not [name for name in loader.__dict__ if name.startswith("graceful")]


def test_samples_are_taken_once():
    loader = DataLoader(data, batch_size=4)
    track(loader)
    iterator = iter(loader)
    assert iterator.take() is None
    batch = next(iterator)
    assert iterator.take().batch is batch
    assert iterator.take() is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_listener_hears_of_a_batch_before_it_is_fetched(workers):
    heard = []
    loader = DataLoader(data, batch_size=4, shuffle=True, num_workers=workers)
    track(loader, listener=heard.append)
    iterator = iter(loader)
    next(iterator)
    ahead = 4 if workers else 0  # 2 workers times a prefetch factor of 2
    assert len(heard) == 1 + ahead
    assert iterator.waiting() == heard[1:]
    assert heard[0] is iterator.take()
    assert heard[0].batch is not None
    assert all(samples.batch is None for samples in heard[1:])


def test_nothing_is_kept_of_batches_that_nobody_asks_about():
    loader = DataLoader(data, batch_size=4, num_workers=1)
    track(loader)
    iterator = iter(loader)
    first = weakref.ref(next(iterator)[0])
    next(iterator)
    gc.collect()
    assert first() is None


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_stateful_loader_goes_on_where_it_was(workers, shuffle):
    """And is not kept from it: what is resumed is what an untracked loader resumes."""

    def rest(tracked):
        torch.manual_seed(4)
        loaders = [StatefulDataLoader(data, 4, shuffle=shuffle, num_workers=workers) for _ in range(2)]
        for loader in loaders if tracked else []:
            track(loader)
        first = iter(loaders[0])
        for _ in range(2):
            next(first)
        loaders[1].load_state_dict(loaders[0].state_dict())
        iterator, seen = iter(loaders[1]), []
        for batch in iterator:
            if tracked:
                assert iterator.take().position.tolist() == numbers_in(batch)
            seen.append(numbers_in(batch))
        return seen

    assert len(rest(tracked=False)) == 4
    assert rest(tracked=True) == rest(tracked=False)


@pytest.mark.parametrize("private", ["_send_idx", "_rcvd_idx", "_get_data", "_in_order"])
def test_private_of_the_worker_iterator_that_is_gone_means_no_samples(private):
    """Another version of torch: no guess."""
    loader = DataLoader(data, batch_size=4, num_workers=1)
    track(loader)
    inner = DataLoader.__iter__(loader)

    class Changed:
        def __next__(self):
            return next(inner)

    for name in {"_send_idx", "_rcvd_idx", "_get_data", "_in_order"} - {private}:
        assert hasattr(inner, name)
        setattr(Changed, name, getattr(inner, name))
    iterator = TrackedIterator(loader, Changed(), dict(loader.__dict__["graceful_drawn"]))
    next(iterator)
    assert iterator.take() is None


def test_base_of_nested_wrappers():
    other = Numbered(10)
    whole = ConcatDataset([Subset(Subset(data, [20, 21, 22]), [2, 0]), other, Subset(data, [5])])
    found = {
        part.dataset: (part.index.tolist(), part.row.tolist()) for part in base_samples(whole, torch.tensor([12, 0, 3]))
    }
    assert found == {data: ([22, 5], [1, 0]), other: ([1], [2])}


def test_base_datasets_name_what_is_drawn_from_each():
    other = Numbered(10)
    whole = ConcatDataset([Subset(data, [5, 2, 5]), other, Subset(data, [9]), Subset(other, [1])])
    found = {base: None if index is None else index.tolist() for base, index in base_datasets(whole)}
    assert found == {data: [2, 5, 9], other: None}


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
        (lambda: DataLoader(data, batch_size=None, shuffle=True), "a sample of the dataset is a batch"),
        (lambda: OwnIterator(data), "its own __iter__"),
        (lambda: DataLoader(Unsized(), sampler=[1]), "no length"),
    ],
)
def test_what_cannot_be_followed_says_why(loader, reason):
    assert reason in why_untrackable(loader())


def test_privates_are_named():
    assert set(identity.PRIVATES) == {"_index_sampler", "_send_idx", "_rcvd_idx", "_get_data", "_in_order"}


def test_private_of_the_dataloader_that_is_gone_is_noticed(monkeypatch):
    loader = DataLoader(data)
    assert why_untrackable(loader) is None
    monkeypatch.delattr(DataLoader, "_index_sampler")
    assert "another DataLoader" in why_untrackable(loader)


def test_sampler_of_keys_is_refused():
    loader = DataLoader({"a": 1}, sampler=["a"])
    track(loader)
    with pytest.raises(ValueError, match="integer positions"):
        next(iter(loader))
