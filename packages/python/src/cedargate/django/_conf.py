"""The setting `CEDARGATE`."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from cedargate._gate import Gate
from cedargate._query import Entity

KEYS: Final = {
    "URL": "url",
    "ISSUER": "issuer",
    "AUDIENCE": "audience",
    "PORTALS": "portals",
    "PUBLIC": "public",
    "HEADER": "header",
    "TOKEN": "token",
    "TOKEN_FILE": "token_file",
    "TIMEOUT": "timeout",
    "LEEWAY": "leeway",
    "BATCH": "batch",
    "SSL_CONTEXT": "ssl_context",
}
REQUIRED: Final = ("URL", "ISSUER", "AUDIENCE")
ADMIN: Final = "ADMIN"


@dataclass(frozen=True)
class AdminQuery:
    """What the gate must permit before Django's admin opens."""

    action: str
    resource: Entity


_lock = threading.Lock()
_made: list[tuple[Gate, AdminQuery | None]] = []


def _configured() -> tuple[Gate, AdminQuery | None]:
    if _made:
        return _made[0]
    with _lock:
        if not _made:
            values: dict[str, Any] = dict(getattr(settings, "CEDARGATE", {}))
            admin = _admin(values.pop(ADMIN, None))
            if unknown := [name for name in values if name not in KEYS]:
                raise ImproperlyConfigured(f"CEDARGATE: unknown keys: {', '.join(unknown)}")
            if missing := [name for name in REQUIRED if not values.get(name)]:
                raise ImproperlyConfigured(f"CEDARGATE: these keys are missing: {', '.join(missing)}")
            try:
                made = Gate(**{KEYS[name]: value for name, value in values.items()})
            except ValueError as error:
                raise ImproperlyConfigured(f"CEDARGATE: {error}") from error
            _made.append((made, admin))
        return _made[0]


def _admin(value: Any) -> AdminQuery | None:
    match value:
        case None:
            return None
        case {"action": str(action), "resource": Entity() as resource, **rest} if not rest:
            return AdminQuery(action, resource)
        case _:
            raise ImproperlyConfigured('CEDARGATE: ADMIN is {"action": "…", "resource": Entity(…)}')


def gate() -> Gate:
    """Return the gate that the settings describe; one for the whole process."""
    return _configured()[0]


def admin_query() -> AdminQuery | None:
    """Return what opens Django's admin; `None`: nothing does."""
    return _configured()[1]


def _changed(*, setting: str, **__: object) -> None:
    if setting == "CEDARGATE":
        for configured, _ in _made:
            configured.close()
        _made.clear()


setting_changed.connect(_changed)
