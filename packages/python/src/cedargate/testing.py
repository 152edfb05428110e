"""For the tests of an app: callers that a test names, and decisions that it grants, without a gate.

with fake_gate(gate) as fake:
    fake.allow("viewOrder", 'Order::"7"')
    client.get("/portal/customer/orders/7", headers=fake.headers("alice", tenant="acme", roles=["viewer"]))

The app's own `Gate` stays in place, with its public paths and portals; only what would use the network is replaced. What the test
does not allow is denied. Whether the policies decide so, the gate's own decision tests say.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from ._client import BATCH, AsyncClient, Client
from ._errors import AssertionInvalidError, GateUnavailableError, KeysUnavailableError, QueryRefusedError
from ._verifier import ALGORITHM, TYPE, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ._gate import Gate
    from ._identity import Identity
    from ._query import Entity

__all__ = ["Asked", "FakeGate", "fake_gate"]

# no address: nothing listens on the discard port, and nothing is sent there
NOWHERE: Final = "http://127.0.0.1:9"
ISSUER: Final = "https://gate.test"
AUDIENCE: Final = "https://app.test"
PORTAL: Final = "test"


@dataclass(frozen=True)
class Asked:
    """One query that the app has asked, as the gate would have received it."""

    action: str
    # `Order::"7"`
    resource: str
    attrs: Mapping[str, Any]
    portal: str
    # the caller's name; of a `principal` without an assertion, its reference
    caller: str
    context: Mapping[str, Any]


@dataclass
class FakeGate:
    """The gate of one test. It denies what the test does not allow."""

    header: str
    portal: str
    # every query so far, in order
    asked: list[Asked] = field(default_factory=list)
    # set it to see what the app does without a gate: every request and every query then fails as if nothing answered
    away: bool = False
    _rules: list[Callable[[Asked], bool]] = field(default_factory=list)
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def allow(self, action: str, resource: Entity | str | None = None, *, caller: str | None = None) -> None:
        """Permit an action: on every resource or on one, for every caller or for one."""
        wanted = resource if isinstance(resource, str) or resource is None else _reference(resource.reference())

        def rule(asked: Asked) -> bool:
            return asked.action == action and wanted in {None, asked.resource} and caller in {None, asked.caller}

        self._rules.append(rule)

    def allow_if(self, rule: Callable[[Asked], bool]) -> None:
        """Permit what the function says, by the query as the gate would have received it."""
        self._rules.append(rule)

    def headers(
        self,
        subject: str,
        *,
        tenant: str | None = None,
        roles: Sequence[str] = (),
        portal: str | None = None,
        claims: Mapping[str, Any] | None = None,
        acr: str | None = None,
        amr: Sequence[str] = (),
        lifetime: int = 60,
    ) -> dict[str, str]:
        """Return the header that makes a request of a test client one of this caller. A `lifetime` below zero is an expired one."""
        now = int(time.time())
        auth = {"method": "session", "time": now, "amr": list(amr), "scopes": [], **({"acr": acr} if acr else {})}
        token = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "issuer": PORTAL,
            "issuer_subject": subject,
            "principal_type": "User",
            "portal": portal or self.portal,
            "roles": list(roles),
            "claims": dict(claims or {}),
            "auth": auth,
            "revision": PORTAL,
            "jti": f"{PORTAL}-{now}",
            "iat": min(now, now + lifetime),
            "exp": now + lifetime,
            **({"tenant": tenant} if tenant else {}),
        }
        return {self.header: jwt.encode(token, self._key, ALGORITHM, headers={"kid": PORTAL, "typ": TYPE})}

    def _answer(self, path: str, asked: Mapping[str, Any]) -> Any:
        if self.away:
            raise GateUnavailableError("the test's gate is away")
        if path != BATCH:
            return self._decide(asked)
        return {"decisions": [self._decide({**_shared(asked, item), **item}) for item in asked["requests"]]}

    def _decide(self, query: Mapping[str, Any]) -> dict[str, Any]:
        asked = Asked(
            action=query["action"],
            resource=_reference(query["resource"]),
            attrs=query["resource"].get("attrs", {}) if isinstance(query["resource"], dict) else {},
            portal=query["portal"],
            caller=self._caller(query),
            context=query.get("context", {}),
        )
        self.asked.append(asked)
        allowed = any(rule(asked) for rule in self._rules)
        return {
            "decision": "allow" if allowed else "deny",
            "reason": "permitted" if allowed else "not_permitted",
            "decision_id": f"{PORTAL}-{len(self.asked)}",
            "portal": asked.portal,
            "revision": PORTAL,
            "policies": [],
            "errors": [],
        }

    def _caller(self, query: Mapping[str, Any]) -> str:
        if "token" not in query:
            return _reference(query["principal"])
        try:
            return _FakeVerifier(self).verify(query["token"]).subject
        except AssertionInvalidError as error:
            raise QueryRefusedError(401, "token_invalid", str(error)) from error

    def _public_key(self) -> ec.EllipticCurvePublicKey:
        if self.away:
            raise KeysUnavailableError("the test's gate is away")
        return self._key.public_key()


def _shared(batch: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a batch that are an item's, too; a caller of its own replaces the batch's."""
    callers = {"token", "principal"}
    mine = callers if callers & set(item) else set()
    return {name: value for name, value in batch.items() if name != "requests" and name not in mine}


def _reference(entity: Any) -> str:
    return entity if isinstance(entity, str) else f'{entity["type"]}::"{entity["id"]}"'


class _FakeVerifier(Verifier):
    """Verifies as ever, with the test's key."""

    def __init__(self, fake: FakeGate) -> None:
        super().__init__(NOWHERE, issuer=ISSUER, audience=AUDIENCE)
        self._fake = fake

    def verify(self, assertion: str) -> Identity:
        return self._verified(assertion, self._fake._public_key())  # noqa: SLF001  # its other half

    async def verify_async(self, assertion: str) -> Identity:
        return self.verify(assertion)


class _FakeClient(Client):
    def __init__(self, fake: FakeGate) -> None:
        super().__init__(NOWHERE)
        self._fake = fake

    def _ask(self, path: str, asked: Mapping[str, Any]) -> Any:
        return self._fake._answer(path, asked)  # noqa: SLF001


class _FakeAsyncClient(AsyncClient):
    def __init__(self, fake: FakeGate) -> None:
        super().__init__(NOWHERE)
        self._fake = fake

    async def _ask(self, path: str, asked: Mapping[str, Any]) -> Any:
        return self._fake._answer(path, asked)  # noqa: SLF001


@contextmanager
def fake_gate(gate: Gate) -> Iterator[FakeGate]:
    """Replace what this gate asks over the network until the block ends."""
    fake = FakeGate(gate.header, next(iter(gate.portals or {}), PORTAL))
    real = gate.verifier, gate.client, gate.async_client
    gate.verifier, gate.client, gate.async_client = _FakeVerifier(fake), _FakeClient(fake), _FakeAsyncClient(fake)
    try:
        yield fake
    finally:
        gate.verifier, gate.client, gate.async_client = real
