"""Add losses that look at the old model to any LightningModule, without an edit of its ``training_step``."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from lightning_graceful.data.batch import Batch, BatchAdapter, Outputs, default_batch
from lightning_graceful.models.capture import OutputCapture
from lightning_graceful.models.lit import arguments_of, mentions
from lightning_graceful.models.made_class import made_class
from lightning_graceful.models.step import Step
from lightning_graceful.models.tracing import untraced, untraced_itself
from lightning_graceful.terms import Term, Terms, TermsMixin, Weight

ModuleOrClass = TypeVar("ModuleOrClass", bound=nn.Module | type[nn.Module])


class GracefulMixin(TermsMixin):
    """Mix into a LightningModule, before it: ``class Lit(GracefulMixin, TheirLit)``.

    Each term of ``configure_terms`` is any callable whose arguments are named among ``new_logits``, ``old_logits``,
    ``new_embedding``, ``old_embedding``, ``target`` and ``index``. After the module's own ``training_step`` the loss
    becomes ``task * loss + sum(weight * term)``, and each term is logged as ``train/loss/<term>``, not weighted. In
    manual optimisation the terms join the first ``manual_backward`` of a step whose loss was computed from the logits,
    and ``task`` scales that loss. The old outputs come from :class:`~lightning_graceful.OldOutputCache`; of a
    CombinedLoader's batch the terms look at the leg that ``graceful_batch`` takes. Terms live outside ``state_dict``: a
    graceful checkpoint loads strictly in the untouched class; the state of terms travels in
    ``checkpoint["lightning_graceful"]``, and what they train joins the first group of the first optimiser.

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

    def graceful_batch(self, batch: Any) -> Batch:
        """Read inputs and target from a batch; override it for an unusual kind, or to choose a leg of several.

        Args:
            batch: What the trainer delivers.

        Returns:
            Inputs and target.
        """
        return default_batch(batch)

    @untraced
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
        step = self.graceful_terms.step
        if step is not None and step.added == "by itself":
            raise RuntimeError(
                "Expected graceful_loss before the first manual_backward of the step, got it after: the terms are part "
                "of that loss already."
            )
        total, parts = self._add_terms(task_loss, new_logits, new_embedding, target)
        if step is not None:
            step.add_by_hand(total)
        return total, parts

    # -- hooks of Lightning ------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check the terms before anything is trained."""
        super().setup(stage)  # type: ignore[misc]
        if stage == "fit":
            self._check_terms()

    def on_fit_start(self) -> None:
        """Look for the modules that the terms look at: a wrong path is named before the first batch."""
        super().on_fit_start()
        self.graceful_terms.capture = self._new_capture()

    def on_train_start(self) -> None:
        """Follow the optimisers of manual optimisation: a step of theirs without terms must not go unseen."""
        super().on_train_start()  # type: ignore[misc]
        if not self.automatic_optimization:  # type: ignore[attr-defined]
            is_by_hand, terms = mentions(self, "graceful_loss"), self.graceful_terms
            for optimizer in self.trainer.optimizers:  # type: ignore[attr-defined]
                optimizer.register_step_pre_hook(lambda stepping, *_: terms.note_step(stepping, is_by_hand=is_by_hand))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        """Open the step, for a ``training_step`` that adds the terms by hand.

        Returns:
            What the module's own hook returns: -1 skips the epoch.
        """
        self.graceful_terms.step = self._new_step(batch)
        return super().on_train_batch_start(batch, batch_idx)  # type: ignore[misc]

    # The mixin's own frames are kept from torch.compile, which traces the user's step alone.
    @untraced_itself
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own step and add the terms to the loss that it returns.

        Returns:
            What the module's own step returns, with the terms.
        """
        own_step = super().training_step  # type: ignore[misc]
        step, taken = self._open_step(own_step, args[0] if args else kwargs["batch"])
        try:
            return self._with_terms(own_step(*args[:taken], **kwargs), step)
        finally:
            step.close()

    @untraced
    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Add the terms to the first loss of a manual step that was computed from what they look at."""
        step = self.graceful_terms.step
        if step is not None and step.capture is not None:
            if step.added is None and step.concerns(loss, self._old_classes(step)):
                loss = self._total(loss, step)
            elif step.added == "by itself":
                step.check_no_other_logits(loss, self._old_classes(step))
        super().manual_backward(loss, *args, **kwargs)  # type: ignore[misc]

    def on_before_backward(self, loss: Tensor) -> None:
        """Make sure that the terms are part of the loss.

        Raises:
            RuntimeError: If a ``training_step`` hides the mixin's and does not add the terms, or leaves the total of
                ``graceful_loss`` aside.
        """
        super().on_before_backward(loss)  # type: ignore[misc]
        step = self.graceful_terms.step
        if step is not None and step.added is None and step.waiting is None:
            raise RuntimeError(
                f"Expected the terms to be part of the loss, but the training_step of {type(self).__name__} hides "
                "GracefulMixin's. Leave it to the class after the mixin, class Lit(GracefulMixin, TheirLit), or call "
                "self.graceful_loss(...) in it."
            )
        if step is not None:
            step.note_backward(loss)
            if self.automatic_optimization:  # type: ignore[attr-defined]
                self._check_total(step)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Close the step.

        Raises:
            RuntimeError: If a manual step has not added the terms.
        """
        super().on_train_batch_end(outputs, batch, batch_idx)  # type: ignore[misc]
        step, self.graceful_terms.step = self.graceful_terms.step, None
        if step is not None and step.stepped:
            self._check_total(step)
        if step is not None and step.added is None and step.stepped and not mentions(self, "graceful_loss"):
            raise RuntimeError(
                "Expected the terms to be part of this manual step, but neither self.manual_backward(loss) nor "
                "self.graceful_loss(...) was called in training_step."
            )

    # -- inside ------------------------------------------------------------------------------------------------------

    def _new_capture(self) -> OutputCapture:
        logits, embedding = self.graceful_logits, self.graceful_embedding
        return OutputCapture(cast(nn.Module, self), logits=logits, embedding=embedding)

    def _new_step(self, batch: Any) -> Step:
        return Step(batch, self.graceful_batch, self.graceful_terms.needs)

    @untraced
    def _open_step(self, own_step: Callable[..., Any], batch: Any) -> tuple[Step, int | None]:
        terms = self.graceful_terms
        terms.step = step = self._new_step(batch)
        terms.capture = step.capture = terms.capture or self._new_capture()
        taken = arguments_of(own_step)
        step.capture.start()
        return step, taken

    def _check_terms(self) -> None:
        terms = self.graceful_terms
        terms.check_weights(self.graceful_weights)
        terms.check_provider(self.trainer.callbacks)  # type: ignore[attr-defined]
        if "new_embedding" in terms.needs and self.graceful_embedding is None and not mentions(self, "graceful_loss"):
            raise ValueError(
                'Expected embedding="path.of.module" (the attribute graceful_embedding) for a term that asks for '
                "new_embedding, got None. Or pass new_embedding= to self.graceful_loss in training_step."
            )

    def _check_total(self, step: Step) -> None:
        if step.is_total_left:
            raise RuntimeError(
                "Expected backward to begin from the total that self.graceful_loss(...) returned, got another loss, "
                "which the terms are no part of. Return that total, or give it to self.manual_backward."
            )

    @untraced
    def _with_terms(self, result: Any, step: Step) -> Any:
        if not self.automatic_optimization:  # type: ignore[attr-defined]
            if step.added is None and step.waiting is not None and not mentions(self, "graceful_loss"):
                step.never_met(self._old_classes(step))
            return result
        loss = result.get("loss") if isinstance(result, Mapping) else result
        if step.added is not None or not isinstance(loss, Tensor):
            return result  # None skips the step: there is no loss to add to.
        total = self._total(loss, step)
        return {**result, "loss": total} if isinstance(result, Mapping) else total

    def _total(self, loss: Tensor, step: Step) -> Tensor:
        new = step.new_outputs(loss, self._old_classes(step))
        total, _ = self._add_terms(loss, new.logits, new.embedding, None)
        step.added = "by itself"
        return total

    def _add_terms(
        self, task_loss: Tensor, logits: Tensor | None, embedding: Tensor | None, target: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        terms, old = self.graceful_terms, self._of_batch("old_outputs") or Outputs()
        if target is None and "target" in terms.needs and terms.step is not None:
            target = terms.step.parts.target
        served = {
            "new_logits": logits,
            "old_logits": old.logits,
            "new_embedding": embedding,
            "old_embedding": old.embedding,
            "target": target,
            "index": self._of_batch("sample_index") if "index" in terms.needs else None,
        }
        total, parts = terms.add(task_loss, served, self.graceful_weights, self.global_step)  # type: ignore[attr-defined]
        if terms.step is not None:
            size = next((len(rows) for rows in served.values() if rows is not None), None)
            logged = {f"train/loss/{name}": part for name, part in parts.items()}
            self.log_dict(  # type: ignore[attr-defined]
                logged, on_step=False, on_epoch=True, batch_size=size, sync_dist=True
            )
        return total, parts

    def _of_batch(self, name: str) -> Any:
        # Of a combined batch the cache serves a collection in the same structure.
        value, step = getattr(self, name, None), self.graceful_terms.step
        return value if step is None else step.leg(value)

    def _old_classes(self, step: Step) -> int | None:
        old: Outputs | None = step.leg(getattr(self, "old_outputs", None))
        return None if old is None or old.logits is None else old.logits.shape[1]


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

    ``torch.compile`` may come before or after, of the network or of the whole module, whose own step is then compiled
    and the terms are not. (Lightning's own ``self.log`` in a compiled step fails on some versions of torch.)

    Args:
        module_or_class: An instance, which is changed in place and returned (also where ``torch.compile`` has wrapped
            it), or a class, of which a subclass is returned.
        terms: Losses by name; a class's instances each get a copy. Without any the module is trained as it is, and
            what else is given is kept for callbacks, as ``CompatibilityMonitor`` asks for the embedding.
        weights: Weight of each term (default 1), and of the module's own loss under ``task``.
        batch: Function from a batch to ``Batch(inputs, target)``.
        logits: Path of the submodule whose output is the logits.
        embedding: Path of the submodule whose output is the embedding.

    Returns:
        The instance, or the subclass. Both pickle, and are instances or subclasses of the original class.

    Raises:
        ValueError: If it is no LightningModule, is graceful already, has a ``training_step`` on the instance, or the
            terms or weights are wrong.

    Example:
        >>> import pytorch_lightning as pl
        >>> from lightning_graceful import FocalDistillationLoss
        >>> new = make_graceful(pl.LightningModule(), terms={"pct": FocalDistillationLoss()}, weights={"pct": 2.0})
        >>> isinstance(new, pl.LightningModule), type(new).__name__
        (True, 'GracefulLightningModule')
    """
    if isinstance(module_or_class, nn.Module) and hasattr(module_or_class, "dynamo_ctx"):
        # What torch.compile returned. A trainer takes the LightningModule out of it and compiles the step of that.
        make_graceful(next(module_or_class.children()), terms, weights, batch=batch, logits=logits, embedding=embedding)
        return module_or_class
    base = module_or_class if isinstance(module_or_class, type) else type(module_or_class)
    options = {"graceful_logits": logits, "graceful_embedding": embedding}
    if not terms and not weights:
        return _plain(module_or_class, base, options, batch)
    if not hasattr(base, "training_step") or not hasattr(base, "configure_optimizers"):
        raise ValueError(f"Expected a LightningModule or its class, got {base.__name__}.")
    if issubclass(base, GracefulMixin):
        raise ValueError(f"Expected a module that is not graceful yet, got {base.__name__}: give it all terms at once.")
    if not isinstance(module_or_class, type) and "training_step" in vars(module_or_class):
        raise ValueError(
            f"Expected the training_step of the class {base.__name__}, but this instance has one of its own, which "
            "would hide the terms (from_compiled puts one there). Make it graceful before: "
            "torch.compile(make_graceful(module, ...))."
        )
    checked = Terms(terms)
    checked.check_weights(weights or {})
    made = _made_class(base, dict(terms), {"graceful_weights": dict(weights or {}), **options}, batch)
    if isinstance(module_or_class, type):
        return cast(ModuleOrClass, made)
    module_or_class.__class__ = made
    # The user's own term objects, not copies: they may hold on to a trainable one.
    module_or_class.__dict__["_graceful_terms"] = checked
    return module_or_class


def _plain(
    module_or_class: ModuleOrClass, base: type, options: Mapping[str, Any], batch: BatchAdapter | None
) -> ModuleOrClass:
    # Plain training, as one arm of a sweep: callbacks read the same paths there as in the other arms.
    given = {name: path for name, path in options.items() if path is not None}
    if not given and batch is None:
        return module_or_class
    made = _plain_class(base, given, batch)
    if isinstance(module_or_class, type):
        return cast(ModuleOrClass, made)
    module_or_class.__class__ = made
    return module_or_class


def _plain_class(base: type, options: dict[str, Any], batch: BatchAdapter | None) -> type:
    namespace = options if batch is None else {**options, "graceful_batch": staticmethod(batch)}
    return made_class((base,), _plain_class, (base, options, batch), namespace)


def _made_class(base: type, terms: Mapping[str, Term], options: dict[str, Any], batch: BatchAdapter | None) -> type:
    def configure_terms(_self: Any) -> Mapping[str, Term]:
        return copy.deepcopy(terms)

    namespace: dict[str, Any] = {"configure_terms": configure_terms, **options}
    if batch is not None:
        namespace["graceful_batch"] = staticmethod(batch)
    return made_class((GracefulMixin, base), _made_class, (base, terms, options, batch), namespace)
