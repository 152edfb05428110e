// Made by `cedargate schema types`; do not edit.

/** A reference to an entity, as a value of an attribute or of a context. */
export type Ref<Type extends string = string> = { readonly __entity: { readonly type: Type; readonly id: string } };
/** A value that Cedar makes of a text: an address, a decimal number, a time. */
export type Extension<Fn extends string> = { readonly __extn: { readonly fn: Fn; readonly arg: string } };

export const portal = "admin";

export const actions = ["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT", "suspendAccount", "viewAccount"] as const;
export type Action = (typeof actions)[number];

export const groups = ["read", "write"] as const;
export type ActionGroup = (typeof groups)[number];

export const resourceTypes = ["Account", "Path"] as const;
export type ResourceType = (typeof resourceTypes)[number];

export const flags = [] as const;
export type Flag = (typeof flags)[number];

/** The value of each flag, for every caller or for some. */
export type Flags = Record<never, never>;

export type AccountAttrs = {
  readonly "tenant": Ref<"Tenant">;
  readonly "user": Ref<"User">;
};
export type GroupAttrs = Record<string, never>;
export type PathAttrs = Record<string, never>;
export type PortalAttrs = Record<string, never>;
export type RoleAttrs = Record<string, never>;
export type TenantAttrs = Record<string, never>;
export type UserAttrs = {
  readonly "email"?: string;
};

/** The attributes of each entity type. */
export interface Attrs {
  "Account": AccountAttrs;
  "Group": GroupAttrs;
  "Path": PathAttrs;
  "Portal": PortalAttrs;
  "Role": RoleAttrs;
  "Tenant": TenantAttrs;
  "User": UserAttrs;
}

/** The types of the resources that an action applies to. */
export interface Resources {
  "DELETE": "Path";
  "GET": "Path";
  "HEAD": "Path";
  "PATCH": "Path";
  "POST": "Path";
  "PUT": "Path";
  "suspendAccount": "Account";
  "viewAccount": "Account";
}

type Context0 = {
  readonly "auth"?: {
    readonly "acr"?: string;
    readonly "amr": ReadonlyArray<string>;
    readonly "method": string;
    readonly "scopes": ReadonlyArray<string>;
  };
  readonly "method"?: string;
  readonly "now": Extension<"datetime">;
  readonly "path"?: string;
  readonly "portal": string;
  readonly "source_ip"?: Extension<"ip">;
  readonly "tenant"?: string;
};

/** The context of an action. The gate fills its own facts; a question may leave them out. */
export interface Contexts {
  "DELETE": Context0;
  "GET": Context0;
  "HEAD": Context0;
  "PATCH": Context0;
  "POST": Context0;
  "PUT": Context0;
  "suspendAccount": Context0;
  "viewAccount": Context0;
}
