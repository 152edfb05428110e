// One build for each portal: `PORTAL=customer vite build`. `scripts/build.js` builds both.
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const TITLES = new Map([
  ["customer", "Demo shop"],
  ["admin", "Demo shop administration"],
]);

const portal = process.env["PORTAL"] ?? "customer";
const title = TITLES.get(portal);
if (title === undefined) throw new Error(`there is no portal \`${portal}\``);

export default defineConfig({
  base: `/portal/${portal}/`,
  cacheDir: "../../../target/packages/vite",
  resolve: { conditions: ["cedargate-source", "module", "browser", "development|production"] },
  plugins: [
    react(),
    {
      name: "portal",
      transformIndexHtml: {
        order: "pre",
        handler: (html) => html.replaceAll("%PORTAL%", portal).replaceAll("%TITLE%", title),
      },
    },
  ],
  build: {
    target: "es2022",
    // the content security policy allows no `data:`
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    emptyOutDir: true,
  },
});
