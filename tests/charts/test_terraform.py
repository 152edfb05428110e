"""The Terraform module: it parses, its page names its variables, and the example's values are ones that the chart accepts.

The helm provider cannot be downloaded here, so nothing is planned. What the module passes to the chart is rendered instead.
"""

import json
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import hcl2
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "charts/terraform"
EXAMPLE = MODULE / "examples/tenant/main.tf"
HELM = ROOT / "target/tools/bin/helm"


def plain(value):
    """A parsed value without the parser's quotes and marks."""
    if isinstance(value, dict):
        return {plain(key): plain(below) for key, below in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        return json.loads(value)
    return value


def parsed(path):
    with path.open() as file:
        return plain(hcl2.load(file))


def variables():
    found = {}
    for block in parsed(MODULE / "variables.tf")["variable"]:
        found.update(block)
    return found


def example():
    return parsed(EXAMPLE)["module"][0]["orders"]


def values(inputs):
    """What main.tf passes to the chart for these inputs; `locals` of main.tf says it in HCL."""
    tree = ROOT
    names = [path for folder in ("policies", "schemas") for path in sorted((tree / folder).rglob("*")) if path.is_file()]
    redis, monitoring = inputs["redis"], inputs["monitoring"]
    return {
        "replicas": 2,
        "config": inputs["config"],
        "redis": {
            "enabled": True,
            "url": redis["url"],
            "username": redis["username"],
            "passwordSecret": {"name": redis["password_secret"]},
            "sessionKeySecret": {"name": redis["session_key_secret"]},
            "tls": {"secret": redis.get("tls_secret", "")},
        },
        "policies": {"files": {str(path.relative_to(tree)): path.read_text() for path in names}},
        "podMonitor": {"enabled": monitoring.get("pod_monitor", True)},
        "prometheusRule": {"enabled": monitoring["alerts"]},
        "dashboards": {"enabled": monitoring["dashboards"]},
    }


def render(all_values):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(all_values, file)
        file.flush()
        command = [HELM, "template", "orders", ROOT / "charts/cedargate", "--namespace", "acme", "--values", file.name]
        return subprocess.run(command, capture_output=True, text=True)


class Terraform(unittest.TestCase):
    def test_every_file_parses_and_every_variable_is_declared_and_used(self):
        declared = set(variables())
        text = "\n".join(path.read_text() for path in MODULE.glob("*.tf"))
        for path in MODULE.rglob("*.tf"):
            parsed(path)
        self.assertEqual(set(re.findall(r"\bvar\.([a-z_]+)", text)), declared)
        main = (MODULE / "main.tf").read_text() + (MODULE / "outputs.tf").read_text()
        self.assertEqual(set(re.findall(r"\bvar\.([a-z_]+)", main)), declared)

    def test_the_page_has_every_variable_with_its_default(self):
        page = (ROOT / "docs/terraform.md").read_text()
        for name, variable in variables().items():
            self.assertTrue(variable["description"].endswith("."), name)
            default = variable.get("default", "")
            if default != "":
                text = default if isinstance(default, str) else json.dumps(default)
                default = f"`{text.removeprefix('${').removesuffix('}') if text.startswith('${') else text}`"
            row = f"| `{name}` | {default} |"
            self.assertIn(row, page)
        self.assertEqual(len(re.findall(r"^\| `", page, re.MULTILINE)), len(variables()))

    def test_the_example_names_variables_of_the_module_and_gives_those_without_a_default(self):
        given = set(example()) - {"source"}
        self.assertLessEqual(given, set(variables()))
        self.assertLessEqual({name for name, variable in variables().items() if "default" not in variable}, given)

    def test_what_the_module_passes_is_what_this_test_renders_and_the_chart_accepts_it(self):
        passed = values(example())
        local = parsed(MODULE / "main.tf")["locals"][0]
        self.assertEqual(set(local["values"]), set(passed))
        for key in passed["redis"]:
            self.assertIn(f"{key} = ", local["redis"].replace(":", " ="))
        rendered = render(passed)
        self.assertEqual(rendered.returncode, 0, rendered.stderr)
        objects = [one for one in yaml.safe_load_all(rendered.stdout) if one]
        kinds = {one["kind"] for one in objects}
        self.assertLessEqual({"ConfigMap", "Deployment", "PodMonitor", "PrometheusRule"}, kinds)
        self.assertIn("orders.acme.example.com", rendered.stdout)
        self.assertIn("tenant-isolation", rendered.stdout)

    def test_the_chart_refuses_what_a_mistyped_value_would_pass(self):
        mistyped = values(example()) | {"replica": 3}
        self.assertNotEqual(render(mistyped).returncode, 0)


if __name__ == "__main__":
    unittest.main()
