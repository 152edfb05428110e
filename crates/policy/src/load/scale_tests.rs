//! Large files and many mistakes: a load takes time in proportion to its files. Otherwise the owner of one portal's
//! folder could delay the edits of all others.

use std::time::{Duration, Instant};

use super::Loader;
use crate::revision::problem::Problem;
use crate::test_support::{portal, tree};

/// Far above the time of such a load on a busy machine, and far below that of a search from the beginning for each
/// mistake.
const BOUND: Duration = Duration::from_secs(30);
const MANY: usize = 20_000;

const SCHEMA: &str = "
    entity Tenant; entity Role in [Role, Tenant]; entity Portal; entity Path in [Path, Portal]; entity User in [Role, Tenant];
    entity Order;
    action GET appliesTo { principal: [User], resource: [Path], context: {} };
    action view appliesTo { principal: [User], resource: [Order], context: {} };
";
const TEMPLATE: &str = "@id(\"of-one\") permit(principal == ?principal, action, resource);";
const OPEN: &str = "permit(principal, action, resource);";

/// The problems of these files beside a schema and a policy; fails if the load takes long.
fn problems(files: &[(&str, &str)]) -> Vec<Problem> {
    let usual = [("schemas/bench.cedarschema", SCHEMA), ("policies/bench/all.cedar", OPEN)];
    let tree = tree(usual.into_iter().chain(files.iter().copied()));
    let began = Instant::now();
    let loaded = Loader::new(None).load(&portal(), &tree, None);
    let took = began.elapsed();
    assert!(took < BOUND, "{took:?}");
    loaded.rejected.map(|error| error.problems).unwrap_or_default()
}

fn lines(line: impl Fn(usize) -> String) -> String {
    (0..MANY).map(line).collect::<Vec<_>>().join("\n")
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[\n{}\n]", items.collect::<Vec<_>>().join(",\n"))
}

/// An entity's line, with its type, its number and its parents.
fn entity(ty: &str, number: usize, parents: &[(&str, usize)]) -> String {
    let name = |ty: &str, number: usize| format!("{{\"type\": \"{ty}\", \"id\": \"{number}\"}}");
    let parents: Vec<String> = parents.iter().map(|(ty, number)| name(ty, *number)).collect();
    format!(
        "{{\"uid\": {}, \"attrs\": {{}}, \"parents\": [{}]}}",
        name(ty, number),
        parents.join(",")
    )
}

#[test]
fn a_portal_with_many_routes_loads_and_their_mistakes_are_reported() {
    let row = |n| format!("  - {{ route: \"GET /o{n}/{{id}}\", action: view, resource: {{ type: Order, id: \"{n}/{{id}}\" }} }}");
    let good = format!("routes:\n{}", lines(row));
    let of = |text: &str| problems(&[("policies/bench/portal.yaml", text)]);
    assert_eq!(of(&good), []);
    for (right, wrong, reported) in [
        ("action: view", "action: gone", 50),
        ("type: Order", "type: Gone", 50),
        ("GET /o", "GET o", MANY),
    ] {
        let found = of(&good.replace(right, wrong));
        assert_eq!((found.len(), found[0].line), (reported, Some(2)), "{wrong}");
    }
}

#[test]
fn many_wrong_relations_of_entities_are_reported() {
    let of = |text: &str| problems(&[("policies/bench/entities.json", text)]);
    let many = |ty| (0..MANY).map(move |n| (ty, n)).collect::<Vec<_>>();
    // many callers, each in a tenant; one caller in many tenants; one caller in many roles, each in a tenant
    let of_many = list((0..MANY).map(|n| entity("User", n, &[("Tenant", n)])));
    let of_one = list(std::iter::once(entity("User", 0, &many("Tenant"))));
    let roles = (0..MANY).map(|n| entity("Role", n, &[("Tenant", n)]));
    let through_roles = list(std::iter::once(entity("User", 0, &many("Role"))).chain(roles));
    for (text, of_type) in [(of_many, "User"), (of_one, "User"), (through_roles, "Role")] {
        let found = of(&text);
        assert_eq!(found.len(), 50);
        for problem in found {
            let line = text.lines().nth(problem.line.unwrap() - 1).unwrap();
            let (uid, _) = problem.message.split_once(" is in ").unwrap();
            let number = uid.split('"').nth(1).unwrap();
            assert!(uid.starts_with(&format!("`{of_type}::")), "{}", problem.message);
            let described = format!("\"type\": \"{of_type}\", \"id\": \"{number}\"}}, \"attrs\"");
            assert!(line.contains(&described), "{line}");
        }
    }
}

#[test]
fn many_duplicates_of_entities_are_reported() {
    let of = |text: &str| problems(&[("policies/bench/entities.json", text)]);
    let found = of(&list((0..2 * MANY).map(|n| entity("Order", n / 2, &[]))));
    assert_eq!((found.len(), found[0].line), (50, Some(3)));
    // one duplicate, at the end of the file
    let found = of(&list((0..MANY).map(|n| entity("Order", n.min(MANY - 2), &[]))));
    assert_eq!((found.len(), found[0].line), (1, Some(MANY + 1)));
}

#[test]
fn many_mistakes_of_policies_and_links_are_reported() {
    let of = |name: &str, text: &str| problems(&[("policies/bench/t.cedar", TEMPLATE), (name, text)]);
    let found = of(
        "policies/bench/bad.cedar",
        &lines(|n| format!("@id(\"b{n}\") permit(principal, action, resource) when {{ principal.gone }};")),
    );
    assert_eq!((found.len(), found[0].line), (MANY, Some(1)));
    let link = |n| format!("{{\"template\": \"gone\", \"id\": \"\\u0061{n}\", \"slots\": {{}}}}");
    let found = of("policies/bench/links.json", &list((0..MANY).map(link)));
    assert_eq!((found.len(), found[MANY - 1].line), (MANY, Some(MANY + 1)));
}

#[test]
fn a_template_with_the_id_of_a_shared_one_or_of_a_policy_is_rejected() {
    let policy = TEMPLATE.replace("principal == ?principal", "principal");
    for (other, content) in [
        ("policies/_shared/t.cedar", TEMPLATE),
        ("policies/_shared/t.cedar", &policy),
        ("policies/bench/other.cedar", TEMPLATE),
    ] {
        let found = problems(&[("policies/bench/t.cedar", TEMPLATE), (other, content)]);
        assert_eq!(found.len(), 1, "{other}: {found:?}");
        assert!(found[0].message.contains("template id `of-one` is already used"), "{found:?}");
    }
    let other = TEMPLATE.replace("of-one", "of-another");
    assert_eq!(
        problems(&[("policies/bench/t.cedar", TEMPLATE), ("policies/_shared/t.cedar", &other)]),
        []
    );
}

/// A schema whose paths may be in groups.
fn grouped() -> String {
    SCHEMA
        .replace("entity Order;", "entity Order; entity Group;")
        .replace("entity Path in [Path, Portal]", "entity Path in [Path, Portal, Group]")
}

fn public(entry: impl Fn(usize) -> String) -> String {
    format!("public:\n{}", lines(|n| format!("  - \"{}\"", entry(n))))
}

#[test]
fn many_public_paths_beside_many_forbids_load() {
    let entries = public(|n| format!("GET /bench/a{n}/**"));
    for forbid in [
        "resource in Path::\"/bench/z{n}\");",
        "resource) when { principal in Role::\"r{n}\" };",
    ] {
        let forbids = lines(|n| {
            format!(
                "@id(\"f{n}\") forbid(principal, action, {}",
                forbid.replace("{n}", &n.to_string())
            )
        });
        let found = problems(&[("policies/bench/portal.yaml", &entries), ("policies/bench/f.cedar", &forbids)]);
        assert_eq!(found, [], "{forbid}");
    }
    let other_action = lines(|n| format!("@id(\"f{n}\") forbid(principal, action == Action::\"view\", resource);"));
    let files = [
        ("policies/bench/portal.yaml", entries.as_str()),
        ("policies/bench/f.cedar", other_action.as_str()),
    ];
    assert_eq!(problems(&files), []);
}

#[test]
fn many_forbids_of_one_large_group_make_a_bounded_number_of_warnings() {
    let schema = grouped();
    let members = list((0..MANY).map(|n| {
        format!(
            "{{\"uid\": {{\"type\": \"Path\", \"id\": \"/bench/a/{n}\"}}, \"attrs\": {{}}, \
             \"parents\": [{{\"type\": \"Group\", \"id\": \"g\"}}]}}"
        )
    }));
    let forbids = lines(|n| format!("@id(\"f{n}\") forbid(principal, action, resource in Group::\"g\");"));
    let tree = tree([
        ("schemas/bench.cedarschema", schema.as_str()),
        ("policies/bench/all.cedar", OPEN),
        ("policies/bench/f.cedar", forbids.as_str()),
        ("policies/bench/portal.yaml", "public: [ \"GET /bench/a/**\" ]"),
        ("policies/bench/entities.json", members.as_str()),
    ]);
    let began = Instant::now();
    let loaded = Loader::new(None).load(&portal(), &tree, None);
    let took = began.elapsed();
    assert!(took < BOUND, "{took:?}");
    let warnings = &loaded.revision.unwrap().warnings;
    assert_eq!(warnings.len(), 51);
    assert!(warnings[50].message.contains("further warnings"), "{}", warnings[50]);
}
