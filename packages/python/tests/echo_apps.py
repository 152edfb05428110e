"""Apps that answer with the caller, for real servers: `asgi`, `wsgi` (threads, and processes that are forked after the app is loaded)."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

from cedargate import Entity, Gate
from cedargate.fastapi import CurrentGate, CurrentIdentity, MaybeIdentity, Permitted, install, require
from cedargate.wsgi import GateMiddleware
from fastapi import Depends, FastAPI, Request, WebSocket

PORTALS = {"customer": "/portal/customer", "admin": "/portal/admin"}
gate = Gate(
    os.environ["CEDARGATE_APP_URL"],
    issuer=os.environ["CEDARGATE_APP_ISSUER"],
    audience=os.environ["CEDARGATE_APP_AUDIENCE"],
    public=["/up", "/portal/customer/assets/"],
    portals=PORTALS,
    # twelve threads ask at once, and other tests share the machine
    timeout=30,
)


def order(owner: str) -> Entity:
    return Entity("Order", "7", {"tenant": Entity("Tenant", "acme"), "owner": Entity("User", owner), "status": "open"})


asgi = FastAPI()
install(asgi, gate)


@asgi.get("/up")
def up() -> dict[str, str]:
    return {}


def answer(request: Request, subject: str | None) -> dict[str, Any]:
    headers = sorted(name for name in request.headers if name.startswith(("x-forwarded-user", "x-cedargate", "x-forwarded-groups")))
    return {"subject": subject, "headers": headers}


@asgi.get("/portal/customer/who")
async def who(request: Request, caller: CurrentIdentity) -> dict[str, Any]:
    return answer(request, caller.subject)


@asgi.api_route("/portal/customer/assets/who", methods=["GET", "POST"])
async def public(request: Request, caller: MaybeIdentity) -> dict[str, Any]:
    return answer(request, caller.subject if caller else None)


@asgi.get("/portal/customer/assets/private")
async def private(request: Request, caller: CurrentIdentity) -> dict[str, Any]:
    return answer(request, caller.subject)


async def load_order(owner: str) -> Entity:
    return order(owner)


Editable = Annotated[Any, Permitted("editOrder", load_order)]


@asgi.get("/portal/customer/orders/{owner}")
async def edit(owner: str, _: Editable) -> dict[str, str]:
    return {"edited": owner}


@asgi.get("/portal/customer/products/tea", dependencies=[Permitted("viewProduct", Entity("Product", "tea"))])
async def product() -> dict[str, str]:
    return {"product": "tea"}


@asgi.get("/portal/customer/required/{owner}")
async def required(request: Request, owner: str) -> dict[str, Any]:
    decision = await require(request, "editOrder", order(owner))
    return {"policies": [policy.id for policy in decision.policies]}


@asgi.get("/portal/customer/blocking/{owner}")
def blocking(owner: str, caller: CurrentIdentity, asked: CurrentGate) -> dict[str, bool]:
    return {"allowed": asked.client.authorize("editOrder", order(owner), identity=caller).allowed}


def mistake() -> str:
    return 'Order::"7"'


@asgi.get("/portal/customer/mistaken", dependencies=[Permitted("viewOrder", mistake)])
async def mistaken() -> dict[str, str]:
    return {}


@asgi.websocket("/portal/customer/socket")
async def socket(websocket: WebSocket, caller: CurrentIdentity) -> None:
    await websocket.accept()
    await websocket.send_text(caller.subject)
    await websocket.close()


without_middleware = FastAPI()


@without_middleware.get("/portal/customer/who")
async def unproven(caller: CurrentIdentity, _: Annotated[None, Depends(lambda: None)]) -> str:
    return caller.subject


def _wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    caller = environ["cedargate"]
    path = environ["PATH_INFO"]
    body: dict[str, Any] = {"subject": caller.subject if caller else None, "pid": os.getpid()}
    body["headers"] = sorted(name for name in environ if name.startswith(("HTTP_X_FORWARDED_USER", "HTTP_X_CEDARGATE")))
    if path.startswith("/portal/customer/orders/"):
        owner = path.rsplit("/", 1)[1]
        body["allowed"] = environ["cedargate.gate"].client.authorize("editOrder", order(owner), identity=caller).allowed
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]


wsgi = GateMiddleware(_wsgi, gate)
