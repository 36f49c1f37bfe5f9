"""The losses that a GracefulMixin adds: what each asks for, what serves it, and their state."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_graceful.losses.arguments import term_arguments
from lightning_graceful.models.capture import OutputCapture
from lightning_graceful.models.hparams import drop_from_checkpoint
from lightning_graceful.models.lit import first_optimizer
from lightning_graceful.models.old_model import OldModel
from lightning_graceful.models.step import Step

Term = Callable[..., Tensor]
Weight = float | Callable[[int], float]
TASK = "task"
CHECKPOINT_KEY = "lightning_graceful"


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
        self.asks = {name: term_arguments(name, term) for name, term in self.terms.items()}
        self.needs = frozenset(argument for asked in self.asks.values() for argument in asked)
        self.step: Step | None = None
        self.capture: OutputCapture | None = None

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

    def note_step(self, optimizer: torch.optim.Optimizer, *, is_by_hand: bool) -> None:
        """Note that an optimiser steps in manual optimisation.

        Args:
            optimizer: The optimiser.
            is_by_hand: Whether the step adds the terms itself, and so may leave them out.

        Raises:
            RuntimeError: If it trains terms, but they have not been added yet, or their gradient is gone again.
        """
        if self.step is None:
            return
        self.step.stepped = True
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        trained = [parameter for parameter in self.parameters() if id(parameter) in held]
        is_open = self.step.added is not None or self.step.waiting is not None
        if is_open and not is_by_hand and trained and all(parameter.grad is None for parameter in trained):
            raise RuntimeError(
                "Expected a gradient of the terms when the first optimiser of configure_optimizers steps, which trains "
                "them, too, got none: another optimiser's loss is the one that they join. Return that one first."
            )

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
        """Leave the running step, with its batch, graph and watch on the model, out of copies and pickles.

        Returns:
            The attributes.
        """
        return {**self.__dict__, "step": None, "capture": None}

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        return ((name, term) for name, term in self.terms.items() if isinstance(term, nn.Module))


class TermsMixin:
    """The hooks of a LightningModule that keep what its terms hold out of the module and yet trained, moved and saved.

    Example:
        >>> class Lit(TermsMixin):
        ...     def configure_terms(self):
        ...         return {"l2": lambda new_logits: new_logits.square().mean()}
        >>> Lit().configure_terms().keys()
        dict_keys(['l2'])
    """

    def configure_terms(self) -> Mapping[str, Term]:
        """Return the terms to add, by name; override this.

        Returns:
            Losses by name.

        Raises:
            NotImplementedError: If it is not overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} must define configure_terms(self) -> dict of name to loss.")

    @property
    def graceful_terms(self) -> Terms:
        """The terms, in an object that is no module and so out of ``state_dict``; made the first time."""
        if "_graceful_terms" not in self.__dict__:
            # Past nn.Module.__setattr__: nothing of a term may become a part of the module.
            self.__dict__["_graceful_terms"] = Terms(self.configure_terms())
        terms: Terms = self.__dict__["_graceful_terms"]
        return terms

    def on_fit_start(self) -> None:
        """Bring the terms to the module's device and precision, the same on all ranks."""
        super().on_fit_start()  # type: ignore[misc]
        if self._world_size > 1:
            strategy = self.trainer.strategy  # type: ignore[attr-defined]
            self.graceful_terms.load_state_dict(strategy.broadcast(self.graceful_terms.state_dict()))
        self.graceful_terms.to(self.device, self.dtype)  # type: ignore[attr-defined]

    def on_after_backward(self) -> None:
        """Average the gradients of trainable terms over ranks: they live outside the module that DDP wraps."""
        super().on_after_backward()  # type: ignore[misc]
        step = self.graceful_terms.step
        if self._world_size > 1 and step is not None and step.brings_gradients():
            for parameter in self._trainable():
                # A rank whose batch gave a term no gradient must take part, or the others wait for ever.
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self._world_size

    def configure_optimizers(self) -> Any:
        """Put the parameters of trainable terms into the first group of the first optimiser.

        Returns:
            What the module's own method returns.
        """
        configured = super().configure_optimizers()  # type: ignore[misc]
        trainable = self._trainable()
        if trainable:
            first_optimizer(configured).param_groups[0]["params"].extend(trainable)
        return configured

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of the terms beside the weights, never among them, and no old model."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        drop_from_checkpoint(OldModel, checkpoint)
        checkpoint[CHECKPOINT_KEY] = {"terms": self.graceful_terms.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the state of the terms; a checkpoint of the untouched class has none and is welcome."""
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        self.graceful_terms.load_state_dict(checkpoint.get(CHECKPOINT_KEY, {}).get("terms", {}))

    @property
    def _world_size(self) -> int:
        return int(self.trainer.world_size)  # type: ignore[attr-defined]

    def _trainable(self) -> list[nn.Parameter]:
        # A term may hold a part of the module itself: that is trained, and averaged, already.
        trained = self.graceful_terms.parameters()
        own = {id(parameter) for parameter in self.parameters()} if trained else set()  # type: ignore[attr-defined]
        return [parameter for parameter in trained if id(parameter) not in own]


_REMEDY = {
    "old_logits": "Add OldOutputCache(old, cache_dir) to the Trainer's callbacks.",
    "old_embedding": 'Add OldOutputCache(OldModel(..., embedding="path"), cache_dir) to the Trainer\'s callbacks.',
    "index": "Add OldOutputCache(old, cache_dir) to the Trainer's callbacks: it knows which samples are in a batch.",
    "new_logits": "Pass new_logits= to graceful_loss.",
    "new_embedding": 'Pass embedding="path.of.module" to make_graceful, or new_embedding= to graceful_loss.',
    "target": "Pass batch=lambda b: Batch(inputs, target) to make_graceful, or target= to graceful_loss.",
}
