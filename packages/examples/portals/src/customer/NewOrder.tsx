// A new order. The flag `new_checkout` shows the sum while the user chooses; edit it in portal.yaml, and the page changes.
import { type SyntheticEvent, useState } from "react";
import { useLoaderData, useNavigate } from "react-router";

import { money } from "../shell/format.ts";
import { type Item, placeOrder, type Product, useFlag } from "./portal.ts";

const QUANTITY_MAX = 99;

interface QuantityProps {
  readonly product: Product;
  readonly initial: number;
}

/** How many of one product. */
export function Quantity({ product, initial }: QuantityProps) {
  return (
    <label className="quantity">
      <span>{product.name}</span>
      <span className="small">{money(product.price, product.currency)}</span>
      <input
        type="number"
        name={product.id}
        min={0}
        max={QUANTITY_MAX}
        step={1}
        defaultValue={initial}
        inputMode="numeric"
      />
    </label>
  );
}

/** What the form orders. */
export function itemsOf(form: HTMLFormElement, products: readonly Product[]): Item[] {
  const data = new FormData(form);
  return products
    .map(({ id }) => ({ product: id, quantity: Math.trunc(Number(data.get(id))) }))
    .filter(({ quantity }) => quantity > 0 && quantity <= QUANTITY_MAX);
}

const totalOf = (items: readonly Item[], products: readonly Product[]) =>
  items.reduce((sum, { product, quantity }) => {
    const price = products.find(({ id }) => id === product)?.price ?? 0;
    return sum + price * quantity;
  }, 0);

export function NewOrder() {
  const products = useLoaderData<readonly Product[]>();
  const isNew = useFlag("new_checkout") === true;
  const navigate = useNavigate();
  const [items, setItems] = useState<readonly Item[]>([]);
  const [problem, setProblem] = useState<string>();
  const read = (form: HTMLFormElement) => {
    setItems(itemsOf(form, products));
  };
  const submit = (event: SyntheticEvent<HTMLFormElement>) => {
    event.preventDefault();
    const chosen = itemsOf(event.currentTarget, products);
    if (chosen.length === 0) {
      setProblem("Choose at least one product.");
      return;
    }
    placeOrder(chosen).then(
      ({ id }) => navigate(`/orders/${id}`),
      (error: unknown) => {
        setProblem((error as Error).message);
      },
    );
  };
  const currency = products[0]?.currency ?? "EUR";
  return (
    <main id="main">
      <h1>{isNew ? "Checkout" : "Place an order"}</h1>
      <form
        className={isNew ? "checkout" : ""}
        onSubmit={submit}
        onChange={(event) => {
          read(event.currentTarget);
        }}
      >
        <fieldset>
          <legend>Products</legend>
          {products.map((product) => (
            <Quantity key={product.id} product={product} initial={0} />
          ))}
        </fieldset>
        <div className={isNew ? "summary" : ""}>
          {isNew && <Summary items={items} total={money(totalOf(items, products), currency)} />}
          {problem !== undefined && (
            <p className="alert" role="alert">
              {problem}
            </p>
          )}
          <button>Order now</button>
        </div>
      </form>
    </main>
  );
}

interface SummaryProps {
  readonly items: readonly Item[];
  readonly total: string;
}

function Summary({ items, total }: SummaryProps) {
  const count = items.reduce((sum, { quantity }) => sum + quantity, 0);
  return (
    <>
      <h2>Your order</h2>
      <p aria-live="polite">
        {count === 1 ? "1 item" : `${count} items`}, <strong>{total}</strong>
      </p>
    </>
  );
}
