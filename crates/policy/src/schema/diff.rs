//! What changed between two schemas of a portal, and whom it breaks.
//!
//! Two groups build on a schema: *policies*, which strict validation holds against it, and *apps*, whose questions and
//! stored entities must have its types. A change that only adds is compatible, unless policies that are there already
//! apply to more than before.

use std::collections::BTreeSet;

use cedar_policy::{EntityTypeName, EntityUid};

use super::{ActionModel, EntityModel, Field, RecordType, SchemaModel};

/// How much a change matters. The order is that of a report.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Effect {
    /// Something that was valid no longer is.
    Breaking,
    /// Everything stays valid, but a policy that is there already may apply to more or to less.
    Review,
    Compatible,
}

/// One difference.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SchemaChange {
    pub effect: Effect,
    /// `Order.owner`, `viewOrder`, `viewOrder context.tenant`
    pub place: String,
    /// What is different, and what follows from it.
    pub message: String,
}

/// What two records are the fields of.
struct RecordOwner<'a> {
    name: &'a str,
    /// True if apps write the values: attributes of entities. The gate fills a context.
    is_written_by_apps: bool,
}

/// Every change, the breaking ones first.
pub fn changes(old: &SchemaModel, new: &SchemaModel) -> Vec<SchemaChange> {
    let mut changes = Vec::new();
    for (ty, before) in old.entities() {
        match new.entity(ty) {
            Some(after) => entity(ty, before, after, &mut changes),
            None => changes.push(SchemaChange::breaking(
                &ty.to_string(),
                "removed: policies, routes and questions that name the type are refused",
            )),
        }
    }
    for (ty, _) in new.entities().filter(|(ty, _)| old.entity(ty).is_none()) {
        changes.push(SchemaChange::compatible(&ty.to_string(), "added"));
    }
    for (uid, before) in old.actions() {
        match new.action(uid) {
            Some(after) => action(uid, before, after, &mut changes),
            None => changes.push(SchemaChange::breaking(
                &action_name(uid),
                "removed: policies, routes and questions that name the action are refused",
            )),
        }
    }
    for (uid, after) in new.actions().filter(|(uid, _)| old.action(uid).is_none()) {
        changes.push(added_action(uid, after));
    }
    changes.sort();
    changes
}

fn added_action(uid: &EntityUid, action: &ActionModel) -> SchemaChange {
    match action.ancestors.as_slice() {
        [] => SchemaChange::compatible(&action_name(uid), "added"),
        groups => SchemaChange::review(
            &action_name(uid),
            format!(
                "added in {}: policies for the group hold for it at once",
                joined(groups.iter().map(action_name))
            ),
        ),
    }
}

fn entity(ty: &EntityTypeName, before: &EntityModel, after: &EntityModel, changes: &mut Vec<SchemaChange>) {
    let name = ty.to_string();
    let place = RecordOwner {
        name: &name,
        is_written_by_apps: true,
    };
    fields(&place, &before.attrs, &after.attrs, changes);
    let gone: Vec<String> = before
        .member_of
        .difference(&after.member_of)
        .map(ToString::to_string)
        .collect();
    if !gone.is_empty() {
        let message = format!(
            "no longer in {}: stored entities with such a parent are refused",
            joined(gone)
        );
        changes.push(SchemaChange::breaking(&name, message));
    }
    let more: Vec<String> = after
        .member_of
        .difference(&before.member_of)
        .map(ToString::to_string)
        .collect();
    if !more.is_empty() {
        changes.push(SchemaChange::compatible(&name, format!("may be in {}", joined(more))));
    }
    match (before.is_enum(), after.is_enum()) {
        (false, true) => changes.push(SchemaChange::breaking(&name, "only listed ids exist now")),
        (true, false) => changes.push(SchemaChange::compatible(&name, "may have any id now")),
        _ => {}
    }
}

fn action(uid: &EntityUid, before: &ActionModel, after: &ActionModel, changes: &mut Vec<SchemaChange>) {
    let name = action_name(uid);
    types("principal", &name, &before.principals, &after.principals, changes);
    types("resource", &name, &before.resources, &after.resources, changes);
    let context = format!("{name} context");
    let place = RecordOwner {
        name: &context,
        is_written_by_apps: false,
    };
    fields(&place, &before.context, &after.context, changes);
    let groups = |model: &ActionModel| -> BTreeSet<EntityUid> { model.ancestors.iter().cloned().collect() };
    let old_groups = groups(before);
    let new_groups = groups(after);
    let left = old_groups.difference(&new_groups).map(action_name).collect::<Vec<_>>();
    if !left.is_empty() {
        let message = format!(
            "leaves {}: policies for the group, forbids among them, no longer hold for it",
            joined(left)
        );
        changes.push(SchemaChange::review(&name, message));
    }
    let joins = new_groups.difference(&old_groups).map(action_name).collect::<Vec<_>>();
    if !joins.is_empty() {
        changes.push(SchemaChange::review(
            &name,
            format!("joins {}: policies for the group hold for it now", joined(joins)),
        ));
    }
}

fn types(
    which: &str,
    action: &str,
    before: &BTreeSet<EntityTypeName>,
    after: &BTreeSet<EntityTypeName>,
    changes: &mut Vec<SchemaChange>,
) {
    let gone: Vec<String> = before.difference(after).map(ToString::to_string).collect();
    if !gone.is_empty() {
        let message = format!("no longer applies to {which} {}: such questions are refused", joined(gone));
        changes.push(SchemaChange::breaking(action, message));
    }
    let more: Vec<String> = after.difference(before).map(ToString::to_string).collect();
    if !more.is_empty() {
        let message = format!(
            "applies to {which} {}: policies for the action hold for it, too",
            joined(more)
        );
        changes.push(SchemaChange::review(action, message));
    }
}

fn fields(place: &RecordOwner<'_>, before: &RecordType, after: &RecordType, changes: &mut Vec<SchemaChange>) {
    for (name, old) in &before.fields {
        let at = format!("{}.{name}", place.name);
        match after.fields.get(name) {
            None if place.is_written_by_apps => changes.push(SchemaChange::breaking(
                &at,
                "removed: policies that read it and entities that have it are refused",
            )),
            None => changes.push(SchemaChange::breaking(&at, "removed: policies that read it are refused")),
            Some(new) => changes.extend(field(place, &at, old, new)),
        }
    }
    for (name, new) in after.fields.iter().filter(|(name, _)| !before.fields.contains_key(*name)) {
        let at = format!("{}.{name}", place.name);
        changes.push(match (new.required, place.is_written_by_apps) {
            (true, true) => SchemaChange::breaking(
                &at,
                format!("added and required ({}): entities without it are refused", new.ty),
            ),
            (true, false) => SchemaChange::breaking(
                &at,
                format!("added and required ({}): questions without it are refused", new.ty),
            ),
            (false, _) => SchemaChange::compatible(&at, format!("added, optional ({})", new.ty)),
        });
    }
}

fn field(place: &RecordOwner<'_>, at: &str, old: &Field, new: &Field) -> Option<SchemaChange> {
    use super::AttrType::Record;
    if let (Record(before), Record(after)) = (&old.ty, &new.ty)
        && before != after
    {
        let mut inner = Vec::new();
        let within = RecordOwner {
            name: at,
            is_written_by_apps: place.is_written_by_apps,
        };
        fields(&within, before, after, &mut inner);
        inner.sort();
        let messages = inner.iter().map(|change| format!("{} {}", change.place, change.message));
        let message = messages.collect::<Vec<_>>().join("; ");
        return inner.first().map(|worst| SchemaChange {
            effect: worst.effect,
            place: at.to_owned(),
            message,
        });
    }
    if old.ty != new.ty {
        return Some(SchemaChange::breaking(at, format!("was {}, is {}", old.ty, new.ty)));
    }
    match (old.required, new.required) {
        (true, false) => Some(SchemaChange::breaking(
            at,
            "was required, is optional: policies that read it without `has` are refused",
        )),
        (false, true) if place.is_written_by_apps => Some(SchemaChange::breaking(
            at,
            "was optional, is required: entities without it are refused",
        )),
        (false, true) => Some(SchemaChange::breaking(
            at,
            "was optional, is required: questions without it are refused",
        )),
        _ => None,
    }
}

fn joined(names: impl IntoIterator<Item = String>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// `viewOrder`; in a namespace `Shop::viewOrder`.
fn action_name(uid: &EntityUid) -> String {
    let id = uid.id().unescaped();
    let namespace = uid.type_name().namespace();
    if namespace.is_empty() {
        id.to_owned()
    } else {
        format!("{namespace}::{id}")
    }
}

impl SchemaChange {
    fn breaking(place: &str, message: impl Into<String>) -> Self {
        Self::new(Effect::Breaking, place, message)
    }

    fn review(place: &str, message: impl Into<String>) -> Self {
        Self::new(Effect::Review, place, message)
    }

    fn compatible(place: &str, message: impl Into<String>) -> Self {
        Self::new(Effect::Compatible, place, message)
    }

    fn new(effect: Effect, place: &str, message: impl Into<String>) -> Self {
        Self {
            effect,
            place: place.to_owned(),
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::tests::model;

    const OLD: &str = "entity Role; entity Tenant;
        entity User in [Role, Tenant] = { email?: String };
        entity Order in [Tenant] = { owner: User, total?: Long, at: { city: String } };
        entity Gone;
        type Facts = { now: datetime, tenant?: String };
        action read, write;
        action view in [read] appliesTo { principal: [User], resource: [Order, Gone], context: Facts };
        action drop in [write] appliesTo { principal: [User], resource: [Order], context: Facts };";
    const NEW: &str = "entity Role; entity Tenant;
        entity User in [Role, Tenant] = { email: String };
        entity Order = { owner?: User, total?: String, at: { city: String, zip: String }, note?: String };
        entity Fresh;
        type Facts = { now: datetime, tenant: String };
        action read, write;
        action view in [read, write] appliesTo { principal: [User], resource: [Order, Fresh], context: Facts };
        action add in [write] appliesTo { principal: [User], resource: [Order] };";

    #[test]
    fn every_change_is_named_with_whom_it_breaks() {
        let (old, new) = (model(OLD, None).unwrap(), model(NEW, None).unwrap());
        let found: Vec<String> = changes(&old, &new)
            .iter()
            .map(|change| format!("{:?} {}: {}", change.effect, change.place, change.message))
            .collect();
        assert_eq!(
            found,
            [
                "Breaking Gone: removed: policies, routes and questions that name the type are refused",
                "Breaking Order: no longer in `Tenant`: stored entities with such a parent are refused",
                "Breaking Order.at: Order.at.zip added and required (String): entities without it are refused",
                "Breaking Order.owner: was required, is optional: policies that read it without `has` are refused",
                "Breaking Order.total: was Long, is String",
                "Breaking User.email: was optional, is required: entities without it are refused",
                "Breaking drop: removed: policies, routes and questions that name the action are refused",
                "Breaking view: no longer applies to resource `Gone`: such questions are refused",
                "Breaking view context.tenant: was optional, is required: questions without it are refused",
                "Review add: added in `write`: policies for the group hold for it at once",
                "Review view: applies to resource `Fresh`: policies for the action hold for it, too",
                "Review view: joins `write`: policies for the group hold for it now",
                "Compatible Fresh: added",
                "Compatible Order.note: added, optional (String)",
            ]
        );
        assert_eq!(changes(&old, &old), []);
        assert_eq!(changes(&new, &new), []);
    }
}
