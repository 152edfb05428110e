"""Django REST framework: `GateAuthentication` and the permission classes `IsIdentified` and `GatePermission`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException
from rest_framework.permissions import BasePermission

from cedargate._errors import CedargateError
from cedargate._gate import problem_of
from cedargate._identity import Identity
from cedargate._query import Entity

from ._conf import gate

if TYPE_CHECKING:
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
    """

    def has_object_permission(self, request: Request, view: APIView, obj: Any) -> bool:
        """Return the gate's decision."""
        name = getattr(view, "action", None) or request.method
        action = getattr(view, "gate_actions", {}).get(name)
        resource = getattr(view, "gate_resource", None)
        identity = request.auth
        if action is None or resource is None or not isinstance(identity, Identity):
            return False
        entity = resource(obj)
        if not isinstance(entity, Entity):
            raise TypeError(f"gate_resource returned a {type(entity).__name__}, not an Entity")
        try:
            decision = gate().client.authorize(action, entity, identity=identity)
        except CedargateError as error:
            raise GateProblem(error) from error
        return bool(decision)


class GateProblem(APIException):
    """The gate did not decide: 503 if it cannot be asked, 403 if it refused the query."""

    def __init__(self, error: CedargateError) -> None:
        problem = problem_of(error)
        super().__init__(problem.title, problem.code)
        self.status_code = problem.status
