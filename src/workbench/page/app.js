// The frame: navigation, deep links, and redrawing when the files change.
import { announce, brief, clear, el, put } from "./dom.js";
import { firstPage, get, isExport, listen } from "./data.js";
import { address, failure } from "./parts.js";
import { overview } from "./overview.js";
import { matrix } from "./matrix.js";
import { explain } from "./explain.js";
import { tests } from "./tests.js";
import { changes } from "./changes.js";
import { log } from "./log.js";
import { sessions } from "./sessions.js";
import { editor, unsavedCount } from "./editor.js";

/** Every page: its name in addresses and in the tree's `pages`, its title, and the function that draws it. */
const PAGES = [
  { name: "overview", title: "Overview", draw: overview },
  { name: "matrix", title: "Matrix", draw: matrix },
  { name: "explain", title: "Explain", draw: explain },
  { name: "tests", title: "Tests", draw: tests },
  { name: "changes", title: "Changes", draw: changes },
  { name: "editor", title: isExport ? "Files" : "Editor", draw: editor },
  { name: "log", title: "Log", draw: log },
  { name: "sessions", title: "Sessions", draw: sessions },
];

const main = document.getElementById("main");
const nav = document.getElementById("nav");
/** A page that is drawn late must not overwrite the next one. */
let drawing = 0;
let cleanUp = null;

/** Says that an address leads nowhere, or to a page that needs the server. */
function missing(name, pages) {
  const known = PAGES.find((one) => one.name === name);
  const why = known && isExport ? `This exported file has no page ${known.title}; open the workbench itself.` : `This workbench has no page ${brief(name, 60)}.`;
  const links = pages.map((one) => el("li", {}, el("a", { href: address(one.name) }, one.title)));
  return { name, title: "No such page", draw: ({ main: view }) => { put(view, el("h1", {}, "No such page"), el("p", {}, why), el("ul", {}, links)); } };
}

/** Behind the editor's name: how many texts are not saved. */
const unsaved = el("span", { class: "unsaved" });
function showUnsaved() {
  const count = unsavedCount();
  clear(unsaved, count ? [" ", el("span", { class: "badge conditional" }, `${count} unsaved`)] : null);
}
document.addEventListener("unsaved", showUnsaved);

function here() {
  const [name, query] = (location.hash.startsWith("#/") ? location.hash : firstPage).slice(2).split("?");
  return { name, parameters: new URLSearchParams(query ?? "") };
}

async function draw({ keepFocus = false } = {}) {
  const own = ++drawing;
  const { name, parameters } = here();
  cleanUp?.();
  cleanUp = null;
  let tree;
  try {
    tree = await get("tree");
  } catch (error) {
    if (own === drawing) clear(main, el("h1", {}, "The tree cannot be read"), failure(error), el("p", {}, "The page follows the files: mend it, and it appears."));
    return;
  }
  if (own !== drawing) return;
  const pages = PAGES.filter((page) => tree.pages.includes(page.name));
  const page = pages.find((one) => one.name === name) ?? (name === "" ? pages[0] : missing(name, pages));
  clear(nav, pages.length > 1 ? pages.map((one) => el("a", { href: address(one.name), "aria-current": one === page ? "page" : null }, one.title, one.name === "editor" ? unsaved : null)) : null);
  document.getElementById("find").hidden = !tree.pages.includes("matrix");
  document.title = `${page.title} · cedargate workbench`;
  const view = el("div", { class: "page" });
  const go = (next, { quiet = false } = {}) => {
    const hash = address(page.name, next);
    if (quiet) history.replaceState(null, "", hash);
    else location.hash = hash;
  };
  clear(main, view);
  if (!keepFocus) main.focus({ preventScroll: true });
  try {
    const left = await page.draw({ main: view, tree, parameters, go });
    if (own === drawing) cleanUp = left ?? null;
    else left?.();
  } catch (error) {
    put(view, failure(error));
  }
}

window.addEventListener("hashchange", () => draw());
document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
document.getElementById("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const find = document.getElementById("find-text").value.trim();
  const portal = here().parameters.get("portal");
  location.hash = address("matrix", { portal, find });
});
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "k") { event.preventDefault(); document.getElementById("find-text").focus(); }
});
const lost = el("p", { class: "lost", role: "alert", hidden: true }, "The workbench has ended. What you see is its last state.");
document.body.prepend(lost);
listen(() => { announce("The files changed; the page shows them as they are now."); draw({ keepFocus: true }); }, (isLost = true) => { lost.hidden = !isLost; });
document.documentElement.classList.toggle("export", isExport);
draw({ keepFocus: true });
