"""The two back ends of the demo shop behind the real gate: the same requests get the same answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from support import EXAMPLES, PROGRAM, TREE, Gate, app, app_environment, free_port, gate

TEA = {"items": [{"product": "tea", "quantity": 2}]}
SERVERS = {
    "django": ["gunicorn", "--preload", "--workers", "2", "--threads", "4", "--log-level", "warning", "--bind"],
    "fastapi": ["uvicorn", "shop_api:app", "--log-level", "warning", "--port"],
}
PEOPLE: dict[str, dict[str, Any]] = {
    "alice": {"roles": ["viewer"]},
    "bob": {"roles": ["editor"]},
    "gina": {"roles": ["editor"], "tenant": "globex"},
    "olaf": {"roles": ["auditor"]},
    "ada": {"roles": ["admin"]},
    "ada with a second factor": {"roles": ["admin"], "amr": ["pwd", "mfa"]},
    "nemo": {"roles": []},
}


class Shop:
    """A back end behind its gate."""

    def __init__(self, running: Gate, port: int) -> None:
        self.gate = running
        self.app = f"http://127.0.0.1:{port}"

    def ask(self, person: str, method: str, path: str, body: Any = None) -> httpx2.Response:
        headers = self.gate.authorization(person.split(" ", maxsplit=1)[0], **PEOPLE[person])
        return httpx2.request(method, f"{self.gate.proxy}/portal/{path}", headers=headers, json=body, timeout=30)


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Shop]]:
    folder = tmp_path_factory.mktemp("shops")
    ports = {"django": free_port(), "fastapi": free_port()}
    with (
        gate(folder / "django", ports["django"]) as for_django,
        gate(folder / "fastapi", ports["fastapi"]) as for_fastapi,
    ):
        environment = {**os.environ, **app_environment(for_django), "SHOP_DATA": str(folder)}
        os.environ["SHOP_DATA"] = str(folder)
        for command in (["migrate", "--run-syncdb", "--verbosity", "0"], ["seed"]):
            subprocess.run([sys.executable, "manage.py", *command], cwd=EXAMPLES / "django", env=environment, check=True)
        django = [*SERVERS["django"], f"127.0.0.1:{ports['django']}", "shop.wsgi"]
        fastapi = [*SERVERS["fastapi"], str(ports["fastapi"])]
        with (
            app(django, ports["django"], for_django, "app", EXAMPLES / "django"),
            app(fastapi, ports["fastapi"], for_fastapi, "app", EXAMPLES / "fastapi"),
        ):
            yield {"django": Shop(for_django, ports["django"]), "fastapi": Shop(for_fastapi, ports["fastapi"])}


def comparable(response: httpx2.Response) -> tuple[int, str, Any]:
    """Return what both back ends must agree on: times and ids of decisions are their own, and so are the words of an error."""
    kind = response.headers.get("content-type", "").split(";")[0]
    text = re.sub(r'"created_at":\s*"2[^"]*Z"', '"created_at":"…"', response.text)
    body = httpx2.Response(200, text=text).json() if text else None
    if isinstance(body, dict) and "status" in body and response.status_code >= 400:
        assert body["status"] == response.status_code
        assert isinstance(body["title"], str)
        body = "a problem"
    return response.status_code, kind, body


def both(shops: dict[str, Shop], person: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    answers = {name: comparable(shop.ask(person, method, path, body)) for name, shop in shops.items()}
    assert answers["django"] == answers["fastapi"], (person, method, path)
    status, kind, answered = answers["django"]
    if status != 204:
        assert kind == ("application/json" if status < 400 else "application/problem+json"), (person, method, path)
    return status, answered


def test_a_walk_through_the_customer_portal(shops: dict[str, Shop]) -> None:
    status, answer = both(shops, "alice", "GET", "customer/products")
    tea = {"id": "tea", "name": "Tea", "price": 450, "currency": "EUR"}
    assert (status, answer["products"][0]) == (200, tea)
    assert both(shops, "alice", "GET", "customer/products/tea") == (200, tea)
    assert both(shops, "alice", "GET", "customer/products/gold")[0] == 404

    status, answer = both(shops, "alice", "GET", "customer/orders")
    seven = {"id": "7", "tenant": "acme", "owner": "alice", "status": "open", "items": TEA["items"], "total": 900}
    seven |= {"currency": "EUR", "created_at": "…"}
    assert (status, answer) == (200, {"orders": [seven]})
    assert both(shops, "alice", "POST", "customer/orders", TEA)[0] == 403, "the gate lets only editors place orders"

    cups = {"items": [{"product": "cup", "quantity": 1}, {"product": "tea", "quantity": 3}]}
    status, order = both(shops, "bob", "POST", "customer/orders", cups)
    assert (status, order["owner"], order["tenant"], order["total"], order["status"]) == (201, "bob", "acme", 2550, "open")
    path = f"customer/orders/{order['id']}"
    assert both(shops, "bob", "GET", path) == (200, order)
    assert both(shops, "alice", "GET", path) == (200, order), "a colleague views"
    assert both(shops, "alice", "PUT", path, TEA)[0] == 403, "and changes nothing"
    assert both(shops, "alice", "DELETE", path)[0] == 403
    status, edited = both(shops, "bob", "PUT", path, TEA)
    assert (status, edited["total"], edited["items"]) == (200, 900, TEA["items"])
    assert both(shops, "bob", "DELETE", path) == (204, None)
    assert both(shops, "bob", "GET", path)[1]["status"] == "cancelled"
    assert both(shops, "bob", "PUT", path, TEA)[0] == 403, "a cancelled order stays"
    assert [order["id"] for order in both(shops, "bob", "GET", "customer/orders")[1]["orders"]] == ["7", order["id"]]


def test_tenants_do_not_meet(shops: dict[str, Shop]) -> None:
    assert [order["id"] for order in both(shops, "gina", "GET", "customer/orders")[1]["orders"]] == ["8"]
    for method, body in (("GET", None), ("PUT", TEA), ("DELETE", None)):
        assert both(shops, "gina", method, "customer/orders/7", body)[0] == 403
        assert both(shops, "alice", method, "customer/orders/8", body)[0] == 403
    assert both(shops, "nemo", "GET", "customer/orders")[0] == 403


def test_a_walk_through_the_admin_portal(shops: dict[str, Shop]) -> None:
    alice = {"id": "a1", "user": "alice", "tenant": "acme", "email": "alice@acme.example", "status": "active"}
    for person in ("olaf", "ada"):
        status, answer = both(shops, person, "GET", "admin/accounts")
        assert (status, [account["id"] for account in answer["accounts"]]) == (200, ["a1", "a2"])
        assert both(shops, person, "GET", "admin/accounts/a1") == (200, alice)
        assert both(shops, person, "GET", "admin/accounts/g1")[0] == 403
    for person in ("alice", "bob", "gina", "nemo"):
        assert both(shops, person, "GET", "admin/accounts")[0] == 403
    suspend = "admin/accounts/a1/suspend"
    assert both(shops, "olaf", "POST", suspend)[0] == 403
    assert both(shops, "ada", "POST", suspend)[0] == 403, "not without a second factor"
    mfa = "ada with a second factor"
    assert both(shops, mfa, "POST", suspend) == (200, {**alice, "status": "suspended"})
    assert both(shops, mfa, "POST", "admin/accounts/a2/suspend")[0] == 403, "not one's own account"
    assert both(shops, mfa, "POST", "admin/accounts/g1/suspend")[0] == 403
    assert both(shops, mfa, "POST", "admin/accounts/none/suspend")[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        [],
        "tea",
        {"items": []},
        {"items": [{}]},
        {"items": "tea"},
        {"items": [{"product": "gold", "quantity": 1}]},
        {"items": [{"product": "tea", "quantity": 0}]},
        {"items": [{"product": "tea", "quantity": 101}]},
        {"items": [{"product": "tea", "quantity": "2"}]},
        {"items": [{"product": "tea", "quantity": True}]},
        {"items": [{"product": "tea", "quantity": 1.5}]},
        {"items": [{"product": "tea", "quantity": 1, "price": 0}]},
        {"items": [{"product": "tea", "quantity": 1}], "owner": "alice"},
        {"items": [{"product": "tea", "quantity": 1}], "tenant": "globex"},
        {"items": [{"product": "tea", "quantity": 1}] * 51},
    ],
)
def test_a_body_that_is_no_order_is_a_problem(shops: dict[str, Shop], body: Any) -> None:
    assert both(shops, "bob", "POST", "customer/orders", body)[0] == 422


def test_unknown_paths_and_methods(shops: dict[str, Shop]) -> None:
    for path in ("customer/orders/999", "customer/orders/x", "customer/nowhere", "customer/orders/7/nowhere"):
        assert both(shops, "alice", "GET", path)[0] == 404, path


def test_without_the_gate_there_is_no_shop(shops: dict[str, Shop]) -> None:
    spoofed = {"x-forwarded-user": "ada", "x-cedargate-tenant": "acme", "x-cedargate-roles": "admin", "x-cedargate-portal": "admin"}
    for name, shop in shops.items():
        token = shop.gate.authorization("ada", ["admin"])
        for headers in ({}, spoofed, token, {"x-cedargate-assertion": token["authorization"][7:]}):
            for path in ("customer/orders", "customer/products", "admin/accounts"):
                answer = httpx2.get(f"{shop.app}/portal/{path}", headers=headers)
                assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json"), (name, path)


def test_many_callers_at_once_get_their_own_orders(shops: dict[str, Shop]) -> None:
    def ask(number: int) -> set[str]:
        shop = shops["django" if number % 2 else "fastapi"]
        person, tenant = ("gina", "globex") if number % 3 else ("alice", "acme")
        answer = shop.ask(person, "GET", "customer/orders")
        return {order["tenant"] for order in answer.json()["orders"]} ^ {tenant}

    with ThreadPoolExecutor(12) as pool:
        assert set().union(*pool.map(ask, range(120))) == set()


def test_the_examples_policies_are_valid_and_tested() -> None:
    for command in (["validate", "--deny-warnings"], ["test"], ["lint"]):
        done = subprocess.run([str(PROGRAM), *command, "."], cwd=TREE, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
