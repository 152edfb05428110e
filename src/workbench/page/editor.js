// Editor: a file of the tree, checked while it is typed, with what the unsaved text would change beside it. Only Save writes.
import { announce, brief, clear, el, put, settled } from "./dom.js";
import { getNow, isExport, post } from "./data.js";
import { badge, counted, failure, findingList } from "./parts.js";
import { comparison } from "./changes.js";
import { deleteFile, newFile, renameFile } from "./files.js";
import { fileList, marksOf, textPane } from "./pane.js";
import { proofNode, testsNode } from "./proof.js";
import { viewer } from "./viewer.js";

/** Unsaved texts by file; they outlive the page, not the tab. */
const drafts = new Map();
const CHECK_PAUSE = 250;
const COMPARE_PAUSE = 900;
/** Shows the result of a save on the page as it is then: the saved file draws the page anew, maybe before the answer arrives. */
let showSaved = () => {};

window.addEventListener("beforeunload", (event) => {
  if (unsavedCount() > 0) event.preventDefault();
});

/** Texts that are not saved. The frame shows the number on every page. */
export function unsavedCount() {
  return [...drafts.values()].filter(isChanged).length;
}

function tellFrame() {
  document.dispatchEvent(new Event("unsaved"));
}

function isChanged(draft) {
  return draft.isNew || draft.text !== draft.saved;
}

/** The text as the file has it: a text area knows only `\n`. */
function written(draft) {
  return draft.isCrlf ? draft.text.replaceAll("\n", "\r\n") : draft.text;
}

function body(draft) {
  return { file: draft.file, text: written(draft) };
}

/** What stands behind the name of a file with an unsaved text. */
function unsaved(file) {
  return drafts.has(file) && isChanged(drafts.get(file)) ? [" ", badge("conditional", "unsaved")] : null;
}

async function opened(file, isOnDisk) {
  const known = drafts.get(file);
  if (known?.isNew && !isOnDisk) return known;
  const { text, hash } = await getNow("file", { file });
  const plain = text.replaceAll("\r\n", "\n");
  if (known && isChanged(known)) {
    known.isStale = known.hash !== hash;
    known.isNew = false;
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

function idle() {
  return el("p", { class: "soft" }, "They run as soon as the text differs from the file.");
}

/** Draws the page. */
export async function editor({ main, parameters, go }) {
  if (isExport) return viewer({ main, parameters, go });
  const { files } = await getNow("files");
  const wanted = parameters.get("file");
  const made = [...drafts.values()].filter((draft) => draft.isNew && !files.some((one) => one.file === draft.file));
  const all = [...files, ...made].sort((a, b) => (a.file < b.file ? -1 : 1));
  const current = all.some((one) => one.file === wanted) ? wanted : (files.find((one) => one.file.endsWith(".cedar")) ?? files[0])?.file;
  put(main, el("h1", {}, "Editor"));
  const begin = (file) => {
    drafts.set(file, { file, text: "", saved: "", hash: null, isCrlf: false, isStale: false, isNew: true });
    tellFrame();
    go({ file });
  };
  const makeButton = el("button", { type: "button", class: "small", on: { click: () => newFile(current ?? "policies/", begin) } }, "New file…");
  if (!current) {
    put(main, el("p", {}, "The tree has no file."), makeButton);
    return undefined;
  }
  const list = fileList(all, current, (file) => go({ file }), unsaved);
  list.node.prepend(el("p", {}, makeButton));
  const draft = await opened(current, files.some((one) => one.file === current));
  let hasLeft = false;
  let isBroken = false;
  const state = el("span", { class: "soft", role: "status" });
  const notice = el("div");
  const findings = el("div", {}, el("p", { class: "soft wait" }, "Checking"));
  const tests = el("div", {}, idle());
  const changes = el("div", {}, el("p", { class: "soft" }, "Nothing is changed yet."));
  const proof = el("div");

  const showState = () => {
    state.textContent = draft.isNew ? "new, not saved" : isChanged(draft) ? "not saved" : "as on disk";
    renameButton.disabled = isChanged(draft);
    deleteButton.disabled = isChanged(draft);
    revertButton.textContent = draft.isNew ? "Discard" : "Take back all changes";
    tellFrame();
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
    pane.mark(marksOf(own));
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
      Object.assign(draft, { saved: text, hash: answer.hash, isStale: false, isNew: false, result: answer.tests });
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
  const revertButton = el("button", { type: "button", class: "small", on: { click: () => { if (draft.isNew) { drafts.delete(draft.file); tellFrame(); go({}); return; } pane.area.value = draft.saved; pane.area.dispatchEvent(new Event("input")); } } }, "Take back all changes");
  const gone = (next) => { drafts.delete(draft.file); tellFrame(); go({ file: next }); };
  const renameButton = el("button", { type: "button", class: "small", on: { click: () => renameFile(draft, gone) } }, "Rename…");
  const deleteButton = el("button", { type: "button", class: "small", on: { click: () => deleteFile(draft, gone) } }, "Delete…");
  const proveButton = el("button", { type: "button", class: "small", on: { click: prove } }, "Prove that nothing is newly allowed");
  const pane = textPane(draft, changed);
  pane.area.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "s") { event.preventDefault(); save(); }
  });

  put(main, el("div", { class: "editor-split" }, list.node,
    el("div", {},
      el("div", { class: "bar" }, el("strong", {}, el("code", {}, brief(draft.file, 200))), state, el("span", { class: "save" }, renameButton, deleteButton, revertButton, saveButton)),
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
