"""WS /v1/realtime: one conversation with a model, in the events of OpenAI's realtime API as far as they make sense here.

A client appends audio (base64 of 16-bit mono PCM; 16 kHz unless it declares another rate), commits it, and asks for a response, which
continues everything committed since the last one. Nothing detects turns: the client says when. Events that come in:

    session.update, input_audio_buffer.append | commit | clear, conversation.item.create (input_text), response.create | cancel

Each is done or answered by an `error`; the connection stays, until `Limits.faults` errors came in a row.
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

from tinywave_core.audio.pcm import to_pcm16
from tinywave_core.errors import TinyWaveError
from tinywave_core.serving.asking import Settings, checked_rate, from_base64, parsed, require_text
from tinywave_core.serving.errors import RequestError, error_json, short, unknown_model
from tinywave_core.serving.host import ModelHost
from tinywave_core.serving.limits import Limits
from tinywave_core.serving.listening import Listening
from tinywave_core.serving.pace import Pace
from tinywave_core.synthesis.events import SAMPLE_RATE, AudioMade, Done, TextMade
from tinywave_core.synthesis.prompting import Part

POLICY, AWAY = 1008, 1001
PCM = "audio/pcm"
STATUS = {"end": "completed", "length": "completed", "stopped": "incomplete"}
_OUTPUTS = {("audio",): "speech", ("text",): "text", ("audio", "text"): "mixed"}
_MODALITIES = {output: list(names) for names, output in _OUTPUTS.items()}


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
        self.settings = Settings()
        self.rate = SAMPLE_RATE
        self.prompt = Prompt()
        self.listening: Listening | None = None
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
        return {
            "id": self.id,
            "type": "realtime",
            "model": self.host.name,
            "output_modalities": _MODALITIES[self.settings.output],
            "temperature": self.settings.temperature,
            "top_p": self.settings.top_p,
            "max_output_tokens": self.settings.max_new_tokens,
            "min_output_tokens": self.settings.min_new_tokens,
            "seed": self.settings.seed,
            "audio": {
                "input": {"format": {"type": PCM, "rate": self.rate}, "turn_detection": None},
                "output": {"format": {"type": PCM, "rate": SAMPLE_RATE}, "voice": self.settings.voice},
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
        rate = _rate(changes)
        if (model != self.host.name or rate is not None) and (self.prompt.parts or self.listening):
            raise RequestError("model and rate cannot change in the middle of a prompt: clear it first", "prompt_begun")
        rate = self.rate if rate is None else rate
        self.settings = self._changed(changes)
        self.host, self.rate = self.hosts[model], rate
        await self.send("session.updated", session=self.to_json())

    def _changed(self, changes: Mapping[str, Any]) -> Settings:
        """The settings, changed as a session or a response asks."""
        names = {"max_output_tokens": "max_new_tokens", "min_output_tokens": "min_new_tokens"}
        same = ("temperature", "top_p", "seed")
        values = {names.get(key, key): changes[key] for key in (*names, *same) if key in changes}
        if "output_modalities" in changes:
            modalities = changes["output_modalities"]
            names_asked = tuple(sorted(map(str, modalities))) if isinstance(modalities, list) else ()
            if names_asked not in _OUTPUTS:
                raise RequestError(
                    'output_modalities: expected ["audio"], ["text"] or ["audio", "text"]', "invalid_settings"
                )
            values["output"] = _OUTPUTS[names_asked]
        output = _inside(changes, "audio", "output")
        if "voice" in output:
            values["voice"] = output["voice"]
        return self.settings.changed(values, self.limits)

    async def _append(self, event: dict[str, Any]) -> None:
        data = from_base64(event.get("audio"))
        if self.listening is None:
            self.listening = Listening(self.host, list(self.prompt.parts), self.rate)
        if self.prompt.seconds + self.listening.seconds + len(data) / 2 / self.rate > self.limits.prompt_s:
            raise RequestError(
                f"the prompt has {self.prompt.seconds + self.listening.seconds:.1f} s of audio, and this server takes "
                f"{self.limits.prompt_s:g} s at most: commit or clear it",
                "audio_too_long",
            )
        self.listening.append(data)

    async def _commit(self, _: dict[str, Any]) -> None:
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
            item_id=_new_id("item"),
            seconds=round(len(samples) / SAMPLE_RATE, 3),
            tokens=len(ids),
            read_while_listening=listening.read,
        )

    async def _clear(self, _: dict[str, Any]) -> None:
        if self.listening is not None:
            await self.listening.drop()
        self.listening, self.prompt = None, Prompt()
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
        self.host.generator.prompting.text_ids(text)  # said now where it cannot be read
        self.prompt.parts.append(text)
        self.prompt.characters = characters
        await self.send("conversation.item.added", item={"id": _new_id("item"), "type": "message", "role": "user"})

    async def _create(self, event: dict[str, Any]) -> None:
        if self.response is not None and not self.response.done():
            if not self.response.cancelling():
                raise RequestError("a response is being made: wait for it, or cancel it", "response_active")
            await asyncio.wait([self.response])  # it was cancelled, and ends as soon as the model has made its token
        if self.listening is not None:
            raise RequestError("there is audio that is not committed: commit or clear it first", "prompt_begun")
        settings = self._changed(_mapping(event, "response") if "response" in event else {})
        if not self.prompt.parts:
            raise RequestError(
                "there is nothing to continue: commit audio, or create an item with text", "prompt_empty"
            )
        prompt, self.prompt = self.prompt, Prompt()
        self.response = asyncio.create_task(self._respond(prompt, settings))

    async def _cancel(self, _: dict[str, Any]) -> None:
        if self.response is None or self.response.done():
            raise RequestError("there is no response to cancel", "response_not_active")
        self.response.cancel()

    async def _respond(self, prompt: Prompt, settings: Settings) -> None:
        name = _new_id("resp")
        started = prompt.committed or time.perf_counter()
        response: dict[str, Any] = {"id": name, "object": "realtime.response"}
        await self.send("response.created", response=response | {"status": "in_progress"})
        try:
            ids = self.host.generator.prompting.ids(prompt.parts, settings.modality)
            async with aclosing(self.host.answer(ids, settings, started)) as events:
                async for event in events:
                    if isinstance(event, AudioMade):
                        delta = base64.b64encode(to_pcm16(event.samples)).decode()
                        await self.send("response.output_audio.delta", response_id=name, delta=delta)
                    elif isinstance(event, TextMade):
                        await self.send("response.output_text.delta", response_id=name, delta=event.text)
                    elif isinstance(event, Done):
                        response |= {
                            "status": STATUS[event.reason],
                            "status_details": {"reason": event.reason},
                            "usage": {
                                "input_tokens": event.timings.prompt_tokens,
                                "output_tokens": event.timings.new_tokens,
                                "input_tokens_read_while_listening": prompt.read,
                            },
                            "timings": event.timings.to_json(),
                        }
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


def _inside(values: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """An object inside of objects; empty where there is none."""
    value: Any = values
    for i, name in enumerate(names):
        value = value.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise RequestError(f"{'.'.join(names[: i + 1])}: expected an object", "invalid_event")
    return value  # type: ignore[no-any-return]


def _rate(session: Mapping[str, Any]) -> int | None:
    """The rate of the audio that will come, where a session says one."""
    form = _inside(session, "audio", "input", "format")
    if form.get("type", PCM) != PCM:
        raise RequestError(f"audio.input.format.type: {short(form['type'])}; expected {PCM}", "invalid_audio")
    return None if form.get("rate") is None else checked_rate(form["rate"])


def _fault_of_ours(error: Exception) -> RequestError:
    return RequestError(f"the model failed ({type(error).__name__})", "server_error", 500)


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(8)}"
