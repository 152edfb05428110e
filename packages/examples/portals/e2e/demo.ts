// `cedargate demo` over a copy of the repository's policies, and a real Chromium in front of it.
import { execFileSync, spawn } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";

const ROOT = fileURLToPath(new URL("../../../..", import.meta.url));
const GATE = process.env["CEDARGATE"] ?? join(ROOT, "target/debug/cedargate");
const BROWSERS = ["/usr/bin/chromium", "/usr/bin/google-chrome"];
const START_TIMEOUT = 20_000;
/** One-time codes count once; the next one is there after so long. */
const CODE_SECONDS = 30;

/** A running demo. */
export interface Demo {
  readonly origin: string;
  /** The copy of the policies; a test edits it. */
  readonly tree: string;
  readonly passwords: ReadonlyMap<string, string>;
  /** The account's present one-time code. */
  code(name: string): Promise<string>;
  stop(): Promise<void>;
}

/** Starts a demo on free ports, with the pages that are built here. */
export async function startDemo(): Promise<Demo> {
  const tree = mkdtempSync(join(tmpdir(), "cedargate-portals-"));
  for (const folder of ["policies", "schemas"]) cpSync(join(ROOT, folder), join(tree, folder), { recursive: true });
  const pages = join(ROOT, "packages/examples/portals/dist");
  const gate = spawn(GATE, ["demo", "--dir", tree, "--portals", pages, "--port", "0"], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, CEDARGATE_LOG: "error" },
  });
  const ended = new Promise<void>((resolve) =>
    gate.once("exit", () => {
      resolve();
    }),
  );
  let text = "";
  gate.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
  });
  const stop = async () => {
    gate.kill("SIGTERM");
    await ended;
    rmSync(tree, { recursive: true, force: true });
  };
  for (const end = Date.now() + START_TIMEOUT; !text.includes("/authorize -d");) {
    if (gate.exitCode !== null || Date.now() > end) {
      await stop();
      throw new Error(`the demo did not start:\n${text}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const address = /^ *(http:\/\/localhost:\d+)\/portal\/customer\/$/m.exec(text)?.[1];
  const users = /^ *users +(.+)$/m.exec(text)?.[1];
  if (address === undefined || users === undefined) throw new Error(`the demo printed no addresses:\n${text}`);
  const passwords = new Map(
    [...text.matchAll(/^ *(\w+) +password (\S+)/gm)].map(([, name = "", word = ""]) => [name, word]),
  );
  const used = new Set<string>();
  const code = async (name: string): Promise<string> => {
    for (;;) {
      const output = execFileSync(GATE, ["user", "code", name, "--file", users], { encoding: "utf8" });
      const found = /\d{6}/.exec(output)?.[0] ?? "";
      if (found !== "" && !used.has(found)) {
        used.add(found);
        return found;
      }
      await new Promise((resolve) => setTimeout(resolve, (CODE_SECONDS * 1000) / 60));
    }
  };
  return { origin: address, tree, passwords, code, stop };
}

/** Replaces text in a policy file; fails if it is not there. */
export function edit(demo: Demo, file: string, from: string, to: string): void {
  const path = join(demo.tree, file);
  const text = readFileSync(path, "utf8");
  if (!text.includes(from)) throw new Error(`${file} does not have \`${from}\``);
  writeFileSync(path, text.replace(from, to));
}

/** Debian's Chromium. */
export async function launch(): Promise<Browser> {
  const executablePath = BROWSERS.find(existsSync);
  if (executablePath === undefined) throw new Error("please install chromium (apt-get install chromium)");
  return chromium.launch({ executablePath, args: ["--no-sandbox"] });
}

/** What a page complained about: a refused script or style, an error, a failed request of its own. */
export const complaints = (context: BrowserContext): string[] => {
  const texts: string[] = [];
  context.on("weberror", (error) => texts.push(String(error.error())));
  context.on("console", (message) => {
    // a refusal of the gate is part of these tests, and the browser reports each
    const isRefusal = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !isRefusal) texts.push(message.text());
  });
  return texts;
};

/** Opens a portal and logs in at the gate's own form. */
export async function login(page: Page, demo: Demo, portal: string, name: string): Promise<void> {
  await page.goto(`${demo.origin}/portal/${portal}/`);
  await submit(page, demo, name);
  await page.getByRole("button", { name: "Log out" }).waitFor();
}

/** Fills the gate's login form; with a one-time code where a step-up asks for the second factor. */
export async function submit(page: Page, demo: Demo, name: string, factor?: "code"): Promise<void> {
  await page.locator("input[type=password]").waitFor();
  const user = page.locator("input[name=username], input[name=name], input[autocomplete=username]").first();
  if (await user.isEditable()) await user.fill(name);
  await page.locator("input[type=password]").fill(demo.passwords.get(name) ?? "");
  if (factor === "code") await page.locator("input[name=code]").fill(await demo.code(name));
  await page.locator("button[type=submit], form button").first().click();
}
