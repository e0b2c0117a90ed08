"""What a flow run logs when it ends badly: what is kept, and how to go on."""

from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging.loggers import flow_run_logger

_KEPT = "finished steps are in the store, and a training that was under way has its checkpoint"
_WORDS = {
    "CRASHED": f"The process of this run died or was stopped. Nothing is lost: {_KEPT}. Run it again with the same parameters.",
    "CANCELLED": f"This run was cancelled: {_KEPT}. Run it again with the same parameters and it goes on from there.",
    "CANCELLING": f"This run was cancelled: {_KEPT}. Run it again with the same parameters and it goes on from there.",
    "FAILED": f"This run failed; the error is above. Until then, {_KEPT}: mend the cause and run it again.",
}


def say_how_to_go_on(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Leave a line in the run's log; for `on_crashed`, `on_cancellation` and `on_failure`."""
    flow_run_logger(flow_run, flow).warning(_WORDS[state.type.value])


HOOKS: dict[str, Any] = {
    "on_crashed": [say_how_to_go_on],
    "on_cancellation": [say_how_to_go_on],
    "on_failure": [say_how_to_go_on],
}
"""Keyword arguments of a flow."""
