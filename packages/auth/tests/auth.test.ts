import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { type AuthOptions, challengeOf, createAuth, returnPath } from "../src/index.ts";

const ORIGIN = "https://shop.test";
const CHALLENGE = 'Bearer error="insufficient_user_authentication", acr_values="urn:mfa", max_age="300"';

let assigned: string[];
let calls: { url: string; init: RequestInit }[];
let answers: ((url: URL, init: RequestInit) => Response | undefined)[];
let stops: (() => void)[];

const alice = { subject: "alice", portal: "customer", tenant: "acme", roles: ["viewer"], expires_at: 4_000_000_000 };
const problem = (status: number, code: string, headers: Record<string, string> = {}) =>
  Response.json({ status, code, decision_id: "0199" }, { status, headers });

const session = (body: unknown) => (url: URL) =>
  url.pathname.endsWith("auth/session") ? Response.json(body) : undefined;
const noSession = (code: string) => (url: URL) =>
  url.pathname.endsWith("auth/session") ? problem(401, code) : undefined;
const at = (path: string, make: (init: RequestInit) => Response) => (url: URL, init: RequestInit) =>
  url.pathname === path ? make(init) : undefined;

const make = (over: Partial<AuthOptions> = {}) =>
  createAuth({
    portal: "customer",
    home: "/portal/customer",
    fetch: (input, init = {}) => {
      const url = new URL(input as string);
      calls.push({ url: url.pathname + url.search, init });
      for (const answer of answers) {
        const response = answer(url, init);
        if (response) return Promise.resolve(response);
      }
      return Promise.reject(new TypeError("fetch failed"));
    },
    location: {
      origin: ORIGIN,
      pathname: "/portal/customer/orders",
      search: "?open=1",
      assign: (url) => assigned.push(String(url)),
    },
    ...over,
  });

beforeEach(() => {
  assigned = [];
  calls = [];
  answers = [];
  stops = [];
  sessionStorage.clear();
});

afterEach(() => {
  for (const stop of stops) stop();
  vi.unstubAllGlobals();
});

describe("session", () => {
  it("says who is logged in", async () => {
    answers = [session(alice)];
    const auth = make();
    expect(auth.getState().status).toBe("unknown");
    expect(await auth.session()).toMatchObject({ subject: "alice" });
    expect(auth.subject()).toBe("alice");
    expect(calls[0]?.url).toBe("/api/v1/identity/auth/session?portal=customer");
  });

  it.each([
    ["session_expired", "expired"],
    ["token_expired", "expired"],
    ["session_revoked", "revoked"],
    ["session_missing", "absent"],
  ])("knows why there is none: %s", async (code, reason) => {
    answers = [noSession(code)];
    const auth = make();
    expect(await auth.session()).toBeUndefined();
    expect(auth.getState()).toEqual({ status: "unauthenticated", reason });
    expect(auth.subject()).toBeNull();
  });

  it.each([[{ ...alice, portal: "admin" }], [{ portal: "customer" }], [[]], [null], [{ ...alice, roles: "admin" }]])(
    "believes no malformed session: %j",
    async (body) => {
      answers = [session(body)];
      const auth = make();
      expect(await auth.session()).toBeUndefined();
      expect(auth.getState().status).toBe("unknown");
    },
  );

  it("does not take an unreachable gate for a logout", async () => {
    answers = [session(alice)];
    const auth = make();
    await auth.session();
    answers = [];
    await auth.session();
    expect(auth.getState().status).toBe("authenticated");
  });

  it("renews once for many callers", async () => {
    answers = [at("/api/v1/identity/auth/refresh", () => Response.json(alice))];
    const auth = make();
    await Promise.all([auth.refresh(), auth.refresh(), auth.refresh()]);
    expect(calls).toHaveLength(1);
    expect(calls[0]?.init.method).toBe("POST");
  });
});

describe("login", () => {
  it("goes to the gate's login and back here, once", () => {
    const auth = make();
    auth.login();
    auth.login();
    expect(assigned).toEqual([
      "/api/v1/identity/auth/login?portal=customer&rd=%2Fportal%2Fcustomer%2Forders%3Fopen%3D1",
    ]);
  });

  it.each([
    "https://evil.test/",
    "//evil.test",
    "/\\evil.test",
    "\\\\evil.test",
    "javascript:alert(1)",
    "/a\tb",
    "/\n/evil.test",
    "/\u0009/evil.test",
    "evil",
    "",
    "/a#b",
    `/${"a".repeat(5_000)}`,
  ])("never returns to %j", (rd) => {
    const auth = make();
    const url = new URL(auth.loginUrl({ rd }), ORIGIN);
    expect(url.searchParams.get("rd")).toBe("/portal/customer");
    expect(returnPath(rd, ORIGIN, "/x")).toBe("/x");
  });

  it("carries the challenge", () => {
    const url = new URL(
      make().loginUrl({ acr_values: "urn:mfa", max_age: "300", rd: "/portal/customer/a?b=c" }),
      ORIGIN,
    );
    expect(Object.fromEntries(url.searchParams)).toEqual({
      portal: "customer",
      rd: "/portal/customer/a?b=c",
      acr_values: "urn:mfa",
      max_age: "300",
    });
  });
});

describe("fetch", () => {
  it("stays in its own origin, and brings evidence of it", async () => {
    answers = [at("/portal/customer/orders", () => Response.json({ orders: [] }))];
    const auth = make();
    await expect(auth.fetch("https://evil.test/portal")).rejects.toThrow("another origin");
    await expect(auth.fetch("//evil.test/portal")).rejects.toThrow("another origin");
    await auth.fetch("/portal/customer/orders", { method: "POST", credentials: "include", mode: "cors" });
    const { init } = calls[0] ?? {};
    expect(init).toMatchObject({ mode: "same-origin", credentials: "same-origin", referrerPolicy: "same-origin" });
    expect(new Headers(init?.headers).get("x-requested-with")).toBe("cedargate");
    expect(new Headers(init?.headers).get("accept")).toBe("application/json");
  });

  it("goes to the login once for many refusals, and not in a circle", async () => {
    answers = [at("/a", () => problem(401, "session_expired")), noSession("session_expired")];
    const auth = make();
    const responses = await Promise.all([auth.fetch("/a"), auth.fetch("/a"), auth.fetch("/a")]);
    expect(responses.map(({ status }) => status)).toEqual([401, 401, 401]);
    expect(assigned).toHaveLength(1);
    // the login brought the user back, and the gate refuses again
    const next = make();
    await next.fetch("/a");
    expect(assigned).toHaveLength(1);
  });

  it("goes to the login without storage", async () => {
    vi.stubGlobal("sessionStorage", undefined);
    answers = [at("/a", () => problem(401, "session_missing")), noSession("session_missing")];
    await make().fetch("/a");
    expect(assigned).toHaveLength(1);
  });

  it("leaves the page to the app that wants to say it first", async () => {
    answers = [at("/a", () => problem(401, "session_expired")), noSession("session_expired")];
    const reasons: string[] = [];
    await make({ onUnauthenticated: (reason) => reasons.push(reason) }).fetch("/a");
    expect([reasons, assigned]).toEqual([["expired"], []]);
  });

  it("repeats once what can be repeated, when another tab logged in", async () => {
    let count = 0;
    const flaky = at("/a", () => ((count += 1) === 1 ? problem(401, "session_missing") : Response.json({})));
    answers = [flaky, session(alice)];
    expect((await make().fetch("/a", { method: "POST", body: "{}" })).status).toBe(200);
    count = 0;
    expect((await make().fetch("/a", { method: "POST", body: new Blob() })).status).toBe(401);
    expect(count).toBe(1);
  });

  it("takes a Request, as libraries make them, and repeats it with its body", async () => {
    const seen: [string | undefined, string, unknown][] = [];
    let count = 0;
    const flaky = at("/a", (init) => {
      seen.push([init.method, new Headers(init.headers).get("x-own") ?? "", init.body]);
      return (count += 1) === 1 ? problem(401, "session_missing") : Response.json({});
    });
    answers = [flaky, session(alice)];
    const request = new Request("https://shop.test/a", { method: "PUT", body: "{}", headers: { "x-own": "1" } });
    expect((await make().fetch(request)).status).toBe(200);
    expect(seen.map(([method, own, body]) => [method, own, new TextDecoder().decode(body as ArrayBuffer)])).toEqual([
      ["PUT", "1", "{}"],
      ["PUT", "1", "{}"],
    ]);
    await expect(make().fetch(new Request("https://evil.test/a"))).rejects.toThrow("another origin");
  });

  it("does not repeat one user's request in another user's name", async () => {
    answers = [session(alice)];
    const auth = make();
    await auth.session();
    let count = 0;
    const once = () => {
      count += 1;
      return problem(401, "session_revoked");
    };
    answers = [at("/a", once), session({ ...alice, subject: "bob" })];
    expect((await auth.fetch("/a", { method: "DELETE" })).status).toBe(401);
    expect(count).toBe(1);
    expect(auth.subject()).toBe("bob");
  });

  it("does not leave the page when the gate does not answer", async () => {
    answers = [at("/a", () => problem(401, "session_missing"))];
    await make().fetch("/a");
    expect(assigned).toEqual([]);
  });

  it.each([401, 403])("asks for the stronger login that a %i names", async (status) => {
    answers = [at("/a", () => problem(status, "step_up_required", { "www-authenticate": CHALLENGE }))];
    await make().fetch("/a", { method: "POST" });
    expect(assigned[0]).toContain("acr_values=urn%3Amfa&max_age=300");
    const challenges: unknown[] = [];
    await make({ onStepUp: (challenge) => challenges.push(challenge) }).fetch("/a");
    expect(challenges).toEqual([{ acr_values: "urn:mfa", max_age: "300" }]);
    expect(assigned).toHaveLength(1);
  });

  it("returns a plain 403", async () => {
    answers = [at("/a", () => problem(403, "not_permitted"))];
    expect((await make().fetch("/a")).status).toBe(403);
    expect(assigned).toEqual([]);
  });
});

describe("logout", () => {
  const ok = (body: unknown) => at("/api/v1/identity/auth/logout", () => Response.json(body));

  it("ends the session in every tab", async () => {
    const logout = () => {
      answers = [noSession("session_missing")];
      return new Response(null, { status: 204 });
    };
    answers = [session(alice), at("/api/v1/identity/auth/logout", logout)];
    const [here, there] = [make(), make()];
    stops = [here.start(), there.start()];
    await Promise.all([here.session(), there.session()]);
    await here.logout();
    expect(here.getState()).toEqual({ status: "unauthenticated", reason: "logged_out" });
    await vi.waitFor(() => {
      expect(there.getState()).toEqual({ status: "unauthenticated", reason: "logged_out" });
    });
  });

  it("does not log the user in again for a request that was under way", async () => {
    const auth = make();
    answers = [session(alice)];
    await auth.session();
    for (const code of ["session_missing", "session_revoked", "session_expired"]) {
      answers = [at("/api/v1/identity/auth/logout", () => new Response(null, { status: 204 })), noSession(code)];
      answers.unshift(at("/a", () => problem(401, code)));
      const flying = auth.fetch("/a");
      await auth.logout();
      expect((await flying).status).toBe(401);
      expect(auth.getState()).toMatchObject({ status: "unauthenticated", reason: "logged_out" });
    }
    expect(assigned).toEqual([]);
    answers = [session(alice)];
    await auth.session();
    answers = [at("/a", () => problem(401, "session_expired")), noSession("session_expired")];
    await auth.fetch("/a");
    expect(assigned).toHaveLength(1);
  });

  it("works without BroadcastChannel", async () => {
    vi.stubGlobal("BroadcastChannel", undefined);
    answers = [session(alice), ok({ location: "https://id.test/logout" })];
    const auth = make();
    stops = [auth.start()];
    await auth.logout();
    expect(assigned).toEqual(["https://id.test/logout"]);
  });

  it.each(["javascript:alert(1)", "data:text/html,x", 7])("does not go to %j", async (location) => {
    answers = [ok({ location })];
    await make().logout();
    expect(assigned).toEqual([]);
  });

  it("says when the gate did not end the session", async () => {
    answers = [session(alice), at("/api/v1/identity/auth/logout", () => problem(503, "store_unavailable"))];
    const auth = make();
    await auth.session();
    await expect(auth.logout()).rejects.toThrow("503");
    expect(auth.getState().status).toBe("authenticated");
  });

  it("throws away an answer that is older than the logout", async () => {
    let open: (response: Response) => void = () => undefined;
    const slow = new Promise<Response>((resolve) => (open = resolve));
    const auth = make({
      fetch: (input) =>
        (input as string).includes("session") ? slow : Promise.resolve(new Response(null, { status: 204 })),
    });
    const asking = auth.session();
    await auth.logout();
    open(Response.json(alice));
    await asking;
    expect(auth.getState().status).toBe("unauthenticated");
  });
});

describe("tabs", () => {
  it("asks the gate when another tab logged in as another user", async () => {
    answers = [session(alice)];
    const here = make();
    stops = [here.start()];
    await here.session();
    answers = [session({ ...alice, subject: "bob" })];
    const there = make();
    stops.push(there.start());
    await vi.waitFor(() => {
      expect(here.subject()).toBe("bob");
    });
  });

  it("believes no message", async () => {
    answers = [noSession("session_missing")];
    const here = make();
    stops = [here.start()];
    await here.session();
    const channel = new BroadcastChannel("cedargate /api/v1/identity");
    channel.postMessage({ type: "session", subject: "admin" });
    channel.postMessage(null);
    channel.postMessage("x");
    await vi.waitFor(() => {
      expect(calls.length).toBeGreaterThan(1);
    });
    channel.close();
    expect(here.subject()).toBeNull();
  });
});

it("keeps nothing but a time in a script storage", async () => {
  answers = [at("/a", () => problem(401, "session_missing")), noSession("session_missing")];
  await make().fetch("/a");
  expect(localStorage.length).toBe(0);
  expect(Object.entries(sessionStorage).map(([key, value]) => [key, Number(value) > 0])).toEqual([
    ["cedargate.login", true],
  ]);
});

describe("challengeOf", () => {
  it.each([
    [null, undefined],
    ["Basic realm=x", undefined],
    ['Bearer error="invalid_token"', undefined],
    ['Bearer realm="a, error=x", error="insufficient_user_authentication"', {}],
    [CHALLENGE, { acr_values: "urn:mfa", max_age: "300" }],
    ['Basic realm="x", Bearer error=insufficient_user_authentication, max_age=5', { max_age: "5" }],
    [
      'Bearer error="insufficient_user_authentication", max_age="soon", acr_values="a \\"b\\""',
      { acr_values: 'a "b"' },
    ],
  ])("reads %j", (header, expected) => {
    expect(challengeOf(header)).toEqual(expected);
  });
});
