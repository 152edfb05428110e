"""The gate's public keys: a cache of its JWKS.

Keys count for `MAX_AGE`; then one caller reads them again while the others go on with the old ones. An unknown `kid` causes
one read, at most every `PAUSE`. If the gate does not answer, the old keys count until `STALE_MAX`, then none do: no assertion
can be verified, and every request is denied.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

from ._errors import KeysUnavailableError
from ._transport import FAILURES, Deadline, PerProcess, Request, cause

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpcore2

    from ._transport import Endpoint

PATH: Final = "/.well-known/cedargate/jwks.json"
MAX_AGE: Final = 60.0
STALE_MAX: Final = 300.0
PAUSE: Final = 2.0
BYTES_MAX: Final = 64 * 1024
KEYS_MAX: Final = 32


@dataclass(frozen=True)
class _Read:
    keys: dict[str, EllipticCurvePublicKey]
    at: float


@dataclass
class _State:
    """What one process knows. `lock` is held while one thread reads the keys."""

    lock: threading.Lock
    http: httpcore2.ConnectionPool
    read: _Read | None = None
    tried_at: float = -1e9
    failure: str = ""


class Keys:
    """The public keys of one gate, shared by all threads."""

    def __init__(self, endpoint: Endpoint, clock: Callable[[], float] = time.monotonic) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._state = PerProcess(lambda: _State(threading.Lock(), endpoint.pool()))

    def cached(self, kid: str) -> EllipticCurvePublicKey | None:
        """Return the key if it is known and fresh; never waits."""
        read = self._state.get().read
        if read is None or self._clock() - read.at > MAX_AGE:
            return None
        return read.keys.get(kid)

    def get(self, kid: str) -> EllipticCurvePublicKey | None:
        """Return the key, `None` if the gate has none of that name. May wait for the gate."""
        state = self._state.get()
        if (found := self.cached(kid)) is not None:
            return found
        usable = state.read is not None and kid in state.read.keys and self._clock() - state.read.at <= STALE_MAX
        # a thread that has a usable key does not wait for the one that reads
        if state.lock.acquire(blocking=not usable, timeout=-1 if usable else self._endpoint.timeout + 1):
            try:
                if self.cached(kid) is None and self._clock() - state.tried_at >= PAUSE:
                    self._read(state)
            finally:
                state.lock.release()
        read = state.read
        if read is None or self._clock() - read.at > STALE_MAX:
            raise KeysUnavailableError(state.failure or "the gate's keys could not be read in time")
        return read.keys.get(kid)

    def close(self) -> None:
        """Close the connections."""
        if (state := self._state.taken()) is not None:
            state.http.close()

    def _read(self, state: _State) -> None:
        state.tried_at = self._clock()
        try:
            keys = _parse(self._fetch(state.http))
        except (*FAILURES, ValueError) as error:
            state.failure = f"the gate's keys cannot be read: {cause(error)}"
            return
        # INVARIANT: one assignment, so that no thread sees new keys with an old time
        state.read = _Read(keys, self._clock())
        state.failure = ""

    def _fetch(self, pool: httpcore2.ConnectionPool) -> bytes:
        status, body = self._endpoint.exchange(pool, Request("GET", PATH, BYTES_MAX), Deadline(self._endpoint.timeout))
        if status != HTTPStatus.OK:
            raise ValueError(f"status {status}")
        return body


def _parse(body: bytes) -> dict[str, EllipticCurvePublicKey]:
    """Return the set's P-256 keys by `kid`; raise `ValueError` for a set that could be read in two ways."""
    document = json.loads(body)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > KEYS_MAX:
        raise ValueError("this is no JWKS")
    keys: dict[str, EllipticCurvePublicKey] = {}
    for item in listed:
        found = _key(item)
        if found is None:
            continue
        kid, key = found
        if kid in keys:
            raise ValueError(f"two keys have the id `{kid}`")
        keys[kid] = key
    if not keys:
        raise ValueError("the JWKS has no ES256 key")
    return keys


def _key(item: Any) -> tuple[str, EllipticCurvePublicKey] | None:
    if not isinstance(item, dict) or item.get("kty") != "EC" or item.get("crv") != "P-256":
        return None
    kid = item.get("kid")
    if not isinstance(kid, str) or not kid or item.get("use", "sig") != "sig" or item.get("alg", "ES256") != "ES256":
        return None
    try:
        key = jwt.PyJWK({"kty": "EC", "crv": "P-256", "x": item.get("x"), "y": item.get("y")}, "ES256").key
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise ValueError(f"the key `{kid}` cannot be read") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        return None
    return kid, key
