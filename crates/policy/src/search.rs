//! Search: the subjects, resources or actions for which the decision is a permit, page by page.
//!
//! The candidates are what the portal can enumerate: its stored entities of the wanted type, the ids of an enumerated
//! type, or the actions of the schema. `narrowing` excludes candidates that no permit can reach, by Cedar's partial
//! evaluation; the one decision function decides each candidate that remains, so a result is exact. `WorkMax` bounds
//! the work of a page: a page that reaches a bound ends early and says where the next one begins. Permits nothing, and
//! is too slow for a request's thread.

mod narrowing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::{EntityId, EntityTypeName, EntityUid};
use serde_json::{Map, Value};

use crate::decision::named::{ContextPrecedence, NamedEntity, NamedQuery};
use crate::decision::{Caller, Query, QueryForm, decide};
use crate::revision::Revision;
use crate::scope::PortalScope;

/// The part of a question that a search looks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Searched {
    Subject,
    Resource,
    Action,
}

/// A question with one part open.
#[derive(Clone, Debug)]
pub struct SearchQuestion {
    pub searched: Searched,
    pub subject: SearchEntity,
    /// Not read if actions are searched.
    pub action: String,
    pub resource: SearchEntity,
    /// Members that the action's context does not declare are left out.
    pub context: Option<Map<String, Value>>,
}

/// A subject or a resource of a search.
#[derive(Clone, Debug)]
pub struct SearchEntity {
    /// Name of the type, with or without the namespace.
    pub ty: String,
    /// Not read if these entities are searched.
    pub id: String,
    /// Cedar's JSON of the attributes; they count for entities that the portal does not store.
    pub attrs: Option<Value>,
}

/// The most that one page does.
#[derive(Clone, Copy, Debug)]
pub struct WorkMax {
    /// Candidates that are decided.
    pub decided: usize,
    /// Candidates that are looked at, decided or excluded.
    pub looked_at: usize,
    /// Policies that Cedar evaluates partially; further ones are taken to reach every candidate.
    pub evaluated: usize,
}

/// A search at one portal, under one revision.
pub struct Search<'a> {
    pub portal: &'a PortalScope,
    pub revision: &'a Revision,
    /// Unix milliseconds.
    pub now_millis: i64,
    pub question: &'a SearchQuestion,
    pub work: WorkMax,
}

/// The part of the candidates that a page is about.
#[derive(Clone, Debug)]
pub struct PageRange {
    /// The page begins after this candidate.
    pub after: Option<String>,
    /// Most results.
    pub results: usize,
}

/// One page of results.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FoundPage {
    /// Ids of entities, or names of actions, in order.
    pub found: Vec<String>,
    /// The last candidate that this page looked at; `None` if no candidate is left.
    pub next_after: Option<String>,
    /// Candidates that were decided.
    pub decided: usize,
}

impl SearchEntity {
    fn with_id(&self, id: &str) -> NamedEntity {
        NamedEntity::Parts {
            ty: self.ty.clone(),
            id: id.to_owned(),
            attrs: self.attrs.clone(),
            parents: None,
        }
    }
}

impl Search<'_> {
    /// One page. Never fails: a candidate that cannot be decided is not found.
    pub fn page(&self, range: &PageRange) -> FoundPage {
        let schema = &self.revision.rules.schema;
        if self.question.searched == Searched::Action {
            let names: BTreeSet<String> = schema.actions().map(|(uid, _)| schema.action_name(uid)).collect();
            let names: Vec<String> = names.into_iter().collect();
            return self.walk(range, &names, String::as_str, &|_| true);
        }
        let Some(ty) = schema.resolve_type(&self.entity().ty) else {
            return FoundPage::default();
        };
        let ids = self.ids(&ty);
        let left = ids.len() - position_after(&ids, range, EntityId::unescaped);
        // a page that can decide all that is left needs no narrowing
        let narrowing = (left > self.work.decided).then(|| self.narrowing(&ty)).flatten();
        let store = &self.revision.rules.engine.store;
        let may_be_permitted = |id: &str| {
            let uid = || EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(id));
            narrowing.as_ref().is_none_or(|narrowing| narrowing.admits(store, &uid()))
        };
        self.walk(range, &ids, EntityId::unescaped, &may_be_permitted)
    }

    /// The searched side.
    fn entity(&self) -> &SearchEntity {
        match self.question.searched {
            Searched::Subject => &self.question.subject,
            Searched::Resource | Searched::Action => &self.question.resource,
        }
    }

    fn ids(&self, ty: &EntityTypeName) -> Arc<[EntityId]> {
        let rules = &self.revision.rules;
        let Some(enumerated) = rules.schema.entity(ty).and_then(|model| model.enumerated.as_ref()) else {
            return rules.engine.store.ids_in_order(ty);
        };
        let mut ids = enumerated.clone();
        ids.sort_unstable_by(|one, other| one.unescaped().cmp(other.unescaped()));
        ids.dedup();
        ids.into()
    }

    fn walk<C>(
        &self,
        range: &PageRange,
        candidates: &[C],
        name: impl Fn(&C) -> &str,
        may_be_permitted: &dyn Fn(&str) -> bool,
    ) -> FoundPage {
        let mut page = FoundPage::default();
        let rest = candidates.get(position_after(candidates, range, &name)..).unwrap_or_default();
        for (looked_at, candidate) in rest.iter().map(&name).enumerate() {
            if page.found.len() >= range.results || page.decided >= self.work.decided || looked_at >= self.work.looked_at {
                return page;
            }
            page.next_after = Some(candidate.to_owned());
            if may_be_permitted(candidate) {
                page.decided += 1;
                if self.is_permitted(candidate) {
                    page.found.push(candidate.to_owned());
                }
            }
        }
        page.next_after = None;
        page
    }

    fn is_permitted(&self, candidate: &str) -> bool {
        self.ask(candidate, |query| decide(query, Caller::Anonymous).denial().is_none())
    }

    /// The query about one candidate.
    fn ask<T>(&self, candidate: &str, with: impl FnOnce(&Query<'_>) -> T) -> T {
        let SearchQuestion {
            searched,
            subject,
            action,
            resource,
            context,
        } = self.question;
        let id = |of: Searched, entity: &SearchEntity| entity.with_id(if *searched == of { candidate } else { &entity.id });
        let action = if *searched == Searched::Action { candidate } else { action };
        let given = context.as_ref();
        let context = given.and_then(|given| self.revision.rules.schema.context_members(action, given));
        with(&Query {
            portal: self.portal,
            revision: self.revision,
            now_millis: self.now_millis,
            asked: QueryForm::Named(NamedQuery {
                action,
                resource: &id(Searched::Resource, resource),
                principal: Some(&id(Searched::Subject, subject)),
                context: context.as_ref(),
                precedence: ContextPrecedence::Gate,
                entities: &[],
            }),
        })
    }
}

/// The place of the first candidate of a page; candidates are in order.
fn position_after<C>(candidates: &[C], range: &PageRange, name: impl Fn(&C) -> &str) -> usize {
    let Some(after) = &range.after else { return 0 };
    candidates.partition_point(|candidate| name(candidate) <= after.as_str())
}
