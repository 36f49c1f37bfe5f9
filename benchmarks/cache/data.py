"""The models, images and stores that are measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.cache.sparse import BATCH, CLASSES
from lightning_graceful import OldModel
from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.claims import REGION_ROWS, Claims
from lightning_graceful.data.hashing import input_hash
from lightning_graceful.data.store import OutputStore
from lightning_graceful.models.resnet import ResNet

POOL = 4096  # different images; sample i shows number i % POOL
WIDTHS = (64, 128, 256, 512)


class Images(Dataset[tuple[Tensor, Tensor]]):
    """As many 32x32 images as one likes: a gather from a pool and a division, about 2 ms for a batch of 256."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.pool = torch.randint(256, (POOL, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pool[index % POOL] / 255, torch.tensor(index % CLASSES)

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        index = torch.tensor(indices)
        return list(zip(self.pool[index % POOL] / 255, index % CLASSES, strict=True))


class Lit(pl.LightningModule):
    """Any classifier, trained in the plainest way."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        image, target = batch
        return F.cross_entropy(self.net(image), target)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Nothing: where a store is filled, only its callback is looked at."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def resnet18(classes: int = CLASSES) -> nn.Module:
    """ResNet-18 for 32x32 images (stem of 3x3, no pooling): the network of the jobs with a second block a stage."""
    net = ResNet(3, classes, widths=WIDTHS)
    block = type(net.stages[0])
    net.stages = nn.Sequential(*[
        nn.Sequential(first, block(width, width, 1)) for first, width in zip(net.stages, WIDTHS, strict=True)
    ])
    return net


def light_net(classes: int = CLASSES) -> nn.Module:
    """A model that costs next to nothing, so that what stands around it is seen."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, classes))


def trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", callbacks=list(callbacks), enable_model_summary=False, **quiet, **options)


def loader(length: int, batch: int = BATCH, workers: int = 0, *, shuffle: bool = True) -> DataLoader[Any]:
    return DataLoader(Images(length), batch_size=batch, shuffle=shuffle, num_workers=workers)


def fill_truly(path: Path, old: OldModel) -> None:
    """Write what the old model says of each of :class:`Images`, without asking it about the same image twice."""
    with OutputStore.open_existing(path, read_only=False) as store, Claims(path) as claims:
        images = Images(1).pool[: store.num_rows] / 255
        logits, hashes = old.outputs(images).logits, input_hash(images)
        assert logits is not None
        assert hashes is not None
        for region in range(-(-store.num_rows // REGION_ROWS)):
            index = torch.arange(region * REGION_ROWS, min((region + 1) * REGION_ROWS, store.num_rows))
            shown = index % POOL
            store.write(index, Outputs(logits[shown]), index % CLASSES, hashes[shown])
            claims.mark_full(region)  # as whoever fills a store does


def in_memory(old: OldModel, rows: int) -> NDArray[np.float16]:
    """The same outputs as one array in RAM."""
    logits = old.outputs(Images(1).pool / 255).logits
    assert logits is not None
    array = np.empty((rows, logits.shape[1]), dtype=np.float16)
    for start in range(0, rows, POOL):
        array[start : start + POOL] = logits[: rows - start].half().numpy()
    return array


def files_of(path: Path) -> list[Path]:
    return sorted(path.glob("rows-*.bin"))
