"""Flows that run by themselves: on a schedule, or when there is new audio; and one at a time on one store."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prefect.events import emit_event
from prefect.server.schemas.schedules import CronSchedule

from flows import watch as watch_module
from flows.deployments import deployments_of
from flows.schedules import When, slot_name
from flows.watch import NEW_AUDIO, resource, watch
from tests.conftest import Finished
from tests.fixtures.tiny import NEW_CLIP, copy_clips, copy_store
from tinywave_core.errors import ConfigError
from tinywave_core.run.pipeline import STAGES
from tinywave_core.storage.store import Store

pytestmark = pytest.mark.usefixtures("prefect_server")


def deployed(when: When) -> dict[str, Any]:
    settings = {"source": "examples/speech", "root": "store"}
    return {each.flow_name: each for each in deployments_of("demo", settings, when)}


def test_every_flow_is_deployed_and_nothing_runs_by_itself_unless_asked_to():
    found = deployed(When())
    assert set(found) == {"pipeline", "watch", *STAGES}
    assert not any(each.schedules for each in found.values())
    assert [trigger.enabled for trigger in found["pipeline"].triggers] == [False]


def test_a_cron_schedule_is_the_pipelines_and_has_its_time_zone():
    found = deployed(When(cron="30 2 * * 1", timezone="Europe/Berlin"))
    (schedule,) = found.pop("pipeline").schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("30 2 * * 1", "Europe/Berlin")
    assert not any(each.schedules for each in found.values())


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "15 1 * * *"])
def test_a_daily_schedule_runs_once_each_day_also_where_an_hour_is_lost_or_comes_twice(zone: str, cron: str):
    """The server's scheduler asks at any moment, and a time that it has already is the same run."""
    (schedule,) = deployed(When(cron=cron, timezone=zone))["pipeline"].schedules
    of_server = CronSchedule.model_validate(schedule.schedule.model_dump())
    begin = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone))
    hours = [begin.astimezone(UTC) + timedelta(hours=hour) for hour in range(364 * 24)]
    offsets = [hour.astimezone(begin.tzinfo).utcoffset() for hour in hours]
    changes = [hour for number, hour in enumerate(hours) if offsets[number] != offsets[number - 1] and number]
    assert len(changes) == (0 if zone == "UTC" else 2)

    async def runs() -> set[datetime]:
        asked = [change + timedelta(hours=hour) for change in changes for hour in range(-30, 30)]
        return {*await of_server.get_dates(365, begin), *[(await of_server.get_dates(1, at))[0] for at in asked]}

    days = Counter(run.astimezone(begin.tzinfo).date() for run in asyncio.run(runs()))
    assert days == Counter(begin.date() + timedelta(days=day) for day in range(365))


def test_watching_is_a_schedule_of_the_watcher_and_a_trigger_of_the_pipeline():
    found = deployed(When(watch_minutes=15))
    (schedule,) = found["watch"].schedules
    assert schedule.schedule.interval.total_seconds() == 900
    (trigger,) = found["pipeline"].triggers
    assert trigger.enabled and trigger.expect == {NEW_AUDIO}
    assert not found["pipeline"].schedules


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (When(cron="at dawn"), "--cron is 'at dawn'; expected minute, hour, day, month and weekday"),
        (When(cron="0 3 * * *", timezone="Berlin"), "--timezone is 'Berlin'; expected an IANA name"),
        (When(every_minutes=0.1), "--every is 0.1; expected at least 1 minute"),
        (When(watch_minutes=0), "--watch is 0; expected at least 1 minute"),
    ],
)
def test_what_cannot_be_a_schedule_is_said(when: When, message: str):
    with pytest.raises(ConfigError, match=message):
        when.check("speech")


def test_a_schedule_without_a_source_is_said():
    with pytest.raises(ConfigError, match="there is no --source"):
        When(cron="0 3 * * *").check(None)


def test_a_store_has_one_slot_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert slot_name("store") == slot_name(str(tmp_path / "store")) != slot_name("other")
    assert slot_name("s3://bucket/store") != slot_name("s3://bucket/other")


# The watcher -----------------------------------------------------------------------------------------------------


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the watcher emits, on its way to the server."""
    emitted: list[dict[str, Any]] = []

    def note(**event: Any) -> Any:
        emitted.append(event)
        return emit_event(**event)

    monkeypatch.setattr(watch_module, "emit_event", note)
    return emitted


def test_a_source_with_nothing_new_emits_nothing(finished: Finished, tmp_path: Path, events: list[dict[str, Any]]):
    config = copy_store(finished.config, tmp_path / "store")
    nothing = dict.fromkeys(["new", "copies", "forgotten", "unreadable", "replaced", "left_out"], 0)
    assert watch(config) == {"found": 12, "known": 12, "texts": 0, **nothing}
    assert not events


def test_new_audio_is_one_event_about_the_corpus_and_the_store_is_left_alone(
    finished: Finished, tmp_path: Path, events: list[dict[str, Any]]
):
    config = copy_store(finished.config, tmp_path / "store")
    source = copy_clips(tmp_path / "source", (NEW_CLIP,))
    before = Store(config.root).artifact_ids()
    config = config.model_copy(update={"source": str(source)})
    assert watch(config)["new"] == 1
    (event,) = events
    assert event["event"] == NEW_AUDIO and event["resource"] == resource(config)
    assert event["payload"]["new"] == 1 and event["payload"]["source"] == str(source)
    assert Store(config.root).artifact_ids() == before


def test_the_watcher_rests_though_the_store_lies_in_the_source(
    finished: Finished, tmp_path: Path, events: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    config = copy_store(finished.config, copy_clips(tmp_path / "source") / "out")
    assert list(Path(config.root, "generation").rglob("*.wav"))
    counts = watch(config.model_copy(update={"source": str(tmp_path / "source")}))
    assert (counts["found"], counts["new"], counts["left_out"]) == (12, 0, 1)
    assert "left out below the source: the store out" in capsys.readouterr().out
    assert not events


def test_the_event_is_the_one_that_the_pipeline_waits_for(finished: Finished):
    (trigger,) = When(watch_minutes=5).of("pipeline", finished.config)["triggers"]
    assert trigger.match.root == {"prefect.resource.id": resource(finished.config)["prefect.resource.id"]}
