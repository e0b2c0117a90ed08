"""Who may send requests: only pages of this server, under a name that cannot be somebody else's.

A page of another site can reach servers on this machine through its visitor's browser. The Host must be an address, localhost or a
name that was allowed (else a foreign name could be made to point here; ports are as tunnels have them). Where there is an Origin it
must be this server's own. Where the browser says that another page asks (images, scripts and frames send no Origin), nothing is
answered but a link that somebody follows.
"""

import ipaddress
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page brings everything along: nothing of another server is loaded, and nothing is sent to one.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline' blob:; worker-src blob:; style-src 'unsafe-inline'; "
    "connect-src 'self'; media-src blob:; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "permissions-policy": "microphone=(self)",
}


class Guard:
    """An ASGI middleware: refuses strangers, adds headers."""

    def __init__(self, app: ASGIApp, allowed: Collection[str] = (), headers: Mapping[str, str] = HEADERS) -> None:
        self.app, self.allowed, self.headers = app, {name.lower() for name in allowed}, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        why = self.refusal(Headers(scope=scope))
        if why is None:
            await self.app(scope, receive, self._with_headers(send) if scope["type"] == "http" else send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": why})
        else:
            error: dict[str, Any] = {"type": "invalid_request_error", "code": "forbidden", "message": why}
            await JSONResponse({"error": error}, 403)(scope, receive, send)

    def refusal(self, headers: Headers) -> str | None:
        """Why a request with these headers is refused; None where it is not."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            problem = f"the host {', '.join(hosts)} is not this server's" if hosts else "there is no Host header"
            return f"{problem}: use an address or localhost (`tinywave talk --allow-host` allows more names)"
        if origins and (len(origins) > 1 or urlsplit(origins[0]).netloc.lower() != hosts[0].lower()):
            return f"pages of {', '.join(origins)} may not use this server"
        asks = headers.get("sec-fetch-site", "none")
        followed = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
        if asks not in ("none", "same-origin") and not followed:
            return f"pages of others may not use this server (Sec-Fetch-Site is {asks})"
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name == "localhost" or name in self.allowed or _is_address(name)

    def _with_headers(self, send: Send) -> Send:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = Headers(raw=message.get("headers", []))  # of an answer that has its own policy
                more = [(name.encode(), value.encode()) for name, value in self.headers.items() if name not in own]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        return send_more


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
