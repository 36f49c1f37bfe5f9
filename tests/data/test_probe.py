import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from lightning_graceful.data.batch import default_batch
from lightning_graceful.data.probe import PROBE_SIZE, is_random, probe, probe_positions
from lightning_graceful.data.rows import CacheError


class Noisy:
    """Random in one of the three libraries, or by a generator of its own."""

    def __init__(self, kind, length=100):
        self.kind, self.length = kind, length
        self.generator = np.random.default_rng(0)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        noise = {
            "none": lambda: 0.0,
            "python": random.random,
            "numpy": np.random.rand,
            "torch": lambda: float(torch.rand(())),
            "own": self.generator.random,
        }
        return torch.tensor([index + noise[self.kind]()]), index % 2


def loader(kind="none", **options):
    return DataLoader(Noisy(kind), batch_size=4, **options)


def probed(made, views=1):
    return probe(made, made.dataset, views=views, read=default_batch)


@pytest.mark.parametrize("kind", ["none", "python", "numpy", "torch", "own"])
def test_random_samples_show(kind):
    made = loader(kind)
    assert is_random(made, made.dataset) == (kind != "none")


@pytest.mark.parametrize("kind", ["python", "numpy", "torch"])
def test_random_samples_are_refused_without_views_and_replayed_with(kind):
    with pytest.raises(CacheError, match=r"views=1.*views=4.*never"):
        probed(loader(kind))
    first, second = probed(loader(kind), views=2), probed(loader(kind), views=2)
    assert first.content == second.content
    assert torch.equal(first.batch[0], second.batch[0])
    assert first.hashed


def test_generator_of_its_own_cannot_be_replayed():
    with pytest.raises(CacheError, match="generator of its own"):
        probed(loader("own"), views=2)


def test_probe_leaves_random_states_as_they_were():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    probed(loader("torch"), views=3)
    assert states() == before


def test_probe_is_the_same_on_every_run():
    positions = probe_positions(10_000)
    assert len(positions) == PROBE_SIZE == len(set(positions))
    assert positions == probe_positions(10_000)
    assert max(positions) < 10_000
    assert probed(loader()).content == probed(loader()).content


def mixing(samples):
    return default_collate([samples[i] for i in torch.randperm(len(samples))])


def padding(samples):
    widest = len(samples)
    return torch.stack([torch.cat([x, torch.full((widest,), 7.0)]) for x, _ in samples]), torch.zeros(len(samples))


@pytest.mark.parametrize(
    ("collate", "message"),
    [
        (mixing, "random"),
        (lambda samples: default_collate(samples[::-1]), r"reorders.*index="),
        (lambda samples: default_collate(sorted(samples, key=lambda s: s[1])), r"reorders.*index="),
        (lambda samples: default_collate(samples[2:]), "drops or adds"),
        (lambda samples: default_collate([*samples, samples[0]]), "drops or adds"),
    ],
)
def test_collate_that_loses_the_samples_is_refused(collate, message):
    with pytest.raises(CacheError, match=message):
        probed(loader(collate_fn=collate))


def test_inputs_that_depend_on_their_batch_have_no_hash():
    assert probed(loader()).hashed
    assert not probed(loader(collate_fn=padding)).hashed
