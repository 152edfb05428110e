// The pages of a refusal: what happened, and what the user can do next.
import type { Reason } from "@cedargate/auth";
import type { ReactNode } from "react";
import { isRouteErrorResponse, Link, useRouteError } from "react-router";

import { usePortal } from "./context.ts";
import { Refusal } from "./portal.ts";

interface NoticeProps {
  readonly title: string;
  readonly children: ReactNode;
}

/** A page with one message. */
function Notice({ title, children }: NoticeProps) {
  return (
    <main className="notice" id="main">
      <h1>{title}</h1>
      {children}
    </main>
  );
}

const ENDED: Readonly<Record<Reason, readonly [string, string]>> = {
  absent: ["Please log in", "There is no session in this browser."],
  expired: [
    "Your session has ended",
    "You were logged out because the session expired. What you had open is not lost.",
  ],
  revoked: ["Your session was ended", "An administrator or another login ended it."],
  logged_out: ["You are logged out", "The session has ended in every tab of this browser."],
};

/** No session: what ended it, and the way back to this address. */
export function Ended({ reason }: { readonly reason: Reason }) {
  const { auth } = usePortal();
  const [title, text] = ENDED[reason];
  return (
    <Notice title={title}>
      <p>{text}</p>
      <a className="button" href={auth.loginUrl()}>
        Log in
      </a>
    </Notice>
  );
}

/** The gate does not say what the user may do: nothing is shown. */
export function Failed() {
  const { permissions } = usePortal();
  return (
    <Notice title="The shop is not available">
      <p>We could not find out what you may do here. Nothing is shown until we know.</p>
      <button onClick={() => void permissions.load()}>Try again</button>
    </Notice>
  );
}

interface ForbiddenProps {
  readonly advice?: string | undefined;
  readonly decisionId?: string | undefined;
}

/** Logged in, and not permitted. */
export function Forbidden({ advice, decisionId }: ForbiddenProps) {
  return (
    <Notice title="You may not do this">
      <p>{advice ?? "Your role does not permit this. Ask your administrator if you need it."}</p>
      {decisionId !== undefined && (
        <p className="small">
          Decision <code>{decisionId}</code>
        </p>
      )}
      <Link className="button" to="/">
        Back to the start
      </Link>
    </Notice>
  );
}

/** The page of a route that did not load. */
export function RouteError() {
  const error = useRouteError();
  if (error instanceof Refusal) return <Refused refusal={error} />;
  const status = isRouteErrorResponse(error) || error instanceof Response ? error.status : 0;
  if (status === 401) return <Ended reason="expired" />;
  if (status === 403) return <Forbidden />;
  if (status === 404) return <Missing />;
  return <Failed />;
}

function Refused({ refusal }: { readonly refusal: Refusal }) {
  if (refusal.status === 401 && refusal.code !== "step_up_required") return <Ended reason="expired" />;
  if (refusal.status === 404) return <Missing />;
  if (refusal.status >= 500) return <Failed />;
  return <Forbidden advice={refusal.advice} decisionId={refusal.decisionId} />;
}

export function Missing() {
  return (
    <Notice title="There is no such page">
      <p>It may have been removed, or the address has a mistake.</p>
      <Link className="button" to="/">
        Back to the start
      </Link>
    </Notice>
  );
}
