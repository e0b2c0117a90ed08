"""`tinywave export-dataset`: the utterances of a corpus as audiofolder, Parquet, WebDataset or lhotse."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import terminal
from tinywave_core.audio.utterances import read_rows
from tinywave_core.counts import count
from tinywave_core.errors import ConfigError, MissingInputError
from tinywave_core.exporters.speech_dataset import write_dataset
from tinywave_core.stages.ingestion.quality import ids_left_out
from tinywave_core.stages.ingestion.summary import CorpusSummary
from tinywave_core.storage.store import Artifact, Store


def export_dataset(root: str, folder: str, form: str, artifact: str | None) -> int:
    """Write a corpus, by default that of the last run, or without runs the newest, into a new folder: whole, or not at all."""
    store = Store(root, create=False)
    corpus, left_out = _corpus(store, artifact)
    out = Path(folder)
    if out.exists():
        raise ConfigError(f"{out} is there already: pass the name of a new folder")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be made ({error.strerror}): pass a folder that may be written to") from error
    summary = CorpusSummary.of(corpus)
    number = summary.utterances - len(left_out)
    rows = (row for row in _rows(corpus, summary) if row["utterance_id"] not in left_out)
    counts = write_dataset(form, rows, partial, number, terminal.progress("export-dataset"))
    os.rename(partial, out)
    told = ", ".join(f"{count} {split}" for split, count in counts.items())
    without = f", without {len(left_out)} that the last run left out" if left_out else ""
    terminal.say(f"{out}: {count(number, 'utterance')} ({told}) as {form}{without}")
    return 0


def _corpus(store: Store, artifact: str | None) -> tuple[Artifact, set[str]]:
    """The corpus, and the utterances that the run left out; one that is named is exported whole."""
    if artifact is not None:
        corpus = store.resolve(artifact)
        if corpus.part != "corpus":
            raise MissingInputError(
                f"{corpus.id} is of the part {corpus.part!r}; expected a `corpus`: see `tinywave inspect`"
            )
        return corpus, set()
    for run in reversed(store.log("runs").records()):
        if ids := run["artifacts"].get("ingestion/corpus"):
            quality = run["artifacts"].get("ingestion/quality")
            return store.find(ids[-1], "corpus"), ids_left_out(store.find(quality[-1])) if quality else set()
    newest = store.newest("ingestion", "corpus")  # of `tinywave run ingestion`, which is no numbered run
    if newest is not None:
        return newest, set()
    raise MissingInputError(f"{store.url} has no corpus: run ingestion first, or pass --corpus")


def _rows(corpus: Artifact, summary: CorpusSummary) -> Iterator[dict[str, Any]]:
    """The corpus's utterances with their sound, each once."""
    for shard in corpus.store.find_all(summary.shards):
        drop = set(summary.duplicates.get(shard.id, []))
        yield from (row for row in read_rows(shard) if row["utterance_id"] not in drop)
