"""What is fitted on data stays pinned after its first fit, so that new audio costs only its own work.

A pin is a numbered record `pins/<key>/000001.json` with the artifact's id and the inputs that its fit saw; a re-fit
appends the next record. The key hashes what the fit is (config, never data), so another config has pins of its own.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tinywave_core.config.pipeline import RefreshConfig, RefreshPolicy
from tinywave_core.steps.base import Execute, Step
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.store import Artifact, utc_now

Pin = dict[str, Any]
"""`artifact` (its id), `inputs` (ids by name), `hours` of the corpus at the fit, `pinned_at`."""


def pinned(
    step: Step,
    policy: RefreshPolicy,
    refresh: RefreshConfig,
    hours: Callable[[], float],
    execute: Execute,
    *,
    corpus: str,
    again: Callable[[Pin], Step] | None = None,
    refit: Callable[[Pin], Step] | None = None,
) -> Artifact:
    """The artifact of `step`, or the one that an earlier fit pinned instead.

    `step` has the inputs of today; `hours()` tells the corpus's speech today, `corpus` names it. An artifact that was
    pinned and then lost is made again from the inputs that it was made from, if those are still whole. `again` gives the step
    that made what is pinned, `refit` the one that takes its place; by default `step` with the inputs of then, and of today.
    """
    # Without inputs: new audio must find the pin of the fit before it.
    identity = [step.stage, step.part, step.version, step.config, step.params, corpus]
    log = step.store.log(f"pins/{fingerprint(identity)}")
    pin = log.latest()
    saw = hours
    if pin is None:
        chosen = step
    elif not _refit(policy, refresh, pin["hours"], hours) and obtainable(
        pinned_step := again(pin) if again else as_pinned(step, pin)
    ):
        # The fit that is made again saw the speech of then, and growth is counted from that.
        chosen, saw = pinned_step, lambda: float(pin["hours"])
    else:
        chosen = refit(pin) if refit else step
    (artifact,) = execute([chosen])
    # A plan only looks: what it did not find was not fitted, and cannot be pinned.
    if artifact.complete and (pin is None or pin["artifact"] != artifact.id):
        log.append({"artifact": artifact.id, "inputs": ids_of(chosen), "hours": saw(), "pinned_at": utc_now()})
    return artifact


def _refit(policy: RefreshPolicy, refresh: RefreshConfig, hours_then: float, hours_now: Callable[[], float]) -> bool:
    return policy == "always" or (policy == "growth" and hours_now() > hours_then * (1 + refresh.growth_fraction))


def as_pinned(step: Step, pin: Pin) -> Step:
    """The step with the inputs that the pinned fit saw: its fingerprint is the pinned artifact's."""
    inputs = {name: step.store.find_all(ids) for name, ids in pin["inputs"].items()}
    return replace(step, inputs=inputs, context=step.context | {"pin": pin})


def ids_of(step: Step) -> dict[str, list[str]]:
    """The ids of a step's inputs, as a pin records them."""
    return {name: [a.id for a in artifacts] for name, artifacts in step.inputs.items()}


def obtainable(step: Step) -> bool:
    """Whether the step's artifact is in the store, or everything that it is made from is."""
    return step.find().complete or all(a.complete for artifacts in step.inputs.values() for a in artifacts)
