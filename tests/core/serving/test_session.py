"""One session without a network: each event handed to it, with what it sends."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from starlette.websockets import WebSocketDisconnect

from tests.fixtures.serving import base64_of
from tinywave_core.audio.pcm import to_pcm16
from tinywave_core.serving.host import ModelHost
from tinywave_core.serving.limits import Limits
from tinywave_core.serving.realtime import Session, _fault_of_ours
from tinywave_core.serving.session_fields import TurnDetection
from tinywave_core.serving.turn_taking import Edge, TurnTaking
from tinywave_core.synthesis.generator import Generator

RATE = 16_000
TEXT = {"content": [{"type": "input_text", "text": "and then"}]}
FEW = {"max_output_tokens": 3, "min_output_tokens": 3, "seed": 3}
APPEND, COMMIT, CLEAR = (f"input_audio_buffer.{verb}" for verb in ("append", "commit", "clear"))


class Socket:
    """What a session needs of a WebSocket, in memory; it is closed by the client after the last message."""

    def __init__(self, messages: Sequence[str] = ()) -> None:
        self.coming, self.sent, self.code = list(messages), list[dict[str, Any]](), 0

    async def send_text(self, text: str) -> None:
        self.sent.append(json.loads(text))

    async def receive_text(self) -> str:
        if not self.coming:
            raise WebSocketDisconnect
        if self.coming[0] == "silence":
            await asyncio.Event().wait()
        return self.coming.pop(0)

    async def close(self, code: int, _: str) -> None:
        self.code = code


class Talk:
    """A session and its client."""

    def __init__(self, student: Generator, messages: Sequence[str] = (), **limits: Any) -> None:
        self.socket, bounds = Socket(messages), Limits(**limits)
        self.hosts = {name: ModelHost(name, student, bounds) for name in ("student", "another")}
        self.session = Session(self.socket, self.hosts, "student", bounds)  # type: ignore[arg-type]

    async def say(self, kind: str, **values: Any) -> list[dict[str, Any]]:
        """What is answered at once."""
        before = len(self.socket.sent)
        await self.session._answer(event(kind, **values))
        return self.socket.sent[before:]

    async def hear(self, audio: bytes) -> list[dict[str, Any]]:
        return await self.say(APPEND, audio=base64_of(audio))

    async def code(self, kind: str, **values: Any) -> str:
        """Of the only answer, an error."""
        (answer,) = await self.say(kind, **values)
        return str(answer["error"]["code"])

    async def answered(self, **response: Any) -> list[dict[str, Any]]:
        """All events of a response."""
        before = len(self.socket.sent)
        await self.say("response.create", response=FEW | response)
        assert self.session.response is not None
        await self.session.response
        return self.socket.sent[before:]


class Scripted(TurnTaking):
    """Turns where the test says that they are."""

    def __init__(self, edges: list[list[Edge]], **asked: Any) -> None:
        super().__init__(TurnDetection(type="server_vad", create_response=False, **asked), RATE)
        self.edges, self.looked, self.stopped, self.forgot = edges, list[int](), 0, 0

    def look(self, data: bytes) -> list[Edge]:
        self.looked.append(len(data))
        return self.edges.pop(0) if self.edges else []

    def stop(self) -> None:
        self.stopped += 1

    def forget(self) -> None:
        self.forgot += 1


def event(kind: str, **values: Any) -> str:
    return json.dumps({"type": kind, **values})


def told(events: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Events about turns, with their times."""
    names = {"speech_started": "audio_start_ms", "speech_stopped": "audio_end_ms", "committed": "seconds"}
    return [(kind, one[names[kind]]) for one in events if (kind := one["type"].rpartition(".")[2]) in names]


@pytest.fixture
def sound() -> bytes:
    """Two seconds of a tone."""
    return to_pcm16(0.1 * np.sin(np.arange(2 * RATE) / 6).astype(np.float32))


def test_after_so_many_faults_in_a_row_the_connection_ends(student: Generator):
    bad, good = "{", event(CLEAR)
    for messages, code, unread in (([bad] * 4, 1008, 1), ([bad, bad, good, bad, bad], 0, 0)):
        talk = Talk(student, messages, faults=3)
        asyncio.run(talk.session.run())
        assert (talk.socket.code, len(talk.socket.coming)) == (code, unread)
    talk = Talk(student, ["silence"], idle_s=0.01)
    asyncio.run(talk.session.run())
    assert talk.socket.code == 1001 and talk.socket.sent[-1]["error"]["code"] == "closed"


def test_who_goes_away_leaves_nothing_behind(student: Generator, sound: bytes):
    said = [event("conversation.item.create", item=TEXT), event("response.create", response={"max_output_tokens": 900})]
    talk = Talk(student, [*said, event(APPEND, audio=base64_of(sound))])

    async def until_gone() -> None:
        await talk.session.run()
        assert talk.session.response is not None and talk.session.response.done()

    asyncio.run(until_gone())
    assert talk.socket.sent[-1]["response"]["status"] == "cancelled"
    assert talk.session.listening is not None and talk.session.listening._task is not None
    assert talk.session.listening._task.cancelled()
    asyncio.run(Talk(student).session.run())  # nor who said nothing


def test_text_has_a_length_that_is_counted_over_the_whole_prompt(student: Generator):
    async def talk() -> None:
        one = Talk(student, prompt_characters=10)
        item = lambda text: {"content": [{"type": "input_text", "text": text}]}
        assert await one.code("conversation.item.create", item=item("a" * 11)) == "text_too_long"
        assert len(await one.say("conversation.item.create", item=item("a" * 4))) == 1
        assert await one.code("conversation.item.create", item=item("a" * 7)) == "text_too_long"
        (added,) = await one.say("conversation.item.create", item=item("b" * 6))
        assert added["type"] == "conversation.item.added"
        assert one.session.prompt.parts == ["a" * 4, "b" * 6]

    asyncio.run(talk())


@pytest.mark.parametrize("content", [[], "and then", [3], [TEXT["content"][0], {"type": "input_audio"}], None])
def test_what_is_no_text_is_no_item(student: Generator, content: Any):
    talk = Talk(student)
    assert asyncio.run(talk.code("conversation.item.create", item={"content": content})) == "invalid_item"
    assert talk.session.prompt.parts == []


def test_audio_has_a_length_that_is_counted_over_the_whole_prompt(student: Generator, sound: bytes):
    async def talk() -> None:
        one = Talk(student, prompt_s=1.0)
        assert await one.hear(sound[: 2 * RATE]) == []
        assert await one.code(APPEND, audio=base64_of(b"\0\0")) == "audio_too_long"
        await one.say(CLEAR)
        assert await one.code(APPEND, audio=base64_of(sound[: 2 * RATE + 2])) == "audio_too_long"
        await one.hear(sound[:RATE])
        (committed,) = await one.say(COMMIT)
        assert committed["seconds"] == 0.5 and one.session.prompt.seconds == 0.5
        assert [len(part) for part in one.session.prompt.parts] == [committed["tokens"]]
        assert await one.hear(sound[:RATE]) == []
        assert await one.code(APPEND, audio=base64_of(b"\0\0")) == "audio_too_long"

    asyncio.run(talk())


def test_in_the_middle_of_a_prompt_model_and_format_stay_and_the_rest_may_change(student: Generator, sound: bytes):
    wide = {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 24_000}}}}

    async def talk() -> None:
        for begin in (("conversation.item.create", {"item": TEXT}), (APPEND, {"audio": base64_of(sound[:1000])})):
            one = Talk(student)
            await one.say(begin[0], **begin[1])
            for change in ({"model": "another"}, wide):
                assert await one.code("session.update", session=change) == "prompt_begun"
            (updated,) = await one.say("session.update", session={"model": "student", "temperature": 1.5})
            assert updated["session"]["temperature"] == 1.5 and updated["session"]["model"] == "student"
            assert updated["session"]["audio"]["input"]["turn_detection"] is None
            await one.say(CLEAR)
            (updated,) = await one.say("session.update", session=wide | {"model": "another"})
            assert updated["session"]["model"] == "another"
            for name, code in (("nobody", "unknown_model"), (["another"], "invalid_settings")):
                assert await one.code("session.update", session={"model": name}) == code

    asyncio.run(talk())


def test_audio_that_is_not_committed_has_no_answer_and_no_text_behind_it(student: Generator, sound: bytes):
    async def talk() -> None:
        one = Talk(student)
        await one.hear(sound[:1000])
        assert await one.code("response.create") == "prompt_begun"
        assert await one.code("conversation.item.create", item=TEXT) == "prompt_begun"

    asyncio.run(talk())


def test_a_response_is_told_in_order_and_adds_up(student: Generator):
    async def talk() -> None:
        one = Talk(student)
        await one.say("conversation.item.create", item=TEXT)
        one.session.prompt.committed = time.perf_counter() - 1000  # as if the speaker had stopped long ago
        events = await one.answered(output_modalities=["text"])
        deltas = [each for each in events if each["type"] == "response.output_text.delta"]
        assert {(each["output_index"], each["content_index"]) for each in deltas} <= {(0, 0)}
        *_, whole, done = events
        assert [each["type"] for each in (events[0], whole, done)] == [
            "response.created",
            "response.output_text.done",
            "response.done",
        ]
        assert whole["text"] == "".join(each["delta"] for each in deltas) and whole["output_index"] == 0
        usage = done["response"]["usage"]
        assert usage["input_tokens"] + 3 == usage["total_tokens"] and usage["input_tokens_read_while_listening"] == 0
        assert 1000 < done["response"]["timings"]["first_token_s"] < 1060
        assert await one.code("response.cancel") == "response_not_active"
        await one.say("conversation.item.create", item=TEXT)
        events = await one.answered()
        assert (deltas := [each["delta"] for each in events if "delta" in each]) and all(deltas)
        kinds = [each["type"] for each in events]
        assert kinds[-2:] == ["response.output_audio.done", "response.done"] and "output_text" not in " ".join(kinds)

    asyncio.run(talk())


def test_one_response_is_made_at_a_time_until_it_is_cancelled_by_the_client_or_a_turn(student: Generator, sound: bytes):
    async def talk(*, interrupt: bool) -> None:
        one = Talk(student)
        one.session.turns = Scripted([[Edge(True, 1000, 62)]], interrupt_response=interrupt)
        one.session.response = being_made = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]
        assert await one.code("response.create") == "response_active"
        await one.hear(sound[: 2 * 8000])
        assert bool(being_made.cancelling()) is interrupt
        if not interrupt:
            assert await one.say("response.cancel") == [] and being_made.cancelling()
        await one.say(CLEAR)
        assert await one.code("response.create") == "prompt_empty" and being_made.cancelled()

    for interrupt in (True, False):
        asyncio.run(talk(interrupt=interrupt))


def test_turns_are_looked_for_in_half_seconds_of_whole_samples(student: Generator):
    async def talk() -> None:
        one, turns = Talk(student), Scripted([])
        one.session.turns = turns
        for size in (40_000, 5, 5, 2):
            await one.hear(bytes(size))
        assert turns.looked == [16_000, 16_000, 8_000, 4, 6, 2] and turns.forgot == 6
        assert len(turns._kept) == 40_012

    asyncio.run(talk())


def test_a_turn_that_begins_and_ends_in_one_piece_is_cut_out_of_it(student: Generator, sound: bytes):
    async def talk() -> None:
        one, turns = Talk(student), Scripted([[Edge(True, 1000, 62), Edge(False, 6000, 375)]])
        one.session.turns = turns
        events = await one.hear(sound[: 2 * 8000])
        assert told(events) == [("speech_started", 62), ("speech_stopped", 375), ("committed", 0.312)]
        assert (turns._first, bytes(turns._kept)) == (6000, sound[2 * 6000 : 2 * 8000]) and turns.forgot == 1
        assert one.session.response is None  # it asked for none

    asyncio.run(talk())


def test_a_turn_as_long_as_a_prompt_ends_there_and_the_rest_is_the_next_ones(student: Generator, sound: bytes):
    async def talk() -> None:
        one, turns = Talk(student, prompt_s=1.0), Scripted([[Edge(True, 4000, 250)]])
        one.session.turns = turns
        events = await one.hear(sound[: 2 * 24_000])
        # From 0.25 s to 1 s, for another half second would be more than one.
        assert told(events) == [("speech_started", 250), ("speech_stopped", 1000), ("committed", 0.75)]
        assert (turns._first, bytes(turns._kept), turns.stopped) == (16_000, sound[2 * 16_000 : 2 * 24_000], 1)

    asyncio.run(talk())


def test_a_turn_for_which_there_is_no_room_is_refused_and_its_end_is_nothing(student: Generator, sound: bytes):
    async def talk() -> None:
        one, turns = Talk(student, prompt_s=1.0), Scripted([[Edge(True, 4000, 250), Edge(False, 7000, 437)]])
        one.session.turns, one.session.prompt.seconds = turns, 0.9
        started, fault = await one.hear(sound[: 2 * 8000])
        assert started["audio_start_ms"] == 250 and fault["error"]["code"] == "audio_too_long"
        assert turns.stopped == 1 and one.session.listening is None

    asyncio.run(talk())


def test_a_client_ends_a_turn_itself_and_clear_begins_to_look_anew(student: Generator, sound: bytes):
    async def talk() -> None:
        one, turns = Talk(student), Scripted([[Edge(True, 1000, 62)]])
        one.session.turns = turns
        await one.hear(sound[: 2 * 16_000])
        (committed,) = await one.say(COMMIT)
        assert committed["seconds"] == 0.938  # 15,000 samples
        assert (turns._first, len(turns._kept), turns.stopped) == (16_000, 0, 1)
        assert await one.code(COMMIT) == "input_audio_buffer_commit_empty"
        detection = {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
        await one.say(CLEAR)
        await one.say("session.update", session=detection)
        before = one.session.turns
        await one.say("session.update", session={"temperature": 1.5})
        assert isinstance(before, TurnTaking) and one.session.turns is before
        await one.hear(b"\1")
        await one.say(CLEAR)
        assert one.session.turns is not before and one.session._half == b""

    asyncio.run(talk())


def test_a_fault_of_ours_is_one_of_the_server():
    assert _fault_of_ours(ValueError()).status == 500
