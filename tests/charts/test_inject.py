"""`cedargate inject`: its manifests fit Kubernetes, its container is the chart's, and the gate starts in it."""

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import kubernetes_validate
import yaml
from kubelet import Kubelet
from test_charts import GATE, ROOT, VERSIONS, container_of, objects

CORPUS = ROOT / "tests/corpus/inject"
# folders are those beside the file
CONFIG = """
upstream: { url: "http://127.0.0.1:1" }
policies: { require: [app] }
issuers: [{ name: corp, issuer: "https://id.example.com/", audiences: [orders] }]
"""
CHART = yaml.safe_load((ROOT / "charts/sidecar.yaml").read_text())


def inject(*arguments, stdin=None):
    """Runs the command; returns its exit code, stdout and stderr."""
    done = subprocess.run([GATE, "inject", *arguments], input=stdin, capture_output=True)
    return done.returncode, done.stdout, done.stderr.decode()


def injected(path, mode):
    """The objects that come out; items of Lists are objects of their own."""
    code, out, messages = inject("--mode", mode, path)
    assert code == 0, messages
    # PyYAML refuses tabs in JSON
    items = [json.loads(out)] if path.suffix == ".json" else objects(out)
    return [inner for item in items for inner in (item["items"] if item["kind"] == "List" else [item])]


def pods(items):
    for item in items:
        spec = item.get("spec", {})
        template = spec.get("template") or spec.get("jobTemplate", {}).get("spec", {}).get("template")
        if template:
            yield template["spec"]


class Inject(unittest.TestCase):
    def files(self):
        files = sorted(CORPUS.iterdir())
        self.assertGreater(len(files), 2)
        for path in files:
            for mode in ("native", "classic"):
                if path.name != "jobs.json" or mode == "native":
                    yield path, mode

    def test_every_object_fits_the_schemas_of_kubernetes(self):
        for path, mode in self.files():
            for item in injected(path, mode):
                for version in VERSIONS:
                    kubernetes_validate.validate(item, version, strict=True)

    def test_the_container_is_the_charts(self):
        for path, mode in self.files():
            [chart] = CHART[mode]["initContainers" if mode == "native" else "containers"]
            found = list(pods(injected(path, mode)))
            self.assertTrue(found)
            for pod in found:
                container = container_of(pod)
                own = [variable for variable in container["env"] if variable["name"].startswith("CEDARGATE_UPSTREAM__")]
                container["env"] = [variable for variable in container["env"] if variable not in own]
                self.assertEqual(container, chart)
                self.assertEqual(own[0], {"name": "CEDARGATE_UPSTREAM__URL", "value": "http://127.0.0.1:3000"})
                names = {volume["name"] for volume in CHART[mode]["volumes"]}
                self.assertEqual([volume for volume in pod["volumes"] if volume["name"] in names], CHART[mode]["volumes"])

    def test_the_way_back_is_exact_in_every_line_end(self):
        for path, mode in self.files():
            for text in (path.read_bytes(), path.read_bytes().rstrip(), path.read_bytes().replace(b"\n", b"\r\n")):
                code, out, messages = inject("--mode", mode, stdin=text)
                self.assertEqual(code, 0, messages)
                self.assertEqual(inject("--mode", mode, stdin=out)[1], out, "twice is once")
                self.assertEqual(inject("--uninject", stdin=out)[1], text)

    def test_a_classic_sidecar_never_ends_a_job(self):
        code, out, messages = inject("--mode", "classic", CORPUS / "jobs.json")
        self.assertEqual((code, out), (1, b""))
        self.assertIn("jobs.json:14: CronJob/nightly", messages)

    def test_the_gate_accepts_its_place_in_the_pod(self):
        example = ROOT / "tests/charts/kustomize"
        read = lambda folder: {path.name: path.read_text() for path in (example / folder).iterdir()}
        maps = {
            "cedargate": {"cedargate.yaml": CONFIG},
            "cedargate-policies": read("policies"),
            "cedargate-schemas": read("schemas"),
        }
        [pod] = pods(injected(CORPUS / "shop.yaml", "native"))
        container = container_of(pod)
        with tempfile.TemporaryDirectory() as root:
            Kubelet(root, [], maps).mount(pod, container)
            environment = {variable["name"]: variable["value"] for variable in container["env"]}
            config = Path(root) / "etc/cedargate/cedargate.yaml"
            environment = {**os.environ, **environment, "CEDARGATE_CONFIG": str(config)}
            done = subprocess.run([GATE, "validate"], env=environment, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            shown = subprocess.run([GATE, "config", "print"], env=environment, capture_output=True, text=True).stdout
            self.assertIn("upstream.probes.readyz.service = shop.v1.Shop", shown.replace('"', ""))


if __name__ == "__main__":
    unittest.main()
