// One configuration for all packages: strict and type-aware; React's rules where there is React.
import js from "@eslint/js";
import a11y from "eslint-plugin-jsx-a11y";
import reactHooks from "eslint-plugin-react-hooks";
import globals from "globals";
import ts from "typescript-eslint";

export default ts.config(
  { ignores: ["**/dist/", "**/node_modules/", "examples/portals/src/*/contract.ts"] },
  js.configs.recommended,
  {
    files: ["**/*.{ts,tsx}"],
    extends: [ts.configs.strictTypeChecked, ts.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { project: "tsconfig.check.json", tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/dot-notation": "off",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "max-lines": ["error", 600],
      "max-lines-per-function": ["error", 70],
    },
  },
  {
    files: ["**/*.tsx"],
    extends: [a11y.flatConfigs.strict, reactHooks.configs.flat["recommended-latest"]],
  },
  // a test is one long function of `describe`
  { files: ["**/tests/**", "**/e2e/**"], rules: { "max-lines-per-function": "off" } },
  { files: ["**/*.js"], languageOptions: { globals: globals.node } },
);
