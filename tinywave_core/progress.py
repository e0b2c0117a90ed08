"""How far long work is, told to whoever wants to hear it."""

from typing import Protocol


class Progress(Protocol):
    """Hears how far a step is."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def no_progress(done: int, total: int, note: str = "") -> None:
    """Progress for nobody."""
