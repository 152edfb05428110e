"""HTTP to the gate: its URL, bounded answers, and connections that belong to one process.

`unix:/path` means a Unix socket. Proxies of the environment and redirects are never used: the gate is beside the app.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

import httpx2

if TYPE_CHECKING:
    import ssl
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

    def _limits(self) -> httpx2.Limits:
        return httpx2.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)

    def sync_client(self) -> httpx2.Client:
        """Return a new client with connections of its own."""
        verify = self.ssl_context if self.ssl_context is not None else True
        transport = httpx2.HTTPTransport(verify=verify, trust_env=False, limits=self._limits(), uds=self.socket)
        return httpx2.Client(
            base_url=self.base,
            transport=transport,
            timeout=self.timeout,
            trust_env=False,
            follow_redirects=False,
        )

    def async_client(self) -> httpx2.AsyncClient:
        """Return a new asynchronous client with connections of its own."""
        verify = self.ssl_context if self.ssl_context is not None else True
        transport = httpx2.AsyncHTTPTransport(verify=verify, trust_env=False, limits=self._limits(), uds=self.socket)
        return httpx2.AsyncClient(
            base_url=self.base,
            transport=transport,
            timeout=self.timeout,
            trust_env=False,
            follow_redirects=False,
        )


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
    """Return the error's text; some of httpx2's have none."""
    return str(error) or type(error).__name__


class BodyTooLargeError(httpx2.HTTPError):
    """The answer is larger than any of the gate's."""


class DeadlineError(httpx2.TimeoutException):
    """The answer was not complete in time."""


class BodyReader:
    """Collects an answer's chunks up to a size and a deadline."""

    def __init__(self, bytes_max: int, deadline: Deadline) -> None:
        self._bytes_max = bytes_max
        self._deadline = deadline
        self._body = bytearray()

    def add(self, chunk: bytes) -> None:
        """Add one chunk; raise where the answer is too large or too slow."""
        self._body += chunk
        if len(self._body) > self._bytes_max:
            raise BodyTooLargeError(f"the answer has more than {self._bytes_max} bytes")
        if self._deadline.over():
            raise DeadlineError("the answer took too long")

    def body(self) -> bytes:
        """Return what was collected."""
        return bytes(self._body)
