"""The shop's API.

The gate decides who reaches which path (`packages/examples/gate/policies`). These views load an order or an account and ask the
gate about it, with the attributes that only the app knows.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, JsonResponse
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import exception_handler

from cedargate import Entity, Query
from cedargate.django import caller, gate
from cedargate.django.rest import GatePermission

from .models import Account, Order, Product
from .serializers import AccountSerializer, NewOrderSerializer, OrderSerializer, ProductSerializer


def up(_request: HttpRequest) -> JsonResponse:
    """Answer the probe of the platform."""
    return JsonResponse({})


def problem(error: Exception, context: dict[str, Any]) -> Response | None:
    """Answer errors as problem+json; a mistake in a body is 422, as in the shop with FastAPI."""
    response = exception_handler(error, context)
    if response is not None:
        if isinstance(error, serializers.ValidationError):
            response.status_code = 422
        title = getattr(error, "detail", None) if not isinstance(error, serializers.ValidationError) else "the body is not an order"
        response.data = {"title": str(title or "no policy permits this"), "status": response.status_code}
        response.content_type = "application/problem+json"
    return response


class GateView(viewsets.GenericViewSet[Any]):
    """Asks the gate about each object that `get_object` loads, and about all objects of a list in one query."""

    permission_classes = (GatePermission,)
    gate_actions: ClassVar[dict[str, str | None]] = {}

    def gate_resource(self, loaded: Order | Account | Product) -> Entity:
        """Return the object as the policies see it."""
        return loaded.entity()

    def viewable(self) -> list[Any]:
        """Return the objects of the caller's tenant that the caller may view."""
        identity = caller(self.request)
        loaded = list(self.get_queryset().filter(tenant=identity.tenant or ""))
        queries = [Query(self.gate_actions["retrieve"], item.entity()) for item in loaded]
        decisions = gate().client.authorize_batch(queries, identity=identity)
        return [item for item, decision in zip(loaded, decisions, strict=True) if decision]


class Orders(GateView):
    queryset = Order.objects.all()
    serializer_class = OrderSerializer
    lookup_value_regex = "[0-9]+"
    gate_actions: ClassVar[dict[str, str | None]] = {
        "list": None,
        "create": None,
        "retrieve": "viewOrder",
        "update": "editOrder",
        "destroy": "cancelOrder",
    }

    def list(self, _request: Request) -> Response:
        """List the orders that the caller may view."""
        return Response({"orders": OrderSerializer(self.viewable(), many=True).data})

    def create(self, request: Request) -> Response:
        """Place an order. The gate has decided that the caller may."""
        new = NewOrderSerializer(data=request.data)
        new.is_valid(raise_exception=True)
        identity = caller(request)
        if identity.tenant is None:
            raise PermissionDenied("an order belongs to a tenant")
        order = Order.objects.create(tenant=identity.tenant, owner=identity.subject, **new.validated_data)
        return Response(OrderSerializer(order).data, 201)

    def retrieve(self, _request: Request, pk: str) -> Response:
        """Return one order."""
        return Response(OrderSerializer(self.get_object()).data)

    def update(self, request: Request, pk: str) -> Response:
        """Replace the items of an order."""
        order = self.get_object()
        new = NewOrderSerializer(data=request.data)
        new.is_valid(raise_exception=True)
        order.items, order.total = new.validated_data["items"], new.validated_data["total"]
        order.save(update_fields=["items", "total"])
        return Response(OrderSerializer(order).data)

    def destroy(self, _request: Request, pk: str) -> Response:
        """Cancel an order; it stays in the list."""
        order = self.get_object()
        order.status = "cancelled"
        order.save(update_fields=["status"])
        return Response(status=204)


class Products(GateView):
    queryset = Product.objects.order_by("price")
    gate_actions: ClassVar[dict[str, str | None]] = {"list": None, "retrieve": "viewProduct"}

    def list(self, _request: Request) -> Response:
        """List the catalogue, the same for every caller."""
        return Response({"products": ProductSerializer(self.get_queryset(), many=True).data})

    def retrieve(self, _request: Request, pk: str) -> Response:
        """Return one product."""
        return Response(ProductSerializer(self.get_object()).data)


class Accounts(GateView):
    queryset = Account.objects.all()
    gate_actions: ClassVar[dict[str, str | None]] = {"list": None, "retrieve": "viewAccount", "suspend": "suspendAccount"}

    def list(self, _request: Request) -> Response:
        """List the accounts that the caller may view."""
        return Response({"accounts": AccountSerializer(self.viewable(), many=True).data})

    def retrieve(self, _request: Request, pk: str) -> Response:
        """Return one account."""
        return Response(AccountSerializer(self.get_object()).data)

    @action(detail=True, methods=["post"])
    def suspend(self, _request: Request, pk: str) -> Response:
        """Suspend an account."""
        account = self.get_object()
        account.status = "suspended"
        account.save(update_fields=["status"])
        return Response(AccountSerializer(account).data)
