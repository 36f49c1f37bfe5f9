"""Run a function on several gloo processes."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIME_LIMIT = 60.0


def run_ddp(fn: Callable[..., Any], world_size: int = 2, *args: Any) -> list[Any]:
    """Call ``fn(rank, world_size, *args)`` on each rank and return the results by rank.

    ``fn`` must be importable (defined at the top of a module). What it raises on any rank is raised here.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = mp.spawn(_work, (fn, world_size, args, folder), nprocs=world_size, join=False)
        deadline = time.monotonic() + TIME_LIMIT
        try:
            while not context.join(timeout=1.0):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"Expected {world_size} ranks to finish in {TIME_LIMIT:.0f} s.")
        finally:
            for process in context.processes:
                process.kill()
                process.join()
        return [torch.load(Path(folder, str(rank)), weights_only=False) for rank in range(world_size)]


def _work(rank: int, fn: Callable[..., Any], world_size: int, args: tuple[Any, ...], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    try:
        torch.save(fn(rank, world_size, *args), Path(folder, str(rank)))
        dist.barrier()  # a rank that leaves early takes its connections along
    finally:
        dist.destroy_process_group()
