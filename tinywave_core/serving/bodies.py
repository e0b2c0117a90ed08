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
            raise RequestError(f"the body is longer than {most:,} bytes, the most that is read", "body_too_long", 413)

    def _keep(self, body: bytearray, chunk: bytes) -> None:
        if self.held_bytes + len(chunk) > self.limits.bodies_bytes:
            raise RequestError("too much is being sent to this server: try again in a moment", "busy", 503)
        body += chunk
        self.held_bytes += len(chunk)
