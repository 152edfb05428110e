// Parts that several pages show: policies, findings, tables, diffs.
import { brief, el, put, shown } from "./dom.js";
import { get, holds } from "./data.js";
import { saveTable } from "./save.js";

/** A short word with a colour. */
export function badge(kind, text) {
  return el("span", { class: `badge ${kind}` }, text);
}

/** `3 policies`, `1 policy`. */
export function counted(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

/** The address of a page: `#/matrix?portal=shop`. */
export function address(page, parameters) {
  const given = Object.entries(parameters ?? {}).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  return query === "" ? `#/${page}` : `#/${page}?${query}`;
}

const TOKENS = /(\/\/[^\n]*)|("(?:[^"\\\n]|\\.)*")|(@[\w]+)|\b(permit|forbid)\b|\b(when|unless|if|then|else|in|is|has|like)\b|\b(principal|action|resource|context)\b|\b(true|false|\d+)\b/g;
const KINDS = ["comment", "string", "annotation", "effect", "keyword", "variable", "literal"];

/** Cedar with its words coloured. */
export function cedar(text) {
  const code = el("code", { class: "cedar" });
  let end = 0;
  for (const match of String(text).matchAll(TOKENS)) {
    const kind = KINDS[match.slice(1).findIndex((group) => group !== undefined)];
    put(code, text.slice(end, match.index), el("span", { class: `c-${kind} ${match[0]}`.replace(/[^\w -]/g, "").slice(0, 40) }, match[0]));
    end = match.index + match[0].length;
  }
  return put(code, text.slice(end));
}

/** A value of Cedar's JSON as policies write it: `datetime("2026-01-01")`, `ip("10.0.0.1")`, `User::"alice"`. */
export function valueText(value) {
  if (Array.isArray(value)) return `[${value.map(valueText).join(", ")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (value.__entity) return `${value.__entity.type}::${JSON.stringify(value.__entity.id)}`;
  if (value.__extn) return `${value.__extn.fn}(${(value.__extn.args ?? [value.__extn.arg]).map(valueText).join(", ")})`;
  const members = Object.entries(value).map(([name, member]) => `${/^\w+$/.test(name) ? name : JSON.stringify(name)}: ${valueText(member)}`);
  return members.length ? `{ ${members.join(", ")} }` : "{}";
}

/** JSON in lines, with the times, addresses and entities in it as policies write them. */
export function readableJson(value) {
  const plain = (_, member) => (member?.__extn || member?.__entity ? valueText(member) : member);
  return JSON.stringify(value, plain, 1);
}

/** A text diff: lines that begin with `+`, `-` or a space. */
export function diffText(text) {
  const kinds = { "+": "added", "-": "removed" };
  const lines = text.split("\n").map((line) => el("span", { class: `line ${kinds[line[0]] ?? ""}` }, `${line}\n`));
  return el("pre", { class: "diff", tabindex: "0", "aria-label": "Text before and after" }, lines);
}

/** A problem in the place of what it hinders. */
export function failure(error) {
  return el("p", { class: "failure", role: "alert" }, error.message ?? String(error));
}

/** The policy's name; opens its text. */
export function policyLink(portal, id, effect) {
  const label = [effect ? badge(effect, effect) : null, " ", el("span", { class: "id" }, brief(id, 80))];
  if (!holds("policy", { portal, id })) return el("span", { class: "policy" }, label);
  return el("button", { type: "button", class: "policy", title: shown(brief(id, 300)), on: { click: () => showPolicy(portal, id) } }, label);
}

/** Opens a dialog with what `content` makes of the function that closes it; returns the dialog. A closed dialog is gone at once. */
export function openDialog(label, content) {
  const dialog = el("dialog", { class: "sheet", "aria-label": label });
  const close = () => { dialog.close(); dialog.remove(); };
  dialog.addEventListener("close", () => dialog.remove());
  put(dialog, content(close));
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** The head of a dialog: its heading, and the button that closes it. */
export function dialogHead(heading, close) {
  return el("header", {}, el("h2", {}, heading), el("button", { type: "button", class: "small", on: { click: close } }, "Close"));
}

/** Opens a policy's text in a dialog. */
export async function showPolicy(portal, id) {
  const body = el("div", {}, el("p", { class: "wait" }, "Reading"));
  const dialog = openDialog(`Policy ${brief(id, 80)}`, (close) => [dialogHead(brief(id, 200), close), body]);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  try {
    const policy = await get("policy", { portal, id });
    body.replaceChildren(
      el("p", { class: "soft" }, badge(policy.effect, policy.effect), " ", el("code", {}, policy.place)),
      el("pre", { tabindex: "0", "aria-label": "Text of the policy" }, cedar(policy.text)),
    );
  } catch (error) {
    body.replaceChildren(failure(error));
  }
}

/** Findings as every command publishes them. */
export function findingList(findings) {
  const place = (finding) => [finding.file, finding.line, finding.column].filter((part) => part).join(":");
  return el("ul", { class: "findings" }, findings.map((finding) => el("li", {},
    badge(finding.severity, finding.severity), " ", el("strong", {}, brief(finding.message, 500)),
    el("div", { class: "soft" }, finding.file ? el("code", {}, place(finding)) : null, finding.file ? " · " : null, finding.rule,
      finding.policy ? [" · policy ", finding.policy] : null),
    finding.help ? el("div", { class: "help" }, finding.help) : null)));
}

/**
 * A table whose columns sort. A column has `label`, `value(row)` for sorting and saving, `show(row)` where more than the text
 * is shown, and `numeric` or `isTime`. Shows `max` rows first.
 */
export function dataTable({ name, columns, rows, max = 200 }) {
  let order = null;
  let limit = max;
  const body = el("tbody");
  const more = el("button", { type: "button", class: "small", on: { click: () => { limit += 1000; draw(); } } });
  const lines = () => [columns.map((column) => column.label), ...sorted().map((row) => columns.map((column) => column.value(row)))];
  const sorted = () => {
    if (order === null) return rows;
    const { column, down } = order;
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a ?? "").localeCompare(String(b ?? "")));
    return [...rows].sort((a, b) => compare(column.value(a), column.value(b)) * (down ? -1 : 1));
  };
  const heads = columns.map((column) => {
    const sort = () => {
      order = { column, down: order?.column === column && !order.down };
      heads.forEach((head) => head.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      draw();
    };
    const head = el("th", { scope: "col", class: kindOf(column) }, el("button", { type: "button", class: "sort", on: { click: sort } }, column.label));
    return head;
  });
  const draw = () => {
    const all = sorted();
    body.replaceChildren(...all.slice(0, limit).map((row) => el("tr", {}, columns.map((column, at) =>
      el(at === 0 ? "th" : "td", { scope: at === 0 ? "row" : null, class: kindOf(column) }, column.show ? column.show(row) : column.value(row))))));
    more.hidden = all.length <= limit;
    more.textContent = `Show more (${(all.length - limit).toLocaleString("en")} left)`;
  };
  draw();
  return el("div", {},
    el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": name },
      el("table", {}, el("caption", { class: "quiet" }, name), el("thead", {}, el("tr", {}, heads)), body)),
    el("p", { class: "under" }, more, saveTable(name, lines)));
}

function kindOf(column) {
  if (column.numeric) return "number";
  return column.isTime ? "time" : null;
}

/** Width of a plot: `max`, or what a narrow window has. */
export function plotWidth(max) {
  return Math.max(250, Math.min(max, document.documentElement.clientWidth - 32));
}

/** How much of a whole is reached: a bar with its percentage. */
export function meter(reached, all, label) {
  const percent = all === 0 ? 100 : Math.floor((reached * 1000) / all) / 10;
  return el("span", { class: "meter" }, el("progress", { max: "100", value: String(percent), "aria-label": label }), ` ${percent} %`);
}

/** A choice of one value. `options` are texts, or pairs of value and text. */
export function choice(label, options, value, changed) {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  const select = el("select", { on: { change: () => changed(select.value) } }, pairs.map(([known, text]) => el("option", { value: known, selected: known === value }, brief(text, 60))));
  select.value = value ?? "";
  return el("label", { class: "field" }, el("span", {}, label), select);
}
