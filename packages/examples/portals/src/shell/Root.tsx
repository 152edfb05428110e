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

/** Shows the portal in the page. */
export function show(portal: Portal, routes: RouteObject[]): void {
  const root = document.getElementById("root");
  if (!root) throw new Error("the page has no #root");
  const router = createBrowserRouter(routes, { basename: portal.home });
  createRoot(root).render(
    <StrictMode>
      <PortalContext value={portal}>
        <PermissionsProvider permissions={portal.permissions}>
          <Session router={router} />
        </PermissionsProvider>
      </PortalContext>
    </StrictMode>,
  );
}
