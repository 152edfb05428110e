"""Django and its REST framework beside the real gate; the assertions are signed with the gate's own key."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from support import GATE_ISSUER, JWKS, Gate, Key, free_port, gate

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")

from django.core.exceptions import ImproperlyConfigured
from django.test import AsyncClient, Client, override_settings
from django.test.runner import DiscoverRunner

import django
from cedargate import Entity
from cedargate.django import _conf

AUDIENCE = "http://127.0.0.1:3000"
ASSERTION = "X-Cedargate-Assertion"
SITE = Entity("Account", "site", {"tenant": Entity("Tenant", "acme"), "user": Entity("User", "none")})


class Site:
    """The site's settings, and callers of it."""

    def __init__(self, running: Gate, key: Key) -> None:
        self.gate = running
        self.key = key
        self.settings: dict[str, Any] = {
            "URL": running.decision,
            "ISSUER": GATE_ISSUER,
            "AUDIENCE": AUDIENCE,
            "PUBLIC": ["/up", "/portal/customer/assets/"],
            "PORTALS": {"customer": "/portal/customer", "admin": "/portal/admin"},
        }

    def assertion(self, subject: str, roles: list[str], portal: str = "customer", **claims: Any) -> str:
        now = int(time.time())
        usual: dict[str, Any] = {
            "iss": GATE_ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "issuer": "corp",
            "issuer_subject": subject,
            "principal_type": "User",
        }
        usual |= {
            "tenant": "acme",
            "portal": portal,
            "roles": roles,
            "revision": "r",
            "claims": {},
            "jti": "j",
            "iat": now,
            "exp": now + 60,
        }
        auth = {"method": "bearer", "time": now, "amr": [], "scopes": []}
        return self.key.sign({**usual, "auth": auth, "credential_exp": now + 600, **claims}, typ="cedargate-assertion+jwt")

    def headers(self, *args: Any, **claims: Any) -> dict[str, str]:
        return {ASSERTION: self.assertion(*args, **claims)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    key = Key("")
    with gate(tmp_path_factory.mktemp("gate"), 3000, key.pem()) as running:
        key.kid = httpx2.get(running.decision + JWKS).json()["keys"][0]["kid"]
        django.setup()
        runner = DiscoverRunner(verbosity=0)
        runner.setup_test_environment()
        databases = runner.setup_databases()
        yield Site(running, key)
        _conf._changed(setting="CEDARGATE")
        runner.teardown_databases(databases)
        runner.teardown_test_environment()


@pytest.fixture(autouse=True)
def settings_of_the_site(site: Site) -> Iterator[None]:
    from django.contrib.auth.models import Group, User

    with override_settings(CEDARGATE=site.settings):
        yield
    User.objects.all().delete()
    Group.objects.all().delete()


WHO = "/portal/customer/who"


def test_a_caller_is_a_user_with_groups_and_without_a_password(site: Site) -> None:
    from django.contrib.auth.models import User

    answer = Client().get(WHO, headers=site.headers("alice", ["viewer"])).json()
    assert answer == {
        "subject": "alice",
        "user": "alice",
        "staff": False,
        "groups": ["cedargate", "role:viewer", "tenant:acme"],
        "headers": [],
    }
    user = User.objects.get(username="alice")
    assert not user.has_usable_password()
    user.groups.create(name="beta-testers")
    answer = Client().get(WHO, headers=site.headers("alice", ["editor"], tenant="globex")).json()
    assert answer["groups"] == ["beta-testers", "cedargate", "role:editor", "tenant:globex"]


def test_what_does_not_come_through_the_gate_is_refused(site: Site) -> None:
    client = Client()
    spoofed = {
        "X-Forwarded-User": "admin",
        "X-Cedargate-Roles": "admin",
        "X-Cedargate-Tenant": "acme",
        "X-Cedargate-Portal": "customer",
    }
    token = site.assertion("alice", ["viewer"])
    for headers, code in [
        ({}, "assertion_missing"),
        (spoofed, "assertion_missing"),
        ({ASSERTION: ""}, "assertion_missing"),
        ({ASSERTION: "x"}, "assertion_invalid"),
        ({ASSERTION: f"{token},{token}"}, "assertion_invalid"),
        ({ASSERTION: token[:-4] + "AAAA"}, "assertion_invalid"),
        (site.headers("alice", ["viewer"], exp=int(time.time()) - 60), "assertion_invalid"),
        (site.headers("alice", ["viewer"], aud="http://127.0.0.1:3001"), "assertion_invalid"),
        (site.headers("alice", ["viewer"], iss="https://other.example.com"), "assertion_invalid"),
        (site.headers("alice", ["viewer"], "admin"), "assertion_invalid"),
        ({"Authorization": f"Bearer {token}"}, "assertion_missing"),
    ]:
        answer = client.get(WHO, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert answer["Content-Type"] == "application/problem+json"
    # over WSGI both spellings are one name: the value still has to verify
    assert client.get(WHO, HTTP_X_CEDARGATE_ASSERTION="x").status_code == 401


def test_spoofed_headers_beside_a_true_assertion_do_not_reach_the_app(site: Site) -> None:
    spoofed = {"X-Forwarded-User": "admin", "X_Forwarded_Groups": "admin", "X-Cedargate-Roles": "admin", "X-Forwarded-Email": "a@b"}
    answer = Client().get(WHO, headers={**site.headers("alice", ["viewer"]), **spoofed}).json()
    assert (answer["subject"], answer["headers"]) == ("alice", [])
    assert "role:admin" not in answer["groups"]


def test_a_public_path_needs_no_caller_and_has_no_other(site: Site) -> None:
    client, path = Client(), "/portal/customer/assets/who"
    assert client.get(path, headers={"X-Forwarded-User": "admin"}).json()["subject"] is None
    assert client.get(path, headers=site.headers("alice", ["viewer"])).json()["subject"] == "alice"
    assert client.get(path, headers={ASSERTION: "x"}).status_code == 401
    assert client.post(path).status_code == 401
    for sneaky in ("/portal/customer/assets/../who", "/portal/customer/assets//who", "/portal/customer/assets/%2e%2e/who"):
        assert client.get(sneaky).status_code == 401, sneaky


def test_a_session_of_django_does_not_say_who_calls(site: Site) -> None:
    from django.contrib.auth.models import User

    User.objects.create_superuser("root", password="secret")
    client = Client()
    assert client.login(username="root", password="secret")
    assert client.get(WHO).status_code == 401
    assert client.get("/portal/customer/assets/who").json()["user"] == ""
    assert client.get(WHO, headers=site.headers("alice", ["viewer"])).json()["user"] == "alice"


def test_a_local_user_of_the_callers_name_is_not_taken_over(site: Site) -> None:
    from django.contrib.auth.models import Group, User

    User.objects.create_superuser("root", password="secret")
    User.objects.create_user("social")
    marked = User.objects.create_user("marked", password="secret")
    marked.groups.add(Group.objects.create(name="cedargate"))
    for name in ("root", "social", "marked"):
        answer = Client().get(WHO, headers=site.headers(name, ["viewer"])).json()
        assert (answer["subject"], answer["user"], answer["groups"]) == (name, "", [])
    assert User.objects.get(username="root").is_superuser


def test_a_user_that_the_app_has_disabled_is_anonymous(site: Site) -> None:
    from django.contrib.auth.models import User

    headers = site.headers("alice", ["viewer"])
    assert Client().get(WHO, headers=headers).json()["user"] == "alice"
    User.objects.update(is_active=False, is_superuser=True, is_staff=True)
    assert Client().get(WHO, headers=headers).json()["user"] == ""
    User.objects.update(is_active=True)
    answer = Client().get(WHO, headers=headers).json()
    assert (answer["user"], answer["staff"]) == ("alice", False)


def test_a_password_logs_no_caller_in(site: Site) -> None:
    from django.contrib.auth import authenticate

    Client().get(WHO, headers=site.headers("alice", ["viewer"]))
    for password in ("", "!", None, "alice"):
        assert authenticate(username="alice", password=password) is None


def test_the_decorator_asks_the_gate(site: Site) -> None:
    headers = site.headers("alice", ["viewer"])
    assert Client().get("/portal/customer/edit/alice", headers=headers).json() == {"edited": "alice"}
    answer = Client().get("/portal/customer/edit/bob", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "not_permitted")
    assert answer.json()["decision_id"]
    with pytest.raises(TypeError, match="not an Entity"):
        Client().get("/portal/customer/mistaken", headers=headers)


def test_rest_views_ask_the_gate(site: Site) -> None:
    client, headers = Client(), site.headers("alice", ["viewer"])
    url = "/portal/customer/rest/order"
    assert client.get(f"{url}/alice", headers=headers).json() == {"owner": "alice", "user": "alice"}
    assert client.get(f"{url}/bob", headers=headers).status_code == 200
    assert client.put(f"{url}/alice", headers=headers).status_code == 200
    assert client.put(f"{url}/bob", headers=headers).status_code == 403
    assert client.delete(f"{url}/alice", headers=headers).status_code == 403, "an action that the view does not name"
    assert client.get("/portal/customer/rest/who", headers=headers).json() == {"user": "alice"}
    with override_settings(CEDARGATE={**site.settings, "PUBLIC": ["/portal/customer/"]}):
        assert Client().get("/portal/customer/rest/who").status_code == 401


def test_the_admin_is_locked_unless_the_gate_permits_it(site: Site) -> None:
    from django.contrib.auth.models import User

    User.objects.create_superuser("root", password="secret")
    url = "/portal/admin/site/"
    ada = site.headers("ada", ["admin"], "admin")
    alice = site.headers("alice", ["viewer"], "admin")
    local = Client()
    assert local.login(username="root", password="secret")
    for client, headers in ((Client(), ada), (local, ada), (local, {})):
        for path in (url, url + "login/", url + "auth/user/", url + "nowhere/"):
            assert client.get(path, headers=headers).status_code in {401, 403}, path
    with override_settings(CEDARGATE={**site.settings, "ADMIN": {"action": "viewAccount", "resource": SITE}}):
        assert Client().get(url, headers=ada).status_code == 200
        assert Client().get(url, headers=alice).status_code == 403
        # what may be changed there, Django's permissions of the groups say
        assert Client().get(url + "auth/user/", headers=ada).status_code == 403
        assert local.get(url, headers=alice).status_code == 403
        assert Client().get(WHO, headers=site.headers("ada", ["admin"])).json()["staff"] is False
        assert not User.objects.get(username="ada").is_staff


def test_a_gate_that_is_away_is_503(site: Site) -> None:
    with override_settings(CEDARGATE={**site.settings, "URL": f"http://127.0.0.1:{free_port()}"}):
        answer = Client().get(WHO, headers=site.headers("alice", ["viewer"]))
        assert (answer.status_code, answer.json()["code"]) == (503, "gate_unavailable")


def test_asynchronous_requests(site: Site) -> None:
    headers = site.headers("alice", ["viewer"])

    async def ask() -> None:
        client = AsyncClient()
        assert (await client.get("/portal/customer/who-async", headers=headers)).json() == {"user": "alice"}
        assert (await client.get("/portal/customer/edit-async/alice", headers=headers)).json() == {"edited": "alice"}
        assert (await client.get("/portal/customer/edit-async/bob", headers=headers)).status_code == 403
        assert (await client.get("/portal/customer/edit/bob", headers=headers)).status_code == 403
        assert (await client.get("/portal/customer/who-async")).status_code == 401
        assert (await client.get("/portal/admin/site/", headers=site.headers("ada", ["admin"], "admin"))).status_code == 403
        await _conf.gate().async_client.aclose()

    asyncio.run(ask())


def test_wrong_settings_are_an_error_at_start(site: Site) -> None:
    for changed in (
        {"URL": ""},
        {"ISSUER": ""},
        {"AUDIENCE": ""},
        {"AUDEINCE": "x"},
        {"URL": "nonsense"},
        {"PUBLIC": ["/"]},
        {"PUBLIC": ["assets/"]},
        {"ADMIN": True},
        {"ADMIN": {"action": "x"}},
    ):
        with override_settings(CEDARGATE={**site.settings, **changed}), pytest.raises(ImproperlyConfigured, match="CEDARGATE"):
            Client().get(WHO)
