"""Connections to the server: none waits for a client for ever, and clients that do nothing keep nobody else out.

uvicorn has no deadline for the head of a request nor for a client that does not read, and its limit_concurrency counts connections that
never asked for anything: a few dozen of them, half open, made it answer 503 to everyone. Here the connections beyond `Limits.connections`
replace those that the server has waited for longest (for a head, a body, or until something is read), and only where all others are
really served is a request refused; /health never is. What arrives is parsed in small pieces, and pieces of thousands of
tiny frames or chunks one after another, in a share of the time (`Turns`), so that they hold up nobody else.
"""

import asyncio
import time
from collections import deque
from typing import Any, cast

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from tinywave_core.serving.errors import RequestError, error_json
from tinywave_core.serving.limits import Limits

PIECE = 4 << 10
"""Bytes that are parsed at a time."""
SMALL = 1 << 10
"""Bytes of a piece that is parsed at once whatever else is going on: most requests are one."""
QUICK_S, SHARE = 0.002, 4
"""A piece that takes longer than this to parse is slow, and slow ones have together a quarter of the time."""
CROWD = 4
"""With so many times the connections that there may be, none has time to ask for something first."""
LOOK_S = 0.5
"""Between two looks at a connection; shorter where deadlines are."""


class TalkConfig(uvicorn.Config):
    """uvicorn for `app` with these limits."""

    def __init__(self, app: ASGIApp, limits: Limits, **more: Any) -> None:
        self.limits = limits
        self.turns = Turns()
        super().__init__(
            app,
            http=Http,
            ws=WebSockets,
            loop="asyncio",
            log_level="warning",
            server_header=False,
            ws_max_size=limits.message_bytes,
            # A kilobyte would become a megabyte of events, and speech hardly shrinks.
            ws_per_message_deflate=False,
            **more,
        )


class Turns:
    """Received pieces that wait to be parsed, because parsing has used up its share of the time."""

    def __init__(self) -> None:
        self.free_at = 0.0
        self.waiting: deque[tuple[_Watched, bytes]] = deque()

    def parse(self, connection: "_Watched", data: bytes) -> None:
        """Parse now or later; until then nothing more of this connection is read."""
        is_free = not self.waiting and connection.loop.time() >= self.free_at
        if is_free or (len(data) <= SMALL and not connection.is_slow):
            self._parse(connection, data)
            return
        connection.transport.pause_reading()
        self.waiting.append((connection, data))
        if len(self.waiting) == 1:
            connection.loop.call_at(self.free_at, self._next)

    def _next(self) -> None:
        connection, data = self.waiting.popleft()
        if not connection.transport.is_closing():
            self._parse(connection, data)
            connection.read_on()
        if self.waiting:
            connection.loop.call_at(self.free_at, self._next)

    def _parse(self, connection: "_Watched", data: bytes) -> None:
        # By the processor's time, since a model that computes meanwhile is not the client's fault.
        started_s, started_cpu_s = connection.loop.time(), time.thread_time()
        connection.parse(data)
        if time.thread_time() - started_cpu_s > QUICK_S:
            now = connection.loop.time()
            connection.is_slow = True
            self.free_at = max(self.free_at, now) + (now - started_s) * SHARE


class _Watched(asyncio.Protocol):
    """What both kinds of connection share; a mixin before uvicorn's class, whose attributes it uses."""

    config: uvicorn.Config
    connections: set[Any]
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    @property
    def limits(self) -> Limits:
        return cast(TalkConfig, self.config).limits

    is_slow = False
    """Whether one of its pieces was."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # The selector transport's size of a read; 256 KiB of the smallest frames take a second to parse.
        self.transport.max_size = PIECE  # type: ignore[attr-defined]
        self.waits_since = self.moved_at = self.loop.time()
        self._unsent = 0
        self._every_s = min(LOOK_S, self.limits.header_s / 2, self.limits.write_s / 2)
        self._looking = self.loop.call_later(self._every_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._looking.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        cast(TalkConfig, self.config).turns.parse(self, data)

    def parse(self, data: bytes) -> None:
        """Uvicorn's part."""
        super().data_received(data)

    def pause_writing(self) -> None:
        """Note since when the client does not read."""
        self.waits_since = self.loop.time()
        super().pause_writing()

    def read_on(self) -> None:
        """Read again, unless uvicorn has stopped by itself."""
        is_mine = self.transport.get_protocol() is self and not self.transport.is_closing()
        if is_mine and self.wants_more():
            self.transport.resume_reading()

    def is_awaited(self) -> bool:
        """Whether the client must do something next."""
        raise NotImplementedError

    def is_unread(self) -> bool:
        """Whether that is to read what it is sent."""
        raise NotImplementedError

    def wants_more(self) -> bool:
        """Whether uvicorn has not itself stopped reading."""
        raise NotImplementedError

    def is_overdue(self, now: float) -> bool:
        """Whether the client has read nothing for too long."""
        return now - self.moved_at > self.limits.write_s

    def _look(self) -> None:
        if self.transport.get_protocol() is not self:
            return
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if unsent == 0 or unsent < self._unsent:
            self.moved_at = now
        self._unsent = unsent
        if self.is_overdue(now):
            self.transport.abort()
        else:
            self._looking = self.loop.call_later(self._every_s, self._look)


class Http(_Watched, H11Protocol):
    """A connection that asks by HTTP."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.app = self._unless_full  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        make_room(self.connections, self.limits, self.waits_since, self)

    def on_response_complete(self) -> None:
        self.waits_since = self.loop.time()
        if not self.cycle.more_body and self.conn.trailing_data[0]:
            self.transport.close()  # requests before the answer to the last: thousands at once, and no usual client sends any
            return
        super().on_response_complete()

    def shutdown(self) -> None:
        """End at once where nothing is answered, or when the answer has been given."""
        if self.is_awaited():
            self.transport.abort()
        else:
            super().shutdown()

    def is_awaited(self) -> bool:
        """Whether it has no request yet, or one that is not complete, or reads too slowly."""
        return not self._is_asked() or self.cycle.more_body or self.is_unread()

    def is_unread(self) -> bool:
        """Whether more is sent than the client reads."""
        return bool(self.flow.write_paused)

    def wants_more(self) -> bool:
        """Whether uvicorn has not itself stopped reading."""
        return not self.flow.read_paused

    def is_overdue(self, now: float) -> bool:
        """Whether the head of a request, or that anything is read, takes too long."""
        return super().is_overdue(now) or (not self._is_asked() and now - self.waits_since > self.limits.header_s)

    def _is_asked(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    async def _unless_full(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(_open(self.connections)) <= self.limits.connections or scope["path"] == "/health":
            await cast(ASGIApp, self.config.loaded_app)(scope, receive, send)
            return
        error = RequestError("all connections are in use: try again in a moment", "busy", 503)
        headers = {"connection": "close", "retry-after": "1"}
        await JSONResponse({"error": error_json(error)}, 503, headers)(scope, receive, send)


class WebSockets(_Watched, WebSocketsSansIOProtocol):
    """A connection that has become a WebSocket; its silence is the session's business."""

    def is_awaited(self) -> bool:
        """Whether it was told to go, or reads too slowly."""
        return self.close_sent or self.is_unread()

    def is_unread(self) -> bool:
        """Whether more is sent than the client reads."""
        return not self.writable.is_set()

    def wants_more(self) -> bool:
        """Whether uvicorn has not itself stopped reading."""
        return not self.read_paused

    def handle_ping(self) -> None:
        """Answer, unless nothing is read: pongs would pile up."""
        if self.is_unread():
            self.conn.data_to_send()
        else:
            super().handle_ping()


def make_room(connections: set[Any], limits: Limits, now: float, new: Any) -> None:
    """Drop the connections that were waited for longest, until there is room; a crowd costs no reader its answer."""
    there = _open(connections)
    is_crowd = len(there) > CROWD * limits.connections

    def may_go(connection: Any) -> bool:
        patience_s = 0.0 if is_crowd and not connection.is_unread() else limits.patience_s
        return connection is not new and connection.is_awaited() and now - connection.waits_since >= patience_s

    awaited = [connection for connection in there if may_go(connection)]
    awaited.sort(key=lambda connection: connection.waits_since)
    for connection in awaited[: max(0, len(there) - limits.connections)]:
        connection.transport.abort()


def _open(connections: set[Any]) -> list[Any]:
    """Connections that are not being closed."""
    return [connection for connection in connections if not connection.transport.is_closing()]
