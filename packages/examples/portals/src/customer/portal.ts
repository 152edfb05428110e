// The customer portal: its contract, its hooks, and the shop's data.
import type { ContractOf, ResourceOf } from "@cedargate/rbac";
import { hooksFor } from "@cedargate/rbac-react";

import { Portal } from "../shell/portal.ts";
import type { Attrs, Flags, Resources } from "./contract.ts";

export type Customer = ContractOf<Resources, Flags, Attrs>;

export const { Can, useCan, useFlag } = hooksFor<Customer>();

export const portal = new Portal<Customer>("customer");

export interface Item {
  readonly product: string;
  readonly quantity: number;
}

export interface Order {
  readonly id: string;
  readonly tenant: string;
  readonly owner: string;
  readonly status: "open" | "cancelled";
  readonly items: readonly Item[];
  readonly total: number;
  readonly currency: string;
  readonly created_at: string;
}

export interface Product {
  readonly id: string;
  readonly name: string;
  readonly price: number;
  readonly currency: string;
}

/** The list of orders, as the gate names it. */
export const ORDERS = { type: "Path", id: "/portal/customer/orders" } as const;
export const PRODUCTS = { type: "Path", id: "/portal/customer/products" } as const;

/** An order as the gate's schema describes it: policies read tenant and owner. */
export const orderResource = (order: Order): ResourceOf<Customer, "Order"> => ({
  type: "Order",
  id: order.id,
  attrs: {
    tenant: { __entity: { type: "Tenant", id: order.tenant } },
    owner: { __entity: { type: "User", id: order.owner } },
  },
});

export const loadOrders = async (): Promise<readonly Order[]> =>
  (await portal.request<{ orders: Order[] }>("orders")).orders;

export const loadOrder = (id: string): Promise<Order> => portal.request(`orders/${encodeURIComponent(id)}`);

export const loadProducts = async (): Promise<readonly Product[]> =>
  (await portal.request<{ products: Product[] }>("products")).products;

export const placeOrder = (items: readonly Item[]): Promise<Order> => portal.request("orders", "POST", { items });

export const editOrder = (id: string, items: readonly Item[]): Promise<Order> =>
  portal.request(`orders/${encodeURIComponent(id)}`, "PUT", { items });

export const cancelOrder = (id: string): Promise<void> => portal.request(`orders/${encodeURIComponent(id)}`, "DELETE");
