"""The cases of the identity matrix: what plain Lightning runs, on images that are decoded and transformed.

Each case is run twice with one cache: every batch of both runs is compared with the live old model, and in the second
run the old model must not be asked at all where the case is said to be served from the store.
"""

import contextlib
import importlib
import io
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import lightning.pytorch
import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

from lightning_graceful import OldModel, OldOutputCache
from lightning_graceful.callbacks.base import Callback
from lightning_graceful.data.batch import Batch, Outputs

SIZE, CLASSES, LENGTH = 8, 4, 46


class Photos(Dataset):
    """PNG files in memory, decoded, cropped and normalised sample by sample; few classes, so that many are alike."""

    def __init__(
        self, length: int = LENGTH, seed: int = 0, transform: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        generator = np.random.default_rng(seed)
        self.files = [
            _png(generator.integers(256, size=(SIZE + 2, SIZE + 2, 3), dtype=np.uint8)) for _ in range(length)
        ]
        self.target = generator.integers(CLASSES, size=length).tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        with Image.open(io.BytesIO(self.files[index])) as image:
            pixels = np.array(image.crop((1, 1, SIZE + 1, SIZE + 1)).convert("RGB"))
        x = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - 0.5) / 0.25
        return (x if self.transform is None else self.transform(x)), self.target[index]


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


class Fetching(Photos):
    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class Named(NamedTuple):
    image: Tensor
    target: Tensor


@dataclass
class Record:
    image: Tensor
    target: Tensor


class Custom:
    """A batch of the user's own kind."""

    def __init__(self, image: Tensor, target: Tensor) -> None:
        self.image, self.target = image, target

    def to(self, device: Any, **options: Any) -> "Custom":
        return Custom(self.image.to(device), self.target.to(device))


def of_kind(kind: Callable[[Tensor, Tensor], Any]) -> Callable[[list[Any]], Any]:
    return lambda samples: kind(*default_collate(samples))


def read_attributes(batch: Any) -> Batch:
    return Batch(batch.image, batch.target)


class WithIndex(Photos):
    def __getitem__(self, index: int) -> Any:
        return (*super().__getitem__(index), index)


class AsDict(Photos):
    def __getitem__(self, index: int) -> Any:
        image, target = super().__getitem__(index)
        return {"image": image, "label": target, "index": index}


class Stream(IterableDataset):
    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return (self.data[index] for index in range(first, len(self.data), step))  # type: ignore[arg-type]


class Ragged(Sampler):
    """Batches of growing size, in random order."""

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(LENGTH).tolist()
        starts = [0, 3, 8, 15, 24, 35, LENGTH]
        return iter([order[a:b] for a, b in pairwise(starts)])

    def __len__(self) -> int:
        return 6


class EvenFirst(Sampler):
    def __iter__(self) -> Iterator[int]:
        return iter([*range(0, LENGTH, 2), *range(1, LENGTH, 2)])

    def __len__(self) -> int:
        return LENGTH


class OwnDistributed(DistributedSampler):
    """A user's own distributed sampler: random order by epoch."""


def augment(x: Tensor) -> Tensor:
    """Random in python, numpy and torch, as libraries of transforms are."""
    x = x.flip(-1) if random.random() < 0.5 else x
    x = x * float(np.random.uniform(0.8, 1.2))
    return x + 0.1 * torch.randn_like(x)


class OwnGenerator(Photos):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(3)

    def __getitem__(self, index: int) -> Any:
        image, target = super().__getitem__(index)
        return image + float(self.generator.normal()), target


def reorder(samples: list[Any]) -> Any:
    return default_collate(samples[::-1])


def reorder_alike(samples: list[Any]) -> Any:
    """Swaps only samples of one target."""
    out = list(samples)
    for target in range(CLASSES):
        places = [i for i, sample in enumerate(samples) if sample[1] == target]
        for place, other in zip(places, places[::-1], strict=True):
            out[place] = samples[other]
    return default_collate(out)


def drop(samples: list[Any]) -> Any:
    return default_collate(samples[1:])


def drop_large_only(samples: list[Any]) -> Any:
    """Drops from full batches of 8 alone, which the probe does not see."""
    return default_collate(samples[1:] if len(samples) == 8 else samples)


def mix(samples: list[Any]) -> Any:
    images, targets = default_collate(samples)
    return images.lerp(images[torch.randperm(len(images))], 0.3), targets


def network() -> nn.Module:
    torch.manual_seed(11)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 16), nn.ReLU(), nn.Linear(16, CLASSES))


class Counting(OldModel):
    """Counts the batches that it is asked about."""

    asked = 0

    def outputs(self, batch: Any) -> Outputs:
        self.asked += 1
        return super().outputs(batch)


def read_pair(batch: Any) -> Batch:
    return Batch(batch[0], batch[1])


class Steps:
    """The same code for ``pytorch_lightning`` and ``lightning.pytorch``."""

    def __init__(self, read: Callable[[Any], Batch] = read_pair) -> None:
        super().__init__()
        self.net = network()
        self.read = read
        self.lr = 0.01

    def loss(self, batch: Any) -> Tensor:
        inputs, target = self.read(batch)
        logits = self.net(inputs.to(self.net[1].weight.dtype))
        return logits.square().mean() if target is None else nn.functional.cross_entropy(logits, target)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch), batch_size=1)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr)


class Lit(Steps, pl.LightningModule):
    pass


class LitOfLightning(Steps, lightning.pytorch.LightningModule):
    pass


LITS = {"pytorch_lightning": Lit, "lightning.pytorch": LitOfLightning}


class Compare(Callback):
    """Compares what is served with the live old model, leg by leg, batch by batch."""

    def __init__(self, old: OldModel, legs: Callable[[Any], list[Any]], atol: float) -> None:
        self.old, self.legs, self.atol = old, legs, atol
        self.compared = {"train": 0, "validate": 0, "test": 0, "predict": 0, "sanity_check": 0}

    def check(self, trainer: Any, module: Any, batch: Any) -> None:
        served = self.legs(module.old_outputs) if trainer.training else [module.old_outputs]
        for leg, outputs in zip(self.legs(batch) if trainer.training else [batch], served, strict=True):
            assert (leg is None) == (outputs is None)
            if leg is not None:
                expected = self.old.outputs(leg).logits
                torch.testing.assert_close(outputs.logits, expected, rtol=1e-5, atol=self.atol)
        self.compared[str(trainer.state.stage.value)] += 1

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.check(trainer, module, batch)

    def on_validation_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int, d: int = 0) -> None:
        self.check(trainer, module, batch)

    def on_test_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int, d: int = 0) -> None:
        self.check(trainer, module, batch)

    def on_predict_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int, d: int = 0) -> None:
        self.check(trainer, module, batch)


def fit(trainer: Any, module: Any, train: Any, val: Any) -> None:
    trainer.fit(module, train, val)


def whole(batch: Any) -> list[Any]:
    return [batch]


@dataclass
class Case:
    """One row of the matrix.

    ``expect``: ``"stored"`` (the second run asks the old model nothing), ``"live"`` (one warning), or a pattern of the
    error that is raised.
    """

    name: str
    train: Callable[[], Any] = lambda: DataLoader(Photos(), 8, shuffle=True)
    val: Callable[[], Any] = lambda: DataLoader(Photos(20, seed=1), 8)
    run: Callable[[Any, Any, Any, Any], None] = fit
    read: Callable[[Any], Batch] | None = None  # of a leg
    read_batch: Callable[[Any], Batch] | None = None  # of what the trainer delivers, where it is combined
    legs: Callable[[Any], list[Any]] = whole
    trainer: dict[str, Any] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Any]] = list
    expect: str = "stored"
    stages: tuple[str, ...] = ("train", "validate")
    namespace: str = "pytorch_lightning"
    slow: bool = False


def execute(case: Case, folder: Any) -> dict[str, int]:
    """Run a case twice; returns how many batches were compared, by stage, and ``asked`` in the second run."""
    counts: dict[str, int] = {}
    for attempt in range(2):
        torch.manual_seed(5 + attempt)
        namespace = importlib.import_module(case.namespace)
        read = case.read
        old = Counting(network(), batch=read)
        compare = Compare(OldModel(network(), batch=read), case.legs, 1e-5)
        cache = OldOutputCache(old, folder, **{"dtype": "float32", "verify": 0.0, **case.cache})
        options = {
            "accelerator": "cpu",
            "max_epochs": 3,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 1,
        }
        trainer = namespace.Trainer(callbacks=[cache, compare, *case.callbacks()], **{**options, **case.trainer})
        module = LITS[case.namespace](case.read_batch or read or read_pair)
        case.run(trainer, module, case.train(), case.val())
        for stage, count in compare.compared.items():
            counts[stage] = counts.get(stage, 0) + count
        counts["asked"] = old.asked
    return counts


# -- runs ------------------------------------------------------------------------------------------------------------


def fit_twice(trainer: Any, module: Any, train: Any, val: Any) -> None:
    trainer.fit(module, train, val)
    trainer.fit_loop.max_epochs += 1
    trainer.fit(module, train, val)


def all_stages(trainer: Any, module: Any, train: Any, val: Any) -> None:
    trainer.validate(module, val, verbose=False)
    trainer.fit(module, train, val)
    trainer.test(module, val, verbose=False)
    trainer.predict(module, val)


def find_learning_rate(trainer: Any, module: Any, train: Any, val: Any) -> None:
    tuner = importlib.import_module(f"{type(trainer).__module__.split('.trainer')[0]}.tuner").Tuner(trainer)
    tuner.lr_find(module, train, val, num_training=6)
    trainer.fit(module, train, val)


class StopAt(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/middle.ckpt")
            raise StopIteration("stopped in the middle of an epoch")


def resume_in_the_middle(trainer: Any, module: Any, train: Any, val: Any) -> None:
    stop = StopAt(9)
    trainer.callbacks.append(stop)
    with contextlib.suppress(StopIteration):
        trainer.fit(module, train, val)
    trainer.callbacks.remove(stop)
    trainer.fit(module, train, val, ckpt_path=f"{trainer.default_root_dir}/middle.ckpt")


class Peeking(pl.Callback):
    """A user's callback that looks at the training data in the middle of an epoch."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            next(iter(trainer.train_dataloader))


class Data(pl.LightningDataModule):
    def setup(self, stage: str) -> None:
        self.train, self.val = random_split(Photos(), [30, 16], torch.Generator().manual_seed(0))

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, 8, shuffle=True, num_workers=1)

    def val_dataloader(self) -> Any:
        return [DataLoader(self.val, 8), DataLoader(self.train, 8)]


class Reloading(Data):
    """Another dataset in each epoch."""

    def train_dataloader(self) -> Any:
        return DataLoader(Photos(seed=self.trainer.current_epoch), 8, shuffle=True)


def fit_datamodule(kind: type[pl.LightningDataModule]) -> Any:
    return lambda trainer, module, train, val: trainer.fit(module, datamodule=kind())


def stateful(**options: Any) -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Photos(), 8, shuffle=True, **options)


def stochastic_weight_averaging() -> list[Any]:
    from pytorch_lightning.callbacks import StochasticWeightAveraging

    return [StochasticWeightAveraging(0.05, swa_epoch_start=1)]


# -- combined loaders ------------------------------------------------------------------------------------------------


def first_leg(batch: Any) -> Batch:
    return Batch(*(batch["a"] if isinstance(batch, dict) and batch["a"] is not None else _other_leg(batch)))


def _other_leg(batch: Any) -> Any:
    return batch["b"] if isinstance(batch, dict) else batch


def combined(mode: str, **legs: Any) -> Any:
    made = {
        "a": DataLoader(Photos(), 8, shuffle=True),
        "b": DataLoader(Photos(17, seed=2), 5, shuffle=True, num_workers=1),
    }
    return CombinedLoader({**made, **legs}, mode)


def legs_of_dict(batch: Any) -> list[Any]:
    return [batch["a"], batch["b"]]


COMBINED = {"read_batch": first_leg, "legs": legs_of_dict}

CASES = [
    *(Case(f"workers={n}", lambda n=n: DataLoader(Photos(), 8, shuffle=True, num_workers=n)) for n in (0, 2)),
    Case("workers=4 prefetch=4", lambda: DataLoader(Photos(), 8, shuffle=True, num_workers=4, prefetch_factor=4)),
    Case("persistent workers", lambda: DataLoader(Photos(), 8, shuffle=True, num_workers=2, persistent_workers=True)),
    Case(
        "spawned workers",
        lambda: DataLoader(Photos(), 8, shuffle=True, num_workers=2, multiprocessing_context="spawn"),
        trainer={"max_epochs": 1},
        slow=True,
    ),
    Case("in_order=False", lambda: DataLoader(Photos(), 4, shuffle=True, num_workers=3, in_order=False)),
    Case(
        "in_order=False persistent",
        lambda: DataLoader(Photos(), 4, shuffle=True, num_workers=3, in_order=False, persistent_workers=True),
    ),
    Case("drop_last", lambda: DataLoader(Photos(), 8, shuffle=True, drop_last=True)),
    Case("custom sampler", lambda: DataLoader(Photos(), 8, sampler=EvenFirst())),
    Case("ragged batch sampler", lambda: DataLoader(Photos(), batch_sampler=Ragged())),
    Case("batch sampler, 2 workers", lambda: DataLoader(Photos(), batch_sampler=Ragged(), num_workers=2)),
    Case(
        "weighted with replacement",
        lambda: DataLoader(Photos(), 8, sampler=WeightedRandomSampler(torch.arange(LENGTH) + 1.0, 60)),
    ),
    Case("__getitems__", lambda: DataLoader(Fetching(), 8, shuffle=True)),
    Case("Subset", lambda: DataLoader(Subset(Photos(), [40, 3, 3, 17, 9, 21, 22, 5, 0]), 4, shuffle=True)),
    Case("random_split", lambda: DataLoader(random_split(Photos(), [0.7, 0.3])[0], 8, shuffle=True)),
    Case(
        "ConcatDataset",
        lambda: DataLoader(ConcatDataset([Photos(), Subset(Photos(30, seed=3), range(5, 25))]), 8, shuffle=True),
    ),
    Case(
        "ConcatDataset of Subsets of one dataset",
        lambda: DataLoader(crossed(), 8, shuffle=True, num_workers=1),
    ),
    Case(
        "batch_size=None, the sampler batches",
        lambda: DataLoader(Batching(), sampler=BatchSampler(RandomSampler(range(LENGTH)), 8, False), batch_size=None),
    ),
    Case(
        "batch_size=None, each sample is a batch",
        lambda: DataLoader(Chunks(), batch_size=None, shuffle=True),
        expect="live",
    ),
    Case(
        "dict",
        lambda: DataLoader(AsDict(), 8, shuffle=True),
        lambda: DataLoader(AsDict(20, seed=1), 8),
        read=lambda b: Batch(b["image"], b["label"]),
    ),
    Case("list", lambda: DataLoader(Photos(), 8, shuffle=True, collate_fn=of_kind(lambda x, y: [x, y]))),
    Case("namedtuple", lambda: DataLoader(Photos(), 8, shuffle=True, collate_fn=of_kind(Named))),
    *(
        Case(
            f"{kind.__name__.lower()} of the user's",
            lambda kind=kind: DataLoader(Photos(), 8, shuffle=True, collate_fn=of_kind(kind)),
            lambda kind=kind: DataLoader(Photos(20, seed=1), 8, collate_fn=of_kind(kind)),
            read=read_attributes,
        )
        for kind in (Record, Custom)
    ),
    Case("collate that drops", lambda: DataLoader(Photos(), 8, collate_fn=drop), expect="drops or adds"),
    Case(
        "collate that drops now and then",
        lambda: DataLoader(Photos(), 8, shuffle=True, collate_fn=drop_large_only),
        expect="drops or adds",
    ),
    Case(
        "collate that drops, lazily",
        lambda: DataLoader(Photos(), 8, shuffle=True, collate_fn=drop_large_only),
        cache={"fill": "lazy"},
        expect="drops or adds",
    ),
    Case("collate that reorders", lambda: DataLoader(Photos(), 8, shuffle=True, collate_fn=reorder), expect="index="),
    Case(
        "collate that reorders alike",
        lambda: DataLoader(Photos(), 8, shuffle=True, collate_fn=reorder_alike),
        expect="index=",
    ),
    Case(
        "collate that reorders, with the index named",
        lambda: DataLoader(WithIndex(), 8, shuffle=True, collate_fn=reorder),
        lambda: DataLoader(WithIndex(20, seed=1), 8),
        cache={"index": 2},
    ),
    Case(
        "iterable with a key",
        lambda: DataLoader(Stream(AsDict()), 8, num_workers=2),
        lambda: DataLoader(AsDict(20, seed=1), 8),
        read=lambda b: Batch(b["image"], b["label"]),
        cache={"index": "index", "num_samples": 1000},
    ),
    Case("iterable without a key", lambda: DataLoader(Stream(Photos()), 8), expect="live"),
    Case("an iterable of batches", lambda: Batches(), expect="live"),
    *(
        Case(f"CombinedLoader {mode}", lambda mode=mode: combined(mode), **COMBINED)
        for mode in ("max_size_cycle", "min_size", "max_size")
    ),
    Case(
        "CombinedLoader short leg, 1 batch",
        lambda: combined("max_size_cycle", b=DataLoader(Photos(4, seed=2), 5)),
        **COMBINED,
    ),
    Case("CombinedLoader limited", lambda: combined("max_size_cycle"), trainer={"limit_train_batches": 4}, **COMBINED),
    Case(
        "CombinedLoader with an iterable leg",
        lambda: combined("min_size", b=DataLoader(Stream(Photos(17)), 5)),
        expect="live",
        stages=("train",),
        **COMBINED,
    ),  # Lightning itself does not validate after such an epoch
    Case(
        "CombinedLoader sequential in validation",
        val=lambda: CombinedLoader([DataLoader(Photos(9, seed=2), 4), DataLoader(Photos(11, seed=3), 4)], "sequential"),
    ),
    Case(
        "several validation loaders",
        val=lambda: [DataLoader(Photos(9, seed=2), 4), DataLoader(Photos(11, seed=3), 4, num_workers=1)],
    ),
    Case("one loader for training and validation", run=lambda t, m, train, val: t.fit(m, train, train)),
    Case("limit_train_batches=3", trainer={"limit_train_batches": 3}),
    Case(
        "limit_train_batches=0.5, workers",
        lambda: DataLoader(Photos(), 4, shuffle=True, num_workers=2),
        trainer={"limit_train_batches": 0.5, "limit_val_batches": 1},
    ),
    Case("overfit_batches", lambda: DataLoader(Photos(), 8), trainer={"overfit_batches": 2}),
    Case("fast_dev_run", trainer={"fast_dev_run": True}),
    Case(
        "val_check_interval",
        lambda: DataLoader(Photos(), 8, shuffle=True, num_workers=2),
        trainer={"val_check_interval": 2},
    ),
    Case("reload every epoch", run=fit_datamodule(Reloading), trainer={"reload_dataloaders_every_n_epochs": 1}),
    Case("accumulation", trainer={"accumulate_grad_batches": 3}),
    Case("resume in the middle", run=resume_in_the_middle),
    Case(
        "resume in the middle, workers",
        lambda: DataLoader(Photos(), 8, shuffle=True, num_workers=2),
        run=resume_in_the_middle,
    ),
    *(
        Case(
            f"resume in the middle, StatefulDataLoader workers={n}",
            lambda n=n: stateful(num_workers=n),
            run=resume_in_the_middle,
        )
        for n in (0, 2)
    ),
    Case("StatefulDataLoader in_order=False", lambda: stateful(num_workers=2, in_order=False), slow=True),
    Case("bf16-mixed", trainer={"precision": "bf16-mixed"}),
    Case("64-true", trainer={"precision": "64-true"}),
    Case("fit twice", run=fit_twice),
    Case(
        "fit twice, persistent workers",
        lambda: DataLoader(Photos(), 8, shuffle=True, num_workers=2, persistent_workers=True),
        run=fit_twice,
    ),
    Case("validate, fit, test, predict", run=all_stages, stages=("train", "validate", "test", "predict")),
    Case("learning-rate finder", run=find_learning_rate),
    *(
        [Case("EMA (WeightAveraging)", callbacks=lambda: [pl.callbacks.WeightAveraging()])]
        if hasattr(pl.callbacks, "WeightAveraging")  # Lightning 2.6
        else []
    ),
    Case("StochasticWeightAveraging", callbacks=stochastic_weight_averaging),
    Case("DataModule, random_split", run=fit_datamodule(Data)),
    Case(
        "a callback that iterates the loader",
        lambda: DataLoader(Photos(), 8, shuffle=True, num_workers=1),
        callbacks=lambda: [Peeking()],
    ),
    Case("lightning.pytorch", namespace="lightning.pytorch"),
    *(
        Case(
            f"random augmentation, views=3, workers={n}",
            lambda n=n: DataLoader(Photos(transform=augment), 8, shuffle=True, num_workers=n),
            cache={"views": 3},
        )
        for n in (0, 2)
    ),
    Case(
        "random augmentation, views=3, __getitems__ and Subset",
        lambda: DataLoader(Subset(Fetching(transform=augment), range(3, 40)), 8, shuffle=True),
        cache={"views": 3},
    ),
    Case(
        "random augmentation, views=2, spawned and persistent",
        lambda: DataLoader(
            Photos(transform=augment), 8, num_workers=1, multiprocessing_context="spawn", persistent_workers=True
        ),
        cache={"views": 2},
        slow=True,
    ),
    Case(
        "random augmentation, views=3, lazily",
        lambda: DataLoader(Photos(transform=augment), 8),
        cache={"views": 3, "fill": "lazy"},
        trainer={"max_epochs": 4},
    ),
    Case("random augmentation, views=1", lambda: DataLoader(Photos(transform=augment), 8), expect="views=1"),
    Case(
        "random augmentation, live",
        lambda: DataLoader(Photos(transform=augment), 8),
        cache={"fill": "never"},
        expect="never",
    ),
    Case(
        "own generator, views=3",
        lambda: DataLoader(OwnGenerator(), 8),
        cache={"views": 3},
        expect="generator of its own",
    ),
    Case("collate that mixes", lambda: DataLoader(Photos(), 8, collate_fn=mix), expect="is random"),
    Case(
        "collate that mixes, views=3",
        lambda: DataLoader(Photos(), 8, collate_fn=mix),
        cache={"views": 3},
        expect="mixes",
    ),
]


class Batches:
    def __iter__(self) -> Iterator[Any]:
        data = Photos()
        return (default_collate([data[i] for i in range(start, start + 8)]) for start in (0, 8, 16))


def crossed() -> Any:
    data = Photos()
    return ConcatDataset([Subset(data, range(20, 40)), Subset(data, range(10))])


class Batching(Photos):
    """Makes the batch itself from a list of positions."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, list):
            return default_collate([self[i] for i in index])
        return super().__getitem__(index)


class Chunks(Photos):
    """Each sample is a batch of 4."""

    def __len__(self) -> int:
        return LENGTH // 4

    def __getitem__(self, index: int) -> Any:
        return default_collate([Photos.__getitem__(self, 4 * index + i) for i in range(4)])
