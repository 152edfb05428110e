"""Writes every file that is made from the charts. `.ci/charts check` fails where one of them is out of date."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELM = ROOT / "target/tools/bin/helm"
# what `.Capabilities.KubeVersion` says; goldens must not depend on the version of helm
KUBERNETES = "1.35.0"


def helm(*arguments, **options):
    """Runs helm; returns what it prints. Raises CalledProcessError with its message on stderr."""
    command = [str(HELM), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, text=True, capture_output=True, timeout=60, **options).stdout


def template(chart, *arguments, release="cedargate", namespace="default"):
    """Renders a chart without the lines that name template files."""
    text = helm("template", release, chart, "--namespace", namespace, "--kube-version", KUBERNETES, *arguments)
    return "\n".join(line for line in text.splitlines() if not line.startswith("# Source:")) + "\n"


def sidecar():
    """charts/sidecar.yaml: the part of a pod that `cedargate inject` and the Kustomize component add."""
    head = "# Made by `.ci/charts generate` from charts/cedargate-lib; do not edit. `cedargate inject` has it built in.\n"
    return head + template("tests/charts/patch").removeprefix("---\n")


def generated():
    """Every generated file: path and text."""
    return {"charts/sidecar.yaml": sidecar()}


def main():
    for path, text in generated().items():
        file = ROOT / path
        if not file.exists() or file.read_text() != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
