// Tables and plots as files: CSV (RFC 4180), Markdown, SVG.
import { el, shown, svg } from "./dom.js";

/** The beginning of a formula: of a field, of a line, and behind the separators that spreadsheets of other languages take. */
const FORMULA = /(^|[;\t\n])(\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])/g;

/** SECURITY: a spreadsheet runs a text that begins like a formula; an apostrophe in front makes it a text. */
function csvField(value) {
  const text = shown(value).replace(FORMULA, "$1$2'");
  return /[",;\t\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Lines of fields as CSV. */
export function csv(lines) {
  return lines.map((line) => `${line.map((field) => csvField(String(field ?? ""))).join(",")}\r\n`).join("");
}

function markdownField(value) {
  const text = shown(String(value ?? "")).replace(/\s+/g, " ");
  return text.replace(/[\\`*_{}[\]<>|#&~!]/g, (c) => `\\${c}`);
}

/** Lines of fields as a Markdown table; the first line is its head. */
export function markdown(lines) {
  const row = (line) => `| ${line.map(markdownField).join(" | ")} |\n`;
  const [head, ...body] = lines;
  return `${row(head)}|${head.map(() => "---").join("|")}|\n${body.map(row).join("")}`;
}

/** Gives a file to the browser's downloads. */
export function download(name, kind, text) {
  const url = URL.createObjectURL(new Blob([text], { type: kind }));
  const link = el("a", { href: url, download: name.replace(/[^\w.-]+/g, "-").slice(0, 100) });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** Buttons that save a table. `lines` gives its lines, the head first. */
export function saveTable(name, lines) {
  const button = (label, ending, kind, write) =>
    el("button", { type: "button", class: "small", "aria-label": `Save ${name} as ${label}`, on: { click: () => download(`${name}.${ending}`, kind, write(lines())) } }, label);
  return el("span", { class: "save" }, button("CSV", "csv", "text/csv", csv), button("Markdown", "md", "text/markdown", markdown));
}

/** A button that saves a plot, with the colours that it has now. */
export function savePlot(name, plot) {
  const save = () => {
    const copy = plot.cloneNode(true);
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    const [from, to] = [[plot, ...plot.querySelectorAll("*")], [copy, ...copy.querySelectorAll("*")]];
    from.forEach((node, at) => {
      const style = getComputedStyle(node);
      for (const property of ["fill", "stroke", "font-family", "font-size"]) to[at].setAttribute(property, style.getPropertyValue(property));
    });
    // text of a dark page on its own back
    copy.prepend(svg("rect", { x: 0, y: 0, width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor }));
    download(`${name}.svg`, "image/svg+xml", new XMLSerializer().serializeToString(copy));
  };
  return el("button", { type: "button", class: "small", "aria-label": `Save ${name} as SVG`, on: { click: save } }, "SVG");
}
