//! The flags of a portal: switches of `portal.yaml` that policies and pages read, for every caller or for some.
//!
//! A flag with an audience holds for the callers of its tenants and roles, or for a share of them. The share is a hash
//! of the flag's name, the tenant and the principal's id: a caller keeps its side, and a growing percentage only adds
//! callers. Without a credential there is no tenant, role or share, so such a flag has its other value. Everything that
//! this depends on is in a decision record. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::digest::sha256_of;

/// The value of a flag.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FlagValue {
    Bool(bool),
    /// Within what a browser's numbers hold exactly.
    Long(i64),
    String(String),
}

impl fmt::Display for FlagValue {
    /// As JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.json().fmt(f)
    }
}

impl Default for FlagValue {
    fn default() -> Self {
        Self::Bool(false)
    }
}

impl FlagValue {
    /// Cedar's name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "Bool",
            Self::Long(_) => "Long",
            Self::String(_) => "String",
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Long(value) => Value::from(*value),
            Self::String(value) => Value::from(value.as_str()),
        }
    }
}

/// A switch that policies read.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Flag {
    pub value: FlagValue,
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
    /// The value for the other callers, of the same type.
    pub otherwise: FlagValue,
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

/// The rule of a flag that gives a caller its value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FlagRule {
    /// The flag has one value for every caller.
    Everyone,
    /// Tenants, roles and percentage admit the caller.
    Audience,
    /// `otherwise`: the request has no credential.
    NoCredential,
    /// `otherwise`: the caller's tenant is none of `tenants`.
    OtherTenant,
    /// `otherwise`: the caller has none of `roles`.
    OtherRole,
    /// `otherwise`: the caller's place among a hundred is not below `percent`.
    OtherShare { place: u8, percent: u8 },
}

impl FlagRule {
    fn is_otherwise(self) -> bool {
        !matches!(self, Self::Everyone | Self::Audience)
    }
}

impl fmt::Display for FlagRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("the value for every caller"),
            Self::Audience => f.write_str("the caller is in the audience"),
            Self::NoCredential => f.write_str("`otherwise`: no credential proves the caller"),
            Self::OtherTenant => f.write_str("`otherwise`: the caller's tenant is none of `tenants`"),
            Self::OtherRole => f.write_str("`otherwise`: the caller has none of `roles`"),
            Self::OtherShare { place, percent } => {
                write!(f, "`otherwise`: the caller's place is {place}, and `percent` is {percent}")
            }
        }
    }
}

/// A flag's value for one caller, with its reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExplainedFlag {
    pub name: String,
    pub value: FlagValue,
    pub rule: FlagRule,
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
    fn value_for(&self, name: &str, caller: Option<&FlagCaller<'_>>) -> &FlagValue {
        match &self.audience {
            Some(audience) if self.rule_for(name, caller).is_otherwise() => &audience.otherwise,
            _ => &self.value,
        }
    }

    /// The rule that gives a caller its value.
    fn rule_for(&self, name: &str, caller: Option<&FlagCaller<'_>>) -> FlagRule {
        match (&self.audience, caller) {
            (None, _) => FlagRule::Everyone,
            (Some(_), None) => FlagRule::NoCredential,
            (Some(audience), Some(caller)) => audience.rule_for(name, caller),
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
    fn rule_for(&self, name: &str, caller: &FlagCaller<'_>) -> FlagRule {
        let is_tenant = |tenants: &BTreeSet<String>| caller.tenant.is_some_and(|tenant| tenants.contains(tenant));
        let has_role = |roles: &BTreeSet<String>| caller.roles.iter().any(|role| roles.contains(*role));
        if !self.tenants.as_ref().is_none_or(is_tenant) {
            return FlagRule::OtherTenant;
        }
        if !self.roles.as_ref().is_none_or(has_role) {
            return FlagRule::OtherRole;
        }
        let Some(percent) = self.percent else {
            return FlagRule::Audience;
        };
        match place(name, caller) {
            place if place < percent => FlagRule::Audience,
            place => FlagRule::OtherShare { place, percent },
        }
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

    /// Every flag, by name.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Flag)> {
        self.all.iter().map(|(name, flag)| (name.as_str(), flag))
    }

    /// The values for a caller, with their reasons; `None` without a credential.
    pub fn explained(&self, caller: Option<&FlagCaller<'_>>) -> Vec<ExplainedFlag> {
        let each = self.all.iter().map(|(name, flag)| ExplainedFlag {
            name: name.clone(),
            value: flag.value_for(name, caller).clone(),
            rule: flag.rule_for(name, caller),
        });
        each.collect()
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
    each.map(|(name, flag)| (name.clone(), flag.value_for(name, caller).json()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(audience: Audience) -> Flags {
        let flag = Flag {
            value: FlagValue::Bool(true),
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
            otherwise: FlagValue::Bool(true),
            ..Audience::default()
        };
        assert_eq!(super::tests::flags(off).anonymous["beta"], true);
    }

    #[test]
    fn texts_and_numbers_have_an_audience_too_and_the_rule_is_named() {
        let flag = |value: FlagValue, audience: Option<Audience>| Flag {
            value,
            public: false,
            audience,
        };
        let audience = Audience {
            tenants: set(&["acme"]),
            roles: set(&["editor"]),
            percent: Some(0),
            otherwise: FlagValue::String("light".to_owned()),
        };
        let all = Flags::new(BTreeMap::from([
            ("seats".to_owned(), flag(FlagValue::Long(-3), None)),
            ("theme".to_owned(), flag(FlagValue::String("dark".to_owned()), Some(audience))),
        ]));
        let theme = |tenant, roles: &[&str]| {
            let roles = roles.iter().copied().collect();
            let caller = FlagCaller {
                id: "alice",
                tenant,
                roles: &roles,
            };
            let explained = all.explained(Some(&caller));
            assert_eq!(explained[0].rule, FlagRule::Everyone);
            assert_eq!(all.of(&caller)["seats"], -3);
            assert_eq!(all.of(&caller)["theme"], explained[1].value.json());
            explained[1].rule
        };
        assert_eq!(theme(Some("globex"), &["editor"]), FlagRule::OtherTenant);
        assert_eq!(theme(Some("acme"), &["viewer"]), FlagRule::OtherRole);
        assert!(matches!(
            theme(Some("acme"), &["editor"]),
            FlagRule::OtherShare { percent: 0, .. }
        ));
        assert_eq!(all.explained(None)[1].rule, FlagRule::NoCredential);
        assert_eq!(all.anonymous["theme"], "light");
        assert_eq!(all.changes_since(&Flags::default())[0].new.as_deref(), Some("-3"));
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
                    value: FlagValue::Bool(value),
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
