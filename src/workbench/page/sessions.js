// Sessions of the running gate: who is logged in, and the end of one session or of everything that a subject, tenant or portal has.
import { announce, brief, clear, el, put, shown } from "./dom.js";
import { getNow, post } from "./data.js";
import { choice, counted, dataTable, failure, openDialog } from "./parts.js";

const FILTERS = ["subject", "issuer", "tenant", "portal"];

function time(millis) {
  const date = new Date(millis ?? NaN);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString().replace("T", " ").slice(0, 19);
}

/** The words for what ends. */
function sentence(target) {
  if (target.session) return `the session ${target.session.slice(0, 12)}…`;
  const [kind] = ["subject", "tenant", "portal"].filter((name) => target[name]);
  return `every session and bearer token of ${kind} “${brief(target[kind], 120)}” from before now`;
}

/** Asks the user; calls `work` after a yes. */
function confirm(target, work) {
  openDialog("Revoke", (close) => [
    el("h2", {}, "Revoke?"),
    el("p", {}, `This ends ${sentence(target)}, on every replica and at once. A user who logs in again is let in. It cannot be taken back.`),
    el("p", { class: "soft" }, "The gate records it with the id of the user who runs this workbench."),
    el("p", { class: "row" },
      el("button", { type: "button", class: "danger", on: { click: () => { close(); work(); } } }, "Revoke"), " ",
      el("button", { type: "button", class: "small", autofocus: true, on: { click: close } }, "Cancel"))]);
}

/** The state of a revocation, as the gate says it. */
function outcome(target, answer) {
  const words = [`Revoked ${sentence(target)}.`];
  if (answer.everywhere === false) words.push("Not everywhere yet: the session store does not take it, and this gate alone knows and goes on trying.");
  else if (answer.replicated === false) words.push("No replica of the store confirmed it in time: if it fails over now, revoke again.");
  return el("p", { class: answer.everywhere === false || answer.replicated === false ? "notice" : "done", role: "status" }, words.join(" "));
}

/** Draws the page. */
export async function sessions({ main, tree, parameters, go }) {
  const state = Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name) ?? ""]));
  const message = el("div");
  const body = el("div", {}, el("p", { class: "wait" }, "Asking the gate"));

  const revoke = (target) => confirm(target, async () => {
    clear(message, el("p", { class: "wait" }, "Revoking"));
    try {
      const answer = await post("revoke", target);
      clear(message, outcome(target, answer));
    } catch (error) {
      clear(message, failure(error));
    }
    await show();
  });

  const text = (label, name) => el("label", { class: "field" }, el("span", {}, label), el("input", { type: "text", name, value: state[name], autocomplete: "off", spellcheck: "false" }));
  const portals = tree.portals.map((portal) => portal.portal);
  const form = el("form", {
    class: "filters", on: {
      submit: (event) => {
        event.preventDefault();
        for (const name of ["subject", "issuer", "tenant"]) state[name] = form.elements[name].value.trim();
        go(state, { quiet: true });
        show();
      },
    },
  }, text("Subject", "subject"), text("Issuer", "issuer"), text("Tenant", "tenant"),
  choice("Portal", [["", "every portal"], ...portals], state.portal, (portal) => { state.portal = portal; go(state, { quiet: true }); show(); }),
  el("button", { type: "submit" }, "List"));

  let kind = "subject";
  const issuer = el("input", { type: "text", name: "its-issuer", autocomplete: "off", spellcheck: "false" });
  const issuerField = el("label", { class: "field" }, el("span", {}, "of the issuer (may be empty if there is one)"), issuer);
  const name = el("input", { type: "text", name: "of", required: true, autocomplete: "off", spellcheck: "false" });
  const all = el("form", {
    class: "filters", on: {
      submit: (event) => {
        event.preventDefault();
        // names are compared byte by byte: nothing is trimmed
        const target = { [kind]: name.value };
        if (kind === "subject" && issuer.value !== "") target.issuer = issuer.value;
        revoke(target);
      },
    },
  }, choice("Everything of a", ["subject", "tenant", "portal"], kind, (next) => { kind = next; issuerField.hidden = next !== "subject"; }),
  el("label", { class: "field wide" }, el("span", {}, "Its name"), name), issuerField,
  el("button", { type: "submit", class: "danger" }, "Revoke…"));

  put(main, el("h1", {}, "Sessions"),
    el("p", { class: "soft" }, "Sessions of all replicas, the youngest first. Bearer tokens are in no list; what is revoked of a subject, a tenant or a portal ends them, too."),
    form, message, body,
    el("section", {}, el("h2", {}, "Revoke more than one session"), all));

  async function show() {
    try {
      const given = Object.fromEntries(Object.entries(state).filter(([, value]) => value !== ""));
      const answer = await getNow("sessions", given);
      const list = answer.sessions;
      clear(body,
        el("p", { id: "session-count" }, counted(list.length, "session"), answer.more ? "; there are more, narrow the filters" : ""),
        answer.unreadable ? el("p", { class: "notice" }, `${counted(answer.unreadable, "value")} in the store that no key of the ring opens (sessions.key_file).`) : null,
        dataTable({
          name: "Sessions", rows: list, columns: [
            { label: "Subject", value: (row) => row.subject, show: (row) => brief(row.subject, 120) },
            { label: "Issuer", value: (row) => row.issuer },
            { label: "Tenant", value: (row) => row.tenant ?? "" },
            { label: "Portal", value: (row) => row.portal },
            { label: "Provider", value: (row) => row.provider ?? "" },
            { label: "Since (UTC)", isTime: true, value: (row) => time(row.created_at) },
            { label: "Used (UTC)", isTime: true, value: (row) => time(row.used_at) },
            {
              label: "Revoke", value: () => "", show: (row) => [
                el("button", { type: "button", class: "small", "aria-label": `Session of ${shown(row.subject)}: revoke`, on: { click: () => revoke({ session: row.session }) } }, "Session"), " ",
                el("button", { type: "button", class: "small", "aria-label": `All of subject ${shown(row.subject)}: revoke`, on: { click: () => revoke({ subject: row.subject, issuer: row.issuer }) } }, "All of subject")],
            },
          ],
        }));
      announce(counted(list.length, "session"));
    } catch (error) {
      clear(body, failure(error));
    }
  }
  await show();
}
