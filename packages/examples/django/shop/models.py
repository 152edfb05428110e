"""The shop's data, each with the entity that the policies see."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils import timezone

from cedargate import Entity

CURRENCY = "EUR"


class Product(models.Model):
    id = models.SlugField(primary_key=True)
    name = models.CharField(max_length=100)
    # in cents
    price = models.PositiveIntegerField()

    def __str__(self) -> str:
        return self.id

    def entity(self) -> Entity:
        """Return the product as the policies see it."""
        return Entity("Product", self.id)


class Order(models.Model):
    tenant = models.CharField(max_length=100, db_index=True)
    owner = models.CharField(max_length=150)
    status = models.CharField(max_length=10, default="open")
    items = models.JSONField()
    total = models.PositiveIntegerField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering: ClassVar = ["id"]

    def __str__(self) -> str:
        return str(self.pk)

    def entity(self) -> Entity:
        """Return the order as the policies see it."""
        attrs = {"tenant": Entity("Tenant", self.tenant), "owner": Entity("User", self.owner), "status": self.status}
        return Entity("Order", str(self.pk), attrs)


class Account(models.Model):
    id = models.SlugField(primary_key=True)
    user = models.CharField(max_length=150)
    tenant = models.CharField(max_length=100, db_index=True)
    email = models.EmailField()
    status = models.CharField(max_length=10, default="active")

    class Meta:
        ordering: ClassVar = ["id"]

    def __str__(self) -> str:
        return self.id

    def entity(self) -> Entity:
        """Return the account as the policies see it."""
        return Entity("Account", self.id, {"tenant": Entity("Tenant", self.tenant), "user": Entity("User", self.user)})
