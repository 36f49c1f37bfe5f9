import pytest
import torch

from lightning_graceful.functional.retrieval.halves import query_mask

WORD = 2**64


def scrambled(value):
    """splitmix64 in whole numbers of Python."""
    mixed = (value + 1) * 0x9E3779B97F4A7C15 % WORD
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % WORD
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % WORD
    return mixed ^ mixed >> 31


@pytest.mark.parametrize("seed", [0, 1, -5])
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_roles_are_those_of_the_hash(seed, share):
    index = torch.tensor([0, 1, 2, 17, 10**12, -3])
    expected = [(scrambled((i + scrambled(seed % WORD)) % WORD) >> 11) / 2**53 < share for i in index.tolist()]
    assert query_mask(index, share=share, seed=seed).tolist() == expected


def test_shares_are_met_and_seeds_and_neighbours_are_unrelated():
    index = torch.arange(20_000)
    masks = [query_mask(index, share=0.3, seed=seed) for seed in range(3)]
    for mask in masks:
        assert mask.double().mean().item() == pytest.approx(0.3, abs=0.02)
        assert (mask[1:] & mask[:-1]).double().mean().item() == pytest.approx(0.09, abs=0.015)
    assert (masks[0] & masks[1]).double().mean().item() == pytest.approx(0.09, abs=0.015)


def test_a_role_depends_on_nothing_else():
    index = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(query_mask(index), query_mask(torch.arange(100))[index])
    assert torch.equal(query_mask(index[:7].int()), query_mask(index)[:7])
    assert query_mask(index[:0]).tolist() == []


@pytest.mark.parametrize(
    ("index", "share", "message"),
    [
        (torch.ones(3), 0.5, "integer index"),
        (torch.ones(3, 1, dtype=torch.int64), 0.5, r"shape \(3, 1\)"),
        (torch.arange(3), 0.0, r"in \(0, 1\)"),
        (torch.arange(3), float("nan"), "got nan"),
    ],
)
def test_bad_arguments_are_refused(index, share, message):
    with pytest.raises(ValueError, match=message):
        query_mask(index, share=share)
