"""Add losses that look at the old model to any LightningModule, without an edit of its ``training_step``."""

import copy
import copyreg
import functools
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from lightning_graceful.data.batch import Batch, BatchAdapter, Outputs, batch_size, default_batch
from lightning_graceful.models.capture import OutputCapture
from lightning_graceful.terms import Step, Term, Terms, Weight, arguments_of, first_optimizer, mentions

ModuleOrClass = TypeVar("ModuleOrClass", bound=nn.Module | type[nn.Module])

CHECKPOINT_KEY = "lightning_graceful"


class GracefulMixin:
    """Mix into a LightningModule, before it: ``class Lit(GracefulMixin, TheirLit)``.

    Each term of ``configure_terms`` is any callable whose arguments are named among ``new_logits``, ``old_logits``,
    ``new_embedding``, ``old_embedding``, ``target`` and ``index``. After the module's own ``training_step`` the loss
    becomes ``task * loss + sum(weight * term)``, and each term is logged as ``train/loss/<term>``, not weighted. In
    manual optimisation the terms join the first ``manual_backward`` of a step. The old outputs come from
    :class:`~lightning_graceful.OldOutputCache`. Terms live outside ``state_dict``: a graceful checkpoint loads strictly
    in the untouched class; the state of terms travels in ``checkpoint["lightning_graceful"]``, and what they train
    joins the first group of the first optimiser.

    Attributes:
        graceful_weights: Weight of each term (default 1): a number or a function of ``global_step``. The key ``task``
            scales the module's own loss; 0 drops it.
        graceful_logits: Path of the submodule whose output is the logits; None finds it.
        graceful_embedding: Path of the submodule whose output is the embedding.

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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse an order of bases in which the LightningModule's hooks hide the mixin's.

        Raises:
            ValueError: If the mixin comes after the LightningModule.
        """
        super().__init_subclass__(**kwargs)
        before = cls.__mro__[: cls.__mro__.index(GracefulMixin)]
        if any(base.__name__ == "LightningModule" for base in before):
            raise ValueError(f"Expected the mixin first: class {cls.__name__}(GracefulMixin, TheirLit), got it last.")

    def configure_terms(self) -> Mapping[str, Term]:
        """Return the terms to add, by name; override this.

        Returns:
            Losses by name.

        Raises:
            NotImplementedError: If it is not overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} must define configure_terms(self) -> dict of name to loss.")

    def graceful_batch(self, batch: Any) -> Batch:
        """Read inputs and target from a batch; override it for an unusual kind.

        Args:
            batch: What the trainer delivers.

        Returns:
            Inputs and target.
        """
        return default_batch(batch)

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
            RuntimeError: If a term asks for what is not there, such as old outputs without an OldOutputCache, or the
                terms are part of this step's loss already.
        """
        step = self._terms.step
        if step is not None and step.added == "by itself":
            raise RuntimeError(
                "Expected graceful_loss before the first manual_backward of the step, got it after: the terms are part "
                "of that loss already."
            )
        total, parts = self._add_terms(task_loss, new_logits, new_embedding, target)
        if step is not None:
            step.added = "by hand"
        return total, parts

    # -- hooks of Lightning ------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check the terms before anything is trained."""
        super().setup(stage)  # type: ignore[misc]
        if stage == "fit":
            self._check_terms()

    def on_fit_start(self) -> None:
        """Bring the terms to the module's device and precision, the same on all ranks."""
        super().on_fit_start()  # type: ignore[misc]
        self._capture()  # names a wrong path before the first batch
        if self._world_size > 1:
            strategy = self.trainer.strategy  # type: ignore[attr-defined]
            self._terms.load_state_dict(strategy.broadcast(self._terms.state_dict()))
        self._terms.to(self.device, self.dtype)  # type: ignore[attr-defined]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        """Open the step, for a ``training_step`` that adds the terms by hand.

        Returns:
            What the module's own hook returns: -1 skips the epoch.
        """
        self._terms.step = Step(batch)
        return super().on_train_batch_start(batch, batch_idx)  # type: ignore[misc]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own step and add the terms to the loss that it returns.

        Returns:
            What the module's own step returns, with the terms.
        """
        own_step = super().training_step  # type: ignore[misc]
        step = self._terms.step = Step(args[0] if args else kwargs["batch"])
        with self._capture() as step.capture:
            try:
                return self._with_terms(own_step(*args[: arguments_of(own_step)], **kwargs), step)
            finally:
                step.capture = None

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Add the terms to the first loss of a manual step."""
        step = self._terms.step
        if step is not None and step.capture is not None and step.added is None:
            loss = self._total(loss, step, step.capture)
        super().manual_backward(loss, *args, **kwargs)  # type: ignore[misc]

    def on_before_backward(self, loss: Tensor) -> None:
        """Make sure that the terms are part of the loss.

        Raises:
            RuntimeError: If a ``training_step`` hides the mixin's and does not add the terms.
        """
        super().on_before_backward(loss)  # type: ignore[misc]
        if self._terms.step is not None and self._terms.step.added is None:
            raise RuntimeError(
                f"Expected the terms to be part of the loss, but the training_step of {type(self).__name__} hides "
                "GracefulMixin's. Leave it to the class after the mixin, class Lit(GracefulMixin, TheirLit), or call "
                "self.graceful_loss(...) in it."
            )

    def on_after_backward(self) -> None:
        """Average the gradients of trainable terms over ranks: they live outside the module that DDP wraps."""
        super().on_after_backward()  # type: ignore[misc]
        if self._world_size > 1:
            for parameter in self._trainable():
                # A rank whose batch gave a term no gradient must take part, or the others wait for ever.
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self._world_size

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Close the step.

        Raises:
            RuntimeError: If a manual step has not added the terms.
        """
        super().on_train_batch_end(outputs, batch, batch_idx)  # type: ignore[misc]
        step, self._terms.step = self._terms.step, None
        if not self.automatic_optimization and step is not None and step.added is None:  # type: ignore[attr-defined]
            raise RuntimeError(
                "Expected the terms to be part of this manual step, but neither self.manual_backward(loss) nor "
                "self.graceful_loss(...) was called in training_step."
            )

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
            self.__dict__["_graceful_terms"] = Terms(self.configure_terms())
        terms: Terms = self.__dict__["_graceful_terms"]
        return terms

    @property
    def _world_size(self) -> int:
        return int(self.trainer.world_size)  # type: ignore[attr-defined]

    def _capture(self) -> OutputCapture:
        logits, embedding = self.graceful_logits, self.graceful_embedding
        return OutputCapture(cast(nn.Module, self), logits=logits, embedding=embedding)

    def _check_terms(self) -> None:
        terms = self._terms
        terms.check_weights(self.graceful_weights)
        terms.check_provider(self.trainer.callbacks)  # type: ignore[attr-defined]
        if "new_embedding" in terms.needs and self.graceful_embedding is None and not mentions(self, "graceful_loss"):
            raise ValueError(
                'Expected embedding="path.of.module" (the attribute graceful_embedding) for a term that asks for '
                "new_embedding, got None. Or pass new_embedding= to self.graceful_loss in training_step."
            )

    def _with_terms(self, result: Any, step: Step) -> Any:
        loss = result.get("loss") if isinstance(result, Mapping) else result
        is_manual = not self.automatic_optimization  # type: ignore[attr-defined]
        if is_manual or step.added is not None or step.capture is None or not isinstance(loss, Tensor):
            return result  # None skips the step: there is no loss to add to.
        total = self._total(loss, step, step.capture)
        return {**result, "loss": total} if isinstance(result, Mapping) else total

    def _total(self, loss: Tensor, step: Step, capture: OutputCapture) -> Tensor:
        old, needs, size = self._old_outputs(), self._terms.needs, batch_size(self.graceful_batch(step.batch))
        logits = embedding = None
        if "new_logits" in needs:
            classes = None if old.logits is None else old.logits.shape[1]
            logits = capture.logits(size, classes, graph=loss.requires_grad)
        if "new_embedding" in needs:
            embedding = capture.embedding(size)
        total, _ = self._add_terms(loss, logits, embedding, None)
        step.added = "by itself"
        return total

    def _add_terms(
        self, task_loss: Tensor, logits: Tensor | None, embedding: Tensor | None, target: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        terms, old = self._terms, self._old_outputs()
        if target is None and "target" in terms.needs and terms.step is not None:
            target = self.graceful_batch(terms.step.batch).target
        served = {
            "new_logits": logits,
            "old_logits": old.logits,
            "new_embedding": embedding,
            "old_embedding": old.embedding,
            "target": target,
            "index": getattr(self, "sample_index", None),
        }
        total, parts = terms.add(task_loss, served, self.graceful_weights, self.global_step)  # type: ignore[attr-defined]
        if terms.step is not None:
            size = next((len(rows) for rows in served.values() if rows is not None), None)
            logged = {f"train/loss/{name}": part for name, part in parts.items()}
            self.log_dict(  # type: ignore[attr-defined]
                logged, on_step=False, on_epoch=True, batch_size=size, sync_dist=True
            )
        return total, parts

    def _old_outputs(self) -> Outputs:
        return getattr(self, "old_outputs", None) or Outputs()

    def _trainable(self) -> list[nn.Parameter]:
        # A term may hold a part of the module itself: that is trained, and averaged, already.
        trained = self._terms.parameters()
        own = {id(parameter) for parameter in self.parameters()} if trained else set()  # type: ignore[attr-defined]
        return [parameter for parameter in trained if id(parameter) not in own]


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
        module_or_class: An instance, which is changed in place and returned, or a class, of which a subclass is
            returned.
        terms: Losses by name; a class's instances each get a copy.
        weights: Weight of each term (default 1), and of the module's own loss under ``task``.
        batch: Function from a batch to ``Batch(inputs, target)``.
        logits: Path of the submodule whose output is the logits.
        embedding: Path of the submodule whose output is the embedding.

    Returns:
        The instance, or the subclass. Both pickle, and are instances or subclasses of the original class.

    Raises:
        ValueError: If it is no LightningModule, is graceful already, or the terms or weights are wrong.

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
    checked = Terms(terms)
    checked.check_weights(weights or {})
    options = {"graceful_weights": dict(weights or {}), "graceful_logits": logits, "graceful_embedding": embedding}
    made = _made_class(base, dict(terms), options, batch)
    if isinstance(module_or_class, type):
        return cast(ModuleOrClass, made)
    module_or_class.__class__ = made
    # The user's own term objects, not copies: they may hold on to a trainable one.
    module_or_class.__dict__["_graceful_terms"] = checked
    return module_or_class


def _made_class(base: type, terms: Mapping[str, Term], options: dict[str, Any], batch: BatchAdapter | None) -> type:
    def configure_terms(_self: Any) -> Mapping[str, Term]:
        return copy.deepcopy(terms)

    namespace: dict[str, Any] = {
        "__doc__": base.__doc__,
        "__module__": base.__module__,
        "_graceful_recipe": (base, terms, options, batch),
        "configure_terms": configure_terms,
        **options,
    }
    if batch is not None:
        namespace["graceful_batch"] = staticmethod(batch)
    made: type = _metaclass(type(base))(f"Graceful{base.__name__}", (GracefulMixin, base), namespace)
    return made


@functools.cache
def _metaclass(of_base: type[type]) -> type[type]:
    # Made classes cannot be imported by name: under a metaclass of ours they pickle by how they were made.
    metaclass = type("_MadeClass", (of_base,), {})
    copyreg.pickle(metaclass, _reduce_class)
    return metaclass


def _reduce_class(cls: type) -> Any:
    recipe = vars(cls).get("_graceful_recipe")
    return cls.__qualname__ if recipe is None else (_made_class, recipe)  # a user's subclass has a name of its own
