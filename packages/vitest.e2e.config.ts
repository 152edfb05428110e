import { defineConfig } from "vitest/config";

export default defineConfig({
  cacheDir: "../target/packages/vite",
  test: {
    include: ["examples/portals/e2e/*.e2e.ts"],
    testTimeout: 40_000,
    hookTimeout: 40_000,
    // one demo and one browser for all files; cores are few
    fileParallelism: false,
  },
});
