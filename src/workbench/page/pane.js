// The list of the tree's files, and a file's text with colours, line numbers and marks.
import { brief, clear, el, shown } from "./dom.js";
import { cedar } from "./parts.js";

/** Longer texts have no colours: each key press colours the whole text. */
const COLOURED_MAX = 60000;
const LISTED_MAX = 300;

/** Buttons for files. `choose(file)` is called for a click, `more(file)` gives what stands behind a name. */
export function fileList(files, current, choose, more = () => null) {
  const folder = (file) => file.slice(0, file.lastIndexOf("/") + 1);
  const link = (file) => el("li", {}, el("button", { type: "button", class: "line file", title: shown(brief(file, 300)), "aria-label": brief(file, 300), "aria-current": file === current ? "true" : null, on: { click: () => choose(file) } }, brief(file.slice(folder(file).length), 120)), more(file));
  const group = (name, names) => el("li", {}, el("span", { class: "folder soft" }, brief(name, 120)), el("ul", { class: "plain" }, names.map(link)));
  const find = el("input", { type: "search", placeholder: "Find a file", "aria-label": "Find a file", autocomplete: "off", spellcheck: "false" });
  const list = el("ul", { class: "plain files" });
  const fill = () => {
    const words = find.value.toLowerCase();
    const found = files.map((one) => one.file).filter((file) => file.toLowerCase().includes(words));
    const groups = Map.groupBy(found.slice(0, LISTED_MAX), folder);
    clear(list, [...groups].map(([name, names]) => group(name, names)), found.length > LISTED_MAX ? el("li", { class: "soft" }, `and ${found.length - LISTED_MAX} more`) : null);
  };
  find.addEventListener("input", fill);
  fill();
  return { node: el("nav", { class: "card file-list", "aria-label": "Files of the tree" }, find, list), fill };
}

/** A text area over its own coloured text, with numbers of the lines. `changed` is called after each change; without it the text only stands there. */
export function textPane(draft, changed) {
  const isCedar = /\.cedar(schema)?$/.test(draft.file);
  const numbers = el("pre", { class: "numbers", "aria-hidden": "true" });
  const colours = el("pre", { class: "colours", "aria-hidden": "true" });
  const area = el("textarea", { class: "source", spellcheck: "false", autocapitalize: "off", autocomplete: "off", wrap: "off", "aria-label": `Text of ${draft.file}`, readonly: !changed });
  area.value = draft.text;
  const marks = new Map();
  const drawNumbers = () => {
    const count = area.value.split("\n").length;
    clear(numbers, Array.from({ length: count }, (_, at) => el("span", { class: marks.get(at + 1) ?? null }, `${at + 1}\n`)));
  };
  const paint = () => {
    const isColoured = isCedar && area.value.length <= COLOURED_MAX;
    area.classList.toggle("plain-text", !isColoured);
    // the last line break needs a line of its own
    clear(colours, isColoured ? cedar(`${area.value}\n`) : null);
    scroll();
  };
  const scroll = () => {
    colours.scrollTop = area.scrollTop;
    colours.scrollLeft = area.scrollLeft;
    numbers.scrollTop = area.scrollTop;
  };
  area.addEventListener("scroll", scroll);
  area.addEventListener("input", () => { draft.text = area.value; paint(); drawNumbers(); changed?.(); });
  paint();
  drawNumbers();
  return {
    node: el("div", { class: "pane" }, numbers, el("div", { class: "layers" }, colours, area)),
    area,
    /** Marks lines: `Map` of the line's number and its severity. */
    mark(next) { marks.clear(); for (const [line, kind] of next) marks.set(line, kind); drawNumbers(); scroll(); },
    jump(line) {
      const lines = area.value.split("\n");
      const start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
      area.focus();
      area.setSelectionRange(start, start + (lines[line - 1] ?? "").length);
      area.scrollTop = Math.max(0, (line - 4) * parseFloat(getComputedStyle(area).lineHeight));
    },
  };
}

const ORDER = { error: 0, warning: 1, note: 2 };

/** The gravest finding of each line of a file, for `mark`. */
export function marksOf(findings) {
  const kinds = new Map();
  for (const one of findings.filter((finding) => finding.line)) if (!(ORDER[kinds.get(one.line)] <= ORDER[one.severity])) kinds.set(one.line, one.severity);
  return kinds;
}
