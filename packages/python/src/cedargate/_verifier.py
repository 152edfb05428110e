"""Verifies assertions: one algorithm, one type, one issuer, one audience, keys of the gate alone."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread
import jwt

from ._errors import AssertionInvalidError, AssertionMissingError
from ._identity import Auth, Identity
from ._keys import Keys
from ._transport import TIMEOUT, Endpoint

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey


HEADER: Final = "x-cedargate-assertion"
TYPE: Final = "cedargate-assertion+jwt"
ALGORITHM: Final = "ES256"
LENGTH_MAX: Final = 64 * 1024
# members that would change how the token is read; keys and their addresses (`jwk`, `jku`, `x5c`, `x5u`) are ignored
CHANGES_THE_READING: Final = frozenset({"crit", "b64", "zip", "enc", "epk", "cty"})
REQUIRED: Final = ["iss", "aud", "sub", "exp", "iat", "portal"]
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class Verifier:
    """Turns assertions into identities. One instance serves all threads and tasks."""

    def __init__(
        self,
        url: str,
        *,
        issuer: str,
        audience: str,
        leeway: float = 5.0,
        timeout: float = TIMEOUT,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`url` is a listener of the gate; `issuer` its `public_url`; `audience` the app's origin, as `upstream.url` names it."""
        if not issuer or not audience:
            raise ValueError("`issuer` and `audience` are needed: without them, the assertion of another app would count")
        if leeway < 0:
            raise ValueError("`leeway` must not be negative")
        self._keys = Keys(Endpoint(url, timeout, ssl_context))
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway

    def verify(self, assertion: str) -> Identity:
        """Return the identity that the assertion proves. May wait for the gate's keys."""
        kid = _kid(assertion)
        return self._decode(assertion, self._keys.get(kid))

    async def verify_async(self, assertion: str) -> Identity:
        """Do the same without blocking the event loop: the keys are read in a thread."""
        kid = _kid(assertion)
        key = self._keys.cached(kid)
        if key is None:
            key = await anyio.to_thread.run_sync(self._keys.get, kid)
        return self._decode(assertion, key)

    def close(self) -> None:
        """Close the connections."""
        self._keys.close()

    def _verified(self, assertion: str, key: EllipticCurvePublicKey) -> Identity:
        """Check all of it with a key that is not read from the gate, for tests."""
        _kid(assertion)
        return self._decode(assertion, key)

    def _decode(self, assertion: str, key: EllipticCurvePublicKey | None) -> Identity:
        if key is None:
            raise AssertionInvalidError("the assertion's key is none of the gate's")
        try:
            claims = jwt.decode(
                assertion,
                key,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway,
                options={"require": REQUIRED, "strict_aud": True},
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise AssertionInvalidError(f"the assertion does not count: {error}") from error
        return _identity(claims, assertion)


def _kid(assertion: str) -> str:
    """Check everything about the token that needs no key, and return its key's id."""
    if not assertion:
        raise AssertionMissingError("the request has no assertion")
    # two headers that a server has joined have a comma between them
    if len(assertion) > LENGTH_MAX or _COMPACT.fullmatch(assertion) is None:
        raise AssertionInvalidError("the assertion is no compact JWT")
    try:
        header = jwt.get_unverified_header(assertion)
    except (jwt.PyJWTError, ValueError) as error:
        raise AssertionInvalidError("the assertion's header cannot be read") from error
    if header.get("alg") != ALGORITHM or header.get("typ") != TYPE:
        raise AssertionInvalidError(f"the token is no assertion: it is not {ALGORITHM} with the type {TYPE}")
    if not CHANGES_THE_READING.isdisjoint(header):
        raise AssertionInvalidError("the assertion's header has a member that the gate never writes")
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise AssertionInvalidError("the assertion names no key")
    return kid


def _identity(claims: Mapping[str, Any], assertion: str) -> Identity:
    auth = _member(claims, "auth", dict, {})
    return Identity(
        subject=_text(claims, "sub"),
        portal=_text(claims, "portal"),
        issuer=_member(claims, "issuer", str, ""),
        issuer_subject=_member(claims, "issuer_subject", str, ""),
        principal_type=_member(claims, "principal_type", str, ""),
        tenant=_member(claims, "tenant", str, None) or None,
        roles=frozenset(_texts(claims, "roles")),
        auth=Auth(
            method=_member(auth, "method", str, ""),
            time=_member(auth, "time", int, None),
            acr=_member(auth, "acr", str, None),
            amr=tuple(_texts(auth, "amr")),
            scopes=tuple(_texts(auth, "scopes")),
        ),
        revision=_member(claims, "revision", str, ""),
        token_id=_member(claims, "jti", str, ""),
        issued_at=_member(claims, "iat", int, 0),
        expires_at=_member(claims, "exp", int, 0),
        credential_expires_at=_member(claims, "credential_exp", int, None),
        claims=MappingProxyType(_member(claims, "claims", dict, {})),
        assertion=assertion,
    )


def _member(claims: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """Return the claim, or the default where it is absent or null; a claim of another type refuses the assertion."""
    value = claims.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise AssertionInvalidError(f"the claim `{name}` is not of the type {kind.__name__}")
    return value


def _text(claims: Mapping[str, Any], name: str) -> str:
    value: str = _member(claims, name, str, "")
    if not value:
        raise AssertionInvalidError(f"the claim `{name}` is empty")
    return value


def _texts(claims: Mapping[str, Any], name: str) -> Sequence[str]:
    value: list[Any] = _member(claims, name, list, [])
    if not all(isinstance(item, str) for item in value):
        raise AssertionInvalidError(f"the claim `{name}` is no list of strings")
    return value
