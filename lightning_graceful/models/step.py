"""One training step of a graceful module: its batch, what was seen of the model, who added the terms."""

from collections.abc import Callable, Collection
from typing import Any, Literal

from torch import Tensor

from lightning_graceful.data.batch import Batch, Outputs, batch_size, leg_of
from lightning_graceful.models.capture import OutputCapture
from lightning_graceful.models.graph import computed_from


class Step:
    """What is known of one training step.

    Args:
        batch: What the trainer delivered.
        read: Reads inputs and target from it; called once, and only when they are asked for.
        needs: Arguments that the terms ask for.

    Attributes:
        capture: Watches the model while its own ``training_step`` runs; None before and after.
        added: Who has added the terms to this step's loss, if anyone has.
        waiting: The last loss of a manual step that was not computed from the logits, while none was.
        stepped: Whether an optimiser has stepped in this manual step.
    """

    def __init__(self, batch: Any, read: Callable[[Any], Batch], needs: Collection[str]) -> None:
        self.batch = batch
        self.capture: OutputCapture | None = None
        self.added: Literal["by hand", "by itself"] | None = None
        self.waiting: Tensor | None = None
        self.stepped = False
        self._brought = False
        self._totals: list[Tensor] = []
        self._is_total_used: bool | None = None
        self._read = read
        self._needs = needs
        self._parts: Batch | None = None
        self._logits: Tensor | None = None

    @property
    def parts(self) -> Batch:
        """Inputs and target."""
        if self._parts is None:
            self._parts = self._read(self.batch)
        return self._parts

    def leg(self, mirror: Any) -> Any:
        """Pick what belongs to the leg of a combined batch that the terms look at.

        Args:
            mirror: A value, or a collection of these in the structure of the batch.

        Returns:
            The value.
        """
        is_value = mirror is None or isinstance(mirror, Outputs | Tensor)
        return mirror if is_value else leg_of(mirror, self.batch, self.parts)

    def close(self) -> None:
        """Take the watch off the model and let go of the graph."""
        if self.capture is not None:
            self.capture.stop()
        self.capture = self.waiting = self._logits = None

    def new_outputs(self, loss: Tensor, classes: int | None) -> Outputs:
        """Return what the terms ask of the new model.

        Args:
            loss: The module's own loss, computed from it.
            classes: The old model's, where known.

        Returns:
            Logits and embedding with their graph; what is not asked for is None.
        """
        assert self.capture is not None
        logits = embedding = None
        if "new_logits" in self._needs:
            logits = self._logits = self.capture.logits(batch_size(self.parts), classes, loss=loss)
        if "new_embedding" in self._needs:
            embedding = self.capture.embedding(batch_size(self.parts))
        return Outputs(logits, embedding)

    def concerns(self, loss: Tensor, classes: int | None) -> bool:
        """Tell whether a loss of a manual step is the one to add the terms to: it was computed from what they look at.

        Args:
            loss: Given to ``manual_backward``.
            classes: The old model's, where known.

        Returns:
            Whether the terms join it; else it is remembered as ``waiting``.
        """
        assert self.capture is not None
        if "new_logits" in self._needs:
            is_meant = bool(self.capture.used_by(loss, batch_size(self.parts), classes))
        elif "new_embedding" in self._needs:
            is_meant = self.capture.embeds(loss, batch_size(self.parts))
        else:
            is_meant = True
        self.waiting = None if is_meant else loss
        return is_meant

    def add_by_hand(self, total: Tensor) -> None:
        """Note that the step itself has added the terms.

        Args:
            total: What it is to call backward on.
        """
        self.added = "by hand"
        self._totals.append(total)

    def note_backward(self, loss: Tensor) -> None:
        """Note whether a backward begins from a total that the step was given.

        Args:
            loss: Where it begins.
        """
        if self._totals and not self._is_total_used:
            self._is_total_used = any(computed_from(loss, self._totals))

    @property
    def is_total_left(self) -> bool:
        """Whether there were backwards, but none from a total that the step was given."""
        return self._is_total_used is False

    def brings_gradients(self) -> bool:
        """Tell, after a backward, whether it was one that trains the terms.

        Returns:
            True for every backward after the terms were added by hand, and for one after they were added by itself.
        """
        if self.added is None or (self.added == "by itself" and self._brought):
            return False
        self._brought = True
        return True

    def check_no_other_logits(self, loss: Tensor, classes: int | None) -> None:
        """Make sure that a later loss of a manual step was not computed from another set of logits.

        Args:
            loss: Given to ``manual_backward`` after the terms were added.
            classes: The old model's, where known.

        Raises:
            RuntimeError: If it was: the terms look at one set.
        """
        if self.capture is None or self._logits is None:
            return
        others = [v for v in self.capture.used_by(loss, batch_size(self.parts), classes) if v is not self._logits]
        if others:
            raise RuntimeError(
                f"Expected one set of logits in a step, but losses were computed from several: {self.capture.seen()}. "
                "Add the terms where they belong: total, parts = self.graceful_loss(loss, new_logits=logits) before "
                "each manual_backward that is to have them."
            )

    def never_met(self, classes: int | None) -> None:
        """Say why none of a manual step's losses was the one to add the terms to.

        Args:
            classes: The old model's, where known.

        Raises:
            RuntimeError: Always; or what :meth:`OutputCapture.logits` raises where it has more to say.
        """
        assert self.capture is not None
        assert self.waiting is not None
        if "new_logits" in self._needs:
            self.capture.logits(batch_size(self.parts), classes, loss=self.waiting)
        raise RuntimeError(
            "Expected a loss given to self.manual_backward that was computed from what the terms look at, got none. "
            f"Outputs seen: {self.capture.seen()}. Call self.graceful_loss(...) in training_step."
        )
