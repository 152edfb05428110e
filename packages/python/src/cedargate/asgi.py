"""ASGI middleware: `scope["cedargate"]` is the caller of a request, `scope["cedargate.gate"]` the gate to ask.

A request without a valid assertion gets a problem+json and never reaches the app; a WebSocket is closed before it opens.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ._errors import AssertionInvalidError, CedargateError
from ._gate import PROBLEM_JSON, Gate, Problem, is_identity_header, problem_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from ._identity import Identity

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

IDENTITY: Final = "cedargate"
GATE: Final = "cedargate.gate"
POLICY_VIOLATION: Final = 1008


class GateMiddleware:
    """Lets in what the gate has sent. Add it last, so that it runs first."""

    def __init__(self, app: App, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] not in {"http", "websocket"}:
            raise RuntimeError(f"a connection of the kind `{scope['type']}` proves no caller")
        try:
            identity = await self._admit(scope)
        except CedargateError as error:
            await _refuse(scope, send, problem_of(error))
            return
        scope = dict(scope)
        scope["headers"] = [
            (name, value)
            for name, value in scope["headers"]
            if not is_identity_header(name.decode("latin-1")) and not self._is_assertion(name)
        ]
        scope[IDENTITY] = identity
        scope[GATE] = self._gate
        await self._app(scope, receive, send)

    def _is_assertion(self, name: bytes) -> bool:
        return name.decode("latin-1").lower().replace("_", "-") == self._gate.header

    async def _admit(self, scope: Scope) -> Identity | None:
        found = [(name, value) for name, value in scope["headers"] if self._is_assertion(name)]
        if any(b"_" in name for name, _ in found):
            raise AssertionInvalidError("the assertion's header is written with `_`")
        assertions = [value.decode("latin-1") for _, value in found]
        return await self._gate.admit_async(assertions, scope.get("method", "GET"), scope["path"])


async def _refuse(scope: Scope, send: Send, problem: Problem) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": problem.code})
        return
    body = json.dumps(problem.to_json()).encode()
    headers = [
        (b"content-type", PROBLEM_JSON.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})
