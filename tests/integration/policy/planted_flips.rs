//! Edits with known consequences for a recorded log: `replay` and `diff --log` find exactly these, in the right groups.
//!
//! The gate records every combination of role, method and path, some of them several times, and questions of the app
//! with descriptions that the record keeps or leaves out. Each edit comes with its own rule, written here in Rust,
//! which says for every recorded request what the edited tree answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::binary::{GateFolder, free_address};
use crate::support::record_schema::check_lines;
use crate::support::{App, eventually, put, raw};

const SCHEMA: &str = "entity Tenant; entity Role; entity Portal; entity Path in [Path, Portal];
entity User in [Role, Tenant]; entity Order = { amount?: Long };
type Web = { headers?: { \"x-dept\"?: String } };
action GET, POST, DELETE appliesTo { principal: User, resource: Path, context: Web };
action approve appliesTo { principal: User, resource: Order };
";
const POLICIES: &str = r#"@id("viewers-read") permit (principal in Role::"viewer", action == Action::"GET", resource);
@id("editors-write") permit (principal in Role::"editor", action in [Action::"GET", Action::"POST"], resource is Path);
@id("owners") permit (principal in Role::"owner", action, resource is Path);
@id("closed") forbid (principal, action, resource in Path::"/portal/shop/closed");
@id("small-orders") permit (principal, action == Action::"approve", resource is Order) when { resource has amount && resource.amount < 100 };
"#;
const ROLES: [&str; 4] = ["viewer", "editor", "owner", "guest"];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
const PATHS: [&str; 3] = ["/portal/shop/orders", "/portal/shop/closed", "/portal/shop/staff"];
/// Amounts of orders that the app describes, of which the record keeps everything.
const AMOUNTS: [i64; 4] = [10, 50, 150, 500];
/// Questions with descriptions that are larger than the record keeps.
const TRUNCATED: u64 = 3;

/// One recorded request.
#[derive(Clone, Copy)]
struct Asked {
    role: &'static str,
    method: &'static str,
    path: &'static str,
}

impl Asked {
    fn all() -> impl Iterator<Item = Self> {
        let of_role = |role| {
            let of_method = move |method| PATHS.map(|path| Self { role, method, path });
            METHODS.into_iter().flat_map(of_method)
        };
        ROLES.into_iter().flat_map(of_role)
    }

    /// The number of such records.
    fn times(self) -> u64 {
        let place = |list: &[&str], word| list.iter().position(|one| *one == word).unwrap();
        1 + (place(&ROLES, self.role) + place(&METHODS, self.method) * 2 + place(&PATHS, self.path)) as u64 % 3
    }

    fn is_allowed(self) -> bool {
        self.path != PATHS[1]
            && match self.role {
                "viewer" => self.method == "GET",
                "editor" => self.method != "DELETE",
                role => role == "owner",
            }
    }
}

/// An edit and its consequences.
struct Edit {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    /// What the edited tree answers.
    is_allowed: fn(Asked) -> bool,
    /// What it answers for an order of this amount.
    is_approved: fn(i64) -> bool,
    /// True if the record hides a value that the edited tree reads.
    is_masked: fn(Asked) -> bool,
    /// The policies that flips in each direction name.
    allowed_by: &'static str,
    denied_by: &'static str,
}

impl Edit {
    fn new(name: &'static str, from: &'static str, to: &'static str) -> Self {
        Self {
            name,
            from,
            to,
            is_allowed: Asked::is_allowed,
            is_approved: |amount| amount < 100,
            is_masked: |_| false,
            allowed_by: "",
            denied_by: "",
        }
    }

    /// The number of flips by direction and role.
    fn flips(&self) -> BTreeMap<(&'static str, String), u64> {
        let mut flips = BTreeMap::new();
        let mut add = |was: bool, is: bool, role: &str, times: u64| {
            if was != is {
                let change = if is { "newly_allowed" } else { "newly_denied" };
                *flips.entry((change, role.to_owned())).or_default() += times;
            }
        };
        for asked in Asked::all().filter(|asked| !(self.is_masked)(*asked)) {
            add(asked.is_allowed(), (self.is_allowed)(asked), asked.role, asked.times());
        }
        for amount in AMOUNTS {
            add(amount < 100, (self.is_approved)(amount), "", 1);
        }
        flips
    }

    fn masked(&self) -> u64 {
        Asked::all().filter(|asked| (self.is_masked)(*asked)).map(Asked::times).sum()
    }
}

fn edits() -> Vec<Edit> {
    let is_staff = |asked: Asked| asked.method == "GET" && asked.path == PATHS[2];
    vec![
        Edit::new("nothing", "", ""),
        Edit::new("another id", "@id(\"owners\")", "@id(\"all-of-it\")"),
        Edit {
            is_allowed: |asked| {
                asked.is_allowed() || (asked.role == "viewer" && asked.method == "POST" && asked.path != PATHS[1])
            },
            allowed_by: "viewers-read",
            ..Edit::new(
                "viewers write",
                "Role::\"viewer\", action == Action::\"GET\"",
                "Role::\"viewer\", action in [Action::\"GET\", Action::\"POST\"]",
            )
        },
        Edit {
            is_allowed: |asked| asked.is_allowed() && asked.role != "editor",
            denied_by: "editors-write",
            ..Edit::new("editors lose their role", "Role::\"editor\"", "Role::\"author\"")
        },
        Edit {
            is_allowed: |asked| asked.is_allowed() && asked.path != PATHS[2],
            denied_by: "closed",
            ..Edit::new(
                "more is closed",
                "resource in Path::\"/portal/shop/closed\"",
                "resource is Path)\nwhen { resource in Path::\"/portal/shop/closed\" || resource in Path::\"/portal/shop/staff\" }; //",
            )
        },
        Edit {
            is_allowed: |asked| Asked { path: PATHS[0], ..asked }.is_allowed() && asked.path != PATHS[0],
            allowed_by: "*",
            denied_by: "closed",
            ..Edit::new(
                "another path is closed",
                "Path::\"/portal/shop/closed\"",
                "Path::\"/portal/shop/orders\"",
            )
        },
        Edit {
            is_approved: |amount| amount < 200,
            allowed_by: "small-orders",
            ..Edit::new("larger orders", "resource.amount < 100", "resource.amount < 200")
        },
        Edit {
            is_approved: |amount| amount < 50,
            denied_by: "small-orders",
            ..Edit::new("smaller orders", "resource.amount < 100", "resource.amount < 50")
        },
        // every caller may read the pages of its department: the header is masked, so none of these records is decided
        Edit {
            is_masked: is_staff,
            ..Edit::new(
                "a masked value",
                "@id(\"owners\")",
                "@id(\"dept\") permit (principal, action == Action::\"GET\", resource in Path::\"/portal/shop/staff\")\n\
                 when { context has headers && context.headers has \"x-dept\" };\n@id(\"owners\")",
            )
        },
        Edit {
            is_allowed: |asked| asked.is_allowed() && asked.role != "owner",
            is_masked: is_staff,
            denied_by: "owners",
            ..Edit::new(
                "a masked value and flips",
                "@id(\"owners\") permit (principal in Role::\"owner\"",
                "@id(\"dept\") forbid (principal, action == Action::\"GET\", resource in Path::\"/portal/shop/staff\")\n\
                 when { context has headers && context.headers has \"x-dept\" };\n@id(\"owners\") permit (principal in Role::\"chief\"",
            )
        },
    ]
}

struct Shop {
    gate: GateFolder,
    decision: SocketAddr,
    _app: App,
}

impl Shop {
    fn new() -> Self {
        let app = App::start();
        let gate = GateFolder::new(&format!("http://{}", app.address), "");
        let decision = free_address();
        let config = std::fs::read_to_string(gate.folder.path().join("cedargate.yaml")).unwrap();
        let config = config
            .replace("decision: null", &format!("decision: {{ address: '{decision}' }}"))
            .replace("decisions.jsonl }", "decisions.jsonl }, supplied_bytes: 200B");
        gate.put("cedargate.yaml", &config);
        for folder in ["policies", "schemas"] {
            std::fs::remove_dir_all(gate.folder.path().join(folder)).unwrap();
        }
        for root in ["", "before/"] {
            gate.put(&format!("{root}schemas/shop.cedarschema"), SCHEMA);
            gate.put(&format!("{root}policies/shop/main.cedar"), POLICIES);
        }
        Self {
            gate,
            decision,
            _app: app,
        }
    }

    /// Every request so often as it says, and the questions of the app; returns the number of records.
    fn traffic(&self) -> u64 {
        let mut asked = 0;
        for request in Asked::all() {
            let bearer = format!("Bearer {}", self.gate.issuer.token(request.role, &[request.role]));
            let headers = [("authorization", bearer.as_str()), ("x-dept", "hr")];
            for _ in 0..request.times() {
                let status = raw(self.gate.proxy, request.method, request.path, &headers, b"").status;
                assert_eq!(
                    status == 200,
                    request.is_allowed(),
                    "{} {} {}",
                    request.role,
                    request.method,
                    request.path
                );
                asked += 1;
            }
        }
        let described = |amount: i64, parents: Vec<String>| {
            let order = json!({"type": "Order", "id": "7", "attrs": {"amount": amount}});
            json!({"portal": "shop", "principal": {"type": "User", "id": "app", "parents": parents}, "action": "approve",
                "resource": order})
        };
        for amount in AMOUNTS {
            assert_eq!(self.approves(&described(amount, Vec::new())), amount < 100, "{amount}");
        }
        for number in 0..TRUNCATED {
            let many = (0..40)
                .map(|role| format!("Role::\"a-role-with-a-long-name-{number}-{role}\""))
                .collect();
            assert!(self.approves(&described(10, many)));
        }
        asked + AMOUNTS.len() as u64 + TRUNCATED
    }

    fn approves(&self, question: &Value) -> bool {
        let headers = [("content-type", "application/json")];
        let answer = raw(self.decision, "POST", "/authorize", &headers, question.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["decision"] == "allow"
    }

    fn records(&self, wanted: u64) {
        eventually("the records are written", || {
            let text = std::fs::read_to_string(self.gate.folder.path().join("decisions.jsonl")).unwrap_or_default();
            let records = check_lines(&text).into_iter().filter(|record| record["kind"] == "decision");
            match records.count() as u64 {
                count if count == wanted => Ok(()),
                count => Err(format!("{count} of {wanted}")),
            }
        });
    }

    fn report(&self, arguments: &[&str]) -> Value {
        let (_, out, error) = self.gate.run(&[arguments, &["--format", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{error}"))
    }
}

/// The flips of a report by direction and role; each names the policies that it should.
fn found(edit: &Edit, report: &Value) -> BTreeMap<(&'static str, String), u64> {
    let mut found = BTreeMap::new();
    for group in report["flips"].as_array().unwrap() {
        let change = match group["change"].as_str().unwrap() {
            "newly_allowed" => "newly_allowed",
            "newly_denied" => "newly_denied",
            other => panic!("{}: {other}", edit.name),
        };
        let expected = if change == "newly_allowed" {
            edit.allowed_by
        } else {
            edit.denied_by
        };
        let policies = &group["policies"];
        assert!(expected == "*" || *policies == json!([expected]), "{}: {group:#}", edit.name);
        assert_eq!(group["portal"], "shop", "{}", edit.name);
        let role = group["roles"]
            .as_array()
            .and_then(|roles| roles.first())
            .and_then(Value::as_str);
        *found.entry((change, role.unwrap_or_default().to_owned())).or_default() += group["records"].as_u64().unwrap();
    }
    found
}

/// The records that were not decided, by reason.
fn not_replayed(report: &Value) -> BTreeMap<String, u64> {
    let reasons = report["not_replayed"].as_array().unwrap().iter();
    let reason = |why: &Value| (why["reason"].as_str().unwrap().to_owned(), why["records"].as_u64().unwrap());
    reasons.map(reason).collect()
}

#[test]
fn every_planted_flip_is_found_in_its_group_and_no_other() {
    let shop = Shop::new();
    let mut process = shop.gate.serve();
    let records = shop.traffic();
    shop.records(records);
    process.signal("-TERM");
    assert_eq!(process.exit_code(), 0);
    for edit in edits() {
        assert!(POLICIES.contains(edit.from), "{}", edit.name);
        let edited = POLICIES.replacen(edit.from, edit.to, 1);
        put(shop.gate.folder.path(), "policies/shop/main.cedar", &edited);
        let expected = edit.flips();
        let mut skipped = BTreeMap::from([("truncated".to_owned(), TRUNCATED)]);
        if edit.masked() > 0 {
            skipped.insert("masked".to_owned(), edit.masked());
        }
        let replay = shop.report(&["replay", "--log", "decisions.jsonl"]);
        let diff = shop.report(&["diff", "before", ".", "--log", "decisions.jsonl"]);
        for (command, report) in [("replay", &replay), ("diff", &diff["log"])] {
            assert_eq!(found(&edit, report), expected, "{command} of {}: {report:#}", edit.name);
            assert_eq!(not_replayed(report), skipped, "{command} of {}: {report:#}", edit.name);
            let replayed = report["replayed"].as_u64().unwrap();
            assert_eq!(
                replayed + skipped.values().sum::<u64>(),
                records,
                "{command} of {}",
                edit.name
            );
        }
    }
}
