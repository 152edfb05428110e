"""Tests of the charts: what they render, what Kubernetes, policy checkers and the gate itself say of it, what they refuse.

`.ci/charts check` runs them. They need no cluster; `make test-cluster` installs the chart on a real node.
"""

import functools
import json
import os
import re
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import generate
import kubelet
import kubernetes_validate
import yaml

ROOT = generate.ROOT
VERSIONS = ["1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35"]
# kinds of the Prometheus operator: Kubernetes has no schema of them
CUSTOM = {"PodMonitor", "PrometheusRule"}
GATE = Path(os.environ.get("CEDARGATE_BINARY", ROOT / "target/debug/cedargate"))


def objects(text):
    return [document for document in yaml.safe_load_all(text) if document]


@functools.cache
def rendered(name, kubernetes=generate.KUBERNETES):
    path = generate.scenarios()[name]
    arguments = ("template", "demo", "charts/cedargate", "--namespace", "shop", "--kube-version", f"{kubernetes}")
    return generate.helm(*arguments, "--values", path)


def render(*arguments, values=None, chart="charts/cedargate", release="demo"):
    """Renders the chart with these values; returns the objects."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(values or {}, file)
        file.flush()
        text = generate.helm("template", release, chart, "--namespace", "shop", "--values", file.name, *arguments)
    return objects(text)


def only(items, kind):
    found = [item for item in items if item["kind"] == kind]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]


def pod_of(items):
    return only(items, "Deployment")["spec"]["template"]["spec"]


def container_of(pod, name="cedargate"):
    [found] = [c for c in pod.get("initContainers", []) + pod["containers"] if c["name"] == name]
    return found


def config_of(items):
    [text] = [item["data"]["cedargate.yaml"] for item in items if "cedargate.yaml" in item.get("data", {})]
    return yaml.safe_load(text)


SIDECAR = {"mode": "sidecar", "workload": {"container": {"image": "app:1"}}}


def sidecar(**more):
    return {**SIDECAR, **more}


class Rendering(unittest.TestCase):
    def test_generated_files_are_current(self):
        for step in generate.STEPS:
            for path, text in step().items():
                self.assertEqual((ROOT / path).read_text(), text, f"{path} is out of date: run `.ci/charts generate`")

    def test_scenarios_render_as_accepted(self):
        self.assertGreater(len(generate.scenarios()), 10)
        for name, path in generate.scenarios().items():
            for file, text in generate.golden(name, path).items():
                accepted = (ROOT / file).read_text() if (ROOT / file).exists() else ""
                self.assertEqual(accepted, text, f"{file} differs: look at it, then run `.ci/charts accept`")
        known = {f"{name}.yaml" for name in generate.scenarios()}
        self.assertEqual({path.name for path in (ROOT / "tests/charts/golden").iterdir()}, known)

    def test_lint_finds_nothing(self):
        for path in generate.scenarios().values():
            report = generate.helm("lint", "--strict", "charts/cedargate", "--values", path)
            self.assertIn("0 chart(s) failed", report)
        self.assertIn("0 chart(s) failed", generate.helm("lint", "--strict", "charts/cedargate-lib"))

    def test_every_object_fits_the_schemas_of_kubernetes(self):
        def check(job):
            name, version = job
            for item in objects(rendered(name, f"{version}.0")):
                if item["kind"] not in CUSTOM:
                    kubernetes_validate.validate(item, version, strict=True)
            return 1

        jobs = [(name, version) for name in generate.scenarios() for version in VERSIONS]
        with ThreadPoolExecutor(2) as pool:
            self.assertEqual(sum(pool.map(check, jobs)), len(jobs))

    def test_a_cluster_older_than_the_minimum_is_refused(self):
        with self.assertRaisesRegex(generate.HelmError, "kubeVersion"):
            rendered("sidecar", "1.28.0")

    def test_no_mount_has_a_sub_path_and_no_policy_is_in_an_annotation(self):
        for name in generate.scenarios():
            self.assertNotIn("subPath", rendered(name))
        before = render(values=sidecar(policies={"files": {"policies/a/x.cedar": "one"}}))
        after = render(values=sidecar(policies={"files": {"policies/a/x.cedar": "two"}}))
        self.assertEqual(only(before, "Deployment"), only(after, "Deployment"), "an edit of a policy restarts pods")
        moved = render(values=sidecar(config={"public_url": "https://a.example"}))
        self.assertNotEqual(only(before, "Deployment"), only(moved, "Deployment"), "a new configuration needs new pods")


SCHEMA = """
entity Portal;
entity Path in [Path, Portal];
entity Role;
entity Tenant;
entity User in [Role, Tenant];
action GET, POST appliesTo { principal: User, resource: Path };
"""
PERMIT = '@id("all") permit (principal, action, resource);'
TREE = {"policies/customer/orders.cedar": PERMIT, "schemas/_shared.cedarschema": SCHEMA}
# what users bring: Secrets, and ConfigMaps that the values name
EXISTING = {
    "corp-login": {"client_secret": "hunter2hunter2"},
    "redis-password": {"password": "secret", "redis-password": "secret"},
    "session-keys": dict.fromkeys(("keys", "ring"), "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n"),
    "registry-token": {"token": "hunter2hunter2"},
    "decision-callers": {"list": "a-token-of-24-characters\n"},
    "orders-policies": {"orders.cedar": PERMIT},
    "shared-policies": {},
    "cedargate-policies": {"orders.cedar": PERMIT},
    "schemas": {"_shared.cedarschema": SCHEMA, "shared": SCHEMA},
    "cedargate-schemas": {"_shared.cedarschema": SCHEMA},
    **{
        name: data
        for n in range(10)
        for name, data in {
            f"p{n}-policies": {f"p{n}.main.cedar": PERMIT, f"p{n}.portal.yaml": "title: A portal\n"},
            f"p{n}-tests": {f"p{n}.tests.yaml": "principals: { ann: { id: ann } }\ncases: []\n"},
            f"p{n}-deny": {f"p{n}.stop.cedar": '@id("stop") forbid (principal == User::"eve", action, resource);'},
        }.items()
    },
}


def certificates(folder):
    """A self-signed certificate and its key, as `tls.crt`, `tls.key` and `ca.crt`."""
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=test"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return {"tls.key": key.read_text(), "tls.crt": certificate.read_text(), "ca.crt": certificate.read_text()}


def free_ports(count):
    """Ports that nothing listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def public_key(folder):
    """A new ed25519 key's public half, as `cedargate bundle keygen` writes it."""
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", folder / "signer"], check=True)
    command = ["openssl", "pkey", "-in", folder / "signer", "-pubout"]
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


class LaidOut(unittest.TestCase):
    """What the chart writes, in volumes laid out as kubelet does."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def moved(self, text):
        """Absolute paths of the pod, below the test's folder."""
        for path in ("/etc/cedargate", "/var/lib/cedargate", "/var/log/cedargate", "/run/cedargate"):
            text = text.replace(path, f"{self.root}{path}")
        return text

    def lay_out(self, items, pod, existing):
        """Makes the volumes of the pod's gate; returns them and the path of the configuration."""
        for item in items:
            if "cedargate.yaml" in item.get("data", {}):
                item["data"]["cedargate.yaml"] = self.moved(item["data"]["cedargate.yaml"])
        volumes = kubelet.Kubelet(self.root, items, existing)
        volumes.mount(pod, container_of(pod))
        return volumes, self.root / "etc/cedargate/cedargate.yaml"

    def run_gate(self, *arguments):
        return subprocess.run([GATE, *arguments], text=True, capture_output=True, timeout=60, env={"PATH": os.environ["PATH"]})

    def lay_out_tree(self):
        """What git-sync clones, and what a volume holds."""
        for source in ("current/shop", "shop/production"):
            for path, text in TREE.items():
                file = self.root / "var/lib/cedargate-policies" / source / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)


def existing_objects():
    """Secrets and ConfigMaps that users bring, with fresh certificates and keys."""
    with tempfile.TemporaryDirectory() as folder:
        tls = certificates(Path(folder))
        keys = {"security.pem": public_key(Path(folder))}
    return {**EXISTING, "redis-tls": tls, "orders-tls": tls, "policy-keys": keys}


class Gate(LaidOut):
    """The real binary reads what the chart writes."""

    def test_the_gate_accepts_the_configuration_of_every_scenario(self):
        existing = existing_objects()
        for name in generate.scenarios():
            with self.subTest(name):
                self.setUp()
                items = objects(rendered(name))
                if name == "shared":
                    # a pod for what it shares
                    shared = yaml.safe_load((ROOT / "charts/cedargate/ci/shared-values.yaml").read_text())
                    items = render(values={**shared, **SIDECAR})
                pod = pod_of(items)
                _, config = self.lay_out(items, pod, existing)
                self.lay_out_tree()
                answer = self.run_gate("validate", "--config", config)
                self.assertEqual(answer.returncode, 0, f"{answer.stdout}{answer.stderr}")

    def serve(self, config):
        """Starts the gate on free ports; returns a function that asks its admin listener."""
        ports = dict(zip(("8900", "8901", "8903"), free_ports(3)))
        text = config.read_text()
        for port, free in ports.items():
            text = re.sub(rf"(0\.0\.0\.0|127\.0\.0\.1):{port}", f"127.0.0.1:{free}", text)
        moved = self.root / "served.yaml"
        moved.write_text(text)
        log = open(self.root / "log", "w")
        process = subprocess.Popen([GATE, "serve", "--config", moved], stdout=log, stderr=log)
        self.addCleanup(log.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

        def ask(path):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{ports['8903']}{path}", timeout=5) as answer:
                    return answer.read().decode()
            except OSError:
                return ""

        return ask

    def wait_for(self, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), deadline, (self.root / "log").read_text()[-3000:])
            time.sleep(0.05)

    def test_an_edit_of_a_config_map_is_in_force_without_a_restart(self):
        """For files by path, which kubelet swaps together, and for a folder with a volume of its own."""
        by_path = {"files": {"policies/a/x.cedar": PERMIT, "schemas/_shared.cedarschema": SCHEMA}}
        by_folder = {"configMaps": [{"name": "a", "folder": "policies/a"}, {"name": "schemas", "folder": "schemas"}]}
        for policies, folder, file in [
            (by_path, "etc/cedargate", "policies/a/x.cedar"),
            (by_folder, "etc/cedargate/policies/a", "x.cedar"),
        ]:
            with self.subTest(folder):
                self.setUp()
                items = render(values=sidecar(policies=policies))
                existing = {"a": {"x.cedar": PERMIT}, "schemas": {"_shared.cedarschema": SCHEMA}}
                volumes, config = self.lay_out(items, pod_of(items), existing)
                ask = self.serve(config)
                self.wait_for(lambda: ask("/readyz").startswith("ok"))

                def revision():
                    [portal] = json.loads(ask("/status"))["portals"]
                    return portal["revision"], portal["policies"]

                before = revision()
                self.assertEqual(before[1], 1)
                mount = self.root / folder
                data = {str(p.relative_to(mount / "..data")): p.read_text() for p in (mount / "..data").rglob("*") if p.is_file()}
                data[file] += '@id("more") forbid (principal == User::"eve", action, resource);'
                volumes.write(mount, data)
                self.wait_for(lambda: revision() != before)
                self.assertEqual(revision()[1], 2)
                # a new key of a ConfigMap is a new file
                if folder != "etc/cedargate":
                    volumes.write(mount, {**data, "new.cedar": '@id("new") forbid (principal == User::"mallory", action, resource);'})
                    self.wait_for(lambda: revision()[1] == 3)
