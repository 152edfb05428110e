"""The demo shop's back end with FastAPI, behind the gate.

The gate decides who reaches which path (`packages/examples/gate/policies`). This app loads an order or an account and asks the gate
about it, with the attributes that only the app knows. Data is in memory: the shop begins anew at every start.

`contract` is generated of the portals' schemas (`cedargate schema types --py`), so that a type checker finds an action or an
attribute that no policy knows.

    uvicorn shop_api:app --port 3000
"""

from __future__ import annotations

import datetime as dt
import itertools
import threading
from typing import Annotated, Any, Literal, TypeAlias

from contract import admin, customer
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from cedargate import Entity, Gate, Query
from cedargate.fastapi import CurrentGate, CurrentIdentity, Permitted, install, require
from fastapi import Depends, FastAPI, HTTPException, Request

gate = Gate.from_environment(public=["/up"], portals={"customer": "/portal/customer", "admin": "/portal/admin"})
app = FastAPI(title="demo shop", docs_url=None, redoc_url=None, openapi_url=None)
install(app, gate)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Item(Strict):
    product: str
    quantity: int = Field(ge=1, le=100)


class NewOrder(Strict):
    items: list[Item] = Field(min_length=1, max_length=50)


class Order(BaseModel):
    id: str
    tenant: str
    owner: str
    status: Literal["open", "cancelled"]
    items: list[Item]
    total: int
    currency: str
    created_at: str

    def entity(self) -> Entity:
        """Return the order as the policies see it."""
        attrs: customer.OrderAttrs = {
            "tenant": {"__entity": {"type": "Tenant", "id": self.tenant}},
            "owner": {"__entity": {"type": "User", "id": self.owner}},
            "status": self.status,
        }
        return Entity("Order", self.id, attrs)


class Product(BaseModel):
    id: str
    name: str
    price: int
    currency: str


class Account(BaseModel):
    id: str
    user: str
    tenant: str
    email: str
    status: Literal["active", "suspended"]

    def entity(self) -> Entity:
        """Return the account as the policies see it."""
        attrs: admin.AccountAttrs = {
            "tenant": {"__entity": {"type": "Tenant", "id": self.tenant}},
            "user": {"__entity": {"type": "User", "id": self.user}},
        }
        return Entity("Account", self.id, attrs)


CURRENCY = "EUR"
PRODUCTS = {
    product.id: product
    for product in (
        Product(id="tea", name="Tea", price=450, currency=CURRENCY),
        Product(id="coffee", name="Coffee", price=700, currency=CURRENCY),
        Product(id="cup", name="Cup", price=1200, currency=CURRENCY),
    )
}


def total(items: list[Item]) -> int:
    """Return the price of an order in cents; 422 for a product that the shop does not have."""
    unknown = [item.product for item in items if item.product not in PRODUCTS]
    if unknown:
        raise HTTPException(422, f"there is no product {unknown[0]!r}")
    return sum(PRODUCTS[item.product].price * item.quantity for item in items)


# the actions of this app, checked against the portals' schemas
VIEW_ORDER: customer.Action = "viewOrder"
EDIT_ORDER: customer.Action = "editOrder"
CANCEL_ORDER: customer.Action = "cancelOrder"
VIEW_PRODUCT: customer.Action = "viewProduct"
VIEW_ACCOUNT: admin.Action = "viewAccount"
SUSPEND_ACCOUNT: admin.Action = "suspendAccount"


class Shop:
    """The shop's data. `lock` is held for each change."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.numbers = itertools.count(9)
        tea = [Item(product="tea", quantity=2)]
        began = "2026-01-01T09:00:00Z"
        usual: dict[str, Any] = {"status": "open", "items": tea, "total": total(tea), "currency": CURRENCY, "created_at": began}
        orders = [Order(id="7", tenant="acme", owner="alice", **usual), Order(id="8", tenant="globex", owner="gina", **usual)]
        self.orders = {order.id: order for order in orders}
        accounts = [
            Account(id="a1", user="alice", tenant="acme", email="alice@acme.example", status="active"),
            Account(id="a2", user="ada", tenant="acme", email="ada@acme.example", status="active"),
            Account(id="g1", user="gina", tenant="globex", email="gina@globex.example", status="active"),
        ]
        self.accounts = {account.id: account for account in accounts}


shop = Shop()


@app.exception_handler(StarletteHTTPException)
async def problem(_: Request, error: StarletteHTTPException) -> JSONResponse:
    """Answer errors as problem+json."""
    body = {"title": str(error.detail), "status": error.status_code}
    return JSONResponse(body, error.status_code, headers=error.headers, media_type="application/problem+json")


@app.exception_handler(RequestValidationError)
async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
    """Name the place of a mistake in a body, and never its value."""
    place = ".".join(str(part) for part in error.errors()[0]["loc"])
    body = {"title": f"the body is not an order: {place}", "status": 422}
    return JSONResponse(body, 422, media_type="application/problem+json")


@app.get("/up")
async def up() -> dict[str, str]:
    """Answer the probe of the platform."""
    return {}


async def load_order(order_id: str) -> Order:
    """Return the order; 404 if there is none."""
    order = shop.orders.get(order_id)
    if order is None:
        raise HTTPException(404, "there is no such order")
    return order


LoadedOrder: TypeAlias = Annotated[Order, Depends(load_order)]


async def order_entity(order: LoadedOrder) -> Entity:
    """Return the order of the path as the policies see it."""
    return order.entity()


@app.get("/portal/customer/orders")
async def orders(caller: CurrentIdentity, asked: CurrentGate) -> dict[str, list[Order]]:
    """List the orders that the caller may view: one query of the gate for all of them."""
    mine = [order for order in shop.orders.values() if order.tenant == caller.tenant]
    queries = [Query(VIEW_ORDER, order.entity()) for order in mine]
    decisions = await asked.async_client.authorize_batch(queries, identity=caller)
    return {"orders": [order for order, decision in zip(mine, decisions, strict=True) if decision]}


@app.post("/portal/customer/orders", status_code=201)
async def create(new: NewOrder, caller: CurrentIdentity) -> Order:
    """Place an order. The gate has decided that the caller may."""
    if caller.tenant is None:
        raise HTTPException(403, "an order belongs to a tenant")
    price = total(new.items)
    with shop.lock:
        order = Order(
            id=str(next(shop.numbers)),
            tenant=caller.tenant,
            owner=caller.subject,
            status="open",
            items=new.items,
            total=price,
            currency=CURRENCY,
            created_at=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        shop.orders[order.id] = order
    return order


@app.get("/portal/customer/orders/{order_id}", dependencies=[Permitted(VIEW_ORDER, order_entity)])
async def order(loaded: LoadedOrder) -> Order:
    """Return one order."""
    return loaded


@app.put("/portal/customer/orders/{order_id}", dependencies=[Permitted(EDIT_ORDER, order_entity)])
async def edit(loaded: LoadedOrder, new: NewOrder) -> Order:
    """Replace the items of an order."""
    edited = loaded.model_copy(update={"items": new.items, "total": total(new.items)})
    with shop.lock:
        shop.orders[loaded.id] = edited
    return edited


@app.delete("/portal/customer/orders/{order_id}", status_code=204, dependencies=[Permitted(CANCEL_ORDER, order_entity)])
async def cancel(loaded: LoadedOrder) -> Response:
    """Cancel an order; it stays in the list."""
    with shop.lock:
        shop.orders[loaded.id] = loaded.model_copy(update={"status": "cancelled"})
    return Response(status_code=204)


@app.get("/portal/customer/products")
async def products() -> dict[str, list[Product]]:
    """List the catalogue, the same for every caller."""
    return {"products": list(PRODUCTS.values())}


@app.get("/portal/customer/products/{product_id}")
async def product(product_id: str, request: Request) -> Product:
    """Return one product."""
    found = PRODUCTS.get(product_id)
    if found is None:
        raise HTTPException(404, "there is no such product")
    await require(request, VIEW_PRODUCT, Entity("Product", found.id))
    return found


async def load_account(account_id: str) -> Account:
    """Return the account; 404 if there is none."""
    account = shop.accounts.get(account_id)
    if account is None:
        raise HTTPException(404, "there is no such account")
    return account


LoadedAccount: TypeAlias = Annotated[Account, Depends(load_account)]


async def account_entity(account: LoadedAccount) -> Entity:
    """Return the account of the path as the policies see it."""
    return account.entity()


@app.get("/portal/admin/accounts")
async def accounts(caller: CurrentIdentity, asked: CurrentGate) -> dict[str, list[Account]]:
    """List the accounts that the caller may view."""
    known = [account for account in shop.accounts.values() if account.tenant == caller.tenant]
    queries = [Query(VIEW_ACCOUNT, account.entity()) for account in known]
    decisions = await asked.async_client.authorize_batch(queries, identity=caller)
    return {"accounts": [account for account, decision in zip(known, decisions, strict=True) if decision]}


@app.get("/portal/admin/accounts/{account_id}", dependencies=[Permitted(VIEW_ACCOUNT, account_entity)])
async def account(loaded: LoadedAccount) -> Account:
    """Return one account."""
    return loaded


@app.post("/portal/admin/accounts/{account_id}/suspend", dependencies=[Permitted(SUSPEND_ACCOUNT, account_entity)])
async def suspend(loaded: LoadedAccount) -> Account:
    """Suspend an account."""
    suspended = loaded.model_copy(update={"status": "suspended"})
    with shop.lock:
        shop.accounts[loaded.id] = suspended
    return suspended
