// Server-sent events over `fetch`. `EventSource` hides status codes, sends no headers, and Node has none.

const BUFFER_MAX = 65_536;

/** One event of the stream. */
export interface ServerEvent {
  readonly event: string;
  readonly data: string;
}

/** Splits the text of a stream into events. */
export class EventParser {
  #buffer = "";
  #event = "";
  #data: string[] = [];

  /** The events that `chunk` completes. Throws if a line does not end. */
  push(chunk: string): ServerEvent[] {
    const lines = (this.#buffer + chunk).split(/\r\n|\n|\r(?!$)/);
    this.#buffer = lines.pop() ?? "";
    if (this.#buffer.length + this.#data.join("").length > BUFFER_MAX) throw new Error("an event is too long");
    return lines.flatMap((line) => this.#line(line));
  }

  #line(line: string): ServerEvent[] {
    if (line === "") {
      const event = { event: this.#event || "message", data: this.#data.join("\n") };
      const isComplete = this.#data.length > 0;
      this.#event = "";
      this.#data = [];
      return isComplete ? [event] : [];
    }
    const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
    if (field === "event") this.#event = value ?? "";
    if (field === "data") this.#data.push(value ?? "");
    return [];
  }
}

/** What a stream needs: `request` opens it, `onOpen` and `onEvent` hear of it. */
export interface Stream {
  readonly request: (signal: AbortSignal) => Promise<Response>;
  readonly signal: AbortSignal;
  readonly onOpen: () => void;
  readonly onEvent: (event: ServerEvent) => void;
  /** Milliseconds until the answer's headers must be there. */
  readonly openTimeout: number;
  /** Milliseconds without a byte (the gate sends a comment each 15 s) after which the stream counts as dead. */
  readonly idleTimeout: number;
}

/** Follows a stream until it ends; returns the status that the gate answered. Throws if it breaks. */
export async function follow(stream: Stream): Promise<number> {
  const abort = new AbortController();
  const end = () => {
    abort.abort();
  };
  let timer = setTimeout(end, stream.openTimeout);
  try {
    const response = await stream.request(AbortSignal.any([stream.signal, abort.signal]));
    const isStream = response.ok && response.headers.get("content-type")?.startsWith("text/event-stream");
    if (!isStream || !response.body) return response.ok ? 406 : response.status;
    stream.onOpen();
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    const parser = new EventParser();
    for (;;) {
      clearTimeout(timer);
      timer = setTimeout(end, stream.idleTimeout);
      const { done, value } = await reader.read();
      if (done) return response.status;
      parser.push(decoder.decode(value, { stream: true })).forEach(stream.onEvent);
    }
  } finally {
    clearTimeout(timer);
    abort.abort();
  }
}
