// Pauses, and the page that the user sees. Without a page (Node, Deno) everything counts as visible.

const page: Partial<Pick<typeof globalThis, "document" | "window">> = globalThis;

export const isVisible = (): boolean => page.document?.visibilityState !== "hidden";

/** Calls `listener` when the page is shown or hidden, until `signal` aborts. */
export const onVisibility = (listener: () => void, signal?: AbortSignal): void => {
  page.document?.addEventListener("visibilitychange", listener, signal ? { signal } : {});
};

/** Calls `listener` for an event of the window, until `signal` aborts. */
export const onWindow = (name: string, listener: (event: Event) => void, signal: AbortSignal): void => {
  page.window?.addEventListener(name, listener, { signal });
};

/** Calls `listener` when the user does something, until `signal` aborts. Without a page there is no user. */
export const onActivity = (listener: () => void, signal: AbortSignal): void => {
  for (const name of ["pointerdown", "keydown", "focus"]) onWindow(name, listener, signal);
};

export const hasPage = (): boolean => page.document !== undefined;

/** Between half of `milliseconds` and all of them: many clients that lost one gate do not come back at once. */
export const jittered = (milliseconds: number): number => milliseconds * (0.5 + Math.random() / 2);

/** Milliseconds to wait after so many failures: about 1 s, 2 s, 4 s … 30 s. */
export const backOff = (failures: number): number => jittered(Math.min(1_000 * 2 ** Math.min(failures, 5), 30_000));

/** Resolves after `milliseconds`, or when `signal` aborts. */
export const pause = (milliseconds: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, signal.aborted ? 0 : milliseconds);
    signal.addEventListener("abort", end);
  });
