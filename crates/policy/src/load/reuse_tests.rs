//! The parts that a load reuses from the load before, and the parts that it must not reuse.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use super::{Loaded, Loader, Revision};
use crate::engine::PolicyEntry;
use crate::revision::source::{SourceFile, Tree};
use crate::scope::PortalScope;
use crate::types::PortalSlug;

const SCHEMA: &str = "entity User = { age?: Long }; entity Path; action GET appliesTo { principal: User, resource: Path };";
const OLDER: &str = "@id(\"older\") permit(principal, action, resource) when { principal has age && principal.age > 17 };";

fn rule(id: &str) -> String {
    format!("@id(\"{id}\") permit(principal == User::\"{id}\", action, resource);\n")
}

fn tree(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::default();
    for (name, text) in files {
        tree.files.0.insert((*name).to_owned(), SourceFile::new(text.as_bytes()));
    }
    tree
}

fn load(loader: &mut Loader, slug: &str, tree: &Tree, previous: Option<&Revision>) -> Loaded {
    loader.load(&portal(slug), tree, previous)
}

fn prepare(loader: &mut Loader, slug: &str, tree: &Tree) {
    loader.prepare(&portal(slug), tree);
}

fn portal(slug: &str) -> PortalScope {
    PortalScope::at(PortalSlug::parse(slug).unwrap(), "/")
}

fn loaded(loader: &mut Loader, slug: &str, tree: &Tree, previous: Option<&Revision>) -> Arc<Revision> {
    let loaded = load(loader, slug, tree, previous);
    assert!(loaded.rejected.is_none(), "{:?}", loaded.rejected);
    loaded.revision.unwrap()
}

fn rejected(loader: &mut Loader, slug: &str, tree: &Tree, previous: Option<&Revision>) -> String {
    let loaded = load(loader, slug, tree, previous);
    assert!(loaded.revision.is_none());
    loaded.rejected.unwrap().to_string()
}

fn entry<'a>(revision: &'a Revision, id: &str) -> &'a Arc<PolicyEntry> {
    let all = revision.rules.engine.policies();
    all.iter().find(|entry| &*entry.info.id == id).unwrap()
}

fn loader() -> Loader {
    Loader::new(None)
}

#[test]
fn only_the_statement_that_changed_is_read_again() {
    let (mut loader, files) = (loader(), |text: &str| {
        tree(&[("schemas/a.cedarschema", SCHEMA), ("policies/a/x.cedar", text)])
    });
    let before = loaded(&mut loader, "a", &files(&(rule("one") + &rule("two") + &rule("three"))), None);
    let text = format!(
        "{}// new\n\n  {}{}{}",
        rule("one"),
        rule("two").replace("action,", "action ,"),
        rule("three"),
        rule("four")
    );
    let after = loaded(&mut loader, "a", &files(&text), Some(&before));
    assert!(
        Arc::ptr_eq(entry(&before, "one"), entry(&after, "one")),
        "it stands where it stood"
    );
    assert!(
        entry(&before, "three").is_same_reading(entry(&after, "three")),
        "it only moved"
    );
    assert!(
        !entry(&before, "two").is_same_reading(entry(&after, "two")),
        "its text changed"
    );
    let place = |revision, id| entry(revision, id).info.place.clone();
    assert_eq!(place(&before, "three"), "policies/a/x.cedar:3");
    assert_eq!(place(&after, "three"), "policies/a/x.cedar:5");
    assert_eq!(after.rules.engine.policies().len(), 4);
}

#[test]
fn a_policy_without_an_id_is_called_by_where_it_is_now() {
    let (mut loader, files) = (loader(), |text: &str| {
        tree(&[("schemas/a.cedarschema", SCHEMA), ("policies/a/x.cedar", text)])
    });
    let (one, two) = (
        "permit(principal == User::\"1\", action, resource);\n",
        "permit(principal == User::\"2\", action, resource);\n",
    );
    let before = loaded(&mut loader, "a", &files(&format!("{one}{two}")), None);
    let after = loaded(&mut loader, "a", &files(two), Some(&before));
    let ids: Vec<_> = after
        .rules
        .engine
        .policies()
        .iter()
        .map(|p| (&*p.info.id, p.policy().to_string()))
        .collect();
    assert_eq!(ids, [("x#0", two.trim().to_owned())]);
    let found = rejected(&mut loader, "a", &files(&format!("{two}@id(\"x#0\") {one}")), Some(&after));
    assert!(found.contains("x.cedar:2:1: policy id `x#0` is used twice"), "{found}");
}

#[test]
fn a_statement_that_did_not_change_is_validated_under_every_new_schema() {
    let files = |schema: &str, text: &str| tree(&[("schemas/a.cedarschema", schema), ("policies/a/x.cedar", text)]);
    let (mut loader, text) = (loader(), format!("{}\n  {OLDER}", rule("one")));
    let before = loaded(&mut loader, "a", &files(SCHEMA, &text), None);
    let found = rejected(
        &mut loader,
        "a",
        &files(&SCHEMA.replace("Long", "String"), &text),
        Some(&before),
    );
    assert!(found.contains("policies/a/x.cedar:3:"), "{found}");
    let after = loaded(
        &mut loader,
        "a",
        &files(&format!("{SCHEMA} entity Other;"), &text),
        Some(&before),
    );
    assert!(
        entry(&before, "older").is_same_reading(entry(&after, "older")),
        "a schema changes no text"
    );
    assert!(!Arc::ptr_eq(&before.rules.schema, &after.rules.schema));
    let again = loaded(
        &mut loader,
        "a",
        &files(&format!("{SCHEMA} entity Other;"), &format!("{text}\n{}", rule("two"))),
        Some(&after),
    );
    assert!(
        Arc::ptr_eq(&again.rules.schema, &after.rules.schema),
        "the schema did not change"
    );
}

#[test]
fn warnings_of_unchanged_statements_stay_and_move_with_them() {
    let files = |text: &str| tree(&[("schemas/a.cedarschema", SCHEMA), ("policies/a/x.cedar", text)]);
    let never = "@id(\"never\") permit(principal, action, resource) when { false };\n";
    let mut loader = loader();
    let before = loaded(&mut loader, "a", &files(never), None);
    let after = loaded(&mut loader, "a", &files(&format!("{}{never}", rule("one"))), Some(&before));
    assert_eq!(before.warnings.len(), 1);
    assert_eq!(after.warnings.len(), 1);
    assert_eq!((before.warnings[0].line, after.warnings[0].line), (Some(1), Some(2)));
}

#[test]
fn a_shared_file_is_read_once_and_checked_for_every_schema() {
    let other = SCHEMA.replace("entity Path;", "entity Path; entity Extra;");
    let files = |shared: &str| {
        let own = rule("own");
        tree(&[
            ("schemas/a.cedarschema", SCHEMA),
            ("schemas/b.cedarschema", SCHEMA),
            ("schemas/c.cedarschema", &other),
            ("policies/_shared/s.cedar", shared),
            ("policies/a/x.cedar", &own),
            ("policies/b/x.cedar", &own),
            ("policies/c/x.cedar", &own),
        ])
    };
    let (mut loader, first) = (loader(), files(&rule("shared")));
    let before = ["a", "b", "c"].map(|slug| loaded(&mut loader, slug, &first, None));
    let [a, b, c] = &before;
    assert!(Arc::ptr_eq(entry(a, "shared"), entry(b, "shared")) && entry(a, "shared").is_same_reading(entry(c, "shared")));
    assert!(Arc::ptr_eq(&a.rules.schema, &b.rules.schema) && !Arc::ptr_eq(&a.rules.schema, &c.rules.schema));
    let second =
        files(&(rule("shared") + "@id(\"extra\") permit(principal, action, resource) when { resource in Extra::\"x\" };"));
    for (slug, before) in [("a", a), ("b", b)] {
        let found = rejected(&mut loader, slug, &second, Some(before));
        assert!(found.contains("_shared/s.cedar:2"), "{found}");
    }
    let found = load(&mut loader, "c", &second, Some(c));
    assert!(found.rejected.is_none_or(|e| !e.to_string().contains("Extra")));
    let third = files(&(rule("shared") + OLDER));
    let after = [("a", a), ("b", b)].map(|(slug, before)| loaded(&mut loader, slug, &third, Some(before)));
    assert!(
        after
            .iter()
            .all(|revision| entry(revision, "older").is_same_reading(entry(&after[0], "older")))
    );
    assert!(Arc::ptr_eq(entry(&after[1], "shared"), entry(a, "shared")));
}

#[test]
fn entities_are_taken_over_unless_they_or_the_schema_changed() {
    let files = |schema: &str, entities: &str, text: &str| {
        tree(&[
            ("schemas/a.cedarschema", schema),
            ("policies/a/entities.json", entities),
            ("policies/a/x.cedar", text),
        ])
    };
    let young = r#"[{"uid": {"type": "User", "id": "u"}, "attrs": {"age": 3}, "parents": []}]"#;
    let mut loader = loader();
    let first = loaded(&mut loader, "a", &files(SCHEMA, young, OLDER), None);
    let edited = loaded(&mut loader, "a", &files(SCHEMA, young, &rule("one")), Some(&first));
    assert!(Arc::ptr_eq(&first.rules.engine.store, &edited.rules.engine.store));
    let older = loaded(
        &mut loader,
        "a",
        &files(SCHEMA, &young.replace('3', "4"), &rule("one")),
        Some(&edited),
    );
    assert!(!Arc::ptr_eq(&edited.rules.engine.store, &older.rules.engine.store));
    let found = rejected(
        &mut loader,
        "a",
        &files(&SCHEMA.replace("Long", "String"), &young.replace('3', "4"), &rule("one")),
        Some(&older),
    );
    assert!(found.contains("entities.json"), "{found}");
}

#[test]
fn a_prepared_file_is_not_parsed_again_and_does_not_affect_the_load() {
    let files = |schema: &str, text: &str| tree(&[("schemas/a.cedarschema", schema), ("policies/a/x.cedar", text)]);
    let mut loader = loader();
    let before = loaded(&mut loader, "a", &files(SCHEMA, OLDER), None);
    let next = files(&format!("{SCHEMA} entity Other;"), &(rule("one") + OLDER));
    prepare(&mut loader, "a", &files(SCHEMA, "permit("));
    prepare(&mut loader, "a", &files("nonsense", OLDER));
    prepare(&mut loader, "a", &next);
    let ahead = Arc::clone(loader.schemas.recent.as_ref().unwrap());
    let after = loaded(&mut loader, "a", &next, Some(&before));
    assert!(Arc::ptr_eq(&ahead.model, &after.rules.schema));
    assert!(entry(&before, "older").is_same_reading(entry(&after, "older")));
    // a prepared tree that is overwritten before the load is not served
    prepare(&mut loader, "a", &files(SCHEMA, &rule("two")));
    let last = loaded(&mut loader, "a", &files(SCHEMA, &rule("three")), Some(&after));
    assert_eq!(last.rules.engine.policies().len(), 1);
    assert_eq!(&*last.rules.engine.policies()[0].info.id, "three");
}

#[test]
fn another_portals_edit_changes_nothing_here() {
    let files = |b: &str| {
        tree(&[
            ("schemas/a.cedarschema", SCHEMA),
            ("policies/a/x.cedar", &rule("one")),
            ("policies/b/x.cedar", b),
        ])
    };
    let mut loader = loader();
    let before = loaded(&mut loader, "a", &files(""), None);
    assert!(files("").is_same_for(&files("// edited"), &PortalSlug::parse("a").unwrap()));
    assert!(!files("").is_same_for(&files("// edited"), &PortalSlug::parse("b").unwrap()));
    let after = load(&mut loader, "a", &files("// edited"), Some(&before));
    assert!(after.revision.is_none() && after.rejected.is_none());
}

#[test]
fn an_emergency_forbid_that_comes_and_goes_costs_no_policy_its_reading() {
    let files = |emergency_forbid: Option<&str>| {
        let own = rule("one");
        let emergency_forbid = emergency_forbid.map(|text| ("policies/a/_deny/stop.cedar", text));
        let rest = [("schemas/a.cedarschema", SCHEMA), ("policies/a/x.cedar", own.as_str())];
        tree(&rest.into_iter().chain(emergency_forbid).collect::<Vec<_>>())
    };
    let mut loader = loader();
    let open = loaded(&mut loader, "a", &files(None), None);
    let closed_by = loaded(
        &mut loader,
        "a",
        &files(Some("forbid(principal, action, resource);")),
        Some(&open),
    );
    assert_eq!(closed_by.rules.engine.policies().len(), 2);
    assert!(Arc::ptr_eq(
        &open.rules.engine.policies()[0],
        &closed_by.rules.engine.policies()[0]
    ));
    let freed = loaded(&mut loader, "a", &files(None), Some(&closed_by));
    assert_eq!(freed.rules.engine.policies().len(), 1);
    assert_eq!(freed.id, open.id);
}

#[test]
fn a_rejected_edit_forgets_nothing() {
    let files = |yaml: &str, text: &str| {
        tree(&[
            ("schemas/a.cedarschema", SCHEMA),
            ("policies/a/portal.yaml", yaml),
            ("policies/a/x.cedar", text),
        ])
    };
    let mut loader = Loader::new(Some(sync_channel(1).0));
    let before = loaded(&mut loader, "a", &files("title: a", &rule("one")), None);
    rejected(&mut loader, "a", &files("nonsense: 1", &rule("one")), Some(&before));
    rejected(&mut loader, "a", &files("title: a", "permit("), Some(&before));
    let after = loaded(&mut loader, "a", &files("title: b", &rule("one")), Some(&before));
    assert!(Arc::ptr_eq(entry(&before, "one"), entry(&after, "one")));
}
