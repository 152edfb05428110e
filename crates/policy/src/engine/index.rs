//! The index of policies by scope: decides outside Cedar which policies can apply, by a few hash look-ups over interned
//! ids.
//!
//! A scope cannot error, and a scope that does not match makes its policy false, so leaving out the policies whose
//! scope does not match changes neither the decision nor its reasons nor its errors. Cost grows with what the caller
//! and the resource *are* (roles, path depth), never with how many policies there are that cannot apply.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use cedar_policy::{ActionConstraint, EntityTypeName, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};
use rustc_hash::{FxHashMap, FxHasher};
use smallvec::SmallVec;

use crate::engine::PolicyEntry;

/// The constraint that every entity satisfies.
const ANY: u32 = 0;

/// The constraints of one scope variable that an entity satisfies: sorted interned ids, `ANY` left out.
///
/// Two principals (or resources) with equal keys are matched by exactly the same policies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScopeKey {
    /// Hash of `ids`, kept because a caller's key is made once and looked up at every request.
    hash: u64,
    ids: Ids,
}

type Ids = SmallVec<[u32; 8]>;

/// The constraints on one scope variable that occur in a policy set.
#[derive(Clone, Debug, Default)]
pub struct ScopeTable {
    next: u32,
    is_type: FxHashMap<EntityTypeName, u32>,
    /// By type and id, so that a path finds its ancestors without building an entity name for each.
    named: FxHashMap<EntityTypeName, FxHashMap<Arc<str>, Named>>,
}

/// The constraints that name one entity.
#[derive(Clone, Debug, Default)]
struct Named {
    equals: Option<u32>,
    within: Option<u32>,
    is_within: Vec<(EntityTypeName, u32)>,
}

/// Policy numbers by the constraints of their three scope variables.
#[derive(Clone, Debug, Default)]
pub struct PolicyIndex {
    /// The number of policies in the index.
    length: u32,
    pub principals: ScopeTable,
    pub actions: ScopeTable,
    pub resources: ScopeTable,
    by_scope: FxHashMap<(u32, u32), FxHashMap<u32, Vec<u32>>>,
}

/// The parts of a policy's scope that an entity of a query satisfies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ScopeFit {
    pub principal: bool,
    pub action: bool,
    pub resource: bool,
}

/// A scope constraint on a principal or a resource, as the policy states it.
enum Constraint {
    Any,
    Is(EntityTypeName),
    Equals(EntityUid),
    Within(EntityUid),
    IsWithin(EntityTypeName, EntityUid),
}

impl Hash for ScopeKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl ScopeKey {
    fn new(mut ids: Ids) -> Self {
        ids.sort_unstable();
        ids.dedup();
        let mut hasher = FxHasher::default();
        ids.hash(&mut hasher);
        Self {
            hash: hasher.finish(),
            ids,
        }
    }

    fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::once(ANY).chain(self.ids.iter().copied())
    }
}

impl ScopeTable {
    fn intern(&mut self, constraint: Constraint) -> u32 {
        let fresh = self.next + 1;
        let id = match constraint {
            Constraint::Any => return ANY,
            Constraint::Is(ty) => *self.is_type.entry(ty).or_insert(fresh),
            Constraint::Equals(uid) => *self.naming(&uid).equals.get_or_insert(fresh),
            Constraint::Within(uid) => *self.naming(&uid).within.get_or_insert(fresh),
            Constraint::IsWithin(ty, uid) => {
                let known = &mut self.naming(&uid).is_within;
                match known.iter().find(|(t, _)| *t == ty) {
                    Some((_, id)) => *id,
                    None => {
                        known.push((ty, fresh));
                        fresh
                    }
                }
            }
        };
        self.next = self.next.max(id);
        id
    }

    /// True if the entity of this key satisfies the constraint.
    fn is_satisfied(&self, constraint: &Constraint, key: &ScopeKey) -> bool {
        let named = |uid: &EntityUid| self.named.get(uid.type_name())?.get(uid.id().unescaped());
        let id = match constraint {
            Constraint::Any => return true,
            Constraint::Is(ty) => self.is_type.get(ty).copied(),
            Constraint::Equals(uid) => named(uid).and_then(|named| named.equals),
            Constraint::Within(uid) => named(uid).and_then(|named| named.within),
            Constraint::IsWithin(ty, uid) => {
                let known = named(uid).and_then(|named| named.is_within.iter().find(|(wanted, _)| wanted == ty));
                known.map(|(_, id)| *id)
            }
        };
        id.is_some_and(|id| key.ids.contains(&id))
    }

    fn naming(&mut self, uid: &EntityUid) -> &mut Named {
        let of_type = self.named.entry(uid.type_name().clone()).or_default();
        of_type.entry(Arc::from(uid.id().unescaped())).or_default()
    }

    /// The key of an entity; `ancestors` are all of them, direct or not.
    pub fn key<'a>(&self, uid: &EntityUid, ancestors: impl IntoIterator<Item = &'a EntityUid>) -> ScopeKey {
        self.key_among(uid, [], ancestors)
    }

    /// The key of an entity of whose type, name and ancestors nothing is known: it satisfies each constraint that needs
    /// a type alone.
    pub fn key_of_any_type(&self) -> ScopeKey {
        ScopeKey::new(self.is_type.values().copied().collect())
    }

    /// The key of an entity that is below the entities `above` of its own type, and below `others`.
    pub fn key_among<'a>(
        &self,
        uid: &EntityUid,
        above: impl IntoIterator<Item = &'a str>,
        others: impl IntoIterator<Item = &'a EntityUid>,
    ) -> ScopeKey {
        let ty = uid.type_name();
        let mut ids = Ids::new();
        push(&mut ids, self.is_type.get(ty).copied());
        if let Some(of_type) = self.named.get(ty) {
            if let Some(own) = of_type.get(uid.id().unescaped()) {
                push(&mut ids, own.equals);
                own.push_within(&mut ids, ty);
            }
            for ancestor in above.into_iter().filter_map(|id| of_type.get(id)) {
                ancestor.push_within(&mut ids, ty);
            }
        }
        if !self.named.is_empty() {
            for other in others {
                let of_type = self.named.get(other.type_name());
                if let Some(ancestor) = of_type.and_then(|of_type| of_type.get(other.id().unescaped())) {
                    ancestor.push_within(&mut ids, ty);
                }
            }
        }
        ScopeKey::new(ids)
    }
}

impl Named {
    /// Adds the constraints that an entity of type `ty` satisfies which is the named entity or below it.
    fn push_within(&self, ids: &mut Ids, ty: &EntityTypeName) {
        push(ids, self.within);
        for (_, id) in self.is_within.iter().filter(|(wanted, _)| wanted == ty) {
            ids.push(*id);
        }
    }
}

/// `extend(Option)` would reserve even for `None`.
fn push(ids: &mut Ids, id: Option<u32>) {
    if let Some(id) = id {
        ids.push(id);
    }
}

impl PolicyIndex {
    /// Numbers the policies by their position in the list; `candidates` returns these numbers.
    pub fn of(policies: &[Arc<PolicyEntry>]) -> Self {
        let mut index = Self::default();
        index.extend(policies);
        index
    }

    /// Adds policies; their numbers continue after the last one.
    pub fn extend(&mut self, policies: &[Arc<PolicyEntry>]) {
        policies.iter().for_each(|entry| self.push(entry.policy()));
    }

    /// Adds a policy under the constraints of its scope.
    fn push(&mut self, policy: &Policy) {
        let number = self.length;
        self.length += 1;
        let principal = self.principals.intern(principal_constraint(policy));
        let resource = self.resources.intern(resource_constraint(policy));
        for action in self.action_ids(policy) {
            self.by_scope
                .entry((principal, action))
                .or_default()
                .entry(resource)
                .or_default()
                .push(number);
        }
    }

    fn action_ids(&mut self, policy: &Policy) -> Vec<u32> {
        match policy.action_constraint() {
            ActionConstraint::Any => vec![ANY],
            ActionConstraint::Eq(uid) => vec![self.actions.intern(Constraint::Equals(uid))],
            ActionConstraint::In(groups) => groups
                .into_iter()
                .map(|g| self.actions.intern(Constraint::Within(g)))
                .collect(),
        }
    }

    /// Tells which parts of an indexed policy's scope these keys satisfy.
    pub fn fit(&self, policy: &Policy, principal: &ScopeKey, action: &ScopeKey, resource: &ScopeKey) -> ScopeFit {
        let is_action = |constraint: Constraint| self.actions.is_satisfied(&constraint, action);
        ScopeFit {
            principal: self.principals.is_satisfied(&principal_constraint(policy), principal),
            action: match policy.action_constraint() {
                ActionConstraint::Any => true,
                ActionConstraint::Eq(uid) => is_action(Constraint::Equals(uid)),
                ActionConstraint::In(groups) => groups.into_iter().any(|group| is_action(Constraint::Within(group))),
            },
            resource: self.resources.is_satisfied(&resource_constraint(policy), resource),
        }
    }

    /// Numbers of all policies whose scope matches but for the resource, ascending, each once.
    pub fn candidates_of_any_resource(&self, principal: &ScopeKey, action: &ScopeKey) -> Vec<u32> {
        let mut found = Vec::new();
        for p in principal.ids() {
            for by_resource in action.ids().filter_map(|a| self.by_scope.get(&(p, a))) {
                found.extend(by_resource.values().flatten().copied());
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Numbers of the policies whose scope matches action and resource, ascending, each once.
    pub fn candidates_of_any_principal(&self, action: &ScopeKey, resource: &ScopeKey) -> Vec<u32> {
        let is_asked = |id: u32| action.ids().any(|asked| asked == id);
        let by_resource = self.by_scope.iter().filter(|((_, action), _)| is_asked(*action));
        let lists = by_resource.flat_map(|(_, by_resource)| resource.ids().filter_map(|id| by_resource.get(&id)));
        let mut found: Vec<u32> = lists.flatten().copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Numbers of all policies whose scope matches, ascending, each once.
    pub fn candidates(&self, principal: &ScopeKey, action: &ScopeKey, resource: &ScopeKey) -> Vec<u32> {
        let mut found = Vec::new();
        for p in principal.ids() {
            for a in action.ids() {
                let Some(by_resource) = self.by_scope.get(&(p, a)) else {
                    continue;
                };
                let lists = resource.ids().filter_map(|r| by_resource.get(&r));
                found.extend(lists.flatten().copied());
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn principal_constraint(policy: &Policy) -> Constraint {
    match policy.principal_constraint() {
        PrincipalConstraint::Any => Constraint::Any,
        PrincipalConstraint::Eq(uid) => Constraint::Equals(uid),
        PrincipalConstraint::In(uid) => Constraint::Within(uid),
        PrincipalConstraint::Is(ty) => Constraint::Is(ty),
        PrincipalConstraint::IsIn(ty, uid) => Constraint::IsWithin(ty, uid),
    }
}

fn resource_constraint(policy: &Policy) -> Constraint {
    match policy.resource_constraint() {
        ResourceConstraint::Any => Constraint::Any,
        ResourceConstraint::Eq(uid) => Constraint::Equals(uid),
        ResourceConstraint::In(uid) => Constraint::Within(uid),
        ResourceConstraint::Is(ty) => Constraint::Is(ty),
        ResourceConstraint::IsIn(ty, uid) => Constraint::IsWithin(ty, uid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(text: &str) -> EntityUid {
        text.parse().unwrap()
    }

    fn hash(key: &ScopeKey) -> u64 {
        let mut hasher = FxHasher::default();
        key.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn equal_keys_come_of_the_same_constraints_in_any_order_and_hash_alike() {
        let mut table = ScopeTable::default();
        for n in 0..100 {
            table.intern(Constraint::Within(uid(&format!("Role::\"r{n}\""))));
        }
        let (alice, bob) = (uid("User::\"alice\""), uid("User::\"bob\""));
        let roles: Vec<EntityUid> = (0..40).map(|n| uid(&format!("Role::\"r{n}\""))).collect();
        let key = table.key(&alice, &roles);
        let same = table.key(&bob, roles.iter().rev().chain(&roles));
        assert_eq!((&key, hash(&key)), (&same, hash(&same)));
        let fewer = table.key(&alice, roles.iter().skip(1));
        assert_ne!((&key, hash(&key)), (&fewer, hash(&fewer)));
        let unnamed = uid("Role::\"nobody names this\"");
        assert_eq!(table.key(&alice, roles.iter().chain([&unnamed])), key);
    }
}
