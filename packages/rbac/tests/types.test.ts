// A misspelt name is a compile error. `npm run types` checks the lines marked with @ts-expect-error: each must be one.
import { describe, expect, it } from "vitest";

import type { Attrs, Flags, Resources } from "../../examples/portals/src/customer/contract.ts";
import { type ContractOf, createPermissions } from "../src/index.ts";

type Customer = ContractOf<Resources, Flags, Attrs>;

describe("generated types", () => {
  it("name actions, types, attributes and flags", () => {
    const permissions = createPermissions<Customer>({ portal: "customer", baseUrl: "https://shop.test" });
    const owner = { __entity: { type: "User", id: "alice" } } as const;
    const order = { type: "Order", id: "7", attrs: { owner } } as const;
    const verdicts = [
      permissions.can("viewOrder"),
      permissions.can("viewOrder", "Order"),
      permissions.can("editOrder", order),
      // @ts-expect-error a misspelt action
      permissions.can("viewOrdr"),
      // @ts-expect-error an action of another type
      permissions.can("viewOrder", "Product"),
      // @ts-expect-error a resource of another type
      permissions.can("viewProduct", order),
      // @ts-expect-error an attribute of another type
      permissions.can("viewOrder", { type: "Order", id: "7", attrs: { owner: "alice" } }),
      // @ts-expect-error an unknown attribute
      permissions.can("viewOrder", { type: "Order", id: "7", attrs: { ownr: owner } }),
    ];
    expect(new Set(verdicts)).toEqual(new Set(["deny"]));
    const isNew: boolean | undefined = permissions.flag("new_checkout");
    // @ts-expect-error a value of another type
    const text: string | undefined = permissions.flag("new_checkout");
    expect([isNew, text]).toEqual([undefined, undefined]);
    // @ts-expect-error a misspelt flag
    permissions.flag("new_chekout");
  });
});
