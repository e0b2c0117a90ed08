"""Where the commands print their tables: the terminal, or lines of a fixed width into a file or a pipe."""

from rich.console import Console


def console(width: int = 140) -> Console:
    """As wide as the terminal; `width` where there is none."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=width)
