//! The flags of a portal: switches of `portal.yaml` that policies and pages read, for every caller or for some.
//!
//! A flag with an audience holds for the callers of its tenants and roles, or for a share of them. The share is a hash of the
//! flag's name, the tenant and the principal's id: a caller keeps its side, and a growing percentage only adds callers. Without
//! a credential there is no tenant, role or share, so such a flag has its other value. Everything that this depends on is in a
//! decision record. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::digest::sha256_of;

/// A switch that policies read.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Flag {
    pub value: bool,
    /// True if every client may read it at `portals/<slug>/`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
    /// The callers for whom `value` holds; `None`: all.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Audience>,
}

/// The callers for whom a flag has its value: those whom every member that is given admits.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Audience {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenants: Option<BTreeSet<String>>,
    /// Roles, directly or through a role that contains them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<BTreeSet<String>>,
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// The value for the other callers.
    pub otherwise: bool,
}

/// The flags of one revision.
#[derive(Debug, Default)]
pub struct Flags {
    all: BTreeMap<String, Flag>,
    /// The values without a credential.
    pub anonymous: Arc<Map<String, Value>>,
    has_audiences: bool,
}

/// The facts of a caller that flags depend on.
#[derive(Clone, Copy, Debug)]
pub struct FlagCaller<'a> {
    /// The principal's id.
    pub id: &'a str,
    pub tenant: Option<&'a str>,
    /// Every role, with those that it contains.
    pub roles: &'a BTreeSet<&'a str>,
}

/// A flag that differs between two revisions, as records show it; `None`: the revision does not have it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct FlagChange {
    pub name: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

impl Flag {
    /// `caller` is `None` without a credential.
    fn value_for(&self, name: &str, caller: Option<&FlagCaller<'_>>) -> bool {
        match &self.audience {
            None => self.value,
            Some(audience) if caller.is_some_and(|caller| audience.has(name, caller)) => self.value,
            Some(audience) => audience.otherwise,
        }
    }

    /// The flag as `portal.yaml` could write it.
    fn text(&self) -> String {
        match self.public || self.audience.is_some() {
            true => serde_json::to_string(self).unwrap_or_default(),
            false => self.value.to_string(),
        }
    }
}

impl Audience {
    fn has(&self, name: &str, caller: &FlagCaller<'_>) -> bool {
        let is_tenant = |tenants: &BTreeSet<String>| caller.tenant.is_some_and(|tenant| tenants.contains(tenant));
        let has_role = |roles: &BTreeSet<String>| caller.roles.iter().any(|role| roles.contains(*role));
        self.tenants.as_ref().is_none_or(is_tenant)
            && self.roles.as_ref().is_none_or(has_role)
            && self.percent.is_none_or(|percent| place(name, caller) < percent)
    }
}

/// The caller's place among a hundred, for this flag.
fn place(name: &str, caller: &FlagCaller<'_>) -> u8 {
    // a list in JSON, so that no other three texts have the same bytes
    let text = json!([name, caller.tenant, caller.id]).to_string();
    let hash = sha256_of([text.as_bytes()]);
    let number = hash
        .iter()
        .take(8)
        .fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    u8::try_from(number % 100).unwrap_or(u8::MAX)
}

impl Flags {
    pub fn new(all: BTreeMap<String, Flag>) -> Self {
        Self {
            anonymous: Arc::new(values(&all, None)),
            has_audiences: all.values().any(|flag| flag.audience.is_some()),
            all,
        }
    }

    /// True if some flag does not hold for every caller.
    pub fn has_audiences(&self) -> bool {
        self.has_audiences
    }

    /// The values for a caller.
    pub fn of(&self, caller: &FlagCaller<'_>) -> Arc<Map<String, Value>> {
        match self.has_audiences {
            true => Arc::new(values(&self.all, Some(caller))),
            false => Arc::clone(&self.anonymous),
        }
    }

    /// Those of a caller's values that every client may read.
    pub fn public(&self, values: &Map<String, Value>) -> Map<String, Value> {
        let public = values
            .iter()
            .filter(|(name, _)| self.all.get(*name).is_some_and(|flag| flag.public));
        public.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The flags that differ from those of an earlier revision, in order.
    pub fn changes_since(&self, old: &Self) -> Vec<FlagChange> {
        let names: BTreeSet<&String> = self.all.keys().chain(old.all.keys()).collect();
        let changed = names.into_iter().filter(|name| self.all.get(*name) != old.all.get(*name));
        changed
            .map(|name| FlagChange {
                name: name.clone(),
                old: old.all.get(name).map(Flag::text),
                new: self.all.get(name).map(Flag::text),
            })
            .collect()
    }
}

fn values(all: &BTreeMap<String, Flag>, caller: Option<&FlagCaller<'_>>) -> Map<String, Value> {
    let each = all.iter();
    each.map(|(name, flag)| (name.clone(), Value::Bool(flag.value_for(name, caller))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(audience: Audience) -> Flags {
        let flag = Flag {
            value: true,
            public: false,
            audience: Some(audience),
        };
        Flags::new(BTreeMap::from([("beta".to_owned(), flag)]))
    }

    fn is_on(flags: &Flags, id: &str, tenant: Option<&str>, roles: &[&str]) -> bool {
        let roles = roles.iter().copied().collect();
        flags.of(&FlagCaller {
            id,
            tenant,
            roles: &roles,
        })["beta"]
            == true
    }

    fn set(texts: &[&str]) -> Option<BTreeSet<String>> {
        Some(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn every_member_of_an_audience_must_admit_the_caller() {
        let flags = flags(Audience {
            tenants: set(&["acme"]),
            roles: set(&["editor"]),
            ..Audience::default()
        });
        assert!(is_on(&flags, "a", Some("acme"), &["viewer", "editor"]));
        assert!(!is_on(&flags, "a", Some("acme"), &["viewer"]));
        assert!(!is_on(&flags, "a", Some("globex"), &["editor"]));
        assert!(!is_on(&flags, "a", None, &["editor"]));
        assert_eq!(flags.anonymous["beta"], false);
        let off = Audience {
            otherwise: true,
            ..Audience::default()
        };
        assert_eq!(super::tests::flags(off).anonymous["beta"], true);
    }

    #[test]
    fn a_growing_percentage_only_adds_callers() {
        let on = |percent: u8| -> BTreeSet<String> {
            let flags = flags(Audience {
                percent: Some(percent),
                ..Audience::default()
            });
            let ids = (0..2000).map(|n| format!("user-{n}"));
            ids.filter(|id| is_on(&flags, id, Some("acme"), &[])).collect()
        };
        assert_eq!((on(0).len(), on(100).len()), (0, 2000));
        let mut before = on(0);
        for percent in [1, 10, 25, 50, 75, 99] {
            let now = on(percent);
            assert!(before.is_subset(&now), "{percent}");
            let expected = 20 * usize::from(percent);
            assert!(now.len().abs_diff(expected) < 120, "{percent}: {}", now.len());
            before = now;
        }
    }

    #[test]
    fn a_caller_has_another_place_for_another_flag_and_tenant() {
        let roles = BTreeSet::new();
        let place_of = |name: &str, tenant: &str| {
            let caller = FlagCaller {
                id: "alice",
                tenant: Some(tenant),
                roles: &roles,
            };
            place(name, &caller)
        };
        // fixed: a change of the hash would turn flags over
        assert_eq!(place_of("beta", "acme"), place_of("beta", "acme"));
        let places: BTreeSet<u8> = ["a", "b", "c", "d", "e"].map(|name| place_of(name, "acme")).into();
        assert!(places.len() > 1);
    }

    #[test]
    fn changes_name_old_and_new_text() {
        let plain = |value| {
            Flags::new(BTreeMap::from([(
                "beta".to_owned(),
                Flag {
                    value,
                    ..Flag::default()
                },
            )]))
        };
        let targeted = flags(Audience {
            percent: Some(10),
            ..Audience::default()
        });
        assert_eq!(plain(true).changes_since(&plain(true)), []);
        let change = |old: Option<&str>, new: Option<&str>| FlagChange {
            name: "beta".to_owned(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
        };
        assert_eq!(
            plain(false).changes_since(&plain(true)),
            [change(Some("true"), Some("false"))]
        );
        assert_eq!(
            targeted.changes_since(&Flags::default()),
            [change(None, Some("{\"value\":true,\"percent\":10,\"otherwise\":false}"))]
        );
        assert_eq!(Flags::default().changes_since(&plain(true)), [change(Some("true"), None)]);
    }
}
