"""Writes every file that is made from the charts. `.ci/charts check` fails where one of them is out of date."""

import json
import re
import subprocess
import sys
from pathlib import Path

import values_schema

ROOT = Path(__file__).resolve().parents[2]
HELM = ROOT / "target/tools/bin/helm"
# what `.Capabilities.KubeVersion` says; goldens must not depend on the version of helm
KUBERNETES = "1.35.0"
# the library's grace period with default values; a test compares it
GRACE_SECONDS = 55
# below this line charts/cedargate/values.yaml is the library's
MARKER = (
    "# ==== values of the gate: made from charts/cedargate-lib/values.yaml by `.ci/charts generate`; change them there ===="
)


class HelmError(Exception):
    """What helm said when it failed."""


def helm(*arguments):
    """Runs helm; returns what it prints."""
    command = [str(HELM), *map(str, arguments)]
    answer = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=60)
    if answer.returncode:
        raise HelmError(answer.stderr)
    return answer.stdout


def template(chart, *arguments, release="cedargate", namespace="default"):
    """Renders a chart without the lines that name template files."""
    text = helm("template", release, chart, "--namespace", namespace, "--kube-version", KUBERNETES, *arguments)
    return "\n".join(line for line in text.splitlines() if not line.startswith("# Source:")) + "\n"


def sidecar():
    """charts/sidecar.yaml: the part of a pod that `cedargate inject` and the Kustomize component add."""
    head = "# Made by `.ci/charts generate` from charts/cedargate-lib; do not edit. `cedargate inject` has it built in.\n"
    return head + template("tests/charts/patch").removeprefix("---\n")


def with_table(page, rows):
    """The page with the table of values between its two marks."""
    start, end = "<!-- values: made by `.ci/charts generate` -->\n", "<!-- /values -->\n"
    head, _, rest = page.partition(start)
    _, _, tail = rest.partition(end)
    assert tail is not None and start in page and end in page, "docs/kubernetes.md lacks the marks of its table of values"
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for key, default, description in rows:
        shown = "" if default in (None, "") else f"`{json.dumps(default, separators=(', ', ': '))}`".replace('"', "")
        lines.append(f"| `{key}` | {shown} | {description} |".replace("||", "| |"))
    return head + start + "\n" + "\n".join(lines) + "\n\n" + end + tail


def values():
    """The values of both charts, and their schemas. charts/cedargate has the library's values below its own."""
    library = (ROOT / "charts/cedargate-lib/values.yaml").read_text()
    own = (ROOT / "charts/cedargate/values.yaml").read_text()
    head, marker, _ = own.partition(MARKER)
    assert marker, f"charts/cedargate/values.yaml lacks the line `{MARKER}`"
    whole = head + marker + "\n\n" + library.partition("\n\n")[2]
    config = json.loads((ROOT / "schemas/config.schema.json").read_text())
    schema, rows = values_schema.make(whole, config, ["global", "cedargate-lib"])
    return {
        "charts/cedargate/values.yaml": whole,
        "charts/cedargate/values.schema.json": schema,
        "docs/kubernetes.md": with_table((ROOT / "docs/kubernetes.md").read_text(), rows),
        "charts/cedargate-lib/values.schema.json": values_schema.make(library, config, ["global"])[0],
    }


def scenarios():
    """The values files of `ci/`: name and path."""
    return {path.name.removesuffix("-values.yaml"): path for path in sorted((ROOT / "charts/cedargate/ci").glob("*.yaml"))}


def golden(name, path):
    """What the chart renders for one scenario."""
    text = template("charts/cedargate", "--values", path, release="demo", namespace="shop")
    return {f"tests/charts/golden/{name}.yaml": text}


NETWORK_POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: cedargate
spec:
  podSelector:
    matchLabels: { cedargate.io/sidecar: "true" }
  policyTypes: [Ingress]
  ingress:
    - ports: [{ port: 8900, protocol: TCP }]
    - ports: [{ port: 8903, protocol: TCP }]
"""

COMPONENT = """\
# A Kustomize component: puts the gate into every workload with the label `cedargate.io/sidecar: "true"`.
# docs/kubernetes.md says what else a workload needs.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
resources: [networkpolicy.yaml]
patches:
  - path: sidecar.yaml
    target:
      kind: Deployment|StatefulSet|DaemonSet|ReplicaSet|Job
      labelSelector: cedargate.io/sidecar=true
"""


def kustomize():
    """The Kustomize component, from the native form of charts/sidecar.yaml."""
    text = sidecar()
    native = text[text.index("native:\n") + len("native:\n") : text.index("classic:\n")]
    head = "# Made by `.ci/charts generate` from charts/cedargate-lib; do not edit.\n"
    pod = "".join(f"    {line}\n" if line else "\n" for line in native.splitlines())
    patch = f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: any
spec:
  template:
    metadata:
      labels:
        cedargate.io/sidecar: "true"
    spec:
      terminationGracePeriodSeconds: {GRACE_SECONDS}
{pod}"""
    return {
        "charts/kustomize/kustomization.yaml": head + COMPONENT,
        "charts/kustomize/networkpolicy.yaml": head + NETWORK_POLICY,
        "charts/kustomize/sidecar.yaml": head + patch,
    }


# places of the gate's version beside Cargo.toml: file, and what stands before it
VERSIONS = [
    ("charts/cedargate/Chart.yaml", r"^version: "),
    ("charts/cedargate/Chart.yaml", r"^appVersion: "),
    ("charts/cedargate/Chart.yaml", r"name: cedargate-lib\n    version: "),
    ("charts/cedargate-lib/Chart.yaml", r"^version: "),
    ("charts/cedargate-lib/Chart.yaml", r"^appVersion: "),
    ("charts/cedargate-lib/templates/_names.tpl", r'define "cedargate.appVersion" -}}'),
    ("charts/example-app/Chart.yaml", r"alias: cedargate\n    version: "),
    ("docs/kubernetes.md", r"alias: cedargate\n       version: "),
    ("docs/kubernetes.md", r"charts/kustomize\?ref=v"),
]


def versions():
    """The version of Cargo.toml, at every place that repeats it."""
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    files = {}
    for path, before in VERSIONS:
        text = files.get(path) or (ROOT / path).read_text()
        files[path], count = re.subn(f"({before})[0-9][0-9A-Za-z.+-]*", rf"\g<1>{version}", text, flags=re.M)
        assert count == 1, f"{path}: {count} places look like `{before}`"
    return files


# what generates files, in this order: helm reads what the first steps write
STEPS = [versions, values, lambda: {"charts/sidecar.yaml": sidecar()}, kustomize]


def main():
    steps = list(STEPS)
    if sys.argv[1:] == ["accept"]:
        steps += [lambda name=name, path=path: golden(name, path) for name, path in scenarios().items()]
    for step in steps:
        for path, text in step().items():
            file = ROOT / path
            if not file.exists() or file.read_text() != text:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
                print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
