"""HTTP to the gate: its URL, bounded answers, and connections that belong to one process.

`unix:/path` means a Unix socket. Proxies of the environment and redirects are never used: the gate is beside the app. This is why
httpcore2 stands here and not httpx2, whose business they are; it also lets a deadline hold for a whole exchange.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
import weakref
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

import httpcore2

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

UNIX: Final = "unix:"
TIMEOUT: Final = 2.0


@dataclass(frozen=True)
class Endpoint:
    """Where the gate's decision listener is, and how to reach it."""

    url: str
    timeout: float
    ssl_context: ssl.SSLContext | None = None
    connections: int = 100
    base: str = field(init=False)
    socket: str | None = field(init=False)

    def __post_init__(self) -> None:
        """Check the URL; an app with a wrong one does not start."""
        socket = None
        base = self.url.rstrip("/")
        if self.url.startswith(UNIX):
            socket = self.url.removeprefix(UNIX).removeprefix("//")
            base = "http://cedargate"
            if not socket.startswith("/"):
                raise ValueError(f"`{self.url}`: a Unix socket is `unix:/path`")
        else:
            parts = urlsplit(base)
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
                raise ValueError(f"`{self.url}` is neither `http://host:port`, `https://…` nor `unix:/path`")
            if parts.username or parts.password:
                raise ValueError("the gate's URL contains a password; use `token` or `token_file`")
        if self.timeout <= 0:
            raise ValueError("`timeout` must be more than 0 s")
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "socket", socket)

    def pool(self) -> httpcore2.ConnectionPool:
        """Return new connections, for one process."""
        return httpcore2.ConnectionPool(
            ssl_context=self._tls(),
            max_connections=self.connections,
            max_keepalive_connections=self.connections,
            uds=self.socket,
            network_backend=_Backend(),
        )

    def async_pool(self) -> httpcore2.AsyncConnectionPool:
        """Return new connections, for one event loop."""
        return httpcore2.AsyncConnectionPool(
            ssl_context=self._tls(),
            max_connections=self.connections,
            max_keepalive_connections=self.connections,
            uds=self.socket,
        )

    def _tls(self) -> ssl.SSLContext | None:
        if self.ssl_context is not None or not self.base.startswith("https:"):
            return self.ssl_context
        return ssl.create_default_context()

    def exchange(self, pool: httpcore2.ConnectionPool, request: Request, deadline: Deadline) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        reader = _BodyReader(request.answer_bytes_max, deadline)
        token = _DEADLINE.set(deadline)
        try:
            with pool.stream(
                request.method,
                self.base + request.path,
                headers=request.headers,
                content=request.body,
                extensions=_time_outs(deadline),
            ) as response:
                for chunk in response.iter_stream():
                    reader.add(chunk)
        finally:
            _DEADLINE.reset(token)
        return response.status, reader.body()

    async def exchange_async(self, pool: httpcore2.AsyncConnectionPool, request: Request, deadline: Deadline) -> tuple[int, bytes]:
        """Return status and body of the answer. The caller ends it at the deadline."""
        reader = _BodyReader(request.answer_bytes_max, deadline)
        async with pool.stream(
            request.method,
            self.base + request.path,
            headers=request.headers,
            content=request.body,
            extensions=_time_outs(deadline),
        ) as response:
            async for chunk in response.aiter_stream():
                reader.add(chunk)
        return response.status, reader.body()


@dataclass(frozen=True)
class Request:
    """One request to the gate."""

    method: str
    path: str
    answer_bytes_max: int
    headers: list[tuple[bytes | str, bytes | str]] = field(default_factory=list)
    body: bytes | None = None


def _time_outs(deadline: Deadline) -> dict[str, Any]:
    left = deadline.left()
    return {"timeout": {"connect": left, "read": left, "write": left, "pool": left}}


class PerProcess(Generic[T]):
    """A value that each process makes for itself.

    A server such as gunicorn forks after it has loaded the app. Two processes that write to one connection read each other's
    answers, and a lock that another thread held during the fork stays locked in the child.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._owned: tuple[int, T] | None = None
        _INSTANCES.add(self)

    def get(self) -> T:
        """Return this process's value; make it at first use."""
        owned = self._owned
        if owned is not None and owned[0] == os.getpid():
            return owned[1]
        with self._lock:
            owned = self._owned
            if owned is None or owned[0] != os.getpid():
                owned = (os.getpid(), self._make())
                self._owned = owned
            return owned[1]

    def taken(self) -> T | None:
        """Forget the value and return it, if this process made one."""
        with self._lock:
            owned, self._owned = self._owned, None
        return owned[1] if owned is not None and owned[0] == os.getpid() else None

    def _after_fork(self) -> None:
        # the parent's value is kept alive and unused: closing its TLS connections would write to them
        self._lock = threading.Lock()
        _OF_THE_PARENT.append(self._owned)
        self._owned = None


_INSTANCES: weakref.WeakSet[PerProcess[Any]] = weakref.WeakSet()
_OF_THE_PARENT: list[object] = []


def _after_fork() -> None:
    for instance in list(_INSTANCES):
        instance._after_fork()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)


class Deadline:
    """The moment by which an exchange must be complete."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left, at least a millisecond."""
        return max(self._at - time.monotonic(), 0.001)

    def over(self) -> bool:
        """Tell that the time is up."""
        return time.monotonic() >= self._at


def cause(error: Exception) -> str:
    """Return the error's text; some of httpcore2's have none."""
    return str(error) or type(error).__name__


class AnswerTooLargeError(Exception):
    """The answer is larger than any of the gate's."""


# the connection broke; an answer had not begun, or not ended
BROKEN: Final = (httpcore2.NetworkError, httpcore2.RemoteProtocolError)
# everything that can go wrong on the way to the gate and back
FAILURES: Final = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, AnswerTooLargeError)


class _BodyReader:
    """Collects an answer's chunks up to a size and a deadline."""

    def __init__(self, bytes_max: int, deadline: Deadline) -> None:
        self._bytes_max = bytes_max
        self._deadline = deadline
        self._body = bytearray()

    def add(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > self._bytes_max:
            raise AnswerTooLargeError(f"the answer has more than {self._bytes_max} bytes")
        if self._deadline.over():
            raise httpcore2.ReadTimeout("the answer took too long")

    def body(self) -> bytes:
        return bytes(self._body)


# the deadline of the exchange that this thread is in
_DEADLINE: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def _left(timeout: float | None) -> float | None:
    """Return what is left for one operation of the socket; a time-out of its own for each byte would never end."""
    deadline = _DEADLINE.get()
    if deadline is None:
        return timeout
    if deadline.over():
        raise httpcore2.ReadTimeout("the exchange took too long")
    return deadline.left() if timeout is None else min(timeout, deadline.left())


class _Stream(httpcore2.NetworkStream):
    """A connection whose every operation ends at the deadline of the exchange."""

    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore2.NetworkBackend):
    """Opens such connections."""

    def __init__(self) -> None:
        self._inner = httpcore2.SyncBackend()

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        return _Stream(self._inner.connect_tcp(*args, **kwargs))

    def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        return _Stream(self._inner.connect_unix_socket(*args, **kwargs))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)
