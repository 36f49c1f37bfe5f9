import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch.utils.data import ConcatDataset, DataLoader, Subset

from lightning_graceful import OldModel, OldOutputCache, make_graceful
from lightning_graceful.data.datasets import ImageArrays
from lightning_graceful.data.views import VIEWS, UnlabelledViews
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.models.mlp import MLP


def images(length=40, side=4):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (length, side, side), generator=generator, dtype=torch.uint8)
    return ImageArrays(pixels, torch.arange(length) % 3, ["a", "b", "c"])


def by_hand(kind, one, two):
    """Views written with numpy."""
    if kind == "flipped":
        return one[::-1]
    if kind == "transposed":
        return one.T
    return 0.5 * one + 0.5 * two if kind == "mixed" else np.concatenate([one[:2], two[2:]])


def test_views_are_what_their_kind_says():
    base = images()
    views = UnlabelledViews(base, share=1.0, seed=1)
    pixels = base.images.numpy() / 255
    for index in range(len(views)):
        image, target = views[index]
        one, two = int(views.first[index]), int(views.second[index])
        expected = by_hand(views.kinds[int(views.kind[index])], pixels[one], pixels[two])
        np.testing.assert_allclose(image[0].numpy(), expected, atol=1e-6)
        assert (int(target), target.dtype) == (-100, torch.int64)
    assert sorted(views.first.tolist()) == list(range(40))
    assert (views.first != views.second).all()
    assert set(views.kind.tolist()) == {0, 1, 2, 3}


def test_no_view_is_a_training_image():
    base = images()
    known = {base[index][0].numpy().tobytes() for index in range(len(base))}
    views = UnlabelledViews(base, share=1.0)
    assert not known & {views[index][0].numpy().tobytes() for index in range(len(views))}


def test_views_are_fixed_by_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (UnlabelledViews(images(), seed=seed) for seed in (3, 3, 4))
    assert len(first) == 12
    assert all(torch.equal(first[index][0], again[index][0]) for index in range(12))
    assert not all(torch.equal(first[index][0], other[index][0]) for index in range(12))
    assert torch.equal(torch.get_rng_state(), before)


def test_targets_keep_the_type_of_the_samples_own():
    plain = [(torch.zeros(1, 2, 2), 1), (torch.ones(1, 2, 2), 0)]
    [batch] = DataLoader(ConcatDataset([plain, UnlabelledViews(plain, share=1.0)]), 4)
    assert batch[1].tolist() == [1, 0, -100, -100]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0}, "share in"),
        ({"share": 1.1}, "share in"),
        ({"kinds": ["turned"]}, "kinds among"),
        ({"kinds": []}, "kinds"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        UnlabelledViews(images(), **options)


@pytest.mark.parametrize(
    ("samples", "kinds", "message"),
    [
        ([(torch.zeros(1, 2, 2, dtype=torch.uint8), 0)] * 2, list(VIEWS), r"floating images .* got torch\.uint8"),
        ([(torch.zeros(2, 2), 0)] * 2, list(VIEWS), "floating images"),
        ([(torch.zeros(1, 2, 2), 0), (torch.zeros(1, 3, 3), 0)], ["mixed"], "of one size"),
        ([(torch.zeros(1, 2, 3), 0)] * 2, ["transposed"], r"square images to transpose, got \(1, 2, 3\)"),
        ([(torch.zeros(2), torch.tensor(0)), (torch.zeros(2), torch.tensor(1))], ["flipped"], "floating images"),
    ],
)
def test_what_is_no_image_is_refused(samples, kinds, message):
    with pytest.raises(ValueError, match=message):
        UnlabelledViews(samples, kinds=kinds)[0]


def test_oblong_images_do_without_transposing():
    views = UnlabelledViews([(torch.rand(3, 4, 6), 0)] * 8, share=1.0, kinds=["flipped", "mixed", "halves"])
    assert {tuple(views[index][0].shape) for index in range(8)} == {(3, 4, 6)}


class Compare(pl.Callback):
    """Compares what is served with the live old model, and counts views and clean images."""

    def __init__(self, old):
        self.old, self.views, self.clean = old, 0, 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        torch.testing.assert_close(module.old_outputs.logits, self.old.outputs(batch).logits, rtol=1e-5, atol=1e-6)
        assert torch.isfinite(outputs["loss"])
        self.views += int((batch[1] == -100).sum())
        self.clean += int((batch[1] >= 0).sum())


def agreement(new_logits, old_logits):
    return F.mse_loss(new_logits, old_logits)


@pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`.*", "ignore:.*does not have many workers.*")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_old_outputs_of_views_are_kept_and_served(num_workers, tmp_path):
    base = images()
    train = Subset(base, list(range(0, 40, 2)))
    torch.manual_seed(0)
    both = ConcatDataset([train, UnlabelledViews(train, share=0.5)])
    net = MLP(16, 3, hidden=(8,))
    compare = Compare(OldModel(net))

    def fit(old, *callbacks):
        loader = DataLoader(both, 6, shuffle=True, num_workers=num_workers)
        module = make_graceful(LitClassifier(MLP(16, 3, hidden=(8,))), {"agreement": agreement})
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        cache = OldOutputCache(old, tmp_path, dtype="float32", verify=0)
        pl.Trainer(
            accelerator="cpu", max_epochs=2, enable_model_summary=False, callbacks=[cache, *callbacks], **options
        ).fit(module, loader)

    fit(OldModel(net), compare)
    fit(None, compare)  # reads only: a row that is missing would be an error
    assert (compare.views, compare.clean) == (40, 80)
    assert len(list(tmp_path.glob("*/manifest.json"))) == 2
