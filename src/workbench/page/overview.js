// Overview: the tree at a glance, its portals, what is wrong with it, what changed, and the running gate.
import { brief, el, put, svg } from "./dom.js";
import { get, getNow, holds } from "./data.js";
import { savePlot } from "./save.js";
import { address, badge, counted, dataTable, diffText, failure, findingList, meter, plotWidth } from "./parts.js";

/** A number that leads somewhere. */
function stat(label, value, note, href, kind) {
  return el("a", { class: `stat ${kind ?? ""}`, href }, el("span", { class: "label" }, label), el("strong", {}, value), el("span", { class: "note" }, note));
}

function slot(title) {
  const body = el("div", {}, el("p", { class: "wait" }, "Computing"));
  return { section: el("section", {}, el("h2", {}, title), body), body };
}

async function into(body, answer, draw) {
  try {
    body.replaceChildren(...[draw(await answer)].flat(Infinity).filter((node) => node));
  } catch (error) {
    body.replaceChildren(failure(error));
  }
}

function portalTable(portals, tests) {
  const suites = new Map((tests?.portals ?? []).map((suite) => [suite.portal, suite]));
  const groups = new Map((tests?.coverage?.groups ?? []).map((group) => [group.name, group]));
  const failed = (portal) => suites.get(portal)?.cases.filter((one) => one.verdict === "failed").length ?? 0;
  const percent = (portal) => { const group = groups.get(portal); return group ? (group.all === 0 ? 100 : Math.floor((group.reached * 1000) / group.all) / 10) : null; };
  return dataTable({
    name: "Portals",
    rows: portals,
    columns: [
      { label: "Portal", value: (row) => row.portal, show: (row) => [el("a", { href: address("matrix", { portal: row.portal }) }, row.portal), row.title ? el("div", { class: "soft" }, row.title) : null] },
      { label: "Path", value: (row) => `${row.hosts.join(", ")}${row.prefix}`, show: (row) => el("code", {}, row.hosts.join(", "), row.prefix) },
      { label: "State", value: (row) => (row.revision ? "loads" : "rejected"), show: (row) => (row.revision ? badge("allow", "loads") : badge("deny", `rejected: ${counted(row.errors.length, "error")}`)) },
      { label: "Revision", value: (row) => row.revision ?? "", show: (row) => el("code", {}, row.revision ?? "none") },
      { label: "Permits", value: (row) => row.permits, numeric: true },
      { label: "Forbids", value: (row) => row.forbids, numeric: true },
      { label: "Tests", value: (row) => suites.get(row.portal)?.cases.length ?? "", numeric: true, show: (row) => [String(suites.get(row.portal)?.cases.length ?? "…"), failed(row.portal) ? [" ", badge("deny", `${failed(row.portal)} failed`)] : null] },
      { label: "Coverage", value: (row) => percent(row.portal) ?? "", show: (row) => { const group = groups.get(row.portal); return group ? meter(group.reached, group.all, `Coverage of ${row.portal}`) : "…"; } },
    ],
  });
}

/** Bars of the coverage by portal. */
function coveragePlot(groups) {
  const shown = groups.slice(0, 40);
  const width = plotWidth(480);
  const [line, left] = [22, width < 400 ? 90 : 130];
  const plot = svg("svg", { viewBox: `0 0 ${width} ${shown.length * line + 4}`, class: "plot", role: "img", "aria-label": `Coverage by portal: ${shown.map((group) => `${group.name} ${group.all ? Math.floor((group.reached * 100) / group.all) : 100} %`).join(", ")}` });
  shown.forEach((group, at) => {
    const share = group.all === 0 ? 1 : group.reached / group.all;
    const y = at * line + 3;
    put(plot,
      svg("text", { x: left - 8, y: y + 12, "text-anchor": "end" }, group.name.length > 18 ? `${group.name.slice(0, 17)}…` : group.name),
      svg("rect", { x: left, y, width: width - left - 70, height: 14, rx: 3, class: "track" }),
      svg("rect", { x: left, y, width: Math.max(2, (width - left - 70) * share), height: 14, rx: 3, class: "bar" }),
      svg("text", { x: width - 62, y: y + 12 }, `${Math.floor(share * 1000) / 10} %`));
  });
  return el("figure", {}, plot, el("figcaption", { class: "under" }, el("span", { class: "soft" }, "Policies and clauses that the decision tests reach."), savePlot("coverage", plot)));
}

/** The portals of a running gate beside those of the tree. */
function gateTable(answer, portals) {
  if (answer.absent) return el("p", { class: "soft" }, "No gate is named. Start the workbench with ", el("code", {}, "--gate SOCKET"), " to see a running gate beside this tree.");
  if (answer.error) return el("p", { class: "failure" }, `The gate at ${answer.socket} gives no status: ${answer.error}`);
  const { status } = answer;
  const own = new Map(portals.map((portal) => [portal.portal, portal.revision]));
  const isSame = (row) => own.get(row.portal) === row.revision;
  const last = (row) => (row.last_reload ? `${row.last_reload.result ?? ""} ${row.last_reload.at ?? row.last_reload.time ?? ""}`.trim() : "none");
  return [
    el("p", {}, badge(status.ready ? "allow" : "deny", status.ready ? "ready" : "not ready"), status.draining ? [" ", badge("conditional", "draining")] : null, ` version ${status.version}`),
    dataTable({
      name: "Portals of the gate", rows: status.portals, columns: [
        { label: "Portal", value: (row) => row.portal },
        { label: "In force", value: (row) => row.revision ?? "none", show: (row) => el("code", {}, row.revision ?? "none") },
        { label: "This tree", value: (row) => own.get(row.portal) ?? "none", show: (row) => [el("code", {}, own.get(row.portal) ?? "none"), " ", isSame(row) ? badge("allow", "same") : badge("conditional", "differs")] },
        { label: "Policies", value: (row) => row.policies ?? 0, numeric: true },
        { label: "Last reload", value: last },
      ],
    }),
    dataTable({
      name: "Keys of issuers", rows: status.issuers ?? [], columns: [
        { label: "Issuer", value: (row) => row.issuer },
        { label: "Keys", value: (row) => row.keys, numeric: true },
        { label: "Age", value: (row) => row.age_seconds ?? "", numeric: true, show: (row) => (row.age_seconds === null ? "never read" : `${row.age_seconds} s`) },
        { label: "Last error", value: (row) => row.last_error ?? "" },
      ],
    }),
    el("p", {}, "Sessions: ", status.sessions.store, " ", status.sessions.reachable ? badge("allow", "reachable") : badge("deny", "not reachable"), ` ${counted(status.sessions.cached ?? 0, "session")} in memory`),
  ];
}

/** What changed since the last commit, in short. */
export function changeSummary(changes) {
  if (changes.unavailable) return { count: null, widens: 0, note: "no commit to compare with" };
  const portals = changes.portals ?? [];
  const sum = (of) => portals.reduce((total, portal) => total + of(portal), 0);
  const widens = sum((portal) => portal.tests.flips.filter((flip) => flip.new.decision === "allow").length);
  const narrows = sum((portal) => portal.tests.flips.length) - widens;
  return { count: sum((portal) => portal.policies.length + portal.files.length), widens, narrows, note: widens ? `${counted(widens, "test")} newly allowed` : narrows ? `${counted(narrows, "test")} newly denied` : "no test is decided in another way" };
}

/** Draws the page. */
export async function overview({ main, tree }) {
  const portals = tree.portals;
  const sum = (of) => portals.reduce((total, portal) => total + of(portal), 0);
  const rejected = portals.filter((portal) => !portal.revision).length;
  const stats = el("div", { class: "stats" },
    stat("Portals", String(portals.length), rejected ? `${rejected} rejected` : "all load", "#/overview", rejected ? "deny" : "allow"),
    stat("Policies", (sum((p) => p.permits) + sum((p) => p.forbids)).toLocaleString("en"), `${counted(sum((p) => p.permits), "permit")}, ${counted(sum((p) => p.forbids), "forbid")}`, "#/matrix"));
  const holders = ["tests", "coverage", "findings", "changes"].map((name) => [name, el("span", { class: "stat empty" }, el("span", { class: "label" }, name), el("strong", {}, "…"), el("span", { class: "note" }, "computing"))]);
  const holder = Object.fromEntries(holders);
  put(stats, holders.map(([, node]) => node));
  const table = el("div", {}, portalTable(portals, null));
  const findings = slot("Findings");
  const changes = slot(tree.compared ? `Changes since ${brief(tree.compared, 60)}` : "Changes since the last commit");
  const coverage = slot("Coverage");
  const gate = slot("Running gate");
  const errors = portals.flatMap((portal) => portal.errors);
  put(main,
    el("h1", {}, "Overview"),
    el("p", { class: "soft place" }, el("code", {}, tree.name), tree.configured ? null : " · without a configuration: each folder is a portal at /portal/<folder>, and claims are read by their default names"),
    stats,
    tree.warnings?.length ? el("section", {}, el("h2", {}, "Configuration"), findingList(tree.warnings)) : null,
    errors.length ? el("section", {}, el("h2", {}, "Errors that keep a portal from loading"), findingList(errors)) : null,
    el("section", {}, el("h2", {}, "Portals"), table), findings.section, changes.section, coverage.section, gate.section);
  const replace = (name, node) => holder[name].replaceWith(node);
  const tests = get("tests");
  await Promise.all([
    into(coverage.body, tests, (report) => {
      const cases = report.portals.flatMap((suite) => suite.cases);
      const failed = cases.filter((one) => one.verdict === "failed").length;
      replace("tests", stat("Tests", cases.length.toLocaleString("en"), failed ? `${failed} failed` : "all as expected", address("tests"), failed ? "deny" : "allow"));
      replace("coverage", stat("Coverage", `${report.coverage.percent} %`, `${report.coverage.reached} of ${report.coverage.all} policies and clauses`, address("tests")));
      table.replaceChildren(portalTable(portals, report));
      return coveragePlot(report.coverage.groups);
    }),
    into(findings.body, get("findings"), ({ findings: list }) => {
      const count = (severity) => list.filter((one) => one.severity === severity).length;
      replace("findings", stat("Findings", String(list.length), `${counted(count("error"), "error")}, ${counted(count("warning"), "warning")}, ${counted(count("note"), "note")}`, "#/overview", count("error") ? "deny" : count("warning") ? "conditional" : "allow"));
      return list.length === 0 ? el("p", { class: "soft" }, "None. The rules of cedargate lint find nothing to mend.") : [findingList(list.slice(0, 200)), list.length > 200 ? el("p", { class: "soft" }, `and ${list.length - 200} more; cedargate lint shows all`) : null];
    }),
    into(changes.body, get("changes"), (report) => {
      const summary = changeSummary(report);
      replace("changes", stat("Changes", summary.count === null ? "–" : String(summary.count), summary.note, address("changes"), summary.widens ? "deny" : null));
      if (report.unavailable) return el("p", { class: "soft" }, report.unavailable);
      const changed = report.portals.filter((portal) => portal.policies.length || portal.files.length);
      if (changed.length === 0) return el("p", { class: "soft" }, "Nothing changed.");
      return changed.map((portal) => [
        el("h3", {}, portal.portal),
        portal.policies.slice(0, 20).map((policy) => el("details", {}, el("summary", {}, badge(policy.change, policy.change), " ", policy.policy), diffText(policy.diff))),
        portal.files.length ? el("p", { class: "soft" }, portal.files.map((file) => `${file.file} ${file.change}`).join(", ")) : null,
        holds("matrix", { portal: portal.portal, tree: report.old }) ? el("p", {}, el("a", { href: address("matrix", { portal: portal.portal, tree: report.old }) }, "Show in the matrix what this opens and closes")) : null,
      ]);
    }),
    tree.pages.includes("overview") && tree.has_gate !== undefined ? into(gate.body, getNow("gate").catch(() => ({ absent: true })), (answer) => gateTable(answer, portals)) : null,
  ]);
}
