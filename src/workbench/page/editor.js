// Editor: a file of the tree, checked while it is typed, with what the unsaved text would change beside it. Only Save writes.
import { announce, brief, clear, el, put, settled } from "./dom.js";
import { getNow, post } from "./data.js";
import { badge, cedar, counted, failure, findingList } from "./parts.js";
import { comparison } from "./changes.js";

/** Unsaved texts by file; they outlive the page, not the tab. */
const drafts = new Map();
/** Longer texts have no colours: each key press colours the whole text. */
const COLOURED_MAX = 60000;
const CHECK_PAUSE = 250;
const COMPARE_PAUSE = 900;
/** Shows the result of a save on the page as it is then: the saved file draws the page anew, maybe before the answer arrives. */
let showSaved = () => {};

window.addEventListener("beforeunload", (event) => {
  if ([...drafts.values()].some(isChanged)) event.preventDefault();
});

function isChanged(draft) {
  return draft.text !== draft.saved;
}

/** The text as the file has it: a text area knows only `\n`. */
function written(draft) {
  return draft.isCrlf ? draft.text.replaceAll("\n", "\r\n") : draft.text;
}

function body(draft) {
  return { file: draft.file, text: written(draft) };
}

async function opened(file) {
  const known = drafts.get(file);
  const { text, hash } = await getNow("file", { file });
  const plain = text.replaceAll("\r\n", "\n");
  if (known && isChanged(known)) {
    known.isStale = known.hash !== hash;
    known.disk = { text: plain, hash };
    return known;
  }
  if (known && known.hash === hash) return known;
  const draft = { file, text: plain, saved: plain, hash, isCrlf: text.includes("\r\n"), isStale: false };
  drafts.set(file, draft);
  return draft;
}

/** One call at a time, and after it the last text that was typed meanwhile. An older answer never overwrites a newer one. */
function latest(ask, show) {
  let isBusy = false;
  let isWanted = false;
  const run = async () => {
    if (isBusy) { isWanted = true; return; }
    isBusy = true;
    isWanted = false;
    let answer;
    try {
      answer = await ask();
    } catch (error) {
      answer = { error };
    }
    isBusy = false;
    if (isWanted) run();
    else show(answer);
  };
  return run;
}

function fileList(files, current, choose) {
  const link = (file) => el("li", {}, el("button", { type: "button", class: "line file", "aria-current": file === current ? "true" : null, on: { click: () => choose(file) } }, brief(file, 120), drafts.has(file) && isChanged(drafts.get(file)) ? [" ", badge("conditional", "unsaved")] : null));
  const find = el("input", { type: "search", placeholder: "Find a file", "aria-label": "Find a file", autocomplete: "off", spellcheck: "false" });
  const list = el("ul", { class: "plain files" });
  const fill = () => {
    const words = find.value.toLowerCase();
    const found = files.map((one) => one.file).filter((file) => file.toLowerCase().includes(words));
    clear(list, found.slice(0, 300).map(link), found.length > 300 ? el("li", { class: "soft" }, `and ${found.length - 300} more`) : null);
  };
  find.addEventListener("input", fill);
  fill();
  return { node: el("nav", { class: "card file-list", "aria-label": "Files of the tree" }, find, list), fill };
}

/** A text area over its own coloured text, with numbers of the lines. */
function textPane(draft, changed) {
  const isCedar = /\.cedar(schema)?$/.test(draft.file);
  const numbers = el("pre", { class: "numbers", "aria-hidden": "true" });
  const colours = el("pre", { class: "colours", "aria-hidden": "true" });
  const area = el("textarea", { class: "source", spellcheck: "false", autocapitalize: "off", autocomplete: "off", wrap: "off", "aria-label": `Text of ${draft.file}` });
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
  area.addEventListener("input", () => { draft.text = area.value; paint(); drawNumbers(); changed(); });
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

function idle() {
  return el("p", { class: "soft" }, "They run as soon as the text differs from the file.");
}

function testsNode(tests) {
  if (tests.error) return failure({ message: tests.error });
  if (tests.failed.length === 0) return el("p", {}, badge("allow", `${counted(tests.cases, "test")} as expected`));
  return [el("p", {}, badge("deny", `${tests.failed.length} of ${counted(tests.cases, "test")} failed`)),
    el("ul", { class: "gaps" }, tests.failed.slice(0, 50).map((one) => el("li", {}, el("strong", {}, brief(one.name, 200)), el("div", { class: "soft" }, one.detail ? `${one.detail} · ` : null, el("code", {}, `${one.file}${one.line ? `:${one.line}` : ""}`)))))];
}

function valueText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

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
function proofNode(report) {
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

/** Draws the page. */
export async function editor({ main, parameters, go }) {
  const { files } = await getNow("files");
  const wanted = parameters.get("file");
  const current = files.some((one) => one.file === wanted) ? wanted : (files.find((one) => one.file.endsWith(".cedar")) ?? files[0])?.file;
  put(main, el("h1", {}, "Editor"));
  if (!current) {
    put(main, el("p", {}, "The tree has no file."));
    return undefined;
  }
  const list = fileList(files, current, (file) => go({ file }));
  const draft = await opened(current);
  let hasLeft = false;
  let isBroken = false;
  const state = el("span", { class: "soft", role: "status" });
  const notice = el("div");
  const findings = el("div", {}, el("p", { class: "soft wait" }, "Checking"));
  const tests = el("div", {}, idle());
  const changes = el("div", {}, el("p", { class: "soft" }, "Nothing is changed yet."));
  const proof = el("div");

  const showState = () => {
    state.textContent = isChanged(draft) ? "not saved" : "as on disk";
    saveButton.disabled = !isChanged(draft);
    revertButton.disabled = !isChanged(draft);
    proveButton.disabled = !isChanged(draft) || isBroken;
    clear(notice, draft.isStale ? el("div", { class: "notice" }, el("p", {}, "The file changed on disk after you opened it. Saving would be refused."),
      el("p", { class: "row" },
        el("button", { type: "button", class: "small", on: { click: () => { Object.assign(draft, { text: draft.disk.text, saved: draft.disk.text, hash: draft.disk.hash, isStale: false }); pane.area.value = draft.text; pane.area.dispatchEvent(new Event("input")); } } }, "Take the file's text"), " ",
        el("button", { type: "button", class: "small", on: { click: () => { Object.assign(draft, { saved: draft.disk.text, hash: draft.disk.hash, isStale: false }); showState(); compareNow(); } } }, "Keep my text"))) : null);
    list.fill();
  };

  const check = latest(() => post("check", body(draft)), (answer) => {
    if (hasLeft) return;
    if (answer.error) { clear(findings, failure(answer.error)); return; }
    const own = answer.findings.filter((one) => one.file === draft.file);
    const others = answer.findings.filter((one) => one.file !== draft.file);
    const order = { error: 0, warning: 1, note: 2 };
    const kinds = new Map();
    for (const one of own.filter((finding) => finding.line)) if (!(order[kinds.get(one.line)] <= order[one.severity])) kinds.set(one.line, one.severity);
    pane.mark(kinds);
    const errors = answer.findings.filter((one) => one.severity === "error").length;
    isBroken = errors > 0;
    proveButton.disabled = !isChanged(draft) || isBroken;
    const jumps = own.filter((one) => one.line).slice(0, 20).map((one) => el("button", { type: "button", class: "chip", on: { click: () => pane.jump(one.line) } }, `line ${one.line}`));
    clear(findings,
      el("p", { id: "check" }, errors ? badge("deny", counted(errors, "error")) : badge("allow", "loads"), " ", counted(answer.findings.length - errors, "other finding")),
      jumps.length ? el("p", { class: "chips" }, jumps) : null,
      own.length ? findingList(own.slice(0, 50)) : el("p", { class: "soft" }, "None in this file."),
      others.length ? el("details", {}, el("summary", {}, `${counted(others.length, "finding")} in other files`), findingList(others.slice(0, 50))) : null);
  });

  const compareNow = latest(async () => (isChanged(draft) ? post("compare", body(draft)) : { same: true }), (answer) => {
    if (hasLeft) return;
    if (answer.same) { if (!draft.result) clear(tests, idle()); clear(changes, el("p", { class: "soft" }, "The text is that of the file.")); return; }
    if (answer.error) { clear(tests, el("p", { class: "soft" }, "They run once the text loads.")); clear(changes, el("p", { class: "soft" }, isBroken ? "The text does not load, so it cannot be compared; the findings say why." : "The text does not load, so it cannot be compared:"), isBroken ? null : failure(answer.error)); return; }
    clear(tests, testsNode(answer.tests));
    clear(changes, comparison(answer.changes, { hasMatrix: false }));
  });

  const checkSoon = settled(check, CHECK_PAUSE);
  const compareSoon = settled(compareNow, COMPARE_PAUSE);
  const changed = () => { draft.result = null; clear(proof); showState(); checkSoon(); compareSoon(); };

  const save = async () => {
    if (!isChanged(draft)) return;
    const text = draft.text;
    saveButton.disabled = true;
    clear(tests, el("p", { class: "wait" }, "Saving, and running the tests"));
    try {
      const answer = await post("save", { ...body(draft), hash: draft.hash });
      Object.assign(draft, { saved: text, hash: answer.hash, isStale: false, result: answer.tests });
      announce("Saved");
    } catch (error) {
      draft.result = { error: error.message };
    }
    showSaved(draft);
  };
  const prove = async () => {
    clear(proof, el("p", { class: "wait" }, "Proving, for at most a minute"));
    const text = draft.text;
    try {
      const answer = await post("prove", body(draft));
      if (text === draft.text && !hasLeft) clear(proof, proofNode(answer));
    } catch (error) {
      clear(proof, failure(error));
    }
  };
  const saveButton = el("button", { type: "button", on: { click: save } }, "Save");
  const revertButton = el("button", { type: "button", class: "small", on: { click: () => { pane.area.value = draft.saved; pane.area.dispatchEvent(new Event("input")); } } }, "Take back all changes");
  const proveButton = el("button", { type: "button", class: "small", on: { click: prove } }, "Prove that nothing is newly allowed");
  const pane = textPane(draft, changed);
  pane.area.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "s") { event.preventDefault(); save(); }
  });

  put(main, el("div", { class: "editor-split" }, list.node,
    el("div", {},
      el("div", { class: "bar" }, el("strong", {}, el("code", {}, brief(draft.file, 200))), state, el("span", { class: "save" }, revertButton, saveButton)),
      notice, pane.node,
      el("section", {}, el("h2", {}, "Findings"), findings)),
    el("div", { class: "effects" },
      el("h2", {}, "Tests"), tests, el("h2", {}, "What the text changes"), changes,
      el("h2", {}, "Proof"), el("p", {}, proveButton), proof)));
  showSaved = (saved) => {
    if (saved !== draft) return;
    if (draft.result?.error) clear(tests, failure({ message: draft.result.error }));
    else if (draft.result) clear(tests, el("p", { class: "done" }, `Saved ${draft.file}.`), testsNode(draft.result));
    showState();
    if (!isChanged(draft)) compareNow();
  };
  showState();
  check();
  compareNow();
  if (draft.result) showSaved(draft);
  if (draft.view) {
    pane.area.setSelectionRange(draft.view.start, draft.view.end);
    pane.area.scrollTop = draft.view.top;
    if (draft.view.hasFocus) pane.area.focus({ preventScroll: true });
  }
  return () => {
    hasLeft = true;
    const { selectionStart: start, selectionEnd: end, scrollTop: top } = pane.area;
    draft.view = { start, end, top, hasFocus: document.activeElement === pane.area };
  };
}
