"""The app behind cedargate: who calls, and what the caller may do."""

from __future__ import annotations

from ._client import AsyncClient, Client, Pending
from ._errors import (
    AssertionInvalidError,
    AssertionMissingError,
    CedargateError,
    GateUnavailableError,
    KeysUnavailableError,
    QueryRefusedError,
)
from ._gate import Gate
from ._identity import Auth, Identity
from ._query import Decision, Entity, Policy, Query
from ._verifier import Verifier

__all__ = [
    "AssertionInvalidError",
    "AssertionMissingError",
    "AsyncClient",
    "Auth",
    "CedargateError",
    "Client",
    "Decision",
    "Entity",
    "Gate",
    "GateUnavailableError",
    "Identity",
    "KeysUnavailableError",
    "Pending",
    "Policy",
    "Query",
    "QueryRefusedError",
    "Verifier",
]
