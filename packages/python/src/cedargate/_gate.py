"""The gate as the app sees it: which assertions count, which paths are public, and the clients that ask it.

Every framework's part calls `admit`; none has rules of its own.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ._client import AsyncClient, Client
from ._errors import (
    AssertionInvalidError,
    AssertionMissingError,
    CedargateError,
    GateUnavailableError,
    KeysUnavailableError,
)
from ._transport import TIMEOUT
from ._verifier import HEADER, Verifier

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from ._identity import Identity

# what the gate sets besides the assertion. An app that reads these would believe a client that reaches it without the gate,
# so the middleware removes them; `Identity` has the same facts, proven.
IDENTITY_HEADERS: Final = frozenset(
    {
        "x-forwarded-user",
        "x-forwarded-email",
        "x-forwarded-groups",
        "x-forwarded-preferred-username",
        "x-forwarded-access-token",
        "x-cedargate-tenant",
        "x-cedargate-roles",
        "x-cedargate-portal",
    }
)
ENVIRONMENT: Final = "CEDARGATE_APP_"
PROBLEM_JSON: Final = "application/problem+json"
log = logging.getLogger("cedargate")


@dataclass(frozen=True)
class Problem:
    """What a refused caller gets (RFC 9457). It names no cause that would help an attacker."""

    status: int
    code: str
    title: str

    def to_json(self) -> dict[str, object]:
        """Return the body."""
        return {
            "type": f"urn:cedargate:app:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
        }


NOT_PERMITTED: Final = Problem(403, "not_permitted", "no policy permits this")
_MISSING: Final = Problem(401, "assertion_missing", "this app answers only behind its gate")
_INVALID: Final = Problem(401, "assertion_invalid", "the gate's assertion does not count here")
_UNAVAILABLE: Final = Problem(503, "gate_unavailable", "the gate cannot be asked now")
_REFUSED: Final = Problem(403, "query_refused", "the gate did not decide this query")


def problem_of(error: CedargateError) -> Problem:
    """Return the answer to a caller whose permission could not be proven, and log the cause, which the answer does not name."""
    problem = _problem(error)
    log.warning("%s: %s", problem.code, error)
    return problem


def _problem(error: CedargateError) -> Problem:
    match error:
        case AssertionMissingError():
            return _MISSING
        case AssertionInvalidError():
            return _INVALID
        case KeysUnavailableError() | GateUnavailableError():
            return _UNAVAILABLE
        case _:
            return _REFUSED


class Gate:
    """One gate. Make one instance at start and share it."""

    def __init__(
        self,
        url: str,
        *,
        issuer: str,
        audience: str,
        portals: Mapping[str, str] | None = None,
        public: Sequence[str] = (),
        header: str = HEADER,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        timeout: float = TIMEOUT,
        leeway: float = 5.0,
        batch: int = 200,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Check the values; an app with wrong ones does not start.

        `url`: the decision listener, `http://127.0.0.1:8901` or `unix:/path`. `issuer`: the gate's `public_url` (or
        `cedargate`). `audience`: this app, as `upstream.url` names it. `portals`: slug to path prefix; if set, an assertion
        counts only below its portal's prefix. `public`: paths that need no caller, a prefix if they end with `/`; only GET
        and HEAD.
        """
        for path in [*public, *(portals or {}).values()]:
            if not path.startswith("/"):
                raise ValueError(f"`{path}` is no path: it does not start with `/`")
        if "/" in public:
            raise ValueError("`public: /` would make every path public")
        self.header = header.lower()
        self.verifier = Verifier(url, issuer=issuer, audience=audience, leeway=leeway, timeout=timeout, ssl_context=ssl_context)
        shared: dict[str, Any] = {"timeout": timeout, "batch": batch, "ssl_context": ssl_context}
        shared |= {"token": token, "token_file": token_file}
        self.client = Client(url, **shared)
        self.async_client = AsyncClient(url, **shared)
        self.portals = dict(portals) if portals is not None else None
        self._public = tuple(public)

    @classmethod
    def from_environment(cls, public: Sequence[str] = (), portals: Mapping[str, str] | None = None) -> Gate:
        """Read `CEDARGATE_APP_URL`, `_ISSUER`, `_AUDIENCE` and, if there is one, `_TOKEN_FILE`."""
        values = {name: os.environ.get(ENVIRONMENT + name, "") for name in ("URL", "ISSUER", "AUDIENCE")}
        missing = [ENVIRONMENT + name for name, value in values.items() if not value]
        if missing:
            raise ValueError(f"these environment variables are not set: {', '.join(missing)}")
        return cls(
            values["URL"],
            issuer=values["ISSUER"],
            audience=values["AUDIENCE"],
            public=public,
            portals=portals,
            token_file=os.environ.get(ENVIRONMENT + "TOKEN_FILE") or None,
        )

    def admit(self, assertions: Sequence[str], method: str, path: str) -> Identity | None:
        """Return the caller, `None` for nobody on a public path; raise for every other request.

        `assertions` are the values of all headers of that name.
        """
        assertion = _only(assertions)
        if not assertion and self.is_public(method, path):
            return None
        return self._at(path, self.verifier.verify(assertion))

    async def admit_async(self, assertions: Sequence[str], method: str, path: str) -> Identity | None:
        """Do the same without blocking the event loop."""
        assertion = _only(assertions)
        if not assertion and self.is_public(method, path):
            return None
        return self._at(path, await self.verifier.verify_async(assertion))

    def is_public(self, method: str, path: str) -> bool:
        """Tell that the path needs no caller. A path that two parsers could read differently is never public."""
        if method not in {"GET", "HEAD"} or not _is_plain(path) or "%" in path or ";" in path:
            return False
        return any(path.startswith(public) if public.endswith("/") else path == public for public in self._public)

    def close(self) -> None:
        """Close the connections of this process."""
        self.verifier.close()
        self.client.close()

    def _at(self, path: str, identity: Identity) -> Identity:
        if self.portals is None:
            return identity
        prefix = self.portals.get(identity.portal)
        if prefix is None or not _is_plain(path) or not f"{path}/".startswith(f"{prefix.rstrip('/')}/"):
            raise AssertionInvalidError(f"an assertion of the portal `{identity.portal}` does not count here")
        return identity


def is_identity_header(name: str) -> bool:
    """Tell that a header is one of the gate's, in any spelling."""
    return name.lower().replace("_", "-") in IDENTITY_HEADERS


def _only(assertions: Sequence[str]) -> str:
    if len(assertions) > 1:
        raise AssertionInvalidError("the request has two assertions")
    return assertions[0] if assertions else ""


def _is_plain(path: str) -> bool:
    """Tell that a prefix of the path is a folder of it: no part leads elsewhere."""
    segments = path.split("/")[1:]
    inner = segments[:-1] if segments and not segments[-1] else segments
    return "\\" not in path and not {"", ".", ".."} & set(inner)
