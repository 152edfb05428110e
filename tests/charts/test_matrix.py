"""A matrix of values: every pair of choices stands in one of its rows.

Each row is rendered for its Kubernetes, held against that version's schemas, and the gate reads the configuration. Whatever the
choices are, the app must not be reachable around the gate, and the pod must fit the restricted security standard.
"""

import itertools
import unittest

import kubernetes_validate
import test_charts
from test_charts import SIDECAR, TREE, VERSIONS, config_of, container_of, only, pod_of, render

SESSIONS = {"enabled": True, "sessionKeySecret": {"name": "session-keys"}}
CHOICES = {
    "kubernetes": {version: {} for version in VERSIONS},
    "mode": {
        "native": {**SIDECAR, "native": True},
        "classic": {**SIDECAR, "native": False},
        "standalone": {"mode": "standalone", "config": {"upstream": {"url": "http://app.shop.svc:3000"}}},
    },
    "policies": {
        "files": {"policies": {"files": TREE}},
        "config maps": {
            "policies": {
                "configMaps": [
                    {"name": "orders-policies", "folder": "policies/orders"},
                    {"name": "schemas", "folder": "schemas"},
                ]
            }
        },
        "volume": {"policies": {"volume": {"persistentVolumeClaim": {"claimName": "trees"}}, "volumePath": "shop/production"}},
        "bundle": {
            "config": {
                "portals": {"customer": {"match": {"path_prefix": "/"}}},
                "policies": {
                    "bundle": {
                        "url": "oci://registry.example.com/policies/shop:production",
                        "keys": ["/etc/cedargate/secrets/policy-keys/security.pem"],
                    }
                },
            },
            "secrets": [{"name": "policy-keys"}],
        },
        "git-sync": {"policies": {"gitSync": {"repo": "https://git.example.com/policies.git", "path": "shop"}}},
    },
    "sessions": {
        "none": {},
        "single": {"redis": {**SESSIONS, "url": "redis://redis.data.svc:6379/0"}},
        "single over TLS": {
            "redis": {
                **SESSIONS,
                "url": "rediss://redis.data.svc:6380/0",
                "username": "gate",
                "passwordSecret": {"name": "redis-password"},
                "tls": {"secret": "redis-tls", "certKey": "tls.crt"},
            }
        },
        "sentinel": {"redis": {**SESSIONS, "sentinel": {"urls": ["redis://sentinel.data.svc:26379"], "master": "shop"}}},
        "cluster over TLS": {
            "redis": {**SESSIONS, "cluster": ["rediss://redis-0.data.svc:6380"], "tls": {"secret": "redis-tls"}}
        },
    },
    "listener": {
        "plain": {},
        "TLS": {
            "config": {
                "listen": {
                    "proxy": {
                        "tls": {
                            "cert": "/etc/cedargate/secrets/orders-tls/tls.crt",
                            "key": "/etc/cedargate/secrets/orders-tls/tls.key",
                        }
                    }
                }
            },
            "secrets": [{"name": "orders-tls"}],
        },
    },
    "decisions": {
        "on loopback": {},
        "with a token": {
            "config": {
                "listen": {
                    "decision": {
                        "address": "0.0.0.0:8901",
                        "auth": {"tokens_file": "/etc/cedargate/secrets/decision-callers/list"},
                    }
                }
            },
            "secrets": [{"name": "decision-callers"}],
        },
    },
    "options": {
        "few": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}, "tests": {"enabled": False}},
        "default": {},
        "all": {
            "autoscaling": {"enabled": True},
            "podMonitor": {"enabled": True},
            "prometheusRule": {"enabled": True},
            "dashboards": {"enabled": True},
            "networkPolicy": {"egress": {"enabled": True}},
            "service": {"type": "LoadBalancer"},
        },
    },
}


def merged(below, above):
    """Objects are merged and lists joined; another value of `above` wins."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: merged(below[key], above[key]) if key in below and key in above else {**below, **above}[key]
                for key in {**below, **above}}
    return below + above if isinstance(below, list) and isinstance(above, list) else above


def pairs(row):
    return set(itertools.combinations(sorted(row.items()), 2))


def rows():
    """Few rows with every pair of choices: the next row has the most pairs that no earlier one has."""
    everything = [dict(zip(CHOICES, picks)) for picks in itertools.product(*CHOICES.values())]
    missing = set().union(*map(pairs, everything))
    # a walk with a stride that has no common divisor with the number of rows meets different ones early
    candidates = [everything[at * 7919 % len(everything)] for at in range(len(everything))]
    while missing:
        best = max(candidates[: len(candidates) // 4], key=lambda row: len(pairs(row) & missing))
        if not pairs(best) & missing:
            best = max(candidates, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        yield best


class Matrix(test_charts.LaidOut):
    def row(self, row, existing):
        values = {}
        for choice, pick in row.items():
            values = merged(values, CHOICES[choice][pick])
        version = row["kubernetes"]
        items = render("--kube-version", f"{version}.0", values=values)
        for item in items:
            if item["kind"] not in test_charts.CUSTOM:
                kubernetes_validate.validate(item, version, strict=True)
        pod = pod_of(items)
        self.only_the_gate_is_reached(items, row)
        self.restricted(pod)
        address = config_of(items)["listen"]["decision"]["address"]
        self.assertEqual(address, "127.0.0.1:8901" if row["decisions"] == "on loopback" else "0.0.0.0:8901")
        self.setUp()
        _, config = self.lay_out(items, pod, existing)
        self.lay_out_tree()
        answer = self.run_gate("validate", "--config", config)
        self.assertEqual(answer.returncode, 0, f"{answer.stdout}{answer.stderr}")

    def only_the_gate_is_reached(self, items, row):
        gate = {port["name"]: port["containerPort"] for port in container_of(pod_of(items))["ports"]}
        for item in items:
            if item["kind"] == "Service":
                for port in item["spec"]["ports"]:
                    self.assertIn(port["targetPort"], {*gate, *gate.values()}, item["metadata"]["name"])
        if row["options"] != "few":
            rules = only(items, "NetworkPolicy")["spec"]["ingress"]
            opened = [port["port"] for rule in rules for port in rule.get("ports", [{"port": "every port"}])]
            self.assertLessEqual(set(opened), {*gate, *gate.values()})

    def restricted(self, pod):
        self.assertTrue(pod["securityContext"]["runAsNonRoot"])
        self.assertFalse(pod.get("hostNetwork", False))
        for container in pod.get("initContainers", []) + pod["containers"]:
            if container["name"] in ("cedargate", "git-sync"):
                security = container["securityContext"]
                self.assertFalse(security["allowPrivilegeEscalation"])
                self.assertTrue(security["readOnlyRootFilesystem"])
                self.assertEqual(security["capabilities"]["drop"], ["ALL"])
            self.assertNotIn("subPath", str(container.get("volumeMounts", [])))

    def test_every_pair_of_choices_renders_and_holds_what_the_chart_promises(self):
        existing = test_charts.existing_objects()
        chosen = list(rows())
        self.assertGreaterEqual(len(chosen), 30)
        for row in chosen:
            with self.subTest(**row):
                self.row(row, existing)


if __name__ == "__main__":
    unittest.main()
