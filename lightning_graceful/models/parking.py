"""Move weights out of a process's own memory into files that the system may page out."""

import ctypes
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor


def park(tensors: Iterable[Tensor], folder: Path) -> None:
    """Put each tensor into a memory-mapped file on the CPU; the tensors stay the same objects and go on to work.

    Each file is unlinked as soon as it is mapped: it takes space on the disk while the tensors live and leaves nothing
    behind. Tensors that share memory go on to do so. What is mapped already, has no memory or is not dense is left
    alone. Where ``folder`` cannot be written to, or is full, tensors stay as they are: this saves memory, no more. On a
    file system in memory (tmpfs) nothing is saved.

    Args:
        tensors: Such as the parameters and buffers of a module.
        folder: Where to put the files; on a disk.

    Example:
        >>> weight = torch.ones(3)
        >>> park([weight], Path("."))
        >>> weight.sum()
        tensor(3.)
    """
    _move((tensor for tensor in tensors if _can_park(tensor)), lambda storage: _map(storage, folder))
    _give_back_freed_memory()


def unpark(tensors: Iterable[Tensor]) -> None:
    """Bring what was parked back into memory; the tensors stay the same objects.

    Args:
        tensors: Such as the parameters and buffers of a module.
    """
    parked = (tensor for tensor in tensors if _file_of(tensor) is not None)
    _move(parked, lambda storage: storage.clone())  # type: ignore[no-untyped-call]


def _move(tensors: Iterable[Tensor], move: Callable[[torch.UntypedStorage], torch.UntypedStorage]) -> None:
    moved: dict[int, torch.UntypedStorage] = {}
    with torch.inference_mode(False), torch.no_grad():
        for tensor in tensors:
            key = tensor.untyped_storage().data_ptr()
            if key not in moved:
                try:
                    moved[key] = move(tensor.untyped_storage())
                except (OSError, RuntimeError):
                    return
            layout = tensor.storage_offset(), tensor.shape, tensor.stride()
            tensor.data = torch.empty(0, dtype=tensor.dtype).set_(moved[key], *layout)


def _can_park(tensor: Tensor) -> bool:
    is_plain = type(tensor.data) is Tensor and tensor.layout == torch.strided
    if not is_plain or tensor.device.type == "meta" or tensor.is_conj() or tensor.is_neg():
        return False
    return tensor.untyped_storage().nbytes() > 0 and _file_of(tensor) is None


def _file_of(tensor: Tensor) -> str | None:
    if tensor.layout != torch.strided:
        return None
    return getattr(tensor.untyped_storage(), "filename", None)


def _map(storage: torch.UntypedStorage, folder: Path) -> torch.UntypedStorage:
    content = torch.empty(0, dtype=torch.uint8).set_(storage.cpu())  # type: ignore[no-untyped-call]
    # Written, not only made so long: a full disk must show now, not as a crash at the first read.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".old_model_", delete=False) as file:
        try:
            file.write(content.numpy().data)
            file.flush()
            mapped: Any = torch.UntypedStorage.from_file(file.name, shared=True, nbytes=storage.nbytes())
            return cast(torch.UntypedStorage, mapped)
        finally:
            os.unlink(file.name)


def _give_back_freed_memory() -> None:
    # glibc keeps freed blocks for the process; other systems have no such function.
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return
