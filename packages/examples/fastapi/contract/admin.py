# Made by `cedargate schema types`; do not edit.
from typing import Any, Final, Literal, NotRequired, TypedDict

# A reference to an entity: {"__entity": {"type": …, "id": …}}.
Ref = TypedDict("Ref", {"__entity": "RefTo"})


class RefTo(TypedDict):
    type: str
    id: str


# A value that Cedar makes of a text, an address or a time: {"__extn": {"fn": …, "arg": …}}.
Extension = TypedDict("Extension", {"__extn": "ExtensionCall"})


class ExtensionCall(TypedDict):
    fn: Literal["ip", "decimal", "datetime", "duration"]
    arg: str


PORTAL: Final = "admin"

Action = Literal["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT", "suspendAccount", "viewAccount"]
ACTIONS: Final[tuple[Action, ...]] = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT", "suspendAccount", "viewAccount",)

ActionGroup = Literal["read", "write"]
GROUPS: Final[tuple[ActionGroup, ...]] = ("read", "write",)

ResourceType = Literal["Account", "Path"]
RESOURCE_TYPES: Final[tuple[ResourceType, ...]] = ("Account", "Path",)

Flag = str
FLAGS: Final[tuple[Flag, ...]] = ()

Flags = TypedDict("Flags", {})

AccountAttrs = TypedDict("AccountAttrs", {"tenant": Ref, "user": Ref})

GroupAttrs = TypedDict("GroupAttrs", {})

PathAttrs = TypedDict("PathAttrs", {})

PortalAttrs = TypedDict("PortalAttrs", {})

RoleAttrs = TypedDict("RoleAttrs", {})

TenantAttrs = TypedDict("TenantAttrs", {})

UserAttrs = TypedDict("UserAttrs", {"email": NotRequired[str]})

Context0_auth = TypedDict("Context0_auth", {"acr": NotRequired[str], "amr": list[str], "method": str, "scopes": list[str]})

Context0 = TypedDict("Context0", {"auth": NotRequired[Context0_auth], "method": NotRequired[str], "now": Extension, "path": NotRequired[str], "portal": str, "source_ip": NotRequired[Extension], "tenant": NotRequired[str]})

# The types of the resources that an action applies to.
RESOURCES: Final[dict[str, tuple[str, ...]]] = {
    "DELETE": ("Path",),
    "GET": ("Path",),
    "HEAD": ("Path",),
    "PATCH": ("Path",),
    "POST": ("Path",),
    "PUT": ("Path",),
    "suspendAccount": ("Account",),
    "viewAccount": ("Account",),
}
# The context of an action. The gate fills its own facts; a question may leave them out.
CONTEXTS: Final[dict[str, Any]] = {
    "DELETE": Context0,
    "GET": Context0,
    "HEAD": Context0,
    "PATCH": Context0,
    "POST": Context0,
    "PUT": Context0,
    "suspendAccount": Context0,
    "viewAccount": Context0,
}
