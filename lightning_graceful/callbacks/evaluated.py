"""What FlipMonitor saw of a batch, told to other callbacks, so that models run and argmax is taken once."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_graceful.data.bases import base_samples
from lightning_graceful.data.identity import Samples


@dataclass(frozen=True, eq=False)
class EvaluatedBatch:
    """A batch that FlipMonitor has counted, and what both models said of it.

    Any callback of the trainer with a method ``on_evaluated_batch(trainer, pl_module, evaluated)`` is called with it
    once a batch and old model, right after FlipMonitor counted the batch, in its ``on_validation_batch_end`` or
    ``on_test_batch_end``; never in a sanity check. When ``on_validation_epoch_end`` comes, all batches were told,
    wherever the callbacks stand in the list.

    Under DDP each rank is told of its own batches. A ``DistributedSampler`` repeats samples, so that one may come
    twice, on one rank or on two: keep what is told by ``position``, where the last write wins, and merge ranks by
    position too, before anything is added up.

    Attributes:
        stage: ``"val"`` or ``"test"``.
        old_name: Name of the old model; ``""`` for the only one.
        loader: Number of the dataloader, or of the leg of a combined batch that is counted.
        index: Position of each sample in its base dataset, int64, on the CPU, shape ``(N,)``; what users' ids and
            tables mean: ``Subset``, ``random_split`` and ``ConcatDataset`` are looked through. With a ``ConcatDataset``
            of several datasets two samples may share one. None where the samples cannot be known for certain.
        target: True labels, int64, shape ``(N,)``.
        old: Logits of the old model, shape ``(N, C)``.
        new: Logits of the new model, shape ``(N, C)``.
        batch: That loader's (leg's) batch, on the device.
        position: Position of each sample in the loader's own dataset, int64, on the CPU, shape ``(N,)``: unique, and
            in ``[0, len(dataset))``. None where ``index`` is.
        dataset: The loader's own dataset; None where ``index`` is.
        code: What was decided, so that no argmax is taken again: ``1 + 4 * old_right + 2 * new_right + changed``,
            uint8, shape ``(N,)``.
    """

    stage: str
    old_name: str
    loader: int
    index: Tensor | None
    target: Tensor
    old: Tensor
    new: Tensor
    batch: Any
    position: Tensor | None
    dataset: Any
    code: Tensor

    @property
    def old_right(self) -> Tensor:
        """Whether the old model is right, bool, shape ``(N,)``."""
        return self.code > 4

    @property
    def new_right(self) -> Tensor:
        """Whether the new model is right, bool, shape ``(N,)``."""
        return (self.code - 1) & 2 > 0


def base_index(samples: Samples) -> Tensor:
    """Look up the base index of each sample of a batch.

    Args:
        samples: Whose dataset may be made of subsets.

    Returns:
        Int64, on the CPU, shape ``(N,)``.

    Example:
        >>> from torch.utils.data import Subset
        >>> position = torch.tensor([1, 0])
        >>> base_index(Samples(Subset(range(9), [8, 7]), position, torch.zeros_like(position))).tolist()
        [7, 8]
    """
    index = torch.empty_like(samples.position)
    for part in base_samples(samples.dataset, samples.position):
        index[part.row] = part.index
    return index


def tell(trainer: Any, pl_module: Any, evaluated: list[EvaluatedBatch]) -> None:
    """Call ``on_evaluated_batch`` of each callback that has it.

    Args:
        trainer: The trainer, of either namespace.
        pl_module: Its module.
        evaluated: What to tell, by old model.
    """
    for callback in trainer.callbacks:
        listen = getattr(callback, "on_evaluated_batch", None)
        if listen is not None:
            for each in evaluated:
                listen(trainer, pl_module, each)
