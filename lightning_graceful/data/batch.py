"""What a batch holds, and what a model says of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """What a model says of a batch; either part may be None.

    Attributes:
        logits: Scores, floating, shape ``(N, C)``; ``-inf`` marks a class that the model never knew.
        embedding: Embeddings, floating, shape ``(N, D)``.
    """

    logits: Tensor | None = None
    embedding: Tensor | None = None


class Batch(NamedTuple):
    """The two parts of a batch that this library looks at.

    Attributes:
        inputs: What the model is called with: a tensor or list (``model(x)``), a tuple (``model(*x)``) or a dict
            (``model(**x)``).
        target: True labels, integer, shape ``(N,)``, or None where the batch carries none.
    """

    inputs: Any
    target: Tensor | None


BatchAdapter = Callable[[Any], Batch]

INPUT_KEYS = ("image", "images", "x", "input", "inputs", "pixel_values", "data", "features")
TARGET_KEYS = ("target", "targets", "label", "labels", "y")
TOKENS_KEY = "input_ids"
EXPECTED = (
    f"Expected (inputs, target), a dict with one of the input keys {', '.join(INPUT_KEYS)} and one of the target keys "
    f"{', '.join(TARGET_KEYS)}, or a tensor"
)
REMEDY = "Pass batch=lambda b: Batch(inputs, target)."


def default_batch(batch: Any) -> Batch:
    """Read the usual kinds of batch; anything else needs a ``batch=`` function of the user.

    - a tensor: inputs without a target;
    - a tuple or list (also named): its first two entries are inputs and target. Two tensors of one shape are refused,
      for they may as well be two views or tokens and mask;
    - a dict with one of ``INPUT_KEYS`` and at most one tensor under ``TARGET_KEYS``;
    - a tokenised (Hugging Face) dict: everything but the target keys is passed to the model by name.

    Args:
        batch: What the DataLoader delivers.

    Returns:
        Inputs and target.

    Raises:
        ValueError: If the batch is of another kind, or it is not clear which part is which.

    Example:
        >>> import torch
        >>> default_batch({"image": torch.zeros(2, 3), "label": torch.tensor([1, 0])}).target.tolist()
        [1, 0]
    """
    if isinstance(batch, Tensor):
        return Batch(batch, None)
    if isinstance(batch, Mapping):
        return _from_mapping(batch)
    if _is_list(batch) and len(batch) == 1:
        return Batch(batch[0], None)
    if _is_list(batch) and len(batch) >= 2 and _is_target(batch[1], batch[0]):
        return Batch(batch[0], batch[1])
    raise ValueError(f"{EXPECTED}, got {_describe(batch)}. {REMEDY}")


def batch_size(batch: Batch) -> int:
    """Count the samples of a batch: the length of the target, else of the first input tensor.

    Args:
        batch: Inputs and target.

    Returns:
        Number of samples.

    Raises:
        ValueError: If the batch holds no tensor.
    """
    for tensor in _leaves([batch.target, batch.inputs]):
        return len(tensor)
    raise ValueError(f"Expected a tensor among the inputs, got {_describe(batch.inputs)}. {REMEDY}")


def _from_mapping(batch: Mapping[str, Any]) -> Batch:
    targets = [batch[key] for key in TARGET_KEYS if isinstance(batch.get(key), Tensor)]
    if TOKENS_KEY in batch:
        inputs: list[Any] = [{key: value for key, value in batch.items() if key not in TARGET_KEYS}]
    else:
        inputs = [batch[key] for key in INPUT_KEYS if key in batch]
    if len(inputs) != 1 or len(targets) > 1:
        raise ValueError(f"{EXPECTED}, got {_describe(batch)}. {REMEDY}")
    return Batch(inputs[0], targets[0] if targets else None)


def _is_target(value: Any, inputs: Any) -> bool:
    is_input_like = isinstance(inputs, Tensor) and isinstance(value, Tensor) and value.shape == inputs.shape
    return isinstance(value, Tensor) and not (is_input_like and value.ndim > 1)


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.ndim else []
    if isinstance(value, Mapping):
        value = list(value.values())
    return [leaf for part in value for leaf in _leaves(part)] if _is_list(value) else []


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict with the keys {sorted(map(str, batch))}"
    if _is_list(batch):
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in batch]
        return f"a {type(batch).__name__} of {shapes}"
    return f"a {type(batch).__name__}"
