"""The caller, as a verified assertion names it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Auth:
    """How and when the caller proved who it is."""

    method: str
    time: int | None = None
    acr: str | None = None
    amr: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Identity:
    """The caller of a request. Only `Verifier` makes one, from an assertion that it has verified."""

    subject: str
    portal: str
    issuer: str
    issuer_subject: str
    principal_type: str
    tenant: str | None
    roles: frozenset[str]
    auth: Auth
    revision: str
    token_id: str
    issued_at: int
    expires_at: int
    credential_expires_at: int | None
    claims: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    # the assertion itself, to hand back to `/authorize`; never printed
    assertion: str = field(default="", repr=False, compare=False)
