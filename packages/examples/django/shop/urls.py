"""The shop's paths."""

from django.http import HttpRequest, JsonResponse
from django.urls import include, path
from rest_framework.routers import SimpleRouter

from .views import Accounts, Orders, Products, up

customer = SimpleRouter(trailing_slash=False)
customer.register("orders", Orders)
customer.register("products", Products)
admin = SimpleRouter(trailing_slash=False)
admin.register("accounts", Accounts)

urlpatterns = [
    path("up", up),
    path("portal/customer/", include(customer.urls)),
    path("portal/admin/", include(admin.urls)),
]


def handler404(_request: HttpRequest, exception: Exception) -> JsonResponse:  # noqa: ARG001  # Django's names
    """Answer unknown paths as problem+json."""
    return JsonResponse({"title": "there is no such path", "status": 404}, status=404, content_type="application/problem+json")
