// The built package outside of a browser: in this Node and, where there is one, in Deno.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";

import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { snapshot } from "./gate.ts";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const built = here("../dist/index.js");
const installed = here("../../../target/packages/deno/node_modules/.bin/deno");
const deno = [installed, "deno"].find((name) => spawnSync(name, ["--version"]).status === 0);

let server: Server;
let origin: string;

// what a user sees: loaded, an event of the gate, a reload with the ETag
const program = () => `
  const { createPermissions } = await import(${JSON.stringify(built)});
  const permissions = createPermissions({
    portal: "customer",
    baseUrl: "${origin}/api/v1/identity",
    headers: { authorization: "Bearer alice" },
  });
  const stop = permissions.start();
  await permissions.loaded();
  console.log(permissions.can("viewProduct"), permissions.can("nothing"));
  await new Promise((resolve) => permissions.subscribe(() => permissions.can("viewProduct") === "deny" && resolve()));
  console.log(permissions.can("viewProduct"));
  stop();
`;

beforeAll(() => {
  execFileSync(process.execPath, [here("../../node_modules/typescript/bin/tsc"), "--build", here("../tsconfig.json")]);
  server = createServer((request, response) => {
    const isChanged = request.headers["if-none-match"] === '"r1"';
    if (request.headers.authorization !== "Bearer alice") response.writeHead(401).end("{}");
    else if (request.url?.includes("/events") === true) {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(`: hello\n\nevent: changed\ndata: {"revision":"r2"}\n\n`);
    } else {
      const body = isChanged ? snapshot({ revision: "r2", actions: {} }) : snapshot();
      response.writeHead(200, { "content-type": "application/json", etag: isChanged ? '"r2"' : '"r1"' });
      response.end(JSON.stringify(body));
    }
  });
  return new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", () => {
      origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      resolve();
    });
  });
});

afterAll(() => {
  server.closeAllConnections();
  server.close();
});

/** Runs the program without blocking: the server is in this process. */
const run = async (command: string, args: string[]): Promise<string> => {
  const { promisify } = await import("node:util");
  const { execFile } = await import("node:child_process");
  const { stdout } = await promisify(execFile)(command, args, { timeout: 20_000 });
  return stdout;
};

describe("the built package", () => {
  it("is there", () => {
    expect(existsSync(built)).toBe(true);
  });

  it("works in Node", async () => {
    expect(await run(process.execPath, ["--input-type", "module", "--eval", program()])).toBe("allow deny\ndeny\n");
  });

  it.skipIf(deno === undefined)("works in Deno", async () => {
    const data = `data:application/javascript,${encodeURIComponent(program().replace(built, `file://${built}`))}`;
    expect(await run(deno ?? "", ["run", "--no-config", "--allow-net", "--allow-read", data])).toBe(
      "allow deny\ndeny\n",
    );
  });
});
