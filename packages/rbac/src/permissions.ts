// The client of the permissions endpoints: one snapshot, kept current by events and polling, and decisions about single
// resources. Whatever is in doubt is denied: see `#fail` for what an unanswered request means.

import type { ActionOf, AnyContract, Contract, FlagOf, ResourceOf, TypeOf, Verdict } from "./types.ts";
import type { ServerEvent } from "./events.ts";
import { keepFollowing } from "./follower.ts";
import { share } from "./shared.ts";
import { type Asked, ask, type Requester } from "./questions.ts";
import {
  type Check,
  type Clock,
  decide,
  keyOf,
  Lifetime,
  own,
  parseSnapshot,
  type Snapshot,
  systemClock,
} from "./snapshot.ts";
import { current, flagOf, nothing, type State, type Status, stepUpOf, verdictOf } from "./state.ts";
import { backOff, hasPage, isVisible, jittered, onActivity, onVisibility, onWindow } from "./timing.ts";

/** Who is logged in, as far as a session client knows. `undefined`: unknown; `null`: the user logged out. */
export interface IdentitySource {
  subscribe(listener: () => void): () => void;
  subject(): string | null | undefined;
  /** Asks who is logged in; never rejects. */
  session?(): Promise<unknown>;
}

export interface PermissionsOptions {
  /** The portal's slug. */
  readonly portal: string;
  /** The gate's identity endpoints. Default `/api/v1/identity`; outside of a browser with its origin. */
  readonly baseUrl?: string;
  /** Default: the platform's. */
  readonly fetch?: typeof globalThis.fetch;
  /** Headers of every request: a server sends its caller's cookie or token here. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Follow the gate's events. Default true. */
  readonly events?: boolean;
  /** Milliseconds between polls without events. Default 30,000. */
  readonly pollInterval?: number;
  /** Milliseconds for which the old snapshot counts after "changed". Default 5,000. */
  readonly staleFor?: number;
  /** Milliseconds until a request counts as failed. Default 10,000. */
  readonly timeout?: number;
  /** A snapshot that a server loaded for this very user and page. */
  readonly snapshot?: Snapshot | undefined;
  /** Drops the snapshot when another user logs in; refuses one of another user. */
  readonly identity?: IdentitySource;
  /** For tests. */
  readonly clock?: Clock;
}

/** Milliseconds after the last sign of a user: polls are requests, and would keep a deserted session from its end. */
const DESERTED = 300_000;
/** Decisions to keep that nothing watches: a page that comes back finds them. */
const CHECKS_MAX = 1_000;
const TIMER_MAX = 0x7fff_ffff;

interface Watched extends Asked {
  /** A denial is asked about, too: a stronger login may lift it. */
  readonly stepUp: boolean;
}

/** The permissions of one user in one portal. */
export class Permissions<C extends Contract = AnyContract> {
  readonly #options: PermissionsOptions;
  readonly #clock: Clock;
  readonly #requester: Requester;
  readonly #serverState: State;
  readonly #listeners = new Set<() => void>();
  readonly #watched = new Set<Watched>();
  #state: State;
  #etag: string | undefined;
  /** Counts what the snapshot was dropped for: an answer to an earlier question is thrown away. */
  #generation = 0;
  #starts = 0;
  #stop: AbortController | undefined;
  #loading: Promise<void> | undefined;
  /** Counts the reasons to ask: an answer that is under way may be older than the last one. */
  #wanted = 0;
  #isStreaming = false;
  #failures = 0;
  #poll: ReturnType<typeof setTimeout> | undefined;
  #end: ReturnType<typeof setTimeout> | undefined;
  #stale: ReturnType<typeof setTimeout> | undefined;
  #active = 0;
  #batch: Promise<void> | undefined;
  #asking: Promise<void> | undefined;
  /** Counts `forget`: an answer to an earlier question may describe the resource before its change. */
  #forgotten = 0;

  constructor(options: PermissionsOptions) {
    const { portal, baseUrl = "/api/v1/identity", headers = {}, timeout = 10_000 } = options;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    const url = `${baseUrl}/permissions`;
    this.#requester = {
      portal,
      url,
      timeout,
      // called through an arrow function: the platform's `fetch` refuses another `this`
      request: (path, init) =>
        (options.fetch ?? globalThis.fetch)(url + path, {
          credentials: "same-origin",
          cache: "no-store",
          redirect: "error",
          signal: AbortSignal.timeout(timeout),
          ...init,
          headers: { accept: "application/json", "x-requested-with": "cedargate", ...headers, ...init.headers },
        }),
    };
    const handed = options.snapshot && parseSnapshot(options.snapshot, portal);
    this.#state = handed ? this.#ready(handed) : nothing("loading");
    this.#serverState = this.#state;
  }

  /** The portal's slug. */
  get portal(): string {
    return this.#options.portal;
  }

  /** The verdict about an action: on anything, on a type (`"Order"`), or on one resource. */
  can<A extends ActionOf<C>>(action: A, resource?: TypeOf<C, A> | ResourceOf<C, TypeOf<C, A>>): Verdict {
    return verdictOf<C, A>(this.#state, action, resource);
  }

  /** True only for "allow". */
  allowed<A extends ActionOf<C>>(action: A, resource?: TypeOf<C, A> | ResourceOf<C, TypeOf<C, A>>): boolean {
    return this.can(action, resource) === "allow";
  }

  /**
   * The stronger login (`acr_values`) without which the gate denies the action; `undefined` where a login does not help,
   * or the gate was not asked about this resource. Offer the action with it: the gate answers with the challenge.
   */
  stepUp<A extends ActionOf<C>>(action: A, resource: ResourceOf<C, TypeOf<C, A>>): string | undefined {
    return stepUpOf<C, A>(this.#state, action, resource);
  }

  /** The value of a feature flag; `undefined` without a snapshot. */
  flag<N extends C["flag"]>(name: N): FlagOf<C, N> | undefined {
    return flagOf(this.#state, name) as FlagOf<C, N> | undefined;
  }

  /** What is known now. The same object until it changes. */
  readonly getState = (): State => this.#state;

  /** What was known when this object was made: the snapshot that a server handed over, or nothing. */
  readonly getServerState = (): State => this.#serverState;

  /** Calls `listener` after every change; returns the function that ends this. */
  readonly subscribe = (listener: () => void): (() => void) => {
    const entry = () => {
      listener();
    };
    this.#listeners.add(entry);
    return () => {
      this.#listeners.delete(entry);
    };
  };

  /** Loads the snapshot and keeps it current, until the returned function is called (as often as `start` was). */
  start(): () => void {
    this.#starts += 1;
    if (this.#starts === 1) this.#run();
    let isStopped = false;
    return () => {
      if (isStopped) return;
      isStopped = true;
      this.#starts -= 1;
      if (this.#starts === 0) this.#stop?.abort();
    };
  }

  /** Asks the gate again. Never rejects: the state says what came of it. */
  load(): Promise<void> {
    this.#loading ??= this.#loadUntilClean().finally(() => {
      this.#loading = undefined;
    });
    return this.#loading;
  }

  /** Resolves when the first answer is there. */
  async loaded(): Promise<State> {
    if (this.#state.status === "loading") await this.load();
    return this.#state;
  }

  /** Forgets everything at once, and asks again if the client runs: another user may have logged in. */
  reset(status: Status = "loading"): void {
    this.#drop(status);
    this.#wanted += 1;
    if (!this.#loading && this.#starts > 0) void this.load();
  }

  /** Keeps decisions about `resource` at hand until the returned function is called. */
  watch<A extends ActionOf<C>>(
    resource: ResourceOf<C, TypeOf<C, A>>,
    actions: readonly A[],
    about?: "stepUp",
  ): () => void {
    const entry: Watched = { key: keyOf(resource), resource, actions, stepUp: about !== undefined };
    this.#watched.add(entry);
    void this.#ask();
    return () => {
      this.#watched.delete(entry);
    };
  }

  /**
   * Decisions about single resources, by `POST permissions`. Calls of one moment share a request, and what this revision
   * answered is not asked again. Never rejects: what the gate did not answer is denied.
   */
  async check<A extends ActionOf<C>>(
    resources: readonly ResourceOf<C, TypeOf<C, A>>[],
    actions: readonly A[],
  ): Promise<Checked<C, A>[]> {
    const ends = resources.map((resource) => this.watch(resource, actions));
    if (!current(this.#state)) await this.load();
    await this.#ask();
    const state = this.#state;
    for (const end of ends) end();
    return resources.map((resource) => ({
      resource,
      can: (action: A) => (current(this.#state) ? verdictOf<C, A>(state, action, resource) : "deny"),
    }));
  }

  /** Forgets decisions about a resource that changed, and asks again for those that are watched. */
  forget(resource: ResourceOf<C>): void {
    const { type, id } = resource;
    const prefix = JSON.stringify([type, id]).slice(0, -1);
    const checks = new Map([...this.#state.checks].filter(([key]) => !key.startsWith(`${prefix},`)));
    this.#forgotten += 1;
    this.#set({ ...this.#state, checks });
    void this.#ask();
  }

  #run(): void {
    const stop = new AbortController();
    this.#stop = stop;
    const { signal } = stop;
    const seen = () => {
      if (isVisible()) void this.#reload();
    };
    this.#active = this.#clock.steady();
    onActivity(() => {
      const wasDeserted = this.#isDeserted();
      this.#active = this.#clock.steady();
      if (wasDeserted) seen();
    }, signal);
    onVisibility(seen, signal);
    onWindow("online", seen, signal);
    // a page from the back/forward cache may belong to a session that ended
    onWindow(
      "pageshow",
      (event) => {
        if ("persisted" in event && event.persisted) this.reset();
      },
      signal,
    );
    const forget = this.#options.identity?.subscribe(() => {
      this.#compareSubject();
    });
    signal.addEventListener("abort", () => {
      forget?.();
      for (const timer of [this.#poll, this.#end, this.#stale]) clearTimeout(timer);
      this.#isStreaming = false;
    });
    this.#keepLifetime();
    void this.load();
    if (this.#options.events !== false) void this.#followEvents(signal);
  }

  /** Asks again, also if an answer is under way: it may be older than the reason to ask. */
  #reload(): Promise<void> {
    this.#wanted += 1;
    return this.load();
  }

  async #loadUntilClean(): Promise<void> {
    for (let asked = -1; asked !== this.#wanted;) {
      asked = this.#wanted;
      await this.#loadOnce();
    }
    this.#schedule();
  }

  async #loadOnce(): Promise<void> {
    const subject = this.#options.identity?.subject();
    if (subject === null) {
      this.#drop("unauthenticated");
      return;
    }
    const generation = this.#generation;
    const etag = current(this.#state) && this.#etag;
    const asked = subject === undefined ? this.#options.identity?.session?.() : undefined;
    try {
      const response = await this.#request("", etag ? { headers: { "if-none-match": etag } } : {});
      const body: unknown = response.status === 200 ? await response.json() : undefined;
      // a snapshot counts only for the user who is known to be logged in
      await asked;
      if (generation !== this.#generation) return;
      if (response.status === 304 && etag) await this.#publish(this.#state, etag);
      else if (response.status === 200) await this.#accept(body, response.headers);
      else this.#refused(response.status);
    } catch (error) {
      if (generation === this.#generation) this.#fail(asError(error));
    }
  }

  /** A new snapshot. Decisions that are watched are asked first: what is on the screen changes once. */
  async #accept(body: unknown, headers: Headers): Promise<void> {
    const snapshot = parseSnapshot(body, this.portal);
    const { identity } = this.#options;
    if (!snapshot || (identity && identity.subject() !== snapshot.subject)) {
      this.#drop("unavailable", new Error(`the snapshot is ${snapshot ? "another user's" : "malformed"}`));
      this.#failures += 1;
      return;
    }
    if (this.#state.snapshot && !isSameUser(this.#state.snapshot, snapshot)) this.#drop("loading");
    const etag = headers.get("etag") ?? undefined;
    const next = this.#ready(snapshot, headers);
    if (!current(next)) {
      this.#drop("unauthenticated");
      this.#failures += 1;
      return;
    }
    await this.#publish(next, etag);
  }

  async #publish(next: State, etag: string | undefined): Promise<void> {
    const generation = this.#generation;
    const { checks, error } = await this.#answers(next);
    if (generation !== this.#generation) return;
    clearTimeout(this.#stale);
    this.#stale = undefined;
    this.#failures = error ? this.#failures + 1 : 0;
    this.#etag = etag;
    const isSame = this.#state.snapshot === next.snapshot;
    this.#set({ ...next, status: "ready", checks: isSame ? this.#merged(checks) : checks, error });
    this.#keepLifetime();
  }

  /** Answers about what is watched and not known yet. */
  async #answers(state: State): Promise<{ checks: State["checks"]; error?: Error }> {
    const asked = this.#unknown(state);
    const checks = new Map<string, Check>();
    if (asked.length === 0) return { checks };
    const forgotten = this.#forgotten;
    try {
      for (const answer of await ask(this.#requester, asked)) {
        const isCurrent = answer.revision === state.snapshot?.revision;
        const isOwn = answer.subject === undefined || answer.subject === state.snapshot?.subject;
        if (!isCurrent || !isOwn) throw new Error("the answer is another snapshot's");
        for (const { key, check } of answer.resources) checks.set(key, check);
      }
      if (forgotten === this.#forgotten) return { checks };
      void this.#ask();
      return { checks: new Map() };
    } catch (error) {
      return { checks: new Map(), error: asError(error) };
    }
  }

  /** The known decisions and the fresh ones, newer ones last. Of those that nothing watches, the oldest go when they are too many. */
  #merged(fresh: State["checks"]): State["checks"] {
    const old = this.#state.checks;
    if (fresh.size === 0) return old;
    const all = new Map(old);
    for (const [key, { actions, step_up }] of fresh) {
      const before = all.get(key);
      all.delete(key);
      all.set(key, { actions: { ...before?.actions, ...actions }, step_up: { ...before?.step_up, ...step_up } });
    }
    const watched = new Set([...this.#watched].map(({ key }) => key));
    for (const key of all.keys()) {
      if (all.size - watched.size > CHECKS_MAX && !watched.has(key)) all.delete(key);
    }
    return all;
  }

  /** What is watched, in doubt by the snapshot alone, and not answered yet. */
  #unknown({ snapshot, checks }: State): Asked[] {
    if (!snapshot) return [];
    return [...this.#watched].flatMap(({ key, resource, actions, stepUp }) => {
      const missing = actions.filter((action) => {
        const general = decide(snapshot, new Map(), action, resource);
        const isOpen = general === "conditional" || (stepUp && general === "deny");
        return isOpen && own(checks.get(key)?.actions, action) === undefined;
      });
      return missing.length > 0 ? [{ key, resource, actions: missing }] : [];
    });
  }

  /** Asks for what is missing. All that is asked in one moment shares a request; the next one waits for its answer. */
  #ask(): Promise<void> {
    this.#batch ??= Promise.resolve(this.#asking).then(() => {
      this.#batch = undefined;
      this.#asking = this.#askNow();
      return this.#asking;
    });
    return this.#batch;
  }

  async #askNow(): Promise<void> {
    // a load that is under way asks for what it finds
    await this.#loading;
    const before = this.#state;
    if (!current(before)) return;
    const { checks, error } = await this.#answers(before);
    // INVARIANT: checks belong to the snapshot that was there when they were asked
    if (this.#state.snapshot !== before.snapshot) return;
    if (checks.size > 0 || error) this.#set({ ...this.#state, checks: this.#merged(checks), error });
    if (!error) return;
    this.#failures += 1;
    this.#schedule();
  }

  /** The gate answered, and not with a snapshot. */
  #refused(status: number): void {
    const error = new Error(`the gate answered ${String(status)}`);
    if (status === 408 || status === 429 || status >= 500) {
      this.#fail(error);
      return;
    }
    this.#failures += 1;
    if (status === 401) this.#drop("unauthenticated");
    else this.#drop("unavailable", error);
  }

  /** The gate did not answer. After "changed" nothing counts any more; else the snapshot counts until it ends. */
  #fail(error: Error): void {
    this.#failures += 1;
    if (this.#stale !== undefined || !current(this.#state)) this.#drop("unavailable", error);
    else this.#set({ ...this.#state, status: "stale", error });
  }

  /** The gate said that the snapshot is old: it counts until the next answer, and not longer than `staleFor`. */
  #changed(): Promise<void> {
    if (current(this.#state)) {
      this.#stale ??= setTimeout(() => {
        this.#drop("unavailable", new Error("the new snapshot did not come"));
      }, this.#options.staleFor ?? 5_000);
      this.#set({ ...this.#state, status: "stale" });
    }
    return this.#reload();
  }

  #compareSubject(): void {
    const subject = this.#options.identity?.subject();
    const known = this.#state.snapshot?.subject;
    if (subject === null) this.#drop("unauthenticated");
    // an answer that is under way is compared when it comes
    else if (subject !== undefined && subject !== known && (known !== undefined || !this.#loading)) this.reset();
  }

  #drop(status: Status, error?: Error): void {
    this.#generation += 1;
    this.#etag = undefined;
    clearTimeout(this.#stale);
    clearTimeout(this.#end);
    this.#stale = undefined;
    this.#set(nothing(status, error));
  }

  #ready(snapshot: Snapshot, headers?: Headers): State {
    return { status: "ready", snapshot, checks: new Map(), lifetime: new Lifetime(snapshot, headers, this.#clock) };
  }

  #set(state: State): void {
    this.#state = state;
    for (const listener of [...this.#listeners]) listener();
  }

  /** Drops the snapshot when it ends, and asks whether there is a newer one. */
  #keepLifetime(): void {
    clearTimeout(this.#end);
    const { lifetime } = this.#state;
    if (!lifetime || this.#starts === 0) return;
    this.#end = setTimeout(
      () => {
        if (lifetime.left() > 0) this.#keepLifetime();
        else this.reset();
      },
      Math.min(lifetime.left(), TIMER_MAX),
    );
  }

  #schedule(): void {
    clearTimeout(this.#poll);
    if (this.#starts === 0) return;
    // the stream tells what changes
    if (this.#isStreaming && this.#failures === 0) return;
    const { pollInterval = 30_000 } = this.#options;
    const pause = this.#failures > 0 ? Math.min(backOff(this.#failures), pollInterval) : jittered(pollInterval);
    this.#poll = setTimeout(() => {
      if (isVisible() && !this.#isDeserted()) void this.load();
      else this.#schedule();
    }, pause);
  }

  #isDeserted(): boolean {
    return hasPage() && this.#clock.steady() - this.#active > DESERTED;
  }

  async #followEvents(signal: AbortSignal): Promise<void> {
    const isStreaming = (value: boolean) => {
      // a further failure does not put off the next poll
      if (this.#isStreaming === value) return;
      this.#isStreaming = value;
      this.#schedule();
    };
    const { url, portal } = this.#requester;
    const heard = ({ event, data }: ServerEvent) => {
      if (event !== "changed") return;
      if (namesRevision(data)) void this.#changed();
      // the session ended: what it allowed is denied from now on
      else this.reset();
    };
    // with headers of its own, this caller may be another one than the browser's
    const shared = this.#options.headers ? undefined : share(`${url} ${portal}`, heard, signal);
    await keepFollowing(
      {
        turn: shared?.turn,
        isWanted: () => current(this.#state) !== undefined,
        subscribe: this.subscribe,
        request: (aborted) =>
          this.#request("/events", {
            signal: aborted,
            headers: { accept: "text/event-stream", "last-event-id": this.#state.snapshot?.revision ?? "" },
          }),
        openTimeout: this.#requester.timeout,
        onOpen: (isAgain) => {
          if (isAgain) void this.#reload();
          isStreaming(true);
        },
        onEvent: (event) => {
          shared?.tell(event);
          heard(event);
        },
        onEnd: (status) => {
          isStreaming(false);
          if (status === 401) void this.#reload();
        },
      },
      signal,
    );
  }

  #request(path: string, init: { headers?: Record<string, string>; signal?: AbortSignal }): Promise<Response> {
    return this.#requester.request(`${path}?portal=${encodeURIComponent(this.portal)}`, init);
  }
}

/** The decisions about one resource of a `check`. */
export interface Checked<C extends Contract, A extends ActionOf<C>> {
  readonly resource: ResourceOf<C, TypeOf<C, A>>;
  can(action: A): Verdict;
}

/** Permissions of a portal. They load with the first `start`, `load` or `check`. */
export const createPermissions = <C extends Contract = AnyContract>(options: PermissionsOptions): Permissions<C> =>
  new Permissions<C>(options);

const isSameUser = (a: Snapshot, b: Snapshot) => a.subject === b.subject && (a.tenant ?? null) === (b.tenant ?? null);

const asError = (error: unknown) => (error instanceof Error ? error : new Error(String(error)));

/** True for a new revision. Every other reason, and a malformed event, counts as the end of the session. */
const namesRevision = (data: string): boolean => {
  try {
    const { reason, revision } = JSON.parse(data) as { reason?: unknown; revision?: unknown };
    return typeof revision === "string" && reason === undefined;
  } catch {
    return false;
  }
};
