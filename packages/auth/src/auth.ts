// Login, logout and session state of a browser behind the gate, and a `fetch` that knows what a refusal means.
//
// The session is a cookie that no script can read. This module keeps no token, and writes nothing to a script storage but
// the time of the last redirect to the login, so that a login that does not help is not begun in a circle.

import { type Challenge, challengeOf, returnPath } from "./challenge.ts";
import { type AuthState, isSameUser, parseSession, type Reason, reasonOf, type Session } from "./session.ts";

export interface AuthOptions {
  /** The portal's slug. */
  readonly portal: string;
  /** The gate's identity endpoints. Default `/api/v1/identity`. */
  readonly baseUrl?: string;
  /** Where a login returns to if the present address cannot be kept. Default `/`. */
  readonly home?: string;
  /** Default: the platform's. */
  readonly fetch?: typeof globalThis.fetch;
  /** Milliseconds until a request counts as failed. Default 10,000. */
  readonly timeout?: number;
  /** A request found no session. Default: to the login and back, once. An app can show a page instead. */
  readonly onUnauthenticated?: (reason: Reason) => void;
  /** A policy asks for a stronger login. Default: to that login and back. An app can ask its user first. */
  readonly onStepUp?: (challenge: Challenge) => void;
  /** Default: the browser's. */
  readonly location?: Pick<Location, "origin" | "pathname" | "search" | "assign">;
}

export interface LoginOptions extends Challenge {
  /** The path to return to. Default: the present address. Another origin is never returned to. */
  readonly rd?: string;
  readonly prompt?: string;
  readonly login_hint?: string;
}

type Message = { readonly type: "logout" } | { readonly type: "session"; readonly subject: string };

/** Milliseconds in which a second redirect to the login counts as a circle. */
const CIRCLE = 15_000;

/** The session of one portal. */
export class Auth {
  readonly #options: AuthOptions;
  readonly #base: string;
  readonly #listeners = new Set<() => void>();
  #state: AuthState = { status: "unknown" };
  #loading: Promise<Session | undefined> | undefined;
  #refreshing: Promise<Session | undefined> | undefined;
  #isLeaving = false;
  /** Counts what ended a session: an answer to an earlier question is thrown away. */
  #generation = 0;
  #channel: BroadcastChannel | undefined;

  constructor(options: AuthOptions) {
    this.#options = options;
    this.#base = options.baseUrl ?? "/api/v1/identity";
  }

  /** What is known now. The same object until it changes. */
  readonly getState = (): AuthState => this.#state;

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

  /** The subject, `null` after the session ended, `undefined` while nothing is known. For `createPermissions`. */
  readonly subject = (): string | null | undefined => {
    const { status, session } = this.#state;
    return status === "unauthenticated" ? null : session?.subject;
  };

  /** Asks who is logged in, and listens to the other tabs, until the returned function is called. */
  start(): () => void {
    const stop = new AbortController();
    this.#listenToTabs(stop.signal);
    globalThis.addEventListener("pageshow", this.#shown, { signal: stop.signal });
    void this.session();
    return () => {
      stop.abort();
    };
  }

  /** The session, from the gate; `undefined` if there is none or the gate does not answer. Never rejects. */
  session(): Promise<Session | undefined> {
    this.#loading ??= this.#ask("GET", "auth/session").finally(() => {
      this.#loading = undefined;
    });
    return this.#loading;
  }

  /** Renews the session's claims now. Calls of one moment share a request. */
  refresh(): Promise<Session | undefined> {
    this.#refreshing ??= this.#ask("POST", "auth/refresh").finally(() => {
      this.#refreshing = undefined;
    });
    return this.#refreshing;
  }

  /** Goes to the login, and back to `rd`. */
  login(options: LoginOptions = {}): void {
    if (this.#isLeaving) return;
    this.#isLeaving = true;
    this.#location.assign(this.loginUrl(options));
  }

  /** The address of the login, for a link. */
  loginUrl({ rd, ...parameters }: LoginOptions = {}): string {
    const { pathname, search, origin } = this.#location;
    const { portal, home = "/" } = this.#options;
    const query = new URLSearchParams({ portal, rd: returnPath(rd ?? pathname + search, origin, home) });
    for (const [name, value] of Object.entries(parameters)) {
      if (typeof value === "string" && value !== "") query.set(name, value);
    }
    return `${this.#base}/auth/login?${query.toString()}`;
  }

  /**
   * Ends the session, here and in the other tabs, and goes to the provider's logout if it has one. Rejects if the gate
   * did not end it: then the user is still logged in, and must know.
   */
  async logout(): Promise<void> {
    const response = await this.#request("auth/logout", { method: "POST" });
    if (!response.ok) throw new Error(`the gate did not end the session: ${String(response.status)}`);
    const body = response.status === 200 ? ((await response.json()) as { location?: unknown } | null) : null;
    this.#ended("logged_out");
    this.#tell({ type: "logout" });
    if (typeof body?.location === "string" && isWebAddress(body.location, this.#location.origin)) {
      this.#isLeaving = true;
      this.#location.assign(body.location);
    }
  }

  /**
   * `fetch` within the own origin, also for libraries that take a `fetch` (axios, openapi-fetch). Another origin is refused: no cookie and no evidence ever leaves. A 401 asks once
   * whether there is a session after all (another tab may have logged in), repeats the request if it can be repeated, and
   * else calls `onUnauthenticated`. A step-up challenge calls `onStepUp`. The refusal itself is returned.
   */
  readonly fetch = async (input: string | URL | Request, options: RequestInit = {}): Promise<Response> => {
    const url = new URL(input instanceof Request ? input.url : input, this.#location.origin);
    if (url.origin !== this.#location.origin) throw new TypeError(`\`${url.origin}\` is another origin`);
    const init = input instanceof Request ? { ...(await initOf(input)), ...options } : options;
    const response = await this.#send(url, init);
    if (response.status !== 401 && response.status !== 403) return response;
    const challenge = challengeOf(response.headers.get("www-authenticate"));
    if (challenge) {
      this.#stepUp(challenge);
      return response;
    }
    if (response.status === 403) return response;
    const before = this.#state.session;
    const session = await this.session();
    if (!session) {
      this.#unauthenticated();
      return response;
    }
    // a request of another user is not sent in this one's name
    const isRepeatable = isReplayable(init) && (before === undefined || isSameUser(before, session));
    return isRepeatable ? await this.#send(url, init) : response;
  };

  get #location(): NonNullable<AuthOptions["location"]> {
    return this.#options.location ?? globalThis.location;
  }

  #send(url: URL, init: RequestInit): Promise<Response> {
    const headers = new Headers(init.headers);
    if (!headers.has("accept")) headers.set("accept", "application/json");
    // a header that a form cannot send, and that makes the gate answer as to a program
    headers.set("x-requested-with", "cedargate");
    // `mode` refuses a redirect to another origin; the policy keeps `Origin` on requests that change something
    const own: RequestInit = { mode: "same-origin", credentials: "same-origin", referrerPolicy: "same-origin" };
    return this.#fetch(url.href, { ...init, ...own, headers });
  }

  #fetch(url: string, init: RequestInit): Promise<Response> {
    return (this.#options.fetch ?? globalThis.fetch)(url, init);
  }

  #request(path: string, init: RequestInit): Promise<Response> {
    const { portal, timeout = 10_000 } = this.#options;
    const url = new URL(`${this.#base}/${path}`, this.#location.origin);
    if (path !== "auth/logout") url.searchParams.set("portal", portal);
    return this.#send(url, { ...init, cache: "no-store", signal: AbortSignal.timeout(timeout) });
  }

  async #ask(method: string, path: string): Promise<Session | undefined> {
    const generation = this.#generation;
    try {
      const response = await this.#request(path, { method });
      const body: unknown = await response.json().catch(() => null);
      if (generation !== this.#generation) return this.#state.session;
      if (response.status === 401) {
        this.#ended(reasonOf((body as { code?: unknown } | null)?.code));
        return undefined;
      }
      const session = response.ok ? parseSession(body, this.#options.portal) : undefined;
      if (!session) throw new Error(`the gate answered ${String(response.status)}`);
      this.#began(session);
      return session;
    } catch (error) {
      if (generation !== this.#generation) return this.#state.session;
      // not a logout: the gate says whether a request is allowed
      if (this.#state.status !== "authenticated") {
        this.#set({ status: "unknown", error: error instanceof Error ? error : new Error(String(error)) });
      }
      return undefined;
    }
  }

  #began(session: Session): void {
    const before = this.#state.session;
    forgetRedirect();
    if (before && isSameUser(before, session)) return;
    this.#set({ status: "authenticated", session });
    this.#tell({ type: "session", subject: session.subject });
  }

  #ended(reason: Reason): void {
    this.#generation += 1;
    const isLoggedOut = this.#state.status === "unauthenticated" && this.#state.reason === "logged_out";
    const known = isLoggedOut ? "logged_out" : reason;
    this.#set({ status: "unauthenticated", reason: known === "absent" ? this.#absence() : known });
  }

  /** Why the gate knows no session any more: one that was there has ended. */
  #absence(): Reason {
    if (this.#state.status === "authenticated") return "expired";
    return this.#state.status === "unauthenticated" ? this.#state.reason : "absent";
  }

  #stepUp(challenge: Challenge): void {
    const { onStepUp } = this.#options;
    if (onStepUp) onStepUp(challenge);
    else this.login(challenge);
  }

  #unauthenticated(): void {
    // the gate did not answer: that is no reason to lose what the user typed
    if (this.#state.status !== "unauthenticated") return;
    const { onUnauthenticated } = this.#options;
    const { reason } = this.#state;
    if (onUnauthenticated) onUnauthenticated(reason);
    // a request that was under way at a logout must not log the user in again, as a provider without a question would
    else if (reason !== "logged_out" && !wasRedirected()) this.login();
  }

  readonly #shown = (event: Event): void => {
    // a page from the back/forward cache may be older than a logout
    if ("persisted" in event && event.persisted) {
      this.#isLeaving = false;
      void this.session();
    }
  };

  #listenToTabs(signal: AbortSignal): void {
    if (typeof BroadcastChannel === "undefined") return;
    const channel = new BroadcastChannel(`cedargate ${this.#base}`);
    this.#channel = channel;
    channel.addEventListener("message", ({ data }: MessageEvent<Message | null>) => {
      if (data?.type === "logout") this.#ended("logged_out");
      // a message proves nothing: the gate is asked
      else if (data?.type === "session" && data.subject !== this.#state.session?.subject) void this.#askAgain();
    });
    signal.addEventListener("abort", () => {
      channel.close();
      if (this.#channel === channel) this.#channel = undefined;
    });
  }

  async #askAgain(): Promise<void> {
    await this.#loading;
    await this.session();
  }

  #tell(message: Message): void {
    this.#channel?.postMessage(message);
  }

  #set(state: AuthState): void {
    this.#state = state;
    for (const listener of [...this.#listeners]) listener();
  }
}

/** The session of a portal. */
export const createAuth = (options: AuthOptions): Auth => new Auth(options);

/** A body that a failed request did not use up. */
const isReplayable = ({ body }: RequestInit): boolean =>
  body === undefined ||
  body === null ||
  typeof body === "string" ||
  body instanceof URLSearchParams ||
  body instanceof ArrayBuffer;

/** The members of a `Request` that this module does not set itself; its body is read, so that it can be sent twice. */
async function initOf(request: Request): Promise<RequestInit> {
  const { method, headers, signal, cache, redirect, integrity, keepalive } = request;
  const hasBody = method !== "GET" && method !== "HEAD";
  return {
    ...{ method, headers, signal, cache, redirect, integrity, keepalive },
    ...(hasBody ? { body: await request.arrayBuffer() } : {}),
  };
}

/** The provider's logout: an address of the web, and never a script. */
const isWebAddress = (address: string, origin: string): boolean => {
  try {
    return ["https:", "http:"].includes(new URL(address, origin).protocol);
  } catch {
    return false;
  }
};

const REDIRECTED = "cedargate.login";

/** True if this tab went to the login a moment ago; notes that it goes now. Without storage the gate's own limit holds. */
function wasRedirected(): boolean {
  try {
    const last = Number(sessionStorage.getItem(REDIRECTED) ?? 0);
    sessionStorage.setItem(REDIRECTED, String(Date.now()));
    return Math.abs(Date.now() - last) < CIRCLE;
  } catch {
    return false;
  }
}

function forgetRedirect(): void {
  try {
    sessionStorage.removeItem(REDIRECTED);
  } catch {
    // a browser without storage noted nothing
  }
}
