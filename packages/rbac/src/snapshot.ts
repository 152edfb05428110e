// The permissions snapshot: its shape, the strict reading of it, and how long it counts.

import type { FlagValue, Resource, Verdict } from "./types.ts";

type Verdicts = Readonly<Record<string, Verdict>>;

/** The body of `GET permissions`. It is plain JSON, so that a server can hand it to the browser. */
export interface Snapshot {
  readonly portal: string;
  readonly revision: string;
  readonly subject: string;
  readonly tenant?: string | null;
  readonly roles: readonly string[];
  /** RFC 3339. */
  readonly expires_at: string;
  readonly actions: Verdicts;
  readonly resource_types: Readonly<Record<string, Verdicts>>;
  readonly flags: Readonly<Record<string, FlagValue>>;
}

/** Decisions about one resource. `step_up`: the stronger login (`acr_values`) that an action is denied without. */
export interface Check {
  readonly actions: Verdicts;
  readonly step_up: Readonly<Record<string, string>>;
}

/** Decisions about single resources, by the key of the resource. */
export type Checks = ReadonlyMap<string, Check>;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const isVerdict = (value: unknown): value is Verdict =>
  value === "allow" || value === "deny" || value === "conditional";

/** True for an object whose values are all verdicts. */
export const isVerdicts = (value: unknown): value is Verdicts =>
  isObject(value) && Object.values(value).every(isVerdict);

/** True for an object whose values are all texts. */
export const isTexts = (value: unknown): value is Readonly<Record<string, string>> =>
  isObject(value) && Object.values(value).every((text) => typeof text === "string");

const isFlag = (value: unknown) => ["boolean", "string", "number"].includes(typeof value);

/** The snapshot in `value`; `undefined` if a single member is not as it must be, or the portal is another one. */
export function parseSnapshot(value: unknown, portal: string): Snapshot | undefined {
  if (!isObject(value) || value["portal"] !== portal) return undefined;
  const { revision, subject, tenant, roles, expires_at, actions, resource_types, flags } = value;
  const valid =
    typeof revision === "string" &&
    revision !== "" &&
    typeof subject === "string" &&
    (tenant === undefined || tenant === null || typeof tenant === "string") &&
    Array.isArray(roles) &&
    roles.every((role) => typeof role === "string") &&
    typeof expires_at === "string" &&
    Number.isFinite(Date.parse(expires_at)) &&
    isVerdicts(actions) &&
    isObject(resource_types) &&
    Object.values(resource_types).every(isVerdicts) &&
    isObject(flags) &&
    Object.values(flags).every(isFlag);
  return valid ? (value as unknown as Snapshot) : undefined;
}

/** A member of the object itself: `constructor` and `__proto__` are names like any other, and unknown ones. */
export const own = <T>(object: Readonly<Record<string, T>> | undefined, name: string): T | undefined =>
  object && Object.hasOwn(object, name) ? object[name] : undefined;

/** Attributes in one order, so that equal resources have equal keys. */
const sorted = (_: string, value: unknown): unknown =>
  isObject(value) ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))) : value;

/** The key of a resource: type, id and stated attributes. */
export const keyOf = ({ type, id, attrs }: Resource): string => JSON.stringify([type, id, attrs ?? null], sorted);

/** What is known of an action. `resource` is a type or one resource. Unknown actions and types are denied. */
export function decide(snapshot: Snapshot, checks: Checks, action: string, resource?: Resource | string): Verdict {
  if (resource === undefined) return own(snapshot.actions, action) ?? "deny";
  const type = typeof resource === "string" ? resource : resource.type;
  const general = own(own(snapshot.resource_types, type), action) ?? "deny";
  if (general !== "conditional" || typeof resource === "string") return general;
  return own(checks.get(keyOf(resource))?.actions, action) ?? general;
}

/** Reads the time: `wall` is the browser's clock, which users set; `steady` only goes forward, but may stop in sleep. */
export interface Clock {
  readonly wall: () => number;
  readonly steady: () => number;
}

export const systemClock: Clock = { wall: () => Date.now(), steady: () => performance.now() };

/**
 * How long a snapshot counts. With the server's own time (`Date` and `Age` of the answer) a wrong clock of the browser
 * changes nothing. Both clocks then measure what passes, and the faster one decides.
 */
export class Lifetime {
  readonly #clock: Clock;
  readonly #wallEnd: number;
  readonly #steadyEnd: number;

  constructor(snapshot: Snapshot, headers: Headers | undefined, clock: Clock) {
    const date = Date.parse(headers?.get("date") ?? "");
    const age = Number(headers?.get("age") ?? 0) * 1000;
    const now = Number.isFinite(date) ? date + (age > 0 ? age : 0) : clock.wall();
    const left = Date.parse(snapshot.expires_at) - now;
    this.#clock = clock;
    this.#wallEnd = clock.wall() + left;
    this.#steadyEnd = clock.steady() + left;
  }

  /** Milliseconds that are left; 0 or less when it is over. */
  left(): number {
    return Math.min(this.#wallEnd - this.#clock.wall(), this.#steadyEnd - this.#clock.steady());
  }
}
