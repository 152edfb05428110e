//! A read question against one revision → an answer. Pure; the running door and the offline command share it.

use cedar_policy::{Context, EntityUid};
use serde_json::{Map, Value};

use super::body::{Ask, Who};
use crate::authz::context::{Facts, ReadyContext};
use crate::authz::engine::{Answer, Party};
use crate::authz::supplied::report;
use crate::authz::{Rules, Target};
use crate::denial::{Denial, Refusal};
use crate::revision::Revision;
use crate::types::Identity;

/// Who asks.
pub enum Asker {
    /// The principal that the question names.
    Named,
    /// Whoever a credential proves.
    Proven { principal: Box<Party>, identity: Box<Identity> },
}

/// Where a question is put.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub revision: &'a Revision,
    pub portal: &'a str,
    /// The portal's own tenant, if it has one.
    pub tenant: Option<&'a str>,
}

/// An answer, and what it was about.
pub struct Put {
    pub answer: Answer,
    pub principal: EntityUid,
    pub action: EntityUid,
    pub resource: EntityUid,
    pub context: Option<Value>,
}

impl Asker {
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Named => None,
            Self::Proven { identity, .. } => Some(identity),
        }
    }
}

/// Decides; `Err` is a question that cannot be asked, with its place.
pub fn put(place: &Place<'_>, ask: &Ask, asker: &Asker, now_millis: i64) -> Result<Put, Refusal> {
    let Place {
        revision,
        portal,
        tenant,
    } = *place;
    let rules = &revision.rules;
    let action = rules.schema.resolve_action(&ask.action);
    let action = action.ok_or_else(|| invalid(format!("`action`: the schema has no action `{}`", ask.action)))?;
    let (resource, mut items) = ask.resource.entity(&rules.schema, "resource")?;
    let (who, reserved) = match (asker, &ask.who) {
        (Asker::Proven { principal, .. }, _) => (principal.uid.clone(), true),
        (Asker::Named, Who::Principal(named)) => {
            let (uid, own) = named.entity(&rules.schema, "principal")?;
            items.extend(own);
            (uid, false)
        }
        (Asker::Named, _) => return Err(Refusal::new(Denial::TokenMissing, "the question names no principal")),
    };
    items.extend(ask.entities.iter().cloned());
    let supplied = rules
        .supplied_entities(&Value::Array(items), reserved.then_some(&who))
        .map_err(|e| invalid(format!("`entities`: {e}")))?;
    if !rules.schema.applies(who.type_name(), &action, resource.type_name()) {
        let (who, what) = (who.type_name(), resource.type_name());
        return Err(invalid(format!(
            "the schema does not let a `{who}` do `{action}` on a `{what}`"
        )));
    }
    let facts = Facts {
        portal,
        tenant: tenant.or_else(|| asker.identity()?.tenant.as_deref()),
        now_millis,
        auth: asker.identity().map(|i| &i.auth),
        flags: &revision.flags,
        http: None,
    };
    let context = filled(rules, &facts, &action, ask.context.as_ref())?;
    let cedar = Context::from_json_value(context.clone(), Some((&rules.schema.cedar, &action)))
        .map_err(|e| invalid(format!("`context`: {}", report(&e))))?;
    // parsing alone lets values of another type through
    cedar
        .validate(&rules.schema.cedar, &action)
        .map_err(|e| invalid(format!("`context`: {}", report(&e))))?;
    let named = rules.named_principal(who.clone(), &supplied);
    let principal = match asker {
        Asker::Proven { principal, .. } => principal,
        Asker::Named => &named,
    };
    let target = Target {
        action,
        resource: rules.named_resource(resource.clone(), &supplied),
        paths: Vec::new(),
        route: None,
    };
    let answer = rules.ask_in(principal, &target, &supplied, &ReadyContext(cedar))?;
    let context = context.as_object().is_some_and(|o| !o.is_empty()).then_some(context);
    Ok(Put {
        answer,
        principal: who,
        action: target.action,
        resource,
        context,
    })
}

/// What the app gave, under what the gate fills in itself.
fn filled(rules: &Rules, facts: &Facts<'_>, action: &EntityUid, given: Option<&Map<String, Value>>) -> Result<Value, Refusal> {
    let mut all = given.cloned().unwrap_or_default();
    if let Some(plan) = rules.plans.get(action) {
        all.retain(|name, _| !plan.owns(name, facts));
        all.extend(plan.to_json(facts)?);
    }
    Ok(Value::Object(all))
}

fn invalid(detail: String) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}
