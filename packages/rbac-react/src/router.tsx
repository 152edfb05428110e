"use client";

// Guards for the routes of React Router: before a route's data loads, and around its element.

import type { ActionOf, AnyContract, Contract, Permissions, ResourceOf, TypeOf } from "@cedargate/rbac";
import type { ReactElement, ReactNode } from "react";
import type { LoaderFunctionArgs } from "react-router";

import { Can, type CanProps } from "./permissions.tsx";

type Target<C extends Contract, A extends ActionOf<C>> = TypeOf<C, A> | ResourceOf<C, TypeOf<C, A>>;

/**
 * A loader that lets a route's data load only if the action is allowed. Otherwise it throws a `Response`, which the
 * route's error element shows: 401 without a session, else 403. `resource` may depend on the address.
 */
export function guard<C extends Contract = AnyContract, A extends ActionOf<C> = ActionOf<C>, Data = null>(
  permissions: Permissions<C>,
  action: A,
  resource?: Target<C, A> | ((args: LoaderFunctionArgs) => Target<C, A>),
  loader?: (args: LoaderFunctionArgs) => Data | Promise<Data>,
): (args: LoaderFunctionArgs) => Promise<Data | null> {
  return async (args) => {
    const target = typeof resource === "function" ? resource(args) : resource;
    if (!(await isAllowed(permissions, action, target))) {
      const isAnonymous = permissions.getState().status === "unauthenticated";
      // React Router takes a thrown response for the answer of the route
      // eslint-disable-next-line @typescript-eslint/only-throw-error
      throw isAnonymous ? refusal(401, "Unauthorized") : refusal(403, "Forbidden");
    }
    return loader ? loader(args) : null;
  };
}

async function isAllowed<C extends Contract, A extends ActionOf<C>>(
  permissions: Permissions<C>,
  action: A,
  target: Target<C, A> | undefined,
): Promise<boolean> {
  await permissions.loaded();
  if (target === undefined || typeof target === "string") return permissions.allowed(action, target);
  const [checked] = await permissions.check<A>([target], [action]);
  return checked?.can(action) === "allow";
}

const refusal = (status: number, statusText: string) => new Response(null, { status, statusText });

/** Shows a route's element only while the action is allowed; a change of the policies takes it away. */
export function Guard(props: CanProps & { readonly fallback: ReactNode }): ReactElement {
  return <Can {...props} />;
}
