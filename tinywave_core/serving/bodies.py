"""Bodies of requests: each has a longest size and time, and all together have a share of memory that they never exceed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from tinywave_core.serving.errors import RequestError, client_gone
from tinywave_core.serving.limits import Limits

READ_ON = 4
"""A body that is too long is read on, and not kept, up to so many times the limit: who still writes does not see an answer."""


class Bodies:
    """Bodies that are in memory."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held_bytes = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytearray]:
        """All of a body; it counts as held until the block ends."""
        body = bytearray()
        try:
            await self._fill(body, request)
            yield body
        finally:
            self.held_bytes -= len(body)

    async def _fill(self, body: bytearray, request: Request) -> None:
        most, size = self.limits.body_bytes, 0
        if _asks_first(request) and _declared(request) > most:
            # It waits for a word before it writes: it would see no answer if the connection ended while it does.
            raise self._too_long()
        try:
            async with asyncio.timeout(self.limits.body_s):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size <= most:
                        self._keep(body, chunk)
                    elif size > READ_ON * most:
                        break
        except TimeoutError as error:
            why = f"the body did not come within {self.limits.body_s:g} s"
            raise RequestError(why, "body_too_slow", 408) from error
        except ClientDisconnect as error:
            raise client_gone() from error
        if size > most:
            raise self._too_long()

    def _too_long(self) -> RequestError:
        most = self.limits.body_bytes
        return RequestError(f"the body is longer than {most:,} bytes, the most that is read", "body_too_long", 413)

    def _keep(self, body: bytearray, chunk: bytes) -> None:
        if self.held_bytes + len(chunk) > self.limits.bodies_bytes:
            raise RequestError("too much is being sent to this server: try again in a moment", "busy", 503)
        body += chunk
        self.held_bytes += len(chunk)


def _asks_first(request: Request) -> bool:
    """Whether the client writes its body only once it is told to, as curl does with long ones."""
    return request.headers.get("expect", "").lower() == "100-continue"


def _declared(request: Request) -> int:
    """Length of the body as its client says; 0 where it does not."""
    digits = request.headers.get("content-length", "")
    return int(digits) if digits.isdecimal() and len(digits) < 20 else 0
