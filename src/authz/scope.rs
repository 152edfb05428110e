//! Which policies can apply: their scopes, decided outside Cedar, by a few hash look-ups over interned ids.
//!
//! A scope cannot error, and a scope that does not match makes its policy false, so leaving out the policies whose
//! scope does not match changes neither the decision nor its reasons nor its errors. Cost grows with what the caller
//! and the resource *are* (roles, path depth), never with how many policies there are that cannot apply.

use std::hash::{Hash, Hasher};

use cedar_policy::{ActionConstraint, EntityTypeName, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};
use rustc_hash::{FxHashMap, FxHasher};
use smallvec::SmallVec;

/// The constraint that everything satisfies.
const ANY: u32 = 0;

/// Which constraints of one scope variable something satisfies: sorted interned ids, `ANY` left out.
///
/// Two principals (or resources) with equal keys are matched by exactly the same policies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScopeKey {
    /// Of `ids`: a caller's key is made once and looked up at every request, however many roles are in it.
    hash: u64,
    ids: SmallVec<[u32; 8]>,
}

/// The constraints on one scope variable that occur in a policy set.
#[derive(Debug, Default)]
pub struct ScopeTable {
    next: u32,
    is_type: FxHashMap<EntityTypeName, u32>,
    equals: FxHashMap<EntityUid, u32>,
    within: FxHashMap<EntityUid, u32>,
    is_within: FxHashMap<EntityUid, Vec<(EntityTypeName, u32)>>,
}

/// Policy numbers by the constraints of their three scope variables.
#[derive(Debug, Default)]
pub struct PolicyIndex {
    pub principals: ScopeTable,
    pub actions: ScopeTable,
    pub resources: ScopeTable,
    by_scope: FxHashMap<(u32, u32), FxHashMap<u32, Vec<u32>>>,
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
    fn new(mut ids: SmallVec<[u32; 8]>) -> Self {
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
            Constraint::Equals(uid) => *self.equals.entry(uid).or_insert(fresh),
            Constraint::Within(uid) => *self.within.entry(uid).or_insert(fresh),
            Constraint::IsWithin(ty, uid) => {
                let known = self.is_within.entry(uid).or_default();
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

    /// The key of an entity; `ancestors` are all of them, direct or not.
    pub fn key<'a>(&self, uid: &EntityUid, ancestors: impl IntoIterator<Item = &'a EntityUid>) -> ScopeKey {
        let mut ids = SmallVec::new();
        ids.extend(self.is_type.get(uid.type_name()).copied());
        ids.extend(self.equals.get(uid).copied());
        self.push_within(&mut ids, uid, uid);
        if !self.within.is_empty() || !self.is_within.is_empty() {
            for ancestor in ancestors {
                self.push_within(&mut ids, uid, ancestor);
            }
        }
        ScopeKey::new(ids)
    }

    fn push_within(&self, ids: &mut SmallVec<[u32; 8]>, uid: &EntityUid, ancestor: &EntityUid) {
        ids.extend(self.within.get(ancestor).copied());
        let typed = self.is_within.get(ancestor).into_iter().flatten();
        ids.extend(typed.filter(|(ty, _)| ty == uid.type_name()).map(|(_, id)| *id));
    }
}

impl PolicyIndex {
    /// Files a policy under its scope; `number` is what `candidates` gives back.
    pub fn insert(&mut self, number: u32, policy: &Policy) {
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
