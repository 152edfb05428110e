import { setMaxListeners } from "node:events";

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { createPermissions, type PermissionsOptions, type Permissions } from "../src/index.ts";
import { FakeGate, snapshot } from "./gate.ts";

let gate: FakeGate;
let stops: (() => void)[];

const make = (over: Partial<PermissionsOptions> = {}): Permissions =>
  createPermissions({ portal: "customer", baseUrl: "https://shop.test/api/v1/identity", fetch: gate.fetch, ...over });

const started = async (over: Partial<PermissionsOptions> = {}): Promise<Permissions> => {
  const permissions = make(over);
  stops.push(permissions.start());
  await permissions.loaded();
  await vi.advanceTimersByTimeAsync(0);
  return permissions;
};

const order = (id: string) => ({ type: "Order", id });

beforeEach(() => {
  vi.useFakeTimers();
  gate = new FakeGate();
  stops = [];
});

afterEach(() => {
  for (const stop of stops) stop();
  vi.useRealTimers();
});

describe("can", () => {
  it("denies everything before the first answer", () => {
    const permissions = make();
    expect(permissions.can("viewProduct")).toBe("deny");
    expect(permissions.flag("new_checkout")).toBeUndefined();
    expect(permissions.getState().status).toBe("loading");
  });

  it("answers by action, by type, and denies unknown names", async () => {
    const permissions = await started();
    expect(permissions.can("viewProduct")).toBe("allow");
    expect(permissions.can("viewOrder")).toBe("conditional");
    expect(permissions.allowed("viewOrder")).toBe(false);
    expect(permissions.can("viewProduct", "Product")).toBe("allow");
    expect(permissions.can("viewProduct", "Order")).toBe("deny");
    expect(permissions.can("viewProduct", { type: "Nothing", id: "1" })).toBe("deny");
    for (const name of ["viewOrdr", "constructor", "__proto__", "toString", ""]) {
      expect(permissions.can(name)).toBe("deny");
      expect(permissions.can("viewProduct", name || "hasOwnProperty")).toBe("deny");
    }
    expect(permissions.flag("new_checkout")).toBe(true);
    expect(permissions.flag("constructor")).toBeUndefined();
  });

  it.each([
    ["another portal", snapshot({ portal: "admin" })],
    ["a verdict that is none", { ...snapshot(), actions: { viewProduct: "Allow" } }],
    ["a verdict of a wrong type", { ...snapshot(), resource_types: { Product: { viewProduct: true } } }],
    ["no expiry", { ...snapshot(), expires_at: undefined }],
    ["an expiry that is no time", { ...snapshot(), expires_at: "soon" }],
    ["a list", []],
    ["null", null],
  ])("denies everything with a snapshot that has %s", async (_, body) => {
    gate.snapshot = body ?? { ...snapshot(), revision: 7 };
    const permissions = await started();
    expect(permissions.can("viewProduct")).toBe("deny");
    expect(permissions.getState().status).toBe("unavailable");
  });

  it.each([401, 400, 403, 404, 500, 503, 0])("denies everything after the answer %i", async (status) => {
    gate.status = status;
    const permissions = await started();
    expect(permissions.can("viewProduct")).toBe("deny");
    expect(permissions.getState().status).toBe(status === 401 ? "unauthenticated" : "unavailable");
  });
});

describe("time", () => {
  it("drops the snapshot when the credential ends, also if the timer is late", async () => {
    gate.snapshot = snapshot({ expires_at: new Date(Date.now() + 60_000).toISOString() });
    const permissions = await started({ events: false, pollInterval: 3_600_000 });
    expect(permissions.allowed("viewProduct")).toBe(true);
    gate.status = 401;
    vi.setSystemTime(Date.now() + 61_000); // no timer has run
    expect(permissions.allowed("viewProduct")).toBe(false);
    await vi.advanceTimersByTimeAsync(61_000);
    expect(permissions.getState().status).toBe("unauthenticated");
  });

  it("trusts the server's clock, not the browser's", async () => {
    const server = Date.now() - 6 * 3_600_000; // the browser's clock is six hours ahead
    gate.headers = { date: new Date(server).toUTCString() };
    gate.snapshot = snapshot({ expires_at: new Date(server + 600_000).toISOString() });
    const ahead = await started({ events: false });
    expect(ahead.allowed("viewProduct")).toBe(true);

    const late = Date.now() + 6 * 3_600_000; // the browser's clock is six hours behind
    gate.headers = { date: new Date(late).toUTCString() };
    gate.snapshot = snapshot({ expires_at: new Date(late - 1_000).toISOString() });
    const behind = await started({ events: false });
    expect(behind.allowed("viewProduct")).toBe(false);
  });

  it("counts the age of an answer that a proxy cached", async () => {
    gate.headers = { date: new Date(Date.now()).toUTCString(), age: "7200" };
    const permissions = await started({ events: false });
    expect(permissions.allowed("viewProduct")).toBe(false);
  });

  it("denies after a sleep that only one clock noticed", async () => {
    let wall = Date.now();
    const clock = { wall: () => wall, steady: () => 5 };
    const permissions = await started({ events: false, clock });
    expect(permissions.allowed("viewProduct")).toBe(true);
    wall += 3_700_000;
    expect(permissions.allowed("viewProduct")).toBe(false);
  });

  it("does not ask in a circle when the gate hands out what is expired", async () => {
    gate.snapshot = snapshot({ expires_at: new Date(Date.now() - 1_000).toISOString() });
    await started({ events: false });
    await vi.advanceTimersByTimeAsync(10_000);
    expect(gate.count("GET")).toBeLessThan(8);
  });
});

describe("changes", () => {
  it("loads again on an event, with the ETag of what it has", async () => {
    const permissions = await started();
    gate.snapshot = snapshot({ revision: "r2", actions: { viewProduct: "deny" } });
    gate.send({ revision: "r2" });
    await vi.advanceTimersByTimeAsync(10);
    expect(permissions.can("viewProduct")).toBe("deny");
    expect(gate.seen.at(-1)?.headers.get("if-none-match")).toMatch(/-r1"$/);
    expect(gate.seen.find(({ path }) => path.includes("/events"))?.headers.get("last-event-id")).toBe("r1");
  });

  it("keeps the state object on 304", async () => {
    const permissions = await started();
    const before = permissions.getState().snapshot;
    await permissions.load();
    expect(permissions.getState().snapshot).toBe(before);
    expect(gate.count("GET")).toBe(2);
  });

  it("denies when the reload after a change fails", async () => {
    const permissions = await started();
    gate.status = 503;
    gate.send({ revision: "r2" });
    await vi.advanceTimersByTimeAsync(10);
    expect(permissions.can("viewProduct")).toBe("deny");
  });

  it("denies when the reload after a change does not come in time", async () => {
    const permissions = await started();
    gate.gate = new Promise(() => undefined);
    gate.send({ revision: "r2" });
    await vi.advanceTimersByTimeAsync(4_900);
    expect(permissions.can("viewProduct")).toBe("allow");
    await vi.advanceTimersByTimeAsync(200);
    expect(permissions.can("viewProduct")).toBe("deny");
  });

  it.each([{ reason: "revoked" }, { reason: "expired" }, "not an object", { revision: 7 }])(
    "denies at once when the session ends: %j",
    async (data) => {
      const permissions = await started();
      gate.status = 0;
      gate.send(data);
      gate.gate = new Promise(() => undefined);
      await vi.advanceTimersByTimeAsync(1);
      expect(permissions.can("viewProduct")).toBe("deny");
    },
  );

  it("keeps the snapshot while the gate is unreachable and nothing changed", async () => {
    const permissions = await started({ events: false });
    gate.status = 0;
    await vi.advanceTimersByTimeAsync(120_000);
    expect(permissions.can("viewProduct")).toBe("allow");
    expect(permissions.getState().status).toBe("stale");
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(permissions.can("viewProduct")).toBe("deny");
  });

  it("polls when a stream never opens", async () => {
    gate.hasEvents = false;
    const permissions = await started();
    gate.snapshot = snapshot({ revision: "r2", actions: {} });
    await vi.advanceTimersByTimeAsync(31_000);
    expect(permissions.can("viewProduct")).toBe("deny");
  });

  it("opens a broken stream again, after a pause, and asks what it missed", async () => {
    const permissions = await started();
    expect(gate.streams).toBe(1);
    gate.snapshot = snapshot({ revision: "r2", actions: {} });
    gate.breakStreams();
    await vi.advanceTimersByTimeAsync(400);
    expect(gate.streams).toBe(0);
    await vi.advanceTimersByTimeAsync(1_700);
    expect(gate.streams).toBe(1);
    expect(permissions.can("viewProduct")).toBe("deny");
  });

  it("does not poll while a stream tells what changes", async () => {
    await started();
    gate.send({ nothing: true }, "other");
    await vi.advanceTimersByTimeAsync(40_000);
    expect(gate.count("GET")).toBe(1);
  });

  it("treats a silent stream as dead", async () => {
    await started();
    const opened = () => gate.seen.filter(({ path }) => path.includes("/events")).length;
    expect(opened()).toBe(1);
    await vi.advanceTimersByTimeAsync(48_000);
    expect(opened()).toBe(2);
  });

  it("stops everything with the last stop", async () => {
    const permissions = make();
    const first = permissions.start();
    const second = permissions.start(); // React's StrictMode starts twice
    first();
    first();
    await vi.advanceTimersByTimeAsync(10);
    expect(gate.streams).toBe(1);
    second();
    await vi.advanceTimersByTimeAsync(0);
    expect(gate.streams).toBe(0);
    const { length } = gate.seen;
    await vi.advanceTimersByTimeAsync(600_000);
    expect(gate.seen.length).toBe(length);
  });
});

describe("another user", () => {
  it("never shows one user's permissions to the next", async () => {
    const permissions = await started({ events: false });
    const seen: string[] = [];
    permissions.subscribe(() => seen.push(permissions.can("viewProduct")));
    gate.snapshot = snapshot({ subject: "bob", actions: { viewProduct: "deny" }, resource_types: {} });
    await permissions.load();
    expect(seen).not.toContain("allow");
    expect(permissions.getState().snapshot?.subject).toBe("bob");
  });

  it("drops everything at once when the session client names another user", async () => {
    let subject: string | null = "alice";
    let tell: () => void = () => undefined;
    const identity = {
      subject: () => subject,
      subscribe: (listener: () => void) => {
        tell = listener;
        return () => undefined;
      },
    };
    const permissions = await started({ identity, events: false });
    expect(permissions.allowed("viewProduct")).toBe(true);
    gate.gate = new Promise(() => undefined);
    subject = "bob";
    tell();
    expect(permissions.allowed("viewProduct")).toBe(false);
    subject = null;
    tell();
    expect(permissions.getState().status).toBe("unauthenticated");
  });

  it("refuses a snapshot of another user, as a cache would replay it", async () => {
    const identity = { subject: () => "bob", subscribe: () => () => undefined };
    const permissions = await started({ identity });
    expect(permissions.can("viewProduct")).toBe("deny");
    expect(permissions.getState().error?.message).toContain("another user");
  });

  it("waits until it is known who is logged in", async () => {
    const known: { subject?: string } = {};
    let answer: () => void = () => undefined;
    const session = () => new Promise<void>((resolve) => (answer = resolve));
    const permissions = make({ identity: { subject: () => known.subject, subscribe: () => () => undefined, session } });
    const loading = permissions.load();
    await vi.advanceTimersByTimeAsync(100);
    expect(permissions.can("viewProduct")).toBe("deny");
    known.subject = "alice";
    answer();
    await loading;
    expect(permissions.can("viewProduct")).toBe("allow");
  });

  it("throws an answer away that was under way when the user changed", async () => {
    let open: () => void = () => undefined;
    gate.gate = new Promise((resolve) => (open = resolve));
    const permissions = make();
    const loading = permissions.load();
    permissions.reset("unauthenticated");
    gate.snapshot = snapshot({ subject: "bob" });
    open();
    await loading;
    expect(permissions.getState().snapshot?.subject).toBe("bob");
  });
});

describe("check", () => {
  it("asks for many resources in one request, and not again", async () => {
    const permissions = await started();
    gate.decide = (id) => (id === "7" ? "allow" : "deny");
    const [[seven], [eight]] = await Promise.all([
      permissions.check([order("7")], ["cancelOrder"]),
      permissions.check([order("8")], ["cancelOrder"]),
    ]);
    expect([seven?.can("cancelOrder"), eight?.can("cancelOrder")]).toEqual(["allow", "deny"]);
    expect(gate.count("POST")).toBe(1);
    expect(permissions.can("cancelOrder", order("7"))).toBe("allow");
    expect(permissions.can("cancelOrder", "Order")).toBe("conditional");
    await permissions.check([order("7"), order("8")], ["cancelOrder"]);
    expect(gate.count("POST")).toBe(1);
  });

  it("does not ask what the snapshot knows", async () => {
    const permissions = await started();
    const [answer] = await permissions.check([{ type: "Product", id: "tea" }], ["viewProduct"]);
    expect(answer?.can("viewProduct")).toBe("allow");
    expect(gate.count("POST")).toBe(0);
  });

  it("loads first, without start", async () => {
    const permissions = make();
    const [answer] = await permissions.check([order("7")], ["viewOrder"]);
    expect(answer?.can("viewOrder")).toBe("allow");
  });

  it("tells attributes apart", async () => {
    const permissions = await started();
    await permissions.check([{ ...order("9"), attrs: { b: 1, a: 2 } }], ["viewOrder"]);
    expect(permissions.can("viewOrder", { ...order("9"), attrs: { a: 2, b: 1 } })).toBe("allow");
    expect(permissions.can("viewOrder", { ...order("9"), attrs: { a: 3 } })).toBe("conditional");
    expect(permissions.can("viewOrder", order("9"))).toBe("conditional");
  });

  it.each([
    ["another revision", { revision: "r9" }],
    ["another user", { subject: "bob" }],
    ["another portal", { portal: "admin" }],
    ["fewer resources", { resources: [] }],
    ["another resource", { resources: [{ type: "Order", id: "8", actions: { viewOrder: "allow" } }] }],
    ["a verdict that is none", { resources: [{ type: "Order", id: "7", actions: { viewOrder: "yes" } }] }],
  ])("allows nothing with an answer that has %s", async (_, answer) => {
    const permissions = await started({ events: false });
    gate.answer = answer;
    const [checked] = await permissions.check([order("7")], ["viewOrder"]);
    expect(checked?.can("viewOrder")).not.toBe("allow");
    expect(permissions.allowed("viewOrder", order("7"))).toBe(false);
    await vi.advanceTimersByTimeAsync(5_000);
    expect(gate.seen.length).toBeLessThan(14);
  });

  it("asks again after a change for what is watched, and changes the screen once", async () => {
    const permissions = await started();
    const end = permissions.watch(order("7"), ["cancelOrder"]);
    await vi.advanceTimersByTimeAsync(1);
    expect(permissions.can("cancelOrder", order("7"))).toBe("allow");
    const seen: string[] = [];
    permissions.subscribe(() => seen.push(permissions.can("cancelOrder", order("7"))));
    gate.snapshot = snapshot({ revision: "r2" });
    gate.send({ revision: "r2" });
    await vi.advanceTimersByTimeAsync(10);
    expect(new Set(seen)).toEqual(new Set(["allow"]));
    gate.decide = () => "deny";
    gate.snapshot = snapshot({ revision: "r3" });
    gate.send({ revision: "r3" });
    await vi.advanceTimersByTimeAsync(10);
    expect(permissions.can("cancelOrder", order("7"))).toBe("deny");
    end();
    gate.snapshot = snapshot({ revision: "r4" });
    const posts = gate.count("POST");
    await permissions.load();
    expect(gate.count("POST")).toBe(posts);
    expect(permissions.can("cancelOrder", order("7"))).toBe("conditional");
  });

  it("asks about a denial where a stronger login may lift it", async () => {
    const denied = snapshot({ resource_types: { Order: { cancelOrder: "deny" } } });
    gate.snapshot = denied;
    const permissions = await started();
    stops.push(permissions.watch(order("7"), ["cancelOrder"]));
    await vi.advanceTimersByTimeAsync(1);
    expect(gate.count("POST")).toBe(0);
    const answer = { type: "Order", id: "7", actions: { cancelOrder: "deny" }, step_up: { cancelOrder: "mfa" } };
    gate.answer = { resources: [answer] };
    stops.push(permissions.watch(order("7"), ["cancelOrder"], "stepUp"));
    await vi.advanceTimersByTimeAsync(1);
    expect(permissions.stepUp("cancelOrder", order("7"))).toBe("mfa");
    expect(permissions.can("cancelOrder", order("7"))).toBe("deny");
    expect(permissions.stepUp("viewOrder", order("7"))).toBeUndefined();
    expect(permissions.stepUp("cancelOrder", order("8"))).toBeUndefined();
  });

  it("asks again after a failure", async () => {
    const permissions = await started({ events: false });
    gate.status = 503;
    stops.push(permissions.watch(order("7"), ["cancelOrder"]));
    await vi.advanceTimersByTimeAsync(1);
    expect(permissions.can("cancelOrder", order("7"))).toBe("conditional");
    gate.status = 200;
    await vi.advanceTimersByTimeAsync(3_000);
    expect(permissions.can("cancelOrder", order("7"))).toBe("allow");
  });

  it("forgets a resource that changed", async () => {
    const permissions = await started();
    stops.push(permissions.watch(order("7"), ["cancelOrder"]), permissions.watch(order("77"), ["cancelOrder"]));
    await vi.advanceTimersByTimeAsync(1);
    gate.decide = () => "deny";
    permissions.forget(order("7"));
    expect(permissions.can("cancelOrder", order("7"))).toBe("conditional");
    await vi.advanceTimersByTimeAsync(1);
    expect(permissions.can("cancelOrder", order("7"))).toBe("deny");
    expect(permissions.can("cancelOrder", order("77"))).toBe("allow");
  });

  it("asks for at most two hundred pairs in one request", async () => {
    const permissions = await started();
    const many = Array.from({ length: 120 }, (_, index) => order(String(index)));
    const answers = await permissions.check(many, ["viewOrder", "cancelOrder"]);
    expect(answers.every((answer) => answer.can("viewOrder") === "allow")).toBe(true);
    expect(gate.seen.filter(({ method }) => method === "POST").map(({ body }) => body.resources.length)).toEqual([
      100, 20,
    ]);
  });
});

describe("a snapshot of the server", () => {
  it("counts at once, and is asked again", async () => {
    const permissions = make({ snapshot: snapshot() });
    expect(permissions.allowed("viewProduct")).toBe(true);
    stops.push(permissions.start());
    await vi.advanceTimersByTimeAsync(1);
    expect(gate.count("GET")).toBe(1);
  });

  it("is refused when it is expired or another portal's", () => {
    const expired = make({ snapshot: snapshot({ expires_at: "1970-01-01T00:00:01Z" }) });
    expect(expired.allowed("viewProduct")).toBe(false);
    expect(make({ snapshot: snapshot({ portal: "admin" }) }).allowed("viewProduct")).toBe(false);
  });
});

describe("a page of thousands of rows", () => {
  it("gets every answer, asked a few requests at a time, and again with a new snapshot", async () => {
    const permissions = await started();
    let underWay = 0;
    let most = 0;
    const many = await started({
      fetch: async (input, init) => {
        if (init?.method !== "POST") return gate.fetch(input, init);
        underWay += 1;
        most = Math.max(most, underWay);
        await new Promise((resolve) => setTimeout(resolve, 10));
        underWay -= 1;
        return gate.fetch(input, init);
      },
    });
    gate.decide = (id) => (Number(id) % 2 === 0 ? "allow" : "deny");
    const ends = Array.from({ length: 5_000 }, (_, row) => many.watch(order(String(row)), ["viewOrder"]));
    await vi.advanceTimersByTimeAsync(2_000);
    const verdicts = () => Array.from({ length: 5_000 }, (_, row) => many.can("viewOrder", order(String(row))));
    const right = Array.from({ length: 5_000 }, (_, row) => (row % 2 === 0 ? "allow" : "deny"));
    expect(verdicts()).toEqual(right);
    expect([gate.count("POST"), most]).toEqual([25, 4]);
    // one more row asks for itself alone
    ends.push(many.watch(order("5000"), ["viewOrder"]));
    await vi.advanceTimersByTimeAsync(100);
    expect(gate.seen.at(-1)?.body.resources).toEqual([{ type: "Order", id: "5000" }]);
    expect(verdicts()).toEqual(right);
    gate.snapshot = snapshot({ revision: "r2" });
    void many.load();
    await vi.advanceTimersByTimeAsync(2_000);
    expect(verdicts()).toEqual(right);
    // of what nothing watches any more, a part stays
    for (const end of ends) end();
    many.watch(order("7000"), ["viewOrder"]);
    await vi.advanceTimersByTimeAsync(100);
    expect(many.getState().checks.size).toBeLessThanOrEqual(1_001);
    expect(permissions.can("viewOrder", order("1"))).toBe("conditional");
  });

  it("asks once for what several parts of the page ask about one resource", async () => {
    const permissions = await started();
    permissions.watch(order("7"), ["viewOrder"]);
    permissions.watch(order("7"), ["cancelOrder"]);
    permissions.watch(order("7"), ["viewOrder"]);
    await vi.advanceTimersByTimeAsync(1);
    expect(gate.seen.at(-1)?.body).toEqual({
      portal: "customer",
      resources: [{ type: "Order", id: "7" }],
      actions: ["viewOrder", "cancelOrder"],
    });
    expect(permissions.can("cancelOrder", order("7"))).toBe("allow");
  });

  it("says what the gate has against a question", async () => {
    const permissions = await started();
    gate.status = 400;
    gate.problem = { detail: "`status` is no attribute of `Order`" };
    permissions.watch(order("7"), ["viewOrder"]);
    await vi.advanceTimersByTimeAsync(1);
    expect(permissions.getState().error?.message).toContain("`status` is no attribute of `Order`");
    expect(permissions.can("viewOrder", order("7"))).toBe("conditional");
  });
});

describe("the pages of one browser", () => {
  /** As browsers have them: one holder, the others wait. */
  class Locks {
    readonly #tails = new Map<string, Promise<unknown>>();
    request<T>(name: string, { signal }: { signal: AbortSignal }, run: () => Promise<T>): Promise<T> {
      const before = this.#tails.get(name) ?? Promise.resolve();
      const mine = before.then(() => {
        signal.throwIfAborted();
        return run();
      });
      this.#tails.set(
        name,
        mine.catch(() => undefined),
      );
      return mine;
    }
  }

  it("share one stream, and hear what it says", async () => {
    setMaxListeners(0);
    vi.stubGlobal("document", Object.assign(new EventTarget(), { visibilityState: "visible" }));
    vi.stubGlobal("navigator", { locks: new Locks() });
    const channels = new Set<FakeChannel>();
    class FakeChannel {
      onmessage: ((event: { data: unknown }) => void) | undefined;
      readonly name: string;
      constructor(name: string) {
        this.name = name;
        channels.add(this);
      }
      postMessage(data: unknown) {
        for (const other of channels) if (other !== this && other.name === this.name) other.onmessage?.({ data });
      }
      close() {
        channels.delete(this);
      }
    }
    vi.stubGlobal("BroadcastChannel", FakeChannel);
    try {
      const pages: Permissions[] = [];
      for (let page = 0; page < 8; page += 1) pages.push(await started());
      // another caller than the browser's
      await started({ headers: { authorization: "Bearer x" } });
      expect(gate.streams).toBe(2);
      gate.snapshot = snapshot({ revision: "r2", actions: { viewProduct: "deny" } });
      gate.send({ revision: "r2" });
      await vi.advanceTimersByTimeAsync(1);
      expect(pages.map((page) => page.can("viewProduct"))).toEqual(pages.map(() => "deny"));
      // the page with the stream goes: the next one opens one
      stops[0]?.();
      await vi.advanceTimersByTimeAsync(1);
      expect(gate.streams).toBe(2);
      gate.status = 401;
      gate.send({ reason: "revoked" });
      await vi.advanceTimersByTimeAsync(1);
      expect(pages.slice(1).map((page) => page.getState().status)).toEqual(Array(7).fill("unauthenticated"));
    } finally {
      for (const stop of stops) stop();
      vi.unstubAllGlobals();
    }
  });
});
