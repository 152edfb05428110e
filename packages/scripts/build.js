// Builds the packages into their `dist`, and the example portals into `examples/portals/dist`, which is committed because
// `cedargate demo` embeds it. `--check` builds the portals elsewhere and fails if the committed ones are not the same.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "vite";

const root = fileURLToPath(new URL("..", import.meta.url));
const portals = join(root, "examples/portals");
const committed = join(portals, "dist");
const isCheck = process.argv.includes("--check");
const target = isCheck ? join(root, "../target/packages/portals") : committed;

const { status } = spawnSync(join(root, "node_modules/.bin/tsc"), ["--build"], { cwd: root, stdio: "inherit" });
if (status !== 0) process.exit(1);

rmSync(target, { recursive: true, force: true });
for (const portal of ["customer", "admin"]) {
  process.env.PORTAL = portal;
  const outDir = join(target, portal);
  await build({ root: portals, configFile: join(portals, "vite.config.ts"), logLevel: "warn", build: { outDir } });
}

const files = (folder) =>
  existsSync(folder)
    ? readdirSync(folder, { recursive: true })
        .map(String)
        .filter((name) => statSync(join(folder, name)).isFile())
        .sort()
    : [];

if (isCheck) {
  const names = [...new Set([...files(target), ...files(committed)])];
  const isSame = (name) =>
    [target, committed].every((folder) => existsSync(join(folder, name))) &&
    readFileSync(join(target, name)).equals(readFileSync(join(committed, name)));
  const stale = names.filter((name) => !isSame(name));
  if (stale.length > 0) {
    console.error("packages/examples/portals/dist is not what its sources build; run `npm run build` in packages/:");
    for (const name of stale) console.error(`  ${name}`);
    process.exit(1);
  }
}
