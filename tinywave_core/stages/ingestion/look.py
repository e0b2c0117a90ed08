"""What a look at the source says, in lines for people: how many files are new, known or replaced, and what is left out.

A corpus does not depend on what lies beside its recordings, so this is told of each look and not kept with the corpus.
"""

from collections.abc import Sequence

from tinywave_core.audio.scan import Scan
from tinywave_core.audio.source import Source
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.counts import count
from tinywave_core.storage.store import Store

_EXAMPLES = 3


def look(config: PipelineConfig, _: Store) -> list[str]:
    """A line about what is left out of the source, if anything is. Reads names, and nothing that they name."""
    if config.source is None:
        return []
    line = Source(config.source).listing().left_out.line()
    return [line] if line else []


def said(scan: Scan) -> list[str]:
    """The source in numbers, so that every entry below it is in one of them; what is left out in a line of its own."""
    numbers = {
        "new": scan.new,
        "known": scan.known,
        "copies of new ones": scan.copies,
        "forgotten": scan.forgotten,
        "unreadable": len(scan.unreadable),
    }
    counted = ", ".join(f"{n} {name}" for name, n in numbers.items() if n or name in ("new", "known"))
    texts = f"; {scan.texts} text files beside them" if scan.texts else ""
    lines = [f"source {scan.source}: {count(scan.found, 'file')}, {counted}{texts}"]
    if scan.unreadable:
        lines.append(f"could not be read to the end: {_names(scan.unreadable)}")
    if scan.replaced:
        lines.append(f"replaced, {len(scan.replaced)} with other content under the old name: {_names(scan.replaced)}")
    if scan.late_parts:
        lines.append(
            f"labels name parts of {count(scan.late_parts, 'recording')} that were cut before: they stay as they were cut; another --ingestion.corpus "
            "takes them in these parts"
        )
    return lines + [line for line in [scan.left_out.line()] if line]


def _names(paths: Sequence[str]) -> str:
    return ", ".join(paths[:_EXAMPLES]) + (f" and {len(paths) - _EXAMPLES} more" if len(paths) > _EXAMPLES else "")
