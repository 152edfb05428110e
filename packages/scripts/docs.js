// The snippets of docs/front-end.md and of the packages' readmes that name a file are type-checked, as one project.
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
// below node_modules, so that the packages are found from there
const project = join(root, "node_modules/.cache/docs");
const BLOCK = /^```tsx?\n\/\/ (src\/[\w.]+)\n([\s\S]*?)^```$/gm;

rmSync(project, { recursive: true, force: true });
mkdirSync(join(project, "src"), { recursive: true });
copyFileSync(join(root, "examples/portals/src/customer/contract.ts"), join(project, "src/contract.ts"));
const text = readFileSync(join(root, "../docs/front-end.md"), "utf8");
const snippets = [...text.matchAll(BLOCK)];
const all = text.match(/^```tsx?$/gm) ?? [];
if (snippets.length === 0 || snippets.length !== all.length) {
  console.error("docs/front-end.md: each TypeScript snippet begins with the name of its file (`// src/portal.ts`)");
  process.exit(1);
}
for (const [, name, code] of snippets) {
  const path = join(project, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, code);
}
const options = { noEmit: true, allowImportingTsExtensions: true, types: ["node"] };
const config = { extends: join(root, "tsconfig.base.json"), compilerOptions: options, include: ["src"] };
writeFileSync(join(project, "tsconfig.json"), JSON.stringify(config));
const { status } = spawnSync(join(root, "node_modules/.bin/tsc"), ["--project", project], { stdio: "inherit" });
process.exit(status ?? 1);
