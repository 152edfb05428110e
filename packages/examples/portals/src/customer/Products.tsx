// The catalogue: the same for every tenant.
import { useLoaderData } from "react-router";

import { money } from "../shell/format.ts";
import type { Product } from "./portal.ts";

export function Products() {
  const products = useLoaderData<readonly Product[]>();
  return (
    <main id="main">
      <h1>Products</h1>
      <ul className="tiles">
        {products.map(({ id, name, price, currency }) => (
          <li key={id}>
            <strong>{name}</strong>
            <span>{money(price, currency)}</span>
          </li>
        ))}
      </ul>
    </main>
  );
}
