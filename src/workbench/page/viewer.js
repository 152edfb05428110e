// The files of an exported page: their texts with findings, and what differs from the tree of the comparison. Nothing is written.
import { clear, el, put } from "./dom.js";
import { get, holds } from "./data.js";
import { badge, counted, diffText, failure, findingList } from "./parts.js";
import { fileList, marksOf, textPane } from "./pane.js";

/** What the comparison says about a file. */
function changesOf(report, file) {
  const portals = report.unavailable ? [] : report.portals;
  const policies = portals.flatMap((portal) => portal.policies).filter((policy) => policy.file === file);
  const others = portals.flatMap((portal) => portal.files).filter((one) => one.file === file);
  if (report.unavailable) return el("p", { class: "soft" }, report.unavailable);
  if (policies.length + others.length === 0) return el("p", { class: "soft" }, `Nothing in this file differs from ${report.old}.`);
  return [
    policies.map((policy) => el("details", { open: policies.length < 10 }, el("summary", {}, badge(policy.change, policy.change), " ", el("strong", {}, policy.policy)), diffText(policy.diff))),
    others.map((one) => el("details", { open: true }, el("summary", {}, badge(one.change, one.change)), one.details.length ? el("ul", {}, one.details.map((detail) => el("li", {}, detail))) : null, one.diff ? diffText(one.diff) : null)),
  ];
}

/** Draws the page. */
export async function viewer({ main, parameters, go }) {
  const { files } = await get("files");
  const held = files.filter((one) => holds("file", { file: one.file }));
  const wanted = parameters.get("file");
  const current = held.some((one) => one.file === wanted) ? wanted : (held.find((one) => one.file.endsWith(".cedar")) ?? held[0])?.file;
  put(main, el("h1", {}, "Files"));
  if (!current) {
    put(main, el("p", {}, "This exported file holds no text of the tree."));
    return;
  }
  const [{ text }, { findings }, report] = await Promise.all([get("file", { file: current }), get("findings"), get("changes")]);
  const pane = textPane({ file: current, text });
  const own = findings.filter((one) => one.file === current);
  pane.mark(marksOf(own));
  const body = el("div", {});
  const jumps = own.filter((one) => one.line).slice(0, 20).map((one) => el("button", { type: "button", class: "chip", on: { click: () => pane.jump(one.line) } }, `line ${one.line}`));
  try {
    clear(body, changesOf(report, current));
  } catch (error) {
    clear(body, failure(error));
  }
  put(main,
    held.length < files.length ? el("p", { class: "notice" }, `The texts of ${counted(files.length - held.length, "file")} are not in this exported file.`) : null,
    el("div", { class: "editor-split" }, fileList(held, current, (file) => go({ file })).node,
      el("div", {}, el("div", { class: "bar" }, el("strong", {}, el("code", {}, current))), pane.node,
        el("section", {}, el("h2", {}, "Findings"), jumps.length ? el("p", { class: "chips" }, jumps) : null, own.length ? findingList(own.slice(0, 50)) : el("p", { class: "soft" }, "None in this file."))),
      el("div", { class: "effects" }, el("h2", {}, "Changes"), body)));
}
