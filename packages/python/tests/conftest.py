"""Fixtures: a stub in the place of the gate, and one real gate for the tests that only ask it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

import pytest

from cedargate import Verifier
from support import GATE_ISSUER, Gate, Key, Stub, free_port, gate, jwks, plain, stub

AUDIENCE = "http://127.0.0.1:3000"


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Closing:
    """Closes what a test has made."""

    def __init__(self) -> None:
        self.made: list[Closable] = []

    def __call__(self, made: C) -> C:
        self.made.append(made)
        return made


@pytest.fixture
def closing() -> Iterator[Closing]:
    closing = Closing()
    yield closing
    for made in closing.made:
        made.close()


@pytest.fixture
def key() -> Key:
    return Key("k1")


@pytest.fixture
def keys(key: Key) -> Iterator[Stub]:
    """A server that publishes `key`."""
    with stub(plain(jwks(key))) as server:
        yield server


@pytest.fixture
def verifier(keys: Stub) -> Iterator[Verifier]:
    made = Verifier(keys.url, issuer=GATE_ISSUER, audience=AUDIENCE, timeout=10)
    yield made
    made.close()


@pytest.fixture(scope="session")
def asked_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate without an app: for questions."""
    with gate(tmp_path_factory.mktemp("gate"), free_port()) as running:
        yield running
