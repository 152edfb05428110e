// Explain: one request, its decision, and the reasons: each policy with its true and false clauses. Every fact can be changed.
import { announce, brief, clear, el, put, settled } from "./dom.js";
import { get, holds, isExport, post } from "./data.js";
import { address, badge, cedar, choice, dialogHead, failure, openDialog, policyLink, readableJson, valueText } from "./parts.js";

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/** What became of a policy, in words. */
const VERDICTS = { satisfied: "applies", condition_false: "condition is false", error: "cannot be evaluated", out_of_scope: "is about something else" };

/** The sentence under the decision. */
function sentence(explanation) {
  const { decision, reason, policies, nearest_permit: near, detail } = explanation;
  const names = policies.map((id, at) => [at ? ", " : "", policyLink(explanation.portal, id)]);
  if (decision === "allow") return policies.length ? ["Permitted by ", names, "."] : ["Permitted: the path is public."];
  if (reason === "not_permitted") return ["No permit applies.", near ? [" The nearest is ", policyLink(explanation.portal, near.id), "."] : null];
  if (reason === "forbidden" && policies.length) return ["Forbidden by ", names, ". A forbid counts more than every permit."];
  if (reason === "evaluation_error") return ["A forbid cannot be evaluated, and any doubt denies: ", names];
  return [detail ?? reason];
}

/** What a permit lacks. */
function lacking(near) {
  const scope = near.scope.map((one) => el("li", {}, `The ${one.part} does not fit. It wants `, cedar(one.wants)));
  const clauses = near.clauses.map((one) => el("li", {}, cedar(one.text), one.error ? ` cannot be evaluated: ${one.error}` : ` is ${one.found}, and must be ${one.wants}`));
  return el("ul", {}, scope, clauses);
}

function clauseNode(clause, isMet) {
  const state = clause.error ? "error" : String(isMet);
  const words = clause.error ? `cannot be evaluated: ${clause.error}` : isMet ? `${clause.found}, as the policy needs` : `${clause.found}; the policy needs ${clause.wants}`;
  return el("div", { class: `clause ${isMet ? "true" : "false"}` },
    el("span", { class: "mark", "aria-hidden": "true" }, isMet ? "✓" : "✕"),
    el("div", {}, cedar(clause.text), el("div", { class: "soft" }, el("span", { class: "quiet" }, `${state}: `), words, clause.line ? ` · line ${clause.line}` : null),
      clause.operands.length ? el("dl", { class: "operands" }, clause.operands.map((operand) => [el("dt", {}, el("code", {}, brief(operand.text, 200))), el("dd", {}, el("code", {}, operand.error ?? operand.value))])) : null));
}

function policyNode(explanation, policy) {
  const line = (clause) => clause.line ?? 0;
  const clauses = [...policy.clauses.map((clause) => ({ clause, isMet: false })), ...(policy.met ?? []).map((clause) => ({ clause, isMet: true }))].sort((a, b) => line(a.clause) - line(b.clause));
  return el("li", { class: `${policy.verdict} ${policy.effect}` },
    el("div", {}, policyLink(explanation.portal, policy.id, policy.effect), " ", el("span", { class: "soft" }, `${VERDICTS[policy.verdict] ?? policy.verdict} · ${policy.place}`)),
    policy.message ? el("p", { class: "failure" }, policy.message) : null,
    policy.scope.map((one) => el("div", { class: "clause false" }, el("span", { class: "mark", "aria-hidden": "true" }, "✕"), el("div", {}, cedar(one.wants), el("span", { class: "soft" }, ` does not fit the ${one.part}`)))),
    clauses.map(({ clause, isMet }) => clauseNode(clause, isMet)));
}

const EFFECTS = { all: null, forbids: "Only forbids: the plain path of the request must survive them, too" };

function evaluationNode(explanation, evaluation) {
  const of = (verdict) => evaluation.policies.filter((policy) => policy.verdict === verdict);
  const near = explanation.nearest_permit?.id;
  const told = [...of("satisfied"), ...of("error"), ...of("condition_false")];
  const others = of("out_of_scope").sort((a, b) => (b.id === near) - (a.id === near));
  const count = others.length + (evaluation.left_out ?? 0);
  const list = (policies) => el("ul", { class: "tree-list" }, policies.map((policy) => policyNode(explanation, policy)));
  return el("section", {},
    EFFECTS[evaluation.effects] ? el("h3", {}, EFFECTS[evaluation.effects]) : null,
    el("dl", { class: "operands" },
      el("dt", {}, "principal"), el("dd", {}, el("code", {}, evaluation.principal.uid), evaluation.principal.ancestors.length ? el("span", { class: "soft" }, ` in ${evaluation.principal.ancestors.join(", ")}`) : null),
      el("dt", {}, "action"), el("dd", {}, el("code", {}, evaluation.action)),
      el("dt", {}, "resource"), el("dd", {}, el("code", {}, evaluation.resource.uid), evaluation.resource.ancestors.length ? el("span", { class: "soft" }, ` in ${evaluation.resource.ancestors.join(", ")}`) : null)),
    told.length ? list(told) : el("p", { class: "soft" }, "No policy is about such a request."),
    others.length ? el("details", {}, el("summary", {}, `${count.toLocaleString("en")} ${count === 1 ? "policy is" : "policies are"} about other principals, actions or resources`), list(others.slice(0, 200)), count > 200 ? el("p", { class: "soft" }, `and ${(count - 200).toLocaleString("en")} more`) : null) : null);
}

/** A decision with its reasons. */
export function explanationNode(explanation) {
  const { decision, reason, nearest_permit: near } = explanation;
  const steps = [
    explanation.request ? ["Request", el("code", {}, explanation.request)] : null,
    explanation.route ? ["Route", el("code", {}, explanation.route)] : null,
    ...explanation.caller.map((fact) => [fact.name, [el("code", {}, fact.value), el("span", { class: "soft" }, fact.source === "claim" ? ` from claim ${fact.claim}` : " from entities.json")]]),
    explanation.action ? ["Action", el("code", {}, explanation.action)] : null,
    explanation.resource ? ["Resource", el("code", {}, explanation.resource)] : null,
  ].filter((step) => step);
  return [
    el("div", { class: `verdict ${decision}` }, el("strong", {}, decision === "allow" ? "Allowed" : "Denied"), el("span", {}, reason)),
    el("p", {}, sentence(explanation)),
    decision === "deny" && near ? el("div", { class: "card" }, el("h2", {}, "What would have to differ"), el("p", {}, "The nearest permit is ", policyLink(explanation.portal, near.id, near.effect), "."), lacking(near)) : null,
    explanation.errors.map((error) => el("p", { class: "failure" }, `${error.policy}: ${error.message}`)),
    el("h2", {}, "How the request was read"),
    el("dl", { class: "operands" }, steps.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    el("h2", {}, "Policies"),
    explanation.evaluations.length ? [...explanation.evaluations].reverse().map((evaluation) => evaluationNode(explanation, evaluation)) : el("p", { class: "soft" }, "No policy was evaluated: the request ended before."),
  ];
}

/** A question for a portal of which only the facts are known. */
function firstQuestion(portal, facts, parameters) {
  const role = parameters.get("role") ?? (parameters.get("action") ? null : facts.roles[0] ?? null);
  const question = { portal, caller: { subject: "alice", tenant: null, roles: role ? [role] : [], claims: {} }, http: null, named: null, context: null, now: null };
  const action = parameters.get("action");
  if (action && !METHODS.includes(action)) {
    question.named = { action, resource: { type: parameters.get("resource") ?? "", id: "1" }, entities: [], principal: null };
  } else {
    question.http = { method: action ?? "GET", url: facts.prefix === "/" ? "/" : facts.prefix, host: null, scheme: null, source_ip: null };
  }
  return question;
}

function question(parameters) {
  try {
    return JSON.parse(parameters.get("q") ?? "null");
  } catch {
    return null;
  }
}

/** A field for JSON: says what is wrong instead of changing the question. */
function jsonField(label, value, changed, rows = 4) {
  // Cedar's JSON of times and addresses is long; below it stands what a policy would write
  const readable = (json) => (/"__(extn|entity)"/.test(JSON.stringify(json)) ? brief(valueText(json), 600) : "");
  const note = el("span", { class: "soft", role: "status" }, readable(value));
  const area = el("textarea", { rows: String(rows), spellcheck: "false", value: value === null ? "" : JSON.stringify(value, null, 1) });
  area.addEventListener("input", () => {
    try {
      const read = area.value.trim() === "" ? null : JSON.parse(area.value);
      if (read !== null && (typeof read !== "object" || Array.isArray(read))) throw new Error("an object in braces is needed");
      area.removeAttribute("aria-invalid");
      note.textContent = readable(read);
      changed(read);
    } catch (error) {
      area.setAttribute("aria-invalid", "true");
      note.textContent = `not JSON yet: ${error.message}`;
    }
  });
  return el("label", { class: "field" }, el("span", {}, label), area, note);
}

function textField(label, value, changed, more = {}) {
  const input = el("input", { type: "text", value: value ?? "", autocomplete: "off", spellcheck: "false", ...more });
  input.addEventListener("input", () => changed(input.value));
  return el("label", { class: "field" }, el("span", {}, label), input);
}

function chips(asked, facts, changed) {
  const { roles } = asked.caller;
  const known = [...new Set([...facts.roles, ...roles])];
  const chip = (role) => {
    const button = el("button", { type: "button", class: "chip", "aria-pressed": String(roles.includes(role)) }, brief(role, 60));
    button.addEventListener("click", () => {
      const at = roles.indexOf(role);
      if (at < 0) roles.push(role);
      else roles.splice(at, 1);
      button.setAttribute("aria-pressed", String(at < 0));
      changed();
    });
    return button;
  };
  const list = el("div", { class: "chips", role: "group", "aria-label": "Roles" }, known.slice(0, 60).map(chip));
  const add = el("input", { type: "text", placeholder: "another role", "aria-label": "Another role", autocomplete: "off" });
  add.addEventListener("change", () => {
    const role = add.value.trim();
    if (!role || roles.includes(role)) return;
    roles.push(role);
    list.append(chip(role));
    add.value = "";
    changed();
  });
  return el("div", { class: "field" }, el("span", {}, "Roles"), list, add);
}

function whoFields(asked, facts, changed, redraw) {
  const isKnown = asked.caller !== null;
  const box = el("input", { type: "checkbox" });
  box.checked = isKnown;
  box.addEventListener("change", () => { asked.caller = box.checked ? { subject: "alice", tenant: null, roles: [], claims: {} } : null; redraw(); });
  return el("fieldset", {}, el("legend", {}, "Who asks"),
    el("label", { class: "check" }, box, "with a credential"),
    isKnown ? [
      el("div", { class: "row" }, textField("Subject", asked.caller.subject, (value) => { asked.caller.subject = value; changed(); }), textField("Tenant", asked.caller.tenant, (value) => { asked.caller.tenant = value || null; changed(); })),
      chips(asked, facts, changed),
      el("details", {}, el("summary", {}, "All claims"), jsonField("Claims of the token; those above count before them", asked.caller.claims, (value) => { asked.caller.claims = value ?? {}; changed(); }, 6)),
    ] : el("p", { class: "soft" }, "No token and no session."));
}

function whatFields(asked, facts, changed, redraw) {
  const kind = choice("Kind", [["http", "a request to the app"], ["named", "an action on a resource"]], asked.http ? "http" : "named", (value) => {
    if (value === "http") { asked.http = { method: "GET", url: facts.prefix, host: null, scheme: null, source_ip: null }; asked.named = null; }
    else { const first = facts.actions[0] ?? { action: "", resources: [] }; asked.named = { action: first.action, resource: { type: first.resources[0] ?? "", id: "1" }, entities: [], principal: null }; asked.http = null; }
    redraw();
  });
  if (asked.http) {
    const { http } = asked;
    const methods = METHODS.includes(http.method) ? METHODS : [http.method, ...METHODS];
    return el("fieldset", {}, el("legend", {}, "What is asked"), kind,
      el("div", { class: "row" }, choice("Method", methods, http.method, (value) => { http.method = value; changed(); }), textField("Path and query", http.url, (value) => { http.url = value; changed(); })),
      facts.routes.length ? el("details", {}, el("summary", {}, `${facts.routes.length} ${facts.routes.length === 1 ? "route" : "routes"}`), el("ul", { class: "plain" }, facts.routes.slice(0, 100).map((route) => el("li", {}, el("button", { type: "button", class: "small", on: { click: () => { http.method = route.method; http.url = route.path; redraw(); } } }, `${route.method} ${brief(route.path, 80)}`), el("span", { class: "soft" }, ` ${route.action}`))))) : null,
      el("details", {}, el("summary", {}, "Host and address"), textField("Host", http.host, (value) => { http.host = value || null; changed(); }), textField("Client's address", http.source_ip, (value) => { http.source_ip = value || null; changed(); })));
  }
  const { named } = asked;
  const own = facts.actions.find((one) => one.action === named.action);
  const actions = own ? facts.actions.map((one) => one.action) : [named.action, ...facts.actions.map((one) => one.action)];
  const isText = typeof named.resource === "string";
  const types = [...new Set([...(own?.resources ?? []), isText ? null : named.resource.type].filter((type) => type))];
  return el("fieldset", {}, el("legend", {}, "What is asked"), kind,
    choice("Action", [...new Set(actions)], named.action, (value) => {
      named.action = value;
      const next = facts.actions.find((one) => one.action === value)?.resources ?? [];
      if (!isText && !next.includes(named.resource.type)) named.resource.type = next[0] ?? named.resource.type;
      redraw();
    }),
    isText ? textField("Resource", named.resource, (value) => { named.resource = value; changed(); }) : [
      el("div", { class: "row" }, choice("Resource type", types, named.resource.type, (value) => { named.resource.type = value; changed(); }), textField("Id", named.resource.id, (value) => { named.resource.id = value; changed(); })),
      el("details", { open: Boolean(named.resource.attrs) }, el("summary", {}, "Attributes of the resource"), jsonField("As Cedar's JSON", named.resource.attrs ?? null, (value) => { if (value) named.resource.attrs = value; else delete named.resource.attrs; changed(); })),
    ]);
}

/** Where a question can start: a token, a recorded decision, a decision test. */
function startFields(context, list) {
  const { portal, tree, go, take, said } = context;
  const token = el("textarea", { rows: "3", spellcheck: "false", autocomplete: "off", placeholder: "eyJ…" });
  const id = el("input", { type: "text", autocomplete: "off", spellcheck: "false", placeholder: "decision id or request id" });
  const readToken = async () => {
    try {
      const { caller, problems } = await post("token", { portal, token: token.value });
      token.value = "";
      take(caller);
      said(["The signature is not checked here. ", problems.length ? `The gate would refuse this token: ${problems.join("; ")}` : null]);
    } catch (error) {
      said([failure(error)]);
    }
  };
  return el("details", { open: false }, el("summary", {}, "Start from a token, a decision or a test"),
    el("label", { class: "field" }, el("span", {}, "Token; only its claims are read, and it stays on this machine"), token), el("p", {}, el("button", { type: "button", class: "small", on: { click: readToken } }, "Read the token")),
    el("form", { on: { submit: (event) => { event.preventDefault(); if (id.value.trim()) go({ portal, id: id.value.trim() }); } } },
      el("label", { class: "field" }, el("span", {}, tree.has_log || tree.has_gate ? "Recorded decision" : "Recorded decision, from the log that the configuration names"), el("span", { class: "row" }, id, el("button", { type: "submit", class: "small" }, "Explain")))),
    testList(context, list));
}

function testList({ portal, go }, list) {
  const options = list.cases.filter((one) => holds("case", { portal, number: String(one.number) })).slice(0, 2000);
  if (options.length === 0) return null;
  return choice("Decision test", [["", "choose a test"], ...options.map((one) => [String(one.number), one.name])], "", (value) => value !== "" && go({ portal, case: value }));
}

/** The dialog that shows a test before it is written. */
async function makeTest(asked) {
  const name = el("input", { type: "text", value: "", autocomplete: "off", maxlength: "200" });
  const body = el("div");
  const write = el("button", { type: "button", disabled: true }, "Write it");
  const show = settled(async () => {
    write.disabled = true;
    if (!name.value.trim()) return clear(body);
    try {
      const made = await post("test", { question: asked, name: name.value, write: false });
      clear(body, el("p", {}, "At the end of ", el("code", {}, made.file), ":"), el("pre", { tabindex: "0", "aria-label": "The test" }, made.yaml), made.verdict === "passed" ? el("p", {}, badge("allow", "passes"), " as it stands") : failure(new Error(`It would fail: ${made.detail}`)));
      write.disabled = made.verdict !== "passed";
    } catch (error) {
      clear(body, failure(error));
    }
    return null;
  }, 200);
  name.addEventListener("input", show);
  write.addEventListener("click", async () => {
    write.disabled = true;
    try {
      const made = await post("test", { question: asked, name: name.value, write: true });
      clear(body, el("p", {}, badge("allow", "written"), " ", el("code", {}, made.file)));
      announce("The test was written.");
    } catch (error) {
      clear(body, failure(error));
    }
  });
  openDialog("Make this a test", (close) => [dialogHead("Make this a test", close),
    el("p", {}, "The test expects what the policies decide now. From then on, no edit that decides otherwise is taken into force."),
    el("label", { class: "field" }, el("span", {}, "Name of the test"), name), body, el("p", {}, write)]);
  name.focus();
}

/** Draws the page. */
export async function explain({ main, tree, parameters, go }) {
  const loaded = tree.portals.filter((portal) => portal.revision !== null);
  const portal = parameters.get("portal") ?? question(parameters)?.portal ?? loaded[0]?.portal;
  put(main, el("h1", {}, "Explain"), el("p", { class: "soft" }, "A request, what the policies decide about it, and why. Change a fact, and the decision follows."));
  if (!portal) {
    put(main, el("p", {}, "No portal loads."));
    return null;
  }
  const wait = el("p", { class: "wait" }, "Reading");
  put(main, wait);
  const [facts, list] = await Promise.all([get("facts", { portal }), get("cases", { portal })]);
  wait.remove();
  const form = el("div", { class: "card" });
  const answer = el("div", { "aria-live": "off" }, el("p", { class: "wait" }, "Deciding"));
  put(main, el("div", { class: "explain-split" }, form, answer));
  const portals = choice("Portal", loaded.map((one) => one.portal), portal, (value) => go({ portal: value }));

  if (parameters.get("id")) return recorded(parameters.get("id"), { form, answer, portals, portal, go });

  let asked = question(parameters);
  if (parameters.get("case")) {
    const found = await get("case", { portal, number: parameters.get("case") });
    asked = found.question;
    const test = found.case;
    const heading = [badge({ passed: "allow", failed: "deny", skipped: "conditional" }[test.verdict], `test ${test.verdict}`), " ", el("strong", {}, test.name), el("div", { class: "soft" }, el("code", {}, test.file, test.line ? `:${test.line}` : "")), test.detail ? el("p", { class: "failure" }, test.detail) : null];
    if (isExport || !asked) {
      clear(form, portals, el("div", {}, heading), testList({ portal, go }, list));
      clear(answer, found.explanation ? explanationNode(found.explanation) : el("p", {}, "The case ends before a policy is asked."));
      return null;
    }
    put(form, el("div", { class: "notice" }, heading));
  }
  if (isExport) {
    clear(form, portals, el("p", {}, "This file explains the decision tests of the tree", tree.pages.includes("log") ? [", and decisions of ", el("a", { href: address("log") }, "the log")] : null, "."), testList({ portal, go }, list));
    clear(answer, el("p", { class: "soft" }, "Choose a test."));
    return null;
  }
  asked ??= firstQuestion(portal, facts, parameters);
  edit({ asked, facts, list, form, answer, portals, portal, tree, go });
  return null;
}

function edit({ asked, facts, list, form, answer, portals, portal, tree, go }) {
  const notice = form.querySelector(".notice");
  const note = el("div", { class: "soft", role: "status" });
  let round = 0;
  const decide = async () => {
    const own = ++round;
    try {
      const { explanation } = await post("explain", { question: asked });
      if (own !== round) return;
      clear(answer, explanationNode(explanation));
      announce(explanation.decision === "allow" ? "Allowed" : `Denied: ${explanation.reason}`);
    } catch (error) {
      if (own === round) clear(answer, failure(error));
    }
  };
  const keep = settled(() => go({ portal, q: JSON.stringify(asked) }, { quiet: true }), 500);
  const changed = settled(() => { decide(); keep(); }, 120);
  const redraw = () => { draw(); changed(); };
  const context = { portal, tree, go, take: (caller) => { asked.caller = caller; redraw(); }, said: (parts) => clear(note, parts) };
  const start = startFields(context, list);
  const draw = () => clear(form, notice, portals, start, note, whoFields(asked, facts, changed, redraw), whatFields(asked, facts, changed, redraw),
    el("details", { open: Boolean(asked.context) }, el("summary", {}, "Context and time"),
      jsonField("Context fields that replace the gate's own", asked.context, (value) => { asked.context = value; changed(); }),
      textField("Time", asked.now, (value) => { asked.now = value.trim() || null; changed(); }, { placeholder: "now, or 2026-01-01T00:00:00Z" })),
    el("p", {}, el("button", { type: "button", class: "make", on: { click: () => makeTest(asked) } }, "Make this a test")));
  draw();
  decide();
}

async function recorded(id, { form, answer, portals, portal, go }) {
  const input = el("input", { type: "text", value: id, autocomplete: "off", spellcheck: "false" });
  clear(form, portals, isExport ? el("p", {}, "A decision of the log, ", el("code", {}, id)) :
    el("form", { on: { submit: (event) => { event.preventDefault(); go({ portal, id: input.value.trim() }); } } }, el("label", { class: "field" }, el("span", {}, "Recorded decision"), el("span", { class: "row" }, input, el("button", { type: "submit", class: "small" }, "Explain")))),
    el("p", {}, el("a", { href: address("explain", { portal }) }, isExport ? "The decision tests" : "Ask another question")));
  try {
    const found = isExport ? await get("decision", { id }) : await post("decision", { id });
    clear(answer,
      el("p", { class: "soft" }, found.source === "gate" ? "Decided again by the running gate, with the revision in force." : "Decided again by this tree, with the facts of the record."),
      found.question && !isExport ? el("p", {}, el("a", { class: "button", href: address("explain", { portal: found.question.portal, q: JSON.stringify(found.question) }) }, "Change its facts")) : null,
      found.notes.map((text) => el("p", {}, badge("conditional", "note"), " ", text)),
      explanationNode(found.explanation),
      found.record ? el("details", {}, el("summary", {}, "The record"), el("pre", { tabindex: "0", "aria-label": "The record" }, readableJson(found.record))) : null);
  } catch (error) {
    clear(answer, failure(error));
  }
  return null;
}
