// New, renamed and deleted files of the tree: dialogs that show what a change does before the user says yes.
import { announce, clear, el, put, settled } from "./dom.js";
import { post } from "./data.js";
import { comparison } from "./changes.js";
import { dialogHead, failure, openDialog } from "./parts.js";
import { testsNode } from "./proof.js";

const PAUSE = 300;

function nameField(label, value) {
  const input = el("input", { type: "text", value, autocomplete: "off", spellcheck: "false", autofocus: true });
  return { input, field: el("label", { class: "field wide" }, el("span", {}, label), input) };
}

/** Shows the tests and the differences of a change in `body`. A change that does not load is shown as such, and may be wanted. */
async function showEffect(body, change, isWanted) {
  clear(body, el("p", { class: "wait" }, "Comparing"));
  try {
    const { tests, changes } = await post("compare", change);
    if (isWanted()) clear(body, el("h3", {}, "Tests"), testsNode(tests), el("h3", {}, "What it changes"), comparison(changes, { hasMatrix: false }));
    return true;
  } catch (error) {
    if (isWanted()) clear(body, failure(error));
    return false;
  }
}

/** Asks for the name of a new file; `begin(file)` opens it, and nothing is written yet. */
export function newFile(beside, begin) {
  const { input, field } = nameField("Its name, from policies/ or schemas/ on", beside.slice(0, beside.lastIndexOf("/") + 1));
  const body = el("div");
  const open = async (event, close) => {
    event.preventDefault();
    const file = input.value.trim();
    try {
      await post("check", { file, text: "" });
      close();
      begin(file);
    } catch (error) {
      clear(body, failure(error));
    }
  };
  openDialog("New file", (close) => [dialogHead("New file", close),
    el("p", {}, "The file opens empty, and Save writes it. A new folder in policies/ is a new portal, unless the configuration lists the portals."),
    el("form", { on: { submit: (event) => open(event, close) } }, field, body, el("p", {}, el("button", { type: "submit" }, "Open it")))]);
  input.focus();
  input.setSelectionRange(input.value.length, input.value.length);
}

/** Renames the file after a yes; `done(to)` is called then. */
export function renameFile(draft, done) {
  const { input, field } = nameField("Its new name", draft.file);
  const body = el("div");
  const yes = el("button", { type: "button", disabled: true }, "Rename");
  let wanted = draft.file;
  const show = settled(async () => {
    const to = input.value.trim();
    wanted = to;
    yes.disabled = true;
    if (to === draft.file || to === "") { clear(body); return; }
    await showEffect(body, { file: draft.file, to }, () => wanted === to);
    yes.disabled = wanted !== to;
  }, PAUSE);
  input.addEventListener("input", () => { yes.disabled = true; show(); });
  openDialog(`Rename ${draft.file}`, (close) => {
    yes.addEventListener("click", () => write("rename", { file: draft.file, to: wanted, hash: draft.hash }, body, yes, () => { close(); announce("Renamed"); done(wanted); }));
    return [dialogHead("Rename", close), el("p", {}, "A policy in another folder belongs to another portal: what it changes stands below before you say yes."), field, body,
      el("p", { class: "row" }, yes, " ", el("button", { type: "button", class: "small", on: { click: close } }, "Cancel"))];
  });
  input.focus();
}

/** Deletes the file after a yes; `done()` is called then. */
export function deleteFile(draft, done) {
  const body = el("div");
  const yes = el("button", { type: "button", class: "danger" }, "Delete");
  openDialog(`Delete ${draft.file}`, (close) => {
    yes.addEventListener("click", () => write("delete", { file: draft.file, hash: draft.hash }, body, yes, () => { close(); announce("Deleted"); done(null); }));
    return [dialogHead("Delete?", close), el("p", {}, el("code", {}, draft.file), " is removed from the disk. Only your version control has it then."), body,
      el("p", { class: "row" }, yes, " ", el("button", { type: "button", class: "small", autofocus: true, on: { click: close } }, "Cancel"))];
  });
  showEffect(body, { file: draft.file }, () => true);
}

async function write(call, change, body, yes, done) {
  yes.disabled = true;
  try {
    await post(call, change);
    done();
  } catch (error) {
    put(body, failure(error));
  }
}
