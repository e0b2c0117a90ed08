"""What we print and log, with text of others in it: characters that would steer the terminal or the order of reading are seen in their place.

A file name may hold ESC sequences that clear the screen, a carriage return that writes over a line, or an override of the direction
of text that makes one name look like another. Every command and flow prints by `say`, and every record of a log is a `VisibleRecord`.
"""

import logging
import sys
import time
import traceback
from types import TracebackType
from typing import TextIO

from tinywave_core.escaping import visible
from tinywave_core.progress import Progress

LINE_EVERY_S = 15.0


def say(*values: object, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """As `print`."""
    print(*(visible(str(value)) for value in values), end=end, file=file, flush=flush)


def say_over(line: str, *, last: bool = False) -> None:
    """A line that stands in place of the one before, for the person at the terminal."""
    print(f"\r\033[K{visible(line)}", end="\n" if last else "", file=sys.stderr, flush=True)


def progress(label: str) -> Progress:
    """A line that is written over in a terminal; a line now and then elsewhere."""
    last = time.monotonic()
    live = sys.stderr.isatty()

    def told(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if live:
            say_over(f"{label}: {done} of {total} {note}" if done < total else "")
        elif time.monotonic() - last >= LINE_EVERY_S and done < total:
            last = time.monotonic()
            say(f"    {label}: {done} of {total} {note}", file=sys.stderr, flush=True)

    return told


def say_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For `sys.excepthook`: the traceback of a fault of ours, in whose message a file name may stand."""
    say("".join(traceback.format_exception(kind, error, trace)), end="", file=sys.stderr)


class VisibleRecord(logging.LogRecord):
    """A record whose message and traceback are safe to print, whoever logs it and whoever shows it."""

    _trace: str | None = None

    def getMessage(self) -> str:
        return visible(super().getMessage())

    @property  # type: ignore[override]
    def exc_text(self) -> str | None:
        """What a formatter keeps of the traceback."""
        return self._trace

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self._trace = text and visible(text)


def make_logs_visible() -> None:
    """From now on, in this process."""
    logging.setLogRecordFactory(VisibleRecord)
