"""Why a step runs or is cached, in words, from the parts of its fingerprint and the record of the last run."""

from dataclasses import dataclass
from typing import Any

from tinywave_core.counts import count
from tinywave_core.steps.base import Step
from tinywave_core.steps.runs import RUNS
from tinywave_core.storage.forgotten import removed_with
from tinywave_core.storage.store import Artifact

_FORGOTTEN = "what the last run used was removed with a forgotten recording"


@dataclass(frozen=True)
class Reason:
    """Whether a step has to be computed, and why."""

    cached: bool
    why: str


def explain(step: Step, artifact: Artifact) -> Reason:
    """Why `step` is cached or must run, compared with what the last run used."""
    # First of all: the fit that is pinned saw the inputs of then, so that "same inputs as before" would say too little.
    if artifact.complete and "pin" in step.context:
        pin = step.context["pin"]
        return Reason(True, f"pinned {pin['pinned_at'][:10]}, its fit saw {_minutes(pin['hours'])} of speech")
    if artifact.complete:
        return Reason(True, "same settings and inputs as before")
    before = _in_last_run(step)
    # The last run had this very artifact: neither settings nor inputs can be the reason.
    if step.id in before:
        if step.id in removed_with(step.store):
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
    if not before:
        return Reason(False, "never computed in this store")
    # New audio becomes shards beside the old ones, so that a shard that was never there need not mean a change of settings.
    if step.part == "shard":
        return (
            Reason(False, "new shard") if _same_settings(step, before) else Reason(False, _difference(step, before[-1]))
        )
    return Reason(False, _difference(step, before[-1]))


def _in_last_run(step: Step) -> list[str]:
    """Artifacts of the same stage and part in the latest run that had any: a cached stage lists no shards."""
    for run in reversed(step.store.log(RUNS).records()):
        if ids := run["artifacts"].get(f"{step.stage}/{step.part}"):
            return list(ids)
    return []


def _same_settings(step: Step, ids: list[str]) -> bool:
    # Shards of one run share their settings, so that any of them will do.
    manifest = step.store.find(ids[-1]).manifest
    return (
        manifest is not None
        and manifest.config == step.config.model_dump(mode="json")
        and manifest.version == step.version
    )


def _difference(step: Step, artifact_id: str) -> str:
    manifest = step.store.find(artifact_id).manifest
    if manifest is None:
        return _FORGOTTEN if artifact_id in removed_with(step.store) else "what the last run used is gone"
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
