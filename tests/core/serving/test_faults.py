"""Anything in any field: an answer or an error that names the field, never a fault of the server's own."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocket

from tests.core.serving.conftest import LIMITS
from tests.fixtures.serving import kept
from tinywave_core.serving.app import Server
from tinywave_core.serving.host import ModelHost
from tinywave_core.serving.realtime import Session
from tinywave_core.synthesis.generator import Generator

ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["\ud800", "\0", "a\udfffb", "é" * 300, "[Hu3]", "NaN", "1e999"]
)
NUMBERS = (
    st.integers() | st.floats() | st.sampled_from([10**400, -1, 2**31, 2**63, 1e-300, 5e-324, 1.7e308, True, False])
)
ANYTHING = st.recursive(
    st.none() | NUMBERS | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "input",
    "audio",
    "model",
    "output",
    "response_format",
    "temperature",
    "top_p",
    "max_new_tokens",
    "min_new_tokens",
    "seed",
    "voice",
)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def server(student: Generator) -> Iterator[Server]:
    host = ModelHost("student", kept(student), LIMITS)
    yield Server([host], LIMITS)
    host.close()


def ask(server: Server, **request: Any) -> Any:
    async def send() -> httpx.Response:
        # What goes wrong in the application is raised here.
        transport = httpx.ASGITransport(server.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/v1/audio/generate", timeout=60, **request)

    return send()


@settings(max_examples=250)
@given(field=st.sampled_from(FIELDS), value=ANYTHING)
def test_anything_in_a_field_is_answered_or_refused_by_its_name(
    server: Server, runner: asyncio.Runner, field: str, value: Any
):
    body = json.dumps({"input": "a", "max_new_tokens": 2, field: value}).encode()
    answer = runner.run(ask(server, content=body, headers={"content-type": "application/json"}))
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert answer.status_code in (400, 404, 413), error
        # What the model itself refuses (a text that spells a unit, a voice it has not) is said in its own words.
        is_models = error["code"] == "invalid_request" and field in ("input", "voice")
        assert field in error["message"] or is_models or error["code"] == "prompt_empty", error


@settings(max_examples=60)
@given(
    field=st.sampled_from(FIELDS) | ANY_TEXT,
    value=ANY_TEXT,
    kind=st.sampled_from(["audio/pcm", "audio/pcm;rate=", "audio/wav", ";", "é"]),
    body=st.binary(max_size=200),
)
def test_anything_in_a_query_or_a_body_of_bytes_is_refused(
    server: Server, runner: asyncio.Runner, field: str, value: str, kind: str, body: bytes
):
    query = {field.encode(errors="replace"): value.encode(errors="replace")}
    answer = runner.run(ask(server, content=body, params=query, headers={"content-type": kind.encode("latin-1")}))
    assert 400 <= answer.status_code < 500 and answer.json()["error"]["message"]


EVENTS: list[dict[str, Any]] = [
    {"type": "session.update", "event_id": "a", "session": {
        "model": "student", "temperature": 1.0, "top_p": 1.0, "seed": 1, "max_output_tokens": 2, "min_output_tokens": 0,
        "output_modalities": ["text"], "audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}, "output": {"voice": None}},
    }},
    {"type": "input_audio_buffer.append", "audio": "AAAA"},
    {"type": "input_audio_buffer.commit"},
    {"type": "conversation.item.create", "item": {"content": [{"type": "input_text", "text": "a"}]}},
    {"type": "response.create", "response": {"max_output_tokens": 2, "seed": 1, "output_modalities": ["text"]}},
    {"type": "response.cancel"},
]  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places inside of an event."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from paths(value[key], (*path, key))


PLACES = [(i, path) for i, event in enumerate(EVENTS) for path in paths(event)]


async def converse(host: ModelHost, messages: list[str | bytes]) -> list[dict[str, Any]]:
    """What a session says to messages; an exception of its own is raised."""
    kinds = [{"text": each} if isinstance(each, str) else {"bytes": each} for each in messages]
    coming = iter(
        [
            {"type": "websocket.connect"},
            *[{"type": "websocket.receive", **each} for each in kinds],
            {"type": "websocket.disconnect", "code": 1005},
        ]
    )
    said: list[dict[str, Any]] = []

    async def receive() -> Any:
        return next(coming)

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            said.append(json.loads(message["text"]))

    socket = WebSocket({"type": "websocket"}, receive, send)
    await socket.accept()
    await Session(socket, {"student": host}, "student", host.limits).run()
    return said


@settings(max_examples=250)
@given(place=st.sampled_from(PLACES), value=ANYTHING)
def test_anything_anywhere_in_an_event_is_answered_and_the_next_one_too(
    server: Server, runner: asyncio.Runner, place: tuple[int, tuple[Any, ...]], value: Any
):
    number, path = place
    event = json.loads(json.dumps(EVENTS[number]))
    inside = event
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    (host,) = server.hosts.values()
    said = runner.run(converse(host, [json.dumps(event), '{"type": "input_audio_buffer.clear"}']))
    kinds = [each["type"] for each in said]
    assert kinds[0] == "session.created" and "input_audio_buffer.cleared" in kinds
    for each in said:
        if each["type"] == "error":
            assert each["error"]["type"] == "invalid_request_error", each


@pytest.mark.parametrize("depth", [10, 500, 3_000, 9_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_depth_is_no_fault(server: Server, runner: asyncio.Runner, depth: int, opening: str):
    nested = opening * depth + "1" + {"[": "]", '{"a":': "}"}[opening] * depth
    for field in ("input", "voice", "model"):
        body = f'{{"input": "a", "{field}": {nested}}}'.encode()
        answer = runner.run(ask(server, content=body, headers={"content-type": "application/json"}))
        assert answer.status_code == 400, answer.text
    (host,) = server.hosts.values()
    said = runner.run(converse(host, [f'{{"type": "session.update", "session": {nested}}}', b"\0", "\0"]))
    assert [each["type"] for each in said if each["type"] != "session.updated"] == [
        "session.created",
        *["error"] * 3,
    ]
