// Tests: every decision test with its result, and what the tests reach of policies and clauses.
import { brief, el, put } from "./dom.js";
import { get, holds } from "./data.js";
import { address, badge, cedar, choice, counted, dataTable, meter } from "./parts.js";

const MISSING = { "true,true": null, "true,false": "never false", "false,true": "never true", "false,false": "never evaluated" };

/** Draws the page. */
export async function tests({ main, tree, parameters, go }) {
  put(main, el("h1", {}, "Tests"));
  const report = await get("tests");
  const portal = parameters.get("portal") ?? "";
  const suites = report.portals.filter((suite) => portal === "" || suite.portal === portal);
  const cases = suites.flatMap((suite) => suite.cases.map((one, at) => ({ ...one, portal: suite.portal, number: at })));
  const failed = cases.filter((one) => one.verdict === "failed").length;
  const link = (row) => (holds("case", { portal: row.portal, number: String(row.number) }) ? el("a", { href: address("explain", { portal: row.portal, case: row.number }) }, brief(row.name, 160)) : brief(row.name, 160));
  put(main,
    el("div", { class: "filters" }, choice("Portal", [["", "every portal"], ...tree.portals.map((one) => one.portal)], portal, (value) => go({ portal: value }))),
    el("p", {}, counted(cases.length, "case"), ", ", failed ? badge("deny", `${failed} failed`) : badge("allow", "all as expected")),
    suites.flatMap((suite) => suite.errors).map((error) => el("p", { class: "failure" }, error)),
    dataTable({
      name: "Decision tests", rows: cases, columns: [
        { label: "Case", value: (row) => row.name, show: link },
        { label: "Portal", value: (row) => row.portal },
        { label: "Result", value: (row) => row.verdict, show: (row) => [badge({ passed: "allow", failed: "deny", skipped: "conditional" }[row.verdict], row.verdict), row.detail ? el("div", { class: "soft" }, row.detail) : null] },
        { label: "Decided by", value: (row) => row.deciding.join(", ") },
        { label: "File", value: (row) => `${row.file}${row.line ? `:${row.line}` : ""}`, show: (row) => el("code", {}, row.file, row.line ? `:${row.line}` : "") },
      ],
    }),
    el("h2", {}, "Coverage"));
  if (!report.coverage) return;
  const groups = report.coverage.groups.filter((group) => portal === "" || group.name === portal || group.name === "_shared");
  for (const group of groups) {
    const gaps = group.policies.map((policy) => ({ ...policy, gaps: policy.clauses.map((clause) => ({ ...clause, missing: MISSING[`${clause.was_true},${clause.was_false}`] })).filter((clause) => clause.missing) })).filter((policy) => !policy.decides || policy.gaps.length);
    put(main, el("section", {}, el("h3", {}, group.name, " ", meter(group.reached, group.all, `Coverage of ${group.name}`)),
      gaps.length === 0 ? el("p", { class: "soft" }, "Every policy decides a case, and every clause was true and false.") : el("ul", { class: "gaps" }, gaps.slice(0, 300).map((policy) => el("li", {},
        el("strong", {}, policy.policy), " ", el("span", { class: "soft" }, policy.place), " ", policy.decides ? null : badge("conditional", "decides no case"),
        el("ul", {}, policy.gaps.map((clause) => el("li", {}, badge("conditional", clause.missing), " ", cedar(clause.text), " ", el("span", { class: "soft" }, clause.place)))))))));
  }
}
