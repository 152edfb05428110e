//! `entities.json` → the entities of a revision, or every mistake with its place.
//!
//! Cedar reads and checks the file. This file adds what Cedar does not say: the places of an entity that is written
//! twice, the place of a number that is no Cedar value, and the relations that only a credential may define. The places
//! are looked for only if there is a mistake: a portal may have a million entities.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::{Entities, EntityTypeName, EntityUid};
use rustc_hash::FxHashMap;

use super::checks::{is_path_of_a_request, path_help};
use super::entity_mistakes::{self, uid_of};
use super::json_items::items;
use crate::engine::entities::EntityStore;
use crate::error_chain::error_chain;
use crate::hierarchy;
use crate::json;
use crate::portal::path::rules::PathRules;
use crate::revision::problem::Problem;
use crate::revision::source::{Files, SourceFile};
use crate::revision::{PortalSchema, Revision};
use crate::schema::{SchemaModel, TypeNames};
use crate::types::PortalSlug;

/// Duplicates, and wrong relations, that are reported.
const PROBLEMS_MAX: usize = 50;

/// A portal's `entities.json`; without `file` the portal has no entities of its own.
pub(super) struct EntityFile<'a> {
    name: String,
    file: Option<&'a SourceFile>,
}

/// The types that a credential speaks about.
struct CallerTypes {
    /// Callers, and the roles and tenants that a credential puts them in.
    below: BTreeSet<EntityTypeName>,
    /// Types that a file may not put them in.
    never_above: BTreeSet<EntityTypeName>,
}

impl<'a> EntityFile<'a> {
    pub(super) fn of(slug: &PortalSlug, files: &'a Files) -> Self {
        let name = format!("policies/{slug}/entities.json");
        Self {
            file: files.get(&name),
            name,
        }
    }

    /// Takes over unchanged entities: an edit of one policy must not read a million of them again.
    pub(super) fn load(
        &self,
        schema: &Arc<PortalSchema>,
        names: &TypeNames,
        previous: Option<&Revision>,
    ) -> Result<Arc<EntityStore>, Vec<Problem>> {
        if let Some(candidate) = previous.map(|p| &p.candidate)
            && Arc::ptr_eq(&candidate.schema, schema)
            && candidate.files.get(&self.name) == self.file
        {
            return Ok(Arc::clone(&candidate.store));
        }
        let model = &schema.model;
        let Some(file) = self.file else {
            let actions = model.cedar.action_entities();
            let actions = actions.map_err(|e| vec![Problem::new(&self.name, error_chain(&e))])?;
            return Ok(Arc::new(EntityStore::new(actions, names)));
        };
        let text = file.text(&self.name).map_err(|problem| vec![problem])?;
        hierarchy::check_file(text).map_err(|error| vec![Problem::new(&self.name, error.to_string())])?;
        let parsed =
            Entities::from_json_str(text, Some(&model.cedar)).map_err(|e| self.unreadable(text, model, &error_chain(&e)))?;
        let mut problems = self.duplicates_of(text, model, &parsed);
        problems.extend(self.relations(text, &CallerTypes::new(model, names), &parsed));
        if problems.is_empty() {
            Ok(Arc::new(EntityStore::new(parsed, names)))
        } else {
            Err(problems)
        }
    }

    /// Paths that no request has, and paths in other portals. An entity in another spelling is never reached, so
    /// forbids on its groups would not hold; the configuration alone says which paths a portal has.
    pub(super) fn path_problems(&self, store: &EntityStore, names: &TypeNames, rules: &PathRules) -> Vec<Problem> {
        let paths = || store.uids().filter(|uid| names.is_path(uid));
        let wrong = paths().filter(|uid| !is_path_of_a_request(uid.id().unescaped(), rules));
        let wrong: BTreeSet<&EntityUid> = wrong.take(PROBLEMS_MAX).collect();
        let other_portal = |uid: &&EntityUid| names.other_portal(store.ancestors(uid)).is_some();
        let elsewhere: BTreeSet<&EntityUid> = paths().filter(other_portal).take(PROBLEMS_MAX).collect();
        if wrong.is_empty() && elsewhere.is_empty() {
            return Vec::new();
        }
        let text = self.file.and_then(|file| file.text(&self.name).ok()).unwrap_or_default();
        let placed = |uid: &EntityUid, problem: Problem| {
            let id = serde_json::to_string(uid.id().unescaped()).unwrap_or_default();
            let found = items(text).find_map(|item| Some((item.text.find(&id)?, item)));
            match found {
                Some((offset, item)) => item.place(&self.name, problem, offset, id.len()),
                None => problem,
            }
        };
        let problem = |uid: &EntityUid| {
            let problem = Problem::new(&self.name, format!("names `{uid}`, which no request's path can be"));
            placed(uid, problem).with_help(path_help(rules))
        };
        let in_another = |uid: &EntityUid| {
            let portal = names
                .other_portal(store.ancestors(uid))
                .map(ToString::to_string)
                .unwrap_or_default();
            let message = format!("`{uid}` is in `{portal}`, and only the configuration may say so");
            placed(uid, Problem::new(&self.name, message)).with_help("remove the parent; a path is in its own portal alone")
        };
        let wrong = wrong.into_iter().map(problem);
        wrong.chain(elsewhere.into_iter().map(in_another)).collect()
    }

    /// The mistakes of a text that Cedar does not read.
    fn unreadable(&self, text: &str, model: &SchemaModel, message: &str) -> Vec<Problem> {
        if let Err(error) = json::check_integers(text) {
            let problem = Problem::new(&self.name, error.reason).at_line(Some(error.line));
            return vec![Problem {
                column: Some(error.column),
                ..problem
            }];
        }
        let duplicates = self.duplicates(text);
        if duplicates.is_empty() {
            return vec![entity_mistakes::problem(&self.name, text, model, message)];
        }
        duplicates
    }

    /// Cedar takes an entity that is written twice with equal content for one.
    fn duplicates_of(&self, text: &str, model: &SchemaModel, parsed: &Entities) -> Vec<Problem> {
        let distinct = parsed.iter().filter(|entity| model.action(&entity.uid()).is_none()).count();
        // an action of the schema may be written too; then the search decides
        if items(text).count() == distinct {
            return Vec::new();
        }
        self.duplicates(text)
    }

    fn duplicates(&self, text: &str) -> Vec<Problem> {
        let mut seen: FxHashMap<EntityUid, usize> = FxHashMap::default();
        let mut problems = Vec::new();
        for item in items(text) {
            let Some(uid) = uid_of(&item) else { continue };
            match seen.get(&uid) {
                Some(first) => {
                    let problem = Problem::new(&self.name, format!("entity `{uid}` is already described in line {first}"));
                    problems.push(item.place_whole(&self.name, problem).with_help("describe it once"));
                }
                None => {
                    seen.insert(uid, item.begin.line);
                }
            }
            if problems.len() >= PROBLEMS_MAX {
                break;
            }
        }
        problems
    }

    /// SECURITY: a tenant that a file gives to a caller would undo every rule that isolates tenants. So a file may nest
    /// callers, roles and tenants in roles and groups, but in no tenant, path or portal, neither directly nor through a
    /// group.
    fn relations(&self, text: &str, types: &CallerTypes, parsed: &Entities) -> Vec<Problem> {
        let found: Vec<_> = parsed
            .iter()
            .filter(|entity| types.below.contains(entity.uid().type_name()))
            .flat_map(|entity| wrong_relations(&entity.uid(), types, parsed))
            .take(PROBLEMS_MAX)
            .collect();
        if found.is_empty() {
            return Vec::new();
        }
        let described: FxHashMap<_, _> = items(text).filter_map(|item| Some((uid_of(&item)?, item))).collect();
        let problem = |(uid, message): (EntityUid, String)| {
            let problem = Problem::new(&self.name, message);
            let placed = match described.get(&uid) {
                Some(item) => item.place_whole(&self.name, problem),
                None => problem,
            };
            placed.with_help(
                "remove the parent; callers, roles and tenants may be in roles and groups, not in a tenant, path or portal",
            )
        };
        found.into_iter().map(problem).collect()
    }
}

/// The wrong relations of one entity, each with its message; of an entity with very many, the first ones. A relation
/// that the entity has through another caller, role or tenant is that one's.
fn wrong_relations(uid: &EntityUid, types: &CallerTypes, parsed: &Entities) -> Vec<(EntityUid, String)> {
    let above: Vec<&EntityUid> = parsed.ancestors(uid).map(Iterator::collect).unwrap_or_default();
    let wrong = above.iter().filter(|a| types.never_above.contains(a.type_name()));
    let own = wrong.take(PROBLEMS_MAX).filter_map(|wrong| {
        let mut between = above.iter().filter(|a| *a != wrong && parsed.is_ancestor_of(wrong, a));
        let first = between.next();
        if first.into_iter().chain(between).any(|a| types.below.contains(a.type_name())) {
            return None;
        }
        let through = first.map(|via| format!(" through `{via}`")).unwrap_or_default();
        let message = format!("`{uid}` is in `{wrong}`{through}, and only a credential may say so");
        Some((uid.clone(), message))
    });
    own.collect()
}

impl CallerTypes {
    fn new(model: &SchemaModel, names: &TypeNames) -> Self {
        let mut below = model.principal_types().clone();
        below.extend(names.role.iter().chain(&names.tenant).cloned());
        let portal = names.portal.as_ref().map(EntityUid::type_name);
        let never_above = names.tenant.iter().chain(&names.path).chain(portal).cloned().collect();
        Self { below, never_above }
    }
}

#[cfg(test)]
mod tests {
    use crate::load::Loader;
    use crate::test_support::{portal, tree};

    const SCHEMA: &str = "
        entity Tenant in [Tenant, Group, Region]; entity Region in [Tenant]; entity Portal; entity Path in [Path, Portal, Group, Tenant];
        entity Role in [Role, Group, Tenant, Path]; entity Group in [Group, Tenant, Portal];
        entity User in [Role, Group, Tenant, Portal, Path, User] = { age?: Long };
        entity Service in [Role, Tenant]; entity Order in [Tenant, Path] = { price?: decimal, size?: Long };
        action GET appliesTo { principal: [User, Service], resource: [Path, Order], context: {} };
    ";

    fn uid(text: &str) -> serde_json::Value {
        let (ty, id) = text.split_once('/').unwrap();
        serde_json::json!({"type": ty, "id": id})
    }

    /// One entity per line, each `Type/id` with its parents.
    fn file(entities: &[(&str, &[&str])]) -> String {
        let items: Vec<String> = entities
            .iter()
            .map(|(name, parents)| {
                let parents: Vec<_> = parents.iter().map(|p| uid(p)).collect();
                serde_json::json!({"uid": uid(name), "attrs": {}, "parents": parents}).to_string()
            })
            .collect();
        format!("[\n{}\n]", items.join(",\n"))
    }

    /// The problems of a text, each with its line.
    fn problems(entities: &str) -> Vec<(Option<usize>, String)> {
        let files = tree([
            ("schemas/bench.cedarschema", SCHEMA),
            ("policies/bench/all.cedar", "permit(principal, action, resource);"),
            ("policies/bench/entities.json", entities),
        ]);
        let loaded = Loader::new(None).load(&portal(), &files, None);
        let rejected = loaded.rejected.map(|error| error.problems).unwrap_or_default();
        assert!(
            rejected.iter().all(|p| p.file == "policies/bench/entities.json"),
            "{rejected:?}"
        );
        rejected.into_iter().map(|p| (p.line, p.message)).collect()
    }

    #[test]
    fn a_file_puts_no_caller_role_or_tenant_into_a_tenant_path_or_portal() {
        for (entities, line, cause) in [
            (&[("User/alice", &["Tenant/other"][..])][..], 2, "Tenant::\"other\""),
            (&[("Service/bot", &["Tenant/other"])], 2, "Tenant::\"other\""),
            (&[("Role/editor", &["Tenant/other"])], 2, "Tenant::\"other\""),
            (&[("Tenant/acme", &["Tenant/other"])], 2, "Tenant::\"other\""),
            (
                &[("Tenant/acme", &["Region/eu"]), ("Region/eu", &["Tenant/other"])],
                2,
                "through `Region::\"eu\"`",
            ),
            (
                &[("Group/g", &["Tenant/other"]), ("User/alice", &["Group/g"])],
                3,
                "through `Group::\"g\"`",
            ),
            (
                &[
                    ("Group/g", &["Group/h"]),
                    ("Group/h", &["Tenant/other"]),
                    ("Role/editor", &["Group/g"]),
                ],
                4,
                "Tenant::\"other\"",
            ),
            (
                &[("User/alice", &["Role/r"]), ("Role/r", &["Tenant/other"])],
                3,
                "`Role::\"r\"` is in",
            ),
            (&[("User/alice", &["Path//shop"])], 2, "Path::\"/shop\""),
            (&[("User/alice", &["Portal/bench"])], 2, "Portal::\"bench\""),
            (&[("Role/editor", &["Path//shop"])], 2, "Path::\"/shop\""),
        ] {
            let found = problems(&file(entities));
            assert_eq!(found.len(), 1, "{entities:?}: {found:?}");
            assert_eq!(found[0].0, Some(line), "{found:?}");
            assert!(found[0].1.contains(cause), "{found:?}");
        }
    }

    #[test]
    fn a_file_names_only_paths_that_requests_have_and_puts_none_into_another_portal() {
        let cause = "no request's path";
        for (entities, line, cause) in [
            (&[("Path//shop/a/", &["Group/g"][..])][..], 2, cause),
            (&[("Path//shop/../a", &["Group/g"])], 2, cause),
            (&[("Path//shop/%61", &["Group/g"])], 2, cause),
            (&[("Path/shop/a", &["Group/g"])], 2, cause),
            (&[("Order/1", &["Tenant/t"]), ("Order/7", &["Path//shop/a/"])], 3, cause),
            (
                &[("Path//shop/a", &["Portal/other"])],
                2,
                "`Path::\"/shop/a\"` is in `Portal::\"other\"`",
            ),
            (
                &[("Group/g", &["Portal/other"]), ("Path//shop/a", &["Group/g"])],
                3,
                "`Path::\"/shop/a\"` is in `Portal::\"other\"`",
            ),
        ] {
            let found = problems(&file(entities));
            assert_eq!(found.len(), 1, "{entities:?}: {found:?}");
            assert_eq!(found[0].0, Some(line), "{found:?}");
            assert!(found[0].1.contains(cause), "{found:?}");
        }
        let good = [
            ("Path//shop/a", &["Portal/bench", "Group/g", "Path//shop/b"][..]),
            ("Path//shop/c%20d", &["Group/g"]),
            ("Order/7", &["Path//"]),
        ];
        assert_eq!(problems(&file(&good)), []);
    }

    #[test]
    fn a_file_nests_callers_roles_and_groups_and_puts_resources_into_tenants() {
        let entities: &[(&str, &[&str])] = &[
            ("User/alice", &["Role/editor", "Group/support", "User/boss"]),
            ("Role/editor", &["Role/viewer", "Group/staff"]),
            ("Group/support", &["Group/staff"]),
            ("Tenant/acme", &["Group/customers"]),
            ("Order/7", &["Tenant/acme", "Path//shop"]),
            ("Group/of-orders", &["Tenant/acme"]),
            ("Path//shop/x", &["Group/of-orders", "Portal/bench"]),
        ];
        assert_eq!(problems(&file(entities)), []);
    }

    #[test]
    fn an_entity_that_is_written_twice_is_named_with_both_places() {
        let orders: &[(&str, &[&str])] = &[("Order/7", &[]), ("Order/8", &[]), ("Order/7", &[])];
        let found = problems(&file(orders));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, Some(4));
        assert!(
            found[0].1.contains("Order::\"7\"") && found[0].1.contains("line 2"),
            "{found:?}"
        );
        let other = "[\n{\"uid\": {\"type\": \"User\", \"id\": \"a\"}, \"attrs\": {}, \"parents\": []},\n\
                     {\"uid\": {\"__entity\": {\"type\": \"User\", \"id\": \"a\"}}, \"attrs\": {\"age\": 1}, \"parents\": []}\n]";
        let found = problems(other);
        assert_eq!(found[0].0, Some(3), "{found:?}");
        assert!(found[0].1.contains("line 2"), "{found:?}");
    }

    #[test]
    fn a_number_that_is_no_cedar_value_is_named_with_its_place() {
        for number in ["1.5", "9223372036854775808", "-9223372036854775809", "1e3", "7.0"] {
            let text = format!(
                "[\n{{\"uid\": {{\"type\": \"Order\", \"id\": \"7\"}},\n\"attrs\": {{\"size\": {number}}}, \"parents\": []}}\n]"
            );
            let found = problems(&text);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].0, Some(3), "{number}: {found:?}");
            assert!(found[0].1.contains("64 bits"), "{number}: {found:?}");
        }
    }
}
