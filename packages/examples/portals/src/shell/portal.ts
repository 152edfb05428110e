// What a portal is made of: its session, its permissions, and its requests.

import { type Auth, type Challenge, createAuth } from "@cedargate/auth";
import { type Contract, createPermissions, type Permissions } from "@cedargate/rbac";

/** A refusal or failure, as the gate or the app described it. */
export class Refusal extends Error {
  readonly status: number;
  readonly code: string | undefined;
  readonly advice: string | undefined;
  readonly decisionId: string | undefined;

  constructor(status: number, problem: Partial<Record<string, unknown>>) {
    const text = (name: string) => (typeof problem[name] === "string" ? problem[name] : undefined);
    super(text("title") ?? `The shop answered ${status}.`);
    this.status = status;
    this.code = text("code");
    this.advice = text("advice");
    this.decisionId = text("decision_id");
  }
}

/** One portal in this tab. */
export class Portal<C extends Contract = Contract> {
  readonly slug: string;
  readonly home: string;
  readonly auth: Auth;
  readonly permissions: Permissions<C>;
  /** The stronger login that a policy asked for, until the user goes to it or says no. */
  challenge: Challenge | undefined;
  readonly #listeners = new Set<() => void>();

  constructor(slug: string) {
    this.slug = slug;
    this.home = `/portal/${slug}`;
    this.auth = createAuth({
      portal: slug,
      home: this.home,
      // the state says it, and the page shows it: the user decides when to leave
      onUnauthenticated: () => undefined,
      onStepUp: (challenge) => {
        this.setChallenge(challenge);
      },
    });
    this.permissions = createPermissions<C>({ portal: slug, identity: this.auth });
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  };

  readonly getChallenge = (): Challenge | undefined => this.challenge;

  setChallenge(challenge: Challenge | undefined): void {
    this.challenge = challenge;
    for (const listener of [...this.#listeners]) listener();
  }

  /** A request to the shop below the portal's path. Throws a `Refusal`. */
  async request<Body>(path: string, method = "GET", body?: unknown): Promise<Body> {
    const init: RequestInit = { method };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
      init.headers = { "content-type": "application/json" };
    }
    const response = await this.auth.fetch(`${this.home}/${path}`, init);
    if (response.status === 204) return undefined as Body;
    const isJson = /^application\/(problem\+)?json/.test(response.headers.get("content-type") ?? "");
    const answer: unknown = isJson ? await response.json() : {};
    if (!response.ok || !isJson) throw new Refusal(response.status, answer ?? {});
    return answer as Body;
  }
}
