"""What is fitted on data stays pinned after its first fit, so that new audio costs only its own work.

A pin is a numbered record `pins/<key>/000001.json` with the artifact's id and the inputs that its fit saw; a re-fit
appends the next record. The key hashes what the fit is (config, never data), so another config has pins of its own.
"""

from collections.abc import Callable
from dataclasses import replace

from tinywave_core.config.pipeline import RefreshConfig, RefreshPolicy
from tinywave_core.stages.base import Execute, Inputs, Step
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.store import Artifact, Log, utc_now


def pinned(
    step: Step, policy: RefreshPolicy, refresh: RefreshConfig, hours: Callable[[], float], execute: Execute, *, corpus: str
) -> Artifact:
    """The artifact of `step`, or the one that an earlier fit pinned in its place.

    `step` has the inputs of today; `hours()` tells the corpus's speech today, `corpus` names it. An artifact that was
    pinned and then lost is made again from the inputs that it was made from, if those are still whole.
    """
    log = step.store.log(f"pins/{fingerprint([step.stage, step.part, step.version, step.config, step.params, corpus])}")
    pin = log.latest()
    if pin is None or _refit(policy, refresh, pin["hours"], hours):
        return _fit(step, log, hours, execute)
    if pin["artifact"] == step.id:
        return execute([step])[0]
    found = step.store.find(pin["artifact"], step.part)
    if found.complete:
        return found
    return execute([replace(step, inputs=_inputs_then(step, pin["inputs"]))])[0]


def _refit(policy: RefreshPolicy, refresh: RefreshConfig, then: float, now: Callable[[], float]) -> bool:
    return policy == "always" or (policy == "growth" and now() > then * (1 + refresh.growth_fraction))


def _fit(step: Step, log: Log, hours: Callable[[], float], execute: Execute) -> Artifact:
    artifact = execute([step])[0]
    latest = log.latest()
    if artifact.complete and (latest is None or latest["artifact"] != artifact.id):
        inputs = {name: [a.id for a in artifacts] for name, artifacts in step.inputs.items()}
        log.append({"artifact": artifact.id, "inputs": inputs, "hours": hours(), "pinned_at": utc_now()})
    return artifact


def _inputs_then(step: Step, ids: dict[str, list[str]]) -> Inputs:
    then = {name: [step.store.find(i) for i in artifact_ids] for name, artifact_ids in ids.items()}
    whole = all(artifact.complete for artifacts in then.values() for artifact in artifacts)
    return then if whole else step.inputs
