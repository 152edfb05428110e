"""Queries and decisions as Python values, and their JSON."""

from __future__ import annotations

import datetime as dt
import decimal
import ipaddress
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ._errors import GateUnavailableError

if TYPE_CHECKING:
    from ._identity import Identity

LONG_MAX: Final = 2**63 - 1
PERMITTED: Final = "permitted"


@dataclass(frozen=True)
class Entity:
    """An entity of a query: its reference, and what the app knows of it.

    As an attribute's value it is a reference alone.
    """

    type: str
    id: str
    attrs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    parents: Sequence[Entity | str] = ()

    def reference(self) -> dict[str, str]:
        """Return type and id."""
        return {"type": self.type, "id": self.id}

    def to_json(self) -> dict[str, Any]:
        """Return the form that `/authorize` reads."""
        out: dict[str, Any] = self.reference()
        if self.attrs:
            out["attrs"] = {name: cedar_value(value) for name, value in self.attrs.items()}
        if self.parents:
            out["parents"] = [parent.reference() if isinstance(parent, Entity) else parent for parent in self.parents]
        return out


EntityLike: TypeAlias = Entity | str | Mapping[str, Any]


@dataclass(frozen=True)
class Query:
    """One query of a batch. Members that are `None` are the batch's own."""

    action: str | None = None
    resource: EntityLike | None = None
    context: Mapping[str, Any] | None = None
    identity: Identity | None = None
    portal: str | None = None
    entities: Sequence[Mapping[str, Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that `/authorize` reads."""
        return members(self)


def members(query: Query, token: str | None = None, principal: EntityLike | None = None) -> dict[str, Any]:
    """Return the members that are there; raise `ValueError` for two callers."""
    callers = [caller for caller in (query.identity, token, principal) if caller is not None]
    if len(callers) > 1:
        raise ValueError("a query has one caller: `identity`, `token` or `principal`")
    out: dict[str, Any] = {}
    if query.portal is not None:
        out["portal"] = query.portal
    if query.identity is not None:
        if not query.identity.assertion:
            raise ValueError("this identity has no assertion, so the gate would take its name on trust")
        out["token"] = query.identity.assertion
        out.setdefault("portal", query.identity.portal)
    if token is not None:
        out["token"] = token
    if principal is not None:
        out["principal"] = _entity(principal)
    if query.action is not None:
        out["action"] = query.action
    if query.resource is not None:
        out["resource"] = _entity(query.resource)
    if query.context is not None:
        out["context"] = {name: cedar_value(value) for name, value in query.context.items()}
    if query.entities is not None:
        out["entities"] = list(query.entities)
    return out


def _entity(entity: EntityLike) -> Any:
    return entity.to_json() if isinstance(entity, Entity) else entity


def cedar_value(value: Any) -> Any:
    """Return a Python value as Cedar's JSON: references, addresses, times and decimals in their own form."""
    match value:
        case bool() | str():
            return value
        case int():
            if not -LONG_MAX - 1 <= value <= LONG_MAX:
                raise ValueError(f"{value} does not fit into Cedar's Long")
            return value
        case Entity():
            return {"__entity": value.reference()}
        case dt.datetime():
            if value.tzinfo is None:
                raise ValueError("a time without a zone could be read in two ways; use an aware datetime")
            utc = value.astimezone(dt.UTC)
            return _extension("datetime", f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03}Z")
        case dt.timedelta():
            return _extension("duration", f"{value // dt.timedelta(milliseconds=1)}ms")
        case decimal.Decimal():
            rounded = value.quantize(decimal.Decimal("0.0001"))
            if rounded != value:
                raise ValueError(f"{value} has more than the four places of Cedar's decimal")
            return _extension("decimal", f"{rounded:f}")
        case ipaddress.IPv4Address() | ipaddress.IPv6Address() | ipaddress.IPv4Network() | ipaddress.IPv6Network():
            return _extension("ip", str(value))
        case Mapping():
            return {name: cedar_value(item) for name, item in value.items()}
        case Sequence() | AbstractSet() if not isinstance(value, bytes | bytearray | memoryview):
            return [cedar_value(item) for item in value]
        case _:
            raise TypeError(f"Cedar has no type for {type(value).__name__}; a price, for example, is a Long of cents")


def _extension(function: str, argument: str) -> dict[str, Any]:
    return {"__extn": {"fn": function, "arg": argument}}


@dataclass(frozen=True)
class Policy:
    """A policy that determined a decision."""

    id: str
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class Decision:
    """The gate's answer to one query. It is true in a condition if it allows."""

    allowed: bool
    reason: str
    decision_id: str
    portal: str
    revision: str
    policies: tuple[Policy, ...] = ()
    # policies that failed to evaluate
    errors: tuple[Mapping[str, str], ...] = ()
    # an item of a batch that could not be decided: why
    detail: str | None = None

    def __bool__(self) -> bool:
        """Return `allowed`, so that `if decision` means what it says."""
        return self.allowed


def decision_from(answer: Any) -> Decision:
    """Read one decision; whatever is not exactly one is an error, never an allow."""
    try:
        verdict, reason = answer["decision"], answer["reason"]
        if (verdict, reason) != ("allow", PERMITTED) and not (verdict == "deny" and reason != PERMITTED):
            raise GateUnavailableError(f"the gate's answer contradicts itself: {verdict!r}, {reason!r}")
        return Decision(
            allowed=verdict == "allow",
            reason=_text(reason),
            decision_id=_text(answer["decision_id"]),
            portal=_text(answer["portal"]),
            revision=_text(answer["revision"]),
            policies=tuple(Policy(_text(item["id"]), item.get("annotations", {})) for item in answer["policies"]),
            errors=tuple(answer["errors"]),
            detail=answer.get("detail"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise GateUnavailableError("the gate's answer is no decision") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
