// Who the user is, what the gate allows, and the try to look into another tenant.
import { usePermissionsState } from "@cedargate/rbac-react";
import { type SyntheticEvent, useState } from "react";
import { useNavigate } from "react-router";

import { usePortal, useSession } from "./context.ts";
import { moment } from "./format.ts";
import { Refusal } from "./portal.ts";

export interface MeProps {
  /** Something of each tenant: its own users may see it, and no others. */
  readonly tenants: Readonly<Record<string, string>>;
}

export function Me({ tenants }: MeProps) {
  const session = useSession();
  return (
    <main id="main">
      <h1>My account</h1>
      {session && (
        <dl className="facts">
          <dt>Name</dt>
          <dd>{session.name ?? session.subject}</dd>
          <dt>Tenant</dt>
          <dd>{session.tenant ?? "none"}</dd>
          <dt>Roles</dt>
          <dd>{session.roles.join(", ") || "none"}</dd>
          {session.expires_at !== undefined && (
            <>
              <dt>Session ends</dt>
              <dd>{moment(session.expires_at)}</dd>
            </>
          )}
        </dl>
      )}
      <Tenants tenants={tenants} />
      <Allowed />
    </main>
  );
}

/** The gate keeps tenants apart: a switch is a request like any other, and it is refused. */
function Tenants({ tenants }: MeProps) {
  const portal = usePortal();
  const session = useSession();
  const navigate = useNavigate();
  const [refusal, setRefusal] = useState<Refusal>();
  const own = session?.tenant ?? "";
  const submit = (event: SyntheticEvent<HTMLFormElement>) => {
    event.preventDefault();
    const tenant = new FormData(event.currentTarget).get("tenant");
    const path = typeof tenant === "string" && Object.hasOwn(tenants, tenant) ? tenants[tenant] : undefined;
    if (path === undefined) return;
    setRefusal(undefined);
    portal.request(path).then(
      () => navigate(`/${path}`),
      (error: unknown) => {
        setRefusal(error instanceof Refusal ? error : new Refusal(0, {}));
      },
    );
  };
  return (
    <section aria-labelledby="switch">
      <h2 id="switch">Switch the tenant</h2>
      <form className="row" onSubmit={submit}>
        <label>
          Tenant
          <select name="tenant" key={own} defaultValue={own}>
            {Object.keys(tenants).map((tenant) => (
              <option key={tenant}>{tenant}</option>
            ))}
          </select>
        </label>
        <button>Switch</button>
      </form>
      {refusal && (
        <p className="alert" role="alert">
          {refusal.advice ?? "The gate refused the switch: you belong to your own tenant alone."}
          {refusal.decisionId !== undefined && (
            <span className="small">
              Decision <code>{refusal.decisionId}</code>
            </span>
          )}
        </p>
      )}
    </section>
  );
}

const MARKS = { allow: "allowed", conditional: "depends", deny: "denied" } as const;

/** The snapshot as the gate sent it: edit a policy, and watch. */
function Allowed() {
  const { snapshot } = usePermissionsState();
  if (!snapshot) return null;
  return (
    <section aria-labelledby="allowed">
      <h2 id="allowed">What I may do</h2>
      <ul className="verdicts">
        {Object.entries(snapshot.actions).map(([action, verdict]) => (
          <li key={action}>
            <code>{action}</code>
            <span className={`badge ${verdict}`}>{MARKS[verdict]}</span>
          </li>
        ))}
      </ul>
      <p className="small">
        Revision <code>{snapshot.revision.slice(0, 12)}</code>. “depends”: the gate decides for each item.
      </p>
    </section>
  );
}
