// A gate of our own for unit tests: it answers as `docs/apps.md` says, and breaks when a test asks it to.

import type { Snapshot, Verdict } from "../src/index.ts";

export const snapshot = (over: Partial<Snapshot> = {}): Snapshot => ({
  portal: "customer",
  revision: "r1",
  subject: "alice",
  tenant: "acme",
  roles: ["viewer"],
  expires_at: new Date(Date.now() + 3_600_000).toISOString(),
  actions: { viewOrder: "conditional", viewProduct: "allow", cancelOrder: "conditional", POST: "deny" },
  resource_types: {
    Order: { viewOrder: "conditional", cancelOrder: "conditional" },
    Product: { viewProduct: "allow" },
    Path: { POST: "deny" },
  },
  flags: { new_checkout: true },
  ...over,
});

/** One request as the gate saw it. */
export interface Seen {
  readonly method: string;
  readonly path: string;
  readonly headers: Headers;
  readonly body: { resources: { type: string; id: string }[]; actions: string[] };
}

export class FakeGate {
  snapshot: unknown = snapshot();
  status = 200;
  /** Decisions by id and action. */
  decide: (id: string, action: string) => Verdict = () => "allow";
  /** Members of the POST answer. */
  answer: Record<string, unknown> = {};
  headers: Record<string, string> = {};
  hasEvents = true;
  /** The body of an answer that is none of the expected ones. */
  problem: unknown = {};
  /** Waits here before it answers. */
  gate: Promise<void> | undefined;
  readonly seen: Seen[] = [];
  #streams: ReadableStreamDefaultController<Uint8Array>[] = [];

  readonly fetch: typeof globalThis.fetch = async (input, init = {}) => {
    const url = new URL(input as string, "https://shop.test");
    const body = (typeof init.body === "string" ? JSON.parse(init.body) : {}) as Seen["body"];
    const seen = {
      method: init.method ?? "GET",
      path: url.pathname + url.search,
      headers: new Headers(init.headers),
      body,
    };
    this.seen.push(seen);
    init.signal?.throwIfAborted();
    if (url.pathname.endsWith("/events")) return this.#events(init.signal ?? undefined);
    await this.gate;
    init.signal?.throwIfAborted();
    if (this.status === 0) throw new TypeError("fetch failed");
    if (this.status !== 200) return Response.json(this.problem, { status: this.status });
    return seen.method === "POST" ? this.#post(seen) : this.#get(seen);
  };

  /** Sends an event to every open stream. */
  send(data: unknown, event = "changed"): void {
    const bytes = new TextEncoder().encode(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    for (const stream of this.#streams) stream.enqueue(bytes);
  }

  get streams(): number {
    return this.#streams.length;
  }

  /** Breaks every open stream. */
  breakStreams(): void {
    for (const stream of this.#streams.splice(0)) stream.error(new TypeError("broken"));
  }

  count(method: string): number {
    return this.seen.filter((seen) => seen.method === method && !seen.path.includes("/events")).length;
  }

  #get({ headers }: Seen): Response {
    const etag = `"${JSON.stringify(this.snapshot).length.toString()}-${(this.snapshot as Snapshot).revision}"`;
    if (headers.get("if-none-match") === etag) return new Response(null, { status: 304 });
    return Response.json(this.snapshot, { headers: { etag, ...this.headers } });
  }

  #post({ body }: Seen): Response {
    const { portal, revision } = this.snapshot as Snapshot;
    const resources = body.resources.map(({ type, id }) => ({
      type,
      id,
      actions: Object.fromEntries(body.actions.map((action) => [action, this.decide(id, action)])),
    }));
    return Response.json({ portal, revision, resources, ...this.answer });
  }

  #events(signal: AbortSignal | undefined): Response | Promise<Response> {
    if (!this.hasEvents) {
      return new Promise((_, reject) => {
        signal?.addEventListener("abort", () => {
          reject(new DOMException("aborted", "AbortError"));
        });
      });
    }
    const stream = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#streams.push(controller);
        controller.enqueue(new TextEncoder().encode("retry: 3000\n\n: hello\n\n"));
        signal?.addEventListener("abort", () => {
          if (this.#streams.includes(controller)) controller.error(new DOMException("aborted", "AbortError"));
          this.#streams = this.#streams.filter((open) => open !== controller);
        });
      },
    });
    return new Response(stream, { headers: { "content-type": "text/event-stream" } });
  }
}
