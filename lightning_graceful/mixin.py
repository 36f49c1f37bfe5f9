"""Add losses that look at the old model to any LightningModule, without an edit of its ``training_step``."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_graceful.data.batch import BatchAdapter, Outputs
from lightning_graceful.models.capture import OutputCapture
from lightning_graceful.terms import Term, Terms

Weight = float | Callable[[int], float]
ModuleOrClass = TypeVar("ModuleOrClass", nn.Module, type[nn.Module])

CHECKPOINT_KEY = "lightning_graceful"


class GracefulMixin:
    """Mix into a LightningModule, before it: ``class Lit(GracefulMixin, TheirLit)``.

    Each term of ``configure_terms`` is any callable whose arguments are named among ``new_logits``, ``old_logits``,
    ``new_embedding``, ``old_embedding``, ``target`` and ``index``. After the module's own ``training_step`` the loss becomes
    ``task * loss + sum(weight * term)``, and each term is logged as ``train/loss/<term>``. The old outputs come from
    :class:`~lightning_graceful.OldOutputCache`. Terms live outside ``state_dict``: a graceful checkpoint loads strictly in
    the untouched class; the state of terms travels in ``checkpoint["lightning_graceful"]``.

    Attributes:
        graceful_weights: Weight of each term (default 1): a number or a function of ``global_step``. The key ``task``
            scales the module's own loss; 0 drops it.
        graceful_logits: Path of the submodule whose output is the logits; None finds it.
        graceful_embedding: Path of the submodule whose output is the embedding.
        graceful_batch: Function from a batch to ``Batch(inputs, target)``; None reads the usual kinds.

    Example:
        >>> import pytorch_lightning as pl
        >>> from lightning_graceful import FocalDistillationLoss
        >>> class TheirLit(pl.LightningModule):
        ...     pass
        >>> class Lit(GracefulMixin, TheirLit):
        ...     graceful_weights = {"pct": 2.0}
        ...     def configure_terms(self):
        ...         return {"pct": FocalDistillationLoss()}
    """

    graceful_weights: Mapping[str, Weight] = {}
    graceful_logits: str | None = None
    graceful_embedding: str | None = None
    graceful_batch: BatchAdapter | None = None

    def configure_terms(self) -> Mapping[str, Term]:
        """Return the terms to add, by name; override this.

        Returns:
            Losses by name.

        Raises:
            NotImplementedError: If it is not overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} must define configure_terms(self) -> dict of name to loss.")

    def graceful_loss(
        self,
        task_loss: Tensor,
        *,
        new_logits: Tensor | None = None,
        new_embedding: Tensor | None = None,
        target: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the terms by hand, where a step is too special for the drop-in (several forwards, manual optimisation).

        Args:
            task_loss: The module's own loss, a scalar.
            new_logits: Scores of this model, shape ``(N, C)``, with their graph.
            new_embedding: Embeddings of this model, shape ``(N, D)``.
            target: True labels, shape ``(N,)``; default: those of the batch.

        Returns:
            The total to call backward on, and the terms by name, detached and not weighted.

        Raises:
            RuntimeError: If a term asks for what is not there, such as old outputs without an OldOutputCache.
        """
        terms = self._terms
        terms.handled = True
        old = self._old_outputs
        served = {
            "new_logits": new_logits,
            "old_logits": old.logits,
            "new_embedding": new_embedding,
            "old_embedding": old.embedding,
            "target": terms.target if target is None else target,
            "index": getattr(self, "sample_index", None),
        }
        parts = {name: terms.value(name, served) for name in terms.terms}
        total = self._weight("task") * task_loss
        for name, part in parts.items():
            total = total + self._weight(name) * part
        values = {name: part.detach() for name, part in parts.items()}
        self._log_terms(values)
        return total, values

    # -- hooks of Lightning ------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check the terms before anything is trained."""
        super().setup(stage)  # type: ignore[misc]
        if stage == "fit":
            self._check_terms()

    def on_fit_start(self) -> None:
        """Bring the terms to the module's device and watch for its outputs."""
        super().on_fit_start()  # type: ignore[misc]
        terms = self._terms
        terms.to(self.device)  # type: ignore[attr-defined]
        logits, embedding = self.graceful_logits, self.graceful_embedding
        terms.watch = OutputCapture(self, logits=logits, embedding=embedding)  # type: ignore[arg-type]

    def on_fit_end(self) -> None:
        """Take the watch off."""
        super().on_fit_end()  # type: ignore[misc]
        terms = self._terms
        if terms.watch is not None:
            terms.watch.remove()
            terms.watch = None

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own step and add the terms to the loss that it returns."""
        terms = self._terms
        terms.open_step(args[0] if args else kwargs["batch"])
        try:
            result = super().training_step(*args, **kwargs)  # type: ignore[misc]
            return result if terms.handled else self._with_terms(result)
        finally:
            terms.close_step()

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Add the terms to the first loss of a manual step."""
        if not self._terms.handled:
            loss = self._total(loss)
        super().manual_backward(loss, *args, **kwargs)  # type: ignore[misc]

    def on_after_backward(self) -> None:
        """Average the gradients of trainable terms over ranks: they live outside the module that DDP wraps."""
        super().on_after_backward()  # type: ignore[misc]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for parameter in self._terms.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= torch.distributed.get_world_size()

    def configure_optimizers(self) -> Any:
        """Put the parameters of trainable terms into the first group of the first optimiser."""
        configured = super().configure_optimizers()  # type: ignore[misc]
        trainable = list(self._terms.parameters())
        if trainable:
            _first_optimizer(configured).param_groups[0]["params"].extend(trainable)
        return configured

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of the terms beside the weights, never among them."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        checkpoint[CHECKPOINT_KEY] = {"terms": self._terms.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the state of the terms; a checkpoint of the untouched class has none and is welcome."""
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        self._terms.load_state_dict(checkpoint.get(CHECKPOINT_KEY, {}).get("terms", {}))

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def _terms(self) -> Terms:
        if "_graceful_terms" not in self.__dict__:
            # Past nn.Module.__setattr__, and in an object that is no module: terms must stay out of state_dict.
            self.__dict__["_graceful_terms"] = Terms(self.configure_terms(), self.graceful_batch)
        terms: Terms = self.__dict__["_graceful_terms"]
        return terms

    @property
    def _old_outputs(self) -> Outputs:
        return getattr(self, "old_outputs", None) or Outputs()

    def _check_terms(self) -> None:
        terms = self._terms
        unknown = set(self.graceful_weights) - set(terms.terms) - {"task"}
        if unknown:
            raise ValueError(f"Expected weights for {[*terms.terms, 'task']}, got also {sorted(unknown)}.")
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        asks_old = terms.needs & {"old_logits", "old_embedding", "index"}
        if asks_old and not any(getattr(callback, "provides_old_outputs", False) for callback in callbacks):
            raise RuntimeError(
                f"Expected a callback that provides {sorted(asks_old)} to the terms {list(terms.terms)}, found none. "
                "Add OldOutputCache(old, cache_dir) to the Trainer's callbacks."
            )
        if "new_embedding" in terms.needs and self.graceful_embedding is None:
            raise ValueError('Expected embedding="path.of.module" for a term that asks for new_embedding, got None.')

    def _with_terms(self, result: Any) -> Any:
        if not self.automatic_optimization:  # type: ignore[attr-defined]
            raise RuntimeError(
                "Expected the terms to be part of this manual step, but neither self.manual_backward(loss) nor "
                "self.graceful_loss(...) was called in training_step."
            )
        if result is None:
            return None  # Lightning skips the step: there is no loss to add to.
        if isinstance(result, Mapping):
            return {**result, "loss": self._total(result["loss"])}
        return self._total(result)

    def _total(self, loss: Tensor) -> Tensor:
        terms, old = self._terms, self._old_outputs
        if terms.watch is None:
            raise RuntimeError(
                "Expected training_step to run inside Trainer.fit: the module's outputs are not watched."
            )
        logits = embedding = None
        if "new_logits" in terms.needs:
            logits = terms.watch.logits(terms.size, None if old.logits is None else old.logits.shape[1])
        if "new_embedding" in terms.needs:
            embedding = terms.watch.embedding(terms.size)
        return self.graceful_loss(loss, new_logits=logits, new_embedding=embedding)[0]

    def _weight(self, name: str) -> float:
        weight = self.graceful_weights.get(name, 1.0)
        return float(weight(self.global_step)) if callable(weight) else float(weight)  # type: ignore[attr-defined]

    def _log_terms(self, values: Mapping[str, Tensor]) -> None:
        logged = {f"train/loss/{name}": value for name, value in values.items()}
        self.log_dict(  # type: ignore[attr-defined]
            logged, on_step=False, on_epoch=True, batch_size=self._terms.size, sync_dist=True
        )


def make_graceful(
    module_or_class: ModuleOrClass,
    terms: Mapping[str, Term],
    weights: Mapping[str, Weight] | None = None,
    *,
    batch: BatchAdapter | None = None,
    logits: str | None = None,
    embedding: str | None = None,
) -> ModuleOrClass:
    """Add terms to a LightningModule without an edit; see :class:`GracefulMixin`.

    Args:
        module_or_class: An instance, which is changed in place and returned, or a class, of which a subclass is returned.
        terms: Losses by name; a class's instances each get a copy.
        weights: Weight of each term (default 1), and of the module's own loss under ``task``.
        batch: Function from a batch to ``Batch(inputs, target)``.
        logits: Path of the submodule whose output is the logits.
        embedding: Path of the submodule whose output is the embedding.

    Returns:
        The instance, or the subclass. Both pickle, and are instances or subclasses of the original class.

    Raises:
        ValueError: If it is no LightningModule, is graceful already, or the terms are wrong.

    Example:
        >>> import pytorch_lightning as pl
        >>> from lightning_graceful import FocalDistillationLoss
        >>> new = make_graceful(pl.LightningModule(), terms={"pct": FocalDistillationLoss()}, weights={"pct": 2.0})
        >>> isinstance(new, pl.LightningModule), type(new).__name__
        (True, 'GracefulLightningModule')
    """
    base = module_or_class if isinstance(module_or_class, type) else type(module_or_class)
    if not hasattr(base, "training_step") or not hasattr(base, "configure_optimizers"):
        raise ValueError(f"Expected a LightningModule or its class, got {base.__name__}.")
    if issubclass(base, GracefulMixin):
        raise ValueError(f"Expected a module that is not graceful yet, got {base.__name__}: give it all terms at once.")
    options = _Options(dict(terms), dict(weights or {}), batch, logits, embedding)
    made = _made_class(base, options)
    if isinstance(module_or_class, type):
        Terms(terms)
        return made
    module_or_class.__class__ = made
    # The user's own term objects, not copies: they may hold on to a trainable one.
    module_or_class.__dict__["_graceful_terms"] = Terms(terms, batch)
    return module_or_class


class _Options(NamedTuple):
    """What ``make_graceful`` was given."""

    terms: Mapping[str, Term]
    weights: Mapping[str, Weight]
    batch: BatchAdapter | None
    logits: str | None
    embedding: str | None


def _made_class(base: type, options: _Options) -> Any:
    def configure_terms(_self: Any) -> Mapping[str, Term]:
        return copy.deepcopy(options.terms)

    def reduce(self: Any) -> tuple[Any, ...]:
        # A made class cannot be imported by name: rebuild it from what it was made of.
        return _rebuild, (base, options), self.__getstate__()

    namespace = {
        "__doc__": base.__doc__,
        "__module__": base.__module__,
        "__reduce__": reduce,
        "configure_terms": configure_terms,
        "graceful_weights": options.weights,
        "graceful_batch": None if options.batch is None else staticmethod(options.batch),
        "graceful_logits": options.logits,
        "graceful_embedding": options.embedding,
    }
    return type(f"Graceful{base.__name__}", (GracefulMixin, base), namespace)


def _rebuild(base: type, options: _Options) -> Any:
    made = _made_class(base, options)
    return made.__new__(made)


def _first_optimizer(configured: Any) -> Optimizer:
    """Find the first optimiser in what ``configure_optimizers`` may return."""
    if isinstance(configured, Optimizer):
        return configured
    if isinstance(configured, Mapping):
        return _first_optimizer(configured["optimizer"])
    if isinstance(configured, Sequence) and configured:
        return _first_optimizer(configured[0])
    raise RuntimeError(
        f"Expected configure_optimizers to return an optimiser for the trainable terms, got {type(configured).__name__}."
    )
