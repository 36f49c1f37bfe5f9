"""Maps on disk: one safetensors file, whose header says in JSON what it holds."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lightning_graceful.report.drafts import draft_of

_KEY = "lightning_graceful"
_VERSION = 1
_Module = TypeVar("_Module", bound=nn.Module)


def write_module(path: str | Path, module: nn.Module, options: Mapping[str, Any]) -> None:
    """Write a module's ``state_dict`` and what it is built from; the file is there whole or not at all.

    Args:
        path: The file; its folder is made.
        module: The module.
        options: Arguments of its class, of JSON's kinds.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    header = {"version": _VERSION, "kind": type(module).__name__, "options": dict(options)}
    header["checksum"] = _checksum(tensors, header)
    with draft_of(Path(path)) as draft:
        safetensors.torch.save_file(tensors, draft, metadata={_KEY: json.dumps(header)})


def read_module(path: str | Path, kind: type[_Module]) -> _Module:
    """Build a module from its file.

    Args:
        path: The file.
        kind: The class that wrote it.

    Returns:
        The module, on the CPU, in eval mode and without grad.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is damaged, of something else, or of a later version.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_module(f"{folder}/a.safetensors", nn.Linear(2, 3), {"in_features": 2, "out_features": 3})
        ...     read_module(f"{folder}/a.safetensors", nn.Linear)
        Linear(in_features=2, out_features=3, bias=True)
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected a file of {kind.__name__} at {path}, found none.")
    with torch.inference_mode(False):  # or autograd could not look through it later
        return _rebuilt(Path(path), kind)


def _rebuilt(path: Path, kind: type[_Module]) -> _Module:
    header, tensors = _read(path, kind.__name__)
    if header.pop("checksum") != _checksum(tensors, header):
        raise ValueError(f"Expected {path} as it was written, but it has changed since. Copy or fit it again.")
    # On no device, so that a width of the header reserves no memory before it is compared with the tensors.
    try:
        with torch.device("meta"):
            module = kind(**header["options"])
        module.load_state_dict(tensors, assign=True)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        detail = " ".join(str(error).split())[:400]
        raise ValueError(f"Expected {path} as it was written, but its parts do not fit: {detail}") from error
    return module.eval().requires_grad_(False)


def _read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        header = json.loads(metadata.get(_KEY, "{}"))
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"Expected a safetensors file of {kind} at {path}, but it cannot be read: {error}.") from error
    if not isinstance(header, dict) or not {"version", "kind", "options", "checksum"} <= header.keys():
        raise ValueError(f"Expected a file that {kind}.save wrote at {path}, got a safetensors file of something else.")
    if header["version"] != _VERSION or header["kind"] != kind:
        raise ValueError(
            f"Expected {path} to hold {kind}, format {_VERSION}, got {header['kind']}, format {header['version']}. "
            "Load it with that class, or update lightning-graceful."
        )
    return header, tensors


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> int:
    # safetensors has none: a flipped bit would only be a wrong number.
    crc = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().tobytes(), crc)
    return crc
