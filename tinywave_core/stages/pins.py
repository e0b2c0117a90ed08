"""What is fitted on data stays pinned after its first fit, so that new audio costs only its own work.

A pin is a numbered record `pins/<key>/000001.json` with the artifact's id and the inputs that its fit saw; a re-fit
appends the next record. The key hashes what the fit is (config, never data), so another config has pins of its own.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tinywave_core.config.pipeline import RefreshConfig, RefreshPolicy
from tinywave_core.stages.base import Execute, Step
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.store import Artifact, utc_now


def pinned(
    step: Step,
    policy: RefreshPolicy,
    refresh: RefreshConfig,
    hours: Callable[[], float],
    execute: Execute,
    *,
    corpus: str,
) -> Artifact:
    """The artifact of `step`, or the one that an earlier fit pinned in its place.

    `step` has the inputs of today; `hours()` tells the corpus's speech today, `corpus` names it. An artifact that was
    pinned and then lost is made again from the inputs that it was made from, if those are still whole.
    """
    identity = [step.stage, step.part, step.version, step.config, step.params, corpus]
    log = step.store.log(f"pins/{fingerprint(identity)}")
    pin = log.latest()
    if pin is not None and not _refit(policy, refresh, pin["hours"], hours):
        then = _as_pinned(step, pin)
        if then.find().complete or _whole(then):
            return execute([then])[0]
    (artifact,) = execute([step])
    if artifact.complete and (pin is None or pin["artifact"] != artifact.id):
        inputs = {name: [a.id for a in artifacts] for name, artifacts in step.inputs.items()}
        log.append({"artifact": artifact.id, "inputs": inputs, "hours": hours(), "pinned_at": utc_now()})
    return artifact


def _refit(policy: RefreshPolicy, refresh: RefreshConfig, then: float, now: Callable[[], float]) -> bool:
    return policy == "always" or (policy == "growth" and now() > then * (1 + refresh.growth_fraction))


def _as_pinned(step: Step, pin: dict[str, Any]) -> Step:
    """The step with the inputs that the pinned fit saw: its fingerprint is the pinned artifact's."""
    inputs = {name: [step.store.find(i) for i in ids] for name, ids in pin["inputs"].items()}
    return replace(step, inputs=inputs, context=step.context | {"pin": pin})


def _whole(step: Step) -> bool:
    return all(artifact.complete for artifacts in step.inputs.values() for artifact in artifacts)
