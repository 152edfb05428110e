"""JSON of the shop."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from .models import CURRENCY, Account, Order, Product


class ProductSerializer(serializers.ModelSerializer[Product]):
    currency = serializers.ReadOnlyField(default=CURRENCY)

    class Meta:
        model = Product
        fields = ("id", "name", "price", "currency")


class AccountSerializer(serializers.ModelSerializer[Account]):
    class Meta:
        model = Account
        fields = ("id", "user", "tenant", "email", "status")


class StrictInteger(serializers.IntegerField):
    def to_internal_value(self, data: Any) -> int:
        """Refuse strings and booleans, which Django's field would turn into numbers."""
        if type(data) is not int:
            raise serializers.ValidationError("a whole number")
        return super().to_internal_value(data)


class Strict(serializers.Serializer[Any]):
    def to_internal_value(self, data: Any) -> Any:
        """Refuse members that the shop does not know."""
        if isinstance(data, dict) and not set(data) <= set(self.fields):
            raise serializers.ValidationError({"members": ["an unknown member"]})
        return super().to_internal_value(data)


class ItemSerializer(Strict):
    product = serializers.CharField()
    quantity = StrictInteger(min_value=1, max_value=100)


class NewOrderSerializer(Strict):
    items = serializers.ListField(child=ItemSerializer(), allow_empty=False, max_length=50)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Add the price in cents; a product that the shop does not have is a mistake of the caller."""
        prices = dict(Product.objects.values_list("id", "price"))
        items = [dict(item) for item in attrs["items"]]
        if any(item["product"] not in prices for item in items):
            raise serializers.ValidationError("there is no such product")
        return {"items": items, "total": sum(prices[item["product"]] * item["quantity"] for item in items)}


class OrderSerializer(serializers.ModelSerializer[Order]):
    id = serializers.CharField()
    currency = serializers.ReadOnlyField(default=CURRENCY)
    created_at = serializers.DateTimeField(format="%Y-%m-%dT%H:%M:%SZ")

    class Meta:
        model = Order
        fields = ("id", "tenant", "owner", "status", "items", "total", "currency", "created_at")
