"""The project's own tests: no gate runs."""

from cedargate.django import gate
from cedargate.django.backends import adopt
from cedargate.testing import fake_gate
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.test import TestCase, TransactionTestCase
from rest_framework.test import APIClient

from .models import Ticket
from .tasks import close

Person = get_user_model()
PAGES = "/portal/customer/tickets"
API = "/portal/customer/api/tickets/"


class Pages(TestCase):
    def setUp(self):
        self.fake = self.enterContext(fake_gate(gate()))
        self.alice = self.fake.headers("alice", tenant="acme", roles=["viewer"])
        self.client.get("/portal/customer/who/", headers=self.alice)
        self.ticket = Ticket.objects.create(tenant="acme", owner=Person.objects.get(name="alice"), title="Tea")

    def test_a_caller_is_a_person_of_the_projects_own_model(self):
        answer = self.client.get("/portal/customer/who/", headers=self.alice)
        self.assertEqual(answer.json()["user"], "alice")
        self.assertFalse(Person.objects.get(name="alice").has_usable_password())
        self.assertEqual(self.client.get("/portal/customer/who/").status_code, 401)

    def test_a_name_that_differs_in_case_is_another_caller(self):
        with self.assertLogs("cedargate", "ERROR"):
            answer = self.client.get("/portal/customer/who/", headers=self.fake.headers("Alice", tenant="acme"))
        # `LoginRequiredMiddleware` sees an anonymous user
        self.assertEqual((answer.status_code, answer.url.split("?")[0]), (302, "/accounts/login/"))

    def test_an_adopted_user_keeps_what_it_owns(self):
        bob = Person.objects.create_superuser("bob", "secret")
        Ticket.objects.create(tenant="acme", owner=bob, title="Cup")
        headers = self.fake.headers("bob", tenant="acme", roles=["viewer"])
        with self.assertLogs("cedargate", "ERROR"):
            self.assertEqual(self.client.get("/portal/customer/who/", headers=headers).status_code, 302)
        adopt(bob)
        answer = self.client.get("/portal/customer/who/", headers=headers).json()
        self.assertEqual((answer["user"], answer["may"]), ("bob", False))
        self.assertEqual(Person.objects.get(name="bob").ticket_set.count(), 1)

    def test_permissions_are_those_of_this_request(self):
        group = Group.objects.create(name="role:editor")
        group.permissions.add(Permission.objects.get(codename="change_ticket"))
        Person.objects.get(name="alice").groups.add(Group.objects.create(name="readers"))
        editor = self.fake.headers("alice", tenant="acme", roles=["editor"])
        self.assertTrue(self.client.get("/portal/customer/who/", headers=editor).json()["may"])
        self.assertFalse(self.client.get("/portal/customer/who/", headers=self.alice).json()["may"])
        # another request of the same person, in between, has changed the groups in the database
        from cedargate.django.backends import GateBackend

        viewer = GateBackend().authenticate(None, gate().verifier.verify(self.alice[self.fake.header]))
        self.client.get("/portal/customer/who/", headers=editor)
        self.assertIn("role:editor", {group.name for group in viewer.groups.all()})
        self.assertFalse(viewer.has_perm("tickets.change_ticket"))
        Group.objects.get(name="readers").permissions.add(Permission.objects.get(codename="change_ticket"))
        self.assertTrue(self.client.get("/portal/customer/who/", headers=self.alice).json()["may"])

    def test_class_based_views_ask(self):
        url = f"{PAGES}/{self.ticket.pk}/"
        self.assertEqual(self.client.get(f"{PAGES}/", headers=self.alice).json(), {"tickets": ["Tea"]})
        self.assertEqual(self.client.get(url, headers=self.alice).status_code, 403)
        self.fake.allow("viewOrder", f'Order::"{self.ticket.pk}"', caller="alice")
        self.assertEqual(self.client.get(url, headers=self.alice).json(), {"title": "Tea"})
        self.assertEqual(self.client.get(url, headers=self.fake.headers("bob", tenant="acme")).status_code, 403)
        self.assertEqual(self.fake.asked[-1].attrs["owner"], {"__entity": {"type": "User", "id": "alice"}})
        self.fake.away = True
        self.assertEqual(self.client.get(url, headers=self.alice).status_code, 503)

    def test_a_view_set_asks_about_each_action(self):
        client = APIClient()
        one = f"{API}{self.ticket.pk}/"
        self.assertEqual(client.get(API, headers=self.alice).json()[0]["title"], "Tea")
        for method, url in (("post", API), ("get", one), ("put", one), ("post", f"{one}close/")):
            answer = getattr(client, method)(url, {"title": "x"}, headers=self.alice)
            self.assertEqual(answer.status_code, 403, (method, url))
            self.assertIn("decision test-", answer.json()["detail"])
        for action in ("viewOrder", "editOrder", "cancelOrder"):
            self.fake.allow(action)
        # not named
        self.assertEqual(client.patch(one, {"title": "x"}, headers=self.alice).status_code, 403)
        self.assertEqual(client.delete(one, headers=self.alice).status_code, 403)
        self.assertEqual(client.post(f"{API}assign/", headers=self.alice).status_code, 403)
        self.assertEqual(client.post(API, {"title": "Cup"}, headers=self.alice).status_code, 201)
        self.assertEqual(client.put(one, {"title": "x"}, headers=self.alice).json()["title"], "x")
        self.assertEqual(client.head(one, headers=self.alice).status_code, 200)
        self.assertEqual(client.get(one, headers=self.fake.headers("gina", tenant="globex")).status_code, 404)
        self.assertEqual(client.post(f"{one}close/", headers=self.alice).status_code, 204)

    def test_code_without_a_request_asks_for_a_principal(self):
        self.assertFalse(close(self.ticket.pk, "alice", "acme", ["viewer"]))
        self.fake.allow("cancelOrder", caller='User::"alice"')
        self.assertTrue(close(self.ticket.pk, "alice", "acme", ["viewer"]))

    def test_the_admin_opens_by_policy(self):
        ada = self.fake.headers("ada", portal="admin", roles=["admin"])
        self.assertEqual(self.client.get("/portal/admin/site/", headers=ada).status_code, 403)
        self.fake.allow("viewAccount")
        self.assertEqual(self.client.get("/portal/admin/site/", headers=ada).status_code, 200)
        self.assertEqual(self.client.get("/portal/admin/site/", headers=self.alice).status_code, 401)


class AsyncPages(TransactionTestCase):
    async def test_asynchronous_classes_ask(self):
        with fake_gate(gate()) as fake:
            alice = fake.headers("alice", tenant="acme")
            await self.async_client.get("/portal/customer/who/", headers=alice)
            person = await Person.objects.aget(name="alice")
            ticket = await Ticket.objects.acreate(tenant="acme", owner=person, title="Tea")
            for view in ("async", "wrapped"):
                url = f"{PAGES}/{ticket.pk}/{view}/"
                self.assertEqual((await self.async_client.get(url, headers=alice)).status_code, 403)
            fake.allow("viewOrder")
            for view, answer in (("async", {"title": "Tea", "user": "alice"}), ("wrapped", {"title": "Tea"})):
                url = f"{PAGES}/{ticket.pk}/{view}/"
                self.assertEqual((await self.async_client.get(url, headers=alice)).json(), answer)
                self.assertEqual((await self.async_client.get(f"{PAGES}/77/{view}/", headers=alice)).status_code, 404)
