// Runs the tests of the packages, and compiles an app against what was built of them, with the oldest versions that they take
// beside them: React 18, React Router 6.4, TypeScript 5. The packages are copied, so that they find no newer ones.
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = join(root, "../target/packages/oldest");

function run(command, ...args) {
  const { status } = spawnSync(command, args, { cwd: folder, stdio: "inherit" });
  if (status !== 0) {
    console.error(`with the oldest versions (packages/oldest/package.json): ${[command, ...args].join(" ")} failed`);
    process.exit(1);
  }
}

/** The text of a file, or nothing where there is none. */
function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

mkdirSync(folder, { recursive: true });
for (const name of ["rbac", "rbac-react", "auth"]) {
  for (const part of ["src", "dist", "tests", "package.json"]) {
    rmSync(join(folder, name, part), { recursive: true, force: true });
    cpSync(join(root, name, part), join(folder, name, part), { recursive: true });
  }
}
cpSync(join(root, "vitest.config.ts"), join(folder, "vitest.config.ts"));
for (const name of ["app.tsx", "package.json", "package-lock.json"])
  cpSync(join(root, "oldest", name), join(folder, name));
// the lock file says which versions; they are installed anew only when it changes
const lock = read(join(folder, "package-lock.json"));
if (read(join(folder, "installed.json")) !== lock) {
  run("npm", "ci", "--silent", "--no-audit", "--ignore-scripts");
  writeFileSync(join(folder, "installed.json"), lock);
}
const types =
  "--strict --exactOptionalPropertyTypes --noEmit --jsx react-jsx --module esnext --moduleResolution bundler --target es2022";
run("node_modules/.bin/tsc", ...types.split(" "), "--types", "node", "app.tsx");
run("node_modules/.bin/vitest", "run", "--project", "rbac-react", "--project", "auth", "--reporter", "dot");
