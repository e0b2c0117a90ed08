"""WS /v1/realtime: one conversation with a model, in the events of OpenAI's realtime API as far as they make sense here.

A client appends audio (base64; 16-bit mono PCM at 16 kHz unless it asks for another format), commits it, and asks for a response, which
continues everything committed since the last one. With `turn_detection` of `server_vad` the server does both when a speaker stops,
and cancels what it is saying when one begins. Events that come in:

    session.update, input_audio_buffer.append | commit | clear, conversation.item.create (input_text), response.create | cancel

Each is done or answered by an `error` that names the field; the connection stays, until `Limits.faults` errors came in a row.
"""

import asyncio
import base64
import contextlib
import json
import secrets
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from tinywave_core.errors import TinyWaveError
from tinywave_core.serving.asking import from_base64, parsed, require_text
from tinywave_core.serving.errors import RequestError, error_json, short, unknown_model
from tinywave_core.serving.formats import Spoken
from tinywave_core.serving.host import ModelHost
from tinywave_core.serving.limits import Limits
from tinywave_core.serving.listening import Listening
from tinywave_core.serving.pace import Pace
from tinywave_core.serving.session_fields import MODALITIES, Asked
from tinywave_core.serving.turn_taking import Edge, TurnTaking
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.synthesis.events import AudioMade, Done, TextMade
from tinywave_core.synthesis.prompting import Part

POLICY, AWAY = 1008, 1001
STATUS = {"end": "completed", "length": "completed", "stopped": "incomplete"}
PIECE_S = 0.5
"""Audio in which turns are looked for at a time."""


@dataclass
class Prompt:
    """Audio and text committed since the last response."""

    parts: list[Part] = field(default_factory=list)
    seconds: float = 0.0
    characters: int = 0
    read: int = 0
    """Ids that the model had read when the last audio was committed."""
    committed: float | None = None
    """When that was (time.perf_counter)."""


class Session:
    """One WebSocket."""

    def __init__(self, socket: WebSocket, hosts: Mapping[str, ModelHost], model: str, limits: Limits) -> None:
        self.socket, self.hosts, self.limits = socket, hosts, limits
        self.id = _new_id("sess")
        self.host = hosts[model]
        self.asked = Asked()
        self.prompt = Prompt()
        self.listening: Listening | None = None
        self.turns: TurnTaking | None = None
        """None: the client says when a turn ends."""
        self._turn_first: int
        self._turn_item: str
        """Of the turn that is spoken: its first sample, and its name."""
        self._half = b""
        """The first byte of a sample whose second one has not come."""
        self.response: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._pace = Pace(limits.events_per_s, limits.events_at_once)
        self._faults = 0

    async def run(self) -> None:
        """Answer events until the client disconnects, is silent for too long or sends only faults; then stop everything."""
        try:
            await self.send("session.created", session=self.to_json())
            while self._faults < self.limits.faults:
                message = await self._received()
                if message is None:
                    await self._close(AWAY, f"nothing was said for {self.limits.idle_s:g} s")
                    return
                await self._answer(message)
                # What came together is a queue that never waits: without this one client would hold up all others.
                await asyncio.sleep(self._pace.wait_s(time.monotonic()))
            await self._close(POLICY, f"{self._faults} errors in a row")
        except (WebSocketDisconnect, RuntimeError):  # RuntimeError: starlette's for a socket that is closed
            pass
        finally:
            await self._end()

    def to_json(self) -> dict[str, Any]:
        """The session as its client sees it."""
        settings, turns = self.asked.settings, self.asked.turns
        return {
            "id": self.id,
            "object": "realtime.session",
            "type": "realtime",
            "model": self.host.name,
            "output_modalities": MODALITIES[settings.output],
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_output_tokens": settings.max_new_tokens,
            "min_output_tokens": settings.min_new_tokens,
            "seed": settings.seed,
            "audio": {
                "input": {
                    "format": self.asked.heard.to_json(),
                    "turn_detection": None if turns is None else turns.model_dump(),
                },
                "output": {"format": self.asked.spoken.to_json(), "voice": settings.voice},
            },
        }

    async def send(self, kind: str, **values: Any) -> None:
        """One event to the client."""
        async with self._sending:
            await self.socket.send_text(json.dumps({"type": kind, "event_id": _new_id("event"), **values}))

    async def _received(self) -> str | None:
        """The next message; None after too long a silence."""
        while True:
            try:
                async with asyncio.timeout(self.limits.idle_s):
                    return await self.socket.receive_text()
            except TimeoutError:
                if self.response is None or self.response.done():
                    return None
            except KeyError:  # starlette's for bytes in place of text
                return "bytes"

    async def _answer(self, message: str) -> None:
        event_id = None
        try:
            event = _parsed(message)
            event_id = event.get("event_id")
            handle = _HANDLERS.get(event["type"])
            if handle is None:
                raise RequestError(
                    f"type: there is no event {short(event['type'])}; expected one of {', '.join(_HANDLERS)}",
                    "unknown_event",
                )
            await handle(self, event)
            self._faults = 0
        except TinyWaveError as error:
            self._faults += 1
            await self._fault(error, event_id)

    async def _fault(self, error: TinyWaveError, event_id: object = None) -> None:
        await self.send(
            "error", error=error_json(error) | {"event_id": event_id if isinstance(event_id, str) else None}
        )

    async def _update(self, event: dict[str, Any]) -> None:
        changes = _mapping(event, "session")
        model = changes.get("model", self.host.name)
        if not isinstance(model, str) or model not in self.hosts:
            raise unknown_model(model, self.hosts)
        host = self.hosts[model]
        asked = self.asked.in_session(changes, host, self.limits)
        heard_otherwise = (asked.heard, asked.turns) != (self.asked.heard, self.asked.turns)
        if (host is not self.host or heard_otherwise) and (self.prompt.parts or self.listening):
            raise RequestError(
                "model, input format and turn detection cannot change in the middle of a prompt: clear it first",
                "prompt_begun",
            )
        self.host, self.asked = host, asked
        if heard_otherwise:
            self._begin_turns()
        await self.send("session.updated", session=self.to_json())

    def _begin_turns(self) -> None:
        """Look for turns from here on, if they are looked for."""
        self._half = b""
        self.turns = None if self.asked.turns is None else TurnTaking(self.asked.turns, self.asked.heard.rate)

    async def _append(self, event: dict[str, Any]) -> None:
        data = self.asked.heard.as_pcm16(from_base64(event.get("audio")))
        if self.turns is None:
            self._hear(data)
            return
        data = self._half + data
        whole = len(data) // 2 * 2
        data, self._half = data[:whole], data[whole:]
        step = int(PIECE_S * self.asked.heard.rate) * 2
        for start in range(0, len(data), step):
            await self._look_for_turns(self.turns, data[start : start + step])

    def _is_too_much(self, data: bytes) -> bool:
        """Whether the prompt would be longer than the server takes."""
        return self._prompt_s() + len(data) / 2 / self.asked.heard.rate > self.limits.prompt_s

    def _prompt_s(self) -> float:
        return self.prompt.seconds + (0.0 if self.listening is None else self.listening.seconds)

    def _hear(self, data: bytes) -> None:
        """Add audio to the prompt that is being spoken; RequestError if it is too much."""
        if self._is_too_much(data):
            raise RequestError(
                f"the prompt has {self._prompt_s():.1f} s of audio, and this server takes {self.limits.prompt_s:g} s at most: commit "
                "or clear it",
                "audio_too_long",
            )
        if self.listening is None:
            self.listening = Listening(self.host, list(self.prompt.parts), self.asked.heard.rate)
        self.listening.append(data)

    async def _look_for_turns(self, turns: TurnTaking, data: bytes) -> None:
        """A piece of audio where the server finds the turns."""
        if self.listening is not None and self._is_too_much(data):
            # As long as a prompt may be: the turn ends here, and what follows is the next one.
            turns.stop()
            last = self._turn_first + self.listening.samples
            await self._turn_ended(turns, last, round(1000 * last / turns.rate))
        edges = await self.host.watched(lambda: turns.look(data))
        if self.listening is None:
            turns.keep(data)
        else:
            self._hear(data)
        for edge in edges:
            if edge.begins:
                await self._turn_began(turns, edge)
            else:
                await self._turn_ended(turns, edge.sample, edge.ms)
        if self.listening is None:
            turns.forget()

    async def _turn_began(self, turns: TurnTaking, edge: Edge) -> None:
        self._turn_first, self._turn_item = edge.sample, _new_id("item")
        await self.send("input_audio_buffer.speech_started", audio_start_ms=edge.ms, item_id=self._turn_item)
        if turns.asked.interrupt_response and self.response is not None and not self.response.done():
            self.response.cancel()
        try:
            self._hear(turns.begin(edge.sample))
        except RequestError as error:  # what was committed before leaves no room
            turns.stop()
            await self._fault(error)

    async def _turn_ended(self, turns: TurnTaking, sample: int, ms: int) -> None:
        """Commit a turn and answer it; what is wrong with one is said, and the next one is heard."""
        if self.listening is None:  # refused when it began, or committed by the client
            return
        turns.end(sample, self.listening.cut(sample - self._turn_first))
        await self.send("input_audio_buffer.speech_stopped", audio_end_ms=ms, item_id=self._turn_item)
        try:
            await self._commit_heard(self._turn_item)
            if turns.asked.create_response:
                await self._create({})
        except TinyWaveError as error:
            await self._fault(error)

    async def _commit(self, _: dict[str, Any]) -> None:
        if self.turns is not None and self.listening is not None:
            self.turns.stop()
            self.turns.end(self._turn_first + self.listening.samples, b"")
        await self._commit_heard(_new_id("item"))

    async def _commit_heard(self, item: str) -> None:
        """What was heard becomes a part of the prompt."""
        listening, committed = self.listening, time.perf_counter()
        if listening is None:
            raise RequestError("no audio was appended since the last commit", "input_audio_buffer_commit_empty")
        self.listening = None
        try:
            samples, ids = await listening.end()
        except TinyWaveError:
            await listening.drop()
            raise
        self.prompt.parts.append(ids)
        self.prompt.seconds += len(samples) / SAMPLE_RATE
        self.prompt.read, self.prompt.committed = listening.read, committed
        await self.send(
            "input_audio_buffer.committed",
            previous_item_id=None,
            item_id=item,
            seconds=round(len(samples) / SAMPLE_RATE, 3),
            tokens=len(ids),
            read_while_listening=listening.read,
        )

    async def _clear(self, _: dict[str, Any]) -> None:
        if self.listening is not None:
            await self.listening.drop()
        self.listening, self.prompt = None, Prompt()
        self._begin_turns()
        await self.send("input_audio_buffer.cleared")

    async def _item(self, event: dict[str, Any]) -> None:
        content = _mapping(event, "item").get("content")
        if not isinstance(content, list) or not content or not all(isinstance(part, dict) for part in content):
            raise RequestError("item.content: expected a list of {type: input_text, text: …}", "invalid_item")
        if any(part.get("type") != "input_text" for part in content):
            raise RequestError("item.content: only input_text; audio goes through input_audio_buffer", "invalid_item")
        if self.listening is not None:
            raise RequestError("there is audio that is not committed: commit or clear it first", "prompt_begun")
        text = "".join(require_text(part.get("text"), self.limits, "item.content.text") for part in content)
        characters = self.prompt.characters + len(text)
        if characters > self.limits.prompt_characters:
            raise RequestError(
                f"item.content: the prompt would have {characters} characters of text; this server takes "
                f"{self.limits.prompt_characters} at most",
                "text_too_long",
            )
        ids = self.host.generator.prompting.text_ids(text)  # said now where it cannot be read
        self.prompt.parts.append(text)
        self.prompt.characters = characters
        item = {"id": _new_id("item"), "type": "message", "role": "user", "content": content}
        await self.send("conversation.item.added", previous_item_id=None, item=item, tokens=len(ids))

    async def _create(self, event: dict[str, Any]) -> None:
        if self.response is not None and not self.response.done():
            if not self.response.cancelling():
                raise RequestError("a response is being made: wait for it, or cancel it", "response_active")
            await asyncio.wait([self.response])  # it was cancelled, and ends as soon as the model has made its token
        if self.listening is not None:
            raise RequestError("there is audio that is not committed: commit or clear it first", "prompt_begun")
        asked = (
            self.asked.in_response(_mapping(event, "response"), self.host, self.limits)
            if "response" in event
            else self.asked
        )
        if not self.prompt.parts:
            raise RequestError(
                "there is nothing to continue: commit audio, or create an item with text", "prompt_empty"
            )
        # What cannot be continued so is said here, and the prompt stays.
        ids = self.host.generator.prompting.ids(self.prompt.parts, asked.settings.modality)
        prompt, self.prompt = self.prompt, Prompt()
        self.response = asyncio.create_task(self._respond(prompt, ids, asked))

    async def _cancel(self, _: dict[str, Any]) -> None:
        if self.response is None or self.response.done():
            raise RequestError("there is no response to cancel", "response_not_active")
        self.response.cancel()

    async def _respond(self, prompt: Prompt, ids: list[int], asked: Asked) -> None:
        name = _new_id("resp")
        part = {"response_id": name, "item_id": _new_id("item"), "output_index": 0, "content_index": 0}
        started = prompt.committed or time.perf_counter()
        response: dict[str, Any] = {"id": name, "object": "realtime.response", "output": []}
        spoken = Spoken(asked.spoken)

        async def speak(data: bytes) -> None:
            if data:
                await self.send("response.output_audio.delta", **part, delta=base64.b64encode(data).decode())

        await self.send("response.created", response=response | {"status": "in_progress"})
        try:
            text: list[str] = []
            async with aclosing(self.host.answer(ids, asked.settings, started)) as events:
                async for event in events:
                    if isinstance(event, AudioMade):
                        await speak(spoken.push(event.samples))
                    elif isinstance(event, TextMade):
                        text.append(event.text)
                        await self.send("response.output_text.delta", **part, delta=event.text)
                    elif isinstance(event, Done):
                        await speak(spoken.end())
                        response |= {
                            "status": STATUS[event.reason],
                            "status_details": {"reason": event.reason},
                            "usage": {
                                "input_tokens": event.timings.prompt_tokens,
                                "output_tokens": event.timings.new_tokens,
                                "total_tokens": event.timings.prompt_tokens + event.timings.new_tokens,
                                "input_tokens_read_while_listening": prompt.read,
                            },
                            "timings": event.timings.to_json(),
                        }
            if "audio" in MODALITIES[asked.settings.output]:
                await self.send("response.output_audio.done", **part)
            if "text" in MODALITIES[asked.settings.output]:
                await self.send("response.output_text.done", **part, text="".join(text))
        except TinyWaveError as error:
            response |= {"status": "failed", "status_details": {"error": error_json(error)}}
            await self._fault(error)
        except asyncio.CancelledError:
            response |= {"status": "cancelled"}
        except Exception as error:  # noqa: BLE001  (a fault of ours ends this response, and not the server)
            response |= {"status": "failed", "status_details": {"error": error_json(_fault_of_ours(error))}}
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self.send("response.done", response=response)

    async def _close(self, code: int, why: str) -> None:
        await self._fault(RequestError(f"the connection is closed: {why}", "closed"))
        await self.socket.close(code, why)

    async def _end(self) -> None:
        """Stop all work for this client."""
        if self.listening is not None:
            await self.listening.drop()
        if self.response is not None and not self.response.done():
            self.response.cancel()
            await asyncio.wait([self.response])


_HANDLERS = {
    "session.update": Session._update,
    "input_audio_buffer.append": Session._append,
    "input_audio_buffer.commit": Session._commit,
    "input_audio_buffer.clear": Session._clear,
    "conversation.item.create": Session._item,
    "response.create": Session._create,
    "response.cancel": Session._cancel,
}


def _parsed(message: str) -> dict[str, Any]:
    event = parsed(message.encode(), "the event")
    if not isinstance(event.get("type"), str):
        raise RequestError("type: expected the name of an event", "invalid_json")
    return event


def _mapping(event: dict[str, Any], name: str) -> dict[str, Any]:
    values = event.get(name)
    if not isinstance(values, dict):
        raise RequestError(f"{name}: expected an object", "invalid_event")
    return values


def _fault_of_ours(error: Exception) -> RequestError:
    return RequestError(f"the model failed ({type(error).__name__})", "server_error", 500)


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(8)}"
