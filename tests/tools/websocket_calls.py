"""Both ends of real WebSockets through the gate: `serve`, or `call URL TOKEN [CA_FILE]` with a URL up to `/portal/p`.

The app prints its port. The client prints `ok NAME` for each thing that held, and ends with a traceback otherwise.
"""

import asyncio
import http
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import PerMessageDeflate

MAX = 8 * 1024 * 1024


def say(line):
    print(line, flush=True)


async def app(socket):
    if socket.request.path.endswith("/bye"):
        await socket.close(4321, "that is all")
        return
    if socket.request.path.endswith("/who"):
        await socket.send(socket.request.headers.get("x-forwarded-user", "?"))
    try:
        async for message in socket:
            await socket.send(message)
    except ConnectionClosed:
        pass
    say(f"closed {socket.request.path} {socket.close_code}")


def refuse(connection, request):
    if request.path.endswith("/refuse"):
        return connection.respond(http.HTTPStatus.CONFLICT, "the app says no\n")
    return None


def choose(connection, offered):
    return "v2.chat" if "v2.chat" in offered else None


async def serve():
    options = {"select_subprotocol": choose, "process_request": refuse, "max_size": MAX}
    async with listen(app, "127.0.0.1", 0, **options) as server:
        say(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().create_future()


async def call(url, token, ca=None):
    bearer = {"Authorization": "Bearer " + token}
    tls = {"ssl": ssl.create_default_context(cafile=ca), "server_hostname": "shop.test"} if ca else {}

    def dial(path, headers=bearer, **more):
        return connect(url + path, additional_headers=headers, max_size=MAX, proxy=None, open_timeout=10, **tls, **more)

    async def answer(socket):
        return await asyncio.wait_for(socket.recv(), 10)

    async with dial("/ws", subprotocols=["v1.chat", "v2.chat"]) as socket:
        assert socket.subprotocol == "v2.chat", socket.subprotocol
        say("ok subprotocol")
        assert any(isinstance(e, PerMessageDeflate) for e in socket.protocol.extensions), socket.protocol.extensions
        say("ok deflate")
        for message in ("hello", "", "\u00e9\U0001f600" * 1000, b"\x00\xff", b"", bytes(range(256)) * 4096):
            await socket.send(message)
            assert await answer(socket) == message
        say("ok echo")
        await asyncio.wait_for(await socket.ping(b"are you there"), 10)
        say("ok ping")
        await socket.send(["pie", "ces", " of", " one"])
        assert await answer(socket) == "pieces of one"
        say("ok fragments")
        await socket.close(4001, "done here")
        assert socket.close_code == 4001, socket.close_code
        say("ok close")
    async with dial("/ws/bye") as socket:
        try:
            await answer(socket)
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4321, "that is all"), closed
    say("ok close-by-app")
    async with dial("/ws/who", compression=None, headers={**bearer, "X-Forwarded-User": "root"}) as socket:
        assert await answer(socket) == "alice"
        assert not socket.protocol.extensions
    say("ok identity")
    for path, headers, status, body in (
        ("/closed/ws", bearer, 403, b"forbidden"),
        ("/ws", {}, 401, b"token_missing"),
        ("/ws", {"Authorization": "Bearer a.b.c"}, 401, b"token_invalid"),
        ("/x/../ws", bearer, 400, b"request_invalid"),
        ("/ws/refuse", bearer, 409, b"the app says no"),
    ):
        try:
            async with dial(path, headers=headers):
                raise AssertionError(f"{path} opened a tunnel")
        except InvalidStatus as refused:
            assert refused.response.status_code == status, (path, refused.response)
            assert body in refused.response.body, (path, refused.response)
    say("ok refusals")
    await asyncio.gather(*(one_of_many(dial, n) for n in range(50)))
    say("ok many")


async def one_of_many(dial, n):
    async with dial("/ws") as socket:
        for turn in range(5):
            await socket.send(f"{n} {turn}")
            assert await asyncio.wait_for(socket.recv(), 20) == f"{n} {turn}"


if __name__ == "__main__":
    asyncio.run({"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:]))
