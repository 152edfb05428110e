// What a package costs in a browser: bundled, minified, gzipped. Fails above the budget that its README promises.
import { gzipSync } from "node:zlib";

import { build } from "vite";

const BUDGETS = [
  { entry: "rbac/src/index.ts", bytes: 5_000, external: [] },
  { entry: "auth/src/index.ts", bytes: 3_500, external: [] },
  { entry: "rbac-react/src/index.ts", bytes: 1_000, external: [/^react/, "@cedargate/rbac"] },
];

let isTooLarge = false;
for (const { entry, bytes, external } of BUDGETS) {
  const [{ output }] = await build({
    configFile: false,
    logLevel: "error",
    resolve: { conditions: ["cedargate-source"] },
    build: {
      write: false,
      target: "es2022",
      minify: true,
      lib: { entry, formats: ["es"] },
      rolldownOptions: { external, output: { minify: true } },
    },
  });
  const size = gzipSync(output[0].code, { level: 9 }).length;
  console.log(`${entry}: ${size} bytes of at most ${bytes}`);
  isTooLarge ||= size > bytes;
}
if (isTooLarge) {
  console.error("a package is larger than its README promises: make it smaller, or change both");
  process.exit(1);
}
