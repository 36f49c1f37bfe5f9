"""The deployed model that is to be replaced: frozen, and out of the new one's way."""

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_graceful.data.batch import BatchAdapter, Outputs, batch_size, default_batch, tensors_in
from lightning_graceful.models.capture import OutputCapture, find_module, logits_in
from lightning_graceful.models.checkpoint import module_from_checkpoint
from lightning_graceful.models.frozen import Frozen, freeze
from lightning_graceful.models.hparams import name_in_yaml
from lightning_graceful.models.parking import park, unpark


class OldModel:
    """A frozen snapshot of a trained model that answers ``outputs(batch)``.

    It is no ``nn.Module``: assigned to a LightningModule it enters neither ``state_dict`` nor the optimiser, DDP, the
    parameter counts of summaries, or what ``to()``, ``half()`` and ``train()`` of that module reach. The snapshot is a
    copy: a model may be fine-tuned while its ``OldModel`` stays as it was. It runs in eval mode, without grad and
    without autocast, so that its outputs do not depend on the precision in which the new model trains.

    A ``deepcopy`` of a module shares its old model; a pickle carries it whole. As an argument that
    ``save_hyperparameters()`` took, it is left out of the checkpoints of graceful modules and of trainers with a
    callback of this library: pass it again to ``load_from_checkpoint(path, old=old)``. Elsewhere:
    ``save_hyperparameters(ignore=["old"])``.

    Args:
        model: A trained module, called with the batch's inputs.
        batch: Function from what the DataLoader delivers to ``Batch(inputs, target)``; default: tuples, dicts,
            Hugging Face.
        logits: Path of the module whose output is the logits; default: what the model returns.
        embedding: Path of the module whose output is the embedding; default: no embedding.
        classifier: Path of the head; a frozen copy of it is ``old.classifier``, which a term may hold and move.
        label_map: For each *new* class the column of the old model's logits, or -1 for a class that it never knew (its
            logits are ``-inf`` then). Default: the classes are the same.

    Raises:
        ValueError: If ``model`` is no module, a path names nothing, or ``label_map`` is no list of columns.

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
        with torch.inference_mode(False):  # in a validation hook, copies would be no good for training
            self._module = freeze(copy.deepcopy(model))
            self.classifier = (
                None if classifier is None else Frozen(copy.deepcopy(find_module(self._module, classifier)))
            )
        watched = logits is not None or embedding is not None
        self._capture = OutputCapture(self._module, logits=logits, embedding=embedding) if watched else None
        self._label_map = None if label_map is None else _checked_map(label_map)
        self.batch: BatchAdapter = batch or default_batch
        name_in_yaml(type(self))
        self.options = {
            "logits": logits,
            "embedding": embedding,
            "label_map": None if self._label_map is None else self._label_map.tolist(),
        }

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        module: type[nn.Module] | nn.Module | Callable[[], nn.Module] | str,
        *,
        weights_only: bool = True,
        **options: Any,
    ) -> "OldModel":
        """Build an old model from a checkpoint of Lightning, or from a saved ``state_dict``.

        Args:
            path: The file.
            module: A LightningModule class or its dotted path (built from the hyper-parameters in the checkpoint), a
                built instance, or a function without arguments that builds one. Its ``state_dict`` is filled strictly.
            weights_only: Refuse a file that holds more than tensors and plain values. ``False`` runs whatever code the
                file carries: only for files that you trust.
            options: Further arguments of :class:`OldModel`.

        Returns:
            The old model, on the CPU.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If the file holds more than weights, weights of another class, or none.
        """
        return cls(module_from_checkpoint(Path(path), module, weights_only=weights_only), **options)

    def outputs(self, batch: Any) -> Outputs:
        """Run the old model on a batch.

        Args:
            batch: What the DataLoader delivers, on the device of :meth:`to`.

        Returns:
            Logits ``(N, C)`` in the order of the new classes, and the embedding ``(N, D)`` if asked for; float32,
            without grad.

        Raises:
            RuntimeError: If the batch is on another device, the model cannot be called, or it returns no 2-D scores and
                no path says where they are.
        """
        parts = self.batch(batch)
        self._check_device(parts.inputs)
        # What a model makes and keeps while it validates must serve in training, too: no tensors of inference mode.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            inputs = _cast(parts.inputs, self._floating_dtype())
            self._module.eval()  # whoever got hold of an inner module may have said train()
            if self._capture is None:
                outputs = Outputs(_scores(self._call(inputs)))
            else:
                with self._capture as capture:
                    outputs = self._captured(capture, inputs, batch_size(parts))
            if self._label_map is not None and outputs.logits is not None:
                outputs = outputs._replace(logits=_reorder(outputs.logits, self._label_map))
            return Outputs(*(None if part is None else part.detach().float() for part in outputs))

    def to(self, device: torch.device | str) -> "OldModel":
        """Move to a device; ``classifier`` stays where it is, for it belongs to the term that holds it.

        Returns:
            Itself.
        """
        with torch.inference_mode(False):  # a validation hook may move it, and tensors made there are maimed
            self._module.to(device)
        return self

    def park(self, folder: str | Path) -> "OldModel":
        """Give the memory of the weights back, once nothing needs them: they move to files and are read when used.

        Each parameter and buffer becomes a map of an unnamed temporary file, on the CPU. All goes on to work;
        :meth:`to` brings the weights back to a device, a pickle back to memory. Where the folder cannot be written to,
        nothing changes.

        Args:
            folder: Where to put the files, on a disk; they take as much space as the weights and vanish with them.

        Returns:
            Itself.
        """
        park((tensor for _, tensor in self._tensors()), Path(folder))
        return self

    @property
    def device(self) -> torch.device:
        """Device of the weights (CPU for a model without any)."""
        return next((tensor.device for _, tensor in self._tensors()), torch.device("cpu"))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights, buffers, kinds of layers, output options and ``batch``; 0.1 s for 100 MB.

        It does not depend on device, ``requires_grad`` or mode. Never kept: nobody could tell whether it still holds.
        """
        layers = [(name, _forward_of(type(module))) for name, module in self._module.named_modules()]
        digest = hashlib.sha256(f"{layers} {self.options} {_code(self.batch)}".encode())
        for name, tensor in self._tensors():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
            digest.update(dense.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def __deepcopy__(self, _memo: Any) -> "OldModel":
        """Return itself: its weights never change, and a second copy of them would serve nobody.

        Returns:
            Itself.
        """
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Bring parked weights back into memory first: another process cannot open the files that hold them.

        Returns:
            The attributes.
        """
        unpark(tensor for _, tensor in self._tensors())
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come back, in another process perhaps."""
        self.__dict__.update(state)
        name_in_yaml(type(self))

    def __repr__(self) -> str:
        """Name the model and its size.

        Returns:
            One line.
        """
        size = sum(parameter.numel() for parameter in self._module.parameters())
        return f"OldModel({type(self._module).__name__}, {size:,} parameters, {self.device})"

    def _check_device(self, inputs: Any) -> None:
        # One part on the model's device will do: lengths, say, may be wanted on the CPU.
        has_weights = next(self._tensors(), None) is not None
        found = {tensor.device for tensor in tensors_in(inputs)}
        if has_weights and found and self.device not in found:
            raise RuntimeError(
                f"Expected the batch on the old model's device, {self.device}, got it on {next(iter(found))}. Move "
                "one of them: old.to(batch_device)."
            )

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        # Not state_dict, which leaves out buffers that are not persistent.
        return itertools.chain(self._module.named_parameters(), self._module.named_buffers())

    def _floating_dtype(self) -> torch.dtype:
        return next((p.dtype for p in self._module.parameters() if p.is_floating_point()), torch.float32)

    def _captured(self, capture: OutputCapture, inputs: Any, size: int) -> Outputs:
        returned = logits_in(self._call(inputs))
        logits = capture.logits(size) if self.options["logits"] else returned
        embedding = capture.embedding(size) if self.options["embedding"] else None
        return Outputs(logits if logits is not None and logits.ndim == 2 else None, embedding)

    def _call(self, inputs: Any) -> Any:
        try:
            if isinstance(inputs, Mapping):
                return self._module(**inputs)
            return self._module(*inputs) if isinstance(inputs, tuple) else self._module(inputs)
        except NotImplementedError as error:
            if 'missing the required "forward"' not in str(error):
                raise
            name = type(self._module).__name__
            raise RuntimeError(
                f"Expected a model that can be called, but {name} has no forward. Pass the network in it (such as "
                "OldModel(module.net)), or define forward."
            ) from error


def _checked_map(label_map: Sequence[int]) -> Tensor:
    columns = torch.as_tensor(label_map)
    if columns.ndim != 1 or columns.is_floating_point() or not len(columns) or int(columns.min()) < -1:
        raise ValueError(f"Expected label_map to be a list of columns of the old model, or -1, got {label_map!r}.")
    return columns.to("cpu", torch.int64)


def _cast(inputs: Any, dtype: torch.dtype) -> Any:
    if isinstance(inputs, Tensor):
        # A copy: a model that works in place must not alter the batch that the new one sees after it.
        return inputs.to(dtype if inputs.is_floating_point() else inputs.dtype, copy=True)
    if isinstance(inputs, Mapping):
        return {key: _cast(value, dtype) for key, value in inputs.items()}
    if isinstance(inputs, list | tuple):
        parts = [_cast(value, dtype) for value in inputs]
        return tuple(parts) if isinstance(inputs, tuple) else parts
    return inputs


def _reorder(logits: Tensor, label_map: Tensor) -> Tensor:
    if int(label_map.max()) >= logits.shape[1]:
        raise ValueError(
            f"Expected label_map to hold columns of the old model, below {logits.shape[1]}, got {label_map.tolist()}."
        )
    columns = label_map.to(logits.device)
    return logits[:, columns.clamp(min=0)].masked_fill(columns < 0, -torch.inf)


def _scores(result: Any) -> Tensor:
    scores = logits_in(result)
    if scores is None or scores.ndim != 2:
        shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise RuntimeError(
            f"Expected the old model to return scores (N, C), got {shape}. "
            'Name the module whose output they are: OldModel(model, logits="path.of.module").'
        )
    return scores


def _forward_of(kind: type) -> str:
    # The class that defines what a module computes: a graceful model computes what its base does.
    return next((base.__qualname__ for base in kind.__mro__ if "forward" in vars(base)), kind.__qualname__)


def _code(function: BatchAdapter) -> str:
    # By its byte code: two lambdas have one name, and a repr holds addresses.
    code = getattr(function, "__code__", None)
    if code is None or function is default_batch:
        return str(getattr(function, "__qualname__", type(function).__qualname__))
    constants = [constant for constant in code.co_consts if isinstance(constant, str | int | float)]
    return f"{code.co_code.hex()} {code.co_names} {constants}"
