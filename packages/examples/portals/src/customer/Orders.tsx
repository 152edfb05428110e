// The orders of the user's tenant. Each row offers what the gate allows for that order.
import { useState } from "react";
import { Link, useLoaderData, useRevalidator } from "react-router";

import { Dialog } from "../shell/Dialog.tsx";
import { money, moment } from "../shell/format.ts";
import { Can, cancelOrder, type Order, ORDERS, orderResource, portal } from "./portal.ts";

export function Orders() {
  const orders = useLoaderData<readonly Order[]>();
  return (
    <main id="main">
      <div className="head">
        <h1>Orders</h1>
        <Can action="POST" resource={ORDERS}>
          <Link className="button" to="/new-order">
            Place an order
          </Link>
        </Can>
      </div>
      {orders.length === 0 ? <p>There are no orders yet.</p> : <OrderTable orders={orders} />}
    </main>
  );
}

function OrderTable({ orders }: { readonly orders: readonly Order[] }) {
  return (
    <table className="cards">
      <thead>
        <tr>
          <th scope="col">Order</th>
          <th scope="col">Placed by</th>
          <th scope="col">Placed at</th>
          <th scope="col">Status</th>
          <th scope="col" className="number">
            Total
          </th>
          <th scope="col">
            <span className="hidden">Actions</span>
          </th>
        </tr>
      </thead>
      <tbody>
        {orders.map((order) => (
          <OrderRow key={order.id} order={order} />
        ))}
      </tbody>
    </table>
  );
}

function OrderRow({ order }: { readonly order: Order }) {
  const name = `order ${order.id}`;
  return (
    <tr>
      <th scope="row">
        <Can action="viewOrder" resource={orderResource(order)} fallback={order.id}>
          <Link to={`/orders/${order.id}`} aria-label={`View ${name}`}>
            {order.id}
          </Link>
        </Can>
      </th>
      <td data-label="Placed by">{order.owner}</td>
      <td data-label="Placed at">{moment(order.created_at)}</td>
      <td data-label="Status">
        <Status order={order} />
      </td>
      <td data-label="Total" className="number">
        {money(order.total, order.currency)}
      </td>
      <td className="actions">
        <CancelButton order={order} />
      </td>
    </tr>
  );
}

export function Status({ order }: { readonly order: Order }) {
  return <span className={`badge ${order.status}`}>{order.status}</span>;
}

/** Cancels an open order, if the gate allows it for this order. */
export function CancelButton({ order }: { readonly order: Order }) {
  const [isAsking, setAsking] = useState(false);
  const [problem, setProblem] = useState<string>();
  const revalidator = useRevalidator();
  if (order.status !== "open") return null;
  const cancel = () => {
    setAsking(false);
    cancelOrder(order.id).then(
      () => {
        portal.permissions.forget(orderResource(order));
        void revalidator.revalidate();
      },
      (error: unknown) => {
        setProblem((error as Error).message);
      },
    );
  };
  return (
    <Can action="cancelOrder" resource={orderResource(order)}>
      <button
        className="quiet"
        aria-label={`Cancel order ${order.id}`}
        onClick={() => {
          setAsking(true);
        }}
      >
        Cancel order
      </button>
      {problem !== undefined && <p role="alert">{problem}</p>}
      {isAsking && (
        <Dialog
          title={`Cancel order ${order.id}?`}
          confirm="Cancel the order"
          isDangerous
          onConfirm={cancel}
          onClose={() => {
            setAsking(false);
          }}
        >
          <p>It is not delivered any more. This cannot be undone.</p>
        </Dialog>
      )}
    </Can>
  );
}
