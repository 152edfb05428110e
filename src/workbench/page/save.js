// Tables and plots as files: CSV (RFC 4180), Markdown, SVG.
import { el, shown } from "./dom.js";

/** SECURITY: a spreadsheet runs a text that begins like a formula; an apostrophe in front makes it a text. */
function csvField(value) {
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
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
    download(`${name}.svg`, "image/svg+xml", new XMLSerializer().serializeToString(copy));
  };
  return el("button", { type: "button", class: "small", "aria-label": `Save ${name} as SVG`, on: { click: save } }, "SVG");
}
