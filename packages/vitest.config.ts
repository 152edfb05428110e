import { defineConfig } from "vitest/config";

const resolve = { conditions: ["cedargate-source", "module", "browser", "development|production"] };
const ssr = { resolve: { conditions: ["cedargate-source", "module", "node", "development|production"] } };

const project = (name: string, environment: "node" | "jsdom") => ({
  resolve,
  ssr,
  test: { name, environment, include: [`${name}/tests/**/*.test.{ts,tsx}`], restoreMocks: true },
});

export default defineConfig({
  cacheDir: "../target/packages/vite",
  test: {
    projects: [
      project("rbac", "node"),
      project("auth", "jsdom"),
      project("rbac-react", "jsdom"),
      project("examples/portals", "jsdom"),
    ],
  },
});
