"use client";

// React's view of the permissions. The server renders, and the browser hydrates, with the snapshot that the server handed
// over; without one everything is denied until the gate has answered. Nothing is shown that is not allowed.

import {
  type ActionOf,
  type AnyContract,
  type Contract,
  type FlagOf,
  type FlagValue,
  flagOf,
  type Permissions,
  type Resource,
  type ResourceOf,
  type State,
  stepUpOf,
  type TypeOf,
  type Verdict,
  verdictOf,
} from "@cedargate/rbac";
import { createContext, type ReactElement, type ReactNode, useContext, useEffect, useSyncExternalStore } from "react";

const Context = createContext<Permissions | undefined>(undefined);

export interface PermissionsProviderProps<C extends Contract = AnyContract> {
  readonly permissions: Permissions<C>;
  readonly children: ReactNode;
}

/** Gives the components below their permissions, and keeps these current while it is mounted. */
export function PermissionsProvider<C extends Contract>({
  permissions,
  children,
}: PermissionsProviderProps<C>): ReactElement {
  useEffect(() => permissions.start(), [permissions]);
  return <Context.Provider value={permissions as unknown as Permissions}>{children}</Context.Provider>;
}

/** The provider's permissions. Throws without a provider. */
export function usePermissions(): Permissions {
  const permissions = useContext(Context);
  if (!permissions) throw new Error("please render a <PermissionsProvider> above this component");
  return permissions;
}

/** What is known now: status, snapshot, error. */
export function usePermissionsState(): State {
  const { subscribe, getState, getServerState } = usePermissions();
  return useSyncExternalStore(subscribe, getState, getServerState);
}

/** One value of what is known. The component renders again only when this value changes: a table has thousands of them. */
function useKnown<T extends FlagValue | undefined>(read: (state: State) => T): T {
  const { subscribe, getState, getServerState } = usePermissions();
  return useSyncExternalStore(
    subscribe,
    () => read(getState()),
    () => read(getServerState()),
  );
}

/** Keeps the decision about one resource at hand while the component is mounted. */
function useWatch(action: string, resource?: string | Resource, about?: "stepUp"): void {
  const permissions = usePermissions();
  const single = typeof resource === "object" ? JSON.stringify(resource) : undefined;
  useEffect(() => {
    // the text changes with the resource; the object is a new one at each rendering
    return single === undefined ? undefined : permissions.watch(JSON.parse(single) as Resource, [action], about);
  }, [permissions, single, action, about]);
}

/** The verdict about an action. Asks the gate about the one resource where type and action alone do not decide. */
export function useVerdict(action: string, resource?: string | Resource): Verdict {
  useWatch(action, resource);
  return useKnown((state) => verdictOf(state, action, resource));
}

/** The stronger login without which the gate denies an action on one resource; `undefined` where none helps. */
export function useStepUp(action: string, resource: Resource): string | undefined {
  useWatch(action, resource, "stepUp");
  return useKnown((state) => stepUpOf(state, action, resource));
}

/** True only if the gate allows the action. */
export function useCan(action: string, resource?: string | Resource): boolean {
  useWatch(action, resource);
  return useKnown((state) => verdictOf(state, action, resource) === "allow");
}

/** The value of a feature flag; `undefined` while nothing is known. */
export function useFlag(name: string): FlagValue | undefined {
  return useKnown((state) => flagOf(state, name));
}

/** The permissions after the first answer: until then the component suspends. A server without a snapshot does not wait. */
export function useLoadedPermissions(): Permissions {
  const permissions = usePermissions();
  const { status } = usePermissionsState();
  const isServer = typeof document === "undefined";
  // React 18 and 19 both wait for a promise that is thrown
  // eslint-disable-next-line @typescript-eslint/only-throw-error
  if (status === "loading" && !isServer) throw permissions.loaded();
  return permissions;
}

export interface CanProps<C extends Contract = AnyContract, A extends ActionOf<C> = ActionOf<C>> {
  readonly action: A;
  readonly resource?: TypeOf<C, A> | ResourceOf<C, TypeOf<C, A>> | undefined;
  /** Shown while the action is not allowed. */
  readonly fallback?: ReactNode;
  readonly children: ReactNode;
}

/** Shows its children only while the action is allowed. */
export function Can({ action, resource, fallback = null, children }: CanProps): ReactElement {
  // an element and no `ReactNode`: the types of early React 18 take nothing else for a component
  return <>{useCan(action, resource) ? children : fallback}</>;
}

/** The hooks and the component for one portal's contract: a misspelt action or flag is a compile error. */
export interface Hooks<C extends Contract> {
  readonly usePermissions: () => Permissions<C>;
  readonly useLoadedPermissions: () => Permissions<C>;
  readonly useVerdict: <A extends ActionOf<C>>(action: A, resource?: Target<C, A>) => Verdict;
  readonly useCan: <A extends ActionOf<C>>(action: A, resource?: Target<C, A>) => boolean;
  readonly useStepUp: <A extends ActionOf<C>>(action: A, resource: ResourceOf<C, TypeOf<C, A>>) => string | undefined;
  readonly useFlag: <N extends C["flag"]>(name: N) => FlagOf<C, N> | undefined;
  readonly Can: <A extends ActionOf<C>>(props: CanProps<C, A>) => ReactElement;
}

type Target<C extends Contract, A extends ActionOf<C>> = TypeOf<C, A> | ResourceOf<C, TypeOf<C, A>>;

/** The same hooks with the types of `C`. */
export const hooksFor = <C extends Contract>(): Hooks<C> =>
  ({ usePermissions, useLoadedPermissions, useVerdict, useStepUp, useCan, useFlag, Can }) as unknown as Hooks<C>;
