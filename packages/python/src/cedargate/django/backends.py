"""Makes Django's user of a verified identity: no password, no session, roles and tenant as groups.

A user of this backend is in the group `cedargate`. A user of the same name that is not (a local superuser, say) is never taken
over: the caller is then anonymous. The backend sets neither `is_staff` nor `is_superuser`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Group, User
from django.db import transaction

if TYPE_CHECKING:
    from django.http import HttpRequest

    from cedargate._identity import Identity

MARK: Final = "cedargate"
ROLE: Final = "role:"
TENANT: Final = "tenant:"
NAME_MAX: Final = 150
log = logging.getLogger("cedargate")


class GateBackend(ModelBackend):
    """Django's model backend, with the gate's assertion in place of a password."""

    def authenticate(  # type: ignore[override]  # no name and no password
        self,
        request: HttpRequest | None,  # noqa: ARG002
        identity: Identity | None = None,
        **_: Any,
    ) -> User | None:
        """Return the user of the identity, made at the first visit; `None` without an identity."""
        if identity is None or len(identity.subject) > NAME_MAX:
            return None
        groups = wanted_groups(identity)
        if any(len(name) > NAME_MAX for name in groups):
            return None
        user = User.objects.filter(username=identity.subject).first()
        if user is None:
            user = self._create(identity, groups)
        elif not self._keep(user, groups):
            return None
        # Django's own flag would open everything, whatever the gate says
        user.is_superuser = False
        user.is_staff = False
        return user if self.user_can_authenticate(user) else None

    def _create(self, identity: Identity, groups: set[str]) -> User:
        with transaction.atomic():
            user, is_new = User.objects.get_or_create(username=identity.subject)
            if is_new:
                user.set_unusable_password()
                user.save(update_fields=["password"])
                self._set_groups(user, groups)
        return user

    def _keep(self, user: User, groups: set[str]) -> bool:
        """Bring the groups up to date; `False` for a user that is not this backend's."""
        has = set(user.groups.values_list("name", flat=True))
        if MARK not in has or user.has_usable_password():
            log.error("the local user `%s` has the name of a caller; it is not taken over", user.get_username())
            return False
        if {name for name in has if is_ours(name)} != groups:
            with transaction.atomic():
                self._set_groups(user, groups)
        return True

    def _set_groups(self, user: User, groups: set[str]) -> None:
        stale = [group for group in user.groups.all() if is_ours(group.name) and group.name not in groups]
        user.groups.remove(*stale)
        user.groups.add(*(Group.objects.get_or_create(name=name)[0] for name in sorted(groups)))


def wanted_groups(identity: Identity) -> set[str]:
    """Return the groups of a caller: the mark, one for its tenant, one for each role."""
    groups = {MARK} | {ROLE + role for role in identity.roles}
    return groups | {TENANT + identity.tenant} if identity.tenant else groups


def is_ours(name: str) -> bool:
    """Tell that this backend decides about the membership; all other groups are the app's."""
    return name == MARK or name.startswith((ROLE, TENANT))
