"""WSGI middleware: `environ["cedargate"]` is the caller of a request, `environ["cedargate.gate"]` the gate to ask.

WSGI cannot tell `X-Cedargate-Assertion` from `X_Cedargate_Assertion`, and some servers join repeated headers with a comma. Neither
helps a client: the value must be one assertion that verifies, and a joined one is none.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from ._errors import CedargateError
from ._gate import IDENTITY_HEADERS, PROBLEM_JSON, Gate, problem_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

IDENTITY: Final = "cedargate"
GATE: Final = "cedargate.gate"


def environ_name(header: str) -> str:
    """Return the name of a header in the environ."""
    return "HTTP_" + header.upper().replace("-", "_")


def take_headers(environ: dict[str, Any], gate: Gate) -> list[str]:
    """Remove the gate's headers from the environ and return the assertions."""
    for header in IDENTITY_HEADERS:
        environ.pop(environ_name(header), None)
    assertion = environ.pop(environ_name(gate.header), None)
    return [] if assertion is None else [assertion]


def full_path(environ: dict[str, Any]) -> str:
    """Return the path of the request's URL, below which the app may be mounted."""
    # WSGI's strings are bytes in latin-1
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


class GateMiddleware:
    """Lets in what the gate has sent."""

    def __init__(self, app: WSGIApplication, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        assertions = take_headers(environ, self._gate)
        try:
            identity = self._gate.admit(assertions, environ["REQUEST_METHOD"], full_path(environ))
        except CedargateError as error:
            problem = problem_of(error)
            body = json.dumps(problem.to_json()).encode()
            status = f"{problem.status} {HTTPStatus(problem.status).phrase}"
            headers = [
                ("Content-Type", PROBLEM_JSON),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
            ]
            start_response(status, headers)
            return [body]
        environ[IDENTITY] = identity
        environ[GATE] = self._gate
        return self._app(environ, start_response)
