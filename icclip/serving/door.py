"""What every request passes: its id, the key, the size of its body, the metrics and the log."""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from icclip.serving.problems import RequestProblem, too_large

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_TO_ALL = ("/ping", "/live", "/", "/page.css", "/page.js")
"""What needs no key: health checks, and a page that holds nothing."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
FAILED = "the service failed; its log says why"
log = logging.getLogger("icclip.serving")


@dataclass
class Door:
    """An ASGI application around another.

    Args:
        app: what is behind it.
        key: that requests have to bring; None: none.
        most: bytes of a body.
        done: is told path, status and seconds of every request.
    """

    app: App
    key: str | None
    most: int
    done: Callable[[str, int, float], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        asked = headers.get(b"x-request-id", b"").decode("latin-1")
        name = asked if _ID.fullmatch(asked) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = name
        began, bounded = time.perf_counter(), _Bounded(receive, self.most)
        out = _Answers(send, name, bounded)
        try:
            problem = self._refused(scope, headers)
            if problem is not None:
                await answer(problem, name, out)
            else:
                await self.app(scope, bounded, out)
        except Exception:
            log.exception("request %s failed", name)
            if not out.status:
                await answer(RequestProblem(500, "internal", FAILED), name, out)
        finally:
            seconds = time.perf_counter() - began
            self.done(scope["path"], out.status or 500, seconds)
            _log(scope, name, out.status or 500, seconds)

    def _refused(self, scope: Scope, headers: dict[bytes, bytes]) -> RequestProblem | None:
        if self.key is not None and scope["path"] not in OPEN_TO_ALL and not self._has_key(headers):
            return RequestProblem(
                401, "unauthorized", "send the API key: Authorization: Bearer KEY", None, {"WWW-Authenticate": "Bearer"}
            )
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", b"").decode("latin-1")
            if kind.partition(";")[0].strip().lower() != "application/json":
                return RequestProblem(
                    415, "unsupported_content_type", f"Unsupported content type: {kind[:80]!r}; send application/json"
                )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most:
            return too_large(f"the body has more than {self.most:,} bytes", None)
        return None

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, brought = headers.get(b"authorization", b"").partition(b" ")
        given = brought.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(given, (self.key or "").encode())


@dataclass
class _Answers:
    """Sends an answer with the request's id; 413 instead of whatever was made of a body that was cut off."""

    send: Send
    request_id: str
    bounded: _Bounded
    status: int = 0
    replaced: bool = False

    async def __call__(self, message: Message) -> None:
        if self.replaced:
            return
        if message["type"] == "http.response.start" and self.bounded.over:
            self.bounded.over, self.replaced = False, True
            await answer(self.bounded.problem(), self.request_id, _Answers(self.send, self.request_id, self.bounded))
            self.status = 413
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self.request_id.encode())]
        await self.send(message)


@dataclass
class _Bounded:
    """Receives a body that does not say its length, and no more than may be."""

    receive: Receive
    most: int
    seen: int = 0
    over: bool = False

    def problem(self) -> RequestProblem:
        return too_large(f"the body has more than {self.most:,} bytes", None)

    async def __call__(self) -> Message:
        message = await self.receive()
        self.seen += len(message.get("body", b""))
        if self.seen > self.most:
            self.over = True
            raise self.problem()
        return message


async def answer(problem: RequestProblem, request_id: str, send: Send) -> None:
    """Send a problem as JSON."""
    body = json.dumps(problem.body(request_id)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **problem.headers}
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _log(scope: Scope, request_id: str, status: int, seconds: float) -> None:
    client = scope.get("client")
    values = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "request_id": request_id, "client": client and client[0],
        "method": scope["method"], "path": scope["path"][:200], "status": status, "ms": round(1000 * seconds, 2),
    }  # fmt: skip
    log.info(json.dumps(values))
