"""What a batch holds, and what a model says of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
LEG_REMEDY = 'Of a CombinedLoader\'s batch choose one leg: batch=lambda b: Batch(*b["labeled"]).'


def default_batch(batch: Any) -> Batch:
    """Read the usual kinds of batch; anything else needs a ``batch=`` function of the user.

    - a tensor: inputs without a target;
    - a tuple or list (also named): its first two entries are inputs and target. Two tensors of one shape are refused,
      for they may as well be two views or tokens and mask;
    - a dict with one of ``INPUT_KEYS`` and at most one tensor under ``TARGET_KEYS``;
    - a tokenised (Hugging Face) dict: everything but the target keys is passed to the model by name.

    The collection that a CombinedLoader delivers is refused: only the user knows which leg is meant.

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
    raise ValueError(_refusal(batch))


def batch_size(batch: Batch) -> int:
    """Count the samples of a batch: the length of the target, else of the first input tensor.

    Args:
        batch: Inputs and target.

    Returns:
        Number of samples.

    Raises:
        ValueError: If the batch holds no tensor.
    """
    for tensor in tensors_in([batch.target, batch.inputs]):
        return len(tensor)
    raise ValueError(f"Expected a tensor among the inputs, got {_describe(batch.inputs)}. {REMEDY}")


def tensors_in(value: Any) -> list[Tensor]:
    """List the tensors of at least one dimension in nested dicts, lists and tuples.

    Args:
        value: Such as the inputs of a batch.

    Returns:
        The tensors, in order.

    Example:
        >>> import torch
        >>> [tuple(tensor.shape) for tensor in tensors_in({"x": torch.zeros(2, 3), "ids": ["a", "b"]})]
        [(2, 3)]
    """
    if isinstance(value, Tensor):
        return [value] if value.ndim else []
    if isinstance(value, Mapping):
        value = list(value.values())
    return [leaf for part in value for leaf in tensors_in(part)] if _is_list(value) else []


def leg_of(mirror: Any, batch: Any, chosen: Batch) -> Any:
    """Pick what belongs to one leg of a CombinedLoader's batch.

    Args:
        mirror: A value, or a collection in the structure of ``batch`` with a value at each leg: ``Outputs``, a tensor,
            None or anything else that is no plain dict, list or tuple.
        batch: What the trainer delivers; legs that are exhausted may be None.
        chosen: What ``batch=`` made of it. The leg that holds one of its tensors, the very object, is meant.

    Returns:
        ``mirror`` itself where it is no collection, else its value at that leg.

    Raises:
        ValueError: If no leg holds a tensor of ``chosen``, or several do; names them.

    Example:
        >>> import torch
        >>> batch = {"labeled": (torch.zeros(2, 3), torch.tensor([1, 0])), "unlabeled": torch.ones(4, 3)}
        >>> leg_of({"labeled": "old outputs", "unlabeled": None}, batch, Batch(*batch["labeled"]))
        'old outputs'
    """
    if not _mirrors(mirror, batch):
        return mirror
    legs = list(_legs(mirror, batch, "batch"))
    meant = {id(tensor) for tensor in tensors_in([chosen.target, chosen.inputs])}
    found = [(path, value) for path, value, leg in legs if any(id(tensor) in meant for tensor in _held(leg))]
    if len(found) == 1:
        return found[0][1]
    got = f"parts of {[path for path, _ in found]}" if found else "tensors that are in none"
    raise ValueError(
        f"Expected batch= to take inputs and target, as they are, from one leg of the combined batch, got {got}. The "
        f"legs are {[path for path, *_ in legs]}. {LEG_REMEDY}"
    )


def _mirrors(mirror: Any, batch: Any) -> bool:
    if isinstance(mirror, tuple) and hasattr(mirror, "_fields"):
        # Outputs are a tuple, too; a collection that is a named tuple comes back as the same kind.
        return type(mirror) is type(batch)
    return (isinstance(mirror, Mapping) and isinstance(batch, Mapping)) or (
        isinstance(mirror, list | tuple) and isinstance(batch, list | tuple)
    )


def _legs(mirror: Any, batch: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if not _mirrors(mirror, batch):
        yield path, mirror, batch
        return
    for key in mirror if isinstance(mirror, Mapping) else range(len(mirror)):
        yield from _legs(mirror[key], batch[key], f"{path}[{key!r}]")


def _held(leg: Any) -> list[Tensor]:
    # A batch may be an object of the user's own, with tensors as attributes.
    return tensors_in(leg) or tensors_in(getattr(leg, "__dict__", {}))


def _refusal(batch: Any) -> str:
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch
    is_combined = _is_list(parts) and any(isinstance(part, Mapping) or _is_list(part) for part in parts)
    remedy = f"{REMEDY} {LEG_REMEDY}" if is_combined else REMEDY
    return f"{EXPECTED}, got {_describe(batch)}. {remedy}"


def _from_mapping(batch: Mapping[str, Any]) -> Batch:
    targets = [batch[key] for key in TARGET_KEYS if isinstance(batch.get(key), Tensor)]
    if TOKENS_KEY in batch:
        inputs: list[Any] = [{key: value for key, value in batch.items() if key not in TARGET_KEYS}]
    else:
        inputs = [batch[key] for key in INPUT_KEYS if key in batch]
    if len(inputs) != 1 or len(targets) > 1:
        raise ValueError(_refusal(batch))
    return Batch(inputs[0], targets[0] if targets else None)


def _is_target(value: Any, inputs: Any) -> bool:
    is_input_like = isinstance(inputs, Tensor) and isinstance(value, Tensor) and value.shape == inputs.shape
    return isinstance(value, Tensor) and not (is_input_like and value.ndim > 1)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict with the keys {sorted(map(str, batch))}"
    if _is_list(batch):
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in batch]
        return f"a {type(batch).__name__} of {shapes}"
    return f"a {type(batch).__name__}"
