"""`authorize` and `authorize_batch`, beside the real gate and beside a server that misbehaves."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import gc
import ipaddress
import json
import multiprocessing
import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cedargate import AsyncClient, Client, Decision, Entity, GateUnavailableError, Query, QueryRefusedError
from cedargate._query import cedar_value
from conftest import Closing
from support import LISTENER_TOKEN, Gate, Stub, closed, free_port, gate, plain, stub

VIEWER = Entity("User", "alice", parents=[Entity("Role", "viewer"), Entity("Tenant", "acme")])


def order(tenant: str = "acme", owner: str = "alice", status: str = "open") -> Entity:
    return Entity("Order", "7", {"tenant": Entity("Tenant", tenant), "owner": Entity("User", owner), "status": status})


def answer(**changed: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "decision": "allow",
        "reason": "permitted",
        "policies": [],
        "errors": [],
        "decision_id": "d",
        "portal": "customer",
    }
    return {**usual, "revision": "r", **changed}


def test_the_gate_decides_about_an_order_that_the_app_describes(asked_gate: Gate, closing: Closing) -> None:
    client = closing(Client(asked_gate.decision, timeout=20))
    token = asked_gate.token("alice", ["viewer"])
    mine = client.authorize("viewOrder", order(), token=token, portal="customer")
    assert mine
    assert (mine.reason, [policy.id for policy in mine.policies]) == ("permitted", ["viewers-view-orders"])
    theirs = client.authorize("viewOrder", order(tenant="globex"), token=token, portal="customer")
    assert not theirs
    assert (theirs.reason, theirs.policies[0].id) == ("forbidden", "tenant-isolation")
    assert theirs.policies[0].annotations["advice"] == "This belongs to another tenant."
    assert not client.authorize("editOrder", order(owner="bob"), token=token, portal="customer")
    assert client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")


def test_a_batch_answers_in_order_and_denies_what_it_cannot_decide(asked_gate: Gate, closing: Closing) -> None:
    client = closing(Client(asked_gate.decision, batch=3))
    queries = [
        Query("viewOrder", order()),
        Query("viewOrder", order(tenant="globex")),
        Query("flyOrder", order()),
        Query("editOrder", order(owner="bob")),
        Query("cancelOrder", order(status="cancelled")),
        Query("viewProduct", Entity("Product", "tea")),
        Query("viewOrder", order(), portal="nowhere"),
    ]
    decisions = client.authorize_batch(queries, token=asked_gate.token("alice", ["viewer"]), portal="customer")
    assert [bool(decision) for decision in decisions] == [True, False, False, False, False, True, False]
    assert decisions[2].reason == "request_invalid"
    assert decisions[2].detail
    assert decisions[6].reason == "portal_unknown"
    assert client.authorize_batch([], token="x", portal="customer") == []


def test_what_the_gate_refuses_to_decide_is_an_error(asked_gate: Gate, closing: Closing) -> None:
    client = closing(Client(asked_gate.decision, timeout=20))
    token = asked_gate.token("alice", ["viewer"])
    usual: dict[str, Any] = {"action": "viewOrder", "resource": order(), "token": token, "portal": "customer"}
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"portal": "nowhere"}, 404, "portal_unknown"),
        ({"token": "x.y.z"}, 401, "token_invalid"),
        ({"token": asked_gate.token("a", [], exp=1)}, 401, "token_expired"),
        ({"action": "fly"}, 400, "request_invalid"),
        ({"resource": Entity("Order", "7", {"owner": 7})}, 400, "request_invalid"),
    ]
    for members, status, code in cases:
        with pytest.raises(QueryRefusedError) as refused:
            client.authorize(**{**usual, **members})
        assert (refused.value.status, refused.value.code) == (status, code)
    with pytest.raises(ValueError, match="caller"):
        client.authorize("viewOrder", order(), portal="customer")
    with pytest.raises(ValueError, match="caller"):
        client.authorize("viewOrder", order(), portal="customer", token=token, principal=VIEWER)
    with pytest.raises(ValueError, match="portal"):
        client.authorize("viewOrder", order(), token=token)


def test_the_listeners_token_and_unix_socket(tmp_path: Path, closing: Closing) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# the app's\n{LISTENER_TOKEN}\n")
    listen = {"decision": {"address": f"unix:{tmp_path}/d.sock", "auth": {"tokens_file": str(tokens)}}}
    with gate(tmp_path / "gate", free_port(), listen={**listen, "proxy": {"address": f"127.0.0.1:{free_port()}"}}) as running:
        asked: dict[str, Any] = {"principal": VIEWER, "portal": "customer"}
        assert closing(Client(running.decision, token_file=tokens)).authorize("viewOrder", order(), **asked)
        assert closing(Client(running.decision, token=LISTENER_TOKEN)).authorize("viewOrder", order(), **asked)
        for token in (None, "another-token-entirely"):
            with pytest.raises(QueryRefusedError) as refused:
                closing(Client(running.decision, token=token)).authorize("viewOrder", order(), **asked)
            assert refused.value.status == 401

        async def ask() -> bool:
            client = AsyncClient(running.decision, token_file=tokens)
            decision = await client.authorize("viewOrder", order(), **asked)
            await client.aclose()
            return bool(decision)

        assert asyncio.run(ask())


def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path, closing: Closing) -> None:
    file = tmp_path / "token"
    file.write_text("first-token\n")
    seen: list[str | None] = []
    with stub() as server:

        def note(handler: Any) -> None:
            seen.append(handler.headers.get("authorization"))
            plain(json.dumps(answer()).encode())(handler)

        server.answer = note
        client = closing(Client(server.url, token_file=file))
        client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
        file.write_text("# newer\nsecond-token\n")
        client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
        assert seen == ["Bearer first-token", "Bearer second-token"]
        for broken in ("", "# only a comment\n"):
            file.write_text(broken)
            with pytest.raises(GateUnavailableError):
                client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
        file.unlink()
        with pytest.raises(GateUnavailableError):
            client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
        assert len(seen) == 2


NOT_AN_ALLOW: dict[str, Any] = {
    "empty object": {},
    "a list": [],
    "true": True,
    "an unknown verdict": answer(decision="maybe"),
    "a verdict that is no string": answer(decision=True),
    "allow without its reason": answer(reason="not_permitted"),
    "deny as permitted": answer(decision="deny"),
    "another portal": answer(portal="admin"),
    "no policies": {name: value for name, value in answer().items() if name != "policies"},
    "policies that are none": answer(policies=[7]),
    "no id": answer(decision_id=None),
}


@pytest.mark.parametrize("name", NOT_AN_ALLOW)
def test_an_answer_that_is_no_decision_is_an_error(name: str, closing: Closing) -> None:
    with stub(plain(json.dumps(NOT_AN_ALLOW[name]).encode())) as server, pytest.raises(GateUnavailableError):
        closing(Client(server.url)).authorize("viewOrder", order(), principal=VIEWER, portal="customer")


@pytest.mark.parametrize(
    "decisions",
    [None, {}, [], [answer()], [answer(), answer(), answer()], [answer(), {}], [answer(), answer(portal="admin")]],
)
def test_a_batch_without_one_decision_for_each_query_is_an_error(decisions: Any, closing: Closing) -> None:
    queries = [Query("viewOrder", order()), Query("editOrder", order())]
    with stub(plain(json.dumps({"decisions": decisions}).encode())) as server, pytest.raises(GateUnavailableError):
        closing(Client(server.url)).authorize_batch(queries, principal=VIEWER, portal="customer")


def misbehaviour(server: Stub) -> dict[str, Callable[[Any], None]]:
    allow = json.dumps(answer()).encode()
    return {
        "closed": closed,
        "hang": server.hang,
        "drip": server.drip,
        "drip of the head": server.drip_head,
        "flood": server.flood,
        "redirect": plain(allow, 307, location=server.url + "/elsewhere"),
        "error": plain(allow, 500),
        "draining": plain(b'{"code":"draining"}', 503),
        "too many": plain(b'{"code":"rate_limited"}', 429),
        "an allow with 403": plain(allow, 403),
        "created": plain(allow, 201),
        "no content": plain(b"", 204),
        "no json": plain(b"allow"),
        "two documents": plain(allow + allow),
    }


def test_a_gate_that_misbehaves_never_allows(closing: Closing) -> None:
    with stub() as server:
        for name, how in misbehaviour(server).items():
            server.answer = how
            client = closing(Client(server.url, timeout=0.3))
            began = time.monotonic()
            with pytest.raises((GateUnavailableError, QueryRefusedError)):
                client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
            assert time.monotonic() - began < 5, name

        async def ask(how: Callable[[Any], None]) -> None:
            server.answer = how
            client = AsyncClient(server.url, timeout=0.3)
            with pytest.raises((GateUnavailableError, QueryRefusedError)):
                await client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
            await client.aclose()

        for name, how in misbehaviour(server).items():
            began = time.monotonic()
            asyncio.run(ask(how))
            assert time.monotonic() - began < 5, name
        assert server.count("/elsewhere") == 0


# httpcore leaves a Unix socket that it cannot connect to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_gate_that_is_away_is_an_error(closing: Closing) -> None:
    with pytest.raises(GateUnavailableError):
        closing(Client(f"http://127.0.0.1:{free_port()}")).authorize("a", order(), principal=VIEWER, portal="p")
    with pytest.raises(GateUnavailableError):
        closing(Client("unix:/nowhere/d.sock")).authorize("a", order(), principal=VIEWER, portal="p")
    # here, and not in a later test
    gc.collect()


def test_a_query_is_sent_again_only_if_its_connection_broke(closing: Closing) -> None:
    allow = plain(json.dumps(answer()).encode())
    with stub() as server:
        tries: list[int] = []

        def second_time(handler: Any) -> None:
            tries.append(1)
            (allow if len(tries) == 2 else closed)(handler)

        server.answer = second_time
        client = closing(Client(server.url, timeout=10))
        assert client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
        assert len(tries) == 2
        # a kept connection that the gate has closed meanwhile, as at its restart
        server.answer = allow
        assert client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
        for status in (500, 503, 429, 400, 401):
            server.asked.clear()
            server.answer = plain(b'{"code":"x"}', status)
            with pytest.raises((GateUnavailableError, QueryRefusedError)):
                client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
            assert len(server.asked) == 1, status
        server.asked.clear()
        server.answer = server.hang
        slow = closing(Client(server.url, timeout=2))
        with pytest.raises(GateUnavailableError):
            slow.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
        assert len(server.asked) == 1


def test_connections_are_kept(closing: Closing) -> None:
    with stub(plain(json.dumps(answer()).encode())) as server:
        client = closing(Client(server.url))
        for _ in range(50):
            assert client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
        assert server.connections == 1

        async def ask() -> None:
            client = AsyncClient(server.url)
            for _ in range(50):
                assert await client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
            await client.aclose()

        asyncio.run(ask())
        assert server.connections == 2
        assert len(server.asked) == 100


def test_threads_and_tasks_get_their_own_answers(asked_gate: Gate, closing: Closing) -> None:
    client = closing(Client(asked_gate.decision, timeout=30))

    def expected(number: int) -> tuple[Entity, bool]:
        return order(tenant="acme" if number % 2 else "globex"), bool(number % 2)

    def ask(number: int) -> bool:
        asked, allowed = expected(number)
        return client.authorize("viewOrder", asked, principal=VIEWER, portal="customer").allowed == allowed

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(400)))

    async def ask_all() -> list[Decision]:
        tasks = AsyncClient(asked_gate.decision, timeout=30)
        asked = (tasks.authorize("viewOrder", expected(number)[0], principal=VIEWER, portal="customer") for number in range(400))
        decisions = await asyncio.gather(*asked)
        await tasks.aclose()
        return decisions

    assert [decision.allowed for decision in asyncio.run(ask_all())] == [expected(number)[1] for number in range(400)]


def test_one_asynchronous_client_serves_several_event_loops(asked_gate: Gate) -> None:
    client = AsyncClient(asked_gate.decision, timeout=20)

    async def ask() -> bool:
        decision = await client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
        await client.aclose()
        return decision.allowed

    assert all(asyncio.run(ask()) for _ in range(3))


def test_a_forgotten_await_cannot_allow(asked_gate: Gate) -> None:
    async def ask() -> None:
        client = AsyncClient(asked_gate.decision, timeout=20)
        with pytest.raises(TypeError, match="not awaited"):
            bool(client.authorize("viewOrder", order(tenant="globex"), principal=VIEWER, portal="customer"))
        await client.aclose()

    asyncio.run(ask())


def _child(client: Client, results: Any, number: int) -> None:
    allowed = number % 2 == 1
    asked = order(tenant="acme" if allowed else "globex")
    same = all(client.authorize("viewOrder", asked, principal=VIEWER, portal="customer").allowed == allowed for _ in range(40))
    results.put((os.getpid(), same))


def test_forked_processes_do_not_share_connections(asked_gate: Gate, closing: Closing) -> None:
    client = closing(Client(asked_gate.decision, timeout=20))
    # the connection exists, and its lock is held, when the children begin
    assert client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
    client._http._lock.acquire()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_child, args=(client, results, number)) for number in range(4)]
    for child in children:
        child.start()
    client._http._lock.release()
    assert all(client.authorize("viewOrder", order(), principal=VIEWER, portal="customer") for _ in range(40))
    done = [results.get(timeout=30) for _ in children]
    for child in children:
        child.join()
    assert all(same for _, same in done)
    assert len({pid for pid, _ in done}) == 4


def test_memory_does_not_grow_with_queries(closing: Closing) -> None:
    with stub(plain(json.dumps(answer()).encode())) as server:
        client = closing(Client(server.url))

        def ask(times: int) -> None:
            for _ in range(times):
                client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
            server.asked.clear()
            gc.collect()

        ask(100)
        tracemalloc.start()
        ask(50)
        before = tracemalloc.get_traced_memory()[0]
        ask(500)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 64 * 1024, f"{grown} bytes more after 500 queries"


def test_values_of_python_are_values_of_cedar() -> None:
    noon = dt.datetime(2026, 1, 1, 13, 0, 0, 250_000, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    for value, expected in [
        (True, True),
        ("a", "a"),
        (7, 7),
        (Entity("User", "a"), {"__entity": {"type": "User", "id": "a"}}),
        (noon, {"__extn": {"fn": "datetime", "arg": "2026-01-01T12:00:00.250Z"}}),
        (dt.timedelta(seconds=90), {"__extn": {"fn": "duration", "arg": "90000ms"}}),
        (decimal.Decimal("1.5"), {"__extn": {"fn": "decimal", "arg": "1.5000"}}),
        (ipaddress.ip_address("10.0.0.1"), {"__extn": {"fn": "ip", "arg": "10.0.0.1"}}),
        (ipaddress.ip_network("10.0.0.0/8"), {"__extn": {"fn": "ip", "arg": "10.0.0.0/8"}}),
        ({"a": [1, {"b"}]}, {"a": [1, ["b"]]}),
    ]:
        assert cedar_value(value) == expected
    naive = dt.datetime(2026, 1, 1)  # noqa: DTZ001
    refused = [
        (1.5, TypeError),
        (None, TypeError),
        (2**63, ValueError),
        (naive, ValueError),
        (decimal.Decimal("0.00005"), ValueError),
        (b"x", TypeError),
    ]
    for value, error in refused:
        with pytest.raises(error):
            cedar_value(value)


def test_a_wrong_url_is_an_error_at_start() -> None:
    for url in ("", "127.0.0.1:8901", "ftp://x", "unix:relative", "http://", "http://u:p@h", "http://h?x"):
        with pytest.raises(ValueError):
            Client(url)


def test_proxies_of_the_environment_are_not_used(asked_gate: Gate, closing: Closing, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert closing(Client(asked_gate.decision, timeout=20)).authorize("viewOrder", order(), principal=VIEWER, portal="customer")


def test_a_thread_is_not_held_by_another_query(closing: Closing) -> None:
    allow = plain(json.dumps(answer()).encode())
    with stub() as server:
        first = threading.Event()

        def once_slow(handler: Any) -> None:
            if first.is_set():
                allow(handler)
            else:
                first.set()
                server.hang(handler)

        server.answer = once_slow
        client = closing(Client(server.url, timeout=20))
        decided: list[bool] = []

        def ask_slowly() -> None:
            decided.append(client.authorize("viewOrder", order(), principal=VIEWER, portal="customer").allowed)

        slow = threading.Thread(target=ask_slowly)
        slow.start()
        first.wait(5)
        began = time.monotonic()
        assert client.authorize("viewOrder", order(), principal=VIEWER, portal="customer")
        assert time.monotonic() - began < 10
        server.over.set()
        slow.join()
        assert decided == [True], "its connection broke, so the query was sent again"
