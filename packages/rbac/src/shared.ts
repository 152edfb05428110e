// One stream for all pages of a browser. A browser opens six connections to a server that speaks HTTP/1, and each stream
// takes one: six visible windows with a stream each would leave none for anything else. So the pages take turns, by a lock
// that the browser frees when a page goes, and the page with the stream tells the others what it hears.
//
// A message proves nothing and allows nothing: it makes its reader ask the gate.

import type { ServerEvent } from "./events.ts";

export interface Shared {
  /** Follows the stream when it is this page's turn. Rejects when `signal` aborts before. */
  readonly turn: <T>(signal: AbortSignal, follow: () => Promise<T>) => Promise<T>;
  /** Tells the other pages. */
  readonly tell: (event: ServerEvent) => void;
}

/** Shares the stream called `name` until `signal` aborts; `undefined` outside of pages, and in browsers without locks. */
export function share(name: string, onEvent: (event: ServerEvent) => void, signal: AbortSignal): Shared | undefined {
  const { document, navigator, BroadcastChannel } = globalThis as Partial<typeof globalThis>;
  // insecure origins have no locks
  const locks = document && (navigator as Partial<Navigator>).locks;
  if (!locks || !BroadcastChannel) return undefined;
  const channel = new BroadcastChannel(name);
  channel.onmessage = ({ data }: MessageEvent<ServerEvent>) => {
    onEvent(data);
  };
  signal.addEventListener("abort", () => {
    channel.close();
  });
  return {
    turn: (waiting, follow) => locks.request(name, { signal: waiting }, follow),
    tell: (event) => {
      channel.postMessage(event);
    },
  };
}
