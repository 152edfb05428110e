// The customer portal: orders and products of the demo shop.
import { guard } from "@cedargate/rbac-react/router";
import { Navigate, type RouteObject } from "react-router";

import { Frame, NavItem } from "../shell/Frame.tsx";
import { Me } from "../shell/Me.tsx";
import type { Portal } from "../shell/portal.ts";
import { Missing, RouteError } from "../shell/refusals.tsx";
import { show } from "../shell/Root.tsx";
import "../shell/style.css";
import { NewOrder } from "./NewOrder.tsx";
import { OrderPage } from "./OrderPage.tsx";
import { Orders } from "./Orders.tsx";
import { Can, loadOrder, loadOrders, loadProducts, ORDERS, portal, PRODUCTS } from "./portal.ts";
import { Products } from "./Products.tsx";

/** An order of each tenant. */
const TENANTS = { acme: "orders/7", globex: "orders/8" };

const { permissions } = portal;

function CustomerFrame() {
  return (
    <Frame title="Demo shop">
      <Can action="GET" resource={ORDERS}>
        <NavItem to="/orders">Orders</NavItem>
      </Can>
      <Can action="GET" resource={PRODUCTS}>
        <NavItem to="/products">Products</NavItem>
      </Can>
    </Frame>
  );
}

const loadDetail = async (id: string) => {
  const [order, products] = await Promise.all([loadOrder(id), loadProducts()]);
  return { order, products };
};

const routes: RouteObject[] = [
  {
    element: <CustomerFrame />,
    errorElement: <RouteError />,
    hydrateFallbackElement: <p className="loading">Loading…</p>,
    children: [
      {
        errorElement: <RouteError />,
        children: [
          { index: true, element: <Navigate to="/orders" replace /> },
          { path: "orders", loader: guard(permissions, "GET", ORDERS, loadOrders), element: <Orders /> },
          { path: "new-order", loader: guard(permissions, "POST", ORDERS, loadProducts), element: <NewOrder /> },
          { path: "orders/:id", loader: ({ params }) => loadDetail(params["id"] ?? ""), element: <OrderPage /> },
          { path: "products", loader: guard(permissions, "GET", PRODUCTS, loadProducts), element: <Products /> },
          { path: "me", element: <Me tenants={TENANTS} /> },
          { path: "*", element: <Missing /> },
        ],
      },
    ],
  },
];

show(portal as unknown as Portal, routes);
