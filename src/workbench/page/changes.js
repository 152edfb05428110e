// Changes: what differs from a git revision: policies, other files, and the decisions of the tests of both trees.
import { clear, el, put } from "./dom.js";
import { get, holds, isExport } from "./data.js";
import { address, badge, counted, dataTable, diffText, failure } from "./parts.js";

function flips(portal) {
  if (portal.tests.flips.length === 0) return el("p", { class: "soft" }, `None of ${counted(portal.tests.asked, "test")} of both trees is decided in another way.`);
  const word = (answer) => (answer.decision === null ? "cannot be asked" : answer.decision);
  return dataTable({
    name: `Decisions that differ in ${portal.portal}`, rows: portal.tests.flips, columns: [
      { label: "Case", value: (row) => row.case },
      { label: "Before", value: (row) => word(row.old), show: (row) => [badge(row.old.decision ?? "unknown", word(row.old)), " ", el("span", { class: "soft" }, [row.old.reason, ...row.old.policies].join(": "))] },
      { label: "After", value: (row) => word(row.new), show: (row) => [badge(row.new.decision ?? "unknown", word(row.new)), " ", el("span", { class: "soft" }, [row.new.reason, ...row.new.policies].join(": "))] },
      { label: "File", value: (row) => `${row.file}:${row.line ?? ""}` },
    ],
  });
}

/** What the tests of both trees say. A test that reaches no changed policy says nothing, so that silence is not shown as approval. */
function testsSay(report, changed) {
  if (report.widens) return badge("deny", "something is newly allowed");
  if (changed.length === 0) return badge("allow", "no difference");
  return changed.some((portal) => portal.tests.flips.length) ? badge("conditional", "no test is newly allowed") : badge("none", "no test is decided in another way");
}

/** One comparison, as `cedargate diff --format json` writes it. `hasMatrix`: the old tree has a name that the matrix can compare with. */
export function comparison(report, { hasMatrix = true } = {}) {
  const changed = report.portals.filter((portal) => portal.change || portal.policies.length || portal.files.length || portal.tests.flips.length);
  return [
    el("p", {}, testsSay(report, changed), ` ${report.old} → ${report.new}`),
    changed.length === 0 ? el("p", {}, "Nothing changed.") : null,
    changed.map((portal) => el("section", {},
      el("h2", {}, portal.portal, portal.change ? [" ", badge("conditional", portal.change)] : null),
      !hasMatrix || !holds("matrix", { portal: portal.portal, tree: report.old }) ? null : el("p", {}, el("a", { href: address("matrix", { portal: portal.portal, tree: report.old, only: "1" }) }, "Show in the matrix what this opens and closes")),
      flips(portal),
      portal.policies.map((policy) => el("details", { open: portal.policies.length < 10 }, el("summary", {}, badge(policy.change, policy.change), " ", el("strong", {}, policy.policy), " ", el("span", { class: "soft" }, policy.file, policy.line ? `:${policy.line}` : "")), diffText(policy.diff))),
      portal.files.map((file) => el("details", {}, el("summary", {}, badge(file.change, file.change), " ", el("code", {}, file.file)), file.details.length ? el("ul", {}, file.details.map((detail) => el("li", {}, detail))) : null, file.diff ? diffText(file.diff) : null)))),
  ];
}

/** Draws the page. */
export async function changes({ main, parameters, go }) {
  const since = parameters.get("since");
  const body = el("div", {}, el("p", { class: "wait" }, "Comparing"));
  const revision = el("input", { type: "text", value: since ?? "", placeholder: "HEAD", autocomplete: "off", spellcheck: "false" });
  put(main, el("h1", {}, "Changes"),
    isExport ? null : el("form", { class: "filters", on: { submit: (event) => { event.preventDefault(); go({ since: revision.value.trim() || null }); } } },
      el("label", { class: "field" }, el("span", {}, "Since a git revision, or beside another folder"), el("span", { class: "row" }, revision, el("button", { type: "submit" }, "Compare")))),
    body);
  try {
    const report = await get("changes", since ? { since } : {});
    clear(body, report.unavailable ? el("p", { class: "soft" }, report.unavailable) : comparison(report));
  } catch (error) {
    clear(body, failure(error));
  }
}
