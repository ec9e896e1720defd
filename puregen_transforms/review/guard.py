"""Let nobody but the browser window of the person who started the review talk to its server."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from puregen_transforms._files import is_inside

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_FILES = "/gradio_api/file="
_OPEN = (
    "/review/",
    "/config",
    "/assets/",
    "/static/",
    "/svelte/",
    "/theme.css",
    "/favicon.ico",
    "/manifest.json",
    "/gradio_api/info",
    "/gradio_api/startup-events",
    "/gradio_api/heartbeat/",
    "/gradio_api/queue/",
    "/gradio_api/upload",
    "/gradio_api/reset",
    "/gradio_api/cancel",
    "/gradio_api/app_id",
    "/gradio_api/theme.css",
)
"""What the page needs of Gradio's server, which has more: proxies to other servers, files of the machine, profiles."""

_HEADERS = {
    # Names of others that slipped through the escaping could still send nothing anywhere.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class Guard:
    """Refuse requests from other pages, other people on the machine, and for other files.

    A page of another origin cannot send the cookie or must name its origin; one whose name was turned to the loopback
    address (DNS rebinding) names its host. The cookie comes with the first address, which has the token.

    Args:
        app: the server's.
        port: that it listens on.
        token: that opens it.
        files: the folder of uploads and results, the only one whose files are served.
    """

    def __init__(self, app: App, *, port: int, token: str, files: Path) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        self._cookie = f"puregen-review-{port}"
        self._token = token
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page opens no socket
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if refusal := self._refusal(scope, headers):
            await _answer(send, 403, refusal)
            return
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and secrets.compare_digest(given.encode(), self._token.encode()):
            cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            await _answer(send, 303, "", {"location": "/", "set-cookie": cookie})
            return
        if not self._knows(headers.get("cookie", "")):
            await _answer(send, 403, "Open the address that `puregen review` printed: it has the token.")
            return
        if not self._is_open(scope["path"]):
            await _answer(send, 404, "The review has no such page.")
            return
        await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> str:
        """Say why a request is of another page; "" if it is not."""
        if headers.get("host", "") not in self._hosts:
            return "Another host was asked for."
        if (origin := headers.get("origin")) is not None and origin != f"http://{headers['host']}":
            return "Another page asked."
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "Another page asked."
        return ""

    def _knows(self, cookie: str) -> bool:
        try:
            given = SimpleCookie(cookie).get(self._cookie)
        except Exception:  # http.cookies raises what it likes
            return False
        return given is not None and secrets.compare_digest(given.value.encode(), self._token.encode())

    def _is_open(self, path: str) -> bool:
        if path.startswith(_FILES):
            return "\0" not in path and is_inside(self._files, Path(path.removeprefix(_FILES)))
        return path == "/" or (path.startswith(_OPEN) and ".." not in path)


def _with_headers(send: Send) -> Send:
    async def guarded(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", ()),
                *((name.encode(), value.encode()) for name, value in _HEADERS.items()),
            ]
        await send(message)

    return guarded


async def _answer(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    lines = {"content-type": "text/plain; charset=utf-8", **_HEADERS, **(headers or {})}
    encoded = [(name.encode(), value.encode()) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": text.encode()})
