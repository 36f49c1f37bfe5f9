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
        self.done = 0

    def tell(self, words: str, count: int = 1) -> None:
        """Print what begins now.

        Args:
            words: What it is.
            count: How many steps it is.
        """
        self.done += count
        self._console.print(f"[{self.done:>3}/{self._total}] {words}", markup=False, highlight=False)
