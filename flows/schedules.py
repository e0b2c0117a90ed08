"""When flows start by themselves: schedules and new audio; one run per store at a time; runs whose process died unnoticed."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError
from tinywave_core.storage.store import key_of

ZOMBIES = "tinywave: runs whose process died unnoticed"
_SILENT = timedelta(seconds=540)  # three heartbeats of Prefect's default


@dataclass(frozen=True)
class When:
    """When the pipeline starts by itself; with nothing set, only a person starts it."""

    cron: str | None = None
    """As in "0 3 * * *"."""
    every_minutes: float | None = None
    """Minutes between two runs."""
    timezone: str = "UTC"
    """IANA time zone of `cron`."""
    watch_minutes: float | None = None
    """Minutes between two looks for new audio, which starts the pipeline."""

    def check(self, source: str | None) -> None:
        """Raise ConfigError for times that cannot be."""
        from prefect._vendor.croniter import croniter

        for name, minutes in (("--every", self.every_minutes), ("--watch", self.watch_minutes)):
            if minutes is not None and minutes < 1:
                raise ConfigError(f"{name} is {minutes:g}; expected at least 1 minute")
        if self.cron is not None and not croniter.is_valid(self.cron):
            raise ConfigError(
                f'--cron is {self.cron!r}; expected minute, hour, day, month and weekday, as in "0 3 * * *"'
            )
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ConfigError(
                f"--timezone is {self.timezone!r}; expected an IANA name such as Europe/Berlin"
            ) from error
        if source is None and (self.cron or self.every_minutes or self.watch_minutes):
            raise ConfigError("a schedule looks for new audio, but there is no --source: pass a folder or s3:// prefix")

    def of(self, flow_name: str, config: PipelineConfig) -> dict[str, Any]:
        """Keyword arguments of a flow's deployment: schedules, and the event that starts it."""
        from prefect.events import DeploymentEventTrigger
        from prefect.schedules import Cron, Interval

        from flows.watch import NEW_AUDIO, resource

        if flow_name == "watch" and self.watch_minutes:
            return {"schedules": [Interval(timedelta(minutes=self.watch_minutes))]}
        if flow_name != "pipeline":
            return {}
        schedules = [Cron(self.cron, timezone=self.timezone)] if self.cron else []
        schedules += [Interval(timedelta(minutes=self.every_minutes))] if self.every_minutes else []
        match = {"prefect.resource.id": resource(config)["prefect.resource.id"]}
        trigger = DeploymentEventTrigger(
            name=f"new audio for {config.ingestion.corpus}",
            enabled=bool(self.watch_minutes),
            expect={NEW_AUDIO},
            match=match,
        )
        return {"schedules": schedules, "triggers": [trigger]}


@contextlib.contextmanager
def store_slot(config: PipelineConfig) -> Iterator[None]:
    """One deployed run per store at a time, whichever deployment and worker it is from; the next one waits for its turn.

    A slot is a lease that a dead run loses. Runs without a deployment (`tinywave run`) do not wait: the store's lock tells
    them who has it.
    """
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency
    from prefect.runtime import deployment

    if deployment.id is None:
        yield
        return
    name = slot_name(config.root)
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with concurrency(name, occupy=1):
        yield


def slot_name(root: str) -> str:
    """The concurrency limit of a store."""
    return f"tinywave-store-{key_of(root)}"


def crash_zombies() -> None:
    """The automation that calls a run crashed when it has not been heard of for nine minutes; made if it is not there."""
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture

    with contextlib.suppress(ValueError):
        _ = Automation.read(name=ZOMBIES)
        return
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    _ = Automation(
        name=ZOMBIES,
        description="A run sends heartbeats while its process lives; its hooks and the next run go on from its checkpoint.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat"} | ends,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=_SILENT,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message="no heartbeat for nine minutes: its process is taken for dead"
            )
        ],
    ).create()
