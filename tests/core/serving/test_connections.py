"""Connections: deadlines for those who do not go on, room for those who do, and one client's flood is not another's wait."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.sync.client import connect

from tests.fixtures.serving import PATIENCE_S, running, until
from tinywave_core.serving.bodies import Bodies
from tinywave_core.serving.connections import SMALL, Http, Turns, WebSockets, make_room
from tinywave_core.serving.errors import RequestError
from tinywave_core.serving.limits import Limits

LONG = 1e9
HALF = b"GET /health HTTP/1.1\r\nhost: 127"
HALF_SOCKET = (
    b"GET /endless HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: A"
)
UPLOAD = b"POST /echo HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10\r\n\r\n12345"


class App:
    """Answers of every length, and how many endless ones are being given."""

    def __init__(self) -> None:
        self.endless_ones = self.computing = 0
        self.is_computed = False
        self.app = Starlette(
            routes=[
                Route("/health", self.fine),
                Route("/", self.fine),
                Route("/echo", self.echo, methods=["POST"]),
                Route("/endless", self.endless),
                Route("/computed", self.computed),
                WebSocketRoute("/endless", self.endless_socket),
            ]
        )

    async def fine(self, _: Request) -> Response:
        return PlainTextResponse("fine")

    async def echo(self, request: Request) -> Response:
        try:
            return Response(await request.body())
        except ClientDisconnect:
            return Response("gone")

    async def computed(self, _: Request) -> Response:
        self.computing += 1
        while not self.is_computed:
            await asyncio.sleep(0.001)
        return PlainTextResponse("computed")

    async def endless(self, _: Request) -> Response:
        return StreamingResponse(self._parts())

    async def endless_socket(self, socket: WebSocket) -> None:
        await socket.accept()
        async for part in self._parts():
            await socket.send_bytes(part)

    async def _parts(self) -> Any:
        self.endless_ones += 1
        try:
            while True:
                yield bytes(1 << 16)
                await asyncio.sleep(0)
        finally:
            self.endless_ones -= 1


@contextlib.contextmanager
def opened(url: str, begin: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=PATIENCE_S) as raw:
        raw.sendall(begin)
        yield raw


def is_dropped(raw: socket.socket) -> bool:
    """Whether the server has closed the connection, now or within the test's patience."""
    try:
        return raw.recv(1) == b""
    except ConnectionResetError:
        return True


def status(url: str, path: str = "/") -> int:
    return httpx.get(url + path, timeout=PATIENCE_S).status_code


@pytest.mark.parametrize("begin", [b"", HALF, HALF_SOCKET])
def test_the_head_of_a_request_has_a_deadline(begin: bytes):
    with running(App().app, Limits(header_s=0.2)) as url, opened(url, begin) as raw:
        assert is_dropped(raw)
        assert status(url) == 200


def test_the_second_request_of_a_connection_has_it_too():
    with running(App().app, Limits(header_s=0.2)) as url, opened(url, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n") as raw:
        answer = b""
        while not answer.endswith(b"fine"):
            answer += raw.recv(1000)
        raw.sendall(HALF)
        assert is_dropped(raw)


def test_who_reads_nothing_of_an_answer_is_dropped():
    app = App()
    with running(app.app, Limits(write_s=0.3)) as url:
        with opened(url, b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n"):
            until(lambda: app.endless_ones == 1)
            until(lambda: app.endless_ones == 0)
        with connect(url.replace("http", "ws") + "/endless", max_queue=1, ping_interval=None, close_timeout=0.1):
            until(lambda: app.endless_ones == 1)
            until(lambda: app.endless_ones == 0)


def test_who_reads_an_answer_that_is_longer_than_the_deadline_is_not_dropped():
    app, heard = App(), 0
    with running(app.app, Limits(write_s=0.1)) as url, opened(url, b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n") as raw:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            heard += len(raw.recv(1 << 20))
        assert heard and app.endless_ones == 1


@pytest.mark.parametrize("begin", [HALF, HALF_SOCKET, UPLOAD])
def test_those_that_are_waited_for_make_room_for_others(begin: bytes):
    app, limits = App(), Limits(connections=4, patience_s=0, header_s=LONG)
    with running(app.app, limits) as url, contextlib.ExitStack() as stack:
        half = [stack.enter_context(opened(url, begin)) for _ in range(20)]
        assert [status(url) for _ in range(5)] == [200] * 5
        assert all(is_dropped(raw) for raw in half[:15])


def test_who_waits_for_its_answer_is_never_dropped_for_others():
    app, limits = App(), Limits(connections=2, patience_s=0)
    with running(app.app, limits) as url, opened(url, b"GET /computed HTTP/1.1\r\nhost: a\r\n\r\n") as served:
        until(lambda: app.computing == 1)
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(opened(url, HALF))
            assert status(url) == 200
        app.is_computed = True
        assert served.recv(1000).startswith(b"HTTP/1.1 200 OK")


class Reader:
    """A connection as a server sees it; `now` is the time."""

    def __init__(self, kind: type[Http] | type[WebSockets]) -> None:
        self.now, self.is_dropped = 100.0, False
        self.connection: Any = object.__new__(kind)
        self.connection.loop = self.connection.transport = self.connection.flow = self.connection.writable = self
        self.connection.cycle = SimpleNamespace(response_complete=False, more_body=False)
        self.connection.waits_since, self.connection.close_sent, self.write_paused = 0.0, False, False

    def time(self) -> float:
        return self.now

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.is_dropped = True

    def pause_writing(self) -> None:
        self.write_paused = True

    clear = pause_writing

    def is_set(self) -> bool:
        return not self.write_paused


@pytest.mark.parametrize("kind", [Http, WebSockets])
@pytest.mark.parametrize("crowd", [1, 20])
def test_patience_with_who_reads_an_answer_begins_when_it_stops_reading(
    kind: type[Http] | type[WebSockets], crowd: int
):
    reader, limits = Reader(kind), Limits(connections=1, patience_s=1)
    others = [Reader(kind).connection for _ in range(crowd)]
    connections = {reader.connection, *others}
    make_room(connections, limits, 200, None)
    assert not reader.is_dropped  # it is being served
    reader.connection.pause_writing()
    make_room(connections, limits, 100.9, None)
    assert not reader.is_dropped
    make_room(connections, limits, 101, None)
    assert reader.is_dropped and not any(other.transport.is_dropped for other in others)


def test_with_all_connections_in_use_only_health_is_answered():
    with running(App().app, Limits(connections=2, patience_s=LONG)) as url, opened(url, HALF), opened(url, HALF):
        refused = httpx.get(url)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "busy"
        assert status(url, "/health") == 200


def test_requests_that_do_not_wait_for_answers_end_the_connection():
    with running(App().app, Limits()) as url, opened(url, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 50) as raw:
        answers = b""
        while part := raw.recv(1 << 16):
            answers += part
    assert answers.count(b"200 OK") == 1


@pytest.mark.parametrize("size", [1, 100, 5_000])
def test_a_body_in_pieces_of_any_size_comes_whole(size: int):
    body = bytes(i % 251 for i in range(20_000))
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    with running(App().app, Limits()) as url:
        assert httpx.post(f"{url}/echo", content=pieces).content == body


class Slow:
    """A connection whose pieces of more than one byte take 10 ms of the processor."""

    def __init__(self, loop: asyncio.AbstractEventLoop, parsed: list[bytes]) -> None:
        self.loop, self.parsed, self.is_slow = loop, parsed, False
        self.transport = self

    def parse(self, data: bytes) -> None:
        self.parsed.append(data)
        end = time.thread_time() + 0.01 * (len(data) > 1)
        while time.thread_time() < end:
            pass

    def pause_reading(self) -> None:
        self.is_read = False

    def read_on(self) -> None:
        self.is_read = True

    def is_closing(self) -> bool:
        return False


def test_slow_pieces_take_turns_and_small_ones_do_not_wait_for_them():
    parsed: list[bytes] = []

    async def main() -> None:
        turns, loop = Turns(), asyncio.get_running_loop()
        floods, other = [Slow(loop, parsed) for _ in range(3)], Slow(loop, parsed)
        for i, flood in enumerate(floods):
            turns.parse(flood, bytes([i]) * (SMALL + 1))  # type: ignore[arg-type]
        turns.parse(floods[0], b"a")  # type: ignore[arg-type]
        turns.parse(other, b"b")  # type: ignore[arg-type]
        assert [each[:1] for each in parsed] == [b"\0", b"b"] and not floods[1].is_read
        while turns.waiting:
            before = len(parsed)
            await asyncio.sleep(0)
            assert len(parsed) <= before + 1
        assert floods[1].is_read

    asyncio.run(main())
    assert [each[:1] for each in parsed] == [b"\0", b"b", b"\1", b"\2", b"a"]


def test_bodies_of_all_requests_have_one_bound_together():
    limits = Limits(prompt_s=0.1)

    def request(size: int) -> Request:
        async def receive() -> Any:
            return {"type": "http.request", "body": bytes(size), "more_body": False}

        return Request({"type": "http", "headers": []}, receive)

    async def main() -> None:
        bodies = Bodies(limits)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(bodies.read(request(limits.body_bytes)))
            with pytest.raises(RequestError, match="too much is being sent") as refused:
                await stack.enter_async_context(bodies.read(request(1)))
            assert refused.value.status == 503
        async with bodies.read(request(limits.body_bytes)) as body:
            assert len(body) == limits.body_bytes
        assert bodies.held_bytes == 0

    asyncio.run(main())


def test_a_body_that_does_not_come_is_told_so_and_forgotten():
    async def receive() -> Any:
        await asyncio.sleep(LONG)

    async def main() -> None:
        bodies = Bodies(Limits(body_s=0.01))
        with pytest.raises(RequestError, match=r"the body did not come within 0\.01 s") as refused:
            async with bodies.read(Request({"type": "http", "headers": []}, receive)):
                raise AssertionError("there is none")
        assert refused.value.status == 408

    asyncio.run(main())


def test_a_websocket_that_uvicorn_has_paused_wants_nothing():
    connection = object.__new__(WebSockets)
    for paused in (True, False):
        connection.read_paused = paused
        assert connection.wants_more() is not paused
