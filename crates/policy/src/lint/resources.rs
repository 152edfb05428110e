//! Rules about resources: attributes that the proxy does not know, and tenants that no policy compares.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{ActionConstraint, Effect, EntityTypeName, PrincipalConstraint, ResourceConstraint};
use serde_json::Value;

use super::{LintFinding, Linted, MISSING_TENANT_CHECK, UNDESCRIBED_RESOURCE, conditions, each_node};
use crate::engine::PolicyEntry;
use crate::schema::{AttrType, EntityModel};

pub(super) fn findings(linted: &Linted<'_>) -> Vec<LintFinding> {
    let routed = routed_types(linted);
    let mut findings = Vec::new();
    for entry in linted.entries() {
        findings.extend(undescribed(linted, entry, &routed));
    }
    findings.extend(without_tenant_check(linted));
    findings
}

/// The resource types that routes name.
fn routed_types(linted: &Linted<'_>) -> BTreeSet<EntityTypeName> {
    let schema = &linted.revision.rules.schema;
    let routes = linted.revision.file.routes.routes();
    routes
        .iter()
        .filter_map(|route| schema.resolve_type(&route.resource_type))
        .collect()
}

/// The types of resources that a policy may be about.
fn types_of(linted: &Linted<'_>, entry: &PolicyEntry) -> BTreeSet<EntityTypeName> {
    match entry.policy().resource_constraint() {
        ResourceConstraint::Is(ty) | ResourceConstraint::IsIn(ty, _) => BTreeSet::from([ty]),
        ResourceConstraint::Eq(uid) => BTreeSet::from([uid.type_name().clone()]),
        ResourceConstraint::Any => types_of_actions(linted, entry),
        ResourceConstraint::In(uid) => {
            let mut types = types_of_actions(linted, entry);
            types.retain(|ty| may_be_in(linted, ty, uid.type_name()));
            types
        }
    }
}

fn types_of_actions(linted: &Linted<'_>, entry: &PolicyEntry) -> BTreeSet<EntityTypeName> {
    let actions = linted.revision.rules.schema.actions();
    let covered = actions.filter(|(uid, model)| entry.covers_action(uid, &model.ancestors));
    covered.flat_map(|(_, model)| model.resources.iter().cloned()).collect()
}

/// True if the schema lets entities of one type be in one of the other type, directly or through others.
fn may_be_in(linted: &Linted<'_>, ty: &EntityTypeName, above: &EntityTypeName) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![ty];
    while let Some(next) = open.pop() {
        if next == above {
            return true;
        }
        if seen.insert(next) {
            let model = linted.revision.rules.schema.entity(next);
            open.extend(model.into_iter().flat_map(|model| &model.member_of));
        }
    }
    false
}

/// The attributes of the resource that an expression reads.
fn resource_attributes(entry: &PolicyEntry, operators: &[&str]) -> BTreeSet<String> {
    let mut attributes = BTreeSet::new();
    for condition in conditions(entry) {
        each_node(&condition, &mut |operator, operands| {
            let is_resource = operands.get("left").and_then(|left| left.get("Var")).and_then(Value::as_str) == Some("resource");
            if !operators.contains(&operator) || !is_resource {
                return;
            }
            match operands.get("attr") {
                Some(Value::String(name)) => drop(attributes.insert(name.clone())),
                Some(Value::Array(names)) => attributes.extend(names.first().and_then(Value::as_str).map(str::to_owned)),
                _ => {}
            }
        });
    }
    attributes
}

/// A forbid that reads a required attribute of a resource that a route names and no entity describes.
fn undescribed(linted: &Linted<'_>, entry: &PolicyEntry, routed: &BTreeSet<EntityTypeName>) -> Option<LintFinding> {
    if entry.info.effect != Effect::Forbid || !entry.policy().has_non_scope_constraint() {
        return None;
    }
    let read = resource_attributes(entry, &["."]);
    let guarded = resource_attributes(entry, &["has"]);
    let rules = &linted.revision.rules;
    let is_described = |ty: &EntityTypeName| linted.revision.candidate.store.uids().any(|uid| uid.type_name() == ty);
    let types = types_of(linted, entry);
    for ty in types.iter().filter(|ty| routed.contains(ty) && !is_described(ty)) {
        let model = rules.schema.entity(ty)?;
        let required = |name: &&String| model.attrs.fields.get(name.as_str()).is_some_and(|field| field.required);
        if let Some(name) = read.difference(&guarded).find(required) {
            let message = format!(
                "reads `resource.{name}`, and nothing describes a `{ty}` to the proxy: the forbid fails, so every request to one is denied"
            );
            let problem = linted.at_policy(entry, &format!("resource.{name}"), message);
            return Some(LintFinding::new(
                &UNDESCRIBED_RESOURCE,
                problem.with_help(format!(
                    "describe the resources in entities.json, or make `{name}` optional in the schema and test `resource has {name}` first"
                )),
            ));
        }
    }
    None
}

/// The attributes of a type that hold its tenant.
fn tenant_attributes(model: &EntityModel, tenant: &EntityTypeName) -> Vec<String> {
    let is_tenant = |ty: &AttrType| match ty {
        AttrType::Entity(ty) => ty == tenant,
        AttrType::Set(inner) => matches!(&**inner, AttrType::Entity(ty) if ty == tenant),
        _ => false,
    };
    let fields = model.attrs.fields.iter().filter(|(_, field)| is_tenant(&field.ty));
    fields.map(|(name, _)| name.clone()).collect()
}

/// Permits on a type whose resources have a tenant, where neither the permit nor any forbid looks at it.
fn without_tenant_check(linted: &Linted<'_>) -> Vec<LintFinding> {
    let rules = &linted.revision.rules;
    let Some(tenant) = &rules.names.tenant else {
        return Vec::new();
    };
    let owned = |ty: &EntityTypeName| {
        let model = rules.schema.entity(ty)?;
        let attributes = tenant_attributes(model, tenant);
        let is_member = model.member_of.contains(tenant) && !rules.schema.principal_types().contains(ty);
        (!attributes.is_empty() || is_member).then_some(attributes)
    };
    let mut findings = Vec::new();
    let mut forbids: BTreeMap<EntityTypeName, Vec<&PolicyEntry>> = BTreeMap::new();
    for entry in linted.entries().iter().filter(|entry| entry.info.effect == Effect::Permit) {
        for ty in types_of(linted, entry) {
            let Some(attributes) = owned(&ty) else { continue };
            let of_type = forbids
                .entry(ty.clone())
                .or_insert_with(|| tenant_forbids(linted, &ty, &attributes, tenant));
            if names_one_resource(entry) || reads_tenant(entry, &attributes, tenant) || is_forbidden(linted, entry, &ty, of_type)
            {
                continue;
            }
            let message = format!("permits access to every `{ty}`, whichever tenant it belongs to");
            let problem = linted.at_policy(entry, "permit", message);
            let example = attributes
                .first()
                .map_or_else(|| "resource".to_owned(), |name| format!("resource.{name}"));
            findings.push(LintFinding::new(
                &MISSING_TENANT_CHECK,
                problem.with_help(format!(
                    "add `when {{ principal in {example} }}`, or a forbid in policies/_shared for all policies at once"
                )),
            ));
            break;
        }
    }
    findings
}

fn names_one_resource(entry: &PolicyEntry) -> bool {
    matches!(entry.policy().resource_constraint(), ResourceConstraint::Eq(_))
}

fn reads_tenant(entry: &PolicyEntry, attributes: &[String], tenant: &EntityTypeName) -> bool {
    let read = resource_attributes(entry, &[".", "has"]);
    if attributes.iter().any(|name| read.contains(name)) {
        return true;
    }
    // `resource in Tenant::"…"`, `resource in principal.tenant`
    let mut is_in = false;
    for condition in conditions(entry) {
        each_node(&condition, &mut |operator, operands| {
            let left = operands.get("left").and_then(|left| left.get("Var")).and_then(Value::as_str);
            is_in |= operator == "in" && left == Some("resource");
        });
    }
    let names_tenant = entry.policy().entity_literals().iter().any(|uid| uid.type_name() == tenant);
    is_in || names_tenant
}

/// The forbids for every caller that look at the tenant of this type.
fn tenant_forbids<'a>(
    linted: &Linted<'a>,
    ty: &EntityTypeName,
    attributes: &[String],
    tenant: &EntityTypeName,
) -> Vec<&'a PolicyEntry> {
    let forbids = linted.entries().iter().filter(|entry| {
        entry.info.effect == Effect::Forbid
            && matches!(
                entry.policy().principal_constraint(),
                PrincipalConstraint::Any | PrincipalConstraint::Is(_)
            )
            && types_of(linted, entry).contains(ty)
            && reads_tenant(entry, attributes, tenant)
    });
    forbids.map(|entry| &**entry).collect()
}

/// True if one of these forbids holds for every action of the permit.
fn is_forbidden(linted: &Linted<'_>, permit: &PolicyEntry, ty: &EntityTypeName, forbids: &[&PolicyEntry]) -> bool {
    let schema = &linted.revision.rules.schema;
    let permitted = schema.actions().filter(|(uid, model)| {
        !matches!(permit.policy().action_constraint(), ActionConstraint::Eq(own) if own != **uid)
            && permit.covers_action(uid, &model.ancestors)
            && model.resources.contains(ty)
    });
    permitted
        .into_iter()
        .all(|(uid, model)| forbids.iter().any(|forbid| forbid.covers_action(uid, &model.ancestors)))
}
