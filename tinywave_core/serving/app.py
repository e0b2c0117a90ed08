"""The server's routes: the page, GET /health, GET /v1/models, POST /v1/audio/generate, WS /v1/realtime.

POST /v1/audio/generate   body: a wav file, raw PCM (content type audio/pcm;rate=16000), or JSON {input: text and/or audio: base64
                          wav, …settings}; settings of an audio body go into the query. Answer: wav or pcm as it is made, or JSON.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any, Literal, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tinywave_core.audio.pcm import to_pcm16, wav_header
from tinywave_core.errors import TinyWaveError
from tinywave_core.serving.asking import (
    Samples,
    Settings,
    checked_rate,
    from_base64,
    pcm,
    require_sound,
    require_text,
    wav,
)
from tinywave_core.serving.errors import RequestError, status_of, told
from tinywave_core.serving.guard import Guard
from tinywave_core.serving.host import ModelHost
from tinywave_core.serving.limits import Limits
from tinywave_core.serving.realtime import Session
from tinywave_core.synthesis.events import SAMPLE_RATE, AudioMade, Done, Event, TextMade
from tinywave_core.synthesis.prompting import Part

PAGE = Path(__file__).parent / "page.html"
TRY_AGAIN = 1013

Format = Literal["wav", "pcm", "json"]
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """A request for an answer, checked."""

    host: ModelHost
    settings: Settings
    format: Format
    text: str | None
    samples: Samples | None = field(repr=False)


class Server:
    """The models and the routes to them."""

    def __init__(self, hosts: list[ModelHost], limits: Limits) -> None:
        self.hosts = {host.name: host for host in hosts}
        self.limits = limits
        self.sessions = 0

    def app(self, allowed_hosts: Collection[str] = ()) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/health", self.health),
                Route("/v1/models", self.models),
                Route("/v1/audio/generate", self.generate, methods=["POST"]),
                WebSocketRoute("/v1/realtime", self.realtime),
            ],
            middleware=[Middleware(Guard, allowed=allowed_hosts)],
            exception_handlers={TinyWaveError: _refused, HTTPException: _not_found},
            lifespan=self._lifespan,
        )

    async def page(self, _: Request) -> Response:
        """The page."""
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    async def health(self, _: Request) -> Response:
        """Whether it runs."""
        return JSONResponse({"status": "ok", "models": list(self.hosts), "sessions": self.sessions})

    async def models(self, _: Request) -> Response:
        """What can be chosen, with the limits of prompts."""
        limits = {"prompt_s": self.limits.prompt_s, "prompt_characters": self.limits.prompt_characters}
        return JSONResponse({"object": "list", "data": [host.about() | limits for host in self.hosts.values()]})

    async def generate(self, request: Request) -> Response:
        """One answer to one request."""
        started = time.perf_counter()
        asked = await self._asked(request)
        events = self._answered(asked, started)
        if asked.format == "json":
            return JSONResponse(await _unless_gone(request, _collected(events)))
        # Up to the first sound, what goes wrong has a status of its own.
        first = await _unless_gone(request, anext(events))
        kind = "audio/wav" if asked.format == "wav" else f"audio/pcm;rate={SAMPLE_RATE};channels=1"
        return StreamingResponse(_sound(first, events, asked.format), media_type=kind)

    async def realtime(self, socket: WebSocket) -> None:
        """A conversation."""
        await socket.accept()
        model = socket.query_params.get("model", next(iter(self.hosts)))
        if model not in self.hosts or self.sessions >= self.limits.sessions:
            error = self._unknown(model)
            if model in self.hosts:
                error = RequestError(f"{self.sessions} clients are connected already: try again later", "busy", 429)
            await socket.send_text(json.dumps({"type": "error", "error": told(error)}))
            await socket.close(TRY_AGAIN, error.code)
            return
        self.sessions += 1
        try:
            await Session(socket, self.hosts, model, self.limits).run()
        finally:
            self.sessions -= 1

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        for host in self.hosts.values():
            await asyncio.to_thread(host.close)

    async def _answered(self, asked: Asked, started: float) -> AsyncGenerator[Event, None]:
        asked.host.require_room()
        parts: list[Part] = [] if asked.text is None else [asked.text]
        if asked.samples is not None:
            parts.append(await asked.host.hear(asked.samples))
        prompt = asked.host.generator.prompting.ids(parts, asked.settings.modality)
        async with aclosing(asked.host.answer(prompt, asked.settings, started)) as events:
            async for event in events:
                yield event

    async def _asked(self, request: Request) -> Asked:
        head = Message()
        head["content-type"] = request.headers.get("content-type", "")
        body = await _body(request, self.limits)
        kind = head.get_content_type()
        values: dict[str, Any]
        if kind == "application/json":
            values = _object(body)
            text, audio = values.pop("input", None), values.pop("audio", None)
            samples = None if audio is None else wav(from_base64(audio), self.limits)
        else:
            values, text = dict(request.query_params), None
            if kind == "audio/pcm":
                rate = str(head.get_param("rate", str(SAMPLE_RATE)))
                samples = pcm(
                    body, checked_rate(int(rate) if rate.isdecimal() and len(rate) < 7 else rate), self.limits
                )
            else:
                samples = wav(body, self.limits)
        if text is None and samples is None:
            raise RequestError(
                "there is nothing to continue: give input (text), audio (base64 of a wav), or both", "prompt_empty"
            )
        if samples is not None:
            require_sound(samples)
        model = values.pop("model", next(iter(self.hosts)))
        if not isinstance(model, str) or model not in self.hosts:
            raise self._unknown(model)
        wanted = values.pop("response_format", "json" if values.get("output") in ("text", "mixed") else "wav")
        if wanted not in ("wav", "pcm", "json"):
            raise RequestError(f"response_format: {wanted!r}; expected wav, pcm or json", "invalid_settings")
        settings = Settings().changed(values, self.limits)
        if settings.output == "text" and wanted != "json":
            raise RequestError("response_format: text comes as json", "invalid_settings")
        text = None if text is None else require_text(text, self.limits)
        return Asked(self.hosts[model], settings, wanted, text, samples)

    def _unknown(self, model: object) -> RequestError:
        return RequestError(f"there is no model {model!r}; there are {', '.join(self.hosts)}", "unknown_model", 404)


async def _body(request: Request, limits: Limits) -> bytes:
    """All of the body, unless it is too long or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise RequestError(f"the body is longer than {limits.body_bytes:,} bytes", "body_too_long", 413)
    except TimeoutError as error:
        raise RequestError(f"the body did not come within {limits.body_s:g} s", "body_too_slow", 408) from error
    return bytes(body)


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON ({error})", "invalid_json") from error
    if not isinstance(values, dict):
        raise RequestError("the body: expected a JSON object", "invalid_json")
    return values


async def _unless_gone(request: Request, work: Any) -> Any:
    """What comes of `work`; it is cancelled when the client goes."""
    doing, watching = asyncio.ensure_future(_awaited(work)), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([doing, watching], return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise RequestError("the client has gone", "gone", 499)
        return doing.result()
    finally:
        for task in (doing, watching):
            task.cancel()
        await asyncio.wait([doing, watching])


async def _awaited(work: Any) -> Any:
    return await work


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _sound(first: Event, events: AsyncGenerator[Event, None], format_: Format) -> AsyncIterator[bytes]:
    """An answer's speech in bytes."""
    if format_ == "wav":
        yield wav_header(SAMPLE_RATE)
    async with aclosing(events):
        if isinstance(first, AudioMade):
            yield to_pcm16(first.samples)
        async for event in events:
            if isinstance(event, AudioMade):
                yield to_pcm16(event.samples)


async def _collected(events: AsyncGenerator[Event, None]) -> Mapping[str, Any]:
    """An answer as one JSON object."""
    text, sound, done = "", bytearray(), None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TextMade):
                text += event.text
            elif isinstance(event, AudioMade):
                sound += to_pcm16(event.samples)
            elif isinstance(event, Done):
                done = event
    assert done is not None
    return {
        "text": text,
        "audio": base64.b64encode(wav_header(SAMPLE_RATE, len(sound)) + sound).decode() if sound else None,
        "finish_reason": done.reason,
        "usage": {"input_tokens": done.timings.prompt_tokens, "output_tokens": done.timings.new_tokens},
        "timings": done.timings.to_json(),
    }


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, TinyWaveError)
    # One who still writes a body that nobody reads is cut off.
    headers = {408: {"connection": "close"}, 413: {"connection": "close"}, 429: {"retry-after": "1"}}.get(
        status_of(error)
    )
    return JSONResponse({"error": told(error)}, status_of(error), headers=headers)


async def _not_found(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    about = {"type": "invalid_request_error", "code": "not_found", "message": error.detail}
    return JSONResponse({"error": about}, error.status_code, headers=error.headers)
