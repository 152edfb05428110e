//! Unit tests of decision tests: `for`, fixtures, errors of files, coverage.

use super::*;
use crate::load::Loader;
use crate::test_support::{portal, tree};

const SCHEMA: &str = r#"
entity Role; entity Tenant;
entity User in [Role, Tenant] { level?: Long };
entity Portal; entity Path in [Path, Portal];
entity Order { owner?: User, open: Bool };
action GET, PUT appliesTo { principal: [User], resource: [Path] };
action view appliesTo { principal: [User], resource: [Order] };
"#;
const POLICIES: &str = r#"
@id("viewers") permit (principal in Role::"viewer", action == Action::"GET", resource);
@id("owners") permit (principal, action == Action::"view", resource)
when { resource has owner && resource.owner == principal }
unless { !resource.open };
"#;

/// A revision with these test files, which are not run.
fn with_tests(files: &[(&str, &str)]) -> Arc<Revision> {
    let all = [("schemas/bench.cedarschema", SCHEMA), ("policies/bench/main.cedar", POLICIES)];
    let tree = tree(all.into_iter().chain(files.iter().copied()));
    let loaded = Loader::new(None).untested().load(&portal(), &tree, None);
    loaded.revision.unwrap_or_else(|| panic!("{:?}", loaded.rejected))
}

/// `name: verdict` of every case, and every problem.
fn ran(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let (portal, revision) = (portal(), with_tests(files));
    let tests = DecisionTests::read(&portal.slug, revision.portal_files());
    let subject = Subject {
        portal: &portal,
        revision: &revision,
    };
    let results = tests.run(0..tests.len(), &subject, &Options::default());
    let shown = results.into_iter().map(|result| match result.verdict {
        TestOutcome::Passed => format!("{}: ok", result.name),
        TestOutcome::Failed(why) => format!("{}: {why}", result.name),
        TestOutcome::Skipped(why) => format!("{}: skipped {why}", result.name),
    });
    (shown.collect(), tests.problems.iter().map(ToString::to_string).collect())
}

const FILE: &str = "policies/bench/tests/t.yaml";

#[test]
fn for_runs_a_case_for_each_combination_and_its_name_shows_the_values() {
    let (results, problems) = ran(&[(
        FILE,
        r#"
cases:
  - name: "{role} {method}"
    for: { role: [viewer, none], method: [GET, PUT] }
    claims: { sub: x, roles: ["{role}"] }
    http: "{method} /a"
    expect: { viewer: { GET: allow, "*": deny }, none: deny }
    because: { viewer: { GET: [viewers], PUT: [] }, "*": [] }
  - name: whole values keep their type
    for: { roles: [[viewer], []], n: [7] }
    principal: { id: "u{n}", roles: "{roles}", attrs: { level: "{n}" } }
    http: "GET /{n}"
    expect: { "*": allow }
  - { name: "without for {role} is text", principal: { id: x }, http: "GET /a", expect: deny }
"#,
    )]);
    assert_eq!(problems, [""; 0]);
    let expected = [
        "viewer GET: ok",
        "viewer PUT: ok",
        "none GET: ok",
        "none PUT: ok",
        "whole values keep their type [roles=[\"viewer\"], n=7]: ok",
        "whole values keep their type [roles=[], n=7]: decided deny (not_permitted), expected allow",
        "without for {role} is text: ok",
    ];
    assert_eq!(results, expected);
}

#[test]
fn mistakes_of_a_matrix_have_their_line_and_leave_the_other_cases() {
    let many: String = (0..40).map(|n| format!("{n}, ")).collect();
    for (case, problem) in [
        (
            "for: { a: [x] }\n    http: \"GET /{b}\"",
            "4: `http`: `for` has no `b`; for the text itself write `{{b}}`",
        ),
        (
            "for: { a: [x] }\n    claims: { sub: [y,\n      \"{b}\"] }",
            "4: `claims`: `for` has no `b`; for the text itself write `{{b}}`",
        ),
        (
            "for: { a: [[x]] }\n    http: \"GET /{a}\"",
            "4: `http`: `{a}` is no text, so it can only stand alone",
        ),
        (
            "for: { a: [x] }\n    expect: { y: allow }",
            "4: `expect`: `y` is no value of `a`",
        ),
        (
            "for: { a: [x, y] }\n    expect: { y: allow }",
            "4: `expect`: says nothing for `a` = `x`; add it, or `\"*\"`",
        ),
        (
            "for: { a: [x] }\n    expect: { x: { x: allow } }",
            "4: `expect`: has more levels than `for` has names",
        ),
        ("expect: { x: allow }", "3: `expect`: a map by value needs `for`"),
        ("for: { a: [x] }\n    expect: [allow]", "4: `expect`: "),
        ("http: [x]", "3: `http`: needs a text"),
        ("errors: -1\n    expect: alow", "3: `errors`: "),
        ("expct: deny", "3: unknown key `expct`; did you mean `expect`?"),
        ("source_ip: here", "3: `source_ip`: "),
    ] {
        let text = format!(
            "cases:\n  - name: c\n    {case}\n  - {{ name: good, principal: {{ id: x }}, http: \"GET /a\", expect: deny }}\n"
        );
        let (results, problems) = ran(&[(FILE, &text)]);
        let first = problems.first().map(String::as_str).unwrap_or_default();
        assert!(first.starts_with(&format!("{FILE}:{problem}")), "{case}: {problems:?}");
        assert_eq!(results, ["good: ok"], "{case}");
    }
    for (file, problem) in [
        (
            format!("cases:\n  - for: {{ a: [{many}], b: [{many}] }}\n    expect: deny\n"),
            "more than 1000 combinations",
        ),
        ("cases:\n  - for: { a: [] }\n".to_owned(), "`a` has no value"),
        ("cases:\n  - for: { a: [1, 1] }\n".to_owned(), "`a` has the value `1` twice"),
        ("cases:\n  - for: { a-b: [1] }\n".to_owned(), "`a-b` is no name"),
        ("cases:\n  - for: [a]\n".to_owned(), "expected mapping start"),
        ("cases:\n  - text\n".to_owned(), "expected mapping start"),
        ("cases:\n  - { name: a, name: b }\n".to_owned(), "duplicate mapping key: name"),
        ("cases: [\n".to_owned(), "is not a test file"),
    ] {
        let (results, problems) = ran(&[(FILE, &file)]);
        assert_eq!((results.len(), problems.len()), (0, 1), "{file}: {problems:?}");
        assert!(
            problems[0].contains(problem) && !problems[0].contains("DuplicateKeyPolicy"),
            "{file}: {problems:?}"
        );
    }
}

#[test]
fn the_combinations_of_all_files_have_one_bound() {
    let values: String = (0..1000).map(|n| format!("{n},")).collect();
    let case = format!("  - {{ for: {{ a: [{values}] }}, skip: much }}\n");
    let file = format!("cases:\n{}", case.repeat(101));
    let (results, problems) = ran(&[(FILE, &file)]);
    assert_eq!((results.len(), problems.len()), (EXPANDED, 1), "{problems:?}");
    assert!(problems[0].contains("more than 100000 cases"), "{problems:?}");
}

const EXPANDED: usize = matrix::EXPANDED_MAX;

#[test]
fn fixtures_of_the_folder_and_of_shared_are_known_and_the_nearest_counts() {
    let shared =
        "principals:\n  ann: { id: ann, roles: [viewer] }\n  bob: { id: bob, roles: [viewer] }\nnow: 2026-02-03T00:00:00Z\n";
    let own = r#"
principals:
  bob: { id: bob }
entities:
  - { uid: { type: Order, id: "1" }, attrs: { open: true, owner: { __entity: { type: User, id: ann } } }, parents: [] }
  - { uid: { type: Order, id: "2" }, attrs: { open: true }, parents: [] }
"#;
    let cases = r#"
principals:
  carl: { id: carl }
entities:
  - { uid: { type: Order, id: "2" }, attrs: { open: true, owner: { __entity: { type: User, id: bob } } }, parents: [] }
cases:
  - { name: shared, principal: ann, http: "GET /a", expect: allow }
  - { name: own before shared, principal: bob, http: "GET /a", expect: deny }
  - { name: the file, principal: carl, http: "GET /a", expect: deny }
  - { name: entity of the folder, principal: ann, action: view, resource: 'Order::"1"', expect: allow }
  - { name: entity of the file, principal: bob, action: view, resource: 'Order::"2"', expect: allow }
  - { name: entity of the case, principal: bob, action: view, resource: 'Order::"2"', expect: deny,
      entities: [{ uid: { type: Order, id: "2" }, attrs: { open: true }, parents: [] }] }
  - { name: nobody, principal: dora, http: "GET /a", expect: deny }
"#;
    let (results, problems) = ran(&[
        ("policies/_shared/tests/fixtures.yaml", shared),
        ("policies/bench/tests/fixtures.yaml", own),
        (FILE, cases),
    ]);
    assert_eq!(problems, [""; 0]);
    let expected = [
        "shared: ok",
        "own before shared: ok",
        "the file: ok",
        "entity of the folder: ok",
        "entity of the file: ok",
        "entity of the case: ok",
        "nobody: there is no principal `dora`",
    ];
    assert_eq!(results, expected);
}

#[test]
fn a_file_that_cannot_be_read_leaves_the_others_and_rejects_the_candidate() {
    let good = "cases:\n  - { name: good, principal: { id: x }, http: \"GET /a\", expect: deny }\n";
    let files = [
        (
            "policies/_shared/tests/fixtures.yaml",
            "cases:\n  - { name: lost, expect: deny }\n",
        ),
        ("policies/bench/tests/a.yaml", "{"),
        ("policies/bench/tests/b.json", "[{]"),
        ("policies/bench/tests/c.yaml", good),
    ];
    let (results, problems) = ran(&files);
    assert_eq!(results, ["good: ok"]);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(
        problems[0].contains("cases of the shared fixtures would run for no portal"),
        "{problems:?}"
    );
    let all = [("schemas/bench.cedarschema", SCHEMA), ("policies/bench/main.cedar", POLICIES)];
    let tree = tree(all.into_iter().chain(files));
    let rejected = Loader::new(None).load(&portal(), &tree, None).rejected;
    assert_eq!(rejected.map(|error| error.problems.len()), Some(3));
}

#[test]
fn coverage_names_clauses_that_were_never_true_or_never_false() {
    let owner = |open: &str| {
        format!("{{ type: Order, id: \"1\", attrs: {{ open: {open}, owner: {{ __entity: {{ type: User, id: ann }} }} }} }}")
    };
    let covered = |cases: &[(&str, &str, &str)]| {
        let cases: String = cases
            .iter()
            .map(|(who, resource, expect)| {
                format!("  - {{ principal: {{ id: {who} }}, action: view, resource: {resource}, expect: {expect} }}\n")
            })
            .collect();
        let file = format!("cases:\n{cases}");
        let (portal, revision) = (portal(), with_tests(&[(FILE, &file)]));
        let tests = DecisionTests::read(&portal.slug, revision.portal_files());
        let coverage = Coverage::default();
        let options = Options {
            coverage: Some(&coverage),
            ..Options::default()
        };
        let subject = Subject {
            portal: &portal,
            revision: &revision,
        };
        let results = tests.run(0..tests.len(), &subject, &options);
        assert!(
            results.iter().all(|result| result.verdict == TestOutcome::Passed),
            "{results:?}"
        );
        let policies = coverage.policies(&revision);
        let owners = policies.iter().find(|policy| &*policy.info.id == "owners").unwrap();
        let clauses = owners
            .clauses
            .iter()
            .map(|clause| (clause.text.clone(), clause.was_true, clause.was_false));
        (owners.decides, clauses.collect::<Vec<_>>(), owners.points())
    };
    let clause = |text: &str, was_true, was_false| (text.to_owned(), was_true, was_false);
    let (decides, clauses, points) = covered(&[("ann", &owner("true"), "allow")]);
    assert!(decides);
    let expected = [
        clause("resource has owner", true, false),
        clause("resource.owner == principal", true, false),
        clause("resource.open", true, false),
    ];
    assert_eq!(clauses, expected);
    assert_eq!((points.reached, points.all), (4, 7));
    // the first clause that is false ends the evaluation
    let (decides, clauses, points) = covered(&[("bob", &owner("false"), "deny")]);
    assert!(!decides);
    let expected = [
        clause("resource has owner", true, false),
        clause("resource.owner == principal", false, true),
        clause("resource.open", false, false),
    ];
    assert_eq!(clauses, expected);
    assert_eq!((points.reached, points.all), (2, 7));
    let none = "{ type: Order, id: \"2\", attrs: { open: true } }";
    let all = [
        ("ann", &*owner("true"), "allow"),
        ("bob", &*owner("true"), "deny"),
        ("ann", &*owner("false"), "deny"),
        ("ann", none, "deny"),
    ];
    let (_, _, points) = covered(&all);
    assert_eq!((points.reached, points.all), (7, 7));
}

#[test]
fn the_published_schema_has_exactly_the_keys_that_are_read() {
    let schema: Value = serde_json::from_str(include_str!("../../../../schemas/tests.schema.json")).unwrap();
    let properties = |value: &Value| {
        let mut names: Vec<String> = value["properties"].as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let mut keys = file::KEYS.map(str::to_owned).to_vec();
    keys.sort();
    assert_eq!(properties(&schema["$defs"]["case"]), keys);
    assert_eq!(properties(&schema), ["cases", "entities", "now", "principals"]);
    assert_eq!(
        properties(&schema["$defs"]["fixture"]),
        ["attrs", "id", "roles", "tenant", "type"]
    );
}
