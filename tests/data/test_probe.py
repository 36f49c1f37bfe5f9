import random

import numpy as np
import torch
from torch.utils.data import DataLoader

from lightning_graceful.data.probe import PROBE_SIZE, content_hash, probe_batch, probe_positions, seeded


class Noisy:
    """Random in each of the three libraries in turn."""

    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 100

    def __getitem__(self, index):
        noise = {
            "none": lambda: 0.0,
            "python": random.random,
            "numpy": np.random.rand,
            "torch": lambda: float(torch.rand(())),
        }
        return torch.tensor([index + noise[self.kind]()]), 0


def hashes(kind):
    loader = DataLoader(Noisy(kind), batch_size=4)
    return [content_hash(probe_batch(loader, loader.dataset, seed=seed)) for seed in (0, 1)]


def test_random_samples_show():
    assert [len(set(hashes(kind))) for kind in ("none", "python", "numpy", "torch")] == [1, 2, 2, 2]


def test_seeded_randomness_replays():
    assert hashes("torch") == hashes("torch")


def test_random_states_are_left_as_they_were():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with seeded(3):
        random.random(), np.random.rand(), torch.rand(())
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_probe_is_the_same_on_every_run():
    positions = probe_positions(10_000)
    assert len(positions) == PROBE_SIZE == len(set(positions))
    assert positions == probe_positions(10_000)
    assert max(positions) < 10_000


def test_collate_that_mixes_shows():
    def mixing(samples):
        return torch.stack([x for x, _ in samples])[torch.randperm(len(samples))]

    loader = DataLoader(Noisy("none"), batch_size=4, collate_fn=mixing)
    assert len({content_hash(probe_batch(loader, loader.dataset, seed=seed)) for seed in (0, 1)}) == 2


def test_hash_reads_content_not_addresses():
    class Custom:
        def __init__(self, value):
            self.x = torch.tensor([value])

    assert content_hash(Custom(1.0)) == content_hash(Custom(1.0)) != content_hash(Custom(2.0))
    assert content_hash({"a": 1, "b": "x"}) == content_hash({"b": "x", "a": 1}) != content_hash({"a": 1, "b": "y"})
    assert content_hash(torch.zeros(2)) != content_hash(torch.zeros(2, dtype=torch.float64))
    assert content_hash(torch.tensor([1.5]).bfloat16()) != content_hash(torch.tensor([2.5]).bfloat16())
