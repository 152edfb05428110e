import { createPermissions, type Permissions, type PermissionsOptions } from "@cedargate/rbac";
import { act, cleanup, render, screen, waitFor } from "@testing-library/react";
import { StrictMode, Suspense } from "react";
import { createRoot, hydrateRoot } from "react-dom/client";
import { createMemoryRouter, RouterProvider, useRouteError } from "react-router";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { FakeGate, snapshot } from "../../rbac/tests/gate.ts";
import { Can, PermissionsProvider, useCan, useFlag, useLoadedPermissions, usePermissions } from "../src/index.ts";
import { Guard, guard } from "../src/router.tsx";

let gate: FakeGate;

const make = (over: Partial<PermissionsOptions> = {}): Permissions =>
  createPermissions({ portal: "customer", baseUrl: "https://shop.test/api/v1/identity", fetch: gate.fetch, ...over });

const Buttons = () => {
  const mayCancel = useCan("cancelOrder", { type: "Order", id: "7" });
  return (
    <>
      <Can action="viewProduct" fallback={<p>no products</p>}>
        <p>products</p>
      </Can>
      {mayCancel && <button>cancel</button>}
      <p>{useFlag("new_checkout") === true ? "new" : "old"}</p>
    </>
  );
};

/** Every text that was ever on the page. */
const record = (root: Node): string[] => {
  const texts: string[] = [];
  new MutationObserver(() => texts.push(root.textContent ?? "")).observe(root, {
    childList: true,
    subtree: true,
    characterData: true,
  });
  return texts;
};

beforeEach(() => {
  gate = new FakeGate();
});

afterEach(cleanup);

describe("the first paint", () => {
  it("shows nothing that is not allowed, and then what is", async () => {
    const permissions = make();
    render(
      <StrictMode>
        <PermissionsProvider permissions={permissions}>
          <Buttons />
        </PermissionsProvider>
      </StrictMode>,
    );
    expect(document.body.textContent).toBe("no productsold");
    await screen.findByText("cancel");
    expect(screen.getByText("products")).toBeTruthy();
    expect(screen.getByText("new")).toBeTruthy();
  });

  it("never shows a button that the gate denies", async () => {
    gate.decide = () => "deny";
    const texts = record(document.body);
    render(
      <PermissionsProvider permissions={make()}>
        <Buttons />
      </PermissionsProvider>,
    );
    await screen.findByText("products");
    await waitFor(() => {
      expect(gate.count("POST")).toBe(1);
    });
    await act(() => Promise.resolve());
    expect(texts.length).toBeGreaterThan(0);
    expect(texts.join()).not.toContain("cancel");
  });

  it("starts one stream in StrictMode, and ends it with the page", async () => {
    const permissions = make();
    const { unmount } = render(
      <StrictMode>
        <PermissionsProvider permissions={permissions}>
          <Buttons />
        </PermissionsProvider>
      </StrictMode>,
    );
    await screen.findByText("cancel");
    await waitFor(() => {
      expect(gate.streams).toBe(1);
    });
    unmount();
    await waitFor(() => {
      expect(gate.streams).toBe(0);
    });
  });
});

describe("changes", () => {
  it("takes a button away when the gate says so, and brings no page of another user", async () => {
    render(
      <PermissionsProvider permissions={make()}>
        <Buttons />
      </PermissionsProvider>,
    );
    await screen.findByText("cancel");
    await waitFor(() => {
      expect(gate.streams).toBe(1);
    });
    gate.snapshot = snapshot({ revision: "r2", flags: {} });
    gate.decide = () => "deny";
    act(() => {
      gate.send({ revision: "r2" });
    });
    await waitFor(() => {
      expect(screen.queryByText("cancel")).toBeNull();
    });
    expect(screen.getByText("old")).toBeTruthy();
    gate.status = 401;
    act(() => {
      gate.send({ reason: "revoked" });
    });
    await screen.findByText("no products");
  });
});

describe("suspense", () => {
  it("waits for the first answer", async () => {
    const Loaded = () => <p>{useLoadedPermissions().allowed("viewProduct") ? "may" : "may not"}</p>;
    const texts = record(document.body);
    render(
      <PermissionsProvider permissions={make()}>
        <Suspense fallback={<p>waiting</p>}>
          <Loaded />
        </Suspense>
      </PermissionsProvider>,
    );
    expect(document.body.textContent).toBe("waiting");
    await screen.findByText("may");
    expect(texts.join()).not.toContain("may not");
  });

  it("does not wait for ever when the gate does not answer", async () => {
    gate.status = 0;
    const Loaded = () => <p>{useLoadedPermissions().allowed("viewProduct") ? "may" : "may not"}</p>;
    render(
      <PermissionsProvider permissions={make()}>
        <Suspense fallback={<p>waiting</p>}>
          <Loaded />
        </Suspense>
      </PermissionsProvider>,
    );
    await screen.findByText("may not");
  });
});

describe("hydration", () => {
  const hydrate = async (html: string, permissions: Permissions): Promise<string[]> => {
    const complaints: string[] = [];
    vi.spyOn(console, "error").mockImplementation((...texts) => complaints.push(texts.join(" ")));
    const root = document.body.appendChild(document.createElement("div"));
    root.innerHTML = html;
    const page = (
      <PermissionsProvider permissions={permissions}>
        <Buttons />
      </PermissionsProvider>
    );
    const onRecoverableError = (error: unknown) => complaints.push(String(error));
    await act(async () => {
      hydrateRoot(root, page, { onRecoverableError });
      await Promise.resolve();
    });
    root.remove();
    return complaints;
  };

  it("fits what the server rendered with its snapshot", async () => {
    const handed = snapshot();
    const html = "<p>products</p><p>new</p>";
    expect(await hydrate(html, make({ snapshot: handed }))).toEqual([]);
  });

  it("fits what the server rendered without one", async () => {
    expect(await hydrate("<p>no products</p><p>old</p>", make())).toEqual([]);
  });

  it("puts right what a server rendered for a snapshot that is over", async () => {
    const permissions = make({ snapshot: snapshot({ expires_at: "1970-01-01T00:00:01Z" }) });
    gate.status = 401;
    const root = document.body.appendChild(document.createElement("div"));
    vi.spyOn(console, "error").mockImplementation(() => undefined);
    root.innerHTML = "<p>products</p><p>new</p>";
    await act(async () => {
      hydrateRoot(
        root,
        <PermissionsProvider permissions={permissions}>
          <Buttons />
        </PermissionsProvider>,
        { onRecoverableError: () => undefined },
      );
      await Promise.resolve();
    });
    expect(root.textContent).toBe("no productsold");
    root.remove();
  });
});

describe("routes", () => {
  const Refused = () => {
    const error = useRouteError() as { status?: number };
    return <p>refused {error.status}</p>;
  };
  const page = (permissions: Permissions, action: string, id?: string) => {
    const loader = vi.fn(() => "data");
    const resource = id === undefined ? undefined : () => ({ type: "Order", id });
    const router = createMemoryRouter([
      {
        path: "/",
        loader: guard(permissions, action, resource, loader),
        element: <p>secret</p>,
        errorElement: <Refused />,
        hydrateFallbackElement: <p>waiting</p>,
      },
    ]);
    render(
      <PermissionsProvider permissions={permissions}>
        <RouterProvider router={router} />
      </PermissionsProvider>,
    );
    return loader;
  };

  it("open for what is allowed", async () => {
    const loader = page(make(), "viewProduct");
    await screen.findByText("secret");
    expect(loader).toHaveBeenCalled();
  });

  it.each([
    ["an unknown action", "nothing", undefined, 200, 403],
    ["what is only conditional", "viewOrder", undefined, 200, 403],
    ["what is denied for one resource", "viewOrder", "8", 200, 403],
    ["a user without a session", "viewProduct", undefined, 401, 401],
    ["a gate that does not answer", "viewProduct", undefined, 503, 403],
  ])("stay shut for %s, and load no data", async (_, action, id, status, expected) => {
    gate.status = status;
    gate.decide = () => "deny";
    const texts = record(document.body);
    const loader = page(make(), action, id);
    await screen.findByText(`refused ${expected.toString()}`);
    expect(loader).not.toHaveBeenCalled();
    expect(texts.join()).not.toContain("secret");
  });

  it("open for one resource that is allowed", async () => {
    page(make(), "viewOrder", "7");
    await screen.findByText("secret");
  });

  it("are left when a change takes the permission away", async () => {
    const permissions = make();
    render(
      <PermissionsProvider permissions={permissions}>
        <Guard action="viewProduct" fallback={<p>refused</p>}>
          <p>secret</p>
        </Guard>
      </PermissionsProvider>,
    );
    await screen.findByText("secret");
    gate.snapshot = snapshot({ revision: "r2", actions: {} });
    await act(() => permissions.load());
    expect(document.body.textContent).toBe("refused");
  });
});

it("renders a row again only when its own answer changes", async () => {
  const permissions = make();
  const renders: string[] = [];
  const Row = ({ id }: { readonly id: string }) => {
    const may = useCan("cancelOrder", { type: "Order", id });
    renders.push(`${id} ${String(may)}`);
    return <p>{may ? `cancel ${id}` : id}</p>;
  };
  const page = (rows: readonly string[]) => (
    <PermissionsProvider permissions={permissions}>
      {rows.map((id) => (
        <Row key={id} id={id} />
      ))}
    </PermissionsProvider>
  );
  const { rerender } = render(page(["1", "2"]));
  await screen.findByText("cancel 2");
  renders.length = 0;
  gate.decide = (id) => (id === "1" ? "deny" : "allow");
  act(() => {
    permissions.forget({ type: "Order", id: "1" });
  });
  await waitFor(() => {
    expect(screen.queryByText("cancel 1")).toBeNull();
  });
  expect(renders).toEqual(["1 false"]);
  rerender(page(["1", "2", "3"]));
  await screen.findByText("cancel 3");
  // each once for its parent, and the new one again for its answer
  expect(renders).toEqual(["1 false", "1 false", "2 true", "3 false", "3 true"]);
});

it("does not keep a deserted page's session alive", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance", "Date"] });
  gate.hasEvents = false;
  const permissions = make();
  const stop = permissions.start();
  await vi.advanceTimersByTimeAsync(600_000);
  const asked = gate.count("GET");
  expect(asked).toBeGreaterThan(5);
  await vi.advanceTimersByTimeAsync(600_000);
  expect(gate.count("GET")).toBe(asked);
  window.dispatchEvent(new KeyboardEvent("keydown"));
  await vi.advanceTimersByTimeAsync(1);
  expect(gate.count("GET")).toBe(asked + 1);
  stop();
  vi.useRealTimers();
});

it("needs a provider", () => {
  vi.spyOn(console, "error").mockImplementation(() => undefined);
  const Lost = () => <p>{usePermissions().portal}</p>;
  expect(() => render(<Lost />)).toThrow("PermissionsProvider");
});

it("renders outside of the testing library, too", async () => {
  const root = document.body.appendChild(document.createElement("div"));
  const app = createRoot(root);
  await act(async () => {
    app.render(
      <PermissionsProvider permissions={make()}>
        <Buttons />
      </PermissionsProvider>,
    );
    await Promise.resolve();
  });
  await waitFor(() => {
    expect(root.textContent).toContain("cancel");
  });
  act(() => {
    app.unmount();
  });
  root.remove();
});
