"""The verifier against forged, foreign and late assertions, and against a server of keys that misbehaves."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from typing import Any

import pytest

from cedargate import (
    AssertionInvalidError,
    AssertionMissingError,
    KeysUnavailableError,
    Verifier,
    _keys,
)
from cedargate._transport import Endpoint
from conftest import AUDIENCE, Closing
from support import GATE_ISSUER, JWKS, Key, Stub, closed, jwks, plain

TYPE = "cedargate-assertion+jwt"


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    usual = {
        "iss": GATE_ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "issuer": "corp",
        "issuer_subject": "alice",
        "principal_type": "User",
        "tenant": "acme",
        "portal": "customer",
        "roles": ["viewer"],
        "revision": "3f2a",
        "claims": {"email": "alice@acme.example"},
        "auth": {"method": "bearer", "time": now, "acr": None, "amr": ["pwd"], "scopes": ["orders"]},
        "jti": "j1",
        "iat": now,
        "exp": now + 60,
        "credential_exp": now + 600,
    }
    return {name: value for name, value in {**usual, **changed}.items() if value != "absent"}


def b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def test_a_verified_assertion_names_the_caller(verifier: Verifier, key: Key) -> None:
    token = key.sign(claims(), typ=TYPE)
    caller = verifier.verify(token)
    assert (caller.subject, caller.tenant, caller.portal, caller.issuer) == ("alice", "acme", "customer", "corp")
    assert caller.roles == {"viewer"}
    assert caller.claims["email"] == "alice@acme.example"
    assert (caller.auth.amr, caller.auth.scopes, caller.auth.acr) == (("pwd",), ("orders",), None)
    assert caller.assertion == token
    assert token not in repr(caller)


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "http://127.0.0.1:3001"},
        {"aud": [AUDIENCE, "http://other.example"]},
        {"aud": "absent"},
        {"iss": "https://another.example"},
        {"iss": "absent"},
        {"exp": int(time.time()) - 60},
        {"exp": "absent"},
        {"exp": "soon"},
        {"exp": True},
        {"iat": int(time.time()) + 3600},
        {"iat": "absent"},
        {"sub": ""},
        {"sub": "absent"},
        {"sub": 7},
        {"portal": "absent"},
        {"portal": ""},
        {"roles": "admin"},
        {"roles": ["viewer", 7]},
        {"tenant": ["acme"]},
        {"claims": ["email"]},
        {"auth": {"method": "bearer", "amr": "mfa"}},
        {"nbf": int(time.time()) + 3600},
    ],
)
def test_other_claims_are_refused(verifier: Verifier, key: Key, changed: dict[str, Any]) -> None:
    with pytest.raises(AssertionInvalidError):
        verifier.verify(key.sign(claims(**changed), typ=TYPE))


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": "at+jwt"},
        {"typ": None},
        {"typ": TYPE, "kid": "unknown"},
        {"typ": TYPE, "kid": ""},
        {"typ": TYPE, "crit": ["exp"]},
        {"typ": TYPE, "epk": {}},
        {"typ": TYPE, "zip": "DEF"},
        {"typ": TYPE, "cty": "JWT"},
    ],
)
def test_other_headers_are_refused(verifier: Verifier, key: Key, header: dict[str, Any]) -> None:
    with pytest.raises(AssertionInvalidError):
        verifier.verify(key.sign(claims(), **header))


def test_a_minted_token_of_the_same_key_is_no_assertion(verifier: Verifier, key: Key) -> None:
    with pytest.raises(AssertionInvalidError, match="no assertion"):
        verifier.verify(key.sign(claims(), typ="at+jwt"))


def test_keys_and_addresses_in_the_header_are_ignored(verifier: Verifier, key: Key, keys: Stub) -> None:
    attacker = Key("k1")
    for pointer in ({"jwk": attacker.jwk()}, {"jku": keys.url + "/evil"}, {"x5u": keys.url + "/evil"}):
        with pytest.raises(AssertionInvalidError):
            verifier.verify(attacker.sign(claims(), typ=TYPE, **pointer))
        assert verifier.verify(key.sign(claims(), typ=TYPE, **pointer)).subject == "alice"
    assert {path for path, _ in keys.asked} == {JWKS}


def test_algorithms_cannot_be_confused(verifier: Verifier, key: Key) -> None:
    body = b64(json.dumps(claims()).encode())
    for algorithm in ("none", "None", "HS256", "ES384", "RS256"):
        head = b64(json.dumps({"alg": algorithm, "typ": TYPE, "kid": "k1"}).encode())
        signatures = [b"", b"x"]
        for secret in (key.public_pem(), json.dumps(key.jwk()).encode(), b""):
            signatures.append(hmac.new(secret, f"{head}.{body}".encode(), hashlib.sha256).digest())
        for signature in signatures:
            with pytest.raises(AssertionInvalidError):
                verifier.verify(f"{head}.{body}.{b64(signature)}")


@pytest.mark.parametrize("text", ["x", "a.b", "a.b.c", "a.b.c.d", "e30.e30.e30", " ", "a" * 100_000, "ä.b.c", "a.b.c\n"])
def test_a_text_that_is_no_token_is_refused(verifier: Verifier, text: str) -> None:
    with pytest.raises(AssertionInvalidError):
        verifier.verify(text)


def test_two_assertions_that_a_server_has_joined_are_refused(verifier: Verifier, key: Key) -> None:
    token = key.sign(claims(), typ=TYPE)
    for joined in (f"{token},{token}", f"{token}, {token}", f" {token}", f"{token} "):
        with pytest.raises(AssertionInvalidError):
            verifier.verify(joined)


def test_no_assertion_has_an_error_of_its_own(verifier: Verifier) -> None:
    with pytest.raises(AssertionMissingError):
        verifier.verify("")


def test_an_assertion_counts_until_it_expires(verifier: Verifier, key: Key, keys: Stub, closing: Closing) -> None:
    late = key.sign(claims(exp=int(time.time()) - 2), typ=TYPE)
    assert verifier.verify(late).subject == "alice", "a few seconds of skew"
    strict = closing(Verifier(keys.url, issuer=GATE_ISSUER, audience=AUDIENCE, leeway=0))
    with pytest.raises(AssertionInvalidError, match="expired"):
        strict.verify(late)


def test_issuer_and_audience_are_needed() -> None:
    for issuer, audience in (("", AUDIENCE), (GATE_ISSUER, "")):
        with pytest.raises(ValueError, match="are needed"):
            Verifier("http://127.0.0.1:1", issuer=issuer, audience=audience)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_keys_are_read_once_and_again_when_they_are_old(keys: Stub, closing: Closing) -> None:
    clock = Clock()
    cache = closing(_keys.Keys(Endpoint(keys.url, timeout=2), clock))
    for _ in range(20):
        assert cache.get("k1") is not None
    assert keys.count(JWKS) == 1
    clock.now += _keys.MAX_AGE + 1
    for _ in range(20):
        assert cache.get("k1") is not None
    assert keys.count(JWKS) == 2


def test_an_unknown_key_causes_one_read_in_a_while(keys: Stub, closing: Closing) -> None:
    clock = Clock()
    cache = closing(_keys.Keys(Endpoint(keys.url, timeout=2), clock))
    assert cache.get("k1") is not None
    clock.now += _keys.PAUSE
    for number in range(50):
        assert cache.get(f"unknown-{number}") is None
    assert keys.count(JWKS) == 2
    # the gate's new key counts as soon as the pause is over
    new = Key("k2")
    keys.answer = plain(jwks(new))
    clock.now += _keys.PAUSE
    assert cache.get("k2") is not None
    assert cache.get("k1") is None, "a removed key counts no more"


def test_old_keys_count_for_a_while_when_the_gate_is_silent(keys: Stub, closing: Closing) -> None:
    clock = Clock()
    cache = closing(_keys.Keys(Endpoint(keys.url, timeout=2), clock))
    assert cache.get("k1") is not None
    keys.answer = keys.hang
    clock.now += _keys.MAX_AGE + 1
    assert cache.get("k1") is not None
    clock.now += _keys.STALE_MAX
    with pytest.raises(KeysUnavailableError):
        cache.get("k1")
    keys.answer = plain(jwks(Key("k1")))
    clock.now += _keys.PAUSE
    assert cache.get("k1") is not None


def test_a_server_of_keys_that_misbehaves_gives_no_key(keys: Stub) -> None:
    good = jwks(Key("k1"))
    bad = {
        "redirect": plain(good, 302, location=keys.url + "/elsewhere"),
        "hang": keys.hang,
        "drip": keys.drip,
        "drip of the head": keys.drip_head,
        "flood": keys.flood,
        "closed": closed,
        "error": plain(good, 500),
        "not found": plain(good, 404),
        "no json": plain(b"<html>"),
        "a list": plain(b"[]"),
        "no keys": plain(b'{"keys": []}'),
        "two of one name": plain(jwks(Key("k1"), Key("k1"))),
        "many": plain(json.dumps({"keys": [Key("k1").jwk()] * 40}).encode()),
        "off the curve": plain(json.dumps({"keys": [{**Key("k1").jwk(), "y": b64(b"\x01" * 32)}]}).encode()),
        "symmetric": plain(json.dumps({"keys": [{"kty": "oct", "k": b64(b"x" * 32), "kid": "k1"}]}).encode()),
        "nothing but private": plain(json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "d": "AA"}]}).encode()),
        "another curve": plain(json.dumps({"keys": [{**Key("k1").jwk(), "crv": "P-384"}]}).encode()),
        "for encryption": plain(json.dumps({"keys": [{**Key("k1").jwk(), "use": "enc"}]}).encode()),
    }
    for name, answer in bad.items():
        keys.answer = answer
        clock = Clock()
        cache = _keys.Keys(Endpoint(keys.url, timeout=0.3), clock)
        began = time.monotonic()
        with pytest.raises(KeysUnavailableError):
            cache.get("k1")
        assert time.monotonic() - began < 5, name
        # a gate that is away costs one time-out in a while, not one for each request
        asked = keys.count(JWKS)
        with pytest.raises(KeysUnavailableError):
            cache.get("k1")
        assert keys.count(JWKS) == asked, name
        clock.now += _keys.PAUSE
        with pytest.raises(KeysUnavailableError):
            cache.get("k1")
        assert keys.count(JWKS) > asked, name
        cache.close()
    assert keys.count("/elsewhere") == 0, "redirects are not followed"


def test_threads_share_one_read_of_the_keys(keys: Stub, key: Key) -> None:
    verifier = Verifier(keys.url, issuer=GATE_ISSUER, audience=AUDIENCE, timeout=20)
    published = keys.answer

    def slowly(handler: Any) -> None:
        time.sleep(0.1)
        published(handler)

    keys.answer = slowly
    seen: list[str] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(25):
                seen.append(verifier.verify(key.sign(claims(sub=f"u{number}"), typ=TYPE)).subject)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(seen) == 16 * 25
    assert keys.count(JWKS) == 1
    verifier.close()


def test_a_thread_with_a_usable_key_does_not_wait_for_the_one_that_reads(keys: Stub, closing: Closing) -> None:
    clock = Clock()
    cache = closing(_keys.Keys(Endpoint(keys.url, timeout=20), clock))
    assert cache.get("k1") is not None
    keys.answer = keys.hang
    clock.now += _keys.MAX_AGE + 1
    reader = threading.Thread(target=cache.get, args=("k1",))
    reader.start()
    while keys.count(JWKS) < 2:
        time.sleep(0.01)
    began = time.monotonic()
    assert cache.get("k1") is not None
    assert time.monotonic() - began < 10
    keys.over.set()
    reader.join()
