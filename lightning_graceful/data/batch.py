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
        inputs: What the model is called with: a tensor (``model(x)``), a tuple (``model(*x)``) or a dict (``model(**x)``).
        target: True labels, integer, shape ``(N,)``, or None where the batch carries none.
    """

    inputs: Any
    target: Tensor | None


BatchAdapter = Callable[[Any], Batch]

INPUT_KEYS = ("image", "images", "x", "input", "inputs", "pixel_values", "data", "features")
TARGET_KEYS = ("target", "targets", "label", "labels", "y")
EXPECTED = (
    "Expected (inputs, target), a dict with an input key "
    f"({', '.join(INPUT_KEYS)}) and a target key ({', '.join(TARGET_KEYS)}), or a tensor"
)


def default_batch(batch: Any) -> Batch:
    """Read the usual kinds of batch; anything else needs a ``batch=`` function of the user.

    - a tensor: inputs without a target;
    - a tuple or list: its first two entries are inputs and target (also named tuples);
    - a dict with one of ``INPUT_KEYS`` and one of ``TARGET_KEYS``;
    - a tokenised (Hugging Face) dict: everything but the target key is passed to the model by name.

    Args:
        batch: What the DataLoader delivers.

    Returns:
        Inputs and target.

    Raises:
        ValueError: If the batch is of another kind.

    Example:
        >>> import torch
        >>> default_batch({"image": torch.zeros(2, 3), "label": torch.tensor([1, 0])}).target.tolist()
        [1, 0]
    """
    if isinstance(batch, Tensor):
        return Batch(batch, None)
    if isinstance(batch, Mapping):
        return _from_mapping(batch)
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) >= 2 and _is_target(batch[1]):
        return Batch(batch[0], batch[1])
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 1:
        return Batch(batch[0], None)
    raise ValueError(f"{EXPECTED}, got {_describe(batch)}. Pass batch=lambda b: Batch(inputs, target).")


def batch_size(batch: Batch) -> int:
    """Count the samples of a batch: the length of the target, else of the first input tensor.

    Args:
        batch: Inputs and target.

    Returns:
        Number of samples.

    Raises:
        ValueError: If the batch holds no tensor.
    """
    if batch.target is not None:
        return len(batch.target)
    for value in _leaves(batch.inputs):
        return len(value)
    raise ValueError(f"Expected a tensor among the inputs, got {_describe(batch.inputs)}. Pass batch=.")


def first_input(inputs: Any) -> Tensor | None:
    """Return the first tensor among the inputs, or None."""
    return next(iter(_leaves(inputs)), None)


def _leaves(inputs: Any) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    if isinstance(inputs, Mapping):
        inputs = list(inputs.values())
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        return [leaf for value in inputs for leaf in _leaves(value)]
    return []


def _from_mapping(batch: Mapping[str, Any]) -> Batch:
    target = next((batch[key] for key in TARGET_KEYS if key in batch), None)
    if "input_ids" in batch:
        return Batch({key: value for key, value in batch.items() if key not in TARGET_KEYS}, target)
    found = next((key for key in INPUT_KEYS if key in batch), None)
    if found is None:
        raise ValueError(f"{EXPECTED}, got {_describe(batch)}. Pass batch=lambda b: Batch(inputs, target).")
    return Batch(batch[found], target)


def _is_target(value: Any) -> bool:
    return isinstance(value, Tensor)


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict with the keys {sorted(map(str, batch))}"
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return f"a {type(batch).__name__} of {[type(value).__name__ for value in batch]}"
    return f"a {type(batch).__name__}"
