//! A read question against one revision → an answer. Pure; the running door and the offline command share it.

use std::sync::Arc;

use cedar_policy::{Context, EntityUid};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::body::{self, Ask, Named, Who};
use crate::audit::Seen;
use crate::authz::context::{AskedContext, ContextPlan, Facts, ReadyContext};
use crate::authz::engine::{Answer, ContextSource, Party};
use crate::authz::supplied::{SuppliedEntities, report};
use crate::authz::usual::Described;
use crate::authz::{RecordedContext, Rules, Target};
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
    pub context: Option<Seen>,
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
    put_by(Reader::QuickFirst, place, (ask, asker), now_millis)
}

/// Who reads what the app sent; they differ in cost alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reader {
    QuickFirst,
    #[cfg(test)]
    CedarAlone,
}

fn put_by(reader: Reader, place: &Place<'_>, (ask, asker): (&Ask, &Asker), now_millis: i64) -> Result<Put, Refusal> {
    let Place {
        revision,
        portal,
        tenant,
    } = *place;
    let rules = &revision.rules;
    let action = rules.schema.resolve_action(&ask.action);
    let action = action.ok_or_else(|| invalid(format!("`action`: the schema has no action `{}`", ask.action)))?;
    let resource = ask.resource.uid(&rules.schema, "resource")?;
    let (who, named) = match (asker, &ask.who) {
        (Asker::Proven { principal, .. }, _) => (principal.uid.clone(), None),
        (Asker::Named, Who::Principal(named)) => (named.uid(&rules.schema, "principal")?, Some(named)),
        (Asker::Named, _) => return Err(Refusal::new(Denial::TokenMissing, "the question names no principal")),
    };
    let reserved = named.is_none().then_some(&who);
    let supplied = supplied(reader, rules, (ask, &resource), (named, &who), reserved)?;
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
    let ask_in = |context: &dyn ContextSource| rules.ask_in(principal, &target, &supplied, context);
    let (answer, context) = match usual_context(reader, rules, &facts, (&target.action, ask)) {
        Some((plan, context)) => {
            let seen = match context.is_empty() {
                true => None,
                false => Some(RecordedContext::new(plan, &facts)?.with(context.given())),
            };
            (ask_in(&context)?, seen.map(|seen| Seen::Facts(Box::new(seen))))
        }
        None => {
            let (context, json) = read_by_cedar(rules, &facts, (&target.action, ask))?;
            let seen = json.as_object().is_some_and(|o| !o.is_empty()).then_some(json);
            (ask_in(&context)?, seen.map(Seen::Json))
        }
    };
    Ok(Put {
        answer,
        principal: who,
        action: target.action,
        resource,
        context,
    })
}

/// The entities of a question, by the quick reader if it is sure of them.
fn supplied(
    reader: Reader,
    rules: &Rules,
    (ask, resource): (&Ask, &EntityUid),
    (named, who): (Option<&Named>, &EntityUid),
    reserved: Option<&EntityUid>,
) -> Result<SuppliedEntities, Refusal> {
    let mut described: SmallVec<[(Described<'_>, &str); 2]> = SmallVec::new();
    described.push((ask.resource.described(resource), "resource"));
    described.extend(named.map(|named| (named.described(who), "principal")));
    if reader == Reader::QuickFirst && ask.entities.is_empty() {
        let all: SmallVec<[Described<'_>; 2]> = described.iter().map(|(one, _)| *one).collect();
        if let Some(usual) = rules.usual_entities(&all, reserved) {
            return Ok(usual);
        }
    }
    let mut items = Vec::new();
    for (one, member) in &described {
        items.extend(body::item(&rules.schema, one, member)?);
    }
    items.extend(ask.entities.iter().cloned());
    rules
        .supplied_entities(&Value::Array(items), reserved)
        .map_err(|e| invalid(format!("`entities`: {e}")))
}

fn usual_context<'a>(
    reader: Reader,
    rules: &'a Rules,
    facts: &'a Facts<'a>,
    (action, ask): (&EntityUid, &'a Ask),
) -> Option<(&'a Arc<ContextPlan>, AskedContext<'a>)> {
    if reader != Reader::QuickFirst {
        return None;
    }
    let plan = rules.plans.get(action)?;
    let declared = &rules.schema.action(action)?.context;
    Some((plan, plan.usual(facts, declared, ask.context.as_ref())?))
}

fn read_by_cedar(rules: &Rules, facts: &Facts<'_>, (action, ask): (&EntityUid, &Ask)) -> Result<(ReadyContext, Value), Refusal> {
    let json = filled(rules, facts, action, ask.context.as_ref())?;
    let cedar = Context::from_json_value(json.clone(), Some((&rules.schema.cedar, action)))
        .map_err(|e| invalid(format!("`context`: {}", report(&e))))?;
    // parsing alone lets values of another type through
    cedar
        .validate(&rules.schema.cedar, action)
        .map_err(|e| invalid(format!("`context`: {}", report(&e))))?;
    Ok((ReadyContext(cedar), json))
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

#[cfg(test)]
#[path = "question_tests.rs"]
mod tests;
