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


PORTAL: Final = "customer"

Action = Literal["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT", "cancelOrder", "editOrder", "viewOrder", "viewProduct"]
ACTIONS: Final[tuple[Action, ...]] = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT", "cancelOrder", "editOrder", "viewOrder", "viewProduct",)

ActionGroup = Literal["read", "write"]
GROUPS: Final[tuple[ActionGroup, ...]] = ("read", "write",)

ResourceType = Literal["Order", "Path", "Product"]
RESOURCE_TYPES: Final[tuple[ResourceType, ...]] = ("Order", "Path", "Product",)

Flag = str
FLAGS: Final[tuple[Flag, ...]] = ()

Flags = TypedDict("Flags", {})

GroupAttrs = TypedDict("GroupAttrs", {})

OrderAttrs = TypedDict("OrderAttrs", {"owner": Ref, "status": str, "tenant": Ref})

PathAttrs = TypedDict("PathAttrs", {})

PortalAttrs = TypedDict("PortalAttrs", {})

ProductAttrs = TypedDict("ProductAttrs", {})

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
    "cancelOrder": ("Order",),
    "editOrder": ("Order",),
    "viewOrder": ("Order",),
    "viewProduct": ("Product",),
}
# The context of an action. The gate fills its own facts; a question may leave them out.
CONTEXTS: Final[dict[str, Any]] = {
    "DELETE": Context0,
    "GET": Context0,
    "HEAD": Context0,
    "PATCH": Context0,
    "POST": Context0,
    "PUT": Context0,
    "cancelOrder": Context0,
    "editOrder": Context0,
    "viewOrder": Context0,
    "viewProduct": Context0,
}
