// A portal from the outside in: session, permissions, routes, and the pages that need no session.
import { PermissionsProvider, useLoadedPermissions } from "@cedargate/rbac-react";
import { StrictMode, Suspense, useEffect } from "react";
import { createRoot } from "react-dom/client";
import { createBrowserRouter, type RouteObject, RouterProvider } from "react-router";

import { PortalContext, useAuthState, usePortal } from "./context.ts";
import { Ended, Failed } from "./refusals.tsx";
import type { Portal } from "./portal.ts";
import { StepUp } from "./StepUp.tsx";

interface RoutesProps {
  readonly router: ReturnType<typeof createBrowserRouter>;
}

/** The pages, once the gate has said what the user may do. */
function Routes({ router }: RoutesProps) {
  const permissions = useLoadedPermissions();
  const auth = useAuthState();
  if (auth.status === "unauthenticated") return <Ended reason={auth.reason} />;
  const { status } = permissions.getState();
  if (status === "unauthenticated") return <Ended reason="expired" />;
  if (status === "unavailable") return <Failed />;
  return <RouterProvider router={router} />;
}

function Session({ router }: RoutesProps) {
  const { auth } = usePortal();
  useEffect(() => auth.start(), [auth]);
  return (
    <Suspense fallback={<p className="loading">Loading…</p>}>
      <Routes router={router} />
      <StepUp />
    </Suspense>
  );
}

/** Another user logged in in this browser: nothing that the page loaded for the last one stays. */
function startAnewForAnotherUser({ auth }: Portal, startAnew: () => void): void {
  let known: string | undefined;
  auth.subscribe(() => {
    const subject = auth.subject();
    if (typeof subject !== "string") return;
    if (known !== undefined && known !== subject) startAnew();
    known = subject;
  });
}

/** A changed policy may open a page, or close it: its data is loaded again. */
function followRevisions({ permissions }: Portal, router: RoutesProps["router"]): void {
  let known: string | undefined;
  permissions.subscribe(() => {
    const { status, snapshot } = permissions.getState();
    if (!snapshot) known = undefined;
    if (status !== "ready" || !snapshot || snapshot.revision === known) return;
    if (known !== undefined || router.state.errors) void router.revalidate();
    known = snapshot.revision;
  });
}

/** Shows the portal in the page. */
export function show(portal: Portal, routes: RouteObject[]): void {
  const root = document.getElementById("root");
  if (!root) throw new Error("the page has no #root");
  const router = createBrowserRouter(routes, { basename: portal.home });
  const app = createRoot(root);
  startAnewForAnotherUser(portal, () => {
    app.unmount();
    location.reload();
  });
  followRevisions(portal, router);
  app.render(
    <StrictMode>
      <PortalContext value={portal}>
        <PermissionsProvider permissions={portal.permissions}>
          <Session router={router} />
        </PermissionsProvider>
      </PortalContext>
    </StrictMode>,
  );
}
