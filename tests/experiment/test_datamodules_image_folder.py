"""Image files as the data of a job, from the config to a training with a cache of old outputs."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from PIL import Image
from torch import nn

from lightning_graceful import OldModel, OldOutputCache
from lightning_graceful.data.image_folder import CenterCrop, RandomCrop
from lightning_graceful.data.rows import CacheError
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.experiment.datamodules import ImageFolderDataModule
from tests.data.image_files import write_class_folders, write_cub, write_inaturalist
from tests.experiment.test_conf import composed

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

SMALL = CenterCrop(4, 6)


@pytest.fixture
def folder(tmp_path):
    return write_class_folders(tmp_path / "images", train=10)


def small(folder, **options):
    return ImageFolderDataModule(folder, crop=SMALL, batch_size=5, **{"val_fraction": 0.2, **options})


def test_parts_are_disjoint_and_stratified_and_the_same_for_all_seeds(folder):
    first, second = small(folder, seed=0), small(folder, seed=1)
    train, val = set(first.train_set.indices), set(first.val_set.indices)
    assert sorted(train | val) == list(range(30))
    assert not train & val
    assert np.bincount(first.base.target[list(first.test_set.indices)]).tolist() == [4, 4, 4]
    assert np.bincount(first.val_set.dataset.target[sorted(val)]).tolist() == [2, 2, 2]
    assert sorted(val) == second.val_set.indices
    assert first.of_old().train_set.indices != second.of_old().train_set.indices


def test_batches_are_those_of_the_files(folder):
    [*_, (image, target)] = small(folder).test_dataloader()
    assert image.shape == (2, 3, 4, 4)
    torch.testing.assert_close(image[:, 0, 0, 0], torch.tensor([122, 123]) / 255)
    assert target.tolist() == [2, 2]


def test_random_crops_are_for_training_alone(folder):
    data = small(folder, train_crop=RandomCrop(4))
    assert data.train_set.dataset.crop == RandomCrop(4)
    assert data.val_set.dataset.crop == data.test_set.dataset.crop == data.train_eval.dataset.crop == SMALL
    assert data.train_eval.indices == data.train_set.indices


@pytest.mark.parametrize("fraction", [0, 0.01, 0.95, 1])
def test_impossible_validation_shares_are_refused(fraction, folder):
    with pytest.raises(ValueError, match="val_fraction to leave"):
        small(folder, val_fraction=fraction)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("image_folder", write_class_folders),
        ("imagenet", write_class_folders),
        ("cub", write_cub),
        ("inaturalist", write_inaturalist),
    ],
)
def test_configs_read_their_layouts(name, write, tmp_path):
    write(tmp_path)
    overrides = [f"data.folder={tmp_path}", "data.val_fraction=0.2", "data.crop.size=5", "data.crop.resize=5"]
    data = instantiate(composed(f"data={name}", *overrides).data, seed=3, _convert_="all")
    assert (data.seed, len(data.train_set), len(data.val_set), len(data.test_set)) == (3, 14, 4, 12)
    assert data.test_set[0][0].shape == (3, 5, 5)


def fit(data, cache):
    torch.manual_seed(0)
    module = LitClassifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, enable_model_summary=False, callbacks=[cache], **options)
    trainer.fit(module, datamodule=data)


def test_old_outputs_of_files_are_kept_and_those_of_random_crops_with_views(folder, tmp_path):
    generator = np.random.default_rng(0)
    for path in folder.glob("train/*/*.png"):  # crops of one shade would all be the same
        Image.fromarray(generator.integers(0, 255, (8, 12, 3), dtype=np.uint8)).save(path)
    old = OldModel(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)))
    fit(small(folder), OldOutputCache(old, tmp_path / "steady"))
    with pytest.raises(CacheError, match="views"):
        fit(small(folder, train_crop=RandomCrop(4)), OldOutputCache(old, tmp_path / "refused"))
    fit(small(folder, train_crop=RandomCrop(4)), OldOutputCache(old, tmp_path / "random", views=2))
