"""What stands before the service: who may ask, how much, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rtd_plugin.serving.metrics import Metrics
from rtd_plugin.serving.service import Limits

FIELDS = 2**16  # bytes of a form beside its image
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def is_allowed_host(header: str, hosts: Collection[str]) -> bool:
    """Return whether a Host header is an address, `localhost`, or one of `hosts`.

    A page of another site can reach this service by letting its own name lead here (DNS rebinding), but then the
    header has that name.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", *hosts):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class Guards:
    """Refuses requests from elsewhere, large ones, slow ones, and queries beyond `limits.waiting`.

    Args:
        app: what answers the others.
        limits: how much and for how long.
        metrics: where requests are counted.
        hosts: names of this machine that requests may address, beside `localhost` and its addresses.
        origins: other sites whose pages may ask, such as `https://example.org`.
        name_path: gives the route of a request, for the counters.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        hosts: Collection[str],
        origins: Collection[str],
        name_path: Callable[[Scope], str],
    ):
        self._app, self._limits, self._metrics = app, limits, metrics
        self._hosts = {host.lower() for host in hosts}
        self._origins = set(origins)
        self._name_path = name_path
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refuse(scope)
        try:
            if refusal is not None:
                await refusal(scope, receive, send_with_headers)
                return
            with anyio.move_on_after(self._limits.seconds) as deadline:
                await self._answer(scope, self._count_bytes(scope, receive), send_with_headers)
            if deadline.cancelled_caught and not status:
                sentence = f"This took more than {self._limits.seconds:g} seconds: try again later."
                await _say(503, sentence)(scope, receive, send_with_headers)
        finally:
            path = self._name_path(scope)
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._active += 1
        self._metrics.active.set(self._active)
        try:
            await self._app(scope, receive, send)
        finally:
            self._active -= 1
            self._metrics.active.set(self._active)

    def _refuse(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_allowed_host(host, self._hosts):
            return _say(421, f"This service does not answer for the host {host!r}: start it with --allow-host.")
        if scope["method"] != "POST":
            return None
        if origin is not None and origin not in self._origins and urlsplit(origin).netloc != host:
            return _say(403, f"Pages of {origin} may not ask this service: start it with --allow-origin.")
        if self._active >= self._limits.waiting:
            return _say(429, f"{self._active} queries wait already: try again in a second.", {"Retry-After": "1"})
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._limits.bytes + FIELDS:
            return _say(413, self._describe_bytes())
        return None

    def _count_bytes(self, scope: Scope, receive: Receive) -> Receive:
        size = 0

        async def count() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limits.bytes + FIELDS:
                raise HTTPException(413, self._describe_bytes())
            return message

        return count

    def _describe_bytes(self) -> str:
        return f"The image has more than {self._limits.bytes / 1e6:g} MB: send a smaller copy."


def _say(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers)
