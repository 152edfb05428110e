"""Django REST framework: `GateAuthentication` and the permission classes `IsIdentified` and `GatePermission`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException
from rest_framework.permissions import BasePermission

from cedargate._errors import CedargateError
from cedargate._gate import NOT_PERMITTED, problem_of
from cedargate._identity import Identity
from cedargate._query import Entity

from ._conf import gate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rest_framework.request import Request
    from rest_framework.views import APIView


class GateAuthentication(BaseAuthentication):
    """`request.user` is Django's user of the caller, `request.auth` its identity. There is no session, hence no CSRF token."""

    def authenticate(self, request: Request) -> tuple[Any, Identity] | None:
        """Return user and identity; `None` for nobody on a public path."""
        identity = getattr(request._request, "identity", None)  # noqa: SLF001  # as every authentication does
        if not isinstance(identity, Identity):
            return None
        return request._request.user, identity  # noqa: SLF001

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002
        """Return the challenge, so that a request without a caller is 401 and not 403."""
        return "Bearer"


class IsIdentified(BasePermission):
    """Permits every caller that the gate has proven."""

    def has_permission(self, request: Request, view: APIView) -> bool:  # noqa: ARG002
        """Tell that there is a caller."""
        return isinstance(request.auth, Identity)


class GatePermission(IsIdentified):
    """Asks the gate about the object of a view.

    The view names an action for each of its own in `gate_actions` (`{"retrieve": "viewOrder"}`; an `APIView` that is no view set
    uses the method, `{"GET": "viewOrder"}`), and has `gate_resource(obj)`, which returns an `Entity`. What is not named is denied.

    What has no object, such as `list` and `create`, is asked about `gate_collection(request)`. Its action is `None` where the
    gate's decision about the request is enough.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Tell that the view names the action; ask the gate if there will be no object."""
        if not super().has_permission(request, view):
            return False
        named, action = _action(request, view)
        if not named:
            return False
        if action is None or _has_object(view):
            return True
        collection = getattr(view, "gate_collection", None)
        if collection is None:
            raise ImproperlyConfigured(
                f"{type(view).__name__} has no gate_collection(request) to ask `{action}` about; the action `None` asks nothing"
            )
        return self._ask(request, action, collection(request), "gate_collection")

    def has_object_permission(self, request: Request, view: APIView, obj: Any) -> bool:
        """Return the gate's decision."""
        _, action = _action(request, view)
        resource = getattr(view, "gate_resource", None)
        if action is None or resource is None:
            return False
        return self._ask(request, action, resource(obj), "gate_resource")

    def _ask(self, request: Request, action: str, entity: Any, source: str) -> bool:
        if not isinstance(request.auth, Identity):
            return False
        if not isinstance(entity, Entity):
            raise TypeError(f"{source} returned a {type(entity).__name__}, not an Entity")
        try:
            decision = gate().client.authorize(action, entity, identity=request.auth)
        except CedargateError as error:
            raise GateProblem(error) from error
        # the REST framework's answer to a denial: the id leads to the gate's record
        self.message = f"{NOT_PERMITTED.title} (decision {decision.decision_id})"
        return bool(decision)


def _action(request: Request, view: APIView) -> tuple[bool, str | None]:
    """Tell that the view names what is asked of it, and return its action."""
    actions: Mapping[str, str | None] = getattr(view, "gate_actions", {})
    name = getattr(view, "action", None) or request.method or ""
    # Django answers HEAD by the view of GET
    name = "GET" if name == "HEAD" and "HEAD" not in actions else name
    return name in actions, actions.get(name)


def _has_object(view: APIView) -> bool:
    """Tell that the view will check an object. A view that is not generic has to do that itself."""
    # the framework imports this module, so its classes are not there to compare with
    detail = getattr(view, "detail", None)
    field = getattr(view, "lookup_field", None)
    if detail is not None:
        return bool(detail)
    return field is None or (getattr(view, "lookup_url_kwarg", None) or field) in view.kwargs


class GateProblem(APIException):
    """The gate did not decide: 503 if it cannot be asked, 403 if it refused the query."""

    def __init__(self, error: CedargateError) -> None:
        problem = problem_of(error)
        super().__init__(problem.title, problem.code)
        self.status_code = problem.status
