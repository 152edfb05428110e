//! `cedargate inject` as users run it: pipes, files, refusals, and what is left on the disk.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::binary::{GateFolder, GateProcess, cedargate, run};
use crate::support::{ScriptedServer, eventually, raw, response};

const POD: &str = "# mine\napiVersion: v1\nkind: Pod\nmetadata:\n  name: shop\n  labels: {app: shop}\nspec:\n  containers:\n  - name: shop # the app\n    image: shop\n    ports: [{containerPort: 3000}]\n";
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: shop}\nspec: {selector: {app: shop}, ports: [{port: 80, targetPort: 3000}]}\n";

fn piped(folder: &Path, arguments: &[&str], stdin: &[u8]) -> (i32, String, String) {
    let mut child = cedargate(&["inject"])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // a command with wrong arguments is gone already
    drop(child.stdin.take().unwrap().write_all(stdin));
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_pipe_gets_the_manifests_alone_and_back_again() {
    let folder = tempfile::tempdir().unwrap();
    let (code, injected, messages) = piped(folder.path(), &[], POD.as_bytes());
    assert_eq!(code, 0, "{messages}");
    assert!(
        injected.starts_with("# mine\n") && injected.contains("  - name: shop # the app\n"),
        "{injected}"
    );
    assert!(
        messages.contains("-: Pod/shop: added the sidecar (native)") && messages.contains("needs targetPort 8900"),
        "{messages}"
    );
    let (_, twice, _) = piped(folder.path(), &["-"], injected.as_bytes());
    assert_eq!(twice, injected);
    let (code, back, messages) = piped(folder.path(), &["--uninject"], injected.as_bytes());
    assert_eq!((code, back.as_str()), (0, POD), "{messages}");
    let (code, same, messages) = piped(folder.path(), &[], b"kind: ConfigMap\n");
    assert_eq!((code, same.as_str()), (0, "kind: ConfigMap\n"));
    assert!(messages.contains("no workload was found"), "{messages}");
}

#[test]
fn files_are_written_in_place_all_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    std::fs::write(path("pod.yaml"), POD).unwrap();
    std::fs::write(path("service.yaml"), SERVICE).unwrap();
    std::fs::write(path("bad.yaml"), POD.replace("spec:", "spec:\n  hostNetwork: true")).unwrap();
    std::fs::set_permissions(path("pod.yaml"), std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("service.yaml", path("link.yaml")).unwrap();
    let (code, out, messages) = run(folder.path(), &["inject", "--write", "pod.yaml", "bad.yaml"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(messages.starts_with("bad.yaml:8: Pod/shop: spec.hostNetwork: "), "{messages}");
    assert_eq!(read("pod.yaml"), POD, "a refusal of one file leaves all as they are");
    let (code, out, messages) = run(folder.path(), &["inject", "--write", "pod.yaml", "link.yaml"]);
    assert_eq!((code, out.as_str()), (0, ""), "{messages}");
    assert!(
        messages.contains("link.yaml: Service/shop: port 80 leads to the gate"),
        "{messages}"
    );
    assert!(read("pod.yaml").contains("name: cedargate") && read("service.yaml").contains("targetPort: 8900"));
    assert_eq!(
        std::fs::metadata(path("pod.yaml")).unwrap().permissions().mode() & 0o777,
        0o640
    );
    assert!(std::fs::symlink_metadata(path("link.yaml")).unwrap().is_symlink());
    let names = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 4, "no temporary file is left");
    let (code, ..) = run(
        folder.path(),
        &["inject", "--uninject", "--write", "pod.yaml", "service.yaml"],
    );
    assert_eq!(
        (code, read("pod.yaml").as_str(), read("service.yaml").as_str()),
        (0, POD, SERVICE)
    );
}

#[test]
fn several_files_make_one_stream_and_output_goes_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put("a.yaml", POD.trim_end());
    put("b.yaml", SERVICE);
    put("c.yaml", "%YAML 1.2\n---\nkind: ConfigMap\n");
    let files = ["inject", "a.yaml", "b.yaml", "c.yaml", "--output", "all.yaml"];
    let (code, out, messages) = run(folder.path(), &files);
    assert_eq!((code, out.as_str()), (0, ""), "{messages}");
    let all = std::fs::read_to_string(folder.path().join("all.yaml")).unwrap();
    assert!(
        all.contains("\n---\napiVersion: v1\nkind: Service\n") && all.ends_with("...\n%YAML 1.2\n---\nkind: ConfigMap\n"),
        "{all}"
    );
    let (code, ..) = run(folder.path(), &["inject", "--uninject", "all.yaml", "-o", "/dev/stdout"]);
    assert_eq!(code, 0);
    put("d.json", "{\"kind\": \"ConfigMap\"}");
    let (code, _, messages) = run(folder.path(), &["inject", "a.yaml", "d.json"]);
    assert!(code == 64 && messages.contains("use --write"), "{messages}");
}

#[test]
fn mistakes_are_named_and_messages_can_be_json() {
    let folder = tempfile::tempdir().unwrap();
    let two = POD.replace(
        "[{containerPort: 3000}]",
        "[{containerPort: 3000, name: http}, {containerPort: 9090}]",
    );
    let (code, out, messages) = piped(folder.path(), &["--format", "json"], two.as_bytes());
    let error: Value = serde_json::from_str(&messages).unwrap();
    assert_eq!((code, out.as_str()), (1, ""));
    let error = &error["error"];
    assert_eq!(
        (&error["object"], &error["field"]),
        (&"Pod/shop".into(), &"spec.containers[0].ports".into())
    );
    assert!(error["reason"].as_str().unwrap().contains("3000 (http), 9090"), "{error}");
    let (code, _, messages) = piped(folder.path(), &["--app-port", "http", "--format", "json"], two.as_bytes());
    let report: Value = serde_json::from_str(&messages).unwrap();
    assert_eq!((code, &report["objects"][0]["object"]), (0, &"Pod/shop".into()));
    for (arguments, part) in [
        (&["--app-port", "0"][..], "is not a port"),
        (&["--app-port", "70000"], "is not a port"),
        (&["--config-map", "Shop"], "is not the name of a ConfigMap"),
        (&["--policies", "shop"], "PORTAL=CONFIGMAP"),
        (&["--policies", "Shop=a"], "is not a portal's slug"),
        (&["--policies", "shop=a,,b"], "is not the name of a ConfigMap"),
        (&["--image", "a b"], "is not an image"),
        (&["--only", "shop"], "KIND/NAME"),
        (&["--write"], "--write needs the files"),
        (&["--write", "-"], "cannot be written in its place"),
        (&["-", "-"], "given twice"),
        (&["--mode", "both"], "native"),
        (&["nowhere.yaml"], "cannot read `nowhere.yaml`"),
    ] {
        let (code, out, messages) = piped(folder.path(), arguments, POD.as_bytes());
        assert!(
            code == 64 && out.is_empty() && messages.contains(part),
            "{arguments:?}: {code} {messages}"
        );
    }
    let (code, _, messages) = piped(folder.path(), &[], b"a: \xff\n");
    assert!(code == 64 && messages.contains("not UTF-8"), "{messages}");
    let (code, _, messages) = piped(folder.path(), &[], b"a: [1\n");
    assert!(code == 1 && messages.contains("is not YAML"), "{messages}");
    let (code, _, messages) = piped(folder.path(), &["--only", "Pod/other"], POD.as_bytes());
    assert!(code == 1 && messages.contains("it has: Pod/shop"), "{messages}");
}

#[test]
fn the_sidecars_variables_make_a_gate_that_asks_the_app() {
    let app = ScriptedServer::start(|head, wire| {
        let is_right = head.starts_with("GET /healthz?deep=1 ") && head.to_lowercase().contains("host: shop.test");
        wire.send(response(if is_right { "200 OK" } else { "400 No" }, b""));
    });
    let port = app.address.port();
    let http = json!({"path": "/healthz?deep=1", "port": "web", "httpHeaders": [{"name": "Host", "value": "shop.test"}]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop"}, "spec": {"containers": [{
        "name": "shop", "ports": [{"containerPort": port, "name": "web"}],
        "livenessProbe": {"httpGet": http, "timeoutSeconds": 5},
        "readinessProbe": {"tcpSocket": {"port": port}},
    }]}});
    let gate_folder = GateFolder::new("http://127.0.0.1:1", "");
    let (code, injected, messages) = piped(gate_folder.folder.path(), &[], pod.to_string().as_bytes());
    assert_eq!(code, 0, "{messages}");
    let injected: Value = serde_json::from_str(&injected).unwrap();
    let env = injected["spec"]["initContainers"][0]["env"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let variables = env.iter().map(|one| (text(&one["name"]), text(&one["value"])));
    let _gate = GateProcess(
        cedargate(&["serve"])
            .envs(variables.filter(|(name, _)| name != "CEDARGATE_CONFIG"))
            .current_dir(gate_folder.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    eventually("the gate is ready", || match gate_folder.run(&["healthcheck", "--ready"]) {
        (0, ..) => Ok(()),
        (_, _, error) => Err(error),
    });
    for probe in ["livenessProbe", "readinessProbe"] {
        let path = injected["spec"]["containers"][0][probe]["httpGet"]["path"].as_str().unwrap();
        let answer = raw(gate_folder.admin, "GET", path, &[], b"");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let status = raw(gate_folder.admin, "GET", "/status", &[], b"").json();
    assert_eq!(status["upstream"]["url"], format!("http://127.0.0.1:{port}"));
}
