"""docs/back-end.md, step by step: its files, its settings and its commands, with other ports and in another folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from support import EXAMPLES, PACKAGE, PROGRAM, REPOSITORY, answers, free_port, process, wait_until

PAGE = REPOSITORY / "docs/back-end.md"
SETTINGS = """
import os
SECRET_KEY = "of the tests"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "rest_framework"]
"""
URLS = """
from django.urls import path
import views
urlpatterns = [
    path("up", views.up),
    path("portal/customer/orders/<order_id>", views.order),
    path("portal/customer/rest/<order_id>", views.OrderView.as_view()),
]
"""


def blocks(section: str, language: str) -> list[str]:
    text = PAGE.read_text().split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return found


class Tutorial:
    """A folder in which the page's commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {"8900": free_port(), "8901": free_port(), "8903": free_port(), "3000": free_port()}
        shutil.copytree(EXAMPLES / "gate", folder / "packages/examples/gate")
        config = folder / "packages/examples/gate/cedargate.yaml"
        config.write_text(self.moved(config.read_text()))
        self.environment = {
            **os.environ,
            "PATH": f"{PROGRAM.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{PACKAGE / 'src'}:{folder}",
        }

    def moved(self, text: str) -> str:
        """Return the text with the ports of this run."""
        for port, free in self.ports.items():
            text = re.sub(rf"(?<=:){port}\b|(?<=--port ){port}\b", str(free), text)
        return text

    def url(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    def bash(self, script: str) -> list[str]:
        """Run the page's commands as one script; what it leaves running ends with it. Returns the lines that it printed."""
        script = f"set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n{self.moved(script)}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def tutorial(tmp_path: Path) -> Tutorial:
    return Tutorial(tmp_path)


def test_the_shop_with_fastapi(tutorial: Tutorial) -> None:
    (start,) = blocks("Who decides what", "sh")
    (values,) = blocks("Three values", "sh")
    install, values = values.split("\n", 1)
    assert install.startswith("pip install './packages/python[fastapi]'"), "the wheel has a test of its own"
    shop, awaited = blocks("FastAPI", "python")
    compile(f"async def example(gate, order, caller):\n {awaited.replace(chr(10), chr(10) + ' ')}", "page", "exec")
    (tutorial.folder / "shop.py").write_text(shop)
    (asks,) = blocks("FastAPI", "sh")
    waits = "until curl -sf {}/readyz >/dev/null; do sleep 0.1; done\n".format(tutorial.url("8903"))
    asks = asks.replace("sleep 2\n", "until curl -sf {}/up >/dev/null; do sleep 0.1; done\n".format(tutorial.url("3000")))
    asks = asks.replace("curl -s ", "curl -s -w '\\n%{http_code}\\n' ")
    printed = tutorial.bash(start + waits + values + asks)
    assert printed[1::2] == ["200", "403", "401"], printed
    assert printed[0] == '[{"id":"7","tenant":"acme","owner":"alice","status":"open"}]'
    assert '"decision_id":' in printed[2]
    assert '"code": "assertion_missing"' in printed[4]
    (own,) = blocks("Tests without a gate", "python")
    (tutorial.folder / "test_shop.py").write_text(own)
    assert "1 passed" in " ".join(tutorial.bash(values + "python -m pytest -q -p no:cacheprovider test_shop.py\n"))


def test_the_shop_with_django(tutorial: Tutorial) -> None:
    settings, views, _ = blocks("Django", "python")
    (tutorial.folder / "settings.py").write_text(SETTINGS + settings)
    (tutorial.folder / "views.py").write_text(views)
    (tutorial.folder / "urls.py").write_text(URLS)
    (start,) = blocks("Who decides what", "sh")
    (values,) = blocks("Three values", "sh")
    exports = dict(re.findall(r"^export (\w+)=(\S+)", tutorial.moved(values), re.MULTILINE))
    tutorial.environment |= {**exports, "DJANGO_SETTINGS_MODULE": "settings"}
    mint, serve = start.split("cedargate serve", 1)
    tutorial.bash(mint + "python -m django migrate --verbosity 0\n")
    token = (tutorial.folder / "alice.token").read_text().strip()
    log = tutorial.folder / "app.log"
    gate = [str(PROGRAM), "serve", "--config", serve.split()[1]]
    app = [
        sys.executable,
        "-m",
        "gunicorn",
        "--bind",
        f"127.0.0.1:{tutorial.ports['3000']}",
        "django.core.wsgi:get_wsgi_application()",
    ]
    with (
        process(gate, tutorial.folder / "gate.log", tutorial.environment, tutorial.folder),
        process(app, log, tutorial.environment, tutorial.folder),
    ):
        wait_until("the gate is ready", answers(tutorial.url("8903") + "/readyz"))
        wait_until("the app answers", answers(tutorial.url("3000") + "/up"))
        with httpx2.Client(
            base_url=tutorial.url("8900") + "/portal/customer", headers={"authorization": f"Bearer {token}"}
        ) as client:
            viewed = client.get("/orders/7")
            assert viewed.status_code == 200, viewed.text + log.read_text()
            assert viewed.json() == {"id": "7", "viewer": "alice", "user": "alice"}
            assert client.get("/orders/8").json()["code"] == "not_permitted"
            assert client.get("/rest/7").json() == {"id": "7"}
            assert client.get("/rest/8").status_code == 403
            assert client.delete("/rest/7").status_code == 403, "the gate lets nobody delete there"
        assert (
            httpx2.get(tutorial.url("3000") + "/portal/customer/orders/7", headers={"x-forwarded-user": "alice"}).status_code == 401
        )
