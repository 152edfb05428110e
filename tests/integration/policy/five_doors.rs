//! One decision behind every door: the rows of `tests/corpus/decisions/cases.json` are decided by the proxy, by `POST
//! /authorize`, by the doors of proxies over HTTP and gRPC, by the re-check of a live connection, by a decision test
//! and by `cedargate authorize`. The records of the first two are decided again by `cedargate replay`.
//!
//! Each door must give the decision and the reason of the row. A row names its doors only if some door cannot express
//! it. The policy tree stands beside the rows; a row that names no host, scheme or address means `localhost`, `https`
//! and `127.0.0.1`, which are the defaults of a decision test.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::binary::{GateFolder, run};
use crate::support::envoy_call::{Envoy, Held};
use crate::support::{
    Answer, Gate, ISSUER, Issuer, RawConnection, ScriptedServer, Setup, eventually, holds_eventually, now, raw,
};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/decisions");
const TICK: &str = "2\r\n.\n\r\n";

/// One request and its decision.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    /// Method, path and query.
    request: String,
    host: Option<String>,
    scheme: Option<String>,
    source_ip: Option<String>,
    /// Claims of the token beside issuer, audience and times; without them the request carries no token.
    claims: Option<Value>,
    /// Action and resource as the route gives them; default: the method and the path.
    asks: Option<Asks>,
    expect: Expect,
    reason: String,
    /// The doors that can express the row; default: all.
    doors: Option<Vec<Door>>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asks {
    action: String,
    resource: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Expect {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Door {
    Proxy,
    Authorize,
    Live,
    DecisionTest,
    Cli,
}

/// Rows that a door decided in another way than the table says.
#[derive(Default)]
struct Differences(Vec<String>);

impl Row {
    fn method(&self) -> &str {
        self.request.split_once(' ').unwrap().0
    }

    /// Path and query.
    fn target(&self) -> &str {
        self.request.split_once(' ').unwrap().1
    }

    fn path(&self) -> &str {
        self.target().split('?').next().unwrap()
    }

    fn host(&self) -> &str {
        self.host.as_deref().unwrap_or("localhost")
    }

    fn scheme(&self) -> &str {
        self.scheme.as_deref().unwrap_or("https")
    }

    fn source_ip(&self) -> &str {
        self.source_ip.as_deref().unwrap_or("127.0.0.1")
    }

    fn token(&self, issuer: &Issuer) -> Option<String> {
        let mut claims = self.claims.clone()?;
        for (name, value) in [
            ("iss", json!(ISSUER)),
            ("aud", json!("shop")),
            ("iat", json!(now())),
            ("exp", json!(now() + 600)),
        ] {
            claims[name] = value;
        }
        Some(issuer.sign(&claims))
    }

    /// Header fields that give the gate this row's facts, from an address that is a trusted proxy.
    fn headers(&self, issuer: &Issuer) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("host", self.host().to_owned()),
            ("x-forwarded-proto", self.scheme().to_owned()),
            ("x-forwarded-for", self.source_ip().to_owned()),
        ];
        headers.extend(self.token(issuer).map(|token| ("authorization", format!("Bearer {token}"))));
        headers
    }

    fn expected(&self) -> (Expect, &str) {
        (self.expect, &self.reason)
    }
}

impl Differences {
    fn compare(&mut self, row: &Row, decided: (Expect, &str), detail: &str) {
        if decided != row.expected() {
            let expected = row.expected();
            self.0
                .push(format!("{}: decided {decided:?}, expected {expected:?} {detail}", row.name));
        }
    }

    #[track_caller]
    fn assert_none(self) {
        assert!(self.0.is_empty(), "{} rows differ:\n{}", self.0.len(), self.0.join("\n"));
    }
}

fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(Path::new(CORPUS).join("cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn rows_of(door: Door) -> Vec<Row> {
    let mut rows = rows();
    rows.retain(|row| row.doors.as_ref().is_none_or(|doors| doors.contains(&door)));
    assert!(rows.len() >= 20, "{door:?} decides {} rows", rows.len());
    rows
}

fn tree(name: &str) -> String {
    std::fs::read_to_string(Path::new(CORPUS).join("tree").join(name)).unwrap()
}

/// The policy files of the tree under test.
const POLICY_FILES: [&str; 3] = [
    "policies/shop/main.cedar",
    "policies/shop/portal.yaml",
    "policies/shop/_deny/incident.cedar",
];
const SCHEMA_FILE: &str = "schemas/shop.cedarschema";

fn setup() -> Setup {
    let setup = Setup::empty()
        .config(&tree("cedargate.yaml"))
        .file(SCHEMA_FILE, &tree(SCHEMA_FILE));
    POLICY_FILES.iter().fold(setup, |setup, name| setup.file(name, &tree(name)))
}

/// The decision that an answer of the proxy shows; the answer to a HEAD has no body, so its record tells the reason.
fn shown(gate: &Gate, answer: &Answer) -> (Expect, String) {
    if answer.headers.contains_key("x-app") {
        return (Expect::Allow, "permitted".to_owned());
    }
    if !answer.body.is_empty() {
        return (Expect::Deny, answer.code());
    }
    let id = answer.header("x-cedargate-decision-id");
    let reason = eventually("the refusal is recorded", || {
        let record = gate.records(1).into_iter().find(|record| record["decision_id"] == id);
        let record = record.ok_or_else(|| format!("no record {id}"))?;
        Ok::<_, String>(record["reason"].as_str().unwrap().to_owned())
    });
    (Expect::Deny, reason)
}

#[test]
fn the_table_has_rows_for_every_door_and_no_name_twice() {
    let rows = rows();
    let names: BTreeMap<&str, &Row> = rows.iter().map(|row| (row.name.as_str(), row)).collect();
    assert_eq!(names.len(), rows.len());
    assert!(rows.len() >= 30);
    for door in [Door::Proxy, Door::Authorize, Door::Live, Door::DecisionTest, Door::Cli] {
        let rows = rows_of(door);
        for expect in [Expect::Allow, Expect::Deny] {
            assert!(
                rows.iter().any(|row| row.expect == expect),
                "{door:?} never expects {expect:?}"
            );
        }
    }
    for row in rows {
        assert_eq!(row.expect == Expect::Allow, row.reason == "permitted", "{}", row.name);
    }
}

#[test]
fn the_proxy_decides_as_the_table_says() {
    let gate = setup().start();
    let mut differences = Differences::default();
    for row in rows_of(Door::Proxy) {
        let headers = row.headers(&gate.issuer);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = gate.send(row.method(), row.target(), &headers);
        let (expect, reason) = shown(&gate, &answer);
        differences.compare(&row, (expect, &reason), "");
    }
    differences.assert_none();
    assert_replayed(&gate, rows_of(Door::Proxy).len());
}

/// Another proxy asks. It forwards the client's own spelling, so a path in another spelling than the canonical one is
/// refused.
#[test]
fn the_doors_of_proxies_decide_as_the_table_says() {
    let gate = setup().start();
    for door in ["/auth-request", "/forward-auth", "/ext-authz"] {
        let mut differences = Differences::default();
        for row in rows_of(Door::Proxy) {
            let url = format!("{}://{}{}", row.scheme(), row.host(), row.target());
            let mut headers = row.headers(&gate.issuer);
            let mut method = row.method();
            let mut path = door.to_owned();
            match door {
                "/auth-request" => {
                    headers.retain(|(name, _)| *name != "x-forwarded-proto" && *name != "host");
                    headers.push(("x-original-method", std::mem::replace(&mut method, "GET").to_owned()));
                    headers.push(("x-original-url", url));
                }
                "/forward-auth" => {
                    headers.retain(|(name, _)| *name != "host");
                    headers.push(("x-forwarded-method", std::mem::replace(&mut method, "GET").to_owned()));
                    headers.push(("x-forwarded-uri", row.target().to_owned()));
                    headers.push(("x-forwarded-host", row.host().to_owned()));
                }
                _ => path.push_str(row.target()),
            }
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = raw(gate.decision, method, &path, &headers, b"");
            let id = answer.header("x-cedargate-decision-id").to_owned();
            let record = eventually("the question is recorded", || {
                let record = gate
                    .records(1)
                    .into_iter()
                    .find(|record| record["decision_id"] == id.as_str());
                record.ok_or_else(|| format!("no record {id}"))
            });
            let decided = match answer.status {
                200 => (Expect::Allow, "permitted"),
                _ => (Expect::Deny, record["reason"].as_str().unwrap()),
            };
            let is_spelled = record["http"]["path"].as_str().is_some_and(|path| path != row.path());
            if decided != (Expect::Deny, "request_invalid") || !is_spelled {
                differences.compare(&row, decided, door);
            }
        }
        differences.assert_none();
    }
}

/// Envoy asks over gRPC. It, too, forwards the client's own spelling.
#[test]
fn envoys_grpc_decides_as_the_table_says() {
    let listen =
        "listen: { proxy: { address: '127.0.0.1:0' }, admin: { address: '127.0.0.1:0' }, ext_authz: { address: '127.0.0.1:0' } }";
    let gate = setup().config(listen).start();
    let envoy = Envoy::connect(gate.ext_authz);
    let mut differences = Differences::default();
    for (at, row) in rows_of(Door::Proxy).into_iter().enumerate() {
        let headers = row.headers(&gate.issuer);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let status = envoy.check(&Held {
            method: row.method(),
            path: row.target(),
            host: row.host(),
            scheme: row.scheme(),
            source_ip: row.source_ip(),
            headers: &headers,
        });
        let record = gate.records(at + 1).swap_remove(at);
        let decided = match status {
            0 => (Expect::Allow, "permitted"),
            _ => (Expect::Deny, record["reason"].as_str().unwrap()),
        };
        let expected = if status == 0 { "allow" } else { "deny" };
        assert_eq!(
            (&record["decision"], &record["door"]),
            (&json!(expected), &json!("ext_authz")),
            "{record}"
        );
        let is_spelled = record["http"]["path"].as_str().is_some_and(|path| path != row.path());
        if decided != (Expect::Deny, "request_invalid") || !is_spelled {
            differences.compare(&row, decided, "gRPC");
        }
    }
    differences.assert_none();
}

#[test]
fn the_authorize_endpoint_decides_as_the_table_says() {
    let gate = setup().start();
    let mut differences = Differences::default();
    for row in rows_of(Door::Authorize) {
        let asks = row.asks.clone().unwrap_or_else(|| Asks {
            action: row.method().to_owned(),
            resource: format!("Path::\"{}\"", row.path()),
        });
        let mut context = json!({
            "scheme": row.scheme(),
            "host": row.host(),
            "source_ip": {"__extn": {"fn": "ip", "arg": row.source_ip()}},
        });
        if let Some((_, query)) = row.target().split_once('?') {
            let pairs = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "channel");
            let channel: BTreeMap<_, _> = pairs.collect();
            context["query"] = json!(channel);
        }
        let mut body = json!({"portal": "shop", "action": asks.action, "resource": asks.resource, "context": context});
        if let Some(token) = row.token(&gate.issuer) {
            body["token"] = json!(token);
        }
        let answer = gate.ask("/authorize", &body);
        let detail = answer.text();
        // a question that cannot be decided is answered by a problem document with its code
        let json = answer.json();
        let decided = match (answer.status, json["decision"].as_str()) {
            (200, Some("allow")) => (Expect::Allow, json["reason"].as_str().unwrap()),
            (200, Some("deny")) => (Expect::Deny, json["reason"].as_str().unwrap()),
            (400.., None) => (Expect::Deny, json["code"].as_str().unwrap()),
            _ => panic!("{}: {detail}", row.name),
        };
        differences.compare(&row, decided, &detail);
    }
    differences.assert_none();
    assert_replayed(&gate, rows_of(Door::Authorize).len());
}

/// Streams without end; the first chunk is the decision id that the gate told the app.
fn streaming_app() -> ScriptedServer {
    ScriptedServer::start(|head, connection| {
        let id = head
            .lines()
            .find_map(|line| line.strip_prefix("x-cedargate-decision-id: "))
            .unwrap();
        connection.send(format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{id}\r\n",
            id.len()
        ));
        while connection.send(TICK) {
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

/// An open stream and the id of the decision that let it in.
struct LiveRow {
    row: Row,
    connection: RawConnection,
    decision_id: String,
}

fn open_stream(gate: &Gate, row: Row) -> LiveRow {
    let mut head = format!("{} {} HTTP/1.1\r\ncontent-length: 0\r\n", row.method(), row.target());
    for (name, value) in row.headers(&gate.issuer) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut connection = RawConnection::open(gate.proxy);
    connection.send(format!("{head}\r\n"));
    let status = String::from_utf8(connection.read_until("\r\n\r\n")).unwrap();
    assert!(
        status.starts_with("HTTP/1.1 200"),
        "{}: the permissive revision refuses: {status}",
        row.name
    );
    connection.read_until("\r\n");
    let decision_id = String::from_utf8(connection.read_until("\r\n"))
        .unwrap()
        .trim_end()
        .to_owned();
    LiveRow {
        row,
        connection,
        decision_id,
    }
}

/// The reason of each recorded cut by the id of its decision.
fn cut_reasons(gate: &Gate) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap_or_default();
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    records
        .filter(|record| record["event"] == "cut")
        .map(|record| {
            let text = |name: &str| record[name].as_str().unwrap().to_owned();
            (text("decision_id"), text("reason"))
        })
        .collect()
}

/// Every stream is opened under a permissive revision, which then is replaced by the tree under test. Paths below
/// `members` and `public` are public in the permissive revision, so that rows without a token get in there.
#[test]
fn the_recheck_of_live_connections_decides_as_the_table_says() {
    let app = streaming_app();
    let routes = tree("policies/shop/portal.yaml");
    let routes = &routes[routes.find("routes:").unwrap()..];
    let public: Vec<String> = ["GET /portal/shop/news", "GET /portal/shop/public/**"]
        .into_iter()
        .chain(["GET /portal/shop/members/**", "POST /portal/shop/members/**"])
        .map(|pattern| format!("{pattern:?}"))
        .collect();
    let gate = Setup::empty()
        .config(&tree("cedargate.yaml"))
        .config(&format!("upstream: {{ url: '{}' }}", app.url()))
        .file(SCHEMA_FILE, &tree(SCHEMA_FILE))
        .file(
            "policies/shop/main.cedar",
            "@id(\"permissive\") permit (principal, action, resource);",
        )
        .file(
            "policies/shop/portal.yaml",
            // `level` has no claim here, so that a level of another type gets in
            &format!("public: [ {} ]\nclaims: {{ level: no.claim }}\n{routes}", public.join(", ")),
        )
        .start();
    let permissive = gate.revision("shop");
    assert!(permissive.is_some(), "{}", gate.status());
    let live: Vec<LiveRow> = rows_of(Door::Live).into_iter().map(|row| open_stream(&gate, row)).collect();
    // Three files change: the order keeps every revision in between as strict as the table or as permissive as before.
    for name in POLICY_FILES {
        gate.put(name, &tree(name));
    }
    let denied = live.iter().filter(|live| live.row.expect == Expect::Deny).count();
    // a missing cut is a difference of its row
    holds_eventually(|| cut_reasons(&gate).len() >= denied);
    let cuts = cut_reasons(&gate);
    let mut differences = Differences::default();
    for mut live in live {
        let reason = cuts.get(&live.decision_id);
        let decided = reason.map_or((Expect::Allow, "permitted"), |reason| (Expect::Deny, reason.as_str()));
        differences.compare(&live.row, decided, "");
        match decided.0 {
            Expect::Allow => {
                // ticks that came before the swap lie in front of these
                let alive = (0..100).all(|_| live.connection.read_until(TICK).ends_with(TICK.as_bytes()));
                assert!(alive, "{}: the stream ended without a record", live.row.name);
            }
            Expect::Deny => {
                live.connection.read_until("no such text");
                assert!(live.connection.is_closed(), "{}: the stream goes on", live.row.name);
            }
        }
    }
    differences.assert_none();
}

/// The tree under test in a folder, for the built binary.
fn folder() -> GateFolder {
    let folder = GateFolder::new("http://127.0.0.1:1", &tree("cedargate.yaml"));
    std::fs::remove_dir_all(folder.folder.path().join("policies")).unwrap();
    std::fs::remove_dir_all(folder.folder.path().join("schemas")).unwrap();
    for name in POLICY_FILES.iter().chain([&SCHEMA_FILE]) {
        folder.put(name, &tree(name));
    }
    folder
}

/// The recorded decisions are the same when they are decided again from their records; only checks before the policies
/// are not repeated.
#[track_caller]
fn assert_replayed(gate: &Gate, decisions: usize) {
    gate.records(decisions);
    let folder = folder();
    std::fs::copy(gate.path("decisions.jsonl"), folder.folder.path().join("log.jsonl")).unwrap();
    let (code, out, error) = folder.run(&["replay", "--log", "log.jsonl", "--fail-on", "flip", "--format", "json", "."]);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{error}"));
    assert_eq!(
        (code, &report["flips"], &report["other_reason"]),
        (0, &json!([]), &json!(0)),
        "{report:#}"
    );
    let not_replayed = report["not_replayed"].as_array().unwrap();
    for why in not_replayed {
        assert_eq!(why["reason"], "refused_before_policies", "{report:#}");
    }
    let refused: u64 = not_replayed.iter().map(|why| why["records"].as_u64().unwrap()).sum();
    let replayed = report["replayed"].as_u64().unwrap();
    assert_eq!(replayed + refused, decisions as u64, "{report:#}");
    assert!(replayed >= 12, "{report:#}");
}

#[test]
fn a_decision_test_decides_as_the_table_says() {
    let folder = folder();
    let rows = rows_of(Door::DecisionTest);
    let cases: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut case = json!({"name": row.name, "http": row.request, "reason": row.reason});
            case["expect"] = json!(if row.expect == Expect::Allow { "allow" } else { "deny" });
            for (name, fact) in [("host", &row.host), ("scheme", &row.scheme), ("source_ip", &row.source_ip)] {
                if let Some(fact) = fact {
                    case[name] = json!(fact);
                }
            }
            if let Some(claims) = &row.claims {
                case["claims"] = claims.clone();
            }
            case
        })
        .collect();
    // JSON is YAML
    folder.put("policies/shop/tests/table.yaml", &json!({ "cases": cases }).to_string());
    let (_, out, error) = folder.run(&["test", "--config", "cedargate.yaml", "--format", "json", "."]);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{error}"));
    let shop = &report["portals"][0];
    assert_eq!(shop["errors"], json!([]), "{report:#}");
    let results = shop["cases"].as_array().unwrap();
    assert_eq!(results.len(), rows.len());
    let failed: Vec<String> = results
        .iter()
        .filter(|result| result["verdict"] != "passed")
        .map(|result| format!("{}: {}", result["name"], result["detail"]))
        .collect();
    assert!(failed.is_empty(), "{} rows differ:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn the_authorize_command_decides_as_the_table_says() {
    let folder = folder();
    let mut differences = Differences::default();
    for row in rows_of(Door::Cli) {
        let token = row.token(&folder.issuer);
        let mut arguments = vec!["authorize", "--config", "cedargate.yaml", "--format", "json"];
        arguments.extend(["--method", row.method(), "--url", row.target()]);
        arguments.extend(["--host", row.host(), "--scheme", row.scheme()]);
        arguments.extend(["--source-ip", row.source_ip()]);
        arguments.extend(token.iter().flat_map(|token| ["--token", token]));
        let (code, out, error) = run(folder.folder.path(), &arguments);
        let Ok(report) = serde_json::from_str::<Value>(&out) else {
            differences.0.push(format!("{}: exit {code}: {out}{error}", row.name));
            continue;
        };
        let decided = if report["decision"] == "allow" {
            Expect::Allow
        } else {
            Expect::Deny
        };
        let reason = report["reason"].as_str().unwrap_or_default();
        differences.compare(&row, (decided, reason), &format!("exit {code}: {error}"));
        let exit = match (row.expect, row.reason.as_str()) {
            (Expect::Allow, _) => 0,
            (Expect::Deny, "request_invalid") => 64,
            (Expect::Deny, _) => 2,
        };
        assert!(decided != row.expect || code == exit, "{}: exit {code}", row.name);
    }
    differences.assert_none();
}
