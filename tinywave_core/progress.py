"""How far long work is, told to whoever wants to hear it."""

from typing import Protocol

GOES_ON = "goes on from the checkpoint of a run that was stopped"
"""The note of the first step that a training does where it does not begin at its beginning."""


def note_of_step(done: int, kept: int, note: str) -> str:
    """The note of a training's step: GOES_ON in place of `note` for the first after the `kept` ones of a checkpoint."""
    return GOES_ON if kept > 0 and done == kept + 1 else note


class Progress(Protocol):
    """Hears how far a step is."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def no_progress(done: int, total: int, note: str = "") -> None:
    """Progress for nobody."""
