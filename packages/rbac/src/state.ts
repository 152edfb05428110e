// The state that readers see. It is immutable: each change makes a new one, so that React can compare by identity.

import type { ActionOf, Contract, FlagValue, ResourceOf, TypeOf, Verdict } from "./types.ts";
import { type Checks, decide, keyOf, type Lifetime, own, type Snapshot } from "./snapshot.ts";

/**
 * - `loading`: no snapshot yet.
 * - `ready`: the snapshot is what the gate said last.
 * - `stale`: the gate said "changed", or does not answer; the last snapshot counts for a limited time.
 * - `unauthenticated`: no session, or it ended.
 * - `unavailable`: no usable answer.
 */
export type Status = "loading" | "ready" | "stale" | "unauthenticated" | "unavailable";

/** What is known now. Without a snapshot everything is denied. */
export interface State {
  readonly status: Status;
  readonly snapshot?: Snapshot | undefined;
  readonly checks: Checks;
  readonly lifetime?: Lifetime | undefined;
  readonly error?: Error | undefined;
}

/** No snapshot and no checks. */
export const nothing = (status: Status, error?: Error): State => ({ status, checks: new Map(), error });

/** The state's snapshot, while it counts. */
export const current = (state: State): Snapshot | undefined =>
  state.lifetime && state.lifetime.left() > 0 ? state.snapshot : undefined;

/** The verdict about an action: on anything, on a type, or on one resource. Any doubt is a deny. */
export function verdictOf<C extends Contract, A extends ActionOf<C>>(
  state: State,
  action: A,
  resource?: TypeOf<C, A> | ResourceOf<C, TypeOf<C, A>>,
): Verdict {
  const snapshot = current(state);
  return snapshot ? decide(snapshot, state.checks, action, resource) : "deny";
}

/** The stronger login without which an action on one resource is denied. */
export function stepUpOf<C extends Contract, A extends ActionOf<C>>(
  state: State,
  action: A,
  resource: ResourceOf<C, TypeOf<C, A>>,
): string | undefined {
  return current(state) && own(state.checks.get(keyOf(resource))?.step_up, action);
}

/** The value of a flag; `undefined` for an unknown one, and without a snapshot. */
export function flagOf(state: State, name: string): FlagValue | undefined {
  return own(current(state)?.flags, name);
}
