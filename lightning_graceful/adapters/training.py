"""The one training loop of the maps that have no closed form: AdamW, one cycle of the learning rate, seeded."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypedDict

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from lightning_graceful.data.replay import seeded

Advance = Callable[[int], None]
# Without a number of epochs: at least so many of them, and so many steps.
_EPOCHS, _STEPS = 3, 300


class TrainingOptions(TypedDict, total=False):
    """Keyword arguments of all maps that are trained; :func:`train` describes them."""

    epochs: int | None
    learning_rate: float
    batch_size: int
    weight_decay: float
    progress: bool | Advance


def train(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    rows: int,
    *,
    epochs: int | None = None,
    learning_rate: float = 5e-3,
    batch_size: int = 512,
    weight_decay: float = 0.01,
    progress: bool | Advance = True,
) -> None:
    """Train a network on all rows of a sample, in place; it ends in eval mode and without grad.

    Batches are drawn by torch's global generator on the CPU: call it in :func:`fitting`.

    Args:
        network: What is trained.
        loss: Gives the loss of some rows, a scalar, from their positions, int64 on the CPU, shape ``(B,)``.
        rows: How many rows there are.
        epochs: How often each row is seen; None: 3 times, or more often, until there were 300 steps.
        learning_rate: Where the cycle peaks.
        batch_size: Rows a step.
        weight_decay: As in AdamW.
        progress: Show a bar where standard error is a terminal, or call this with the rows of each step.

    Raises:
        ValueError: If an argument is not as said, or there are no rows.
        RuntimeError: If the loss is not finite.
    """
    batches = math.ceil(rows / _positive("batch_size", batch_size))
    epochs = max(_EPOCHS, math.ceil(_STEPS / batches)) if epochs is None else _positive("epochs", epochs)
    if not 0 < learning_rate < math.inf or not 0 <= weight_decay < math.inf:
        raise ValueError(f"Expected learning_rate > 0 and weight_decay >= 0, got {learning_rate} and {weight_decay}.")
    if not rows:
        raise ValueError("Expected at least one row to train on, got none.")
    network.requires_grad_(True)
    weights = list(network.parameters())
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=weight_decay)
    # A cycle of a single step has no slope.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(epochs * batches, 2))
    device = weights[0].device
    with _advancing(progress, epochs * rows) as advance, torch.enable_grad():
        for _ in range(epochs):
            total = torch.zeros((), device=device)
            for batch in torch.split(torch.randperm(rows), batch_size):
                with torch.autocast(device.type, enabled=False):
                    value = loss(batch)
                optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += value.detach()
                advance(len(batch))
            if not bool(total.isfinite()):
                raise RuntimeError(
                    "Expected a finite loss, got NaN or Inf. Lower learning_rate, or check the objective."
                )
    network.eval().requires_grad_(False)


@contextmanager
def fitting(seed: int, device: torch.device) -> Iterator[None]:
    """Seed all that is drawn inside and leave the caller's random numbers alone; also make weights fit for autograd.

    Args:
        seed: In ``[0, 2**32)``.
        device: Where is fitted.

    Yields:
        Nothing.
    """
    with seeded(seed, device), torch.inference_mode(False):
        yield


@contextmanager
def _advancing(progress: bool | Advance, rows: int) -> Iterator[Advance]:
    if callable(progress):
        yield progress
        return
    console = Console(stderr=True)
    columns = (TextColumn("fitting"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task("", total=rows)
        yield lambda count: bar.advance(task, count)


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"Expected {name} to be an integer of at least 1, got {value!r}.")
    return value
