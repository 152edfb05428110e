// What a change does: the tests that fail with it, and the proof that nothing is newly allowed, or requests that are, drawn.
import { brief, el } from "./dom.js";
import { badge, counted, failure, valueText } from "./parts.js";

function facts(record) {
  const entries = Object.entries(record ?? {});
  if (entries.length === 0) return el("p", { class: "soft" }, "no attributes");
  return el("dl", { class: "operands" }, entries.map(([name, value]) => [el("dt", {}, name), el("dd", {}, el("code", {}, brief(valueText(value), 300)))]));
}

function uidText(uid) {
  return `${uid?.type ?? ""}::${JSON.stringify(uid?.id ?? "")}`;
}

/** A request that the text allows and the files deny, drawn: who, what, on what, under which facts. */
function requestNode(found) {
  const { request } = found;
  const entity = (uid) => request.entities.find((one) => uidText(one.uid) === uid);
  const box = (title, uid) => el("div", { class: "box" }, el("div", { class: "soft" }, title), el("strong", {}, el("code", {}, brief(uid, 160))), facts(entity(uid)?.attrs),
    entity(uid)?.parents?.length ? el("p", { class: "soft" }, "in ", el("code", {}, brief(entity(uid).parents.map(uidText).join(", "), 300))) : null);
  const others = request.entities.filter((one) => ![request.principal, request.resource].includes(uidText(one.uid)));
  return el("figure", { class: "counterexample" },
    el("div", { class: "flow" }, box("principal", request.principal), el("div", { class: "arrow" }, el("span", { class: "quiet" }, "asks "), el("code", {}, brief(request.action, 120)), el("span", { "aria-hidden": "true" }, " →")), box("resource", request.resource)),
    el("div", { class: "box" }, el("div", { class: "soft" }, "context"), facts(request.context)),
    others.length ? el("details", {}, el("summary", {}, counted(others.length, "more entity", "more entities")), others.map((one) => el("div", { class: "box" }, el("code", {}, brief(uidText(one.uid), 160)), facts(one.attrs)))) : null,
    el("dl", { class: "operands" }, el("dt", {}, "the files"), el("dd", {}, badge("deny", "deny"), " ", brief(found.old, 600)), el("dt", {}, "this text"), el("dd", {}, badge("allow", "allow"), " ", brief(found.new, 600))));
}

/** The proof of each portal, as `cedargate diff --prove` has it. */
export function proofNode(report) {
  const portals = report.portals.filter((portal) => portal.proof);
  return portals.map((portal) => {
    const { proof } = portal;
    const shown = proof.unproved.slice(0, 5).map((one) => el("li", {},
      el("p", {}, one.result === "widened" ? badge("deny", "newly allowed") : badge("unknown", "unknown"), " ", el("code", {}, brief(one.kind, 200)), one.about ? ` · ${one.about}` : null),
      one.result === "widened" ? requestNode(one) : el("p", { class: "soft" }, brief(one.reason ?? "", 400))));
    return el("section", {}, el("h3", {}, portal.portal),
      proof.proved ? el("p", {}, badge("allow", "proved"), ` No request is newly allowed, in all ${counted(proof.kinds, "combination")} of principal, action and resource.`) : el("ul", { class: "gaps" }, shown),
      proof.unproved.length > 5 ? el("p", { class: "soft" }, `and ${proof.unproved.length - 5} more; cedargate diff --prove shows all`) : null,
      el("p", { class: "soft" }, proof.covers));
  });
}

/** The tests that fail, of all. */
export function testsNode(tests) {
  if (tests.error) return failure({ message: tests.error });
  if (tests.failed.length === 0) return el("p", {}, badge("allow", `${counted(tests.cases, "test")} as expected`));
  return [el("p", {}, badge("deny", `${tests.failed.length} of ${counted(tests.cases, "test")} failed`)),
    el("ul", { class: "gaps" }, tests.failed.slice(0, 50).map((one) => el("li", {}, el("strong", {}, brief(one.name, 200)), el("div", { class: "soft" }, one.detail ? `${one.detail} · ` : null, el("code", {}, `${one.file}${one.line ? `:${one.line}` : ""}`)))))];
}
