"""The server's routes: the page, GET /health, GET /v1/models, POST /v1/audio/generate, WS /v1/realtime.

POST /v1/audio/generate   body: a wav file, raw PCM (content type audio/pcm;rate=16000), or JSON {input: text and/or audio: base64
                          wav, …settings}; settings of an audio body go into the query. Answer: wav or pcm as it is made, or JSON.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from pathlib import Path
from typing import Any, Literal

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
    parsed,
    pcm,
    require_sound,
    require_text,
    wav,
)
from tinywave_core.serving.bodies import Bodies
from tinywave_core.serving.errors import RequestError, client_gone, error_json, short, status_of, unknown_model
from tinywave_core.serving.guard import Guard
from tinywave_core.serving.host import ModelHost
from tinywave_core.serving.limits import Limits
from tinywave_core.serving.realtime import Session
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.synthesis.events import AudioMade, Done, Event, TextMade
from tinywave_core.synthesis.prompting import Part

GENERATE, REALTIME = "/v1/audio/generate", "/v1/realtime"
PATHS = (
    "/ (a page)",
    "GET /health",
    "GET /v1/models",
    f"POST {GENERATE}",
    f"{REALTIME} (a WebSocket)",
)
"""For who asks for something else."""
PAGE = Path(__file__).parent / "page.html"
TRY_AGAIN = 1013
CLOSED, AGAIN = {"connection": "close"}, {"retry-after": "1"}

Format = Literal["wav", "pcm", "json"]


@dataclass(frozen=True)
class Question:
    """A checked request for an answer; `decode` turns its audio, not checked yet, into samples."""

    host: ModelHost
    settings: Settings
    format: Format
    text: str | None
    decode: Callable[[], Samples] | None = field(repr=False)


class Server:
    """The models and the routes to them."""

    def __init__(self, hosts: list[ModelHost], limits: Limits) -> None:
        self.hosts = {host.name: host for host in hosts}
        self.limits = limits
        self.bodies = Bodies(limits)
        # One thread: each step on megabytes keeps Python's lock, and with several at it the loop would wait for all of them.
        self._reader = ThreadPoolExecutor(1, "reader")
        self.sessions = 0

    def app(self, allowed_hosts: Collection[str] = ()) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/health", self.health),
                Route("/v1/models", self.models),
                Route(GENERATE, self.generate, methods=["POST"]),
                WebSocketRoute(REALTIME, self.realtime),
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
        """The models, with the limits of prompts."""
        limits = {"prompt_s": self.limits.prompt_s, "prompt_characters": self.limits.prompt_characters}
        return JSONResponse({"object": "list", "data": [host.to_json() | limits for host in self.hosts.values()]})

    async def generate(self, request: Request) -> Response:
        """One answer to one request."""
        started = time.perf_counter()
        async with self.bodies.read(request) as body:
            question = await asyncio.get_running_loop().run_in_executor(
                self._reader, self._read_question, request, body
            )
            prompt = await _unless_gone(request, self._prompt(question))
        events = question.host.answer(prompt, question.settings, started)
        if question.format == "json":
            return JSONResponse(await _unless_gone(request, _collected(events)))
        # Up to the first sound, what goes wrong has a status of its own.
        first = await _unless_gone(request, anext(events))
        kind = "audio/wav" if question.format == "wav" else f"audio/pcm;rate={SAMPLE_RATE};channels=1"
        return StreamingResponse(_sound(first, events, question.format), media_type=kind)

    async def realtime(self, socket: WebSocket) -> None:
        """A conversation."""
        await socket.accept()
        model = socket.query_params.get("model", next(iter(self.hosts)))
        if model not in self.hosts or self.sessions >= self.limits.sessions:
            error = unknown_model(model, self.hosts)
            if model in self.hosts:
                error = RequestError(f"{self.sessions} clients are connected already: try again later", "busy", 429)
            await socket.send_text(json.dumps({"type": "error", "error": error_json(error)}))
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
        self._reader.shutdown(wait=False, cancel_futures=True)
        for host in self.hosts.values():
            await asyncio.to_thread(host.close)

    async def _prompt(self, question: Question) -> list[int]:
        """Ids of the prompt."""
        question.host.require_room()
        parts: list[Part] = [] if question.text is None else [question.text]
        if question.decode is not None:
            parts.append(await question.host.hear_upload(question.decode))
        return question.host.generator.prompting.ids(parts, question.settings.modality)

    def _read_question(self, request: Request, body: bytearray) -> Question:
        """Parse a request; run in a thread, since bodies have megabytes."""
        head = Message()
        head["content-type"] = request.headers.get("content-type", "")
        is_json = head.get_content_type() == "application/json"
        values: dict[str, Any] = parsed(body, "the body") if is_json else dict(request.query_params)
        text, decode = self._read_audio(head, body, values)
        model = values.pop("model", next(iter(self.hosts)))
        if not isinstance(model, str) or model not in self.hosts:
            raise unknown_model(model, self.hosts)
        response_format = values.pop("response_format", "json" if values.get("output") in ("text", "mixed") else "wav")
        if response_format not in ("wav", "pcm", "json"):
            raise RequestError(
                f"response_format: {short(response_format)}; expected wav, pcm or json", "invalid_settings"
            )
        settings = Settings().changed(values, self.limits, strict=is_json)
        if settings.output == "text" and response_format != "json":
            raise RequestError("response_format: text comes as json", "invalid_settings")
        return Question(self.hosts[model], settings, response_format, text, decode)

    def _read_audio(
        self, head: Message, body: bytearray, values: dict[str, Any]
    ) -> tuple[str | None, Callable[[], Samples] | None]:
        """The text of a prompt and a function that decodes its audio; both are removed from `values`."""
        limits = self.limits
        if head.get_content_type() == "application/json":
            text, audio = values.pop("input", None), values.pop("audio", None)
            if text is None and audio is None:
                why = "there is nothing to continue: give input (text), audio (base64 of a wav), or both"
                if other := next((name for name in ("text", "prompt", "messages") if name in values), None):
                    raise RequestError(f"{other}: there is no such field; {why}", "prompt_empty", param=other)
                raise RequestError(why, "prompt_empty")
            text = None if text is None else require_text(text, limits, "input")
            return text, None if audio is None else _loud(partial(wav, from_base64(audio), limits))
        if head.get_content_type() == "audio/pcm":
            rate_text = str(head.get_param("rate", str(SAMPLE_RATE)))
            rate = checked_rate(int(rate_text) if rate_text.isdecimal() and len(rate_text) < 7 else rate_text)
            return None, _loud(partial(pcm, body, rate, limits))
        if body.lstrip()[:1] == b"{" or head.get_content_type() == "application/x-www-form-urlencoded":
            found = (
                f"the content type is {short(head.get_content_type())[1:-1]}"
                if head["content-type"]
                else "there is no content type"
            )
            why = f"{found}: say application/json for JSON, audio/wav for a wav file, audio/pcm;rate=16000 for samples"
            raise RequestError(why, "unsupported_audio", 415)
        return None, _loud(partial(wav, body, limits))


def _loud(decode: Callable[[], Samples]) -> Callable[[], Samples]:
    """The samples of `decode`; RequestError if they hold no sound."""

    def samples() -> Samples:
        decoded = decode()
        require_sound(decoded)
        return decoded

    return samples


async def _unless_gone(request: Request, work: Any) -> Any:
    """The result of `work`, which is cancelled when the client disconnects."""
    doing, watching = asyncio.ensure_future(_awaited(work)), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait([doing, watching], return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise client_gone()
        return doing.result()
    finally:
        for task in (doing, watching):
            task.cancel()
        await asyncio.wait([doing, watching])


async def _awaited(work: Any) -> Any:
    return await work


async def _disconnected(request: Request) -> None:
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
    headers = {408: CLOSED, 413: CLOSED, 429: AGAIN, 503: CLOSED | AGAIN}.get(status_of(error))
    return JSONResponse({"error": error_json(error)}, status_of(error), headers=headers)


async def _not_found(request: Request, error: Exception) -> Response:
    """No such path, or not by this method: what there is."""
    assert isinstance(error, HTTPException)
    where = short(request.url.path)[1:-1]
    if error.status_code == 405:
        allowed = ", ".join(sorted(str((error.headers or {}).get("Allow")).split(", ")))
        code, why = "method_not_allowed", f"{where} takes {allowed}, not {short(request.method)[1:-1]}"
    elif request.url.path == REALTIME:
        code, why = "upgrade_required", f"{where} is a WebSocket: connect to it with one (ws://)"
    else:
        code, why = "not_found", f"there is no {where}; there are {', '.join(PATHS)}"
    fault = {"type": "invalid_request_error", "code": code, "message": why}
    return JSONResponse({"error": fault}, error.status_code, headers=error.headers)
