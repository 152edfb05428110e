import { describe, expect, it } from "vitest";

import { EventParser } from "../src/events.ts";

describe("EventParser", () => {
  it("reads events however the bytes are cut", () => {
    const text =
      ': hello\r\n\r\nretry: 3000\r\nid: r2\r\nevent: changed\r\ndata: {"revision":\r\ndata:"r2"}\r\n\r\ndata: x\n\n';
    const expected = [
      { event: "changed", data: '{"revision":\n"r2"}' },
      { event: "message", data: "x" },
    ];
    for (let size = 1; size <= text.length; size += 1) {
      const parser = new EventParser();
      const events = [];
      for (let at = 0; at < text.length; at += size) events.push(...parser.push(text.slice(at, at + size)));
      expect(events).toEqual(expected);
    }
  });

  it("refuses a line that does not end", () => {
    const parser = new EventParser();
    expect(() => parser.push("x".repeat(70_000))).toThrow("too long");
  });
});
