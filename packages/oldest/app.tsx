// An app on the oldest versions. It is compiled against the built packages, as a user compiles.
import { createAuth } from "@cedargate/auth";
import { type ContractOf, createPermissions } from "@cedargate/rbac";
import { hooksFor, PermissionsProvider } from "@cedargate/rbac-react";
import { Guard, guard } from "@cedargate/rbac-react/router";
import { loadPermissions } from "@cedargate/rbac-react/server";
import { Suspense } from "react";
import { createMemoryRouter, RouterProvider } from "react-router";

interface Resources {
  viewOrder: "Order";
  refundOrder: "Order";
}
type Shop = ContractOf<Resources, { beta: boolean; theme: string }, { Order: { owner?: string } }>;

const auth = createAuth({ portal: "shop", home: "/portal/shop" });
const permissions = createPermissions<Shop>({ portal: "shop", identity: auth });
const { Can, useCan, useFlag, useLoadedPermissions, useStepUp } = hooksFor<Shop>();

function Order({ id }: { readonly id: string }) {
  const order = { type: "Order", id } as const;
  const stepUp = useStepUp("refundOrder", order);
  const theme: string | undefined = useFlag("theme");
  return (
    <Can action="viewOrder" resource={order} fallback={<p>no order</p>}>
      <p className={theme}>{useCan("refundOrder", order) ? "refund" : stepUp}</p>
      {/* @ts-expect-error there is no such action */}
      <Can action="viewOrdr">…</Can>
    </Can>
  );
}

const Loaded = () => <p>{useLoadedPermissions().allowed("viewOrder", "Order") ? "orders" : "nothing"}</p>;

const router = createMemoryRouter([
  { path: "/", element: <Loaded /> },
  {
    path: "orders/:id",
    loader: guard(permissions, "viewOrder", ({ params }) => ({ type: "Order", id: params["id"] ?? "" }) as const),
    element: (
      <Guard action="viewOrder" resource="Order" fallback={<p>you may not do this</p>}>
        <Order id="7" />
      </Guard>
    ),
  },
]);

export const App = () => (
  <PermissionsProvider permissions={permissions}>
    <Suspense fallback="loading">
      <RouterProvider router={router} />
    </Suspense>
  </PermissionsProvider>
);

export const snapshotOf = async (cookie: string) =>
  (
    await loadPermissions<Shop>({
      portal: "shop",
      baseUrl: "http://127.0.0.1:8900/api/v1/identity",
      headers: { cookie },
    })
  ).snapshot;
