// Log: the recorded decisions over time, who was denied most and by how little, and where the candidate set disagrees.
import { announce, brief, clear, el, put, settled, svg } from "./dom.js";
import { getNow, holds, isExport, post } from "./data.js";
import { savePlot } from "./save.js";
import { address, badge, choice, counted, dataTable, failure, plotWidth, policyLink } from "./parts.js";

const FILTERS = ["portal", "role", "decision", "reason", "find", "from", "to", "shadow", "by"];
const BY = [["", "outcome"], ["portal", "portal"], ["roles", "roles"], ["reason", "reason"]];
/** Greatest width, and height of the plot, and the space for its scale. */
const PLOT = { width: 720, height: 190, left: 46, bottom: 20, top: 8 };
/** Pause between two looks at the progress. */
const PAUSE = 400;
const RECORDS = 200;

function number(value) {
  return Number(value).toLocaleString("en");
}

/** `2026-01-31 12:00:05`, in UTC as in the log. */
function time(millis) {
  if (millis === null || millis === undefined) return "no time";
  const date = new Date(millis);
  return Number.isNaN(date.getTime()) ? "no time" : date.toISOString().replace("T", " ").slice(0, 19);
}

/** The beginning of a bar, as long as its length needs. */
function barTime(millis, length) {
  const text = time(millis);
  if (length >= 86400000) return text.slice(0, 10);
  return length >= 60000 ? text.slice(0, 16) : text;
}

function seriesClass(name, at) {
  if (name === "allow" || name === "deny") return `s-${name}`;
  return `s-${at % 8}`;
}

function swatch(kind) {
  return svg("svg", { class: "swatch", viewBox: "0 0 10 10", "aria-hidden": "true" }, svg("rect", { class: kind, width: 10, height: 10, rx: 2 }));
}

/** Bars over time, one above the other by series; a bar narrows the view to its time, if `narrow` is given. */
function plot(over, narrow) {
  const { start, length, bars, series } = over;
  const totals = Array.from({ length: bars }, (_, at) => series.reduce((sum, one) => sum + one.counts[at], 0));
  const max = Math.max(1, ...totals);
  const { height, left, bottom, top } = PLOT;
  const width = plotWidth(PLOT.width);
  const step = (width - left) / bars;
  const y = (count) => top + (height - top - bottom) * (1 - count / max);
  const picture = svg("svg", { class: "plot wide", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Decisions over time, ${counted(bars, "bar")}; the table below has the numbers` });
  for (const share of [0, 0.5, 1]) {
    const at = Math.round(max * share);
    put(picture, svg("line", { class: "rule", x1: left, x2: width, y1: y(at), y2: y(at) }), svg("text", { class: "scale", x: left - 5, y: y(at) + 4, "text-anchor": "end" }, number(at)));
  }
  totals.forEach((total, bar) => {
    const begin = start + bar * length;
    const group = svg("g", narrow ? { class: "over", on: { click: () => narrow(begin, begin + length) } } : {},
      svg("title", {}, [barTime(begin, length), ...series.filter((one) => one.counts[bar] > 0).map((one) => `${brief(one.name, 60)}: ${number(one.counts[bar])}`)].join("\n")),
      svg("rect", { class: "hit", x: left + bar * step, y: top, width: step, height: height - top - bottom }));
    let below = 0;
    series.forEach((one, at) => {
      const count = one.counts[bar];
      if (count === 0) return;
      const upper = y(below + count);
      put(group, svg("rect", { class: seriesClass(one.name, at), x: left + bar * step + step * 0.08, y: upper, width: step * 0.84, height: Math.max(0.5, y(below) - upper) }));
      below += count;
    });
    put(picture, group);
  });
  const labels = Math.min(bars, width < 480 ? 2 : 4);
  for (let at = 0; at < labels; at += 1) {
    const bar = labels === 1 ? 0 : Math.round((at * (bars - 1)) / (labels - 1));
    const anchor = at === 0 ? "start" : at === labels - 1 ? "end" : "middle";
    const x = left + (bar + (at === 0 ? 0 : at === labels - 1 ? 1 : 0.5)) * step;
    put(picture, svg("text", { class: "scale", x, y: height - 5, "text-anchor": anchor }, barTime(start + bar * length, length)));
  }
  const rows = totals.map((total, bar) => ({ bar, total, begin: start + bar * length })).filter((row) => row.total > 0);
  return el("figure", { class: "whole" }, picture,
    el("figcaption", { class: "under" },
      el("span", { class: "legend" }, series.map((one, at) => el("span", { class: "key" }, swatch(seriesClass(one.name, at)), brief(one.name, 60)))),
      el("span", { class: "save" }, savePlot("decisions over time", picture))),
    el("details", {}, el("summary", {}, "The numbers"), dataTable({
      name: "Decisions over time", rows, max: 60, columns: [
        { label: "From (UTC)", isTime: true, value: (row) => barTime(row.begin, length), show: (row) => (narrow ? el("button", { type: "button", class: "line", on: { click: () => narrow(row.begin, row.begin + length) } }, barTime(row.begin, length)) : barTime(row.begin, length)) },
        ...series.map((one) => ({ label: brief(one.name, 60), value: (row) => one.counts[row.bar], numeric: true, show: (row) => number(one.counts[row.bar]) })),
      ],
    })));
}

function decisionBadge(row) {
  return [badge(row.decision, row.decision), " ", el("span", { class: "soft" }, row.reason)];
}

/** The address that explains a recorded decision. */
function explainLink(row, label) {
  return row.id && holds("decision", { id: row.id }) ? el("a", { href: address("explain", { portal: row.portal, id: row.id }) }, label) : label;
}

function roleText(row) {
  return row.roles.length ? row.roles.join(", ") : "(no role)";
}

function nearNode(row) {
  if (row.near === "") return el("span", { class: "soft" }, row.reason === "not_permitted" ? "no permit is near" : "no policy was asked");
  return policyLink(row.portal, row.near);
}

const ABOUT = [
  { label: "Portal", value: (row) => row.portal },
  { label: "Roles", value: roleText, show: (row) => brief(roleText(row), 120) },
  { label: "Route or action", value: (row) => row.route, show: (row) => el("code", {}, brief(row.route, 120)) },
];

function denialTable(rows) {
  return dataTable({
    name: "Denied most", rows, max: 20, columns: [
      ...ABOUT,
      { label: "Denied", value: (row) => row.count, numeric: true, show: (row) => number(row.count) },
      { label: "Callers", value: (row) => row.callers, numeric: true, show: (row) => number(row.callers) },
      { label: "Reason", value: (row) => row.reason },
      { label: "Nearest permit", value: (row) => row.near, show: nearNode },
      { label: "Last (UTC)", isTime: true, value: (row) => time(row.at), show: (row) => explainLink(row, time(row.at)) },
    ],
  });
}

function shadowNode(shadow) {
  const evaluated = shadow.agree + shadow.newly_allowed + shadow.newly_denied;
  if (evaluated === 0) return el("p", { class: "soft" }, "No candidate set was evaluated beside these decisions.");
  return [
    el("p", {}, `${counted(evaluated, "decision")} with a candidate set: `, badge("opens", `${number(shadow.newly_allowed)} newly allowed`), " ", badge("closes", `${number(shadow.newly_denied)} newly denied`), ` ${number(shadow.agree)} alike`),
    shadow.groups.length === 0 ? null : dataTable({
      name: "Disagreements of the candidate set", rows: shadow.groups, max: 20, columns: [
        ...ABOUT,
        { label: "Candidate", value: (row) => row.shadow, show: (row) => badge(row.shadow === "allow" ? "opens" : "closes", row.shadow === "allow" ? "would allow" : "would deny") },
        { label: "Decisions", value: (row) => row.count, numeric: true, show: (row) => number(row.count) },
        { label: "Callers", value: (row) => row.callers, numeric: true, show: (row) => number(row.callers) },
        { label: "Last (UTC)", isTime: true, value: (row) => time(row.at), show: (row) => explainLink(row, time(row.at)) },
      ],
    }),
  ];
}

function recordTable(rows) {
  return dataTable({
    name: "Records", rows, columns: [
      { label: "Time (UTC)", isTime: true, value: (row) => time(row.at), show: (row) => explainLink(row, time(row.at)) },
      ...ABOUT,
      { label: "Principal", value: (row) => row.principal, show: (row) => brief(row.principal || "(anonymous)", 80) },
      { label: "Decision", value: (row) => `${row.decision} ${row.reason}`, show: decisionBadge },
      { label: "Nearest permit", value: (row) => row.near, show: (row) => (row.near ? policyLink(row.portal, row.near) : "") },
      { label: "Candidate", value: (row) => row.shadow ?? "" },
    ],
  });
}

/** Logins, revocations with who asked for them, reloads and commands. */
function eventNode(rows) {
  if (rows.length === 0) return el("p", { class: "soft" }, "No login, revocation, reload or command among the records.");
  const result = (row) => (row.result === "" ? null : badge(/^(failure|rejected|failed)/.test(row.result) ? "deny" : "allow", row.result));
  return dataTable({
    name: "Events", rows, max: 20, columns: [
      { label: "Time (UTC)", isTime: true, value: (row) => time(row.at) },
      { label: "Event", value: (row) => row.event, show: (row) => [row.event || row.kind, " ", result(row)] },
      { label: "Reason", value: (row) => row.reason },
      { label: "Portal", value: (row) => row.portal },
      { label: "About", value: (row) => row.about, show: (row) => brief(row.about, 80) },
      { label: "User id of the operator", value: (row) => row.operator },
      { label: "Detail", value: (row) => row.detail, show: (row) => brief(row.detail, 120) },
    ],
  });
}

/** The log that was read, and what of it the page does not know. */
function aboutLog(log, again) {
  const { decisions, other_records: others, broken_lines: broken, broken: named, cut_files: cut } = log.totals;
  const names = log.files.length > 3 ? `${log.files.slice(0, 3).join(", ")} and ${log.files.length - 3} more` : log.files.join(", ");
  return [
    el("p", { class: "soft place" }, `${counted(decisions, "decision")} and ${counted(others, "other record")} of `, el("code", {}, names), `, read in ${log.seconds.toFixed(1)} s. `,
      again ? el("button", { type: "button", class: "small", on: { click: again } }, log.has_grown ? "Read again: the log has grown" : "Read again") : null),
    isExport ? el("p", { class: "soft" }, "This file holds the counts of each portal, the groups, and the youngest records; the workbench itself filters the whole log.") : null,
    log.one_in > 1 ? el("p", { class: "notice sample" }, `A sample: the page keeps ${number(log.kept)} decisions, one of ${number(log.one_in)}, drawn evenly from the whole log. Counts are estimates; rare decisions may be missing. `, el("code", {}, "cedargate usage"), " and ", el("code", {}, "cedargate replay"), " count every record.") : null,
    broken > 0 ? el("p", { class: "notice" }, `${counted(broken, "line")} of the log cannot be read as a record, first ${named.slice(0, 3).map((line) => `${line.file}:${line.line}`).join(", ")}.`) : null,
    cut.map((file) => el("p", { class: "notice" }, `${file.file} cannot be read behind line ${number(file.line)}: ${file.why}`)),
  ];
}

function progressNode(answer) {
  const share = answer.bytes_total ? answer.bytes / answer.bytes_total : null;
  return el("div", {}, el("p", { class: "wait" }, `Reading the log: ${counted(answer.lines, "line")}`),
    share === null ? null : el("progress", { max: 100, value: String(Math.floor(share * 100)), "aria-label": "Read so far" }));
}

/** Draws the page. */
export async function log({ main, parameters, go }) {
  const state = Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name) ?? ""]));
  let records = RECORDS;
  let asked = 0;
  let hasLeft = false;
  let timer = 0;
  const about = el("div");
  const filters = el("form", { class: "filters", on: { submit: (event) => event.preventDefault() } });
  const body = el("div", {}, el("p", { class: "wait" }, "Reading the log"));
  put(main, el("h1", {}, "Log"), about, filters, body);

  const change = (next) => {
    Object.assign(state, next);
    records = RECORDS;
    go(state, { quiet: true });
    show();
  };
  const narrow = isExport ? null : (from, to) => change({ from: String(from), to: String(to) });
  const again = isExport ? null : async () => {
    clear(about);
    try {
      await post("log", {});
    } catch (error) {
      clear(body, failure(error));
    }
    show();
  };
  const find = el("input", { type: "search", value: state.find, autocomplete: "off", spellcheck: "false", on: { input: settled(() => change({ find: find.value.trim() }), 250) } });
  const only = el("input", { type: "checkbox", on: { change: () => change({ shadow: only.checked ? "1" : "" }) } });
  only.checked = state.shadow !== "";

  const drawFilters = (choices, hasShadow) => {
    const held = filters.contains(document.activeElement);
    if (held && filters.children.length > 0) return;
    if (isExport) {
      const held = choices.portals.filter((portal) => holds("log", { portal, records: RECORDS }));
      clear(filters, choice("Portal", [["", "every portal"], ...held], state.portal, (portal) => change({ portal })), choice("Colour by", BY, state.by, (by) => change({ by })));
      return;
    }
    clear(filters,
      choice("Portal", [["", "every portal"], ...choices.portals], state.portal, (portal) => change({ portal })),
      choice("Role", [["", "every role"], ...choices.roles], state.role, (role) => change({ role })),
      choice("Outcome", [["", "every outcome"], ["allow", "allow"], ["deny", "deny"]], state.decision, (decision) => change({ decision })),
      choice("Reason", [["", "every reason"], ...choices.reasons], state.reason, (reason) => change({ reason })),
      el("label", { class: "field wide" }, el("span", {}, "Route, principal, permit or decision id"), find),
      choice("Colour by", BY, state.by, (by) => change({ by })),
      hasShadow || only.checked ? el("label", { class: "check" }, only, "Only disagreements") : null);
  };

  const draw = (view) => {
    clear(about, aboutLog(view.log, again));
    drawFilters(view.choices, view.shadow.newly_allowed + view.shadow.newly_denied > 0);
    const estimate = view.log.one_in > 1 ? "about " : "";
    const total = view.allowed + view.denied;
    const span = state.from || state.to ? el("button", { type: "button", class: "chip", "aria-pressed": "true", on: { click: () => change({ from: "", to: "" }) } }, `${time(Number(state.from) || 0)} to ${state.to ? time(Number(state.to)) : "now"} ✕`) : null;
    const more = !isExport && view.records.length === records && records < 5000;
    clear(body,
      el("p", { class: "under", id: "log-count" }, `${estimate}${counted(total, "decision")}: `, badge("allow", `${number(view.allowed)} allowed`), " ", badge("deny", `${number(view.denied)} denied`), span, view.undated ? ` ${number(view.undated)} without a time` : null),
      view.over_time ? plot(view.over_time, narrow) : el("p", { class: "soft" }, total === 0 ? "No decision fits the filters." : "No record has a time."),
      el("h2", {}, "Denied most"),
      view.denials.length === 0 ? el("p", { class: "soft" }, "No denial among these decisions.") : [el("p", { class: "soft" }, "The nearest permit is the one that would have needed the least to apply. The time of the last denial explains it: which clauses were false, and with which values."), denialTable(view.denials)],
      el("h2", {}, "Candidate set"), shadowNode(view.shadow),
      el("h2", {}, "Logins, revocations, reloads"), eventNode(view.events),
      el("h2", {}, "Records"), recordTable(view.records),
      more ? el("p", {}, el("button", { type: "button", class: "small", on: { click: () => { records = 5000; show(); } } }, "Load 5,000 records")) : null);
    announce(`${number(total)} decisions`);
  };

  async function show() {
    const own = ++asked;
    clearTimeout(timer);
    try {
      const given = Object.fromEntries(Object.entries(state).filter(([, value]) => value !== ""));
      const answer = await getNow("log", { ...given, records });
      if (own !== asked || hasLeft) return;
      if (answer.state === "read") draw(answer);
      else if (answer.state === "failed") clear(body, failure({ message: answer.message }), el("button", { type: "button", on: { click: again } }, "Read again"));
      else {
        clear(body, progressNode(answer));
        timer = setTimeout(show, PAUSE);
      }
    } catch (error) {
      if (own === asked && !hasLeft) clear(body, failure(error));
    }
  }
  await show();
  return () => { hasLeft = true; clearTimeout(timer); };
}
