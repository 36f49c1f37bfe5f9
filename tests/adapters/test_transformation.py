import pytest
import torch
import torch.nn.functional as F

from lightning_graceful.adapters.transformation import GalleryTransformation

QUICK = {"hidden": 32, "epochs": 40, "learning_rate": 5e-3, "batch_size": 100}


def sample(seed, rows=800):
    """New embeddings of which the old ones kept a half, and the side information the other."""
    new = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
    return torch.tanh(new[:, :2]) * 5 + 9, new[:, 2:] - 1, new


def cosine(mapped, new):
    return F.cosine_similarity(mapped, new).mean().item()


def test_side_information_tells_what_the_old_embedding_does_not():
    old, side, new = sample(0)
    with_side = GalleryTransformation.fit(old, new, side, **QUICK)
    without = GalleryTransformation.fit(old, new, **QUICK)
    old, side, new = sample(1)
    assert cosine(with_side(old, side), new) > 0.97
    assert 0.5 < cosine(without(old), new) < 0.9
    torch.testing.assert_close(with_side(old, side).norm(dim=1), torch.ones(800))


def test_shape_is_the_papers():
    h = GalleryTransformation(64, 128, 32)
    widths = [tuple(layer.weight.shape) for layer in h.modules() if isinstance(layer, torch.nn.Linear)]
    branches = [(256, 64), (256, 256), (256, 32), (256, 256)]
    assert widths == [*branches, (2048, 512), (2048, 2048), (128, 2048)]


def test_a_row_does_not_depend_on_its_batch_whatever_mode_the_holder_is_in():
    old, side, new = sample(0)
    h = GalleryTransformation.fit(old, new, side, **{**QUICK, "epochs": 1})
    before = {name: value.clone() for name, value in h.state_dict().items()}
    whole = torch.nn.ModuleList([h]).train()[0](old, side)
    torch.testing.assert_close(whole[:3], h(old[:3], side[:3]))
    assert h(old[:0], side[:0]).shape == (0, 4)
    assert all(torch.equal(before[name], value) for name, value in h.state_dict().items())
    assert not any(weight.requires_grad for weight in h.parameters())


def test_it_follows_from_the_seed():
    old, side, new = sample(0, rows=50)
    state = torch.get_rng_state()
    first, again, other = (
        GalleryTransformation.fit(old, new, side, hidden=4, epochs=1, seed=seed)(old, side) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_lengths_are_learnt_where_nothing_is_normalised():
    old, side, new = sample(0)
    h = GalleryTransformation.fit(old, 4 * new, side, normalize=False, **QUICK)
    assert (h(old, side) - 4 * new).square().mean() < 0.1 * 16


def test_bad_inputs_are_refused():
    old, side, new = sample(0, rows=20)
    with_side = GalleryTransformation.fit(old, new, side, hidden=4, epochs=1)
    without = GalleryTransformation.fit(old, new, hidden=4, epochs=1)
    with pytest.raises(ValueError, match="got none where it was fitted with it"):
        with_side(old)
    with pytest.raises(ValueError, match="got some where it was fitted without it"):
        without(old, side)
    with pytest.raises(ValueError, match=r"side embeddings as a floating matrix \(N, 2\)"):
        with_side(old, new)
    with pytest.raises(ValueError, match="the same items in old and side"):
        GalleryTransformation.fit(old, new, side[:3])
    with pytest.raises(ValueError, match="finite new embeddings"):
        GalleryTransformation.fit(old, new / 0, side)
    with pytest.raises(ValueError, match="widths"):
        GalleryTransformation(2, 0)
