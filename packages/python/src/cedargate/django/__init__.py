"""Django behind the gate: `request.identity`, `request.user`, the decorator `permitted`, and a locked admin.

MIDDLEWARE = ["cedargate.django.IdentityMiddleware", …]          # first; after AuthenticationMiddleware if there is one
AUTHENTICATION_BACKENDS = ["cedargate.django.backends.GateBackend"]
CEDARGATE = {"URL": "http://127.0.0.1:8901", "ISSUER": "https://shop.example.com", "AUDIENCE": "http://127.0.0.1:3000"}
"""

from __future__ import annotations

from ._conf import gate
from ._decorators import caller, permitted, require
from ._middleware import IdentityMiddleware

__all__ = ["IdentityMiddleware", "caller", "gate", "permitted", "require"]
