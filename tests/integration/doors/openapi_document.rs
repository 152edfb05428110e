//! The OpenAPI document: served as it is published, and true of every listener that it describes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::session_client::{log_in, portal};
use crate::support::{Answer, Gate, Setup, raw};

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

fn published() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn setup() -> Setup {
    portal().config("authzen: { identifier: 'https://pdp.example.com' }\nidentity: { oauth2_proxy: x_forwarded }")
}

/// A program of the environment `schemathesis`.
fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/tools/schemathesis/bin")
        .join(name);
    assert!(path.is_file(), "{name} is missing; run `make tools`");
    path
}

/// The listener that an item of `paths` describes.
fn listener(gate: &Gate, path: &str, item: &Value) -> SocketAddr {
    match item["servers"][0]["description"].as_str() {
        None => gate.decision,
        Some("the proxy listener") => gate.proxy,
        Some("the admin listener") => gate.admin,
        Some(other) => panic!("{path}: {other}"),
    }
}

fn ask(address: SocketAddr, method: &str, path: &str) -> Answer {
    let path = path
        .replace("{portal}", "p")
        .replace("{slug}", "p")
        .replace("{path}", "portal/p/x");
    raw(
        address,
        &method.to_ascii_uppercase(),
        &path,
        &[("content-type", "application/json")],
        b"",
    )
}

#[test]
fn the_document_is_valid_and_served_as_it_is_published() {
    let gate = setup().start();
    assert_eq!(raw(gate.decision, "GET", "/openapi.json", &[], b"").json(), published());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/openapi.json");
    let checked = Command::new(program("openapi-spec-validator")).arg(file).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn every_described_operation_exists_and_answers_with_a_described_status() {
    let gate = setup().start();
    let document = published();
    for (path, item) in document["paths"].as_object().unwrap() {
        let address = listener(&gate, path, item);
        // these take the method of the client's request
        let takes_all = ["/auth-request", "/forward-auth", "/ext-authz/{path}", "/api/v1/identity/auth"].contains(&path.as_str());
        for method in METHODS {
            // it answers when a drain has ended
            if path == "/drained" {
                continue;
            }
            let answer = ask(address, method, path);
            let status = answer.status.to_string();
            match item.get(method) {
                Some(operation) => {
                    let described: BTreeSet<&String> = operation["responses"].as_object().unwrap().keys().collect();
                    assert!(
                        described.contains(&status),
                        "{method} {path}: {status} is not one of {described:?}"
                    );
                    assert_ne!(status, "404", "{method} {path}");
                }
                None => assert!(
                    takes_all || answer.status >= 400,
                    "{method} {path} is not described: {status}"
                ),
            }
            if address == gate.decision && item.get(method).is_none() && !takes_all {
                assert_eq!(answer.status, 405, "{method} {path}");
            }
        }
    }
}

#[test]
fn answers_have_the_described_shape() {
    let gate = setup().start();
    let document = published();
    let shape = |name: &str| {
        let schema = json!({"$ref": format!("#/components/schemas/{name}"), "components": document["components"]});
        jsonschema::draft202012::new(&schema).unwrap()
    };
    let question = json!({"portal": "p", "principal": "User::\"alice\"", "action": "GET", "resource": "Path::\"/portal/p/x\""});
    let subject = json!({"type": "User", "id": "alice"});
    let evaluation = json!({"subject": subject, "action": {"name": "GET"}, "resource": {"type": "Path", "id": "/portal/p/x"}});
    let search =
        json!({"subject": {"type": "User"}, "action": {"name": "GET"}, "resource": {"type": "Path", "id": "/portal/p/x"}});
    for (path, body, asked, answered) in [
        ("/authorize", question.clone(), "Question", "Decision"),
        ("/authorize/batch", json!({"requests": [question, {}]}), "Batch", "Decisions"),
        ("/access/v1/evaluation", evaluation.clone(), "Evaluation", "EvaluationAnswer"),
        (
            "/access/v1/evaluations",
            json!({"evaluations": [evaluation, {}]}),
            "Evaluations",
            "EvaluationsAnswer",
        ),
        ("/access/v1/search/subject", search, "Batch", "SearchAnswer"),
        ("/authorize", json!({}), "", "Problem"),
    ] {
        let answer = gate.ask(path, &body).json();
        let errors: Vec<String> = shape(answered).iter_errors(&answer).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{path}: {errors:?} {answer}");
        if !asked.is_empty() && asked != "Batch" {
            assert!(shape(asked).is_valid(&body), "{path}: {body}");
        }
    }
}

/// Lets generated requests name the portal and paths of this test, and some that are not there; else nearly all would
/// get 404.
fn name_what_is_there(request: &mut Value) {
    let known = |name: &str| match name {
        "portal" | "slug" => Some(json!({"enum": ["p", "other"]})),
        "rd" => Some(json!({"enum": [
            "/portal/p/x?y=1", "/portal/p/", "https://shop.test/portal/p/x", "https://evil.test/", "//evil.test",
        ]})),
        _ => None,
    };
    match request {
        Value::Object(members) => {
            if let Some(schema) = members.get("name").and_then(Value::as_str).and_then(known) {
                members.insert("schema".to_owned(), schema);
            }
            if let Some(Value::Object(properties)) = members.get_mut("properties") {
                for (name, schema) in properties {
                    *schema = known(name).unwrap_or(schema.take());
                }
            }
            let parts = members.iter_mut().filter(|(name, _)| *name != "responses");
            parts.for_each(|(_, part)| name_what_is_there(part));
        }
        Value::Array(items) => items.iter_mut().for_each(name_what_is_there),
        _ => {}
    }
}

/// A run of an independent tool that makes requests of the document, good and bad ones, for one listener.
struct Generated<'a> {
    listener: SocketAddr,
    /// Expressions of the paths.
    include: &'a str,
    exclude: Option<&'a str>,
    headers: &'a [&'a str],
    /// The operations that it must find.
    operations: usize,
}

impl Generated<'_> {
    fn check(&self) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("openapi.json");
        let mut document = published();
        name_what_is_there(&mut document["paths"]);
        name_what_is_there(&mut document["components"]["schemas"]["Question"]);
        std::fs::write(&file, document.to_string()).unwrap();
        let exclude = self.exclude.iter().flat_map(|paths| ["--exclude-path-regex", *paths]);
        let headers = self.headers.iter().flat_map(|header| ["--header", *header]);
        let run = Command::new(program("schemathesis"))
            .arg("run")
            .arg(&file)
            .args(["--url", &format!("http://{}", self.listener)])
            .args([
                "--checks",
                "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,allow_header_conformance",
            ])
            .args(["--include-path-regex", self.include])
            .args(exclude)
            .args(headers)
            .args(["--phases", "examples,fuzzing", "--max-examples", "10", "--seed", "7"])
            .args(["--max-redirects", "0", "--no-color", "--workers", "1", "--request-timeout", "60"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&run.stdout);
        assert!(text.contains(&format!("Tested: {}", self.operations)), "{text}");
        assert!(run.status.success(), "{text}\n{}", String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn no_generated_question_gets_a_server_error_or_an_undescribed_status() {
    let gate = setup().start();
    Generated {
        listener: gate.decision,
        include: "^/(authorize|access|portals|[.]well-known|openapi|auth-request|forward-auth|ext-authz)",
        exclude: None,
        headers: &[],
        operations: 19,
    }
    .check();
}

#[test]
fn no_generated_request_to_the_admin_listener_gets_a_server_error_or_an_undescribed_status() {
    let gate = setup().start();
    Generated {
        listener: gate.admin,
        include: "^/(livez|healthz|startupz|readyz|metrics|status)",
        exclude: None,
        headers: &[],
        operations: 6,
    }
    .check();
}

/// Every endpoint of the proxy listener, without a credential: also the stream of events, which ends at once.
#[test]
fn no_generated_request_without_a_credential_gets_a_server_error_or_an_undescribed_status() {
    let gate = setup().start();
    Generated {
        listener: gate.proxy,
        include: "^/api/v1/identity/",
        exclude: None,
        headers: &[],
        operations: 25,
    }
    .check();
}

/// The same for a browser with a session, as a script and as a navigation; what ends the session is the next test's.
#[test]
fn no_generated_request_of_a_session_gets_a_server_error_or_an_undescribed_status() {
    let gate = setup().start();
    let cookie = log_in(&gate, "alice");
    let header = format!("Cookie: {cookie}");
    for style in [&["Accept: */*"][..], &["Accept: text/html", "Sec-Fetch-Mode: navigate"]] {
        let mut headers = vec![header.as_str(), "Sec-Fetch-Site: same-origin"];
        headers.extend(style);
        Generated {
            listener: gate.proxy,
            include: "^/api/v1/identity/",
            exclude: Some("(logout|sign_out|auth/sessions|events)$"),
            headers: &headers,
            operations: 18,
        }
        .check();
        let session = raw(
            gate.proxy,
            "GET",
            "/api/v1/identity/auth/session",
            &[("cookie", &cookie)],
            b"",
        );
        assert_eq!(session.status, 200, "{session:?}");
    }
}

#[test]
fn no_generated_logout_gets_a_server_error_or_an_undescribed_status() {
    let gate = setup().start();
    for (include, operations) in [("auth/logout$", 1), ("sign_out$", 2), ("auth/sessions$", 2)] {
        let cookie = format!("Cookie: {}", log_in(&gate, "alice"));
        Generated {
            listener: gate.proxy,
            include,
            exclude: None,
            headers: &[&cookie, "Sec-Fetch-Site: same-origin"],
            operations,
        }
        .check();
    }
}
