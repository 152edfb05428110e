// The answers of the workbench: from its server, or from the blocks of an exported page.

/** @type {Map<string, string>} */
const embedded = new Map();
for (const block of document.querySelectorAll("#data > script")) {
  embedded.set(block.getAttribute("data-call"), block.textContent);
}

/** True for a page without a server. */
export const isExport = document.getElementById("data") !== null;

/** Where an exported page opens. */
export const firstPage = document.getElementById("data")?.getAttribute("data-first") ?? "#/overview";

/** Answers of this reading of the tree. */
let known = new Map();

function named(name, parameters) {
  const query = new URLSearchParams(Object.entries(parameters ?? {})).toString();
  return query === "" ? name : `${name}?${query}`;
}

async function read(response) {
  const answer = await response.json().catch(() => ({ error: `the workbench answered ${response.status}` }));
  if (!response.ok) throw new Error(answer.error ?? `the workbench answered ${response.status}`);
  return answer;
}

/** Asks for something that is only read. A second question waits for the first answer. */
export function get(name, parameters) {
  const call = named(name, parameters);
  if (isExport) {
    const text = embedded.get(call);
    if (text === undefined) return Promise.reject(new Error("This exported page does not hold it; open the workbench itself."));
    return Promise.resolve(JSON.parse(text));
  }
  if (!known.has(call)) {
    const answer = fetch(`/api/${call}`).then(read);
    answer.catch(() => known.delete(call));
    known.set(call, answer);
  }
  return known.get(call);
}

/** Asks anew. */
export function getNow(name, parameters) {
  known.delete(named(name, parameters));
  return get(name, parameters);
}

/** True if an exported page holds the answer; always true with a server. */
export function holds(name, parameters) {
  return !isExport || embedded.has(named(name, parameters));
}

/** A call with a body. */
export async function post(name, body) {
  if (isExport) throw new Error("An exported page asks nothing; open the workbench itself.");
  const headers = { "content-type": "application/json", "x-cedargate-workbench": "1" };
  return read(await fetch(`/api/${name}`, { method: "POST", headers, body: JSON.stringify(body) }));
}

/** Calls `changed` for each new reading of the tree, and `lost` when the workbench has ended. */
export function listen(changed, lost) {
  if (isExport) return;
  let hash = null;
  const events = new EventSource("/api/events");
  events.addEventListener("tree", (event) => {
    const isNew = hash !== null && hash !== event.data;
    hash = event.data;
    if (isNew) {
      known = new Map();
      changed();
    }
  });
  events.addEventListener("error", () => lost());
  events.addEventListener("open", () => lost(false));
}
