"""What users build on the charts: the chart of an app, Kustomize, and what policy checkers say of all of it."""

import json
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import generate
import kubernetes_validate
import yaml
from test_charts import CUSTOM, ROOT, VERSIONS, container_of, objects, only, pod_of, render, rendered, sidecar

TOOLS = ROOT / "target/tools"


def kustomized():
    command = [TOOLS / "bin/kustomize", "build", ROOT / "tests/charts/kustomize"]
    return objects(subprocess.run(command, check=True, text=True, capture_output=True).stdout)


def named(items, kind, name):
    [found] = [item for item in items if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


class OneDefinition(unittest.TestCase):
    """Chart, library, Kustomize component and charts/sidecar.yaml hold the same container."""

    def setUp(self):
        self.sidecar = yaml.safe_load((ROOT / "charts/sidecar.yaml").read_text())

    def test_the_kustomize_component_adds_the_sidecar_to_labelled_workloads_only(self):
        items = kustomized()
        pod = named(items, "Deployment", "orders")["spec"]["template"]["spec"]
        [container] = self.sidecar["native"]["initContainers"]
        self.assertEqual(container_of(pod), container)
        self.assertEqual([c["name"] for c in pod["initContainers"]], ["cedargate", "migrate"])
        [config] = [v for v in pod["volumes"] if v["name"] == "cedargate-config"]
        map_name = config["projected"]["sources"][0]["configMap"]["name"]
        self.assertTrue(map_name.startswith("cedargate-"), "Kustomize follows the name of the generated ConfigMap")
        named(items, "ConfigMap", map_name)
        names = {volume["name"] for volume in pod["volumes"]}
        self.assertEqual(names, {volume["name"] for volume in self.sidecar["native"]["volumes"]})
        other = named(items, "Deployment", "worker")["spec"]["template"]["spec"]
        self.assertNotIn("initContainers", other)
        policy = only(items, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
        labels = named(items, "Deployment", "orders")["spec"]["template"]["metadata"]["labels"]
        self.assertLessEqual(policy.items(), labels.items())

    def test_the_chart_renders_the_container_of_the_sidecar_in_both_forms(self):
        values = {
            "existingConfigMap": "cedargate",
            "policies": {"configMaps": [
                {"name": "cedargate-policies", "folder": "policies/app"},
                {"name": "cedargate-shared", "folder": "policies/_shared", "optional": True},
                {"name": "cedargate-schemas", "folder": "schemas"},
            ]},
        }
        for native, form in [(True, "native"), (False, "classic")]:
            pod = pod_of(render(values=sidecar(native=native, **values)))
            [container] = self.sidecar[form]["initContainers" if native else "containers"]
            self.assertEqual(container_of(pod), container)
            self.assertEqual(pod["volumes"], self.sidecar[form]["volumes"])
            self.assertEqual(pod["terminationGracePeriodSeconds"], generate.GRACE_SECONDS)

    def test_the_only_difference_of_a_native_sidecar_is_its_restart_policy(self):
        [native], [classic] = self.sidecar["native"]["initContainers"], self.sidecar["classic"]["containers"]
        self.assertEqual(native.pop("restartPolicy"), "Always")
        self.assertEqual(native, classic)

    def test_versions_are_those_of_the_gate(self):
        cargo = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
        for chart in ("cedargate", "cedargate-lib"):
            about = yaml.safe_load((ROOT / f"charts/{chart}/Chart.yaml").read_text())
            self.assertEqual((str(about["appVersion"]), about["version"]), (cargo, cargo))
        [container] = self.sidecar["native"]["initContainers"]
        self.assertEqual(container["image"], f"ghcr.io/cedargate/cedargate:{cargo}")


class AppChart(unittest.TestCase):
    """charts/example-app: the chart of an app that uses the library."""

    def test_it_renders_pod_and_objects_that_fit_kubernetes(self):
        for version in VERSIONS:
            arguments = ("template", "shop", "charts/example-app", "--kube-version", f"{version}.0")
            items = objects(generate.helm(*arguments))
            self.assertEqual(sorted(item["kind"] for item in items), ["ConfigMap", "Deployment", "NetworkPolicy", "Service"])
            for item in items:
                kubernetes_validate.validate(item, version, strict=True)
            pod = pod_of(items)
            app = container_of(pod, "orders")
            self.assertEqual(app["readinessProbe"]["httpGet"], {"path": "/app/readyz", "port": 8903})
            self.assertNotIn("ports", app, "nothing names the app's own port")
            labels = only(items, "Deployment")["spec"]["template"]["metadata"]["labels"]
            for selector in (only(items, "Service")["spec"]["selector"],
                             only(items, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]):
                self.assertLessEqual(selector.items(), labels.items())

    def test_a_mistyped_value_of_the_gate_is_refused(self):
        with self.assertRaises(generate.HelmError) as caught:
            generate.helm("template", "shop", "charts/example-app", "--set", "cedargate.polices=x")
        self.assertIn("polices", str(caught.exception))

    def test_a_dependency_without_the_alias_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            chart = Path(folder) / "app"
            subprocess.run(["cp", "-rL", ROOT / "charts/example-app", chart], check=True)
            about = (chart / "Chart.yaml").read_text().replace("    alias: cedargate\n", "")
            (chart / "Chart.yaml").write_text(about)
            (chart / "values.yaml").write_text("replicas: 1\nimage: a:1\n")
            with self.assertRaises(generate.HelmError) as caught:
                generate.helm("template", "shop", chart)
            self.assertIn("alias: cedargate", str(caught.exception))


class Monitoring(unittest.TestCase):
    """Alerts and dashboards are files of the chart; their own tests are in tests/tidy and promtool's. No golden holds them."""

    def test_alerts_and_dashboards_are_installed_as_they_are_in_the_files(self):
        chart = ROOT / "charts/cedargate"
        options = {"prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}}, "dashboards": {"enabled": True}}
        for mode in (sidecar(), {"mode": "shared"}):
            items = render(values={**mode, **options})
            rule = only(items, "PrometheusRule")
            self.assertEqual(rule["spec"], yaml.safe_load((chart / "alerts/cedargate.rules.yaml").read_text()))
            self.assertEqual(rule["metadata"]["labels"]["release"], "prometheus")
            boards = named(items, "ConfigMap", "demo-cedargate-dashboards")
            files = {path.name: path.read_text() for path in (chart / "dashboards").glob("*.json")}
            self.assertGreater(len(files), 0)
            self.assertEqual(boards["data"], files)
            self.assertEqual(boards["metadata"]["labels"]["grafana_dashboard"], "1")
            self.assertLess(sum(map(len, files.values())), 2**20)

    def test_a_pod_monitor_scrapes_the_admin_port_of_the_pods(self):
        items = render(values=sidecar(podMonitor={"enabled": True}))
        monitor = only(items, "PodMonitor")["spec"]
        self.assertEqual(monitor["podMetricsEndpoints"][0]["port"], "gate-admin")
        labels = only(items, "Deployment")["spec"]["template"]["metadata"]["labels"]
        self.assertLessEqual(monitor["selector"]["matchLabels"].items(), labels.items())


class Network(unittest.TestCase):
    def test_nothing_names_the_apps_port(self):
        for name in generate.scenarios():
            for item in objects(rendered(name)):
                if item["kind"] in ("Service", "NetworkPolicy", "PodMonitor"):
                    ports = re.findall(r'"(?:port|targetPort|containerPort)": "?([\w-]+)', json.dumps(item))
                    self.assertTrue(ports, f"{name}: {item['kind']}")
                    allowed = {"80", "443", "53", "6380", "8900", "8901", "8903", "9900", "9903", "gate-http", "gate-admin",
                               "gate-decision"}
                    self.assertLessEqual(set(ports), allowed, f"{name}: {item['kind']}")
            if name not in ("shared",):
                for container in pod_of(objects(rendered(name)))["containers"]:
                    if container["name"] != "cedargate":
                        self.assertNotIn("ports", container, f"{name}: {container['name']}")

    def test_the_selectors_find_the_pods_and_not_those_of_helm_test(self):
        items = objects(rendered("standalone"))
        selector = only(items, "Service")["spec"]["selector"]
        self.assertLessEqual(selector.items(), only(items, "Deployment")["spec"]["template"]["metadata"]["labels"].items())
        tests = [item for item in items if item["kind"] == "Pod"]
        self.assertEqual(len(tests), 2)
        for pod in tests:
            self.assertFalse(selector.items() <= pod["metadata"]["labels"].items())


class RestrictedPods(unittest.TestCase):
    """The Pod Security Standard `restricted`, as far as it concerns these pods."""

    VOLUMES = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}

    def pods(self, items):
        for item in items:
            if item["kind"] == "Pod":
                yield item["spec"]
            elif item["kind"] == "Deployment":
                yield item["spec"]["template"]["spec"]

    def test_every_pod_is_restricted(self):
        # `full` has containers of the user without any security context
        for name in sorted(generate.scenarios().keys() - {"full"}):
            for pod in self.pods(objects(rendered(name))):
                self.assertFalse({"hostNetwork", "hostPID", "hostIPC"} & pod.keys())
                self.assertIs(pod["automountServiceAccountToken"], False)
                outer = pod.get("securityContext", {})
                for volume in pod.get("volumes", []):
                    self.assertLessEqual(volume.keys() - {"name"}, self.VOLUMES, f"{name}: {volume['name']}")
                for container in pod.get("initContainers", []) + pod["containers"]:
                    place, inner = f"{name}: {container['name']}", container["securityContext"]
                    self.assertIs(inner["allowPrivilegeEscalation"], False, place)
                    self.assertEqual(inner["capabilities"], {"drop": ["ALL"]}, place)
                    self.assertIs(inner.get("runAsNonRoot", outer.get("runAsNonRoot")), True, place)
                    profile = inner.get("seccompProfile", outer.get("seccompProfile"))
                    self.assertEqual(profile, {"type": "RuntimeDefault"}, place)
                    self.assertNotIn("privileged", inner, place)
                    if container["name"] != "app":
                        self.assertIs(inner["readOnlyRootFilesystem"], True, place)
                        self.assertGreater(inner["runAsUser"], 10000, place)

    def test_secrets_are_existing_ones_and_never_values(self):
        for name in generate.scenarios():
            self.assertNotIn("Secret", {item["kind"] for item in objects(rendered(name))}, name)


# What checkers ask for and the charts leave out, with the reason. Every other finding fails.
CHECKOV_SKIPPED = {
    "CKV_K8S_11": "a CPU limit throttles, and a throttled gate is latency on every request",
    "CKV_K8S_15": "tags of releases never move, so a pull at each start buys nothing and needs the registry",
    "CKV_K8S_43": "image.digest pins a digest; which one is the operator's decision",
}
# Pods of `helm test`: one request, then gone.
CHECKOV_SKIPPED_TESTS = {
    **CHECKOV_SKIPPED,
    "CKV_K8S_8": "a pod that ends after one request has no health",
    "CKV_K8S_9": "and is never ready for traffic",
    "CKV2_K8S_6": "it takes no connections",
}
KUBE_SCORE_SKIPPED = {
    "CPU limit is not set": CHECKOV_SKIPPED["CKV_K8S_11"],
    "ImagePullPolicy is not set to Always": CHECKOV_SKIPPED["CKV_K8S_15"],
    "Ephemeral Storage limit is not set": "it counts the container's log, which kubelet rotates; a limit would evict the pod",
    "Ephemeral Storage request is not set": "the volumes of the gate have sizes of their own",
    "Deployment does not have a host podAntiAffinity set": "the chart spreads by topologySpreadConstraints",
    "The pod does not have a matching egress NetworkPolicy": "networkPolicy.egress: only the operator knows the app's peers",
    # only of the scenario `volume`
    "Deployment few replicas": "state on a claim is for one replica",
    "Deployment update strategy": "a claim that one node mounts at a time is free only after the old pod",
    "The NetworkPolicys selector doesn't match any pods": "`mode: shared` is for pods of other charts",
}
# `full` shows every option, also those that weaken a pod: it is not held against the checkers.
UNCHECKED = {"full"}


class PolicyCheckers(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for kind in ("objects", "tests"):
            (self.folder / kind).mkdir()
        for name in sorted(generate.scenarios().keys() - UNCHECKED):
            items = objects(rendered(name))
            for kind, chosen in [("tests", [i for i in items if i["kind"] == "Pod"]),
                                 ("objects", [i for i in items if i["kind"] not in CUSTOM | {"Pod"}])]:
                if chosen:
                    (self.folder / kind / f"{name}.yaml").write_text(yaml.safe_dump_all(chosen))

    def test_checkov_finds_nothing(self):
        for kind, skipped in [("objects", CHECKOV_SKIPPED), ("tests", CHECKOV_SKIPPED_TESTS)]:
            command = [TOOLS / "checkov/bin/checkov", "--directory", self.folder / kind, "--framework", "kubernetes",
                       "--compact", "--quiet", "--output", "json", "--skip-download", "--skip-check", ",".join(skipped)]
            answer = subprocess.run(command, text=True, capture_output=True, timeout=300)
            report = json.loads(answer.stdout)
            summary = report if "passed" in report else report["summary"]
            self.assertGreater(summary["passed"], 50, "checkov looked at nothing")
            failed = [f"{f['check_id']} {f['check_name']}: {f['file_path']} {f['resource']}"
                      for f in report["results"]["failed_checks"]]
            self.assertEqual(failed, [])

    def test_kube_score_finds_nothing(self):
        passed, findings = 0, []
        for path in sorted((self.folder / "objects").iterdir()):
            command = [TOOLS / "bin/kube-score", "score", "--output-format", "ci", "--kubernetes-version", "v1.29", path]
            answer = subprocess.run(command, text=True, capture_output=True, timeout=60)
            for line in answer.stdout.splitlines():
                passed += line.startswith("[OK]")
                if line.startswith(("[CRITICAL]", "[WARNING]")) and not any(skip in line for skip in KUBE_SCORE_SKIPPED):
                    findings.append(f"{path.stem}: {line}")
        self.assertGreater(passed, 100, "kube-score looked at nothing")
        self.assertEqual(findings, [])


class Package(unittest.TestCase):
    def test_a_packaged_chart_holds_the_library_and_renders_the_same(self):
        with tempfile.TemporaryDirectory() as folder:
            generate.helm("package", "charts/cedargate", "--destination", folder)
            [package] = Path(folder).iterdir()
            path = generate.scenarios()["sidecar"]
            arguments = ("--namespace", "shop", "--kube-version", generate.KUBERNETES, "--values", path)
            self.assertEqual(generate.helm("template", "demo", package, *arguments), rendered("sidecar"))
            names = subprocess.run(["tar", "tf", package], check=True, text=True, capture_output=True).stdout
            self.assertIn("cedargate/charts/cedargate-lib/templates/_container.tpl", names)
            self.assertNotIn("ci/", names)


class Notes(unittest.TestCase):
    """What `helm install` prints names the next command, with the names of this release."""

    def notes(self, values):
        """Renders NOTES.txt as a template: `helm template` leaves it out, and `helm install` needs a cluster."""
        with tempfile.TemporaryDirectory() as folder:
            chart = Path(folder) / "cedargate"
            subprocess.run(["cp", "-rL", ROOT / "charts/cedargate", chart], check=True)
            (chart / "templates/NOTES.txt").rename(chart / "notes.txt")
            (chart / "templates/notes.yaml").write_text('notes: {{ tpl (.Files.Get "notes.txt") . | toJson }}')
            arguments = ["--show-only", "templates/notes.yaml"]
            [notes] = render(*arguments, values=values, chart=chart)
            return notes["notes"]

    def test_a_release_with_policies_is_waited_for_and_tested(self):
        notes = self.notes(sidecar(policies={"configMaps": [{"name": "p", "folder": "policies/customer"}]}))
        for words in ["the policies of customer", "rollout status deployment/demo-cedargate --namespace shop",
                      "helm test demo --namespace shop", "exec deployment/demo-cedargate -c cedargate"]:
            self.assertIn(words, notes)
        for words in ["no policies yet", "networkPolicy.enabled is false"]:
            self.assertNotIn(words, notes)

    def test_a_release_without_policies_says_that_every_request_is_denied(self):
        notes = self.notes(sidecar(networkPolicy={"enabled": False}))
        for words in ["There are no policies yet", "kubectl create configmap orders-policies --namespace shop",
                      "networkPolicy.enabled is false"]:
            self.assertIn(words, notes)

    def test_shared_objects_name_the_command_that_uses_them(self):
        notes = self.notes({"mode": "shared", "existingConfigMap": "gate"})
        self.assertIn("cedargate inject --config-map gate", notes)
        self.assertNotIn("helm test", notes)


class Docs(unittest.TestCase):
    """Values that docs/kubernetes.md shows render, and the templates that it names exist."""

    PAGE = ROOT / "docs/kubernetes.md"

    def blocks(self):
        for text in re.findall(r"^( *)```yaml\n(.*?)^ *```", self.PAGE.read_text(), re.M | re.S):
            indent, body = text
            body = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
            if "{{" not in body:
                yield yaml.safe_load(body)

    def test_the_values_of_the_page_render(self):
        known = yaml.safe_load((ROOT / "charts/cedargate/values.yaml").read_text()).keys()
        rendered_blocks = 0
        for block in self.blocks():
            if block.keys() <= known:
                values = block if "mode" in block else sidecar(**block)
                items = render(values=values)
                self.assertTrue(items)
                for item in items:
                    if item["kind"] not in CUSTOM:
                        kubernetes_validate.validate(item, VERSIONS[0], strict=True)
                rendered_blocks += 1
            elif "cedargate" in block:
                self.assertTrue(render(values=block, chart="charts/example-app"))
                rendered_blocks += 1
        self.assertGreater(rendered_blocks, 10)

    def test_the_templates_of_the_page_exist(self):
        named_templates = set(re.findall(r"`(cedargate\.[A-Za-z]+)`", self.PAGE.read_text())) - {"cedargate.yaml"}
        self.assertGreater(len(named_templates), 10)
        library = "".join(path.read_text() for path in (ROOT / "charts/cedargate-lib/templates").iterdir())
        values = yaml.safe_load((ROOT / "charts/cedargate-lib/values.yaml").read_text())
        for name in named_templates:
            is_value = name.removeprefix("cedargate.") in values
            self.assertTrue(is_value or f'define "{name}"' in library, name)
