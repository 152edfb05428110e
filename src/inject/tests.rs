//! The laws of inject: the way back is the text before, twice is once, and nothing but the sidecar is added.

use proptest::prelude::*;

use super::sidecar::Sidecar;
use super::tree::{Node, parse};
use super::value::Value;
use super::*;

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop # the shop
spec:
  selector: { matchLabels: { app: shop } }
  template:
    metadata:
      labels: &labels { app: shop }
    spec:
      containers:
      # the app
      - name: shop
        image: shop:1
        ports:
        - {containerPort: 3000, name: http}
        livenessProbe:
          httpGet:
            path: /healthz   # health
            port: http
            httpHeaders: [{name: Host, value: shop.test}]
          timeoutSeconds: 3
        readinessProbe: {tcpSocket: {port: 3000}, periodSeconds: 3}
        startupProbe:
          tcpSocket:
            port: \"http\"
        # trailing comment of shop
      # end of containers
      terminationGracePeriodSeconds: 10
";

fn with(text: &str, options: &Options) -> Result<String, Refusal> {
    let changed = inject(&[text.to_owned()], options)?;
    Ok(changed.into_iter().map(|changed| changed.text).collect())
}

fn without(text: &str) -> String {
    let changed = uninject(&[text.to_owned()], &Options::default()).unwrap_or_else(|refusal| panic!("{refusal}\n{text}"));
    changed.into_iter().map(|changed| changed.text).collect()
}

fn classic() -> Options {
    Options {
        mode: Mode::Classic,
        ..Options::default()
    }
}

fn on_port(port: u16) -> Options {
    Options {
        app_port: Some(PortChoice::Number(port)),
        ..Options::default()
    }
}

/// Injects, checks the laws, and returns the result.
fn checked(text: &str, options: &Options) -> String {
    let injected = with(text, options).unwrap_or_else(|refusal| panic!("{refusal}\n{text}"));
    assert_ne!(injected, text, "nothing was injected");
    assert_eq!(without(&injected), text, "the way back");
    assert_eq!(with(&injected, options).as_deref(), Ok(injected.as_str()), "twice is once");
    let (before, after) = (parse(text).unwrap(), parse(&injected).unwrap());
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        let (before, after) = (Value::of(&before.root), Value::of(&after.root));
        if let (Some(before), Some(after)) = (before, after) {
            let (before, after) = (emptied(before).flow(), emptied(stripped(&after)).flow());
            assert_eq!(before, after, "more than the sidecar changed:\n{text}\n{injected}");
        }
    }
    injected
}

/// The value without what inject adds, found apart from its own removal. Probes and targets of Services get their marks
/// back from the record.
fn stripped(value: &Value) -> Value {
    match value {
        Value::List(items) => Value::List(
            items
                .iter()
                .filter(|item| {
                    let name = item.get("name").and_then(Value::as_text).unwrap_or_default();
                    !(name == "cedargate" || name.starts_with("cedargate-"))
                })
                .map(stripped)
                .collect(),
        ),
        Value::Map(entries) => {
            let record = value
                .get("metadata")
                .and_then(|metadata| metadata.get("annotations")?.get(record::ANNOTATION)?.as_text());
            let record: record::Record = record.map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default();
            let mut kept = Vec::new();
            for (key, below) in entries {
                let mut below = stripped(below);
                if key == "spec" {
                    below = unmarked(below, &record);
                }
                if key == record::ANNOTATION || (key == "metadata" && record.has_created(key)) {
                    continue;
                }
                if key == "metadata" && record.has_created("annotations") {
                    below = match below {
                        Value::Map(entries) => Value::Map(entries.into_iter().filter(|(key, _)| key != "annotations").collect()),
                        other => other,
                    };
                }
                if record.nulls.contains_key(key) {
                    below = Value::Plain("null".to_owned());
                }
                kept.push((key.clone(), below));
            }
            Value::Map(kept)
        }
        other => other.clone(),
    }
}

/// A pod's or Service's `spec` with the created lists, probes and targets as the record says they were.
fn unmarked(spec: Value, record: &record::Record) -> Value {
    let Value::Map(entries) = spec else { return spec };
    let was = |text: &str| Value::of(&parse(text).unwrap()[0].root).unwrap();
    let mut kept: Vec<(String, Value)> = entries.into_iter().filter(|(key, _)| !record.has_created(key)).collect();
    for (_, below) in kept.iter_mut().filter(|(key, _)| record.nulls.contains_key(key)) {
        *below = Value::Plain("null".to_owned());
    }
    for (key, below) in &mut kept {
        if let (Some(text), "terminationGracePeriodSeconds") = (&record.grace, key.as_str()) {
            *below = was(text);
        }
        let Some(items) = below.items_mut() else { continue };
        if key == "ports" {
            for port in &record.ports {
                let Value::Map(entries) = &mut items[port.at] else {
                    panic!("a port")
                };
                match &port.target {
                    Some(text) => entries
                        .iter_mut()
                        .filter(|(key, _)| key == "targetPort")
                        .for_each(|(_, to)| *to = was(text)),
                    None => entries.retain(|(key, _)| key != "targetPort"),
                }
            }
        }
        for item in items.iter_mut().filter(|_| key == "containers") {
            if let Value::Map(fields) = item {
                fields.retain(|(key, _)| record.hook.as_deref() != Some("lifecycle") || key != "lifecycle");
            }
            if let (Some("preStop"), Some(Value::Map(hooks))) = (record.hook.as_deref(), item.get_mut("lifecycle")) {
                hooks.retain(|(key, _)| key != "preStop");
            }
            for probe in &record.probes {
                let Some(Value::Map(handlers)) = item.get_mut(&probe.probe) else {
                    continue;
                };
                for (name, handler) in handlers.iter_mut().filter(|(name, _)| name == "httpGet") {
                    let Value::Map(fields) = handler else { panic!("a handler") };
                    if let Some(key) = &probe.handler_key {
                        *name = key.trim_matches('"').to_owned();
                    }
                    for (key, _) in fields.iter_mut().filter(|(key, _)| key == "path" && probe.path_key.is_some()) {
                        *key = "service".to_owned();
                    }
                    fields
                        .iter_mut()
                        .filter(|(key, _)| key == "port")
                        .for_each(|(_, to)| *to = was(&probe.port));
                    match &probe.path {
                        Some(text) => fields
                            .iter_mut()
                            .filter(|(key, _)| key == "path" || key == "service")
                            .for_each(|(_, to)| *to = was(text)),
                        None => fields.retain(|(key, _)| key != "path"),
                    }
                }
            }
        }
    }
    Value::Map(kept)
}

/// The value with one form of empty: null, an empty list and an empty mapping are the same to Kubernetes.
fn emptied(value: Value) -> Value {
    match value {
        Value::List(items) if !items.is_empty() => Value::List(items.into_iter().map(emptied).collect()),
        Value::Map(entries) if !entries.is_empty() => {
            Value::Map(entries.into_iter().map(|(key, below)| (key, emptied(below))).collect())
        }
        Value::List(_) | Value::Map(_) => Value::Plain("null".to_owned()),
        scalar => scalar,
    }
}

fn find<'a>(node: &'a Node, path: &[&str]) -> &'a Node {
    path.iter().fold(node, |node, step| match step.parse::<usize>() {
        Ok(number) => &node.items()[number],
        Err(_) => node.value(step).unwrap_or_else(|| panic!("no {step} of {path:?}")),
    })
}

#[test]
fn a_deployment_gets_the_sidecar_and_keeps_its_comments_and_order() {
    let injected = checked(DEPLOYMENT, &Options::default());
    let rest: Vec<&str> = injected.lines().collect();
    let kept: Vec<&str> = DEPLOYMENT.lines().filter(|line| rest.contains(line)).collect();
    let changed: Vec<&str> = DEPLOYMENT.lines().filter(|line| !rest.contains(line)).collect();
    assert_eq!(
        changed,
        [
            "            path: /healthz   # health",
            "            port: http",
            "        readinessProbe: {tcpSocket: {port: 3000}, periodSeconds: 3}",
            "          tcpSocket:",
            "            port: \"http\"",
            "      terminationGracePeriodSeconds: 10",
        ]
    );
    assert!(kept.contains(&"        # trailing comment of shop"));
    assert!(injected.contains(
        "        # trailing comment of shop\n        lifecycle:\n          preStop:\n            httpGet:\n              path: /drained\n              port: 8903\n"
    ));
    assert!(injected.contains("      terminationGracePeriodSeconds: 55\n"));
    assert!(
        injected.contains("            path: /app/livez   # health\n            port: 8903\n"),
        "{injected}"
    );
    assert!(injected.contains("readinessProbe: {httpGet: {path: \"/app/readyz\", port: 8903}, periodSeconds: 3}"));
    assert!(injected.contains("          httpGet:\n            path: /app/startupz\n            port: 8903\n"));
    let documents = parse(&injected).unwrap();
    let env = find(
        &documents[0].root,
        &["spec", "template", "spec", "initContainers", "0", "env"],
    )
    .items();
    let value = |name: &str| {
        let entry = env
            .iter()
            .find(|one| one.value("name").unwrap().text() == Some(name))
            .unwrap();
        entry.value("value").unwrap().text().unwrap().to_owned()
    };
    assert_eq!(value("CEDARGATE_UPSTREAM__URL"), "http://127.0.0.1:3000");
    let probes: serde_json::Value = serde_json::from_str(&value("CEDARGATE_UPSTREAM__PROBES")).unwrap();
    assert_eq!(
        probes,
        serde_json::json!({
            "livez": { "url": "http://127.0.0.1:3000/healthz", "headers": ["Host: shop.test"], "timeout": "2900ms" },
            "readyz": { "tcp": "127.0.0.1:3000", "timeout": "900ms" },
            "startupz": { "tcp": "127.0.0.1:3000", "timeout": "900ms" },
        })
    );
}

#[test]
fn a_grpc_probe_becomes_an_http_probe_of_the_gate() {
    let probes = "        livenessProbe:\n          grpc:\n            port: 3000\n            service: shop.v1 # which\n        readinessProbe: {\"grpc\": {\"port\": 3000}}\n";
    let start = DEPLOYMENT.find("        livenessProbe").unwrap();
    let end = DEPLOYMENT.find("        # trailing").unwrap();
    let text = format!("{}{probes}{}", &DEPLOYMENT[..start], &DEPLOYMENT[end..]);
    let injected = checked(&text, &Options::default());
    assert!(
        injected.contains("          httpGet:\n            port: 8903\n            path: /app/livez # which\n"),
        "{injected}"
    );
    assert!(
        injected.contains("readinessProbe: {\"httpGet\": {\"path\": \"/app/readyz\", \"port\": 8903}}\n"),
        "{injected}"
    );
    assert!(
        injected.contains(r#""livez": {"grpc": "127.0.0.1:3000", "service": "shop.v1", "timeout": "900ms"}"#),
        "{injected}"
    );
}

#[test]
fn the_end_of_the_app_waits_for_the_gate() {
    let pod = |more: &str| {
        format!("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: a\n    ports: [{{containerPort: 80}}]\n{more}")
    };
    let hook = "preStop:\n        httpGet:\n          path: /drained\n          port: 8903\n";
    for (more, expected) in [
        ("", "    lifecycle:\n      preStop:"),
        (
            "    lifecycle:\n      postStart: {exec: {command: [x]}}\n",
            "postStart: {exec: {command: [x]}}\n      preStop:",
        ),
        ("    lifecycle:\n", &format!("    lifecycle:\n      {hook}")),
        (
            "    lifecycle: {}\n",
            "lifecycle: {\"preStop\": {\"httpGet\": {\"path\": \"/drained\", \"port\": 8903}}}",
        ),
        (
            "    lifecycle: null # none\n",
            "lifecycle: {\"preStop\": {\"httpGet\": {\"path\": \"/drained\", \"port\": 8903}}} # none",
        ),
        (
            "    lifecycle: {preStop: {sleep: {seconds: 5}}}\n",
            "    lifecycle: {preStop: {sleep: {seconds: 5}}}\n",
        ),
        (
            "  terminationGracePeriodSeconds: 30 # short\n",
            "  terminationGracePeriodSeconds: 55 # short\n",
        ),
        (
            "  terminationGracePeriodSeconds: 300\n",
            "  terminationGracePeriodSeconds: 300\n",
        ),
        ("", "  terminationGracePeriodSeconds: 55\n"),
    ] {
        for options in [Options::default(), classic()] {
            let injected = checked(&pod(more), &options);
            assert!(injected.contains(expected), "{expected}\nis not in\n{injected}");
        }
    }
    let changed = inject(
        &[pod("    lifecycle: {preStop: {sleep: {seconds: 5}}}\n")],
        &Options::default(),
    )
    .unwrap();
    assert!(
        changed[0].changes[0]
            .notes
            .iter()
            .any(|note| note.contains("keeps its own preStop"))
    );
    let longer = checked(&pod(""), &Options::default()).replace("Seconds: 55", "Seconds: 90");
    assert_eq!(
        without(&longer),
        pod("  terminationGracePeriodSeconds: 90\n"),
        "a change since then stays"
    );
}

#[test]
fn the_container_is_the_charts_own() {
    for (options, list) in [(Options::default(), "initContainers"), (classic(), "containers")] {
        let injected = checked(DEPLOYMENT, &options);
        let documents = parse(&injected).unwrap();
        let spec = find(&documents[0].root, &["spec", "template", "spec"]);
        let mut container = Value::of(spec.value(list).unwrap().items().last().unwrap()).unwrap();
        let chart = Sidecar::of_chart(options.mode).unwrap();
        let own = chart.container.get("env").unwrap().items().len();
        let env = container.get_mut("env").unwrap().items_mut().unwrap();
        let added: Vec<_> = env.drain(own..).collect();
        assert_eq!(added.len(), 2);
        assert_eq!(container.json(), chart.container.json());
        let volumes = Value::of(spec.value("volumes").unwrap()).unwrap();
        assert_eq!(volumes.json(), Value::List(chart.volumes).json());
    }
}

#[test]
fn names_of_the_options_are_in_the_result() {
    let options = Options {
        image: Some("registry.test/gate@sha256:abc".to_owned()),
        config_map: Some("shop-gate".to_owned()),
        shared: Some("shop-shared".to_owned()),
        schemas: Some("shop-schemas".to_owned()),
        policies: vec![
            PortalMaps {
                slug: "customer".to_owned(),
                config_maps: vec!["customer-1".to_owned(), "customer-2".to_owned()],
            },
            PortalMaps {
                slug: "admin".to_owned(),
                config_maps: vec!["admin".to_owned()],
            },
        ],
        ..Options::default()
    };
    let injected = checked(DEPLOYMENT, &options);
    let documents = parse(&injected).unwrap();
    let spec = find(&documents[0].root, &["spec", "template", "spec"]);
    let container = Value::of(find(spec, &["initContainers", "0"])).unwrap().json();
    assert_eq!(container["image"], "registry.test/gate@sha256:abc");
    let mounts = container["volumeMounts"].as_array().unwrap();
    let of = |name: &str| {
        mounts
            .iter()
            .find(|mount| mount["name"] == name)
            .map(|mount| &mount["mountPath"])
    };
    assert_eq!(of("cedargate-policies-customer").unwrap(), "/etc/cedargate/policies/customer");
    assert_eq!(of("cedargate-policies-admin").unwrap(), "/etc/cedargate/policies/admin");
    assert_eq!(of("cedargate-policies-app"), None);
    let volumes = Value::of(spec.value("volumes").unwrap()).unwrap().json();
    let maps = |name: &str| {
        let volume = volumes
            .as_array()
            .unwrap()
            .iter()
            .find(|volume| volume["name"] == name)
            .unwrap()
            .clone();
        let sources = volume["projected"]["sources"].as_array().unwrap().clone();
        sources
            .iter()
            .map(|source| source["configMap"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(maps("cedargate-policies-customer"), ["customer-1", "customer-2"]);
    assert_eq!(maps("cedargate-policies-admin"), ["admin"]);
    assert_eq!(maps("cedargate-config"), ["shop-gate"]);
    assert_eq!(maps("cedargate-policies-shared"), ["shop-shared"]);
    assert_eq!(maps("cedargate-schemas"), ["shop-schemas"]);
}

#[test]
fn an_older_sidecar_is_renewed() {
    let old = Options {
        image: Some("ghcr.io/cedargate/cedargate:0.0.1".to_owned()),
        ..classic()
    };
    let older = checked(DEPLOYMENT, &old);
    let renewed = with(&older, &Options::default()).unwrap();
    assert_eq!(renewed, with(DEPLOYMENT, &Options::default()).unwrap());
}

#[test]
fn every_kind_with_pods_gets_the_sidecar_and_others_pass_untouched() {
    let spec = "{containers: [{name: a, image: a, ports: [{containerPort: 80}]}]}";
    for (version, kind, shape) in [
        ("v1", "Pod", "spec: SPEC"),
        ("v1", "ReplicationController", "spec: {template: {spec: SPEC}}"),
        ("apps/v1", "Deployment", "spec: {template: {spec: SPEC}}"),
        ("apps/v1beta2", "StatefulSet", "spec: {template: {spec: SPEC}}"),
        ("apps/v1", "DaemonSet", "spec: {template: {metadata: {}, spec: SPEC}}"),
        (
            "apps/v1",
            "ReplicaSet",
            "spec: {template: {metadata: {annotations: {a: b}}, spec: SPEC}}",
        ),
        ("extensions/v1beta1", "Deployment", "spec: {template: {spec: SPEC}}"),
        ("batch/v1", "Job", "spec: {template: {spec: SPEC}}"),
        ("batch/v1", "CronJob", "spec: {jobTemplate: {spec: {template: {spec: SPEC}}}}"),
        ("argoproj.io/v1alpha1", "Rollout", "spec: {template: {spec: SPEC}}"),
    ] {
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n{}\n",
            shape.replace("SPEC", spec)
        );
        checked(&text, &Options::default());
        let list = format!(
            "apiVersion: v1\nkind: List\nitems:\n- {}",
            text.trim_end().replace('\n', "\n  ")
        );
        checked(&list, &Options::default());
    }
    for (version, kind) in [
        ("batch.volcano.sh/v1alpha1", "Job"),
        ("serving.knative.dev/v1", "Service"),
        ("apps.openshift.io/v1", "DeploymentConfig"),
        ("v1", "ConfigMap"),
        ("v1", "Service"),
    ] {
        let text =
            format!("# kept\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{template: {{spec: {spec}}}}}");
        assert_eq!(with(&text, &Options::default()).unwrap(), text);
        assert_eq!(without(&text), text);
    }
    for text in [
        "",
        "\n",
        "# nothing\n",
        "---\n---\n",
        "a: &x [1]\nb: *x\n",
        "? {a: b}\n: c\n",
        "- 1\n",
        "text",
    ] {
        assert_eq!(with(text, &Options::default()).unwrap(), text);
    }
}

#[test]
fn services_in_front_of_the_workload_lead_to_the_gate() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: shop\nspec:\n  selector: {app: shop}\n  ports:\n  - port: 80 # web\n    targetPort: http\n  - name: direct\n    port: 3000\n  - {port: 9090, name: metrics}\n  - {port: 53, targetPort: 3000, protocol: UDP}\n";
    let other = service.replace("app: shop", "app: other");
    let elsewhere = service.replace("name: shop\n", "name: shop\n  namespace: elsewhere\n");
    let injected = checked(&format!("{DEPLOYMENT}{service}{other}{elsewhere}"), &Options::default());
    assert!(
        injected.contains("  - port: 80 # web\n    targetPort: 8900\n  - targetPort: 8900\n    name: direct\n    port: 3000\n"),
        "{injected}"
    );
    assert_eq!(injected.matches("targetPort: 8900").count(), 2, "{injected}");
    assert!(injected.contains("protocol: UDP") && injected.contains("targetPort: 3000"));
    // in a file of its own, and before the workload
    let texts = [service.to_owned(), DEPLOYMENT.to_owned()];
    let both = inject(&texts, &Options::default()).unwrap();
    assert!(both[0].text.contains("targetPort: 8900"));
    assert!(
        both[0].changes[0].notes.iter().any(|note| note.contains("9090")),
        "{:?}",
        both[0].changes
    );
    let back = uninject(
        &both.iter().map(|one| one.text.clone()).collect::<Vec<_>>(),
        &Options::default(),
    )
    .unwrap();
    assert_eq!(back.iter().map(|one| one.text.clone()).collect::<Vec<_>>(), texts);
}

#[test]
fn only_the_named_objects_change() {
    let pod = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  containers:\n  - name: a\n    ports: [{{containerPort: 80}}]\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{port: 80}}]}}\n"
        )
    };
    let text = format!("{}---\n{}", pod("one"), pod("two"));
    let only = |name: &str| Options {
        only: vec![format!("Pod/{name}")],
        ..Options::default()
    };
    let one = with(&text, &only("one")).unwrap();
    assert_eq!(
        one.matches("name: cedargate\n").count(),
        2,
        "the container and the ConfigMap of one pod"
    );
    assert!(one.ends_with(&pod("two")));
    let both = with(&one, &only("two")).unwrap();
    assert_eq!(
        both,
        with(&text, &Options::default()).unwrap(),
        "the first pod and its Service stay injected"
    );
    let unknown = with(&text, &only("three")).unwrap_err().to_string();
    assert!(
        unknown.contains("Pod/three") && unknown.contains("Pod/one, Pod/two"),
        "{unknown}"
    );
    let back: String = uninject(&[both], &only("two"))
        .unwrap()
        .into_iter()
        .map(|one| one.text)
        .collect();
    assert_eq!(back, one);
}

#[test]
fn a_template_of_a_single_layout_survives_each_end_of_the_text() {
    let block = "kind: Pod\napiVersion: v1\nspec:\n  containers:\n  - name: a\n    ports:\n    - containerPort: 80";
    for end in [
        "",
        "\n",
        "\n\n",
        "\n...\n",
        "\n---\n",
        "\n# end",
        "\n  # inner\n",
        "  # beside",
        "\n    \n",
        "   ",
    ] {
        for (from, to) in [
            ("", ""),
            ("\n", "\r\n"),
            ("- name: a\n    ports:\n    -", "-   name: a\n      ports:\n      -"),
        ] {
            for options in [Options::default(), classic()] {
                let text = format!("{block}{end}");
                let text = if from.is_empty() { text } else { text.replace(from, to) };
                checked(&text, &options);
                checked(&format!("\u{feff}{text}"), &options);
            }
        }
    }
}

#[test]
fn block_scalars_keep_their_value_at_the_end_of_a_list() {
    for header in ["|", "|-", "|+", ">", ">-", ">+", "|2"] {
        for tail in ["", "\n", "\n\n", "\n\n\n", "\n\n# c\n", "\n      # deeper\n"] {
            let text = format!(
                "kind: Pod\napiVersion: v1\nspec:\n  containers:\n  - name: a\n    ports: [{{containerPort: 80}}]\n    args:\n    - {header}\n        one\n\n        # no comment{tail}"
            );
            match with(&text, &Options::default()) {
                Ok(_) => drop(checked(&text, &Options::default())),
                // a kept end without a line break cannot be followed by anything
                Err(refusal) => assert!(refusal.reason.contains("cannot be edited safely"), "{refusal}\n{text}"),
            }
        }
    }
}

#[test]
fn what_cannot_be_done_safely_is_refused_with_object_field_and_line() {
    let pod = |spec: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec:\n{spec}");
    let app = "  containers:\n  - name: a\n    ports: [{containerPort: 80}]\n";
    for (spec, options, expected, line) in [
        (
            format!("  hostNetwork: true\n{app}"),
            Options::default(),
            "spec.hostNetwork: with the host's network",
            5,
        ),
        (
            app.replace("80", "8900"),
            Options::default(),
            "spec.containers[0].ports[0]: port 8900",
            7,
        ),
        (app.replace("80", "8903"), Options::default(), "port 8903", 7),
        (
            app.replace("80", "80, hostPort: 80"),
            Options::default(),
            "ports[0].hostPort: leads from the node",
            7,
        ),
        (
            app.replace("80", "80}, {containerPort: 81, name: m"),
            Options::default(),
            "--app-port: 80, 81 (m)",
            6,
        ),
        (
            app.replace("[{containerPort: 80}]", "[]"),
            Options::default(),
            "declares no TCP port",
            6,
        ),
        (app.replace("80", "0"), Options::default(), "is not a port", 7),
        (
            app.replace("80", "'{{ .Values.port }}'"),
            Options::default(),
            "render it first",
            7,
        ),
        (
            app.replace("name: a", "name: {{ x }}"),
            Options::default(),
            "render it first",
            6,
        ),
        (app.to_owned(), on_port(8901), "the app's port 8901", 6),
        (
            app.to_owned(),
            Options {
                app_port: Some(PortChoice::Name("web".to_owned())),
                ..Options::default()
            },
            "no port named `web`",
            6,
        ),
        (format!("{app}  - name: b\n"), Options::default(), "--container: a, b", 6),
        (
            app.to_owned(),
            Options {
                container: Some("b".to_owned()),
                ..Options::default()
            },
            "has no container `b` (--container); it has: a",
            6,
        ),
        (
            format!("{app}  - name: cedargate\n"),
            Options::default(),
            "named `cedargate` is there",
            8,
        ),
        (
            format!("{app}  initContainers: [{{name: cedargate}}]\n"),
            Options::default(),
            "initContainers[0]: a container",
            8,
        ),
        (
            format!("{app}  volumes:\n  - name: cedargate-run\n"),
            Options::default(),
            "spec.volumes[0]: a volume",
            9,
        ),
        (
            format!("{app}  volumes: x\n"),
            Options::default(),
            "spec.volumes: is not a list",
            8,
        ),
        (
            format!("{app}  volumes: &v []\n  other: *v\n"),
            Options::default(),
            "that line 9 repeats",
            8,
        ),
        (
            "  x: &c\n  - name: a\n    ports: [{containerPort: 80}]\n  containers: *c\n".to_owned(),
            Options::default(),
            "is an alias",
            8,
        ),
        (format!("  <<: {{a: b}}\n{app}"), Options::default(), "merge key", 5),
        (
            format!("{app}  volumes: []\n  volumes: []\n"),
            Options::default(),
            "`volumes` twice",
            5,
        ),
        (
            format!("{app}    livenessProbe: {{httpGet: {{port: 80, host: h}}}}\n"),
            Options::default(),
            "another host",
            8,
        ),
        (
            format!("{app}    livenessProbe: {{httpGet: {{port: web}}}}\n"),
            Options::default(),
            "no port named `web`",
            8,
        ),
        (
            format!("{app}    livenessProbe: {{httpGet: {{path: /}}}}\n"),
            Options::default(),
            "httpGet.port: is missing",
            8,
        ),
        (
            format!("{app}    livenessProbe: {{httpGet: {{port: 80, scheme: HTTPS}}}}\n"),
            Options::default(),
            "plain HTTP",
            8,
        ),
        (
            format!("{app}    livenessProbe: {{httpGet: {{port: &p 80}}}}\n"),
            Options::default(),
            "write it plainly",
            8,
        ),
        (
            format!("{app}    livenessProbe: {{httpGet: {{port: 80, httpHeaders: [{{name: Authorization, value: x}}]}}}}\n"),
            Options::default(),
            "no credentials",
            8,
        ),
        (
            "  restartPolicy: Never\n".to_owned(),
            Options::default(),
            "spec.containers: is missing",
            5,
        ),
    ] {
        let text = pod(&spec);
        let refusal = with(&text, &options).expect_err(&text);
        let message = refusal.to_string();
        assert!(
            message.starts_with("Pod/x: ") && message.contains(expected),
            "{message}\n{text}"
        );
        assert_eq!(refusal.line, line, "{message}\n{text}");
    }
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\nspec: {template: {spec: {containers: [{name: a, ports: [{containerPort: 80}]}]}}}\n";
    assert!(with(job, &classic()).unwrap_err().to_string().contains("never ends"));
    assert!(
        with("a: {{ .Values.x }}-{{ y }}\n", &Options::default())
            .unwrap_err()
            .reason
            .contains("helm template")
    );
    assert!(
        with("a: [\n", &Options::default())
            .unwrap_err()
            .reason
            .contains("is not YAML")
    );
    let kept = Options {
        keep_probes: true,
        ..Options::default()
    };
    let text = pod(&format!("{app}    livenessProbe: {{httpGet: {{port: 80, host: h}}}}\n"));
    assert!(checked(&text, &kept).contains("httpGet: {port: 80, host: h}"));
}

#[test]
fn a_record_that_cannot_be_read_is_refused_and_a_changed_probe_is_left_alone() {
    let injected = with(DEPLOYMENT, &Options::default()).unwrap();
    let broken = injected.replace("'{\"form\":1", "'{\"form\":7");
    let refusal = uninject(&[broken], &Options::default()).unwrap_err();
    assert!(refusal.reason.contains("form 7"), "{refusal}");
    let broken = injected.replace("'{\"form\":1", "'x");
    assert!(
        uninject(&[broken], &Options::default())
            .unwrap_err()
            .reason
            .contains("cannot be read")
    );
    let moved = injected.replace("/app/livez   # health", "/other   # health");
    assert!(without(&moved).contains("path: /other   # health\n            port: 8903"));
}

/// One way to write a value.
#[derive(Clone, Debug)]
struct Style {
    indent: usize,
    dashes_indented: bool,
    comments: bool,
    /// Of 100 collections, so many are written in flow style.
    flow: u8,
    line_end: &'static str,
    seed: u64,
}

struct Writer {
    style: Style,
    random: u64,
    out: String,
}

impl Writer {
    fn chance(&mut self, percent: u8) -> bool {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % 100 < u64::from(percent)
    }

    fn line_end(&mut self) {
        if self.style.comments && self.chance(15) {
            self.out.push_str("  # - {beside: [it");
        }
        self.out.push_str(self.style.line_end);
        if self.style.comments && self.chance(10) {
            self.out.push_str(self.style.line_end);
        }
    }

    fn comment(&mut self, column: usize) {
        if self.style.comments && self.chance(15) {
            let line = format!("{}# - name: \"above{}", " ".repeat(column), self.style.line_end);
            self.out.push_str(&line);
        }
    }

    fn block(&mut self, value: &Value, column: usize, mut first_inline: bool) {
        match value {
            Value::Map(entries) => {
                for (key, below) in entries {
                    if !std::mem::take(&mut first_inline) {
                        self.comment(column);
                        self.out.push_str(&" ".repeat(column));
                    }
                    self.out.push_str(key);
                    self.out.push(':');
                    let dedent = matches!(below, Value::List(_)) && !self.style.dashes_indented;
                    self.below(below, if dedent { column } else { column + self.style.indent });
                }
            }
            Value::List(items) => {
                for item in items {
                    self.comment(column);
                    self.out.push_str(&" ".repeat(column));
                    if self.is_block(item) {
                        self.out.push_str("- ");
                        self.block(item, column + 2, true);
                    } else {
                        self.out.push_str("- ");
                        self.out.push_str(&item.flow());
                        self.line_end();
                    }
                }
            }
            _ => panic!("scalars are written inline"),
        }
    }

    fn is_block(&mut self, value: &Value) -> bool {
        let flow = self.style.flow;
        match value {
            Value::Map(entries) => !entries.is_empty() && !self.chance(flow),
            Value::List(items) => !items.is_empty() && !self.chance(flow),
            _ => false,
        }
    }

    fn below(&mut self, value: &Value, column: usize) {
        if self.is_block(value) {
            self.line_end();
            self.block(value, column, false);
        } else if *value == Value::Plain(String::new()) {
            self.line_end();
        } else {
            self.out.push(' ');
            self.out.push_str(&value.flow());
            self.line_end();
        }
    }
}

fn map(entries: Vec<(&str, Value)>) -> Value {
    Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn plain(text: impl ToString) -> Value {
    Value::Plain(text.to_string())
}

fn any_probe() -> impl Strategy<Value = Value> {
    let path = prop_oneof![Just(None), Just(Some(plain("/healthz"))), Just(Some(Value::text("/a b")))];
    (0_usize..3, path, any::<bool>(), any::<bool>()).prop_map(|(kind, path, named, more)| {
        let port = ("port", if named { Value::text("http") } else { plain(3000) });
        let key = ["path", "service", ""][kind];
        let path = path.map(|path| (key, path)).filter(|_| !key.is_empty());
        let handler = map([Some(port), path].into_iter().flatten().collect());
        let mut entries = vec![(["httpGet", "grpc", "tcpSocket"][kind], handler)];
        if more {
            entries.insert(0, ("periodSeconds", plain(5)));
        }
        map(entries)
    })
}

/// A list that is absent, null, empty or has items.
fn any_list(key: &'static str, items: &'static [&'static str]) -> impl Strategy<Value = Option<(&'static str, Value)>> {
    let named = |name: &&str| map(vec![("name", plain(name)), ("image", Value::text("x: y # z"))]);
    let items: Vec<Value> = items.iter().map(named).collect();
    prop_oneof![
        Just(None),
        Just(Some((key, plain("")))),
        Just(Some((key, Value::List(Vec::new())))),
        Just(Some((key, Value::List(items)))),
    ]
}

fn any_manifest() -> impl Strategy<Value = Value> {
    let probes = proptest::collection::vec(proptest::option::of(any_probe()), 3);
    let annotations = prop_oneof![
        Just(None),
        Just(Some(plain(""))),
        Just(Some(map(vec![]))),
        Just(Some(map(vec![("a", Value::text("{{ x }}")), ("b", plain("c"))])))
    ];
    let has_metadata = any::<bool>();
    let hook = |name| {
        map(vec![(
            name,
            map(vec![("exec", map(vec![("command", Value::List(vec![plain("x")]))]))]),
        )])
    };
    let lifecycle = prop_oneof![
        Just(None),
        Just(Some(plain(""))),
        Just(Some(map(vec![]))),
        Just(Some(hook("postStart"))),
        Just(Some(hook("preStop"))),
    ];
    (
        probes,
        annotations,
        has_metadata,
        any_list("initContainers", &["first", "second"]),
        any_list("volumes", &["one", "two"]),
        any::<(bool, bool)>(),
        (lifecycle, proptest::option::of(prop_oneof![Just(10), Just(55), Just(100)])),
    )
        .prop_map(
            |(probes, annotations, has_metadata, init, volumes, (spec_first, more), (lifecycle, grace))| {
                let mut container = vec![
                    ("name", plain("app")),
                    (
                        "ports",
                        Value::List(vec![map(vec![("containerPort", plain(3000)), ("name", plain("http"))])]),
                    ),
                ];
                container.extend(lifecycle.map(|lifecycle| ("lifecycle", lifecycle)));
                for (probe, name) in probes.into_iter().zip(["livenessProbe", "readinessProbe", "startupProbe"]) {
                    container.extend(probe.map(|probe| (name, probe)));
                }
                let mut spec: Vec<(&str, Value)> = [init, volumes].into_iter().flatten().collect();
                spec.insert(spec.len() / 2, ("containers", Value::List(vec![map(container)])));
                if more {
                    spec.push(("nodeSelector", map(vec![])));
                }
                if let Some(seconds) = grace {
                    spec.insert(usize::from(more), ("terminationGracePeriodSeconds", plain(seconds)));
                }
                let mut template = vec![("spec", map(spec))];
                if has_metadata {
                    let labels = Some(("labels", map(vec![("app", plain("shop"))])));
                    let entries = [annotations.map(|annotations| ("annotations", annotations)), labels];
                    let at = usize::from(spec_first);
                    template.insert(at, ("metadata", map(entries.into_iter().flatten().collect())));
                }
                map(vec![
                    ("apiVersion", plain("apps/v1")),
                    ("kind", plain("Deployment")),
                    ("metadata", map(vec![("name", plain("shop"))])),
                    ("spec", map(vec![("template", map(template)), ("replicas", plain(2))])),
                ])
            },
        )
}

fn any_style() -> impl Strategy<Value = Style> {
    (
        prop_oneof![Just(2_usize), Just(3), Just(4)],
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(0_u8), Just(20), Just(60)],
        prop_oneof![Just("\n"), Just("\r\n")],
        any::<u64>(),
    )
        .prop_map(|(indent, dashes_indented, comments, flow, line_end, seed)| Style {
            indent,
            dashes_indented,
            comments,
            flow,
            line_end,
            seed,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn the_laws_hold_in_every_layout_of_yaml(manifest in any_manifest(), style in any_style(), cut in 0_usize..3, classic in any::<bool>()) {
        let mut writer = Writer { random: style.seed, style, out: String::new() };
        writer.block(&manifest, 0, false);
        let mut text = writer.out;
        match cut {
            0 => text.truncate(text.trim_end().len()),
            1 => text.push_str("---\nkind: ConfigMap\n"),
            _ => {}
        }
        let options = Options { mode: if classic { Mode::Classic } else { Mode::Native }, ..Options::default() };
        checked(&text, &options);
    }

    #[test]
    fn the_laws_hold_in_every_layout_of_json(manifest in any_manifest(), unit in prop_oneof![Just("\t"), Just("  "), Just("    ")], pretty in any::<bool>()) {
        let text = if pretty { manifest.pretty("", unit, "\n") } else { manifest.json().to_string() };
        let injected = checked(&text, &Options::default());
        prop_assert!(serde_json::from_str::<serde_json::Value>(&injected).is_ok(), "{}", injected);
    }

    #[test]
    fn no_text_makes_inject_panic(text in "[-a-z:{}\\[\\]#&*|>'\"\n ,!%?@\r\t\u{feff}é]{0,60}", put in 0_usize..400) {
        let mut broken = DEPLOYMENT.to_owned();
        if broken.is_char_boundary(put) {
            broken.insert_str(put, &text);
        }
        for text in [text, broken] {
            if let Ok(injected) = with(&text, &Options::default()) {
                prop_assert_eq!(without(&injected), without(&text));
            }
        }
    }
}
