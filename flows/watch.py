"""The watcher: looks whether the source holds speech that the corpus does not have, and says so by an event.

A deployment of the pipeline with the trigger of `flows.deployments` starts on that event. Looking reads names, sizes and times, and
the content of files that are not known; nothing is written to the store.
"""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.logging import get_run_logger

from flows.hooks import HOOKS
from tasks import terminal
from tinywave_core.audio.scan import Scan
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.counts import count
from tinywave_core.escaping import code, markdown, table
from tinywave_core.stages.ingestion import look
from tinywave_core.stages.ingestion.corpus import scan
from tinywave_core.steps.inputs import corpus_key
from tinywave_core.storage.store import Store, key_of

NEW_AUDIO = "tinywave.audio.new"


@flow(name="watch", flow_run_name="watch {config.source}", validate_parameters=True, **HOOKS)
def watch(config: PipelineConfig) -> dict[str, int]:
    """Look for new audio in the source; if there is some, emit the event `tinywave.audio.new`.

    Args:
        config: All settings; only source, root and ingestion matter here.
    """
    store = Store(config.root)
    today = scan(config, store)
    counts = {
        "found": today.found,
        "new": today.new,
        "known": today.known,
        "copies": today.copies,
        "forgotten": today.forgotten,
        "unreadable": len(today.unreadable),
        "replaced": len(today.replaced),
        "texts": today.texts,
        "left_out": today.left_out.total,
    }
    sentence = said(today)
    for line in (sentence, *look.said(today)[1:]):
        get_run_logger().info(line)
        terminal.say(line, flush=True)
    create_markdown_artifact(page(today, counts), key="watch", description=markdown(sentence))
    if today.new:
        emit_event(event=NEW_AUDIO, resource=resource(config), payload={**counts, "source": str(config.source)})
    return counts


def resource(config: PipelineConfig) -> dict[str, str]:
    """What the event is about: this corpus in this store."""
    return {
        "prefect.resource.id": f"tinywave.corpus.{corpus_key(config)}.{key_of(config.root)}",
        "prefect.resource.name": config.ingestion.corpus,
    }


def said(today: Scan) -> str:
    """What the watcher saw, in a line."""
    if not today.new:
        return f"nothing new among {count(today.found, 'file')} in {today.source}"
    return f"{count(today.new, 'new file')} among {today.found} in {today.source}"


def page(today: Scan, counts: dict[str, int]) -> str:
    """The counts, and the first of the new files."""
    new = [file for group in today.groups for file in group]
    rows: list[dict[str, Any]] = [{"files": name, "number": number} for name, number in counts.items()]
    parts = [f"# {markdown(said(today))}", table(rows), *map(markdown, look.said(today)[1:])]
    if new:
        shown = "\n".join(f"- {code(file.file.path)}" for file in new[:20])
        parts += ["## New", shown + (f"\n\n… and {len(new) - 20} more" if len(new) > 20 else "")]
    return "\n\n".join(parts) + "\n"
