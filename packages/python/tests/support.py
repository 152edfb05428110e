"""The real gate, an issuer whose key the tests have, apps in processes of their own, and a server that misbehaves."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGE = REPOSITORY / "packages/python"
EXAMPLES = REPOSITORY / "packages/examples"
TREE = EXAMPLES / "gate"
PROGRAM = Path(os.environ.get("CEDARGATE", REPOSITORY / "target/debug/cedargate"))
PATIENCE = float(os.environ.get("CEDARGATE_TEST_PATIENCE", "30"))

ISSUER = "https://id.example.com/"
GATE_ISSUER = "https://shop.example.com"
JWKS = "/.well-known/cedargate/jwks.json"
LISTENER_TOKEN = "a-token-of-the-listener"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until(what: str, done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if done():
            return
        time.sleep(0.02)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


def answers(url: str) -> Callable[[], bool]:
    def done() -> bool:
        try:
            return httpx2.get(url, trust_env=False).status_code < 500
        except httpx2.HTTPError:
            return False

    return done


@dataclass
class Key:
    """A P-256 key and its names."""

    kid: str
    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def jwk(self) -> dict[str, Any]:
        out: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**out, "kid": self.kid, "alg": "ES256", "use": "sig"}

    def pem(self) -> str:
        form = serialization.PrivateFormat.PKCS8
        return self.private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()

    def public_pem(self) -> bytes:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, form)

    def sign(self, claims: Mapping[str, Any], **header: Any) -> str:
        headers = {"kid": self.kid, **header}
        return jwt.encode(dict(claims), self.private, "ES256", headers=headers)


def jwks(*keys: Key) -> bytes:
    return json.dumps({"keys": [key.jwk() for key in keys]}).encode()


@contextmanager
def process(
    args: list[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that ends with the test."""
    with log.open("ab") as out:
        running = subprocess.Popen(args, stdout=out, stderr=out, cwd=cwd, env={**os.environ, **(env or {})})
        try:
            yield running
        finally:
            if running.poll() is None:
                running.terminate()
                try:
                    running.wait(10)
                except subprocess.TimeoutExpired:
                    running.kill()
                    running.wait()


@dataclass
class Gate:
    """A running gate."""

    folder: Path
    proxy: str
    decision: str
    admin: str
    audience: str
    issuer_key: Key
    process: subprocess.Popen[bytes]

    def token(self, subject: str, roles: list[str], tenant: str = "acme", **claims: Any) -> str:
        now = int(time.time())
        usual = {"iss": ISSUER, "aud": "shop", "sub": subject, "tenant": tenant, "roles": roles, "iat": now, "exp": now + 600}
        return self.issuer_key.sign({**usual, **claims})

    def authorization(self, subject: str, roles: list[str], **claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(subject, roles, **claims)}"}

    def decisions(self) -> list[dict[str, Any]]:
        lines = (self.folder / "decisions.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@contextmanager
def gate(folder: Path, upstream: int, key_pem: str | None = None, **config: Any) -> Iterator[Gate]:
    """The real gate over the policies of the examples."""
    if not PROGRAM.is_file():
        raise FileNotFoundError(f"please build the gate first (cargo build --locked): {PROGRAM} is missing")
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("policies", "schemas"):
        if not (folder / part).exists():
            shutil.copytree(TREE / part, folder / part)
    issuer_key = Key("issuer-1")
    (folder / "jwks.json").write_bytes(jwks(issuer_key))
    proxy, decision, admin = free_port(), free_port(), free_port()
    text: dict[str, Any] = {
        "public_url": GATE_ISSUER,
        "listen": {
            "proxy": {"address": f"127.0.0.1:{proxy}"},
            "decision": {"address": f"127.0.0.1:{decision}"},
            "admin": {"address": f"127.0.0.1:{admin}"},
        },
        "upstream": {"url": f"http://127.0.0.1:{upstream}"},
        "policies": {"dir": "policies", "schemas": "schemas", "poll": "1s"},
        "issuers": [{"name": "corp", "issuer": ISSUER, "audiences": ["shop"], "jwks": {"file": "jwks.json"}}],
        "audit": {"sink": {"file": str(folder / "decisions.jsonl")}},
        "assertion": {"ttl": "60s"},
    }
    for section, values in config.items():
        text[section] = {**text.get(section, {}), **values}
    if key_pem is not None:
        (folder / "assertion.pem").write_text(key_pem)
        text["assertion"]["key_file"] = "assertion.pem"
    (folder / "cedargate.yaml").write_text(json.dumps(text))
    log = folder / "gate.log"
    with process([str(PROGRAM), "serve", "--config", str(folder / "cedargate.yaml")], log) as running:
        ready = answers(f"http://127.0.0.1:{admin}/readyz")
        wait_until("the gate is ready", lambda: running.poll() is not None or ready())
        assert running.poll() is None, log.read_text()
        address = text["listen"]["decision"]["address"]
        yield Gate(
            folder,
            f"http://127.0.0.1:{proxy}",
            address if address.startswith("unix:") else f"http://{address}",
            f"http://127.0.0.1:{admin}",
            f"http://127.0.0.1:{upstream}",
            issuer_key,
            running,
        )


def app_environment(running: Gate) -> dict[str, str]:
    return {
        "CEDARGATE_APP_URL": running.decision,
        "CEDARGATE_APP_ISSUER": GATE_ISSUER,
        "CEDARGATE_APP_AUDIENCE": running.audience,
        "PYTHONPATH": f"{PACKAGE / 'src'}:{PACKAGE / 'tests'}:{EXAMPLES / 'django'}:{EXAMPLES / 'fastapi'}",
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@contextmanager
def app(args: list[str], port: int, running: Gate, name: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """An app's server of this Python, on `port`, behind the gate."""
    log = running.folder / f"{name}.log"
    with process([sys.executable, "-m", *args], log, app_environment(running), cwd) as server:
        up = answers(f"http://127.0.0.1:{port}/up")
        wait_until(f"{name} answers", lambda: server.poll() is not None or up())
        assert server.poll() is None, log.read_text()
        yield server


Answer = Callable[[BaseHTTPRequestHandler], None]


def plain(body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-type", kind)
        handler.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def closed(handler: BaseHTTPRequestHandler) -> None:
    """Ends the connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Stub:
    """A server in the place of the gate that answers as a test says."""

    url: str
    answer: Answer = closed
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    connections: int = 0
    # set at the end, so that no hanging answer outlives its test
    over: threading.Event = field(default_factory=threading.Event)

    def count(self, path: str) -> int:
        return sum(1 for asked, _ in self.asked if asked == path)

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        self.over.wait(PATIENCE)
        closed(handler)

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """Sends a body that never ends, one byte at a time."""
        handler.send_response(200)
        handler.send_header("content-length", "100000")
        handler.end_headers()
        while not self.over.wait(0.05):
            try:
                handler.wfile.write(b" ")
                handler.wfile.flush()
            except OSError:
                break
        handler.close_connection = True

    def drip_head(self, handler: BaseHTTPRequestHandler) -> None:
        """Sends a head that never ends, one byte at a time."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-long: ")
        while not self.over.wait(0.05):
            try:
                handler.wfile.write(b"a")
                handler.wfile.flush()
            except OSError:
                break
        handler.close_connection = True

    def flood(self, handler: BaseHTTPRequestHandler) -> None:
        """Sends 10 MB of spaces before a valid document."""
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(10_000_000 + 2))
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(b" " * 100_000)
            handler.wfile.write(b"{}")
        except OSError:
            pass
        handler.close_connection = True


@contextmanager
def stub(answer: Answer = closed) -> Iterator[Stub]:
    made = Stub("", answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # head and body in one packet
        wbufsize = 64 * 1024

        def setup(self) -> None:
            super().setup()
            made.connections += 1

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            made.asked.append((self.path, body))
            made.answer(self)

        do_GET = do_POST = _answer

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Keep quiet about clients that leave early: that is what tests make them do."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield made
    finally:
        made.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
