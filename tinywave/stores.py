"""A store to look at: its artifacts, its runs, what was made from what, which model is published. Nothing here writes."""

from pathlib import Path

from tinywave_core.errors import MissingInputError
from tinywave_core.run.promotion import published
from tinywave_core.run.record import RunRecord
from tinywave_core.steps.runs import RUNS
from tinywave_core.storage import store as core
from tinywave_core.storage.store import Artifact


class Store:
    """All that a pipeline made, under one root.

    store = Store("store")
    store.newest("scores").summary                   # figures of the last evaluation
    pyarrow.parquet.read_table(store.newest("student").path("curves.parquet"))
    """

    def __init__(self, root: str | Path = "store") -> None:
        """Open a folder, or an s3:// prefix; nothing is made where there is none.

        StoreError where it cannot be read, SchemaVersionError where another version of TinyWave wrote it.
        """
        self._core = core.Store(str(root) if "://" in str(root) else str(Path(root).expanduser()), create=False)

    @property
    def url(self) -> str:
        """Where it lies."""
        return self._core.url

    def artifacts(self, stage: str = "*") -> list[Artifact]:
        """Every whole artifact, by id; `stage` (`ingestion`, `distillation` …) takes those of one stage."""
        found = self._core.find_all(self._core.artifact_ids(stage))
        return [artifact for artifact in found if artifact.complete]

    def find(self, name: str) -> Artifact:
        """The artifact whose id (`distillation/3fa9…`) or fingerprint begins so; MissingInputError where none or several do."""
        return self._core.resolve(name)

    def newest(self, part: str) -> Artifact:
        """The artifact of a kind that was made last: `corpus`, `tokens`, `teacher`, `logits`, `student`, `control`, `scores`, `model`,
        `samples` and others; MissingInputError names those that are there."""
        found = self._core.newest("*", part)
        if found is None:
            parts = sorted({artifact.part for artifact in self.artifacts()})
            raise MissingInputError(
                f"the store {self.url} has no {part!r}; it has {', '.join(parts) or 'nothing: run the pipeline first'}"
            )
        return found

    def made_from(self, artifact: Artifact) -> dict[str, list[Artifact]]:
        """What an artifact was made from, one step back, by the name of the input; audio shards are made from recordings alone.

        MissingInputError where the artifact itself is not whole.
        """
        if artifact.manifest is None:
            raise MissingInputError(f"{artifact.id} is not whole in {self.url}: run its stage again")
        return {name: self._core.find_all(ids) for name, ids in artifact.manifest.inputs.items()}

    def runs(self) -> list[RunRecord]:
        """The records of all runs of the whole pipeline, oldest first."""
        records = self._core.log(RUNS).records()
        return [RunRecord.model_validate({**record, "number": i}) for i, record in enumerate(records, start=1)]

    def published(self) -> Artifact | None:
        """The export that users of the model load: no worse than those before it, and better than counts. None where there is none yet."""
        record = published(self._core)
        return None if record is None else self._core.find(record.model)
