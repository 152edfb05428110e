import { afterEach, describe, expect, it, vi } from "vitest";

import { money, moment } from "../src/shell/format.ts";
import { Portal, Refusal } from "../src/shell/portal.ts";

const answer = (response: Response) => {
  vi.stubGlobal("fetch", () => Promise.resolve(response));
  return new Portal("customer").request("orders");
};

afterEach(() => {
  vi.unstubAllGlobals();
});

describe("requests of a portal", () => {
  it("return what the shop says", async () => {
    expect(await answer(Response.json({ orders: [] }))).toEqual({ orders: [] });
    expect(await answer(new Response(null, { status: 204 }))).toBeUndefined();
  });

  it("throw a refusal with what the gate tells of it", async () => {
    const body = { title: "no", status: 403, code: "forbidden", advice: "ask", decision_id: "0199" };
    const headers = { "content-type": "application/problem+json" };
    const refusal = (await answer(Response.json(body, { status: 403, headers })).catch(
      (error: unknown) => error,
    )) as Refusal;
    expect(refusal).toBeInstanceOf(Refusal);
    expect(refusal).toMatchObject({
      message: "no",
      status: 403,
      code: "forbidden",
      advice: "ask",
      decisionId: "0199",
    });
  });

  it.each([
    ["a page instead of data", new Response("<h1>hello</h1>", { headers: { "content-type": "text/html" } })],
    ["an error without a problem", new Response("oh", { status: 502 })],
    ["null", Response.json(null, { status: 500 })],
  ])("throw a refusal for %s", async (_, response) => {
    await expect(answer(response)).rejects.toBeInstanceOf(Refusal);
  });

  it("keep the challenge of a step-up until the user decides", async () => {
    const challenge = 'Bearer error="insufficient_user_authentication", acr_values="mfa"';
    const refused = Response.json({}, { status: 401, headers: { "www-authenticate": challenge } });
    vi.stubGlobal("fetch", () => Promise.resolve(refused));
    const portal = new Portal("admin");
    const seen: unknown[] = [];
    portal.subscribe(() => seen.push(portal.getChallenge()));
    await expect(portal.request("accounts/bob/suspend", "POST")).rejects.toBeInstanceOf(Refusal);
    portal.setChallenge(undefined);
    expect(seen).toEqual([{ acr_values: "mfa" }, undefined]);
  });
});

describe("formats", () => {
  it("show money and times, and leave other texts as they are", () => {
    expect(money(450, "EUR")).toBe("€4.50");
    expect(moment("2026-11-30T02:00:00Z")).toContain("2026");
    expect(moment(1_796_000_000)).toContain("2026");
    expect(moment("<b>")).toBe("<b>");
  });
});
