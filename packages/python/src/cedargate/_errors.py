"""What can go wrong. Every error means that no permission was proven; none of them is an allow."""

from __future__ import annotations


class CedargateError(Exception):
    """The base of all errors of this package."""


class AssertionMissingError(CedargateError):
    """The request carries no assertion: it did not come through the gate, or its path is public."""


class AssertionInvalidError(CedargateError):
    """The assertion does not verify, is expired, or is meant for another app, gate or portal."""


class KeysUnavailableError(CedargateError):
    """The gate's public keys cannot be read now, so that no assertion can be verified."""


class GateUnavailableError(CedargateError):
    """The gate did not answer a query in time, or its answer is not one of its own."""


class QueryRefusedError(CedargateError):
    """The gate refused to decide: the query is malformed, or its credential is not valid."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{status} {code}: {detail}" if detail else f"{status} {code}")
        self.status = status
        self.code = code
        self.detail = detail
