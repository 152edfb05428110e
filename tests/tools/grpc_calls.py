"""Both ends of real gRPC calls through the gate: `serve`, or `call ADDRESS TOKEN [CA_FILE]`, or `down ADDRESS TOKEN`.

The app prints its port, then a line for every call that ended before it was answered. The client prints `ok NAME`
for each thing that held, and ends with a traceback at the first that did not. Messages are bytes: no generated code.
"""

import sys
import threading
from concurrent import futures

import grpc

BASE = "/portal/p/echo.Echo/"
LARGE = 4 * 1024 * 1024
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def say(line):
    """One write for the whole line: threads of the app say something at the same time."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class App(grpc.GenericRpcHandler):
    def service(self, details):
        name = details.method.rsplit("/", 1)[1]
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Hang": grpc.unary_stream_rpc_method_handler(self.hang),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Endless": grpc.unary_stream_rpc_method_handler(self.endless),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "FailLate": grpc.unary_stream_rpc_method_handler(self.fail_late),
        }
        return handlers.get(name)

    def unary(self, request, context):
        seen = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last", "2"), ("x-bytes-bin", b"\x00\xff")))
        if request == b"who":
            return "|".join(seen.get(n, "?") for n in ("x-forwarded-user", "x-own", "authorization")).encode()
        return request

    def fail(self, request, context):
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100% \u00e9")

    def hang(self, request, context):
        had_deadline = context.time_remaining() is not None
        yield from self.first_then_silence(context, f"hang {request.decode()} had-deadline={had_deadline}")

    def count(self, request, context):
        for n in range(int(request)):
            yield str(n).encode()

    def endless(self, request, context):
        yield from self.first_then_silence(context, f"endless {request.decode()}")

    def first_then_silence(self, context, call):
        """Answers once, then waits. The callback tells of the end: grpc does not resume a generator whose call ended while it was sending."""
        gave_up = threading.Event()
        ended = threading.Event()

        def end():
            say(f"{'gave up' if gave_up.is_set() else 'ended'} {call}")
            ended.set()

        context.add_callback(end)
        yield b"first"
        if not ended.wait(30):
            gave_up.set()

    def sum(self, requests, context):
        return str(sum(int(r) for r in requests)).encode()

    def chat(self, requests, context):
        for request in requests:
            yield b"re: " + request

    def fail_late(self, request, context):
        yield b"one"
        yield b"two"
        context.abort(grpc.StatusCode.DATA_LOSS, "the third is gone")


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(16), options=OPTIONS)
    server.add_generic_rpc_handlers((App(),))
    say(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


def refused(call, code, details=None):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        assert details is None or error.details() == details, error.details()
        return error
    raise AssertionError(f"expected {code}")


def channel_to(address, ca):
    if ca is None:
        return grpc.insecure_channel(address, options=OPTIONS)
    with open(ca, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    name = [("grpc.ssl_target_name_override", "shop.test")]
    return grpc.secure_channel(address, credentials, options=OPTIONS + name)


def interleaved(channel, metadata):
    """Each answer is awaited before the next message is sent."""
    ready = threading.Semaphore(1)

    def messages():
        for n in range(20):
            assert ready.acquire(timeout=10), "no answer came before the next message"
            yield str(n).encode()

    got = []
    for answer in channel.stream_stream(BASE + "Chat")(messages(), metadata=metadata, timeout=20):
        got.append(answer)
        ready.release()
    assert got == [b"re: %d" % n for n in range(20)], got


def exceed_deadline(hang, metadata):
    """Lets a call exceed its deadline after the app began it. A busy machine needs more than the first deadline for that."""
    for deadline in (0.5, 1, 2, 4, 8, 16):
        answers = hang(b"deadline", metadata=metadata, timeout=deadline)
        began = []
        refused(lambda: began.extend(answers), grpc.StatusCode.DEADLINE_EXCEEDED)
        if began:
            return
    raise AssertionError("the app began no call within its deadline")


def call(address, token, ca=None):
    bearer = (("authorization", "Bearer " + token), ("x-own", "mine"), ("x-forwarded-user", "root"))
    with channel_to(address, ca) as channel:
        unary = lambda name: channel.unary_unary(BASE + name)
        answer, ended = unary("Unary").with_call(b"hello", metadata=bearer, timeout=20)
        assert answer == b"hello"
        assert dict(ended.initial_metadata())["x-first"] == "1"
        assert dict(ended.trailing_metadata())["x-last"] == "2"
        assert dict(ended.trailing_metadata())["x-bytes-bin"] == b"\x00\xff"
        say("ok unary")
        assert unary("Unary")(b"who", metadata=bearer, timeout=20) == b"alice|mine|?"
        say("ok identity")
        assert unary("Unary")(b"", metadata=bearer, timeout=20) == b""
        say("ok empty")
        got = list(channel.unary_stream(BASE + "Count")(b"50", metadata=bearer, timeout=20))
        assert got == [str(n).encode() for n in range(50)], got
        say("ok server-streaming")
        assert list(channel.unary_stream(BASE + "Count")(b"0", metadata=bearer, timeout=20)) == []
        say("ok empty-stream")
        numbers = (str(n).encode() for n in range(101))
        assert channel.stream_unary(BASE + "Sum")(numbers, metadata=bearer, timeout=20) == b"5050"
        say("ok client-streaming")
        interleaved(channel, bearer)
        say("ok bidirectional")
        error = refused(lambda: unary("Fail")(b"", metadata=bearer, timeout=20), grpc.StatusCode.NOT_FOUND, "no such thing: 100% \u00e9")
        assert dict(error.trailing_metadata())["x-why"] == "because"
        say("ok trailers-only")
        stream = channel.unary_stream(BASE + "FailLate")(b"", metadata=bearer, timeout=20)
        assert [next(stream), next(stream)] == [b"one", b"two"]
        refused(lambda: next(stream), grpc.StatusCode.DATA_LOSS, "the third is gone")
        say("ok late-error")
        refused(lambda: unary("Nothing")(b"", metadata=bearer, timeout=20), grpc.StatusCode.UNIMPLEMENTED)
        say("ok unimplemented")
        large = bytes(range(256)) * (LARGE // 256)
        assert unary("Unary")(large, metadata=bearer, timeout=60) == large
        say("ok large")
        exceed_deadline(channel.unary_stream(BASE + "Hang"), bearer)
        say("ok deadline")
        stream = channel.unary_stream(BASE + "Endless")(b"cancel", metadata=bearer, timeout=20)
        assert next(stream) == b"first"
        stream.cancel()
        say("ok cancel")
        closed = channel.unary_unary("/portal/p/echo.Closed/Unary")
        refused(lambda: closed(b"", metadata=bearer, timeout=20), grpc.StatusCode.PERMISSION_DENIED)
        say("ok denied")
        refused(lambda: unary("Unary")(b"", timeout=20), grpc.StatusCode.UNAUTHENTICATED)
        bad = (("authorization", "Bearer a.b.c"),)
        refused(lambda: unary("Unary")(b"", metadata=bad, timeout=20), grpc.StatusCode.UNAUTHENTICATED)
        say("ok unauthenticated")
        denied = channel.stream_stream("/portal/p/echo.Closed/Chat")(iter([b"x"] * 3), metadata=bearer, timeout=20)
        refused(lambda: next(denied), grpc.StatusCode.PERMISSION_DENIED)
        say("ok denied-stream")
        # calls that ended in every way leave the connection usable
        assert unary("Unary")(b"still", metadata=bearer, timeout=20) == b"still"
        say("ok after")


def down(address, token):
    with channel_to(address, None) as channel:
        unary = channel.unary_unary(BASE + "Unary")
        refused(lambda: unary(b"", metadata=(("authorization", "Bearer " + token),), timeout=20), grpc.StatusCode.UNAVAILABLE)
    say("ok down")


if __name__ == "__main__":
    {"serve": serve, "call": call, "down": down}[sys.argv[1]](*sys.argv[2:])
