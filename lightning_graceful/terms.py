"""The losses that a GracefulMixin adds: what each asks for, what serves it, and their state."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_graceful.models.capture import OutputCapture

Term = Callable[..., Tensor]
Weight = float | Callable[[int], float]
ARGUMENTS = ("new_logits", "old_logits", "new_embedding", "old_embedding", "target", "index")
TASK = "task"


@dataclasses.dataclass
class Step:
    """One training step.

    Attributes:
        batch: What the trainer delivered.
        capture: Watches the module while its own ``training_step`` runs; None before and after.
        added: Who has added the terms to this step's loss, if anyone has.
    """

    batch: Any
    capture: OutputCapture | None = None
    added: Literal["by hand", "by itself"] | None = None


class Terms:
    """Named losses, held outside the module tree so that they stay out of ``state_dict``, the optimiser and DDP.

    Args:
        terms: Loss by name.

    Raises:
        ValueError: If a term is no callable, asks for an unknown argument, or there is none.

    Example:
        >>> terms = Terms({"l2": lambda new_logits, old_logits: (new_logits - old_logits).square().mean()})
        >>> sorted(terms.needs)
        ['new_logits', 'old_logits']
    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        if not isinstance(terms, Mapping) or not terms:
            raise ValueError(f"Expected a dict of at least one term by name, got {terms!r}.")
        if TASK in terms:
            raise ValueError(f"Expected names other than {TASK!r} for the terms: it is the module's own loss.")
        self.terms = dict(terms)
        self.asks = {name: _arguments(name, term) for name, term in self.terms.items()}
        self.needs = frozenset(argument for asked in self.asks.values() for argument in asked)
        self.step: Step | None = None

    def check_weights(self, names: Iterable[str]) -> None:
        """Raise if a weight belongs to no term.

        Args:
            names: Of the weights.

        Raises:
            ValueError: If one is unknown.
        """
        known = [*self.terms, TASK]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"Expected weights for {known}, got also {unknown}.")

    def check_provider(self, callbacks: Iterable[Any]) -> None:
        """Raise if nothing provides the old outputs that a term asks for.

        Args:
            callbacks: Of the trainer.

        Raises:
            RuntimeError: If none says ``provides_old_outputs``.
        """
        asked = self.needs & {"old_logits", "old_embedding", "index"}
        if asked and not any(getattr(callback, "provides_old_outputs", False) for callback in callbacks):
            raise RuntimeError(
                f"Expected a callback that provides {sorted(asked)} to the terms {list(self.terms)}, found none. "
                "Add OldOutputCache(old, cache_dir) to the Trainer's callbacks."
            )

    def add(
        self, task_loss: Tensor, served: Mapping[str, Tensor | None], weights: Mapping[str, Weight], global_step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the terms to the module's own loss.

        Args:
            task_loss: The module's own loss.
            served: What is there, by argument name.
            weights: Of the terms and of the task; 1 where there is none.
            global_step: The optimiser's steps so far, for weights that are functions.

        Returns:
            The total, and the terms by name, detached and not weighted.
        """

        def weight(name: str) -> float:
            value = weights.get(name, 1.0)
            return float(value(global_step) if callable(value) else value)

        parts = {name: self.value(name, served) for name in self.terms}
        # Even at weight 0 the graph stays: under DDP each parameter must get a gradient in each step.
        total = weight(TASK) * task_loss
        for name, part in parts.items():
            total = total + weight(name) * part
        return total, {name: part.detach() for name, part in parts.items()}

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
        arguments = {argument: served.get(argument) for argument in self.asks[name]}
        for argument, value in arguments.items():
            if value is None:
                raise RuntimeError(f"Expected {argument} for the term {name!r}, got none. {_REMEDY[argument]}")
        value = self.terms[name](**arguments)
        if not isinstance(value, Tensor) or value.ndim != 0:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise RuntimeError(
                f"Expected the term {name!r} to return a scalar tensor, got {got}. Reduce it over the batch."
            )
        return value

    # -- state -------------------------------------------------------------------------------------------------------

    def parameters(self) -> list[nn.Parameter]:
        """List what the terms train.

        Returns:
            The parameters, each once.
        """
        return list(dict.fromkeys(p for _, term in self._modules() for p in term.parameters() if p.requires_grad))

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the terms in place, so that an optimiser that holds their parameters keeps them."""
        for _, term in self._modules():
            term.to(device, dtype)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Collect the state of the terms that have one.

        Returns:
            ``state_dict`` by name.
        """
        return {name: state for name, term in self._modules() if (state := term.state_dict())}

    def load_state_dict(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Load what ``state_dict`` returned; terms without a saved state start fresh."""
        for name, term in self._modules():
            if name in states:
                term.load_state_dict(states[name])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the running step, its batch and its graph, out of copies and pickles.

        Returns:
            The attributes.
        """
        return {**self.__dict__, "step": None}

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        return ((name, term) for name, term in self.terms.items() if isinstance(term, nn.Module))


_REMEDY = {
    "old_logits": "Add OldOutputCache(old, cache_dir) to the Trainer's callbacks.",
    "old_embedding": 'Add OldOutputCache(OldModel(..., embedding="path"), cache_dir) to the Trainer\'s callbacks.',
    "index": "Add OldOutputCache(old, cache_dir) to the Trainer's callbacks: it knows which samples are in a batch.",
    "new_logits": "Pass new_logits= to graceful_loss.",
    "new_embedding": 'Pass embedding="path.of.module" to make_graceful, or new_embedding= to graceful_loss.',
    "target": "Pass batch=lambda b: Batch(inputs, target) to make_graceful, or target= to graceful_loss.",
}


def first_optimizer(configured: Any) -> torch.optim.Optimizer:
    """Find the first optimiser in what ``configure_optimizers`` may return.

    Args:
        configured: An optimiser, a dict with one, or a sequence of these (also with schedulers).

    Returns:
        The optimiser.

    Raises:
        RuntimeError: If there is none.
    """
    if isinstance(configured, torch.optim.Optimizer):
        return configured
    if isinstance(configured, Mapping) and "optimizer" in configured:
        return first_optimizer(configured["optimizer"])
    if isinstance(configured, list | tuple) and configured:
        return first_optimizer(configured[0])
    got = type(configured).__name__
    raise RuntimeError(f"Expected configure_optimizers to return an optimiser for the trainable terms, got {got}.")


def arguments_of(training_step: Callable[..., Any]) -> int | None:
    """Count the arguments that a ``training_step`` takes by position: ``batch_idx`` is optional in Lightning.

    Args:
        training_step: A bound method.

    Returns:
        Their number; None for any.

    Raises:
        ValueError: If it fetches batches itself.
    """
    parameters = inspect.signature(training_step).parameters
    if "dataloader_iter" in parameters:
        raise ValueError("Expected training_step(self, batch, ...) to add terms to, got one with dataloader_iter.")
    kinds = [parameter.kind for parameter in parameters.values()]
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return None if inspect.Parameter.VAR_POSITIONAL in kinds else sum(kind in by_position for kind in kinds)


def mentions(module: Any, name: str) -> bool:
    """Tell whether a method of the user's calls a method of the mixin.

    Args:
        module: The module.
        name: Of the method.

    Returns:
        Whether its name occurs in the code of a method.
    """
    methods = [value for base in type(module).__mro__ for value in vars(base).values()]
    return any(name in code.co_names for code in (getattr(method, "__code__", None) for method in methods) if code)


def _arguments(name: str, term: Term) -> tuple[str, ...]:
    if not callable(term) or isinstance(term, type):
        got = f"the class {term.__name__}: call it" if isinstance(term, type) else type(term).__name__
        raise ValueError(f"Expected the term {name!r} to be a loss that can be called, got {got}.")
    try:
        signature = inspect.signature(term.forward if isinstance(term, nn.Module) else term)
    except ValueError:
        raise ValueError(f"Expected the term {name!r} to name its arguments, got {term!r}: wrap it.") from None
    named = [p for p in signature.parameters.values() if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    unknown = [p.name for p in named if p.name not in ARGUMENTS and p.default is p.empty]
    if unknown or (signature.parameters and not named):
        got_names = unknown or list(map(str, signature.parameters.values()))
        raise ValueError(f"Expected the arguments of the term {name!r} among {list(ARGUMENTS)}, got {got_names}.")
    return tuple(p.name for p in named if p.name in ARGUMENTS)
