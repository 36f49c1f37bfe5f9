"""The deployed model that is to be replaced: frozen, and out of the new one's way."""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from lightning_graceful.data.batch import BatchAdapter, Outputs, batch_size, default_batch
from lightning_graceful.models.capture import OutputCapture, find_module, logits_in


class OldModel:
    """A frozen snapshot of a trained model that answers ``outputs(batch)``.

    It is no ``nn.Module``: assigned to a LightningModule it enters neither ``state_dict`` nor the optimiser nor DDP. The
    snapshot is a copy: a model may be fine-tuned while its ``OldModel`` stays as it was. It runs in eval mode, without
    grad and without autocast, so that its outputs do not depend on the precision in which the new model trains.

    Args:
        model: A trained module, called with the batch's inputs.
        batch: Function from what the DataLoader delivers to ``Batch(inputs, target)``; default: tuples, dicts, Hugging Face.
        logits: Path of the module whose output is the logits; default: what the model returns.
        embedding: Path of the module whose output is the embedding; default: no embedding.
        classifier: Path of the head; a frozen copy of it is ``old.classifier``.
        label_map: For each *new* class the column of the old model's logits, or -1 for a class that it never knew (its
            logits are ``-inf`` then). Default: the classes are the same.

    Raises:
        ValueError: If ``model`` is no module, is an ``OldModel``, or a path names nothing.

    Example:
        >>> old = OldModel(nn.Linear(2, 3), label_map=[2, 0, -1])
        >>> old.outputs((torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))).logits.shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        batch: BatchAdapter | None = None,
        logits: str | None = None,
        embedding: str | None = None,
        classifier: str | None = None,
        label_map: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"Expected a trained nn.Module, got {type(model).__name__}. From a file: OldModel.from_checkpoint."
            )
        self._module = _frozen(copy.deepcopy(model))
        self._capture = OutputCapture(self._module, logits=logits, embedding=embedding) if logits or embedding else None
        self._label_map = None if label_map is None else torch.as_tensor(label_map, dtype=torch.int64)
        self.batch: BatchAdapter = batch or default_batch
        self.classifier = None if classifier is None else _frozen(copy.deepcopy(find_module(self._module, classifier)))
        self.options = {
            "logits": logits,
            "embedding": embedding,
            "label_map": None if label_map is None else list(label_map),
        }

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        module: type[nn.Module] | nn.Module | Callable[[], nn.Module],
        *,
        weights_only: bool = True,
        **options: Any,
    ) -> "OldModel":
        """Build an old model from a checkpoint of Lightning, or from a saved ``state_dict``.

        Args:
            path: The file.
            module: A LightningModule class (built from the hyper-parameters in the checkpoint), a built instance, or a
                function without arguments that builds one. Its ``state_dict`` is filled strictly.
            weights_only: Refuse a file that holds more than tensors and plain values. ``False`` runs whatever code the
                file carries: only for files that you trust.
            options: Further arguments of :class:`OldModel`.

        Returns:
            The old model, on the CPU.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If the file holds more than weights, or weights of another class.
        """
        checkpoint = _load(Path(path), weights_only=weights_only)
        state = checkpoint.get("state_dict", checkpoint)
        model = _build(module, checkpoint)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            detail = " ".join(str(error).split())
            raise ValueError(
                f"Expected a checkpoint of {type(model).__name__}, but {path} holds other weights ({detail[:400]}). "
                "Pass the class that the old model was trained with."
            ) from error
        return cls(model, **options)

    @torch.no_grad()
    def outputs(self, batch: Any) -> Outputs:
        """Run the old model on a batch.

        Args:
            batch: What the DataLoader delivers, on the device of :meth:`to`.

        Returns:
            Logits ``(N, C)`` in the order of the new classes, and the embedding ``(N, D)`` if asked for; float32 (float64
            for a float64 model), without grad.

        Raises:
            RuntimeError: If the model returns no 2-D scores and no path says where they are.
        """
        parts = self.batch(batch)
        inputs = _cast(parts.inputs, self._floating_dtype())
        device_type = self.device.type
        with torch.autocast(device_type, enabled=False):
            outputs = self._run(inputs, batch_size(parts))
        logits = outputs.logits
        if logits is not None and self._label_map is not None:
            logits = _reorder(logits, self._label_map.to(logits.device))
        return Outputs(
            *(None if part is None else _at_least_float32(part.detach()) for part in (logits, outputs.embedding))
        )

    def to(self, device: torch.device | str) -> "OldModel":
        """Move to a device; returns itself."""
        self._module.to(device)
        if self.classifier is not None:
            self.classifier.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Device of the weights (CPU for a model without any)."""
        return next((tensor.device for tensor in self._module.state_dict().values()), torch.device("cpu"))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights, buffers and output options: equal if and only if the outputs are the same function."""
        digest = hashlib.sha256(f"{type(self._module).__qualname__} {self.options}".encode())
        for name, tensor in self._module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _run(self, inputs: Any, size: int) -> Outputs:
        if any(module.training for module in self._module.modules()):
            self._module.eval()
        if self._capture is None:
            return Outputs(_scores(_call(self._module, inputs)))
        self._capture.start()
        scores = logits_in(_call(self._module, inputs))
        logits = self._capture.logits(size) if self.options["logits"] else scores
        embedding = self._capture.embedding(size) if self.options["embedding"] else None
        self._capture.stop()
        return Outputs(logits if logits is not None and logits.ndim == 2 else None, embedding)

    def _floating_dtype(self) -> torch.dtype:
        return next((p.dtype for p in self._module.parameters() if p.is_floating_point()), torch.float32)


def _frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


def _load(path: Path, *, weights_only: bool) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"Expected the old model's checkpoint at {path}, found no file.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=weights_only)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Expected {path} to hold tensors and plain values only, but it could not be read so ({reason}). "
            "If you trust the file: OldModel.from_checkpoint(..., weights_only=False)."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"Expected a checkpoint or a state_dict in {path}, got {type(checkpoint).__name__}.")
    return checkpoint


def _build(module: Any, checkpoint: dict[str, Any]) -> nn.Module:
    if isinstance(module, nn.Module):
        return copy.deepcopy(module)
    if _is_module_class(module):
        try:
            return module(**checkpoint.get("hyper_parameters", {}))
        except TypeError as error:
            raise ValueError(
                f"Expected the checkpoint's hyper-parameters to build {module.__name__}, but {error}. "
                "Pass a built instance, or a function that builds one."
            ) from error
    built = module()
    if not isinstance(built, nn.Module):
        raise ValueError(
            f"Expected a class, an instance or a function that gives an nn.Module, got {type(built).__name__}."
        )
    return built


def _is_module_class(module: Any) -> TypeGuard[type[nn.Module]]:
    return isinstance(module, type) and issubclass(module, nn.Module)


def _call(module: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, tuple) else module(inputs)


def _cast(inputs: Any, dtype: torch.dtype) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(dtype) if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {key: _cast(value, dtype) for key, value in inputs.items()}
    return type(inputs)(_cast(value, dtype) for value in inputs) if isinstance(inputs, list | tuple) else inputs


def _reorder(logits: Tensor, label_map: Tensor) -> Tensor:
    if int(label_map.max()) >= logits.shape[1] or int(label_map.min()) < -1:
        raise ValueError(
            f"Expected label_map to hold columns of the old model in [0, {logits.shape[1]}) or -1, got {label_map.tolist()}."
        )
    return logits[:, label_map.clamp(min=0)].masked_fill(label_map < 0, -torch.inf)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _scores(result: Any) -> Tensor:
    scores = logits_in(result)
    if scores is None or scores.ndim != 2:
        shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise RuntimeError(
            f"Expected the old model to return scores (N, C), got {shape}. "
            'Name the module whose output they are: OldModel(model, logits="path.of.module").'
        )
    return scores
