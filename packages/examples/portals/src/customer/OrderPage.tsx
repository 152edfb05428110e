// One order: its items, and the changes that the gate allows for it.
import { type SyntheticEvent, useState } from "react";
import { Link, useLoaderData, useRevalidator } from "react-router";

import { money, moment } from "../shell/format.ts";
import { itemsOf, Quantity } from "./NewOrder.tsx";
import { CancelButton, Status } from "./Orders.tsx";
import { Can, editOrder, type Order, orderResource, type Product } from "./portal.ts";

interface Detail {
  readonly order: Order;
  readonly products: readonly Product[];
}

export function OrderPage() {
  const { order, products } = useLoaderData<Detail>();
  const [isEditing, setEditing] = useState(false);
  const resource = orderResource(order);
  return (
    <main id="main">
      <p>
        <Link to="/orders">All orders</Link>
      </p>
      <div className="head">
        <h1>Order {order.id}</h1>
        <div className="actions">
          {order.status === "open" && !isEditing && (
            <Can action="editOrder" resource={resource}>
              <button
                onClick={() => {
                  setEditing(true);
                }}
              >
                Edit
              </button>
            </Can>
          )}
          <CancelButton order={order} />
        </div>
      </div>
      <dl className="facts">
        <dt>Status</dt>
        <dd>
          <Status order={order} />
        </dd>
        <dt>Placed by</dt>
        <dd>
          {order.owner} of {order.tenant}
        </dd>
        <dt>Placed at</dt>
        <dd>{moment(order.created_at)}</dd>
        <dt>Total</dt>
        <dd>{money(order.total, order.currency)}</dd>
      </dl>
      <h2>Items</h2>
      <Items order={order} products={products} isEditing={isEditing} onDone={setEditing} />
    </main>
  );
}

interface ItemsProps extends Detail {
  readonly isEditing: boolean;
  readonly onDone: (isEditing: boolean) => void;
}

function Items({ order, products, isEditing, onDone }: ItemsProps) {
  const nameOf = (id: string) => products.find((product) => product.id === id)?.name ?? id;
  const list = (
    <ul className="items">
      {order.items.map(({ product, quantity }) => (
        <li key={product}>
          {quantity} × {nameOf(product)}
        </li>
      ))}
    </ul>
  );
  if (!isEditing) return list;
  // what the gate takes away while the form is open goes at once
  return (
    <Can action="editOrder" resource={orderResource(order)} fallback={list}>
      <EditForm order={order} products={products} onDone={onDone} />
    </Can>
  );
}

function EditForm({ order, products, onDone }: Omit<ItemsProps, "isEditing">) {
  const [problem, setProblem] = useState<string>();
  const revalidator = useRevalidator();
  const save = (event: SyntheticEvent<HTMLFormElement>) => {
    event.preventDefault();
    editOrder(order.id, itemsOf(event.currentTarget, products)).then(
      () => {
        onDone(false);
        void revalidator.revalidate();
      },
      (error: unknown) => {
        setProblem((error as Error).message);
      },
    );
  };
  return (
    <form onSubmit={save}>
      {products.map((product) => (
        <Quantity
          key={product.id}
          product={product}
          initial={order.items.find((item) => item.product === product.id)?.quantity ?? 0}
        />
      ))}
      {problem !== undefined && (
        <p className="alert" role="alert">
          {problem}
        </p>
      )}
      <div className="actions">
        <button
          type="button"
          className="quiet"
          onClick={() => {
            onDone(false);
          }}
        >
          Discard
        </button>
        <button>Save</button>
      </div>
    </form>
  );
}
