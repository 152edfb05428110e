// The newest decisions of the auditor's tenant, out of the gate's decision log.
import { useState } from "react";
import { useLoaderData, useRevalidator } from "react-router";

import { moment } from "../shell/format.ts";
import type { Decision } from "./portal.ts";

const FILTERS = ["all", "allow", "deny"] as const;

/** `Action::"viewOrder"` is `viewOrder`; a public file has no action. */
const nameOf = (action: string) => (/"(.*)"$/.exec(action)?.[1] ?? action) || "none";

export function Audit() {
  const all = useLoaderData<readonly Decision[]>();
  const revalidator = useRevalidator();
  const [filter, setFilter] = useState<string>("all");
  const [hasOwn, setHasOwn] = useState(false);
  // the gate's own endpoints, login and permissions among them, have no action
  const decisions = hasOwn ? all : all.filter(({ action }) => action !== "");
  const shown = decisions.filter(({ decision }) => filter === "all" || decision === filter);
  return (
    <main id="main">
      <div className="head">
        <h1>Audit</h1>
        <div className="row">
          <label>
            Decision
            <select
              value={filter}
              onChange={(event) => {
                setFilter(event.target.value);
              }}
            >
              {FILTERS.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          </label>
          <label>
            <input
              type="checkbox"
              checked={hasOwn}
              onChange={(event) => {
                setHasOwn(event.target.checked);
              }}
            />
            The gate&rsquo;s own pages, too
          </label>
          <button className="quiet" onClick={() => void revalidator.revalidate()}>
            Refresh
          </button>
        </div>
      </div>
      <p aria-live="polite">
        {shown.length} of the last {all.length} decisions
      </p>
      <table className="cards">
        <thead>
          <tr>
            <th scope="col">Time</th>
            <th scope="col">User</th>
            <th scope="col">Action</th>
            <th scope="col">Resource</th>
            <th scope="col">Decision</th>
          </tr>
        </thead>
        <tbody>
          {shown.map((decision) => (
            <Row key={decision.decision_id} decision={decision} />
          ))}
        </tbody>
      </table>
    </main>
  );
}

function Row({ decision }: { readonly decision: Decision }) {
  return (
    <tr>
      <th scope="row">{moment(decision.ts)}</th>
      <td data-label="User" className="name">
        {decision.principal ?? "none"}
      </td>
      <td data-label="Action">
        <code>{nameOf(decision.action)}</code>
      </td>
      <td data-label="Resource">
        <code>{decision.resource ?? "none"}</code>
      </td>
      <td data-label="Decision">
        <span className={`badge ${decision.decision}`}>{decision.decision}</span>
        <span className="small">
          {decision.reason} in {decision.portal}
        </span>
      </td>
    </tr>
  );
}
