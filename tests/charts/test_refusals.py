"""What the charts refuse, and what they say: a mistake must be found at `helm install`, not in a pod that does not start."""

import unittest

import generate
from test_charts import config_of, container_of, only, pod_of, render, sidecar

FILES = {"policies/a/x.cedar": "permit (principal, action, resource);"}
REDIS = {"enabled": True, "sessionKeySecret": {"name": "keys"}}


def folder(name, path):
    return {"name": name, "folder": path}


class Refusals(unittest.TestCase):
    def refused(self, values, *words):
        with self.assertRaises(generate.HelmError) as caught:
            render(values=values)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_a_mistyped_key_is_refused_by_its_place(self):
        for values, place in [
            ({"polices": {}}, "'polices'"),
            ({"app": {"prot": 1}}, "/app"),
            ({"config": {"upstream": {"ur": "x"}}}, "/config/upstream"),
            ({"config": {"lisen": {}}}, "/config"),
            ({"config": {"limits": {"drain_delay": 3}}}, "/config/limits/drain_delay"),
            ({"redis": {"tls": {"ca": "x"}}}, "/redis/tls"),
            ({"policies": {"configMaps": [{"name": "a", "foldr": "schemas"}]}}, "/policies/configMaps/0"),
            ({"policies": {"configMaps": [{"folder": "schemas"}]}}, "/policies/configMaps/0"),
            ({"app": {"probes": {"readiness": {"path": "healthz"}}}}, "/app/probes/readiness/path"),
            ({"app": {"probes": {"ready": {}}}}, "/app/probes"),
            ({"image": {"digest": "latest"}}, "/image/digest"),
            ({"mode": "sidcar"}, "/mode"),
            ({"service": {"port": 0}}, "/service/port"),
            ({"replicas": -1}, "/replicas"),
        ]:
            with self.subTest(values):
                self.refused(sidecar(**values), place)

    def test_a_section_taken_away_is_refused_with_its_name(self):
        for key in ["redis", "policies", "app", "image", "networkPolicy", "service", "state", "probes", "resources"]:
            with self.subTest(key):
                self.refused(sidecar(**{key: None}), f"'{key}'")

    def test_a_mode_without_what_it_needs_names_the_key(self):
        self.refused({}, "config.upstream.url")
        self.refused({"mode": "sidecar"}, "workload.container.image")

    def test_ports_used_twice_are_refused(self):
        def address(**listeners):
            return {"listen": {name: {"address": value} for name, value in listeners.items()}}

        self.refused(sidecar(app={"port": 8900}), "8900", "config.listen.proxy")
        self.refused(sidecar(app={"port": 8903}), "8903", "config.listen.admin")
        self.refused(sidecar(app={"port": 8901}), "8901", "config.listen.decision")
        self.refused(sidecar(config=address(admin="0.0.0.0:8900")), "8900", "proxy", "admin")
        self.refused(sidecar(config={"portals": {"b": {"upstream": "http://127.0.0.1:8903"}}}), "config.portals.b.upstream")
        self.refused(sidecar(config=address(proxy="127.0.0.1:8900")), "config.listen.proxy", "loopback")
        self.refused(sidecar(config=address(admin="127.0.0.1:8903")), "config.listen.admin", "loopback")
        self.refused(sidecar(config={"listen": {"admin": None}}), "config.listen.admin")
        self.refused(sidecar(config={"listen": {"control": None}}), "config.listen.control")

    def test_policies_from_two_kinds_of_source_are_refused(self):
        claim = {"persistentVolumeClaim": {"claimName": "policies"}}
        self.refused(sidecar(policies={"files": FILES, "volume": claim}), "files", "volume")
        self.refused(sidecar(policies={"volume": claim, "gitSync": {"repo": "https://x/y.git"}}), "volume", "gitSync")

    def test_a_bundle_takes_the_place_of_folders_and_needs_a_state(self):
        bundle = {"url": "https://files.example.com/shop.tar.gz", "keys": ["/etc/cedargate/secrets/k/k.pem"]}
        config = {"policies": {"bundle": bundle}}
        policies = config_of(render(values=sidecar(config=config)))["policies"]
        self.assertEqual(policies, {"bundle": bundle, "state_dir": "/var/lib/cedargate"})
        self.refused(sidecar(config=config, policies={"files": FILES}), "files", "config.policies.bundle")
        self.refused(sidecar(config=config, state={"enabled": False}), "state.enabled")
        self.refused(sidecar(config={"policies": {"bundle": {"urll": "x"}}}), "/config/policies/bundle")

    def test_paths_that_do_not_fit_the_tree_are_refused(self):
        for path in ["policies", "policies/", "/policies/a/x.cedar", "policies/../x", "policies/a//x.cedar", "x.cedar",
                     "policies/a/./x.cedar", "policies/a/x y.cedar", "secrets/x", "policies/a/..", "policies/a/é.cedar"]:
            with self.subTest(path):
                self.refused(sidecar(policies={"files": {path: "x"}}), f"`{path}`")
        for path in ["policy/a", "policies", "policies/", "schemas/a", "/schemas", "policies/A", "policies/a/b/c/d", ""]:
            with self.subTest(path):
                self.refused(sidecar(policies={"configMaps": [folder("m", path)]}), "`m`")

    def test_files_that_collide_are_refused(self):
        self.refused(sidecar(policies={"files": {"policies/a/b.cedar": "", "policies/a.b.cedar": ""}}), "same key")
        same = {"name": "m", "items": {"k": "policies/a/x.cedar"}}
        self.refused(sidecar(policies={"files": FILES, "configMaps": [same]}), "two sources", "policies/a/x.cedar")
        self.refused(sidecar(policies={"files": FILES, "configMaps": [folder("m", "policies/b")]}), "`m`", "by folder")
        both = {"name": "m", "folder": "schemas", "items": {"a": "schemas/a"}}
        self.refused(sidecar(policies={"configMaps": [both]}), "`folder` and `items`")
        self.refused(sidecar(policies={"configMaps": [{"name": "m"}]}), "`m` needs")

    def test_a_file_too_large_for_a_config_map_is_refused(self):
        self.refused(sidecar(policies={"files": {"policies/a/x.cedar": "x" * 900_000}}), "policies/a/x.cedar", "bundle")

    def test_a_probe_has_one_target(self):
        self.refused(sidecar(app={"probes": {"liveness": {"path": "/", "grpc": True}}}), "app.probes.liveness")

    def test_redis_needs_one_address_and_keys(self):
        self.refused(sidecar(redis=REDIS), "exactly one", "none")
        self.refused(sidecar(redis={**REDIS, "url": "redis://a", "cluster": ["redis://b"]}), "url, cluster")
        self.refused(sidecar(redis={"enabled": True, "url": "redis://a"}), "redis.sessionKeySecret.name")
        self.refused(sidecar(redis={**REDIS, "sentinel": {"urls": ["redis://a"]}}), "redis.sentinel.master")

    def test_a_duration_that_the_chart_cannot_read_is_refused(self):
        self.refused(sidecar(config={"limits": {"drain_timeout": "forever"}}), "`forever`")

    def test_parts_of_the_pod_that_the_chart_writes_or_that_share_the_node_are_refused(self):
        self.refused(sidecar(pod={"spec": {"containers": []}}), "pod.spec.containers")
        self.refused(sidecar(pod={"spec": {"hostNetwork": True}}), "pod.spec.hostNetwork", "loopback")

    def test_an_autoscaler_upside_down_is_refused(self):
        self.refused(sidecar(autoscaling={"enabled": True, "minReplicas": 5, "maxReplicas": 2}), "minReplicas")


class Names(unittest.TestCase):
    def names(self, **options):
        items = render(**options)
        return {item["metadata"]["name"] for item in items} | {volume["name"] for volume in pod_of(items)["volumes"]}

    def test_names_are_dns_labels_whatever_the_release_is_called(self):
        policies = {"configMaps": [folder("m", "policies/a"), folder("n", "policies/a_b"), folder("o", "policies/a-b")]}
        secrets = [{"name": "a." + "s" * 200}, {"name": "b." + "s" * 200}]
        for release in ["x", "1st", "my.release.v2", "a" * 53, "a" * 52 + "b", "cedargate"]:
            with self.subTest(release):
                values = sidecar(policies=policies, secrets=secrets, dashboards={"enabled": True})
                for name in self.names(values=values, release=release):
                    self.assertRegex(name, r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")

    def test_two_long_releases_get_two_names(self):
        one, two = (self.names(values=sidecar(), release="a" * 52 + end) for end in "bc")
        self.assertNotEqual(one, two)

    def test_volumes_of_folders_have_names_of_their_own(self):
        policies = {"configMaps": [folder(f"m{n}", path) for n, path in enumerate(
            ["policies/a/tests", "policies/a-tests", "policies/shared", "policies/_shared", "policies/" + "p" * 60 + "1",
             "policies/" + "p" * 60 + "2"])]}
        volumes = [volume["name"] for volume in pod_of(render(values=sidecar(policies=policies)))["volumes"]]
        self.assertEqual(len(volumes), len(set(volumes)), volumes)

    def test_overridden_names_are_used(self):
        items = render(values=sidecar(fullnameOverride="gate", service={"name": "orders"}))
        self.assertEqual(only(items, "Deployment")["metadata"]["name"], "gate")
        self.assertEqual(only(items, "Service")["metadata"]["name"], "orders")


class Values(unittest.TestCase):
    """Values at the edge that must render."""

    def test_empty_values_and_probes_taken_away_render(self):
        values = sidecar(
            app={"probes": {"readiness": None}}, config=None, policies={"files": {"policies/a/empty.cedar": ""}}, env=[]
        )
        app = container_of(pod_of(render(values=values)), "app")
        self.assertNotIn("readinessProbe", app)

    def test_many_files_are_divided_into_config_maps_below_a_mebibyte(self):
        files = {f"policies/p{n}/big.cedar": "// " + "x" * 400_000 for n in range(7)}
        items = render(values=sidecar(policies={"files": files}))
        maps = [item for item in items if item["kind"] == "ConfigMap" and "cedargate.yaml" not in item["data"]]
        self.assertEqual(len(maps), 4)
        for item in maps:
            self.assertLess(sum(len(text) for text in item["data"].values()), 2**20)
        sources = pod_of(items)["volumes"][0]["projected"]["sources"][1:]
        paths = {entry["path"]: item["data"][entry["key"]] for source, item in zip(sources, maps)
                 for entry in source["configMap"]["items"]}
        self.assertEqual(paths, files)

    def test_a_pod_waits_for_the_portals_that_the_values_name(self):
        maps = [folder("a", "policies/a"), folder("b", "policies/b/tests"), folder("s", "policies/_shared"),
                folder("z", "schemas")]
        for config, required in [({}, ["a", "b"]), ({"portals": {"b": {}}}, ["b"]), ({"policies": {"require": []}}, [])]:
            values = sidecar(policies={"configMaps": maps}, config=config)
            self.assertEqual(config_of(render(values=values))["policies"]["require"], required)

    def test_config_is_laid_over_the_charts_settings(self):
        config = config_of(render(values=sidecar(config={
            "listen": {"decision": None},
            "limits": {"workers": None, "connections": 1000000, "drain_delay": "2s"},
            "upstream": {"url": "http://127.0.0.1:4000", "forward_authorization": False},
            "policies": {"require": []},
        })))
        self.assertEqual(config["listen"]["decision"], None)
        self.assertEqual(config["listen"]["admin"], {"address": "0.0.0.0:8903"})
        self.assertEqual(config["limits"], {"workers": None, "connections": 1000000, "drain_delay": "2s"})
        self.assertEqual(config["upstream"]["url"], "http://127.0.0.1:4000")
        self.assertIs(config["upstream"]["forward_authorization"], False)
        self.assertEqual(config["policies"]["require"], [])

    def test_times_of_the_end_follow_the_gates_own(self):
        def times(**more):
            pod = pod_of(render(values=sidecar(**more)))
            hook = container_of(pod, "app").get("lifecycle", {}).get("preStop")
            return hook, pod["terminationGracePeriodSeconds"]

        def sleep(seconds):
            return {"sleep": {"seconds": seconds}}

        self.assertEqual(times(), ({"httpGet": {"path": "/drained", "port": 8903}}, 55))
        self.assertEqual(times(app={"preStop": "sleep"}), (sleep(35), 55))
        self.assertEqual(times(app={"preStop": "exec"}), ({"exec": {"command": ["sleep", "35"]}}, 55))
        self.assertEqual(times(app={"preStop": "none"}), (None, 55))
        limits = {"drain_delay": "500ms", "drain_timeout": "1m30s"}
        self.assertEqual(times(config={"limits": limits}, app={"preStop": "sleep", "shutdownSeconds": 0}), (sleep(91), 96))
        limits = {"drain_delay": "0s", "drain_timeout": "1h"}
        self.assertEqual(times(config={"limits": limits}, app={"preStop": "sleep"}), (sleep(3600), 3620))
