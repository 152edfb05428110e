// For server components and server rendering: the permissions of one request. No hook and no state of the browser.

import { type AnyContract, type Contract, Permissions, type PermissionsOptions, type Snapshot } from "@cedargate/rbac";

export interface ServerOptions extends Omit<PermissionsOptions, "headers" | "events" | "snapshot" | "identity"> {
  /** The gate's identity endpoints with their origin, such as `http://127.0.0.1:8900/api/v1/identity`. */
  readonly baseUrl: string;
  /** The caller's own credential, from the request that is answered: `cookie` or `authorization`, never a service's. */
  readonly headers: Readonly<Record<string, string>>;
}

export interface ServerPermissions<C extends Contract = AnyContract> {
  /** For `can`, `allowed`, `check` and `flag` on the server. */
  readonly permissions: Permissions<C>;
  /** For `createPermissions({ snapshot })` in the browser: the page is then hydrated with what it was rendered with. */
  readonly snapshot: Snapshot | undefined;
}

/** Loads the permissions of the caller. Make one for each request: they are one user's. Never rejects. */
export async function loadPermissions<C extends Contract = AnyContract>(
  options: ServerOptions,
): Promise<ServerPermissions<C>> {
  const permissions = new Permissions<C>({ ...options, events: false });
  await permissions.load();
  return { permissions, snapshot: permissions.getState().snapshot };
}
