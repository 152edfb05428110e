// `POST permissions`: decisions about single resources.

import type { Resource } from "./types.ts";
import { type Check, isTexts, isVerdicts } from "./snapshot.ts";

/** Pairs of resource and action in one request: the gate's default of `limits.batch`. */
const PAIRS_MAX = 200;

/** How to reach the permissions endpoints. */
export interface Requester {
  readonly portal: string;
  readonly url: string;
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
  readonly headers: Readonly<Record<string, string>>;
  readonly timeout: number;
}

/** One resource and the actions in question. */
export interface Asked {
  readonly key: string;
  readonly resource: Resource;
  readonly actions: readonly string[];
}

/** What one request answered. */
export interface Answer {
  readonly revision: string;
  readonly subject?: unknown;
  readonly resources: readonly { readonly key: string; readonly check: Check }[];
}

/** Asks for all of `asked`; an action of one type is never asked of another. Throws if one request fails. */
export async function ask(requester: Requester, asked: readonly Asked[]): Promise<Answer[]> {
  const byType = new Map<string, Asked[]>();
  for (const item of asked) byType.set(item.resource.type, [...(byType.get(item.resource.type) ?? []), item]);
  const chunks: Asked[][] = [];
  for (const items of byType.values()) {
    const size = Math.max(1, Math.floor(PAIRS_MAX / actionsOf(items).length));
    for (let start = 0; start < items.length; start += size) chunks.push(items.slice(start, start + size));
  }
  return Promise.all(chunks.map((chunk) => post(requester, chunk)));
}

const actionsOf = (items: readonly Asked[]) => [...new Set(items.flatMap(({ actions }) => actions))];

async function post({ portal, url, fetch, headers, timeout }: Requester, chunk: readonly Asked[]): Promise<Answer> {
  const resources = chunk.map(({ resource: { type, id, attrs } }) => (attrs ? { type, id, attrs } : { type, id }));
  const actions = actionsOf(chunk);
  const response = await fetch(url, {
    method: "POST",
    headers: { accept: "application/json", "content-type": "application/json", ...headers },
    body: JSON.stringify({ portal, resources, actions }),
    credentials: "same-origin",
    cache: "no-store",
    redirect: "error",
    signal: AbortSignal.timeout(timeout),
  });
  if (!response.ok) {
    await response.body?.cancel();
    throw new Error(`the gate answered ${String(response.status)}`);
  }
  return read(await response.json(), portal, chunk);
}

/** The answers come in the order of the questions; one that is about another resource is none. */
function read(body: unknown, portal: string, chunk: readonly Asked[]): Answer {
  const answer = body as { portal?: unknown; revision?: unknown; subject?: unknown; resources?: unknown } | null;
  const { revision, subject, resources } = answer ?? {};
  if (answer?.portal !== portal || typeof revision !== "string" || !Array.isArray(resources)) throw malformed();
  if (resources.length !== chunk.length) throw malformed();
  const items = chunk.map(({ key, resource }, index) => {
    const item = resources[index] as { type?: unknown; id?: unknown; actions?: unknown; step_up?: unknown } | null;
    const isAsked = item?.type === resource.type && item.id === resource.id;
    if (!isAsked || !isVerdicts(item.actions)) throw malformed();
    return { key, check: { actions: item.actions, step_up: isTexts(item.step_up) ? item.step_up : {} } };
  });
  return { revision, subject, resources: items };
}

const malformed = () => new Error("the gate's answer is malformed");
