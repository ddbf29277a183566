"""Keep other machines and web pages out.

Listening on loopback is not enough: any page in a browser may send requests to localhost, and a name that an attacker
controls can be pointed there (DNS rebinding). So a request must name this machine in `Host`, and in `Origin` if it
brings one.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class LoopbackOnly:
    """ASGI middleware that answers 403 to whoever does not speak to this machine from this machine."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and (fault := _fault(dict(scope["headers"]))):
            refusal = JSONResponse({"error": {"message": fault, "type": "forbidden", "code": None}}, status_code=403)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _fault(headers: dict[bytes, bytes]) -> str | None:
    host = headers.get(b"host", b"").decode("latin-1")
    if not _is_loopback(f"//{host}"):
        return f"this server answers to localhost, not to {host!r}"
    origin = headers.get(b"origin")
    if origin is not None and not _is_loopback(origin.decode("latin-1")):
        return "this server does not answer web pages of other origins"
    return None


def _is_loopback(url: str) -> bool:
    try:
        return urlsplit(url).hostname in LOOPBACK_NAMES
    except ValueError:  # a bracket without its partner
        return False
