// @vitest-environment node
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

import { createPermissions, type Snapshot } from "@cedargate/rbac";
import { renderToStaticMarkup } from "react-dom/server";
import { beforeEach, describe, expect, it } from "vitest";

import { FakeGate, snapshot } from "../../rbac/tests/gate.ts";
import { Can, PermissionsProvider, useLoadedPermissions } from "../src/index.ts";
import { loadPermissions } from "../src/server.ts";

let gate: FakeGate;
const baseUrl = "http://127.0.0.1:8900/api/v1/identity";

beforeEach(() => {
  gate = new FakeGate();
});

const Page = () => (
  <Can action="viewProduct" fallback="no products">
    products
  </Can>
);

const html = (handed?: Snapshot) => {
  const permissions = createPermissions({ portal: "customer", baseUrl, fetch: gate.fetch, snapshot: handed });
  return renderToStaticMarkup(
    <PermissionsProvider permissions={permissions}>
      <Page />
    </PermissionsProvider>,
  );
};

describe("server rendering", () => {
  it("shows nothing without a snapshot, and asks nothing by itself", () => {
    expect(html()).toBe("no products");
    expect(gate.seen).toEqual([]);
  });

  it("shows what the handed snapshot allows", () => {
    expect(html(snapshot())).toBe("products");
    expect(html(snapshot({ expires_at: "1970-01-01T00:00:01Z" }))).toBe("no products");
  });

  it("does not suspend", () => {
    const Loaded = () => (useLoadedPermissions().allowed("viewProduct") ? "may" : "may not");
    const permissions = createPermissions({ portal: "customer", baseUrl, fetch: gate.fetch });
    const page = (
      <PermissionsProvider permissions={permissions}>
        <Loaded />
      </PermissionsProvider>
    );
    expect(renderToStaticMarkup(page)).toBe("may not");
  });
});

describe("server components", () => {
  it("load the permissions of the request's own caller", async () => {
    const { permissions, snapshot: handed } = await loadPermissions({
      portal: "customer",
      baseUrl,
      headers: { cookie: "session=alice" },
      fetch: gate.fetch,
    });
    expect(permissions.allowed("viewProduct")).toBe(true);
    const [order] = await permissions.check([{ type: "Order", id: "7" }], ["viewOrder"]);
    expect(order?.can("viewOrder")).toBe("allow");
    expect(gate.seen.every(({ headers }) => headers.get("cookie") === "session=alice")).toBe(true);
    expect(html(handed)).toBe("products");
  });

  it("deny without an answer", async () => {
    gate.status = 0;
    const loaded = await loadPermissions({ portal: "customer", baseUrl, headers: {}, fetch: gate.fetch });
    expect(loaded.permissions.allowed("viewProduct")).toBe(false);
    expect(loaded.snapshot).toBeUndefined();
  });

  it("find the client's entries marked, and the server's free of React", () => {
    const source = (name: string) => readFileSync(new URL(`../src/${name}`, import.meta.url), "utf8");
    for (const name of ["index.ts", "permissions.tsx", "router.tsx"]) expect(source(name)).toMatch(/^"use client";/);
    expect(source("server.ts")).not.toMatch(/use client|from "react/);
    // the way in which a server of components loads it: React has no hooks there
    const program = `
      const { loadPermissions } = await import("@cedargate/rbac-react/server");
      const { permissions } = await loadPermissions({ portal: "customer", baseUrl: "http://127.0.0.1:1", headers: {} });
      console.log(permissions.can("viewProduct"), permissions.getState().status);`;
    const options = ["--conditions", "react-server", "--input-type", "module", "--eval", program];
    const cwd = new URL("..", import.meta.url).pathname;
    expect(execFileSync(process.execPath, options, { cwd, encoding: "utf8" }).trim()).toBe("deny unavailable");
  });
});
