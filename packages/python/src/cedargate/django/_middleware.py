"""Puts the caller on the request, and lets in what the gate has sent.

`request.identity` is an `Identity`, `None` for nobody on a public path. `request.user` is what the authentication backends make of
it, and `AnonymousUser` otherwise: a Django session never says who calls. The admin is locked, unless the gate permits it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.apps import apps
from django.http import HttpRequest, JsonResponse
from django.utils.functional import SimpleLazyObject

from cedargate._errors import CedargateError
from cedargate._gate import NOT_PERMITTED, PROBLEM_JSON, Problem, problem_of
from cedargate.wsgi import environ_name, full_path, take_headers

from ._conf import admin_query, gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from django.http.response import HttpResponseBase

    from cedargate._identity import Identity


def problem_response(problem: Problem, decision_id: str | None = None) -> JsonResponse:
    """Return the answer to a caller whose permission is not proven."""
    body = problem.to_json()
    if decision_id is not None:
        body["decision_id"] = decision_id
    response = JsonResponse(body, status=problem.status, content_type=PROBLEM_JSON)
    response["Cache-Control"] = "no-store"
    return response


class IdentityMiddleware:
    """Django's middleware, for WSGI and ASGI."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        # wrong settings are an error at start
        gate()
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(cast("Any", self))

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer one request."""
        if self._is_async:
            return self._answer_async(request)
        try:
            identity = gate().admit(_assertions(request), _method(request), _path(request))
        except CedargateError as error:
            return problem_response(problem_of(error))
        _attach(request, identity)
        return cast("HttpResponseBase", self._get_response(request))

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        try:
            identity = await gate().admit_async(_assertions(request), _method(request), _path(request))
        except CedargateError as error:
            return problem_response(problem_of(error))
        _attach(request, identity)
        return cast("HttpResponseBase", await self._get_response(request))

    def process_view(self, request: HttpRequest, _view: object, _args: object, _kwargs: object) -> JsonResponse | None:
        """Lock the admin; every other view is the app's. Django runs it in a thread for asynchronous requests."""
        match = request.resolver_match
        return None if match is None or "admin" not in match.app_names else _admin_refusal(request)


def _assertions(request: HttpRequest) -> list[str]:
    name = environ_name(gate().header)
    value = request.META.get(name)
    take_headers(request.META, gate())
    # over ASGI, Django joins repeated headers with a comma, as WSGI servers do: such a value is no assertion
    request.__dict__.pop("headers", None)
    return [] if value is None else [value]


def _method(request: HttpRequest) -> str:
    return request.method or ""


def _path(request: HttpRequest) -> str:
    return full_path(request.META) if "PATH_INFO" in request.META else request.path


def _attach(request: HttpRequest, identity: Identity | None) -> None:
    attached = cast("Any", request)
    attached.identity = identity
    if apps.is_installed("django.contrib.auth"):
        attached.user = SimpleLazyObject(lambda: _user(request, identity))

        async def auser() -> Any:
            # the same user as `request.user`, found once
            return await sync_to_async(_found)(attached.user)

        attached.auser = auser


def _found(user: Any) -> Any:
    _ = user.is_authenticated
    return user


def _user(request: HttpRequest, identity: Identity | None) -> Any:
    from django.contrib.auth import authenticate  # noqa: PLC0415  # needs its app
    from django.contrib.auth.models import AnonymousUser  # noqa: PLC0415

    user = authenticate(request, identity=identity) if identity is not None else None
    return user if user is not None else AnonymousUser()


def _admin_refusal(request: HttpRequest) -> JsonResponse | None:
    identity: Identity | None = getattr(request, "identity", None)
    query = admin_query()
    if identity is None or query is None:
        return problem_response(NOT_PERMITTED)
    try:
        decision = gate().client.authorize(query.action, query.resource, identity=identity)
    except CedargateError as error:
        return problem_response(problem_of(error))
    if not decision:
        return problem_response(NOT_PERMITTED, decision.decision_id)
    # of this request alone; which models the user may change, its groups' permissions say
    cast("Any", request).user.is_staff = True
    return None
