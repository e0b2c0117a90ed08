"""Where the commands print their tables: the terminal, or lines of a fixed width into a file or a pipe."""

from typing import Any

from rich.console import Console
from rich.text import Text

from tinywave_core.escaping import visible


class Visible(Console):
    """A console for text of others: nothing in it is read as Rich's markup, and control characters are shown, not obeyed."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Of every cell, title and line that is plain text."""
        return super().render_str(visible(text), **options | {"markup": False, "emoji": False})


def console(width: int = 140) -> Console:
    """As wide as the terminal; `width` where there is none."""
    terminal = Visible()
    return terminal if terminal.is_terminal else Visible(width=width)
