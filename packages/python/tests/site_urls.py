"""The site's views."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, JsonResponse
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from cedargate import Entity
from cedargate.django import permitted
from cedargate.django.rest import GatePermission, IsIdentified


def order(owner: str) -> Entity:
    return Entity("Order", "7", {"tenant": Entity("Tenant", "acme"), "owner": Entity("User", owner), "status": "open"})


def who(request: HttpRequest) -> JsonResponse:
    identity = request.identity  # type: ignore[attr-defined]  # the middleware's
    user: Any = request.user
    return JsonResponse(
        {
            "subject": identity.subject if identity else None,
            "user": user.get_username(),
            "staff": user.is_staff,
            "groups": sorted(group.name for group in user.groups.all()) if user.is_authenticated else [],
            "headers": sorted(name for name in request.META if name.startswith(("HTTP_X_FORWARDED", "HTTP_X_CEDARGATE"))),
        }
    )


async def who_async(request: HttpRequest) -> JsonResponse:
    user = await request.auser()
    return JsonResponse({"user": user.get_username()})


@permitted("editOrder", lambda _request, owner: order(owner))
def edit(_request: HttpRequest, owner: str) -> JsonResponse:
    return JsonResponse({"edited": owner})


async def load(_request: HttpRequest, owner: str) -> Entity:
    return order(owner)


@permitted("editOrder", load)
async def edit_async(_request: HttpRequest, owner: str) -> JsonResponse:
    return JsonResponse({"edited": owner})


@permitted("editOrder", lambda _request: 'Order::"7"')  # type: ignore[arg-type, return-value]  # a mistake
def mistaken(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({})


class OrderView(APIView):
    permission_classes = (GatePermission,)
    gate_actions = {"GET": "viewOrder", "PUT": "editOrder"}  # noqa: RUF012

    def gate_resource(self, owner: str) -> Entity:
        return order(owner)

    def _answer(self, request: Request, owner: str) -> Response:
        self.check_object_permissions(request, owner)
        return Response({"owner": owner, "user": request.user.get_username()})

    def get(self, request: Request, owner: str) -> Response:
        return self._answer(request, owner)

    def put(self, request: Request, owner: str) -> Response:
        return self._answer(request, owner)

    def delete(self, request: Request, owner: str) -> Response:
        return self._answer(request, owner)


class WhoView(APIView):
    permission_classes = (IsIdentified,)

    def get(self, request: Request) -> Response:
        return Response({"user": request.user.get_username()})


def up(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({})


urlpatterns: list[Any] = [
    path("portal/admin/site/", admin.site.urls),
    path("up", up),
    path("portal/customer/assets/who", who),
    path("portal/customer/who", who),
    path("portal/customer/who-async", who_async),
    path("portal/customer/edit/<owner>", edit),
    path("portal/customer/edit-async/<owner>", edit_async),
    path("portal/customer/mistaken", mistaken),
    path("portal/customer/rest/order/<owner>", OrderView.as_view()),
    path("portal/customer/rest/who", WhoView.as_view()),
]
