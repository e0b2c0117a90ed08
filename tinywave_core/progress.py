"""How far long work is, told to whoever wants to hear it."""

from typing import Protocol

GOES_ON = "goes on from the checkpoint of a run that was stopped"
"""The note of the first step that a training does where it does not begin at its beginning."""


class Progress(Protocol):
    """Hears how far a step is."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def no_progress(done: int, total: int, note: str = "") -> None:
    """Progress for nobody."""
