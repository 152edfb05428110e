//! Unit tests of searches: their pages together are what the decision permits, however small the bounds, and what they
//! exclude.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;

use super::*;
use crate::load::Loader;
use crate::test_support::{portal, tree};

const SCHEMA: &str = r#"
entity Team in [Team]; entity Portal; entity Path in [Path, Portal];
entity Colour enum ["red", "green"];
entity User in [Team] { level?: Long, folders?: Set<Folder>, boss?: User };
entity Folder in [Folder];
entity Doc in [Folder] { owner: User, level: Long, readers: Set<User>, open?: Bool, folder: Folder };
type Context = { mfa?: Bool, now: datetime };
action read;
action view in [read] appliesTo { principal: [User], resource: [Doc, Folder], context: Context };
action edit in [read] appliesTo { principal: [User], resource: [Doc], context: Context };
action manage appliesTo { principal: [User], resource: [User], context: Context };
action paint appliesTo { principal: [User], resource: [Colour], context: Context };
action GET appliesTo { principal: [User], resource: [Path], context: {} };
"#;

/// Six users, of which `user-5` is described by its membership alone; documents in two folders; two folders that only
/// lie above.
fn entities() -> String {
    let uid = |ty: &str, id: &str| json!({"type": ty, "id": id});
    let entity = |ty: &str, id: &str| json!({"__entity": {"type": ty, "id": id}});
    let mut all = vec![
        json!({"uid": uid("Folder", "inner"), "attrs": {}, "parents": [uid("Folder", "outer")]}),
        json!({"uid": uid("Path", "/Shop/a"), "attrs": {}, "parents": []}),
        json!({"uid": uid("Path", "/shop"), "attrs": {}, "parents": []}),
    ];
    for number in 0..6 {
        let mut attrs = json!({"folders": [entity("Folder", if number % 2 == 0 { "inner" } else { "other" })]});
        if number % 3 != 0 {
            attrs["level"] = number.into();
        }
        if number > 0 {
            attrs["boss"] = entity("User", &format!("user-{}", number - 1));
        }
        let team = if number < 3 { "staff" } else { "guests" };
        let attrs = if number == 5 { json!({}) } else { attrs };
        all.push(json!({"uid": uid("User", &format!("user-{number}")), "attrs": attrs, "parents": [uid("Team", team)]}));
    }
    for number in 0..8 {
        let folder = if number % 2 == 0 { "inner" } else { "other" };
        let owner = format!("user-{}", number % 4);
        let mut attrs = json!({"owner": entity("User", &owner), "level": number, "folder": entity("Folder", folder),
            "readers": [entity("User", &format!("user-{}", number % 6)), entity("User", "user-2")]});
        if number % 4 == 1 {
            attrs["open"] = true.into();
        }
        all.push(json!({"uid": uid("Doc", &format!("doc-{number}")), "attrs": attrs, "parents": [uid("Folder", folder)]}));
    }
    json!(all).to_string()
}

fn try_revision(policies: &str) -> Result<Arc<Revision>, String> {
    let tree = tree([
        ("schemas/bench.cedarschema", SCHEMA),
        ("policies/bench/main.cedar", policies),
        ("policies/bench/entities.json", &entities()),
        ("policies/bench/portal.yaml", "context: { supplied: [mfa] }\n"),
    ]);
    let loaded = Loader::new(None).load(&portal(), &tree, None);
    loaded.revision.ok_or_else(|| format!("{:?}", loaded.rejected))
}

fn revision(policies: &str) -> Arc<Revision> {
    try_revision(policies).unwrap_or_else(|rejected| panic!("{rejected}"))
}

fn entity(ty: &str, id: &str) -> SearchEntity {
    SearchEntity {
        ty: ty.to_owned(),
        id: id.to_owned(),
        attrs: None,
    }
}

fn question(searched: Searched, subject: &str, action: &str, resource: (&str, &str)) -> SearchQuestion {
    SearchQuestion {
        searched,
        subject: entity("User", subject),
        action: action.to_owned(),
        resource: entity(resource.0, resource.1),
        context: None,
    }
}

const WORK: WorkMax = WorkMax {
    decided: 2,
    looked_at: 5,
    evaluated: 100,
};

/// All pages of a search together, and the number of candidates that were decided.
fn all_pages(revision: &Revision, question: &SearchQuestion, work: WorkMax, results: usize) -> (Vec<String>, usize) {
    let portal = portal();
    let search = Search {
        portal: &portal,
        revision,
        now_millis: 0,
        question,
        work,
    };
    let mut range = PageRange { after: None, results };
    let (mut found, mut decided) = (Vec::new(), 0);
    for _ in 0..100 {
        let page = search.page(&range);
        assert!(page.found.len() <= results && page.decided <= work.decided, "{page:?}");
        found.extend(page.found);
        decided += page.decided;
        match page.next_after {
            Some(after) => range.after = Some(after),
            None => return (found, decided),
        }
    }
    panic!("the pages do not end");
}

/// Every candidate that the decision permits, one by one.
fn by_decisions(revision: &Revision, question: &SearchQuestion) -> Vec<String> {
    let everything = WorkMax {
        decided: usize::MAX,
        ..WORK
    };
    let portal = portal();
    let search = Search {
        portal: &portal,
        revision,
        now_millis: 0,
        question,
        work: everything,
    };
    let candidates: Vec<String> = match question.searched {
        Searched::Subject => (0..6).map(|number| format!("user-{number}")).collect(),
        Searched::Action => ["GET", "edit", "manage", "paint", "read", "view"].map(str::to_owned).to_vec(),
        Searched::Resource => match question.resource.ty.as_str() {
            "Doc" => (0..8).map(|number| format!("doc-{number}")).collect(),
            "User" => (0..6).map(|number| format!("user-{number}")).collect(),
            "Folder" => ["inner", "other", "outer"].map(str::to_owned).to_vec(),
            "Colour" => ["green", "red"].map(str::to_owned).to_vec(),
            "Path" => ["/Shop/a", "/shop"].map(str::to_owned).to_vec(),
            other => panic!("{other}"),
        },
    };
    candidates
        .into_iter()
        .filter(|candidate| search.is_permitted(candidate))
        .collect()
}

#[test]
fn candidates_that_no_permit_reaches_are_not_decided() {
    for (policies, searched, resource, found, decided) in [
        // no permit, and a forbid that closes everything
        ("", Searched::Resource, ("Doc", ""), 0, 0),
        (
            "permit (principal, action, resource); forbid (principal, action, resource is Doc);",
            Searched::Resource,
            ("Doc", ""),
            0,
            0,
        ),
        // what is known of the subject settles the condition
        (
            "permit (principal, action, resource) when { principal has level && principal.level > 5 };",
            Searched::Resource,
            ("Doc", ""),
            0,
            0,
        ),
        (
            "permit (principal, action, resource) when { context has mfa && context.mfa };",
            Searched::Resource,
            ("Doc", ""),
            0,
            0,
        ),
        (
            "permit (principal in Team::\"guests\", action, resource);",
            Searched::Resource,
            ("Doc", ""),
            0,
            0,
        ),
        // memberships in the scope, in the condition, and by an attribute of the subject
        (
            "permit (principal, action, resource in Folder::\"outer\");",
            Searched::Resource,
            ("Doc", ""),
            4,
            4,
        ),
        (
            "permit (principal, action, resource is Doc) when { resource in Folder::\"other\" && resource.level > 3 };",
            Searched::Resource,
            ("Doc", ""),
            2,
            4,
        ),
        (
            "permit (principal, action, resource) when { principal has folders && resource in principal.folders };",
            Searched::Resource,
            ("Doc", ""),
            4,
            4,
        ),
        (
            "permit (principal, action, resource == Doc::\"doc-3\");",
            Searched::Resource,
            ("Doc", ""),
            1,
            1,
        ),
        // everything depends on the candidate
        (
            "permit (principal, action, resource is Doc) when { resource.owner == principal };",
            Searched::Resource,
            ("Doc", ""),
            2,
            8,
        ),
        // subjects of one resource
        (
            "permit (principal, action, resource is Doc) when { resource.owner == principal };",
            Searched::Subject,
            ("Doc", "doc-6"),
            1,
            1,
        ),
        (
            "permit (principal, action, resource is Doc) when { principal in resource.readers };",
            Searched::Subject,
            ("Doc", "doc-6"),
            2,
            2,
        ),
        (
            "permit (principal in Team::\"staff\", action, resource is Doc);",
            Searched::Subject,
            ("Doc", "doc-6"),
            3,
            3,
        ),
        (
            "permit (principal, action, resource is Doc) when { resource has open };",
            Searched::Subject,
            ("Doc", "doc-6"),
            0,
            0,
        ),
        (
            "permit (principal, action, resource is Doc) when { principal has level && principal.level > 3 };",
            Searched::Subject,
            ("Doc", "doc-6"),
            1,
            6,
        ),
    ] {
        let revision = revision(policies);
        let question = question(searched, "user-2", "view", resource);
        let one_by_one = WorkMax { decided: 1, ..WORK };
        let (pages, work) = all_pages(&revision, &question, one_by_one, 100);
        // the last candidate may be decided without a look at the policies
        assert!(work == decided || work == decided + 1, "{policies}: {work}");
        assert_eq!(pages.len(), found, "{policies}");
        assert_eq!(pages, by_decisions(&revision, &question), "{policies}");
    }
}

#[test]
fn ids_of_an_enumerated_type_and_paths_under_another_spelling_are_found() {
    let revision =
        revision("permit (principal, action, resource is Colour); permit (principal, action, resource in Path::\"/shop\");");
    let colours = question(Searched::Resource, "user-0", "paint", ("Colour", ""));
    assert_eq!(all_pages(&revision, &colours, WORK, 1).0, ["green", "red"]);
    let paths = question(Searched::Resource, "user-0", "GET", ("Path", ""));
    assert_eq!(all_pages(&revision, &paths, WORK, 1).0, by_decisions(&revision, &paths));
    let unknown = question(Searched::Resource, "user-0", "GET", ("Ghost", ""));
    assert_eq!(all_pages(&revision, &unknown, WORK, 1), (Vec::new(), 0));
}

#[test]
fn a_page_that_reaches_a_bound_says_where_the_next_one_begins() {
    let revision = revision("permit (principal, action, resource == Doc::\"doc-7\");");
    let question = question(Searched::Resource, "user-0", "view", ("Doc", ""));
    let portal = portal();
    let search = Search {
        portal: &portal,
        revision: &revision,
        now_millis: 0,
        question: &question,
        work: WORK,
    };
    let page = search.page(&PageRange {
        after: None,
        results: 10,
    });
    assert_eq!(
        (page.found.len(), page.next_after.as_deref(), page.decided),
        (0, Some("doc-4"), 0)
    );
    let page = search.page(&PageRange {
        after: page.next_after,
        results: 10,
    });
    assert_eq!((page.found, page.next_after), (vec!["doc-7".to_owned()], None));
    // the end, and beyond it
    let page = search.page(&PageRange {
        after: Some("zzz".to_owned()),
        results: 10,
    });
    assert_eq!(page, FoundPage::default());
}

fn condition() -> impl Strategy<Value = String> {
    let atom = prop::sample::select(vec![
        "resource.owner == principal",
        "principal == resource.owner",
        "principal in resource.readers",
        "resource.readers.contains(principal)",
        "resource in Folder::\"outer\"",
        "resource in [Folder::\"outer\", Folder::\"other\"]",
        "resource == Doc::\"doc-3\"",
        "resource is Doc in Folder::\"inner\"",
        "(principal has folders && resource in principal.folders)",
        "(principal has boss && principal.boss == resource.owner)",
        "(principal has boss && principal.boss in Team::\"staff\")",
        "principal in Team::\"guests\"",
        "principal == User::\"user-1\"",
        "(principal has level && principal.level > 2)",
        "principal has level",
        "resource has owner",
        "resource has open",
        "(resource has open && resource.open)",
        "resource.level > 4",
        "resource.owner in Team::\"staff\"",
        "resource.owner has boss",
        "resource.folder in Folder::\"outer\"",
        "resource.level + 9223372036854775800 > 0",
        "(context has mfa && context.mfa)",
        "true",
        "false",
    ]);
    let joined = prop::sample::select(vec!["&&", "||"]);
    (atom.clone(), joined, atom, any::<bool>()).prop_map(|(one, joined, other, is_negated)| match is_negated {
        true => format!("!({one}) {joined} ({other})"),
        false => format!("({one}) {joined} ({other})"),
    })
}

fn policy() -> impl Strategy<Value = String> {
    let principal = prop::sample::select(vec![
        "principal",
        "principal",
        "principal in Team::\"staff\"",
        "principal == User::\"user-3\"",
        "principal is User in Team::\"guests\"",
    ]);
    let action = prop::sample::select(vec!["action", "action == Action::\"view\"", "action in [Action::\"read\"]"]);
    let resource = prop::sample::select(vec![
        "resource is Doc",
        "resource is Doc",
        "resource is Doc in Folder::\"outer\"",
        "resource in Folder::\"other\"",
        "resource == Doc::\"doc-2\"",
    ]);
    let effect = prop::sample::select(vec!["permit", "permit", "permit", "forbid"]);
    let clause = prop::option::of((prop::sample::select(vec!["when", "unless"]), condition()));
    (effect, principal, action, resource, clause).prop_map(|(effect, principal, action, resource, clause)| {
        let clause = clause.map_or(String::new(), |(word, condition)| format!(" {word} {{ {condition} }}"));
        format!("{effect} ({principal}, {action}, {resource}){clause};\n")
    })
}

/// A user that policies about its own kind search, beside documents.
fn policy_about_users() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "permit (principal, action == Action::\"manage\", resource) when { principal == resource };\n",
        "permit (principal, action == Action::\"manage\", resource) when { resource has boss && resource.boss == principal };\n",
        "permit (principal, action == Action::\"manage\", resource in Team::\"staff\") when { principal has level };\n",
        "permit (principal, action == Action::\"manage\", resource) unless { resource has level };\n",
        "forbid (principal, action == Action::\"manage\", resource) when { principal == resource };\n",
    ])
    .prop_map(str::to_owned)
}

fn asked() -> impl Strategy<Value = SearchQuestion> {
    let of = prop::sample::select(vec![
        (Searched::Subject, "Doc"),
        (Searched::Subject, "Doc"),
        (Searched::Resource, "Doc"),
        (Searched::Resource, "Doc"),
        (Searched::Resource, "Folder"),
        (Searched::Resource, "User"),
        (Searched::Subject, "User"),
        (Searched::Action, "Doc"),
    ]);
    // `user-9` and `new` are stored nowhere; properties describe them
    let subject = (
        prop::sample::select(vec!["user-0", "user-1", "user-2", "user-3", "user-5", "user-9"]),
        prop::option::of(0_i64..4),
    );
    let resource = (prop::sample::select(vec!["doc-1", "doc-2", "doc-6", "new"]), any::<bool>());
    let mfa = prop::option::of(any::<bool>());
    (of, subject, prop::sample::select(vec!["view", "edit"]), resource, mfa).prop_map(|(of, subject, action, resource, mfa)| {
        let (searched, ty) = of;
        let action = if ty == "User" { "manage" } else { action };
        let id = if ty == "User" { "user-2" } else { resource.0 };
        let mut question = question(searched, subject.0, action, (ty, id));
        question.subject.attrs = subject.1.map(|level| json!({"level": level}));
        if resource.1 && ty == "Doc" {
            let uid = |ty: &str, id: &str| json!({"__entity": {"type": ty, "id": id}});
            question.resource.attrs = Some(
                json!({"owner": uid("User", "user-1"), "level": 9, "folder": uid("Folder", "inner"),
                "readers": [uid("User", "user-4")]}),
            );
        }
        question.context = mfa.map(|mfa| json!({"mfa": mfa, "undeclared": 1}).as_object().unwrap().clone());
        question
    })
}

#[test]
fn the_pages_of_a_search_are_what_the_decision_permits() {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 250,
        ..ProptestConfig::default()
    });
    let policies = (
        prop::collection::vec(policy(), 1..6),
        prop::collection::vec(policy_about_users(), 0..3),
    );
    let cases = (
        policies,
        prop::collection::vec(asked(), 20),
        1_usize..4,
        prop::sample::select(vec![0, 2, 100]),
    );
    let counts = std::cell::Cell::new((0, 0));
    let outcome = runner.run(&cases, |((policies, about_users), questions, results, evaluated)| {
        let policies = policies.concat() + &about_users.concat();
        // strict validation refuses some
        let Ok(revision) = try_revision(&policies) else {
            return Ok(());
        };
        for question in questions {
            let expected = by_decisions(&revision, &question);
            let (pages, decided) = all_pages(&revision, &question, WorkMax { evaluated, ..WORK }, results);
            let (found, excluded) = counts.get();
            let candidates = if question.searched == Searched::Resource && question.resource.ty == "Doc" {
                8
            } else {
                decided
            };
            counts.set((found + expected.len(), excluded + candidates - decided));
            prop_assert_eq!(&pages, &expected, "{} {:?}", policies, question);
        }
        Ok(())
    });
    outcome.unwrap();
    let (found, excluded) = counts.get();
    assert!(
        found > 3000 && excluded > 1000,
        "found only {found}, excluded only {excluded}"
    );
}
