"""Apps that were there before the gate: a Django project with its own user model, and a FastAPI app of several parts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import cedargate
from cedargate import Entity
from cedargate.fastapi import CurrentGate, CurrentIdentity, Permitted, answer_refusals, install, require
from cedargate.testing import FakeGate, fake_gate
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from support import PACKAGE, Gate, answers, app_environment, free_port, gate, process, wait_until

DESK = Path(__file__).parent / "helpdesk"
SERVERS = {
    "wsgi": ["gunicorn", "--log-level", "warning", "desk.wsgi", "--bind"],
    "asgi": ["uvicorn", "desk.asgi:application", "--log-level", "warning", "--lifespan", "off", "--port"],
}


def manage(*args: str, **environment: str) -> str:
    """Run a command of the project, with every warning an error."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(PACKAGE / "src"), **environment}
    env.pop("DJANGO_SETTINGS_MODULE", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "manage.py", *args], cwd=DESK, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_projects_own_tests_need_no_gate(tmp_path: Path) -> None:
    said = manage("test", DESK_DATA=str(tmp_path))
    assert "Ran 9 tests" in said
    # commands know nothing of the gate, and need none
    assert manage("migrate", "-v0", "--run-syncdb", DESK_DATA=str(tmp_path)) == ""
    assert manage("count", DESK_DATA=str(tmp_path)) == "0\n"


@contextmanager
def desk(kind: str, running: Gate, port: int) -> Iterator[None]:
    environment = {**app_environment(running), "DJANGO_SETTINGS_MODULE": "desk.settings", "DESK_DATA": str(running.folder)}
    manage("migrate", "-v0", "--run-syncdb", **environment)
    address = f"127.0.0.1:{port}" if kind == "wsgi" else str(port)
    log = running.folder / "desk.log"
    with process([sys.executable, "-m", *SERVERS[kind], address], log, environment, DESK) as server:
        up = answers(f"http://127.0.0.1:{port}/up")
        wait_until("the desk answers", lambda: server.poll() is not None or up())
        assert server.poll() is None, log.read_text()
        yield


@pytest.mark.parametrize("kind", SERVERS)
def test_the_project_behind_the_gate(kind: str, tmp_path: Path) -> None:
    port = free_port()
    with gate(tmp_path, port) as running, desk(kind, running, port):
        with httpx2.Client(base_url=running.proxy, headers=running.authorization("alice", ["viewer"])) as alice:
            assert alice.get("/portal/customer/who/").json() == {"user": "alice", "may": False, "https": False}
            command = "from tickets.models import *; Ticket(tenant='acme', owner_id=1, title='Tea').save()"
            manage("shell", "-v0", "-c", command, DESK_DATA=str(running.folder))
            assert alice.get("/portal/customer/api/tickets/").json() == [{"id": 1, "title": "Tea", "owner": 1}]
            assert alice.get("/portal/customer/api/tickets/1/").status_code == 200
            for page in ("", "async/", "wrapped/"):
                assert alice.get(f"/portal/customer/tickets/1/{page}").json()["title"] == "Tea", page
            # a form with Django's own protection: the gate passes its cookie on
            form = "/portal/customer/orders/1"
            assert alice.put(form, data={"title": "Cup"}).status_code == 403
            alice.get(form)
            token = {"X-CSRFToken": alice.cookies["csrftoken"]}
            # the form again: Django reads the fields of a POST alone
            assert alice.put(form, headers=token).status_code == 200
            # no policy lets a viewer place one: the gate itself stops it
            assert alice.post("/portal/customer/api/tickets/", data={"title": "x"}).json()["code"] == "not_permitted"
        # a worker's task, by the real policies
        task = "from tickets.tasks import close; print(close(1, {!r}, 'acme', ['viewer']))"
        environment = {**app_environment(running), "DESK_DATA": str(running.folder)}
        assert manage("shell", "-v0", "-c", task.format("bob"), **environment) == "False\n"
        bob = httpx2.put(running.proxy + form, headers=running.authorization("bob", ["viewer"]), data={"title": "x"})
        assert bob.status_code == 403
        assert manage("shell", "-v0", "-c", task.format("alice"), **environment) == "True\n"


shop_gate = cedargate.Gate(
    "http://gate.invalid",
    issuer="https://shop.example.com",
    audience="http://127.0.0.1:3000",
    public=["/up"],
    portals={"customer": "/portal/customer"},
)
done: list[Any] = []
orders = APIRouter(prefix="/orders", dependencies=[Permitted("viewProduct", Entity("Product", "catalogue"))])
version = FastAPI()
shop = FastAPI()


async def database() -> dict[str, str]:
    return {"7": "alice"}


async def load(order_id: str, rows: Annotated[dict[str, str], Depends(database)]) -> Entity:
    if order_id not in rows:
        raise HTTPException(404)
    return Entity("Order", order_id, {"owner": Entity("User", rows[order_id])})


async def after(caller: cedargate.Identity, asked: cedargate.Gate) -> None:
    done.append((caller.subject, bool(await asked.async_client.authorize("viewOrder", Entity("Order", "7"), identity=caller))))


@orders.get("/{order_id}", dependencies=[Permitted("viewOrder", load)])
async def order(order_id: str, caller: CurrentIdentity, asked: CurrentGate, tasks: BackgroundTasks) -> dict[str, str]:
    tasks.add_task(after, caller, asked)
    return {"order": order_id, "viewer": caller.subject}


@shop.websocket("/portal/customer/early/{order_id}")
async def early(websocket: WebSocket, caller: CurrentIdentity, _: Annotated[Any, Permitted("viewOrder", load)]) -> None:
    await websocket.accept()
    await websocket.send_text(caller.subject)
    await websocket.close()


@shop.websocket("/portal/customer/late/{order_id}")
async def late(websocket: WebSocket, order_id: str) -> None:
    await websocket.accept()
    await require(websocket, "viewOrder", Entity("Order", order_id))
    await websocket.send_text("allowed")
    await websocket.close()


@version.get("/orders/{order_id}", dependencies=[Permitted("viewOrder", load)])
async def version_order(order_id: str) -> dict[str, str]:
    return {"order": order_id}


install(shop, shop_gate)
answer_refusals(version)
shop.include_router(orders, prefix="/portal/customer")
shop.mount("/portal/customer/v2", version)


@pytest.fixture
def fake() -> Iterator[FakeGate]:
    with fake_gate(shop_gate) as faked:
        yield faked


def test_routers_sub_apps_tasks_and_overridden_dependencies(fake: FakeGate) -> None:
    client, path = TestClient(shop), "/portal/customer/orders/7"
    alice = fake.headers("alice", tenant="acme", roles=["viewer"])
    assert client.get(path).status_code == 401
    assert client.get(path, headers=alice).status_code == 403
    fake.allow("viewProduct")
    assert client.get(path, headers=alice).json()["code"] == "not_permitted"
    fake.allow("viewOrder", Entity("Order", "7"), caller="alice")
    done.clear()
    assert client.get(path, headers=alice).json() == {"order": "7", "viewer": "alice"}
    assert done == [("alice", True)]
    assert client.get("/portal/customer/orders/8", headers=alice).status_code == 404
    bob = fake.headers("bob")
    assert client.get(path, headers=bob).status_code == 403
    # a mounted app has exception handlers of its own
    assert client.get("/portal/customer/v2/orders/7", headers=alice).json() == {"order": "7"}
    denied = client.get("/portal/customer/v2/orders/7", headers=bob)
    assert (denied.status_code, denied.json()["code"]) == (403, "not_permitted")
    shop.dependency_overrides[database] = lambda: {"8": "alice"}
    try:
        assert client.get(path, headers=alice).status_code == 404
    finally:
        shop.dependency_overrides.clear()


def test_a_denied_websocket_is_closed_before_and_after_it_opens(fake: FakeGate) -> None:
    client = TestClient(shop)
    fake.allow("viewOrder", 'Order::"7"', caller="alice")
    alice, bob = fake.headers("alice"), fake.headers("bob")
    for kind, text in (("early", "alice"), ("late", "allowed")):
        with client.websocket_connect(f"/portal/customer/{kind}/7", headers=alice) as socket:
            assert socket.receive_text() == text
        opened = client.websocket_connect(f"/portal/customer/{kind}/7", headers=bob)
        with pytest.raises(WebSocketDisconnect) as closed, opened as socket:
            socket.receive_text()
        assert (closed.value.code, closed.value.reason) == (1008, "not_permitted")


def test_a_fake_gate_denies_what_the_test_does_not_allow(fake: FakeGate) -> None:
    identity = shop_gate.verifier.verify(fake.headers("alice", tenant="acme", roles=["viewer"], acr="mfa")[fake.header])
    assert (identity.subject, identity.tenant, sorted(identity.roles)) == ("alice", "acme", ["viewer"])
    assert (identity.portal, identity.auth.acr) == ("customer", "mfa")
    client, seven = shop_gate.client, Entity("Order", "7", {"status": "open"})
    assert not client.authorize("viewOrder", seven, identity=identity)
    fake.allow("viewOrder", seven, caller="bob")
    fake.allow("editOrder", 'Order::"8"')
    assert not client.authorize("viewOrder", seven, identity=identity)
    assert not client.authorize("editOrder", seven, identity=identity)
    fake.allow_if(lambda asked: asked.attrs.get("status") == "open" and asked.context.get("now") == 1)
    assert client.authorize("viewOrder", seven, identity=identity, context={"now": 1})
    bob = shop_gate.verifier.verify(fake.headers("bob")[fake.header])
    queries = [cedargate.Query("viewOrder", seven), cedargate.Query("viewOrder", seven, identity=bob)]
    assert [bool(decision) for decision in client.authorize_batch(queries, identity=identity)] == [False, True]
    assert [asked.caller for asked in fake.asked[-2:]] == ["alice", "bob"]
    fake.away = True
    with pytest.raises(cedargate.GateUnavailableError):
        client.authorize("viewOrder", seven, identity=bob)


def test_a_fake_gate_takes_only_its_own_assertions_and_leaves_nothing_behind(fake: FakeGate) -> None:
    verifier = shop_gate.verifier
    with pytest.raises(cedargate.AssertionInvalidError, match="expired"):
        verifier.verify(fake.headers("alice", lifetime=-60)[fake.header])
    with fake_gate(shop_gate) as other:
        with pytest.raises(cedargate.AssertionInvalidError):
            shop_gate.verifier.verify(fake.headers("alice")[fake.header])
        old = other.headers("alice")[other.header]
    assert shop_gate.verifier is verifier
    with pytest.raises(cedargate.AssertionInvalidError):
        verifier.verify(old)
    expired = shop_gate.verifier.verify(fake.headers("alice", lifetime=0)[fake.header])
    assert expired.subject == "alice", "within the leeway"
