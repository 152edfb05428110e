"""Makes Django's user of a verified identity: no password, no session, roles and tenant as groups.

A user of this backend is in the group `cedargate`. A user of the same name that is not (a local superuser, say) is never taken
over: the caller is then anonymous; `adopt` hands a local user over. The backend sets neither `is_staff` nor `is_superuser`.

The groups in the database are those of the user's last request. One person may have other roles in another portal at the same
time, so `has_perm` does not read them there: it counts the groups of this request's identity.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, cast

from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Group, Permission
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models import Q

if TYPE_CHECKING:
    from collections.abc import Mapping

    from django.db.models import QuerySet
    from django.http import HttpRequest

    from cedargate._identity import Identity

MARK: Final = "cedargate"
ROLE: Final = "role:"
TENANT: Final = "tenant:"
GROUP_MAX: Final = 150
# on a user of one request: the names of the groups that its identity has
GROUPS: Final = "_cedargate_groups"
log = logging.getLogger("cedargate")


class GateBackend(ModelBackend):
    """Django's model backend, with the gate's assertion in place of a password. Works with your own user model, if it has groups.

    A subclass may change `username` and `fields`.
    """

    def username(self, identity: Identity) -> str:
        """Return the value of the model's `USERNAME_FIELD`: the subject, which is the only name that one person has alone."""
        return identity.subject

    def fields(self, identity: Identity) -> Mapping[str, Any]:  # noqa: ARG002  # for subclasses
        """Return further fields of a user that is made at its first visit."""
        return {}

    def authenticate(  # type: ignore[override]  # no name and no password
        self,
        request: HttpRequest | None,  # noqa: ARG002
        identity: Identity | None = None,
        **_: Any,
    ) -> Any:
        """Return the user of the identity, made at the first visit; `None` without an identity."""
        if identity is None:
            return None
        name, groups = self.username(identity), wanted_groups(identity)
        if not name or len(name) > _name_max() or any(len(group) > GROUP_MAX for group in groups):
            return None
        model = _model()
        user = model.objects.filter(**{model.USERNAME_FIELD: name}).first()
        if user is None:
            user, is_new = self._create(name, identity, groups)
        else:
            is_new = False
        if not is_new and not self._keep(user, name, groups):
            return None
        # Django's own flag would open everything, whatever the gate says
        user.is_superuser = False
        user.is_staff = False
        setattr(user, GROUPS, frozenset(groups))
        return user if self.user_can_authenticate(user) else None

    def _get_group_permissions(self, user_obj: Any) -> QuerySet[Permission]:
        groups = getattr(user_obj, GROUPS, None)
        if groups is None:
            return cast("QuerySet[Permission]", super()._get_group_permissions(user_obj))  # type: ignore[misc]
        ours = Q(name=MARK) | Q(name__startswith=ROLE) | Q(name__startswith=TENANT)
        counting = Group.objects.filter(Q(name__in=groups) | (Q(pk__in=user_obj.groups.all()) & ~ours))
        return Permission.objects.filter(group__in=counting)

    def _create(self, name: str, identity: Identity, groups: set[str]) -> tuple[Any, bool]:
        model = _model()
        with transaction.atomic():
            user, is_new = model.objects.get_or_create(**{model.USERNAME_FIELD: name}, defaults=dict(self.fields(identity)))
            if is_new:
                user.set_unusable_password()
                user.save(update_fields=["password"])
                _set_groups(user, groups)
        return user, is_new

    def _keep(self, user: Any, name: str, groups: set[str]) -> bool:
        """Bring the groups up to date; `False` for a user that is not this backend's."""
        # a database that ignores case finds `Alice` for `alice`, who is another caller
        if user.get_username() != name:
            log.error("the user `%s` is not the caller `%s`; it is not taken over", user.get_username(), name)
            return False
        has = set(user.groups.values_list("name", flat=True))
        if MARK not in has or user.has_usable_password():
            log.error("the local user `%s` has the name of a caller; it is not taken over (see `adopt`)", name)
            return False
        if {group for group in has if is_ours(group)} != groups:
            with transaction.atomic():
                _set_groups(user, groups)
        return True


def adopt(user: Any) -> None:
    """Hand a local user over to the gate: the caller of its name is this user from now on, and its password no longer counts.

    What the user owns in the database stays its own. Make sure that the name belongs to the same person at the identity provider.
    """
    _model()
    with transaction.atomic():
        user.set_unusable_password()
        user.save(update_fields=["password"])
        user.groups.add(Group.objects.get_or_create(name=MARK)[0])


def _set_groups(user: Any, groups: set[str]) -> None:
    stale = [group for group in user.groups.all() if is_ours(group.name) and group.name not in groups]
    user.groups.remove(*stale)
    user.groups.add(*(Group.objects.get_or_create(name=name)[0] for name in sorted(groups)))


def _model() -> Any:
    model = get_user_model()
    if not hasattr(model, "groups"):
        raise ImproperlyConfigured("GateBackend needs a user model with groups: add Django's PermissionsMixin to yours")
    return model


def _name_max() -> int:
    model = _model()
    length: int | None = model._meta.get_field(model.USERNAME_FIELD).max_length  # noqa: SLF001  # Django's documented API
    return GROUP_MAX if length is None else length


def wanted_groups(identity: Identity) -> set[str]:
    """Return the groups of a caller: the mark, one for its tenant, one for each role."""
    groups = {MARK} | {ROLE + role for role in identity.roles}
    return groups | {TENANT + identity.tenant} if identity.tenant else groups


def is_ours(name: str) -> bool:
    """Tell that this backend decides about the membership; all other groups are the app's."""
    return name == MARK or name.startswith((ROLE, TENANT))
