// The admin portal: accounts for administrators and support, decisions for auditors.
import { guard } from "@cedargate/rbac-react/router";
import { Navigate, type RouteObject } from "react-router";

import { Frame, NavItem } from "../shell/Frame.tsx";
import { Me } from "../shell/Me.tsx";
import type { Portal } from "../shell/portal.ts";
import { Forbidden, Missing, RouteError } from "../shell/refusals.tsx";
import { show } from "../shell/Root.tsx";
import "../shell/style.css";
import { AccountPage } from "./AccountPage.tsx";
import { Accounts } from "./Accounts.tsx";
import { Audit } from "./Audit.tsx";
import { ACCOUNTS, Can, loadAccount, loadAccounts, loadDecisions, portal, REPORTS } from "./portal.ts";

/** An account of each tenant. */
const TENANTS = { acme: "accounts/alice", globex: "accounts/gina" };

const { permissions } = portal;

function AdminFrame() {
  return (
    <Frame title="Demo shop administration">
      <Can action="GET" resource={ACCOUNTS}>
        <NavItem to="/accounts">Accounts</NavItem>
      </Can>
      <Can action="GET" resource={REPORTS}>
        <NavItem to="/reports">Audit</NavItem>
      </Can>
    </Frame>
  );
}

/** The first page that this user may open. */
function Start() {
  return (
    <Can
      action="GET"
      resource={ACCOUNTS}
      fallback={
        <Can action="GET" resource={REPORTS} fallback={<Forbidden />}>
          <Navigate to="/reports" replace />
        </Can>
      }
    >
      <Navigate to="/accounts" replace />
    </Can>
  );
}

const checkStart = async () => {
  await permissions.check([ACCOUNTS, REPORTS], ["GET"]);
  return null;
};

const routes: RouteObject[] = [
  {
    element: <AdminFrame />,
    errorElement: <RouteError />,
    hydrateFallbackElement: <p className="loading">Loading…</p>,
    children: [
      {
        errorElement: <RouteError />,
        children: [
          { index: true, loader: checkStart, element: <Start /> },
          { path: "accounts", loader: guard(permissions, "GET", ACCOUNTS, loadAccounts), element: <Accounts /> },
          { path: "accounts/:id", loader: ({ params }) => loadAccount(params["id"] ?? ""), element: <AccountPage /> },
          { path: "reports", loader: guard(permissions, "GET", REPORTS, loadDecisions), element: <Audit /> },
          { path: "me", element: <Me tenants={TENANTS} /> },
          { path: "*", element: <Missing /> },
        ],
      },
    ],
  },
];

show(portal as unknown as Portal, routes);
