"""Why a step runs or is cached, in words, from the parts of its fingerprint and the record of the last run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinywave_core.counts import count
from tinywave_core.steps.base import Step
from tinywave_core.steps.runs import RUNS
from tinywave_core.storage.forgotten import removed_with
from tinywave_core.storage.store import Artifact, Manifest

_FORGOTTEN = "what the last run used was removed with a forgotten recording"


@dataclass(frozen=True)
class Reason:
    """Whether a step has to be computed, and why."""

    cached: bool
    why: str


def explain(step: Step, artifact: Artifact) -> Reason:
    """Why `step` is cached or must run, compared with what the last run used."""
    return explain_all([step], [artifact])[0]


def explain_all(steps: Sequence[Step], artifacts: Sequence[Artifact]) -> list[Reason]:
    """`explain` for many: the log of runs is read once, not once for each shard."""
    last_runs = _LastRuns()
    return [
        _cached(step) if artifact.complete else _missing(step, last_runs)
        for step, artifact in zip(steps, artifacts, strict=True)
    ]


def _cached(step: Step) -> Reason:
    # First of all: the fit that is pinned saw the inputs of then, so that "same inputs as before" would say too little.
    if "pin" in step.context:
        pin = step.context["pin"]
        return Reason(True, f"pinned {pin['pinned_at'][:10]}, its fit saw {_minutes(pin['hours'])} of speech")
    return Reason(True, "same settings and inputs as before")


def _missing(step: Step, last_runs: "_LastRuns") -> Reason:
    before = last_runs.of(step)
    # The last run had this very artifact: neither settings nor inputs can be the reason.
    if step.id in before.ids:
        if step.id in last_runs.removed(step):
            return Reason(False, _FORGOTTEN)
        return Reason(False, "its output is missing or damaged")
    if "restarted" in step.context:
        return Reason(False, f"from the teacher again: {step.context['restarted']}")
    if "left_out" in step.params:
        return Reason(False, f"without {count(len(step.params['left_out']), 'utterance')} left out")
    if step.part == "relabelled" or (step.part == "shard" and "tokens" in step.inputs and "audio" in step.inputs):
        return Reason(False, "labels came or changed after its recordings were taken")
    if "previous" in step.inputs:
        new = len(step.inputs["tokens"])
        return Reason(False, f"goes on from {step.input('previous').id[:21]}… with {count(new, 'new shard')}")
    if not before.ids:
        return Reason(False, "never computed in this store")
    # New audio becomes shards beside the old ones, so that a shard that was never there need not mean a change of settings.
    if step.part == "shard" and _same_settings(step, before.last):
        return Reason(False, "new shard")
    if before.last is None and before.ids & last_runs.removed(step):
        return Reason(False, _FORGOTTEN)
    return Reason(False, _difference(step, before.last))


@dataclass(frozen=True)
class _Before:
    """Artifacts of a stage and part in the latest run that had any, and the manifest of the last one of them."""

    ids: frozenset[str]
    last: Manifest | None


class _LastRuns:
    """What the last runs used, by stage and part, and what was removed since; read when it is asked for first."""

    def __init__(self) -> None:
        self._found: dict[str, _Before] = {}
        self._removed: frozenset[str] | None = None

    def removed(self, step: Step) -> frozenset[str]:
        """Ids of what went with a forgotten recording."""
        if self._removed is None:
            self._removed = removed_with(step.store)
        return self._removed

    def of(self, step: Step) -> _Before:
        label = f"{step.stage}/{step.part}"
        if label not in self._found:
            ids = self._in_last_run(step, label)
            # Shards of one run share their settings, so that any of them will do.
            self._found[label] = _Before(frozenset(ids), step.store.find(ids[-1]).manifest if ids else None)
        return self._found[label]

    def _in_last_run(self, step: Step, label: str) -> list[str]:
        """Of the latest run that had any: a cached stage lists no shards."""
        for run in reversed(step.store.log(RUNS).records()):
            if ids := run["artifacts"].get(label):
                return list(ids)
        return []


def _same_settings(step: Step, manifest: Manifest | None) -> bool:
    return (
        manifest is not None
        and manifest.config == step.config.model_dump(mode="json")
        and manifest.version == step.version
    )


def _difference(step: Step, manifest: Manifest | None) -> str:
    if manifest is None:
        return "what the last run used is gone"
    if manifest.version != step.version:
        return f"the stage's method changed: version {manifest.version} → {step.version}"
    changes = [
        f"{key}: {old} → {new}"
        for key, old, new in _changed(
            manifest.config | manifest.params, step.config.model_dump(mode="json") | step.params
        )
    ]
    if changes:
        return (
            "settings changed: "
            + ", ".join(changes[:3])
            + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
        )
    names = [name for name, artifacts in step.inputs.items() if [a.id for a in artifacts] != manifest.inputs.get(name)]
    return "new input: " + ", ".join(names)


def _changed(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            change
            for key in sorted(old.keys() | new.keys())
            for change in _changed(old.get(key), new.get(key), f"{prefix}.{key}".lstrip("."))
        ]
    return [] if old == new else [(prefix, old, new)]


def _minutes(hours: float) -> str:
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h"
