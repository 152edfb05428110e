// `POST permissions`: decisions about single resources.

import type { Resource } from "./types.ts";
import { type Check, isTexts, isVerdicts } from "./snapshot.ts";

/** Pairs of resource and action in one request: the gate's default of `limits.batch`. */
const PAIRS_MAX = 200;
/** Requests that are under way at one moment. */
const AT_ONCE = 4;

/** How to reach the permissions endpoints. */
export interface Requester {
  readonly portal: string;
  readonly url: string;
  readonly timeout: number;
  readonly request: (
    path: string,
    init: Omit<RequestInit, "headers"> & { headers?: Record<string, string> },
  ) => Promise<Response>;
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
  // several parts of a page may ask about one resource
  const items = new Map<string, Asked>();
  for (const { key, resource, actions } of asked) {
    items.set(key, { key, resource, actions: [...(items.get(key)?.actions ?? []), ...actions] });
  }
  const chunks: Asked[][] = [];
  for (const type of new Set(asked.map(({ resource }) => resource.type))) {
    const own = [...items.values()].filter(({ resource }) => resource.type === type);
    const size = Math.max(1, Math.floor(PAIRS_MAX / actionsOf(own).length));
    for (let start = 0; start < own.length; start += size) chunks.push(own.slice(start, start + size));
  }
  const answers: Answer[] = [];
  // a page of thousands of rows must not be a flood: the gate would answer a part of it with 429
  const line = async () => {
    for (let chunk; (chunk = chunks.shift());) answers.push(await post(requester, chunk));
  };
  await Promise.all(Array.from({ length: AT_ONCE }, line));
  return answers;
}

const actionsOf = (items: readonly Asked[]) => [...new Set(items.flatMap(({ actions }) => actions))];

async function post({ portal, request }: Requester, chunk: readonly Asked[]): Promise<Answer> {
  const resources = chunk.map(({ resource: { type, id, attrs } }) => ({ type, id, attrs }));
  const actions = actionsOf(chunk);
  const response = await request("", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ portal, resources, actions }),
  });
  // a resource that the schema does not allow, for example: the gate says which attribute
  if (!response.ok) throw new Error(`the gate answered ${String(response.status)}: ${await response.text()}`);
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

const malformed = () => new Error("the answer is malformed");
