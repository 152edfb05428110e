// The admin portal: its contract, its hooks, and the shop's data.
import type { ContractOf, ResourceOf } from "@cedargate/rbac";
import { hooksFor } from "@cedargate/rbac-react";

import { Portal } from "../shell/portal.ts";
import type { Attrs, Flags, Resources } from "./contract.ts";

export type Admin = ContractOf<Resources, Flags, Attrs>;

export const { Can, useCan, useStepUp } = hooksFor<Admin>();

export const portal = new Portal<Admin>("admin");

export interface Account {
  readonly id: string;
  readonly user: string;
  readonly tenant: string;
  readonly email: string;
  readonly status: "active" | "suspended";
}

export interface Decision {
  readonly decision_id: string;
  readonly ts: string;
  readonly portal: string;
  readonly principal: string | null;
  readonly action: string;
  readonly resource: string | null;
  readonly decision: "allow" | "deny";
  readonly reason: string;
}

/** The lists, as the gate names them. */
export const ACCOUNTS = { type: "Path", id: "/portal/admin/accounts" } as const;
export const REPORTS = { type: "Path", id: "/portal/admin/reports" } as const;

export const accountResource = (account: Account): ResourceOf<Admin, "Account"> => ({
  type: "Account",
  id: account.id,
  attrs: {
    tenant: { __entity: { type: "Tenant", id: account.tenant } },
    user: { __entity: { type: "User", id: account.user } },
  },
});

export const loadAccounts = async (): Promise<readonly Account[]> =>
  (await portal.request<{ accounts: Account[] }>("accounts")).accounts;

export const loadAccount = (id: string): Promise<Account> => portal.request(`accounts/${encodeURIComponent(id)}`);

export const suspendAccount = (id: string): Promise<Account> =>
  portal.request(`accounts/${encodeURIComponent(id)}/suspend`, "POST");

export const loadDecisions = async (): Promise<readonly Decision[]> =>
  (await portal.request<{ decisions: Decision[] }>("reports/decisions?limit=50")).decisions;
