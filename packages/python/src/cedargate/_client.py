"""Asks the gate: `POST /authorize` and `/authorize/batch`, synchronously and asynchronously.

Connections are kept. A query is sent a second time only if its connection broke before an answer began, and within the same
time-out: a decision changes nothing, so the gate may see a query twice. Everything else that goes wrong raises.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeAlias, TypeVar

import httpcore2

from ._errors import GateUnavailableError, QueryRefusedError
from ._query import Decision, Query, decision_from, members
from ._transport import BROKEN, FAILURES, TIMEOUT, Deadline, Endpoint, PerProcess, Request, cause

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Coroutine, Generator, Mapping, Sequence

    from ._identity import Identity
    from ._query import EntityLike

T = TypeVar("T")

Clients: TypeAlias = dict[asyncio.AbstractEventLoop, httpcore2.AsyncConnectionPool]

ONE: Final = "/authorize"
BATCH: Final = "/authorize/batch"
ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
TRIES: Final = 2


class ListenerToken:
    """The token of the decision listener; a file is read again when it changes."""

    def __init__(self, token: str | None, file: str | os.PathLike[str] | None) -> None:
        if token is not None and file is not None:
            raise ValueError("`token` and `token_file` are both set")
        self._token = token
        self._file = Path(file) if file is not None else None
        self._read: tuple[tuple[int, int, int], str] | None = None

    def headers(self) -> dict[str, str]:
        """Return the header of a query; raise where the file cannot be read."""
        token = self._token if self._file is None else self._from(self._file)
        out = {"content-type": "application/json", "accept-encoding": "identity"}
        if token:
            out["authorization"] = f"Bearer {token}"
        return out

    def _from(self, file: Path) -> str:
        try:
            stat = file.stat()
            version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            read = self._read
            if read is None or read[0] != version:
                lines = (line.strip() for line in file.read_text("utf-8").splitlines())
                # of several tokens, the first one
                token = next((line for line in lines if line and not line.startswith("#")), "")
                if not token:
                    raise GateUnavailableError(f"`{file}` holds no token")
                read = (version, token)
                self._read = read
        except (OSError, UnicodeDecodeError) as error:
            raise GateUnavailableError(f"the listener's token cannot be read: {error}") from error
        return read[1]


class Pending(Generic[T]):
    """A decision that is still to be awaited. It cannot be used as a condition: without `await`, it would count as true."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for the gate."""
        return self._coroutine.__await__()

    def __bool__(self) -> NoReturn:
        """Raise: the `await` is missing."""
        self._coroutine.close()
        raise TypeError("`authorize` was not awaited; write `await client.authorize(…)`")


def _answer(status: int, body: bytes, asked: Mapping[str, Any]) -> Any:
    """Return the JSON of a 200; raise for everything else."""
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise GateUnavailableError(f"the gate answered {status} without JSON") from error
    if status == HTTPStatus.OK:
        return answer
    problem = answer if isinstance(answer, dict) else {}
    code, detail = str(problem.get("code", "")), str(problem.get("detail", problem.get("title", "")))
    if 400 <= status < 500 and status != HTTPStatus.TOO_MANY_REQUESTS and code:  # noqa: PLR2004
        raise QueryRefusedError(status, code, detail)
    raise GateUnavailableError(f"the gate answered {status} {code} for `{asked.get('action', 'a batch')}`")


def _one(answer: Any, asked: Mapping[str, Any]) -> Decision:
    decision = decision_from(answer)
    if decision.portal != asked.get("portal"):
        raise GateUnavailableError(f"the gate answered for the portal `{decision.portal}`")
    return decision


def _many(answer: Any, asked: Mapping[str, Any]) -> list[Decision]:
    listed = answer.get("decisions") if isinstance(answer, dict) else None
    items = asked["requests"]
    if not isinstance(listed, list) or len(listed) != len(items):
        raise GateUnavailableError("the gate's answer has not one decision for each query")
    decisions = [decision_from(item) for item in listed]
    for decision, item in zip(decisions, items, strict=True):
        if decision.allowed and decision.portal != item.get("portal", asked.get("portal")):
            raise GateUnavailableError(f"the gate answered for the portal `{decision.portal}`")
    return decisions


def _query(  # the members of a query, by name
    action: str,
    resource: EntityLike,
    *,
    identity: Identity | None,
    token: str | None,
    principal: EntityLike | None,
    portal: str | None,
    context: Mapping[str, Any] | None,
    entities: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    if identity is None and token is None and principal is None:
        raise ValueError("a query needs a caller: `identity`, `token` or `principal`")
    asked = members(Query(action, resource, context, identity, portal, entities), token, principal)
    if "portal" not in asked:
        raise ValueError("a query needs a `portal`, where no identity names it")
    return asked


def _batches(requests: Sequence[Query], size: int, shared: Mapping[str, Any]) -> list[dict[str, Any]]:
    items = [request.to_json() for request in requests]
    return [{**shared, "requests": items[at : at + size]} for at in range(0, len(items), size)]


class Client:
    """Asks from threads. One instance serves all threads and every forked process."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        timeout: float = TIMEOUT,
        batch: int = 200,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`url` and `token` are the decision listener's own; `timeout` is for a whole query; `batch` the gate's `limits.batch`."""
        self._endpoint = Endpoint(url, timeout, ssl_context)
        self._token = ListenerToken(token, token_file)
        self._batch = batch
        self._http = PerProcess(self._endpoint.pool)

    def authorize(
        self,
        action: str,
        resource: EntityLike,
        *,
        identity: Identity | None = None,
        token: str | None = None,
        principal: EntityLike | None = None,
        portal: str | None = None,
        context: Mapping[str, Any] | None = None,
        entities: Sequence[Mapping[str, Any]] | None = None,
    ) -> Decision:
        """Return the gate's decision about one query; raise a `CedargateError` where there is none."""
        asked = _query(
            action,
            resource,
            identity=identity,
            token=token,
            principal=principal,
            portal=portal,
            context=context,
            entities=entities,
        )
        return _one(self._ask(ONE, asked), asked)

    def authorize_batch(
        self,
        requests: Sequence[Query],
        *,
        identity: Identity | None = None,
        token: str | None = None,
        principal: EntityLike | None = None,
        portal: str | None = None,
        action: str | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> list[Decision]:
        """Return one decision for each query, in order. An item that cannot be decided is a deny with `detail`."""
        shared = members(Query(action, None, context, identity, portal), token, principal)
        decisions: list[Decision] = []
        for asked in _batches(requests, self._batch, shared):
            decisions += _many(self._ask(BATCH, asked), asked)
        return decisions

    def close(self) -> None:
        """Close the connections."""
        if (client := self._http.taken()) is not None:
            client.close()

    def _ask(self, path: str, asked: Mapping[str, Any]) -> Any:
        body = json.dumps(asked, allow_nan=False).encode()
        request = Request("POST", path, ANSWER_BYTES_MAX, list(self._token.headers().items()), body)
        deadline = Deadline(self._endpoint.timeout)
        for attempt in range(1, TRIES + 1):
            try:
                status, answer = self._endpoint.exchange(self._http.get(), request, deadline)
            except BROKEN as error:
                if attempt == TRIES or deadline.over():
                    raise GateUnavailableError(f"the gate does not answer: {cause(error)}") from error
            except FAILURES as error:
                raise GateUnavailableError(f"the gate does not answer: {cause(error)}") from error
            else:
                return _answer(status, answer, asked)
        raise AssertionError("the last attempt returns or raises")


class AsyncClient:
    """Asks from asyncio tasks. One instance serves all tasks; each event loop has connections of its own."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        timeout: float = TIMEOUT,
        batch: int = 200,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`url` and `token` are the decision listener's own; `timeout` is for a whole query; `batch` the gate's `limits.batch`."""
        self._endpoint = Endpoint(url, timeout, ssl_context)
        self._token = ListenerToken(token, token_file)
        self._batch = batch
        self._http: PerProcess[Clients] = PerProcess(dict)

    def authorize(
        self,
        action: str,
        resource: EntityLike,
        *,
        identity: Identity | None = None,
        token: str | None = None,
        principal: EntityLike | None = None,
        portal: str | None = None,
        context: Mapping[str, Any] | None = None,
        entities: Sequence[Mapping[str, Any]] | None = None,
    ) -> Pending[Decision]:
        """Return the gate's decision about one query; raise a `CedargateError` where there is none."""
        asked = _query(
            action,
            resource,
            identity=identity,
            token=token,
            principal=principal,
            portal=portal,
            context=context,
            entities=entities,
        )

        async def decided() -> Decision:
            return _one(await self._ask(ONE, asked), asked)

        return Pending(decided())

    def authorize_batch(
        self,
        requests: Sequence[Query],
        *,
        identity: Identity | None = None,
        token: str | None = None,
        principal: EntityLike | None = None,
        portal: str | None = None,
        action: str | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Pending[list[Decision]]:
        """Return one decision for each query, in order. An item that cannot be decided is a deny with `detail`."""
        shared = members(Query(action, None, context, identity, portal), token, principal)
        batches = _batches(requests, self._batch, shared)

        async def decided() -> list[Decision]:
            decisions: list[Decision] = []
            for asked in batches:
                decisions += _many(await self._ask(BATCH, asked), asked)
            return decisions

        return Pending(decided())

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        client = self._http.get().pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _pool(self) -> httpcore2.AsyncConnectionPool:
        clients, loop = self._http.get(), asyncio.get_running_loop()
        client = clients.get(loop)
        if client is None:
            # a connection refers to its loop, so closed loops would stay in memory
            for closed in [other for other in list(clients) if other.is_closed()]:
                clients.pop(closed, None)
            client = clients[loop] = self._endpoint.async_pool()
        return client

    async def _ask(self, path: str, asked: Mapping[str, Any]) -> Any:
        body = json.dumps(asked, allow_nan=False).encode()
        request = Request("POST", path, ANSWER_BYTES_MAX, list(self._token.headers().items()), body)
        deadline = Deadline(self._endpoint.timeout)
        for attempt in range(1, TRIES + 1):
            try:
                exchange = self._endpoint.exchange_async(self._pool(), request, deadline)
                status, answer = await asyncio.wait_for(exchange, deadline.left())
            except BROKEN as error:
                if attempt == TRIES or deadline.over():
                    raise GateUnavailableError(f"the gate does not answer: {cause(error)}") from error
            except (*FAILURES, TimeoutError) as error:
                raise GateUnavailableError(f"the gate does not answer: {cause(error)}") from error
            else:
                return _answer(status, answer, asked)
        raise AssertionError("the last attempt returns or raises")
