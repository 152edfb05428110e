// The accounts of the administrator's tenant.
import { Link, useLoaderData } from "react-router";

import { type Account, accountResource, Can } from "./portal.ts";

export function Accounts() {
  const accounts = useLoaderData<readonly Account[]>();
  return (
    <main id="main">
      <h1>Accounts</h1>
      <table className="cards">
        <thead>
          <tr>
            <th scope="col">User</th>
            <th scope="col">Email</th>
            <th scope="col">Tenant</th>
            <th scope="col">Status</th>
          </tr>
        </thead>
        <tbody>
          {accounts.map((account) => (
            <tr key={account.id}>
              <th scope="row">
                <Can action="viewAccount" resource={accountResource(account)} fallback={account.user}>
                  <Link to={`/accounts/${account.id}`}>{account.user}</Link>
                </Can>
              </th>
              <td data-label="Email">{account.email}</td>
              <td data-label="Tenant">{account.tenant}</td>
              <td data-label="Status">
                <span className={`badge ${account.status}`}>{account.status}</span>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </main>
  );
}
