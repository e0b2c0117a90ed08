"""`tinywave publish`: which student is published and what was before; with an export, that one from now on."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.console import console
from tasks import terminal
from tinywave_core.run.promotion import LOG, Published, publish, published
from tinywave_core.storage.store import Store


def publish_model(root: str, artifact: str | None) -> int:
    """Publish an export by hand, or show the log; the last line is the directory to load."""
    store = Store(root, create=False)
    if artifact is not None:
        publish(store, store.resolve(artifact), "by hand")
    current = published(store)
    if current is None:
        terminal.say(
            f"nothing is published in {store.url} yet: `tinywave run pipeline` does it, or `tinywave publish EXPORT`"
        )
        return 0
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("number", "published", "export", "why"):
        table.add_column(name, overflow="fold")
    for record in map(Published.model_validate, store.log(LOG).records()):
        table.add_row(str(record.number), record.published_at, record.model, record.why)
    console().print(table)
    if current.warning:
        terminal.say(f"Warning: the published student {current.warning}.")
    terminal.say(store.url_of(f"{current.model}/model"))
    return 0
