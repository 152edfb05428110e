"""FastAPI dependencies: the caller, and a permission that the gate must grant.

app.add_middleware(GateMiddleware, gate=gate)

@app.get("/portal/customer/orders/{order_id}")
async def order(caller: CurrentIdentity, _: Annotated[Decision, Permitted("viewOrder", load_order)]) -> Order: ...
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi.responses import JSONResponse
from starlette.requests import HTTPConnection

from fastapi import Depends, FastAPI, Request, WebSocket

from ._errors import AssertionMissingError, CedargateError
from ._gate import NOT_PERMITTED, PROBLEM_JSON, Gate, Problem, problem_of
from ._identity import Identity
from ._query import Decision, Entity
from .asgi import GATE, IDENTITY, POLICY_VIOLATION, GateMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "CurrentGate",
    "CurrentIdentity",
    "GateMiddleware",
    "MaybeIdentity",
    "NotPermittedError",
    "Permitted",
    "answer_refusals",
    "install",
    "require",
]


class NotPermittedError(CedargateError):
    """The gate denied."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.reason)
        self.decision = decision


def install(app: FastAPI, gate: Gate) -> None:
    """Add the middleware, and the answers to callers whose permission is not proven."""
    app.add_middleware(GateMiddleware, gate=gate)
    answer_refusals(app)


def answer_refusals(app: FastAPI) -> None:
    """Add the answers alone, for an app that is mounted below one with the middleware. Without them, its denials are 500."""
    app.add_exception_handler(CedargateError, cast("Any", _answer))


async def _answer(connection: Request | WebSocket, error: Exception) -> JSONResponse | None:
    problem: Problem = NOT_PERMITTED
    if isinstance(error, CedargateError) and not isinstance(error, NotPermittedError):
        problem = problem_of(error)
    body = problem.to_json()
    if isinstance(error, NotPermittedError):
        body["decision_id"] = error.decision.decision_id
    if isinstance(connection, WebSocket):
        # before it is accepted, the server makes this a 403
        await connection.close(POLICY_VIOLATION, problem.code)
        return None
    return JSONResponse(body, problem.status, media_type=PROBLEM_JSON)


def _gate(connection: HTTPConnection) -> Gate:
    gate = connection.scope.get(GATE)
    if not isinstance(gate, Gate):
        raise TypeError("GateMiddleware is not installed, so no caller is proven; call `install(app, gate)`")
    return gate


def _maybe(connection: HTTPConnection) -> Identity | None:
    _gate(connection)
    identity = connection.scope[IDENTITY]
    return identity if isinstance(identity, Identity) else None


def _identity(connection: HTTPConnection) -> Identity:
    identity = _maybe(connection)
    if identity is None:
        raise AssertionMissingError("a public path has no caller")
    return identity


CurrentGate = Annotated[Gate, Depends(_gate)]
CurrentIdentity = Annotated[Identity, Depends(_identity)]
MaybeIdentity = Annotated[Identity | None, Depends(_maybe)]


async def require(
    connection: HTTPConnection, action: str, resource: Entity | str, context: Mapping[str, Any] | None = None
) -> Decision:
    """Return the decision if the gate allows; raise `NotPermittedError` if it denies."""
    identity = _identity(connection)
    decision = await _gate(connection).async_client.authorize(action, resource, identity=identity, context=context)
    if not decision:
        raise NotPermittedError(decision)
    return decision


def Permitted(action: str, resource: Entity | Callable[..., Any]) -> Any:  # noqa: N802  # reads like FastAPI's `Depends`
    """Return a dependency that asks the gate before the endpoint runs.

    `resource` is an entity, or a dependency of FastAPI's own kind that returns one: it may take path parameters, a database
    session and so on.
    """
    if isinstance(resource, Entity):
        entity = resource

        def load() -> Entity:
            return entity
    else:
        load = resource

    async def permitted(connection: HTTPConnection, loaded: Annotated[Any, Depends(load)]) -> Decision:
        if not isinstance(loaded, Entity):
            kind = type(loaded).__name__
            raise TypeError(f"the resource of `{action}` is a {kind}, not an Entity")
        return await require(connection, action, loaded)

    # annotations of local names are resolved here, where they are known
    permitted.__annotations__ = {
        "connection": HTTPConnection,
        "loaded": Annotated[Any, Depends(load)],
        "return": Decision,
    }
    permitted.__signature__ = inspect.signature(permitted)  # type: ignore[attr-defined]
    return Depends(permitted)
