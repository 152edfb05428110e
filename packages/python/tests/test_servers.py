"""A client, the real gate and apps in real servers: what reaches the app, and what a client reaches without the gate."""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from support import JWKS, Gate, Key, app, free_port, gate, wait_until

SERVERS = {
    # the app is loaded once, then two processes are forked, each with threads
    "wsgi": ["gunicorn", "--preload", "--workers", "2", "--threads", "4", "--log-level", "warning", "--bind"],
    "asgi": ["uvicorn", "echo_apps:asgi", "--log-level", "warning", "--port"],
}
# no facts about the caller: they lead from a record of the app to one of the gate
CORRELATION = {
    "wsgi": ["HTTP_X_CEDARGATE_DECISION_ID", "HTTP_X_CEDARGATE_REVISION"],
    "asgi": ["x-cedargate-decision-id", "x-cedargate-revision"],
}
WHO = "/portal/customer/who"
ASSERTION = "x-cedargate-assertion"


class Behind:
    """An app behind a gate."""

    def __init__(self, kind: str, running: Gate, port: int) -> None:
        self.kind = kind
        self.gate = running
        self.port = port
        self.app = f"http://127.0.0.1:{port}"

    def get(self, path: str, subject: str = "alice", **claims: Any) -> httpx2.Response:
        headers = self.gate.authorization(subject, ["viewer"], **claims)
        return httpx2.get(self.gate.proxy + path, headers=headers)

    def raw(self, *lines: str, method: str = "GET", path: str = WHO) -> int:
        """Return the status of a request that is sent to the app as it is written here."""
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: app", "Connection: close", *lines, "", ""])
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(head.encode("latin-1"))
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        return int(answer.split(b" ", 2)[1])


def command(kind: str, port: int) -> list[str]:
    if kind == "wsgi":
        return [*SERVERS[kind], f"127.0.0.1:{port}", "echo_apps:wsgi"]
    return [*SERVERS[kind], str(port)]


@contextlib.contextmanager
def behind(kind: str, folder: Any, **more: Any) -> Iterator[Behind]:
    port = free_port()
    with gate(folder, port, **more) as running, app(command(kind, port), port, running, kind):
        yield Behind(kind, running, port)


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    with behind(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


def assertion_of(server: Behind, portal: str = "customer") -> str:
    """Return an assertion as the gate sends it: a recording app in the app's place gets it."""
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as recorder:
        port = recorder.getsockname()[1]
        folder = server.gate.folder / f"other-{port}"
        with (
            gate(
                folder,
                port,
                (server.gate.folder / "assertion.pem").read_text() if (server.gate.folder / "assertion.pem").exists() else None,
            ) as other,
            ThreadPoolExecutor(1) as pool,
        ):
            asked = pool.submit(
                lambda: httpx2.get(other.proxy + f"/portal/{portal}/x", headers=other.authorization("alice", ["viewer", "admin"]))
            )
            connection, _ = recorder.accept()
            with connection:
                request = connection.recv(65536).decode("latin-1")
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            asked.result()
        seen = [line.split(": ", 1)[1] for line in request.split("\r\n") if line.lower().startswith(ASSERTION + ":")]
    return seen[0]


def test_a_token_through_the_gate_is_the_caller(server: Behind) -> None:
    answer = server.get(WHO)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["subject"], answer.json()["headers"]) == ("alice", CORRELATION[server.kind])
    assert server.get(WHO, "zoë").json()["subject"] == "zoë"


def test_headers_of_a_client_are_removed_by_the_gate(server: Behind) -> None:
    spoofed = {
        "x-forwarded-user": "admin",
        "x_forwarded_user": "admin",
        ASSERTION: "x",
        "x_cedargate_assertion": "x",
        "x-cedargate-roles": "admin",
    }
    answer = httpx2.get(server.gate.proxy + WHO, headers={**spoofed, **server.gate.authorization("alice", ["viewer"])})
    assert (answer.status_code, answer.json()["subject"], answer.json()["headers"]) == (200, "alice", CORRELATION[server.kind])


def test_a_client_that_reaches_the_app_without_the_gate_is_nobody(server: Behind) -> None:
    token = server.gate.token("alice", ["viewer"])
    for lines in (
        [],
        ["X-Forwarded-User: admin", "X-Cedargate-Roles: admin", "X-Cedargate-Tenant: acme", "X-Cedargate-Portal: customer"],
        [f"X-Cedargate-Assertion: {token}"],
        [f"X_Cedargate_Assertion: {token}"],
        ["X-Cedargate-Assertion: "],
        ["X-Cedargate-Assertion: a.b.c"],
        ["X-Cedargate-Assertion: ä.b.c"],
        [f"Authorization: Bearer {token}"],
    ):
        assert server.raw(*lines) in {400, 401}, lines


def test_an_assertion_of_another_app_or_gate_is_refused(server: Behind, tmp_path: Any) -> None:
    # another gate: another key. The same name, and so the same `iss`
    assert server.raw(f"X-Cedargate-Assertion: {assertion_of(server)}") == 401


def test_an_assertion_counts_once_in_one_header_below_its_portal(tmp_path: Any) -> None:
    key = Key("")
    for kind in SERVERS:
        folder = tmp_path / kind
        with behind(kind, folder, key_pem=key.pem()) as server:
            key.kid = httpx2.get(server.gate.decision + JWKS).json()["keys"][0]["kid"]
            # the key is the gate's own, the audience another app's
            assert server.raw(f"X-Cedargate-Assertion: {assertion_of(server)}") == 401
            now = int(time.time())
            claims = {
                "iss": "https://shop.example.com",
                "aud": server.app,
                "sub": "alice",
                "portal": "customer",
                "iat": now,
                "exp": now + 60,
            }
            true = key.sign(claims, typ="cedargate-assertion+jwt")
            assert server.raw(f"X-Cedargate-Assertion: {true}") == 200
            assert server.raw(f"x-cedargate-assertion: {true}", f"X-Cedargate-Assertion: {true}") in {400, 401}
            assert server.raw(f"X-Cedargate-Assertion: {true}", "X_Cedargate_Assertion: x") in {200, 400, 401}
            assert server.raw("X_Cedargate_Assertion: x", f"X-Cedargate-Assertion: {true}") in {200, 400, 401}
            expired = key.sign({**claims, "exp": now - 10}, typ="cedargate-assertion+jwt")
            assert server.raw(f"X-Cedargate-Assertion: {expired}") == 401
            for path in (
                "/portal/admin/accounts",
                "/portal/customerx",
                "/portal/customer/../admin",
                "/portal/admin/../customer",
                "/",
            ):
                assert server.raw(f"X-Cedargate-Assertion: {true}", path=path) in {400, 401}, path
            key = Key("")


def test_a_public_path_has_a_caller_only_with_an_assertion(server: Behind) -> None:
    path = "/portal/customer/assets/who"
    anonymous = httpx2.get(server.gate.proxy + path, headers={"x-forwarded-user": "admin"})
    assert (anonymous.status_code, anonymous.json()["subject"]) == (200, None)
    assert server.get(path).json()["subject"] == "alice"
    assert server.raw("X-Forwarded-User: admin", path=path) == 200
    assert server.raw(method="POST", path=path) == 401
    assert server.raw("X-Cedargate-Assertion: x", path=path) == 401
    for sneaky in (
        "/portal/customer/assets/../who",
        "/portal/customer/assets/..%2fwho",
        "/portal/customer/assets//who",
        "//portal/customer/assets/who",
    ):
        assert server.raw(path=sneaky) in {400, 401, 404}, sneaky


def test_threads_and_processes_ask_about_their_own_caller(server: Behind) -> None:
    def ask(number: int) -> tuple[int | None, bool]:
        caller = f"user-{number % 7}"
        owner = caller if number % 2 else "someone"
        answer = server.get(f"/portal/customer/orders/{owner}", caller)
        if server.kind == "asgi":
            assert answer.status_code == (200 if number % 2 else 403)
            return None, True
        body = answer.json()
        assert (body["subject"], body["allowed"]) == (caller, bool(number % 2))
        return body["pid"], True

    with ThreadPoolExecutor(12) as pool:
        done = list(pool.map(ask, range(120)))
    if server.kind == "wsgi":
        assert len({pid for pid, _ in done}) == 2, "both processes answered"


def is_served(server: Behind) -> bool:
    return server.get(WHO).status_code == 200


def test_the_gate_restarts_with_another_key_and_goes_away(tmp_path: Any) -> None:
    for kind in SERVERS:
        with behind(kind, tmp_path / kind) as server:
            assert server.get(WHO).status_code == 200
            running = server.gate.process
            running.terminate()
            running.wait(20)
            # the app still knows the keys, and there is no gate to ask
            assert server.raw() == 401
            restarted = [str(item) for item in running.args]  # type: ignore[union-attr]
            from support import answers, process

            with process(restarted, server.gate.folder / "gate.log"):
                wait_until("the gate is back", answers(f"{server.gate.admin}/readyz"))
                # it has made itself another key; the app reads it at its first use
                wait_until("the new key counts", functools.partial(is_served, server))


def test_fastapi_asks_before_the_endpoint_runs(server: Behind) -> None:
    if server.kind != "asgi":
        return
    assert server.get("/portal/customer/orders/alice").json() == {"edited": "alice"}
    denied = server.get("/portal/customer/orders/bob")
    assert (denied.status_code, denied.json()["code"]) == (403, "not_permitted")
    assert denied.headers["content-type"] == "application/problem+json"
    assert denied.json()["decision_id"] in {record.get("decision_id") for record in server.gate.decisions()}
    assert server.get("/portal/customer/products/tea").status_code == 200
    assert server.get("/portal/customer/required/alice").json() == {"policies": ["owners-change-their-orders"]}
    assert server.get("/portal/customer/required/bob").status_code == 403
    assert server.get("/portal/customer/blocking/alice").json() == {"allowed": True}
    assert server.get("/portal/customer/blocking/bob").json() == {"allowed": False}
    assert server.get("/portal/customer/mistaken").status_code == 500
    assert httpx2.get(server.gate.proxy + "/portal/customer/assets/private").status_code == 401
    assert server.get("/portal/customer/assets/private").json()["subject"] == "alice"


def test_a_websocket_without_an_assertion_is_closed_before_it_opens(server: Behind) -> None:
    if server.kind != "asgi":
        return
    from fastapi.testclient import TestClient
    from starlette.websockets import WebSocketDisconnect

    import cedargate.asgi

    async def never(*_: Any) -> None:
        raise AssertionError("the app was reached")

    made = cedargate.Gate(server.gate.decision, issuer="https://shop.example.com", audience=server.app)
    client = TestClient(cedargate.asgi.GateMiddleware(never, made))
    for headers in ({}, {ASSERTION: "x"}):
        with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/portal/customer/socket", headers=headers):
            pass
        assert closed.value.code == 1008
    made.close()


def test_a_dependency_without_the_middleware_denies() -> None:
    import os

    from fastapi.testclient import TestClient

    os.environ |= {"CEDARGATE_APP_URL": "http://127.0.0.1:1", "CEDARGATE_APP_ISSUER": "i", "CEDARGATE_APP_AUDIENCE": "a"}
    from echo_apps import without_middleware

    client = TestClient(without_middleware, raise_server_exceptions=False)
    assert client.get(WHO, headers={"x-forwarded-user": "admin"}).status_code == 500
