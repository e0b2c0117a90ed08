"""WS /v1/realtime: speech in as it is spoken, the answer as it is made; errors for one client, never the end of the server."""

import asyncio
import time
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.fixtures.serving import Serving, serve, until
from tinywave_core.audio.pcm import to_pcm16
from tinywave_core.runtimes.base import Sampling
from tinywave_core.serving.asking import Settings
from tinywave_core.serving.host import ModelHost
from tinywave_core.serving.limits import Limits
from tinywave_core.serving.pace import Pace
from tinywave_core.serving.realtime import Session
from tinywave_core.synthesis.generator import Generator, Sound

FEW = {"max_output_tokens": 40, "min_output_tokens": 40, "seed": 3}
LONG = {"max_output_tokens": 1500, "min_output_tokens": 1500}


def test_what_is_said_goes_on_as_the_generator_goes_on(serving: Serving, student: Generator, speech: np.ndarray):
    with serving.talk() as client:
        assert client.hear()["session"]["model"] == "student"
        client.speak(speech, **FEW)
        committed = client.hear("input_audio_buffer.committed")
        assert committed["seconds"] == pytest.approx(len(speech) / 16_000, abs=1e-3)
        sound, text, response = client.answer()
    heard = np.frombuffer(to_pcm16(speech), "<i2").astype(np.float32) / 32768
    made = student([Sound(heard)], "speech", Sampling(max_new_tokens=40, min_new_tokens=40, seed=3))
    assert sound == to_pcm16(made.audio) != b"" and text == ""
    assert response["status"] == "completed" and response["usage"]["output_tokens"] == 40
    assert response["timings"]["first_audio_s"] > 0


def test_the_model_reads_while_it_listens(serving: Serving, speech: np.ndarray):
    with serving.talk() as client:
        read = 0
        for start in range(0, len(speech), 4000):
            client.append(speech[start : start + 4000])
            client.say("input_audio_buffer.nothing")  # an answer: all before it has arrived
            client.fault()
            client.say("session.update", session={})
            client.hear("session.updated")
            until(lambda: serving.host._ear._work_queue.empty())
            time.sleep(0.02)
        client.say("input_audio_buffer.commit")
        read = client.hear("input_audio_buffer.committed")["read_while_listening"]
        client.say("response.create", response=FEW)
        _, _, response = client.answer()
    assert read > 0 and response["usage"]["input_tokens_read_while_listening"] == read


def test_settings_stay_for_the_session_and_change_for_a_response(serving: Serving):
    with serving.talk("?model=another") as client:
        client.say("session.update", session={"output_modalities": ["text"], "temperature": 1.2, **FEW})
        session = client.hear("session.updated")["session"]
        assert (session["model"], session["output_modalities"], session["temperature"]) == ("another", ["text"], 1.2)
        texts = []
        for more in ({}, {}, {"seed": 4}):
            client.say("conversation.item.create", item={"content": [{"type": "input_text", "text": "and then"}]})
            client.say("response.create", response=more)
            sound, text, response = client.answer()
            assert sound == b"" and response["status"] == "completed"
            texts.append(text)
        assert texts[0] == texts[1] != texts[2]


def test_speech_of_a_declared_rate_is_heard(serving: Serving, speech: np.ndarray):
    with serving.talk() as client:
        client.say("session.update", session={"audio": {"input": {"format": {"type": "audio/pcm", "rate": 32_000}}}})
        client.speak(np.repeat(speech, 2), **FEW)
        seconds = client.hear("input_audio_buffer.committed")["seconds"]
        assert seconds == pytest.approx(len(speech) / 16_000, abs=0.01)
        assert client.answer()[2]["status"] == "completed"


def test_who_sends_thousands_of_events_at_once_leaves_room_for_others(student: Generator):
    clear, turns = {"type": "websocket.receive", "text": '{"type": "input_audio_buffer.clear"}'}, 0
    coming = iter([{"type": "websocket.connect"}, *[clear] * 200, {"type": "websocket.disconnect", "code": 1005}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(coming)  # never waits, as a queue that is full

    async def send(message: Any) -> None:
        sent.append(message)

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def talk() -> None:
        waiting = asyncio.create_task(other())
        socket = WebSocket({"type": "websocket"}, receive, send)
        await socket.accept()
        host = ModelHost("student", student, Limits())
        await Session(socket, {"student": host}, "student", host.limits).run()
        waiting.cancel()

    asyncio.run(talk())
    assert len(sent) == 2 + 200 and turns >= 199


def test_a_client_is_read_more_slowly_when_it_sends_more_than_its_share():
    pace = Pace(per_s=10, at_once=5)
    assert [pace.wait_s(0) for _ in range(7)] == pytest.approx([0, 0, 0, 0, 0, 0.1, 0.2])
    assert [pace.wait_s(now) for now in (0.1, 0.2)] == pytest.approx([0.2, 0.2])  # ten a second
    assert [pace.wait_s(5) for _ in range(5)] == [0] * 5  # who was silent may burst again


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_json"),
        ("[" * 50_000, "invalid_json"),
        (b"\x00\x01", "invalid_json"),
        ('{"type": 3}', "invalid_json"),
        ('{"type": "response.sing"}', "unknown_event"),
        ('{"type": "input_audio_buffer.append"}', "invalid_audio"),
        ('{"type": "input_audio_buffer.append", "audio": "%%%"}', "invalid_audio"),
        ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty"),
        ('{"type": "response.create"}', "prompt_empty"),
        ('{"type": "response.create", "response": 3}', "invalid_event"),
        ('{"type": "response.cancel"}', "response_not_active"),
        ('{"type": "session.update"}', "invalid_event"),
        ('{"type": "session.update", "session": {"model": "/etc/passwd"}}', "unknown_model"),
        ('{"type": "session.update", "session": {"model": ["x"]}}', "invalid_settings"),
        ('{"type": "session.update", "session": {"seed": true}}', "invalid_settings"),
        ('{"type": "session.update", "session": {"audio": 3}}', "invalid_event"),
        (
            '{"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/opus"}}}}}',
            "invalid_audio",
        ),
        ('{"type": "session.update", "session": {"audio": {"output": {"voice": "\\udfff"}}}}', "invalid_text"),
        ('{"type": "session.update", "session": {"temperature": -1}}', "invalid_settings"),
        ('{"type": "session.update", "session": {"temperature": NaN}}', "invalid_settings"),
        ('{"type": "session.update", "session": {"output_modalities": ["smell"]}}', "invalid_settings"),
        ('{"type": "session.update", "session": {"audio": {"input": {"format": {"rate": 4}}}}}', "invalid_audio"),
        ('{"type": "conversation.item.create", "item": {"content": [{"type": "input_image"}]}}', "invalid_item"),
        (
            '{"type": "conversation.item.create", "item": {"content": [{"type": "input_text", "text": ""}]}}',
            "invalid_text",
        ),
        (
            '{"type": "conversation.item.create", "item": {"content": [{"type": "input_text", "text": "[Hu3]"}]}}',
            "invalid_request",
        ),
    ],
)
def test_a_wrong_event_is_an_error_and_the_next_one_is_answered(
    serving: Serving, speech: np.ndarray, message: str | bytes, code: str
):
    with serving.talk() as client:
        client.socket.send(message)
        assert client.fault()["code"] == code
        client.speak(speech[:16_000], max_output_tokens=2)
        assert client.answer()[2]["status"] == "completed"


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"colour": "red"}, "session.colour"),
        ({"voice": "alloy"}, "session.voice"),
        ({"input_audio_format": "pcm16"}, "session.input_audio_format"),
        ({"turn_detection": {"type": "server_vad"}}, "session.turn_detection"),
        ({"type": "transcription"}, "session.type"),
        ({"instructions": "Be brief."}, "session.instructions"),
        ({"tools": [{"type": "function"}]}, "session.tools"),
        ({"tool_choice": True}, "session.tool_choice"),
        ({"max_output_tokens": "many"}, "session.max_output_tokens"),
        ({"max_output_tokens": 10**6}, "session.max_output_tokens"),
        ({"audio": {"speakers": 2}}, "session.audio.speakers"),
        ({"audio": {"input": []}}, "session.audio.input"),
        ({"audio": {"input": {"transcription": {"model": "whisper-1"}}}}, "session.audio.input.transcription"),
        ({"audio": {"input": {"noise_reduction": {"type": "near_field"}}}}, "session.audio.input.noise_reduction"),
        ({"audio": {"input": {"format": {"type": "audio/opus"}}}}, "session.audio.input.format.type"),
        ({"audio": {"input": {"format": {"type": "audio/pcmu", "rate": 16_000}}}}, "session.audio.input.format.rate"),
        ({"audio": {"input": {"format": {"channels": 2}}}}, "session.audio.input.format.channels"),
        ({"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}, "session.audio.input.turn_detection.type"),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 6000}}}},
            "session.audio.input.turn_detection.idle_timeout_ms",
        ),
        ({"audio": {"output": {"speed": 1.5}}}, "session.audio.output.speed"),
        ({"audio": {"output": {"voice": "nobody"}}}, "session.audio.output.voice"),
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 22_050}}}}, "session.audio.output.format.rate"),
    ],
)
def test_what_is_not_done_is_refused_by_its_name_and_nothing_changes(
    serving: Serving, session: dict[str, Any], param: str
):
    with serving.talk() as client:
        before = client.hear("session.created")["session"]
        client.say("session.update", session={"temperature": 1.5, **session})
        fault = client.fault()
        assert fault["param"] == param and fault["message"].startswith(f"{param}: ")
        # What asks for nothing is taken.
        client.say("session.update", session={"type": "realtime", "instructions": "", "tools": [], "prompt": None})
        assert client.hear("session.updated")["session"] == before


def test_a_response_that_cannot_be_leaves_the_prompt(serving: Serving, speech: np.ndarray):
    with serving.talk() as client:
        client.speak(speech, audio={"output": {"voice": "nobody"}})
        fault = client.fault()
        assert fault["param"] == "response.audio.output.voice" and "there are " in fault["message"]
        client.say("response.create", response={"tools": [3]})
        assert client.fault()["param"] == "response.tools"
        client.say("response.create", response=FEW | {"audio": {"output": {"voice": serving.voice()}}})
        assert client.answer()[2]["status"] == "completed"


def test_as_many_tokens_as_there_may_be_are_asked_for_as_the_protocol_does(serving: Serving):
    with serving.talk() as client:
        client.say("session.update", session={"max_output_tokens": "inf"})
        assert client.hear("session.updated")["session"]["max_output_tokens"] == "inf"
    endless = Settings(max_new_tokens="inf")
    assert [endless.sampling(room, 1500).max_new_tokens for room in (700, 5000)] == [700, 1500]
    assert [Settings().sampling(room, 1500).max_new_tokens for room in (100, 5000)] == [100, 300]


def test_silence_and_too_much_are_refused(serving: Serving, speech: np.ndarray):
    with serving.talk() as client:
        client.append(np.zeros(16_000, np.float32))
        client.say("input_audio_buffer.commit")
        assert client.fault()["code"] == "audio_silent"
        for _ in range(3):
            client.append(np.full(16_000 * 4, 0.1, np.float32))
        assert client.fault()["code"] == "audio_too_long"
        client.say("input_audio_buffer.clear")
        client.hear("input_audio_buffer.cleared")
        client.speak(speech, **FEW)
        assert client.answer()[2]["status"] == "completed"


def test_an_answer_is_cancelled_at_once_and_only_one_is_made(serving: Serving, speech: np.ndarray):
    with serving.talk() as client:
        client.speak(speech, **LONG)
        client.hear("response.output_audio.delta")
        client.say("response.create")
        assert client.fault()["code"] == "response_active"
        client.say("response.cancel")
        assert client.answer()[2]["status"] == "cancelled"
        until(serving.idle)
        client.speak(speech, **FEW)
        assert client.answer()[2]["status"] == "completed"


def test_who_cancels_may_ask_again_at_once(serving: Serving, speech: np.ndarray):
    with serving.talk() as client:
        client.speak(speech, **LONG)
        client.hear("response.output_audio.delta")
        client.say("conversation.item.create", item={"content": [{"type": "input_text", "text": "and then"}]})
        client.say("response.cancel")
        client.say("response.create", response=FEW)
        assert client.answer()[2]["status"] == "cancelled"
        assert client.answer()[2]["status"] == "completed"


def test_one_who_goes_away_is_no_longer_worked_for(serving: Serving, speech: np.ndarray):
    with serving.talk() as client:
        client.speak(speech, **LONG)
        client.hear("response.output_audio.delta")
        client.socket.socket.close()  # without a word
    until(serving.idle)
    until(lambda: serving.server.sessions == 0)
    with serving.talk() as client:
        client.speak(speech, **FEW)
        assert client.answer()[2]["status"] == "completed"


def test_one_who_only_makes_errors_is_sent_away(serving: Serving):
    with serving.talk() as client:
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(100_000):
                client.socket.send("{")
                client.hear()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
    assert httpx.get(f"{serving.url}/health").status_code == 200


def test_a_message_that_is_too_long_ends_the_connection(serving: Serving):
    with serving.talk() as client:
        with pytest.raises(ConnectionClosed) as closed:
            client.say("input_audio_buffer.append", audio="A" * (2 << 20))
            while True:
                client.hear()
        # The rest of the message is not read: where it comes after the end, the client's machine may drop the reason with it.
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    assert httpx.get(f"{serving.url}/health").status_code == 200


def test_more_clients_than_there_is_room_for_are_told(serving: Serving):
    until(lambda: serving.server.sessions == 0)
    with serving.talk() as one, serving.talk() as two, serving.talk() as three:
        for client in (one, two, three):
            assert client.hear()["type"] == "session.created"
        with serving.talk() as fourth:
            assert fourth.fault()["code"] == "busy"
    until(lambda: serving.server.sessions == 0)
    with serving.talk() as client:
        assert client.hear()["type"] == "session.created"


def test_a_model_that_is_not_there_is_told(serving: Serving):
    with serving.talk("?model=nobody") as client:
        assert client.fault()["code"] == "unknown_model"


def test_a_page_of_another_site_gets_no_connection(serving: Serving):
    with pytest.raises(InvalidStatus):
        with serving.talk(origin="https://evil.example"):
            pass
    with serving.talk(origin=serving.url) as client:
        assert client.hear()["type"] == "session.created"


def test_silent_connections_and_long_answers_end(student: Generator, speech: np.ndarray):
    with serve({"student": student}, Limits(idle_s=0.4, wall_s=0.5, new_tokens=1500)) as serving:
        with serving.talk() as client:
            client.speak(speech, **LONG)
            _, _, response = client.answer()
            assert response["status"] == "incomplete" and response["usage"]["output_tokens"] < 1500
            assert client.fault()["code"] == "closed"
            with pytest.raises(ConnectionClosed):
                client.hear()


def test_a_model_of_speech_alone_refuses_text_and_says_so_in_the_list(speech_only: Generator):
    with serve({"mute": speech_only}, Limits()) as running:
        (model,) = httpx.get(f"{running.url}/v1/models").json()["data"]
        assert (model["inputs"], model["outputs"]) == (["speech"], ["speech"])
        answer = httpx.post(f"{running.url}/v1/audio/generate", json={"input": "hello there"})
        assert answer.status_code == 400 and "it was trained on speech alone" in answer.json()["error"]["message"]
        with running.talk() as client:
            client.say("conversation.item.create", item={"content": [{"type": "input_text", "text": "a"}]})
            assert "it was trained on speech alone" in client.fault()["message"]
            client.say("session.update", session={"output_modalities": ["text"]})
            assert client.fault()["param"] == "session.output_modalities"
