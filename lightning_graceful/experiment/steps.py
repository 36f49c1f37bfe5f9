"""Which of a bench's many trainings is under way."""

from rich.console import Console


class Steps:
    """Count the steps of a long job, a line each.

    Args:
        console: Where they are told.
        total: How many there will be.

    Example:
        >>> Steps(Console(), 12).tell("seed 0: old model")
        [  1/12] seed 0: old model
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0

    def tell(self, words: str) -> None:
        """Print what begins now.

        Args:
            words: What it is.
        """
        self._done += 1
        self._console.print(f"[{self._done:>3}/{self._total}] {words}", markup=False, highlight=False)
