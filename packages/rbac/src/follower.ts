// Keeps a stream of events open while the page is visible. Browsers open few connections to a server that speaks HTTP/1,
// so a hidden tab keeps none, and the visible ones share one (`shared.ts`).

import { follow, type ServerEvent } from "./events.ts";
import type { Shared } from "./shared.ts";
import { backOff, isVisible, onVisibility, pause } from "./timing.ts";

/** Milliseconds without a byte after which a stream counts as dead. The gate sends a comment each 15 s. */
const IDLE_TIMEOUT = 45_000;

export interface Follower {
  /** True while a stream makes sense: there is a session. */
  readonly isWanted: () => boolean;
  /** Calls its listener whenever `isWanted` may have changed. */
  readonly subscribe: (listener: () => void) => () => void;
  /** The pages of one browser take turns; `undefined`: this one is alone. */
  readonly turn: Shared["turn"] | undefined;
  readonly request: (signal: AbortSignal) => Promise<Response>;
  readonly openTimeout: number;
  /** A stream is open; `isAgain`: it was interrupted, so that events may be lost. */
  readonly onOpen: (isAgain: boolean) => void;
  readonly onEvent: (event: ServerEvent) => void;
  /** The stream ended with this status; `undefined`: it broke. */
  readonly onEnd: (status: number | undefined) => void;
}

/** Follows until `signal` aborts, or the gate has no such stream. */
export async function keepFollowing(follower: Follower, signal: AbortSignal): Promise<void> {
  let isAgain = false;
  const isOver = () => signal.aborted;
  for (let failures = 0; !isOver(); failures += 1) {
    await untilWanted(follower, signal);
    const hidden = new AbortController();
    const attempt = AbortSignal.any([signal, hidden.signal]);
    onVisibility(() => {
      if (!isVisible()) hidden.abort();
    }, attempt);
    let status: number | undefined;
    const attend = () =>
      follow({
        ...follower,
        signal: attempt,
        onOpen: () => {
          failures = 0;
          follower.onOpen(isAgain);
          isAgain = true;
        },
        idleTimeout: IDLE_TIMEOUT,
      });
    try {
      status = await (follower.turn?.(attempt, attend) ?? attend());
    } catch {
      // the stream broke, or the page was hidden: it is opened again
    }
    const wasHidden = hidden.signal.aborted;
    hidden.abort();
    if (isOver()) return;
    follower.onEnd(status);
    if (status === 404 || status === 406) return;
    if (!wasHidden) await pause(backOff(failures), signal);
  }
}

/** Resolves when a stream makes sense, or `signal` aborts. */
function untilWanted({ isWanted, subscribe }: Follower, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = new AbortController();
    const look = () => {
      if (!signal.aborted && !(isVisible() && isWanted())) return;
      done.abort();
      unsubscribe();
      resolve();
    };
    const unsubscribe = subscribe(look);
    onVisibility(look, done.signal);
    signal.addEventListener("abort", look, { signal: done.signal });
    look();
  });
}
