"""OpenAI's own client, as PyPI has it, holds a conversation with the server: its typed events are what comes, and nothing of it is changed."""

import asyncio
import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI
from pydantic import ValidationError

import tinywave_core.serving
from tests.fixtures.serving import PATIENCE_S, Serving, kept, serve, talkative
from tinywave_core.audio.pcm import to_pcm16
from tinywave_core.serving.limits import Limits
from tinywave_core.synthesis.generator import Generator

README = Path(tinywave_core.serving.__file__).parent / "README.md"
PCM_24K = {"type": "audio/pcm", "rate": 24_000}


@pytest.fixture(scope="module")
def serving(student: Generator) -> Iterator[Serving]:
    """Models that always have something to say: 30 tokens at least."""
    model = talkative(kept(student), 30)
    with serve({"student": model, "another": model}, Limits()) as running:
        yield running


def at_24_khz(speech: np.ndarray) -> bytes:
    """The speech at the rate of the protocol, and a second of silence."""
    times = np.arange(0, len(speech), 2 / 3)
    return to_pcm16(np.interp(times, np.arange(len(speech)), speech).astype(np.float32)) + bytes(48_000)


def client_of(serving: Serving) -> AsyncOpenAI:
    url = f"{serving.url}/v1"
    return AsyncOpenAI(api_key="none", base_url=url, websocket_base_url=url.replace("http", "ws", 1))


def missing(event: Any) -> list[str]:
    """Fields that the library's type has, always, and the event has not."""
    try:
        type(event).model_validate(event.to_dict(warnings=False))
    except ValidationError as error:
        return [".".join(map(str, fault["loc"])) for fault in error.errors() if fault["type"] == "missing"]
    return []


async def heard(connection: Any, last: str) -> list[Any]:
    """Events up to the one of this type; each has all that its type in the library asks for.

    But for the first: a session begins at 16 kHz, and the library knows PCM of 24 kHz only (infra/decisions/0045).
    """
    events = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in connection:
            if event.type != "session.created":
                assert not missing(event)
            events.append(event)
            if event.type == last:
                break
    return events


def test_the_program_of_the_readme_gets_an_answer(
    serving: Serving, speech: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (program,) = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("question.pcm").write_bytes(at_24_khz(speech))
    exec(compile(program.replace("127.0.0.1:7860", serving.url.removeprefix("http://")), str(README), "exec"), {})
    answer = np.frombuffer(Path("answer.pcm").read_bytes(), "<i2")
    assert len(answer) > 2_400 and np.abs(answer).max() > 100


def test_the_public_client_holds_a_conversation(serving: Serving, speech: np.ndarray):
    """Two turns that the server finds, a text that is answered in writing, a voice that is not there, and a last turn."""

    async def talk() -> None:
        async with client_of(serving) as client:
            names = [model.id async for model in client.models.list()]
            assert names == ["student", "another"]
            async with client.realtime.connect(model="another") as connection:
                (created,) = await heard(connection, "session.created")
                assert created.session.model == "another"
                hears = {"format": PCM_24K, "turn_detection": {"type": "server_vad"}}
                session: Any = {
                    "type": "realtime",
                    "max_output_tokens": 40,
                    "audio": {"input": hears, "output": {"format": PCM_24K}},
                }
                await connection.session.update(session=session)
                (updated,) = await heard(connection, "session.updated")
                assert updated.session.audio.output.format.rate == 24_000
                for _ in range(2):
                    await spoken_turn(connection, speech)
                await written_turn(connection)
                session["audio"]["output"] = {"voice": "nobody"}
                await connection.session.update(session=session)
                (fault,) = await heard(connection, "error")
                assert fault.error.param == "session.audio.output.voice"
                await spoken_turn(connection, speech)

    asyncio.run(talk())


async def spoken_turn(connection: Any, speech: np.ndarray) -> None:
    """Speech goes in, and what is said and heard of it comes in the order of the protocol."""
    question = at_24_khz(speech)
    for start in range(0, len(question), 4_800):
        await connection.input_audio_buffer.append(audio=base64.b64encode(question[start : start + 4_800]).decode())
    events = await heard(connection, "response.done")
    kinds = [event.type for event in events]
    assert list(dict.fromkeys(kinds)) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "response.created",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.done",
    ]
    sound = b"".join(base64.b64decode(event.delta) for event in events if event.type == "response.output_audio.delta")
    response = events[-1].response
    assert response.status == "completed" and response.usage.output_tokens <= 40
    assert len(sound) > 2_400 and np.abs(np.frombuffer(sound, "<i2")).max() > 100


async def written_turn(connection: Any) -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Once upon a time"}]}
    await connection.conversation.item.create(item=item)
    (added,) = await heard(connection, "conversation.item.added")
    assert added.item.content[0].text == "Once upon a time"
    await connection.response.create(response={"output_modalities": ["text"], "max_output_tokens": 40})
    events = await heard(connection, "response.done")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    (done,) = [event for event in events if event.type == "response.output_text.done"]
    assert done.text == text and events[-1].response.status == "completed"
