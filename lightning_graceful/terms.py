"""The losses that a GracefulMixin adds: what each asks for, what serves it, and their state."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_graceful.data.batch import Batch, BatchAdapter, batch_size, default_batch
from lightning_graceful.models.capture import OutputCapture

Term = Callable[..., Tensor]
ARGUMENTS = ("new_logits", "old_logits", "new_embedding", "old_embedding", "target", "index")
RESERVED = ("task",)


class Terms:
    """Named losses, held outside the module tree so that they stay out of ``state_dict``, the optimiser and DDP.

    Args:
        terms: Loss by name.
        batch: Reads inputs and target from a batch; None reads the usual kinds.

    Raises:
        ValueError: If a term is no callable, asks for an unknown argument, or there is none.

    Example:
        >>> terms = Terms({"l2": lambda new_logits, old_logits: (new_logits - old_logits).square().mean()})
        >>> sorted(terms.needs)
        ['new_logits', 'old_logits']
    """

    def __init__(self, terms: Mapping[str, Term], batch: BatchAdapter | None = None) -> None:
        if not terms:
            raise ValueError("Expected at least one term, got none. Train the module itself if nothing is to be added.")
        reserved = set(terms) & set(RESERVED)
        if reserved:
            raise ValueError(f"Expected names other than {sorted(reserved)}: `task` is the module's own loss.")
        self.terms = dict(terms)
        self.asks = {name: _arguments(name, term) for name, term in self.terms.items()}
        self.needs = frozenset(argument for asked in self.asks.values() for argument in asked)
        self.watch: OutputCapture | None = None
        self.handled = False
        self._read_batch = batch or default_batch
        self._batch: Batch | None = None

    # -- one step ----------------------------------------------------------------------------------------------------

    def open_step(self, batch: Any) -> None:
        """Remember the batch's target and begin to watch the module."""
        self.handled = False
        self._batch = self._read_batch(batch)
        if self.watch is not None:
            self.watch.start()

    def close_step(self) -> None:
        """Drop the batch and the graph."""
        self._batch = None
        if self.watch is not None:
            self.watch.stop()

    @property
    def target(self) -> Tensor | None:
        """Target of the batch in this step."""
        return None if self._batch is None else self._batch.target

    @property
    def size(self) -> int:
        """Samples in the batch of this step."""
        return 1 if self._batch is None else batch_size(self._batch)

    def value(self, name: str, served: Mapping[str, Tensor | None]) -> Tensor:
        """Compute one term.

        Args:
            name: Its name.
            served: What is there, by argument name.

        Returns:
            The loss, a scalar.

        Raises:
            RuntimeError: If an argument that the term asks for is not there, or the term returns no scalar.
        """
        arguments = {}
        for argument in self.asks[name]:
            arguments[argument] = served[argument]
            if served[argument] is None:
                raise RuntimeError(f"Expected {argument} for the term {name!r}, got none. {_REMEDY[argument]}")
        value = self.terms[name](**arguments)
        if not isinstance(value, Tensor) or value.ndim != 0:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise RuntimeError(
                f"Expected the term {name!r} to return a scalar tensor, got {got}. Reduce it over the batch."
            )
        return value

    # -- state -------------------------------------------------------------------------------------------------------

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Iterate over the terms that are modules."""
        return ((name, term) for name, term in self.terms.items() if isinstance(term, nn.Module))

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over what the terms train."""
        return (p for _, term in self.modules() for p in term.parameters() if p.requires_grad)

    def to(self, device: torch.device) -> None:
        """Move the terms in place, so that an optimiser that holds their parameters keeps them."""
        for _, term in self.modules():
            term.to(device)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the state of the terms that have one, by name."""
        return {name: state for name, term in self.modules() if (state := term.state_dict())}

    def load_state_dict(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load what ``state_dict`` returned; terms without a saved state start fresh."""
        for name, term in self.modules():
            if name in states:
                term.load_state_dict(states[name])


_REMEDY = {
    "old_logits": "Add OldOutputCache(old, cache_dir) to the Trainer's callbacks.",
    "old_embedding": 'Add OldOutputCache(OldModel(..., embedding="path"), cache_dir) to the Trainer\'s callbacks.',
    "index": "Add OldOutputCache(old, cache_dir) to the Trainer's callbacks: it knows which samples are in a batch.",
    "new_logits": "Pass new_logits= to graceful_loss.",
    "new_embedding": 'Pass embedding="path.of.module" to make_graceful, or new_embedding= to graceful_loss.',
    "target": "Pass batch=lambda b: Batch(inputs, target) to make_graceful, or target= to graceful_loss.",
}


def _arguments(name: str, term: Term) -> tuple[str, ...]:
    if not callable(term):
        raise ValueError(f"Expected the term {name!r} to be callable, got {type(term).__name__}.")
    function = term.forward if isinstance(term, nn.Module) else term
    asked = [
        p for p in inspect.signature(function).parameters.values() if p.kind not in {p.VAR_KEYWORD, p.VAR_POSITIONAL}
    ]
    unknown = [p.name for p in asked if p.name not in ARGUMENTS and p.default is p.empty]
    if unknown:
        raise ValueError(f"Expected the arguments of the term {name!r} among {list(ARGUMENTS)}, got {unknown}.")
    return tuple(p.name for p in asked if p.name in ARGUMENTS)
