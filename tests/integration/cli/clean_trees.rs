//! Trees without a mistake, in the styles that people write: `validate --deny-warnings` and `lint` find nothing in
//! them, not even a note.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::binary::run;
use crate::support::put;

/// Callers and plain paths, for trees that need no more of it.
const SHARED: &str = "entity Tenant; entity Role in [Role]; entity Group in [Group]; entity Portal; entity Path in [Path, Portal];\n\
    entity User in [Role, Group, Tenant] = { email?: String };\n\
    type Auth = { method: String, acr?: String, amr: Set<String>, scopes: Set<String> };\n\
    type Facts = { portal: String, now: datetime, auth?: Auth, source_ip?: ipaddr, path?: String };\n\
    action GET, POST, DELETE appliesTo { principal: [User], resource: [Path], context: Facts };\n";

/// A tree with its style's name.
type Tree<'a> = (&'a str, &'a [(&'a str, &'a str)]);

const STYLES: [Tree<'static>; 9] = [
    (
        "a namespace, and routes to its types",
        &[
            (
                "schemas/docs.cedarschema",
                "namespace Docs {\n  entity Tenant; entity Role in [Role]; entity Portal; entity Path in [Path, Portal];\n  \
                 entity User in [Role, Tenant];\n  entity Folder in [Folder]; entity Doc in [Folder] = { public?: Bool };\n  \
                 action GET appliesTo { principal: [User], resource: [Path], context: {} };\n  \
                 action readDoc appliesTo { principal: [User], resource: [Doc], context: {} };\n}\n",
            ),
            (
                "policies/docs/portal.yaml",
                "routes:\n  - { route: \"GET /portal/docs/d/{doc}\", action: readDoc, resource: { type: Doc, id: \"{doc}\" } }\n",
            ),
            (
                "policies/docs/main.cedar",
                "@id(\"public-docs\")\npermit (principal, action == Docs::Action::\"readDoc\", resource is Docs::Doc)\n\
                 when { resource has public && resource.public };\n\
                 @id(\"handbook\")\npermit (principal in Docs::Role::\"staff\", action == Docs::Action::\"readDoc\", resource in Docs::Folder::\"handbook\");\n\
                 @id(\"pages\")\npermit (principal in Docs::Role::\"staff\", action == Docs::Action::\"GET\", resource in Docs::Path::\"/portal/docs\");\n",
            ),
            (
                "policies/docs/entities.json",
                "[{\"uid\":{\"type\":\"Docs::Role\",\"id\":\"staff\"},\"attrs\":{},\"parents\":[]},\n\
                 {\"uid\":{\"type\":\"Docs::Doc\",\"id\":\"leave\"},\"attrs\":{},\"parents\":[{\"type\":\"Docs::Folder\",\"id\":\"handbook\"}]}]\n",
            ),
            (
                "policies/docs/tests/t.yaml",
                "principals: { sam: { id: sam, roles: [staff] } }\ncases:\n  \
                 - { name: staff read the handbook, principal: sam, http: \"GET /portal/docs/d/leave\", expect: allow }\n  \
                 - { name: nothing else, principal: sam, http: \"GET /portal/docs/d/plan\", expect: deny }\n",
            ),
        ],
    ),
    (
        "groups of people, nested",
        &[
            ("schemas/_shared.cedarschema", SHARED),
            (
                "policies/wiki/main.cedar",
                "// Engineering reads; its leads write.\n@id(\"read\") permit (principal in Group::\"engineering\", action == Action::\"GET\", resource in Path::\"/portal/wiki\");\n\
                 @id(\"write\") permit (principal in Group::\"leads\", action in [Action::\"POST\", Action::\"DELETE\"], resource in Path::\"/portal/wiki\");\n",
            ),
            (
                "policies/wiki/entities.json",
                "[{\"uid\":{\"type\":\"Group\",\"id\":\"engineering\"},\"attrs\":{},\"parents\":[]},\n\
                 {\"uid\":{\"type\":\"Group\",\"id\":\"leads\"},\"attrs\":{},\"parents\":[{\"type\":\"Group\",\"id\":\"engineering\"}]},\n\
                 {\"uid\":{\"type\":\"User\",\"id\":\"lea\"},\"attrs\":{},\"parents\":[{\"type\":\"Group\",\"id\":\"leads\"}]}]\n",
            ),
            (
                "policies/wiki/tests/t.yaml",
                "principals: { lea: { id: lea } }\ncases:\n  - { name: leads write, principal: lea, http: \"POST /portal/wiki/a\", expect: allow }\n",
            ),
        ],
    ),
    (
        "owners, shares and a described resource",
        &[
            ("schemas/_shared.cedarschema", SHARED),
            (
                "schemas/files.cedarschema",
                "entity File = { owner: User, readers: Set<User>, size?: Long };\n\
                 action readFile, writeFile appliesTo { principal: [User], resource: [File], context: Facts };\n",
            ),
            (
                "policies/files/portal.yaml",
                "routes:\n  - { route: \"GET /portal/files/{file}\", action: readFile, resource: { type: File, id: \"{file}\" } }\n  \
                 - { route: \"POST /portal/files/{file}\", action: writeFile, resource: { type: File, id: \"{file}\" } }\n",
            ),
            (
                "policies/files/main.cedar",
                "@id(\"owners\")\n@description(\"Owners do everything with their files.\")\npermit (principal, action in [Action::\"readFile\", Action::\"writeFile\"], resource is File)\nwhen { resource.owner == principal };\n\n\
                 @id(\"readers\")\npermit (principal, action == Action::\"readFile\", resource is File)\nwhen { resource.readers.contains(principal) };\n\n\
                 @id(\"no-large-files\")\nforbid (principal, action == Action::\"writeFile\", resource is File)\nwhen { resource has size && resource.size > 1000000 };\n",
            ),
            (
                "policies/files/entities.json",
                "[{\"uid\":{\"type\":\"File\",\"id\":\"a\"},\"attrs\":{\"owner\":{\"__entity\":{\"type\":\"User\",\"id\":\"ann\"}},\"readers\":[]},\"parents\":[]}]\n",
            ),
            (
                "policies/files/tests/t.yaml",
                "principals: { ann: { id: ann }, ben: { id: ben } }\ncases:\n  - { name: owners write, principal: ann, http: \"POST /portal/files/a\", expect: allow, because: [owners] }\n  \
                 - { name: nobody else, principal: ben, http: \"GET /portal/files/a\", expect: deny }\n",
            ),
        ],
    ),
    (
        "conditions on time, address and login",
        &[
            ("schemas/_shared.cedarschema", SHARED),
            (
                "policies/bank/main.cedar",
                "@id(\"tellers-in-the-branch\")\npermit (principal in Role::\"teller\", action in [Action::\"GET\", Action::\"POST\"], resource in Path::\"/portal/bank\")\n\
                 when { context has source_ip && context.source_ip.isInRange(ip(\"10.0.0.0/8\")) };\n\n\
                 @id(\"from-launch\")\nforbid (principal, action, resource in Path::\"/portal/bank/new\")\nunless { context.now >= datetime(\"2025-06-01T00:00:00Z\") };\n\n\
                 @id(\"writes-need-a-second-factor\")\n@step_up(\"mfa\")\n@advice(\"Sign in with a second factor.\")\nforbid (principal, action in [Action::\"POST\", Action::\"DELETE\"], resource)\n\
                 unless { context has auth && (context.auth.amr.contains(\"mfa\") || (context.auth has acr && context.auth.acr == \"high\")) };\n",
            ),
            (
                "policies/bank/tests/t.yaml",
                "principals: { tom: { id: tom, roles: [teller] } }\ncases:\n  - { name: tellers read, principal: tom, http: \"GET /portal/bank/a\", source_ip: 10.1.2.3, expect: allow }\n  \
                 - { name: from outside they do not, principal: tom, http: \"GET /portal/bank/a\", source_ip: 192.0.2.1, expect: deny }\n",
            ),
        ],
    ),
    (
        "public pages, and a forbid beside them",
        &[
            ("schemas/_shared.cedarschema", SHARED),
            (
                "policies/site/portal.yaml",
                "title: Site\npublic: [\"GET /portal/site/assets/**\", \"GET /portal/site/about\"]\n",
            ),
            (
                "policies/site/main.cedar",
                "@id(\"members\")\npermit (principal in Role::\"member\", action == Action::\"GET\", resource in Path::\"/portal/site/members\");\n\n\
                 @id(\"no-drafts\")\nforbid (principal, action, resource in Path::\"/portal/site/members/drafts\");\n",
            ),
            (
                "policies/site/tests/t.yaml",
                "cases:\n  - { name: members read, claims: { sub: mia, roles: [member] }, http: \"GET /portal/site/members/a\", expect: allow }\n  \
                 - { name: nobody reads drafts, claims: { sub: mia, roles: [member] }, http: \"GET /portal/site/members/drafts/a\", expect: deny, reason: forbidden }\n",
            ),
        ],
    ),
    (
        "a shared rule for roles that one portal has",
        &[
            ("schemas/_shared.cedarschema", SHARED),
            (
                "policies/_shared/rules.cedar",
                "@id(\"auditors-only-read\")\nforbid (principal in Role::\"auditor\", action in [Action::\"POST\", Action::\"DELETE\"], resource);\n\n\
                 @id(\"only-rooms-that-are-free\")\nforbid (principal, action, resource)\nwhen { resource has taken && resource.taken };\n",
            ),
            (
                "policies/a/main.cedar",
                "@id(\"read\")\npermit (principal in Role::\"auditor\", action == Action::\"GET\", resource in Path::\"/portal/a\");\n",
            ),
            (
                "policies/a/tests/t.yaml",
                "cases:\n  - { name: auditors read, claims: { sub: a, roles: [auditor] }, http: \"GET /portal/a/x\", expect: allow }\n",
            ),
            (
                "schemas/b.cedarschema",
                "entity Room = { taken?: Bool };\naction bookRoom appliesTo { principal: [User], resource: [Room], context: Facts };\n",
            ),
            (
                "policies/b/portal.yaml",
                "routes:\n  - { route: \"POST /portal/b/{room}\", action: bookRoom, resource: { type: Room, id: \"{room}\" } }\n",
            ),
            (
                "policies/b/main.cedar",
                "@id(\"book\")\npermit (principal in Role::\"guest\", action == Action::\"bookRoom\", resource is Room);\n",
            ),
            (
                "policies/b/tests/t.yaml",
                "cases:\n  - { name: guests book, claims: { sub: g, roles: [guest] }, http: \"POST /portal/b/x\", expect: allow }\n",
            ),
        ],
    ),
    (
        "Windows line ends, a byte order mark and two policies in a line",
        &[
            ("schemas/_shared.cedarschema", SHARED),
            (
                "policies/old/main.cedar",
                "\u{feff}// permit (principal, action, resource);\r\n@id(\"a\") permit (principal in Role::\"a\", action == Action::\"GET\", resource); @id(\"b\") permit (principal in Role::\"b\", action == Action::\"POST\", resource);\r\n",
            ),
            (
                "policies/old/tests/t.yaml",
                "cases:\r\n  - { name: a reads, claims: { sub: x, roles: [a] }, http: \"GET /portal/old\", expect: allow }\r\n  - { name: b writes, claims: { sub: x, roles: [b] }, http: \"POST /portal/old\", expect: allow }\r\n",
            ),
        ],
    ),
    (
        "tests in the format of Cedar's own command line",
        &[
            ("schemas/_shared.cedarschema", SHARED),
            (
                "policies/plain/main.cedar",
                "@id(\"ann\")\npermit (principal == User::\"ann\", action == Action::\"GET\", resource in Path::\"/portal/plain\");\n",
            ),
            (
                "policies/plain/tests/cli.json",
                "[{\"name\": \"ann reads\", \"request\": {\"principal\": \"User::\\\"ann\\\"\", \"action\": \"Action::\\\"GET\\\"\", \"resource\": \"Path::\\\"/portal/plain/a\\\"\",\n\
                 \"context\": {\"portal\": \"plain\", \"now\": {\"__extn\": {\"fn\": \"datetime\", \"arg\": \"2026-01-01T00:00:00Z\"}}}},\n\
                 \"entities\": [], \"decision\": \"allow\", \"reason\": [\"ann\"], \"num_errors\": 0}]\n",
            ),
        ],
    ),
    (
        "a portal that permits nothing yet, and an emergency forbid",
        &[
            ("schemas/_shared.cedarschema", SHARED),
            ("policies/new/main.cedar", "// Nothing is permitted yet.\n"),
            (
                "policies/new/_deny/all.cedar",
                "@id(\"all\")\nforbid (principal, action, resource);\n",
            ),
            (
                "policies/new/tests/t.yaml",
                "cases:\n  - { name: nothing is permitted, claims: { sub: x }, http: \"GET /portal/new\", expect: deny, reason: not_permitted }\n",
            ),
        ],
    ),
];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The findings of both commands; both must end well.
fn found(folder: &Path, dir: &[&str]) -> String {
    let mut found = String::new();
    for (command, more) in [("validate", "--deny-warnings"), ("lint", "--deny-warnings")] {
        let arguments = [&[command, more, "--format", "json"], dir].concat();
        let (code, out, error) = run(folder, &arguments);
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{command} {code}: {out}{error}"));
        if code != 0 || report["findings"].as_array().is_none_or(|findings| !findings.is_empty()) {
            found.push_str(&format!("{command} {code}: {}\n", report["findings"]));
        }
    }
    found
}

fn ok(folder: &Path, arguments: &[&str]) {
    let (code, out, error) = run(folder, arguments);
    assert_eq!(code, 0, "{arguments:?}: {out}{error}");
}

#[test]
fn trees_in_the_styles_that_people_write_have_no_finding() {
    let mut wrong = Vec::new();
    for (style, files) in STYLES {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            put(folder.path(), name, text);
        }
        let (code, out, error) = run(folder.path(), &["test"]);
        assert_eq!(code, 0, "{style}: {out}{error}");
        let found = found(folder.path(), &[]);
        if !found.is_empty() {
            wrong.push(format!("{style}:\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn shipped_and_scaffolded_trees_have_no_finding() {
    let repository = repository();
    for shipped in ["tests/corpus/planted", "packages/examples/gate"] {
        assert_eq!(found(&repository.join(shipped), &[]), "", "{shipped}");
    }
    assert_eq!(found(&repository, &["."]), "");
    let folder = tempfile::tempdir().unwrap();
    for (name, more) in [
        ("one", &[][..]),
        ("two", &["--portal", "customer,back-office", "--tenant", "globex"]),
        ("issuer", &["--issuer", "https://id.example.com/", "--audience", "shop"]),
    ] {
        ok(folder.path(), &[&["init", name], more].concat());
        let tree = folder.path().join(name);
        assert_eq!(found(&tree, &[]), "", "{name}");
        ok(&tree, &["new", "portal", "admin"]);
        assert_eq!(found(&tree, &[]), "", "{name} with one portal more");
    }
}

/// A restriction of oauth2-proxy that has no counterpart closes the portal: the report of the import says so, and lint
/// names the policy that never applies. Every other import has no finding.
#[test]
fn imported_trees_have_no_finding_but_what_the_import_left_to_decide() {
    let corpus = repository().join("tests/corpus/oauth2-proxy");
    let mut clean = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let file = entry.unwrap().path();
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["config", "import", "oauth2-proxy", file.to_str().unwrap(), "--write", "."];
        let (imported, ..) = run(folder.path(), &arguments);
        // the configuration names secrets that are elsewhere; the policies need none
        std::fs::remove_file(folder.path().join("cedargate.yaml")).unwrap();
        let (code, out, error) = run(folder.path(), &["lint", "--format", "json"]);
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{}: {code} {out}{error}", file.display()));
        let findings = report["findings"].as_array().unwrap();
        let is_closed = |finding: &Value| imported == 3 && finding["rule"] == "never-applies";
        let wrong: Vec<&Value> = findings.iter().filter(|finding| !is_closed(finding)).collect();
        assert!(wrong.is_empty(), "{}: {wrong:?}", file.display());
        clean += usize::from(findings.is_empty());
    }
    assert!(clean >= 10, "{clean}");
}
