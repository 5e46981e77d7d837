"""What stands before the routes: who may ask, how much may be sent, and what nobody is told.

A page of another site can make a browser send requests to this machine, and by DNS rebinding even read the
answers. Both need a foreign name in the `Host` or `Origin` header, which is refused here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import sys
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dfmamba.app.config import AppConfig
from dfmamba.text import one_line

LONGEST_REASON = 300
"""Characters of a reason; what came from the client is part of it."""

_DRAIN_BYTES = 100_000_000
_DRAIN_SECONDS = 10.0

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Permissions-Policy": "camera=(self)",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def shorten(reason: object) -> str:
    """One line of at most `LONGEST_REASON` characters."""
    text = one_line(reason)
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"


class Guard:
    """ASGI middleware: hosts and origins, size of bodies, headers, and one line for unexpected errors.

    Args:
        app: what it protects.
        config: the address that the server listens on, that of a proxy before it, and bytes of a body.
    """

    def __init__(self, app: ASGIApp, config: AppConfig) -> None:
        self.app, self.limit = app, config.max_upload_bytes
        self.public_host, self.public_path = config.public_host, config.public_path
        host = config.host
        self.names = {"localhost", host.strip("[]").lower()}
        self.open = not _is_loopback(host)
        if self.open:
            self.names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}

    def allows(self, authority: str) -> bool:
        """Whether the host of "host", "host:port" or "[v6]:port" is one of ours.

        Listening on more than the loopback, any number address is ours: rebinding takes a name.
        """
        if self.public_host and authority.lower() == self.public_host:
            return True
        try:
            name = urlsplit(f"//{authority}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.open or address.is_loopback

    def is_own(self, origin: str, host: str) -> bool:
        """Whether a page of that `Origin` is this server's, seen directly or through the proxy."""
        try:
            authority = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        return bool(authority) and authority in (host.lower(), self.public_host)

    def _inside(self, scope: Scope) -> Scope:
        """The request without the proxy's folder, which some proxies take off and others leave on."""
        prefix = self.public_path
        if not prefix or not scope["path"].startswith(f"{prefix}/"):
            return scope
        return {**scope, "path": scope["path"][len(prefix) :]}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host", "")
        if not self.allows(host):
            reason = "this server is not known by that name; use the address it printed (behind a proxy: "
            await _answer(send_guarded, 403, f"{reason}start it with --public_url)")
            return
        if origin is not None and not self.is_own(origin, host):
            await _answer(send_guarded, 403, "requests from pages of other sites are refused")
            return
        if self.public_path and scope["path"] == self.public_path:
            await _answer(send_guarded, 307, "the page's address ends with a slash", f"{self.public_path}/")
            return
        try:
            await self.app(self._inside(scope), self._counted(headers, receive), send_guarded)
        except ClientDisconnect:
            pass
        except Exception as error:
            print(f"dfmamba app: unexpected {type(error).__name__}: {shorten(error)}", file=sys.stderr)
            if not started:
                await _answer(send_guarded, 500, f"unexpected {type(error).__name__}")

    def _counted(self, headers: Headers, receive: Receive) -> Receive:
        """`receive` that refuses a body beyond the limit, whatever its header announced."""
        announced = headers.get("content-length", "0")
        too_long = announced.isdigit() and int(announced) > self.limit
        count = 0

        async def receive_counted() -> Message:
            nonlocal count
            if too_long:
                if "expect" not in headers:
                    await drain(receive)
                raise self._too_large()
            message = await receive()
            count += len(message.get("body", b""))
            if count > self.limit:
                if message.get("more_body"):
                    await drain(receive)
                raise self._too_large()
            return message

        return receive_counted

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the upload is larger than the limit of {self.limit / 1e6:g} MB")


async def drain(receive: Receive) -> None:
    """Throws away what is still coming, up to a limit: a client that writes does not read the refusal."""
    left = _DRAIN_BYTES
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return


async def _answer(send: Send, status: int, reason: str, location: str | None = None) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if location is not None:
        headers.append((b"location", location.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
