"""Fills an empty shop with the products, orders and accounts of the demo."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.core.management.base import BaseCommand

from shop.models import Account, Order, Product


class Command(BaseCommand):
    help = "Fill the shop with the demo's data"

    def handle(self, *_args: Any, **_options: Any) -> None:
        for key, name, price in (("tea", "Tea", 450), ("coffee", "Coffee", 700), ("cup", "Cup", 1200)):
            Product.objects.get_or_create(id=key, defaults={"name": name, "price": price})
        began = dt.datetime(2026, 1, 1, 9, tzinfo=dt.UTC)
        for number, tenant, owner in ((7, "acme", "alice"), (8, "globex", "gina")):
            items = [{"product": "tea", "quantity": 2}]
            values = {"tenant": tenant, "owner": owner, "items": items, "total": 900, "created_at": began}
            Order.objects.get_or_create(id=number, defaults=values)
        for key, user, tenant in (("a1", "alice", "acme"), ("a2", "ada", "acme"), ("g1", "gina", "globex")):
            Account.objects.get_or_create(id=key, defaults={"user": user, "tenant": tenant, "email": f"{user}@{tenant}.example"})
