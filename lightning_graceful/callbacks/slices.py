"""Slices of the data: which value, such as a country, has each sample of a batch?"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from lightning_graceful.callbacks.evaluated import EvaluatedBatch
from lightning_graceful.data.bases import base_datasets

SliceSource = Callable[[Any], Any] | Sequence[Any] | Tensor | np.ndarray[Any, Any]

MAX_VALUES = 1000
TOO_MANY = f"Expected at most {MAX_VALUES:,} values in slice {{name!r}}, got more. Put them into groups."
MAX_LENGTH = 80  # characters of a value in a key


class Slice:
    """One way to cut the data: the value of each sample.

    Args:
        name: Such as ``"country"``.
        source: Function of a batch, or values by base index.

    Raises:
        ValueError: If the name does not suit a key, or the source is neither.
    """

    def __init__(self, name: str, source: SliceSource) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w .-]*", name):
            raise ValueError(
                f"Expected the name of a slice of letters, digits, '_', '-', '.' and ' ', got {name!r}. Rename it."
            )
        if isinstance(source, str) or not (callable(source) or (hasattr(source, "__len__") and np.ndim(source) == 1)):
            raise ValueError(
                f"Expected slice {name!r} as a function of a batch, or as one value a sample of the dataset, got "
                f"{_described(source)}. Such as slices={{{name!r}: lambda batch: batch[{name!r}]}}."
            )
        self.name = name
        self._source = source
        self._places: dict[str, int] = {}
        self._by_index: Tensor | None = None
        self._checked: set[int] = set()

    @property
    def values(self) -> list[str]:
        """Values met so far on this rank; the place in this list is a value's number."""
        return list(self._places)

    def read(self, evaluated: EvaluatedBatch) -> Tensor:
        """Number the values of a batch.

        Args:
            evaluated: The batch.

        Returns:
            Int64, on the device of the target, shape ``(N,)``.

        Raises:
            ValueError: If there is not one value a sample, or there are more than 1,000.
        """
        if not callable(self._source):
            return self._look_up(evaluated).to(evaluated.target.device, torch.int64)
        said, samples = self._source(evaluated.batch), len(evaluated.target)
        if isinstance(said, str) or not hasattr(said, "__len__") or np.ndim(said) != 1 or len(said) != samples:
            raise ValueError(
                f"Expected one value for each of the {samples} samples of a batch in slice {self.name!r}, got "
                f"{_described(said)}. Let its function return a list of str or int, or a tensor of shape ({samples},)."
            )
        return self._numbers(said).to(evaluated.target.device)

    def key(self, value: str) -> str:
        """Name a value in a key that loggers can take.

        Args:
            value: One of the values.

        Returns:
            Such as ``"country=IS"``.
        """
        return f"{self.name}={safe(value)}"

    def _look_up(self, evaluated: EvaluatedBatch) -> Tensor:
        if evaluated.index is None:
            raise ValueError(
                f"Expected to know which samples are in a batch, for slice {self.name!r} has values by base index, but "
                "this loader does not tell. Pass a function of the batch."
            )
        if self._by_index is None:
            self._by_index = self._numbers(self._source).to(torch.int16)
        if id(evaluated.dataset) not in self._checked:
            self._check_length(evaluated.dataset)
            self._checked.add(id(evaluated.dataset))
        return self._by_index[evaluated.index]

    def _check_length(self, dataset: Any) -> None:
        bases: list[Any] = [base for base, _ in base_datasets(dataset)]
        length = len(self._source)  # type: ignore[arg-type]
        if len(bases) > 1:
            raise ValueError(
                f"Expected one dataset beneath the loader for slice {self.name!r}, whose values go by base index, got "
                f"a ConcatDataset of {len(bases)}. Pass a function of the batch."
            )
        if len(bases[0]) != length:
            raise ValueError(
                f"Expected {len(bases[0])} values in slice {self.name!r}, one for each sample of the base dataset "
                f"(beneath any Subset), got {length}. Give them in the order of that dataset."
            )

    def _numbers(self, values: Any) -> Tensor:
        listed = values.tolist() if hasattr(values, "tolist") else list(values)
        found = [self._number(value) for value in listed]
        return torch.tensor(found, dtype=torch.int64)

    def _number(self, value: Any) -> int:
        value = value.item() if isinstance(value, Tensor | np.generic) else value
        if not isinstance(value, str | int):
            raise ValueError(
                f"Expected str or int as values of slice {self.name!r}, got {value!r}, a {type(value).__name__}. Put "
                "numbers into bins, and give what is missing a name."
            )
        number = self._places.setdefault(str(value), len(self._places))
        if number >= MAX_VALUES:
            raise ValueError(TOO_MANY.format(name=self.name))
        return number


def slices_of(slices: Mapping[str, SliceSource] | None) -> list[Slice]:
    """Read the argument of FlipMonitor.

    Args:
        slices: Sources by name.

    Returns:
        The slices.

    Raises:
        ValueError: If it is no mapping.
    """
    if slices is not None and not isinstance(slices, Mapping):
        raise ValueError(
            f'Expected slices by name, got {_described(slices)}. Such as slices={{"country": lambda batch: batch[2]}}.'
        )
    return [Slice(name, source) for name, source in (slices or {}).items()]


def safe(value: str) -> str:
    """Write a value so that no logger takes offence: other values stay others.

    ``/`` groups keys, so it becomes ``%2F``; so do all signs but letters, digits and ``_ . + : -`` and space. What is
    longer than 80 characters is cut, and ends in a checksum.

    Args:
        value: Any text.

    Returns:
        A part of a key.

    Example:
        >>> safe("north/east"), safe("São Tomé")
        ('north%2Feast', 'São Tomé')
    """
    text = re.sub(r"[^\w .+:-]", lambda sign: quote(sign[0], safe="", errors="surrogatepass"), value)
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}~{crc32(text.encode()):08x}"


def _described(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}" + (f" of length {len(value)}" if hasattr(value, "__len__") else "")
