"""A model built and filled from a checkpoint of Lightning, or from a saved ``state_dict``."""

import copy
import inspect
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

from lightning_graceful.data.replay import seeded


def module_from_checkpoint(
    path: Path, module: type[nn.Module] | nn.Module | Callable[[], nn.Module] | str, *, weights_only: bool
) -> nn.Module:
    """Build a module and fill its ``state_dict`` strictly.

    Args:
        path: The file.
        module: A class, its dotted path, a built instance (left as it is), or a function without arguments that builds
            one.
        weights_only: Refuse a file that holds more than tensors and plain values.

    Returns:
        The module, on the CPU.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file holds more than weights, weights of another class, or none.
    """
    checkpoint = _load(path, weights_only=weights_only)
    with seeded(0):  # weights that are overwritten must not move the random numbers of the training
        model: Any = _build(_named(module) if isinstance(module, str) else module, checkpoint)
    if "state_dict" in checkpoint and hasattr(model, "on_load_checkpoint"):
        # As Lightning does before it loads: layers may be made, or resized, there.
        model.configure_model()
        model.on_load_checkpoint(checkpoint)
    try:
        model.load_state_dict(_uncompiled(checkpoint.get("state_dict", checkpoint), model))
    except (RuntimeError, TypeError) as error:
        detail = " ".join(str(error).split())
        raise ValueError(
            f"Expected a checkpoint of {type(model).__name__}, but {path} holds other weights ({detail[:400]}). "
            "Pass the class, or an instance of the architecture, that the old model was trained with."
        ) from error
    return model.cpu()  # type: ignore[no-any-return]


def _named(path: str) -> Any:
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, ValueError, AttributeError) as error:
        raise ValueError(f"Expected the dotted path of the model's class, got {path!r}: {error}.") from error


def _uncompiled(state: Any, model: nn.Module) -> Any:
    if not isinstance(state, dict):
        return state
    # torch.compile of a submodule puts "_orig_mod" into every name below it.
    wanted = model.state_dict().keys()
    return {name if name in wanted else name.replace("_orig_mod.", ""): value for name, value in state.items()}


def _load(path: Path, *, weights_only: bool) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"Expected a checkpoint at {path}, found no file.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=weights_only)
    except Exception as error:
        reason = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
        if not weights_only:
            raise ValueError(
                f"Expected {path} to be a checkpoint, but it could not be read so ({reason[:300]}). Is it whole?"
            ) from error
        refused = re.search(r"GLOBAL (\S+)", reason)
        raise ValueError(
            f"Expected {path} to hold tensors and plain values only, but it "
            f"{f'holds {refused[1]}' if refused else f'could not be read so ({reason[:300]})'}. If you trust the file: "
            "OldModel.from_checkpoint(..., weights_only=False)."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"Expected a checkpoint or a state_dict in {path}, got {type(checkpoint).__name__}.")
    return checkpoint


def _build(module: Any, checkpoint: dict[str, Any]) -> nn.Module:
    if isinstance(module, nn.Module):
        return copy.deepcopy(module)
    try:
        built = module(**_hyper_parameters(module, checkpoint)) if _is_module_class(module) else module()
    except TypeError as error:
        raise ValueError(
            f"Expected the checkpoint's hyper-parameters to build {getattr(module, '__name__', module)}, but {error}. "
            "Pass a built instance, or a function that builds one."
        ) from error
    if not isinstance(built, nn.Module):
        raise ValueError(
            f"Expected a class, an instance or a function that gives an nn.Module, got {type(built).__name__}."
        )
    return built


def _hyper_parameters(module: type[nn.Module], checkpoint: dict[str, Any]) -> dict[str, Any]:
    # Those that the class takes, as in Lightning's load_from_checkpoint.
    saved = dict(checkpoint.get("hyper_parameters", {}))
    signature = inspect.signature(module).parameters
    name = str(checkpoint.get("hparams_name"))
    if name in signature and signature[name].kind is not inspect.Parameter.VAR_KEYWORD:
        return {name: saved}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values())
    return {key: value for key, value in saved.items() if takes_any or key in signature}


def _is_module_class(module: Any) -> TypeGuard[type[nn.Module]]:
    return isinstance(module, type) and issubclass(module, nn.Module)
