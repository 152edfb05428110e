// One account. To suspend it is dangerous: a policy asks for a second factor, and the page leads through it.
import { useState } from "react";
import { Link, useLoaderData, useRevalidator } from "react-router";

import { Dialog } from "../shell/Dialog.tsx";
import { Refusal } from "../shell/portal.ts";
import { type Account, accountResource, portal, suspendAccount, useCan, useStepUp } from "./portal.ts";

export function AccountPage() {
  const account = useLoaderData<Account>();
  return (
    <main id="main">
      <p>
        <Link to="/accounts">All accounts</Link>
      </p>
      <div className="head">
        <h1>{account.user}</h1>
        <SuspendButton account={account} />
      </div>
      <dl className="facts">
        <dt>Email</dt>
        <dd>{account.email}</dd>
        <dt>Tenant</dt>
        <dd>{account.tenant}</dd>
        <dt>Status</dt>
        <dd>
          <span className={`badge ${account.status}`}>{account.status}</span>
        </dd>
      </dl>
    </main>
  );
}

/** Offered if the gate allows it, or would after a stronger login. */
function SuspendButton({ account }: { readonly account: Account }) {
  const resource = accountResource(account);
  const isAllowed = useCan("suspendAccount", resource);
  const stepUp = useStepUp("suspendAccount", resource);
  const revalidator = useRevalidator();
  const [isAsking, setAsking] = useState(false);
  const [problem, setProblem] = useState<string>();
  if (account.status !== "active" || !(isAllowed || stepUp !== undefined)) return null;
  const suspend = () => {
    setAsking(false);
    suspendAccount(account.id).then(
      () => {
        portal.permissions.forget(resource);
        void revalidator.revalidate();
      },
      (error: unknown) => {
        // the dialog of the step-up is open by now
        if (error instanceof Refusal && error.code === "step_up_required") return;
        setProblem(error instanceof Refusal ? (error.advice ?? error.message) : "The shop does not answer.");
      },
    );
  };
  return (
    <div className="actions">
      <button
        className="danger"
        onClick={() => {
          setAsking(true);
        }}
      >
        Suspend
      </button>
      {problem !== undefined && <p role="alert">{problem}</p>}
      {isAsking && (
        <Dialog
          title={`Suspend ${account.user}?`}
          confirm="Suspend the account"
          isDangerous
          onConfirm={suspend}
          onClose={() => {
            setAsking(false);
          }}
        >
          <p>The user cannot log in any more until an administrator activates the account.</p>
        </Dialog>
      )}
    </div>
  );
}
