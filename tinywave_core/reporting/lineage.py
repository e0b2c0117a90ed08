"""What was made from what, in both directions, for people: a line per part, since a stage makes all artifacts of a part alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinywave_core.counts import count
from tinywave_core.run.record import StageRow
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.store import Artifact, Store


@dataclass(frozen=True)
class LineageRow:
    """All artifacts of one part of a stage."""

    stage: str
    part: str
    ids: Sequence[str]
    bytes: int
    made_from: Sequence[str]
    used_by: Sequence[str]


def lineage(rows: Sequence[StageRow], outputs: Outputs, users: Mapping[str, Sequence[str]]) -> list[LineageRow]:
    """Every part in the order of the run: its artifacts, their bytes, what they were made from and what was made from them."""
    # By what an artifact is, not by its place: after preference tuning the run's student is the part `preferred`.
    made = {artifact.part: artifact for artifact in outputs.values()}
    parts = []
    for row in rows:
        for part in dict.fromkeys(step.part for step in row.steps):
            steps = [step for step in row.steps if step.part == part]
            label = f"{row.stage}/{part}"
            # Shards have inputs of their own each: the parts that these are from.
            inputs = made_from(made[part]) if part in made else [source for source in users if label in users[source]]
            ids, size = [step.artifact for step in steps], sum(step.bytes for step in steps)
            parts.append(LineageRow(row.stage, part, ids, size, inputs, users.get(label, [])))
    return parts


def made_from(artifact: Artifact) -> list[str]:
    """An artifact's inputs: the id of a single one, the number of many."""
    assert artifact.manifest is not None
    return [
        f"{name}: {ids[0]}" if len(ids) == 1 else f"{name}: {count(len(ids), 'artifact')}"
        for name, ids in artifact.manifest.inputs.items()
    ]


def users_of(store: Store, artifacts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """By "stage/part", which parts of the same run were made from it; the first artifact of each stands for its part."""
    part_of = {artifact: part for part, ids in artifacts.items() for artifact in ids}
    users: dict[str, list[str]] = {}
    for user, ids in artifacts.items():
        manifest = store.find(ids[0]).manifest
        sources = [artifact for ids in manifest.inputs.values() for artifact in ids] if manifest else []
        for source in dict.fromkeys(part_of[artifact] for artifact in sources if artifact in part_of):
            users.setdefault(source, []).append(user)
    return users
