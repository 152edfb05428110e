"""`permitted`: a view that runs only if the gate allows."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

# knows also the coroutine functions that Django marks, such as `View.as_view()` of an asynchronous class
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import PermissionDenied

from cedargate._errors import AssertionMissingError, CedargateError
from cedargate._gate import NOT_PERMITTED, problem_of
from cedargate._identity import Identity
from cedargate._query import Entity

from ._conf import gate
from ._middleware import problem_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from django.http import HttpRequest

    from cedargate._query import Decision

    Resource: TypeAlias = Entity | Callable[..., Entity | Awaitable[Entity]]

_ABSENT: Final = object()
View = TypeVar("View", bound="Callable[..., Any]")


def caller(request: object) -> Identity:
    """Return the caller of a request of Django or of its REST framework; raise where there is none."""
    identity = getattr(request, "identity", _ABSENT)
    if identity is _ABSENT:
        raise RuntimeError("cedargate.django.IdentityMiddleware is not in MIDDLEWARE, so no caller is proven")
    if not isinstance(identity, Identity):
        raise AssertionMissingError("a public path has no caller")
    return identity


def require(request: HttpRequest, action: str, resource: Entity, context: Mapping[str, Any] | None = None) -> Decision:
    """Return the decision if the gate allows; raise Django's `PermissionDenied` if it denies."""
    decision = gate().client.authorize(action, resource, identity=caller(request), context=context)
    if not decision:
        raise PermissionDenied(f"{decision.reason} ({decision.decision_id})")
    return decision


def permitted(action: str, resource: Resource) -> Callable[[View], View]:
    """Return a decorator that asks the gate before the view runs; for functions and for classes, synchronous and asynchronous.

    `resource` is an entity, or a function of the request and the view's arguments that returns one; before an asynchronous view
    it may be asynchronous too.
    """

    def decorate(view: View) -> View:
        if not isinstance(view, type):
            wrapper = functools.wraps(view)(_asking(action, resource, view))
            return cast("View", markcoroutinefunction(wrapper) if iscoroutinefunction(view) else wrapper)
        decorated = cast("Any", view)
        dispatch = decorated.dispatch

        @functools.wraps(dispatch)
        def asking(self: Any, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            bound = functools.partial(dispatch, self)
            if getattr(self, "view_is_async", False):
                markcoroutinefunction(bound)
            return _asking(action, resource, bound)(request, *args, **kwargs)

        decorated.dispatch = asking
        return view

    return decorate


def _asking(action: str, resource: Resource, view: Callable[..., Any]) -> Callable[..., Any]:
    """Return the view behind its question."""

    async def asynchronous(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            loaded: Any = resource(request, *args, **kwargs) if callable(resource) else resource
            if inspect.isawaitable(loaded):
                loaded = await loaded
            decision = await gate().async_client.authorize(action, _entity(loaded), identity=caller(request))
        except CedargateError as error:
            return problem_response(problem_of(error))
        if not decision:
            return problem_response(NOT_PERMITTED, decision.decision_id)
        return await view(request, *args, **kwargs)

    def synchronous(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            loaded = resource(request, *args, **kwargs) if callable(resource) else resource
            decision = gate().client.authorize(action, _entity(loaded), identity=caller(request))
        except CedargateError as error:
            return problem_response(problem_of(error))
        if not decision:
            return problem_response(NOT_PERMITTED, decision.decision_id)
        return view(request, *args, **kwargs)

    return asynchronous if iscoroutinefunction(view) else synchronous


def _entity(value: Any) -> Entity:
    if not isinstance(value, Entity):
        raise TypeError(f"the resource is a {type(value).__name__}, not an Entity")
    return value
