"""`tinywave push` and `tinywave pull`: an export to a hub of models, and from one."""

import sys
from pathlib import Path

from tasks import terminal
from tinywave_core import hub
from tinywave_core.counts import count


def push(export: str, repository: str, *, private: bool) -> int:
    """Print where it is now; what is passed on with it is said on stderr."""
    made = hub.push(Path(export).expanduser(), repository, private=private)
    terminal.say(f"{made.url}: {count(made.files, 'file')}, {made.bytes / 1e6:,.1f} MB, commit {made.commit[:12]}")
    if made.has_recordings:
        terminal.say(
            f"note: {hub.VOICE} holds recordings of people, and lies there now as well; the model card names them",
            file=sys.stderr,
        )
    return 0


def pull(repository: str, folder: str | None, revision: str | None) -> int:
    """Print the folder; by default it has the repository's name."""
    out = Path(folder).expanduser() if folder else Path(repository.rpartition("/")[2])
    made = hub.pull(repository, out, terminal.progress(f"pull {repository}"), revision=revision)
    terminal.say(
        f"{made.folder}: {count(made.files, 'file')}, {made.bytes / 1e6:,.1f} MB, all as pushed, commit {made.commit[:12]}"
    )
    return 0
