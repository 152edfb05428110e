"""The snippets of docs/apps.md, taken from the page, built and run: beside the real gate, and beside a server that misbehaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support import GATE_ISSUER, JWKS, REPOSITORY, Key, Stub, closed, free_port, gate, jwks, plain, stub, wait_until

PAGE = REPOSITORY / "docs/apps.md"
LANGUAGES = ("python", "typescript", "go", "java")
AUDIENCE = "http://127.0.0.1:3000"
TYPE = "cedargate-assertion+jwt"
PORTAL = "customer"


def snippet(language: str) -> str:
    section = PAGE.read_text().split("## In your language", 1)[1].split("\n## ", 1)[0]
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"the section has {len(found)} snippets for {language}"
    return found[0]


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    usual = {
        "iss": GATE_ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "issuer": "corp",
        "issuer_subject": "alice",
        "principal_type": "User",
    }
    usual |= {"tenant": "acme", "portal": PORTAL, "roles": ["viewer"], "claims": {}, "revision": "r", "jti": "j"}  # type: ignore[dict-item]
    times = {"iat": now, "exp": now + 60, "credential_exp": now + 600}
    auth = {"method": "bearer", "time": now, "amr": [], "scopes": []}
    return {name: value for name, value in {**usual, **times, "auth": auth, **changed}.items() if value != "absent"}


def order(tenant: str = "acme") -> dict[str, Any]:
    attrs = {
        "tenant": {"__entity": {"type": "Tenant", "id": tenant}},
        "owner": {"__entity": {"type": "User", "id": "alice"}},
        "status": "open",
    }
    return {"type": "Order", "id": "7", "attrs": attrs}


class Program:
    """A running snippet."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self.running = running

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self.running.stdin
        assert self.running.stdout
        self.running.stdin.write(json.dumps(question) + "\n")
        self.running.stdin.flush()
        answer: dict[str, Any] = json.loads(self.running.stdout.readline())
        return answer

    def subject(self, assertion: str) -> str | None:
        answer = self.ask(op="caller", assertion=assertion)
        assert ("subject" in answer) != ("error" in answer)
        return answer.get("subject")

    def may(self, assertion: str, action: str, resource: dict[str, Any]) -> Any:
        return self.ask(op="may", assertion=assertion, action=action, resource=resource).get("allowed")

    def each(self, assertion: str, action: str, *resources: dict[str, Any]) -> Any:
        return self.ask(op="each", assertion=assertion, action=action, resources=list(resources)).get("allowed")


@pytest.fixture(scope="module", params=LANGUAGES)
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    file: Path = tmp_path_factory.mktemp(request.param) / "snippet"
    file.write_text(snippet(request.param))
    build = [str(REPOSITORY / "packages/snippets/build"), request.param, str(file)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@contextmanager
def program(command: list[str], url: str) -> Iterator[Program]:
    settings = {"GATE": url, "ISSUER": GATE_ISSUER, "AUDIENCE": AUDIENCE, "PYTHONPATH": str(REPOSITORY / "packages/python/src")}
    environment = {**os.environ, **settings}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        # a snippet that hangs ends the test, not the run
        timer = threading.Timer(120, running.kill)
        timer.start()
        try:
            yield Program(running)
        finally:
            timer.cancel()
            running.kill()


def test_the_snippet_believes_only_assertions_of_its_gate_for_its_app(command: list[str]) -> None:
    key, attacker = Key("k1"), Key("k1")
    with stub(plain(jwks(key))) as server, program(command, server.url) as running:
        assert running.subject(key.sign(claims(), typ=TYPE)) == "alice"
        late = int(time.time()) - 60
        for changed in (
            {"exp": late},
            {"exp": "absent"},
            {"aud": "http://127.0.0.1:3001"},
            {"aud": "absent"},
            {"iss": "https://other.example.com"},
            {"iss": "absent"},
            {"sub": "absent"},
            {"portal": "absent"},
        ):
            assert running.subject(key.sign(claims(**changed), typ=TYPE)) is None, changed
        for kind in ("JWT", "at+jwt", None):
            assert running.subject(key.sign(claims(), typ=kind)) is None, kind
        assert running.subject(attacker.sign(claims(), typ=TYPE)) is None
        assert running.subject(attacker.sign(claims(), typ=TYPE, jwk=attacker.jwk())) is None
        assert running.subject(attacker.sign(claims(), typ=TYPE, jku=f"{server.url}/evil")) is None
        for algorithm in ("none", "HS256"):
            assert running.subject(confused(key, algorithm)) is None, algorithm
        for text in ("", "x", "a.b.c", key.sign(claims(), typ=TYPE) + "," + key.sign(claims(), typ=TYPE)):
            assert running.subject(text) is None
        assert {path for path, _ in server.asked} == {JWKS}
        # the gate has made itself another key
        new = Key("k2")
        server.answer = plain(jwks(new))
        wait_until("the new key counts", lambda: running.subject(new.sign(claims(), typ=TYPE)) == "alice")


def confused(key: Key, algorithm: str) -> str:
    import base64
    import hashlib
    import hmac

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    head = part(json.dumps({"alg": algorithm, "typ": TYPE, "kid": key.kid}).encode())
    body = part(json.dumps(claims()).encode())
    signature = hmac.new(key.public_pem(), f"{head}.{body}".encode(), hashlib.sha256).digest() if algorithm == "HS256" else b""
    return f"{head}.{body}.{part(signature)}"


def test_the_snippet_asks_the_real_gate(command: list[str], tmp_path: Path) -> None:
    key = Key("")
    with gate(tmp_path, 3000, key.pem()) as running_gate:
        key.kid = httpx2.get(running_gate.decision + JWKS).json()["keys"][0]["kid"]
        with program(command, running_gate.decision) as running:
            assertion = key.sign(claims(), typ=TYPE)
            assert running.subject(assertion) == "alice"
            assert running.may(assertion, "viewOrder", order()) is True
            assert running.may(assertion, "viewOrder", order("globex")) is False
            assert running.may(assertion, "fly", order()) is False
            broken = {"type": "Order", "id": "7", "attrs": {"tenant": "acme"}}
            assert running.each(assertion, "editOrder", order(), order("globex"), broken, order()) == [True, False, False, True]
            assert running.each(assertion, "editOrder") == []
            admin = key.sign(claims(portal="admin"), typ=TYPE)
            assert running.may(admin, "viewOrder", order()) is False
            # every decision is about exactly the caller that the assertion names
            asked = [record for record in running_gate.decisions() if record["kind"] == "decision" and record["principal"]]
            assert {record["principal"]["id"] for record in asked} == {"alice"}


def answered(body: Any) -> bytes:
    return json.dumps(body).encode()


ALLOW = {
    "decision": "allow",
    "reason": "permitted",
    "policies": [],
    "errors": [],
    "decision_id": "d",
    "portal": PORTAL,
    "revision": "r",
}


def misbehaviour(server: Stub) -> dict[str, Any]:
    return {
        "closed": closed,
        "hang": server.hang,
        "drip": server.drip,
        "drip of the head": server.drip_head,
        "redirect": plain(answered(ALLOW), 307, location=f"{server.url}/elsewhere"),
        "error with an allow": plain(answered(ALLOW), 500),
        "refused with an allow": plain(answered(ALLOW), 403),
        "no json": plain(b"allow"),
        "null": plain(b"null"),
        "a list": plain(b"[]"),
        "no decision": plain(b"{}"),
        "deny as permitted": plain(answered({**ALLOW, "decision": "deny"})),
        "allow without its reason": plain(answered({**ALLOW, "reason": "not_permitted"})),
        "a true verdict": plain(answered({**ALLOW, "decision": True})),
        "too few decisions": plain(answered({"decisions": [ALLOW]})),
        "too many decisions": plain(answered({"decisions": [ALLOW] * 3})),
        "decisions that are none": plain(answered({"decisions": [None, {}]})),
    }


def test_the_snippet_denies_when_the_gate_misbehaves(command: list[str]) -> None:
    key = Key("k1")
    keys = plain(jwks(key))
    with stub(keys) as server, program(command, server.url) as running:
        assertion = key.sign(claims(), typ=TYPE)
        assert running.subject(assertion) == "alice"

        def allow(handler: Any) -> None:
            batch = handler.path.endswith("/batch")
            plain(answered({"decisions": [ALLOW, ALLOW]} if batch else ALLOW))(handler)

        for name, how in {"allow": allow, **misbehaviour(server)}.items():
            server.answer = lambda handler, how=how: (keys if handler.path == JWKS else how)(handler)  # type: ignore[misc]
            began = time.monotonic()
            expected = name == "allow"
            assert running.may(assertion, "viewOrder", order()) is expected, name
            assert running.each(assertion, "viewOrder", order(), order()) == [expected, expected], name
            assert time.monotonic() - began < 15, name
        assert server.count("/elsewhere") == 0
        server.over.set()


def test_the_snippet_denies_when_the_gate_is_away(command: list[str]) -> None:
    key = Key("k1")
    with stub(plain(jwks(key))) as server, program(command, server.url) as running:
        assertion = key.sign(claims(), typ=TYPE)
        assert running.subject(assertion) == "alice"
        server.answer = closed
        assert running.may(assertion, "viewOrder", order()) is False
    with program(command, f"http://127.0.0.1:{free_port()}") as running:
        assert running.subject(key.sign(claims(), typ=TYPE)) is None
