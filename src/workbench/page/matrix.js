// Matrix: what each role may do, on which type of resource, and under which conditions; two roles or two trees side by side.
import { announce, brief, clear, el, put, settled } from "./dom.js";
import { get, holds, isExport } from "./data.js";
import { saveTable } from "./save.js";
import { address, badge, cedar, choice, counted, failure, policyLink } from "./parts.js";

/** Answers by their numbers, with a sign that needs no colour. */
const ANSWERS = [
  { word: "deny", sign: "✕" },
  { word: "conditional", sign: "◐" },
  { word: "allow", sign: "✓" },
  { word: "unknown", sign: "?" },
  { word: "impossible", sign: "–" },
];
const DENY = 0;
const CONDITIONAL = 1;
const UNKNOWN = 3;
const IMPOSSIBLE = 4;
/** Lines that are drawn at once. */
const WINDOW = 150;

/** A cell as it came: the answer alone, or with its conditions. */
function cellOf(raw) {
  return Array.isArray(raw) ? { answer: raw[0], permits: raw[1], forbids: raw[2], why: raw[3] ?? null } : { answer: raw, permits: [], forbids: [], why: null };
}

function conditionTexts(matrix, cell) {
  const text = (number) => { const one = matrix.conditions[number]; return `${one.policy}: ${one.text ?? "always"}`; };
  return [...cell.permits.map(text), ...cell.forbids.map((number) => `not ${text(number)}`)].sort().join("\n");
}

/** True if everything that the narrow cell allows, the wide one allows, as far as their conditions are the same texts. */
function isWider(wideMatrix, wide, narrowMatrix, narrow) {
  const texts = (matrix, numbers) => numbers.map((number) => matrix.conditions[number].text);
  const permits = texts(wideMatrix, wide.permits);
  const forbids = texts(narrowMatrix, narrow.forbids);
  const isPermitted = permits.includes(null) || texts(narrowMatrix, narrow.permits).every((text) => permits.includes(text));
  return isPermitted && texts(wideMatrix, wide.forbids).every((text) => forbids.includes(text));
}

/** How the new cell differs from the old one: `opens`, `closes`, `differs`, or null. */
function difference(matrix, cell, oldMatrix, oldCell) {
  if (oldCell === null) return cell.answer === DENY || cell.answer === IMPOSSIBLE ? null : "opens";
  const rank = (answer) => (answer === IMPOSSIBLE ? DENY : answer);
  const [before, after] = [rank(oldCell.answer), rank(cell.answer)];
  if (before === UNKNOWN || after === UNKNOWN) return before === after ? null : "differs";
  if (after > before) return "opens";
  if (after < before) return "closes";
  if (conditionTexts(matrix, cell) === conditionTexts(oldMatrix, oldCell)) return null;
  const [opens, closes] = [isWider(matrix, cell, oldMatrix, oldCell), isWider(oldMatrix, oldCell, matrix, cell)];
  return opens === closes ? "differs" : opens ? "opens" : "closes";
}

const key = (...parts) => JSON.stringify(parts);

/** The lines of the page: a column of the matrix each, with its cells, and those of the other tree. */
function linesOf(matrix, old) {
  const before = new Map((old?.columns ?? []).map((column) => [key(column.action, column.resource), column]));
  const oldRow = new Map((old?.rows ?? []).map((row, at) => [row.name, at]));
  const line = (column) => {
    const other = before.get(key(column.action, column.resource));
    before.delete(key(column.action, column.resource));
    const cells = column.cells.map((raw, at) => {
      const cell = cellOf(raw);
      if (!old) return cell;
      const row = oldRow.get(matrix.rows[at].name);
      const oldCell = other && row !== undefined ? cellOf(other.cells[row]) : null;
      return { ...cell, old: oldCell, change: difference(matrix, cell, old, oldCell) };
    });
    return { action: column.action, resource: column.resource, cells };
  };
  const lines = matrix.columns.map(line);
  for (const gone of before.values()) {
    const cells = matrix.rows.map((row) => {
      const at = oldRow.get(row.name);
      const oldCell = at === undefined ? null : cellOf(gone.cells[at]);
      const wasOpen = oldCell !== null && oldCell.answer !== DENY && oldCell.answer !== IMPOSSIBLE;
      return { answer: IMPOSSIBLE, permits: [], forbids: [], why: null, old: oldCell, change: wasOpen ? "closes" : null };
    });
    lines.push({ action: gone.action, resource: gone.resource, cells, isGone: true });
  }
  return lines;
}

/** Words for a cell whose answer stays conditional. */
const CHANGES = { opens: "wider", closes: "narrower", differs: "changed" };

function cellText(cell) {
  const { word } = ANSWERS[cell.answer];
  if (cell.change && cell.old?.answer === cell.answer) return `${word}, ${CHANGES[cell.change]}`;
  return cell.change && cell.old ? `${ANSWERS[cell.old.answer].word} → ${word}` : cell.change ? `new: ${word}` : word;
}

/** The conditions of a cell in words, with the policies that decide. */
function conditionsOf(portal, matrix, cell) {
  const list = (numbers) => el("ul", { class: "conditions" }, numbers.map((number) => {
    const one = matrix.conditions[number];
    return el("li", {}, policyLink(portal, one.policy, one.effect), " ", el("span", { class: "soft" }, one.place), el("div", {}, one.text === null ? el("em", {}, "always") : cedar(one.text)));
  }));
  const { permits, forbids } = cell;
  switch (ANSWERS[cell.answer].word) {
    case "allow": return [el("p", {}, "Allowed on every resource of the type, in every context."), list(permits)];
    case "deny": return forbids.length ? [el("p", {}, "Denied: this forbid always applies."), list(forbids)] : el("p", {}, "Denied: no permit covers it.");
    case "impossible": return el("p", {}, "The schema does not let such callers do this.");
    case "unknown": return [el("p", {}, "This could not be computed, so it is not known. It is neither allowed nor denied."), el("p", { class: "failure" }, cell.why ?? ""), permits.length ? list(permits) : null, forbids.length ? list(forbids) : null];
    default: return [
      el("p", {}, permits.length === 1 ? "Allowed if this holds:" : "Allowed if one of these holds:"), list(permits),
      forbids.length ? [el("p", {}, forbids.length === 1 ? "and if this does not hold:" : "and if none of these holds:"), list(forbids)] : null,
    ];
  }
}

/** The decision tests that ask what a cell is about. */
async function testsOf(portal, row, line) {
  if (!holds("cases", { portal })) return null;
  const { cases } = await get("cases", { portal });
  const has = (one) => (row.role === null ? one.roles?.length === 0 : one.roles?.includes(row.role));
  const covering = cases.filter((one) => one.action === line.action && one.resource === line.resource && one.principal === row.principal && has(one));
  if (covering.length === 0) return el("p", { class: "soft" }, "No decision test asks this.");
  return el("ul", { class: "plain" }, covering.slice(0, 30).map((one) => el("li", {}, badge(one.decision ?? "unknown", one.decision ?? "none"), " ", el("a", { href: address("explain", { portal, case: one.number }) }, brief(one.name)), one.verdict === "failed" ? [" ", badge("deny", "fails")] : null)));
}

/** Who may do what a line is about. */
function lineDetail(portal, matrix, line) {
  const groups = ANSWERS.map(({ word }, answer) => ({ word, roles: matrix.rows.filter((_, at) => line.cells[at].answer === answer).map((row) => row.name) }));
  const words = { allow: "May", conditional: "May under conditions", deny: "May not", unknown: "Not known", impossible: "Not in the schema" };
  return [
    el("h2", {}, `Who may ${line.action} on ${line.resource}?`),
    ["allow", "conditional", "unknown", "deny", "impossible"].map((word) => groups.find((group) => group.word === word)).filter((group) => group.roles.length).map((group) =>
      el("p", {}, badge(group.word, words[group.word]), " ", group.roles.join(", "))),
    el("p", { class: "soft" }, "Choose a cell for its policies and conditions."),
  ];
}

/** Portals that are looked through for words; a matrix takes time to compute. */
const SEARCHED_MAX = 30;

/** True if a line of the matrix has the words that name no role. */
function hasLine(matrix, find) {
  const roles = new Set(matrix.rows.map((row) => row.name.toLowerCase()));
  const words = find.toLowerCase().split(/\s+/).filter((word) => word && !roles.has(word));
  return matrix.columns.some((column) => words.every((word) => `${column.action} ${column.resource}`.toLowerCase().includes(word)));
}

/** The first portal with such a line; a search from another page names no portal. */
async function portalOf(find, loaded) {
  for (const { portal } of loaded.slice(0, SEARCHED_MAX)) {
    if (hasLine(await get("matrix", { portal }), find)) return portal;
  }
  return loaded[0]?.portal;
}

/** What a user who finds nothing can look for: the actions of each portal. */
async function nothingFound(body, loaded) {
  clear(body, el("p", {}, "No action, resource type or role has these words. There are these actions:"));
  for (const { portal } of loaded.slice(0, SEARCHED_MAX)) {
    const { columns } = await get("matrix", { portal });
    const actions = [...new Set(columns.map((column) => column.action))].slice(0, 40);
    put(body, el("p", { class: "chips" }, `${portal}: `, actions.map((action) => el("a", { class: "chip", href: address("matrix", { portal, find: action }) }, brief(action, 60)))));
  }
}

/** The comparison that an exported page holds, or none. */
function comparedChoice(portal, compared, chosen, go) {
  if (!compared || !holds("matrix", { portal, tree: compared })) return null;
  return choice("Compare with", [["", "nothing"], compared], chosen ?? "", (other) => go({ portal, tree: other, only: other ? "1" : null }));
}

/** Draws the page. */
export async function matrix({ main, tree, parameters, go }) {
  const loaded = tree.portals.filter((portal) => holds("matrix", { portal: portal.portal }) && (portal.revision !== null));
  const find = parameters.get("find");
  let portal = parameters.get("portal") ?? loaded[0]?.portal;
  put(main, el("h1", {}, "Matrix"), el("p", { class: "soft" }, "Each cell is about callers whose only role is that of the column. Allow and deny hold for every resource and context; conditional comes with what must hold."));
  if (!portal) {
    put(main, el("p", {}, "No portal loads."));
    return;
  }
  const body = el("div", {}, el("p", { class: "wait" }, "Computing the matrix"));
  put(main, body);
  if (find && !parameters.get("portal") && loaded.length > 1) portal = await portalOf(find, loaded).catch(() => portal);
  const other = parameters.get("tree");
  let [now, old] = [null, null];
  try {
    [now, old] = await Promise.all([get("matrix", { portal }), other ? get("matrix", { portal, tree: other }) : null]);
  } catch (error) {
    if (!now) clear(body, choice("Portal", loaded.map((one) => one.portal), portal, (value) => go({ portal: value })), failure(error), other ? el("p", {}, el("a", { href: address("matrix", { portal }) }, "Show the matrix alone")) : null);
    return null;
  }
  draw(body, { portal, loaded, now, old, parameters, go, compared: tree.compared });
  return null;
}

function draw(body, { portal, loaded, now, old, parameters, go, compared }) {
  const lines = linesOf(now, old);
  const state = { find: parameters.get("find") ?? "", answer: parameters.get("answer") ?? "", first: parameters.get("a") ?? "", second: parameters.get("b") ?? "", only: parameters.get("only") === "1" };
  const table = el("table", { class: "matrix", role: "grid", "aria-label": `What each role may do in portal ${portal}`, "aria-readonly": "true" });
  const detail = el("aside", { class: "detail", "aria-label": "Details of the chosen cell" }, el("p", { class: "soft" }, "Choose a cell or an action. Arrow keys move between cells, Enter opens one."));
  const count = el("span", { class: "soft", role: "status" });
  const nothing = el("div");
  let visible = { lines: [], rows: [] };

  const keep = settled(() => go({ portal, tree: parameters.get("tree"), find: state.find, answer: state.answer, a: state.first, b: state.second, only: state.only ? "1" : null }, { quiet: true }), 400);
  const show = () => { filter(); render(); keep(); };

  function filter() {
    const words = state.find.toLowerCase().split(/\s+/).filter((word) => word);
    const all = now.rows.map((row, at) => ({ row, at }));
    const chosen = [state.first, state.second].filter((name) => name);
    const named = all.filter(({ row }) => words.some((word) => row.name.toLowerCase() === word));
    const rows = chosen.length ? all.filter(({ row }) => chosen.includes(row.name)) : named.length ? named : all;
    const rest = named.length && !chosen.length ? words.filter((word) => !named.some(({ row }) => row.name.toLowerCase() === word)) : words;
    const isTwo = chosen.length === 2 && rows.length === 2;
    const differs = (line) => { const [a, b] = rows.map(({ at }) => line.cells[at]); return a.answer !== b.answer || conditionTexts(now, a) !== conditionTexts(now, b); };
    const fits = (line) => {
      const text = `${line.action} ${line.resource}`.toLowerCase();
      if (!rest.every((word) => text.includes(word))) return false;
      if (state.answer !== "" && !rows.some(({ at }) => ANSWERS[line.cells[at].answer].word === state.answer)) return false;
      if (!state.only) return true;
      return (old && rows.some(({ at }) => line.cells[at].change)) || (isTwo && differs(line)) || (!old && !isTwo);
    };
    visible = { rows, isTwo, differs, lines: lines.filter(fits) };
  }

  function render() {
    const { rows, lines: shownLines, isTwo, differs } = visible;
    count.textContent = `${counted(shownLines.length, "line")}, ${counted(rows.length, "role")}`;
    const head = el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Action"), el("th", { scope: "col" }, "Resource"),
      rows.map(({ row }) => el("th", { scope: "col", class: "role" }, brief(row.name, 60), row.includes.length > 1 ? el("span", { class: "soft" }, ` includes ${row.includes.filter((role) => role !== row.role).join(", ")}`) : null))));
    const tbody = el("tbody");
    clear(table, head, tbody);
    const hints = el("div");
    clear(nothing, hints);
    if (shownLines.length === 0 && state.find.trim() !== "") nothingFound(hints, loaded).catch((error) => clear(hints, failure(error)));
    let drawn = 0;
    const step = () => {
      const next = shownLines.slice(drawn, drawn + WINDOW);
      tbody.append(...next.map((line, at) => lineNode(line, drawn + at, rows, isTwo && differs(line))));
      drawn += next.length;
      if (drawn >= shownLines.length) watcher.disconnect();
    };
    const watcher = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && step(), { rootMargin: "600px" });
    step();
    const first = tbody.querySelector("[role=gridcell]");
    if (first) first.tabIndex = 0;
    if (drawn < shownLines.length) watcher.observe(end);
  }
  const end = el("div", { class: "end" });

  function lineNode(line, number, rows, isDifferent) {
    const cells = rows.map(({ row, at }, place) => {
      const cell = line.cells[at];
      const { word, sign } = ANSWERS[cell.answer];
      const label = `${row.name}: ${cellText(cell)}`;
      return el("td", { role: "gridcell", class: `cell ${word} ${cell.change ?? ""}`, tabindex: "-1", "data-line": String(number), "data-place": String(place), "aria-label": label },
        el("span", { class: "sign", "aria-hidden": "true" }, sign), el("span", { class: "word", "aria-hidden": "true" }, cellText(cell)));
    });
    return el("tr", { class: isDifferent ? "differs" : line.isGone ? "gone" : null },
      el("th", { scope: "row" }, el("button", { type: "button", class: "line", on: { click: () => clear(detail, lineDetail(portal, now, line)) } }, brief(line.action, 80))),
      el("td", { class: "resource" }, brief(line.resource, 80)), cells);
  }

  async function open(node) {
    const line = visible.lines[Number(node.dataset.line)];
    const { row, at } = visible.rows[Number(node.dataset.place)];
    const cell = line.cells[at];
    table.querySelectorAll("[aria-selected=true]").forEach((known) => known.removeAttribute("aria-selected"));
    node.setAttribute("aria-selected", "true");
    const tests = el("div", {}, el("p", { class: "wait" }, "Reading the tests"));
    clear(detail,
      el("h2", {}, `${row.name}: ${line.action} on ${line.resource}`),
      el("p", {}, badge(ANSWERS[cell.answer].word, cellText(cell))),
      conditionsOf(portal, now, cell),
      cell.old && cell.change ? el("details", { open: true }, el("summary", {}, "Before"), conditionsOf(portal, old, cell.old)) : null,
      el("h3", {}, "Tests of this cell"), tests,
      isExport ? null : el("p", {}, el("a", { class: "button", href: address("explain", { portal, role: row.role, action: line.action, resource: line.resource }) }, "Explain such a request")));
    announce(`${row.name}: ${cellText(cell)}`);
    try {
      clear(tests, await testsOf(portal, row, line) ?? el("p", { class: "soft" }, "The tests are not in this file."));
    } catch (error) {
      clear(tests, failure(error));
    }
  }

  function move(node, dx, dy) {
    const place = Number(node.dataset.place) + dx;
    const line = Number(node.dataset.line) + dy;
    const next = table.querySelector(`[data-line="${line}"][data-place="${place}"]`);
    if (!next) return;
    node.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], PageDown: [0, 15], PageUp: [0, -15] };
  table.addEventListener("click", (event) => { const node = event.target.closest("[role=gridcell]"); if (node) open(node); });
  table.addEventListener("keydown", (event) => {
    const node = event.target.closest("[role=gridcell]");
    if (!node) return;
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(node); }
    if (MOVES[event.key]) { event.preventDefault(); move(node, ...MOVES[event.key]); }
  });

  const names = now.rows.map((row) => row.name);
  const find = el("input", { type: "search", value: state.find, autocomplete: "off", spellcheck: "false", on: { input: settled(() => { state.find = find.value; show(); }, 120) } });
  const revision = el("input", { type: "text", value: parameters.get("tree") ?? "", placeholder: "HEAD, main, ../other", autocomplete: "off", spellcheck: "false" });
  const onlyBox = el("input", { type: "checkbox", on: { change: () => { state.only = onlyBox.checked; show(); } } });
  onlyBox.checked = state.only;
  const lineSheet = () => [["action", "resource", ...visible.rows.map(({ row }) => row.name)], ...visible.lines.map((line) => [line.action, line.resource, ...visible.rows.map(({ at }) => {
    const cell = line.cells[at];
    return cell.answer === CONDITIONAL ? `${cellText(cell)}: ${conditionTexts(now, cell)}` : cellText(cell);
  })])];
  const changes = old ? lines.flatMap((line) => line.cells.map((cell) => cell.change)).filter((change) => change) : [];
  const countOf = (kind) => changes.filter((change) => change === kind).length;
  clear(body,
    el("form", { class: "filters", on: { submit: (event) => event.preventDefault() } },
      choice("Portal", loaded.map((one) => one.portal), portal, (value) => go({ portal: value })),
      el("label", { class: "field wide" }, el("span", {}, "Filter"), find),
      choice("Answer", [["", "every answer"], "allow", "conditional", "deny", "unknown"], state.answer, (value) => { state.answer = value; show(); }),
      choice("Role", [["", "every role"], ...names], state.first, (value) => { state.first = value; show(); }),
      choice("beside", [["", "no other"], ...names], state.second, (value) => { state.second = value; show(); }),
      isExport ? comparedChoice(portal, compared, parameters.get("tree"), go) : el("label", { class: "field" }, el("span", {}, "Compare with a git revision or a folder"), el("span", { class: "row" }, revision, el("button", { type: "submit", on: { click: () => go({ portal, find: state.find, tree: revision.value.trim() || null, only: revision.value.trim() ? "1" : null }) } }, "Compare"))),
      el("label", { class: "check" }, onlyBox, "Only differences")),
    old ? el("p", { class: "legend" }, `Compared with ${parameters.get("tree")}: `, badge("opens", `${countOf("opens")} opened`), " ", badge("closes", `${countOf("closes")} closed`), " ", badge("differs", `${countOf("differs")} with other conditions`)) : null,
    el("p", { class: "under" }, count, saveTable(`matrix ${portal}`, lineSheet)),
    nothing,
    el("div", { class: "split" }, el("div", { class: "scroll tall", role: "region", tabindex: "0", "aria-label": "Matrix" }, table, end), detail));
  filter();
  render();
}
