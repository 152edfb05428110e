//! `flags` of `portal.yaml`.

use std::collections::BTreeSet;

use super::{Errors, Node, SourceLocation, required};
use crate::flags::{Audience, Flag};

/// The members of a flag that is written as an object.
const MEMBERS: [&str; 6] = ["value", "public", "tenants", "roles", "percent", "otherwise"];

/// `true`, or an object: `{ value: true, public: true, tenants: [acme], roles: [editor], percent: 10, otherwise: false }`.
pub(super) fn flag(place: &SourceLocation<'_>, errors: &mut Errors) -> Option<Flag> {
    if !matches!(place.node, Node::Map(_)) {
        return Some(Flag {
            value: place.bool(errors)?,
            ..Flag::default()
        });
    }
    let entries = place.entries(Some(&MEMBERS), errors);
    let value = required(place, &entries, "value", errors)?.bool(errors)?;
    let find = |wanted: &str| entries.iter().find(|(name, _)| *name == wanted).map(|(_, place)| place);
    let public = match find("public") {
        Some(place) => place.bool(errors)?,
        None => false,
    };
    let names = |wanted: &str, errors: &mut Errors| match find(wanted) {
        Some(place) => names(place, errors).map(Some),
        None => Some(None),
    };
    let tenants = names("tenants", errors)?;
    let roles = names("roles", errors)?;
    let percent = match find("percent") {
        Some(place) => Some(percent(place, errors)?),
        None => None,
    };
    let otherwise = match find("otherwise") {
        Some(place) => Some(place.bool(errors)?),
        None => None,
    };
    let has_audience = tenants.is_some() || roles.is_some() || percent.is_some();
    if let (false, Some(place)) = (has_audience, find("otherwise")) {
        errors.push(place.error("has no effect: add `tenants`, `roles` or `percent`"));
        return None;
    }
    let audience = Audience {
        tenants,
        roles,
        percent,
        otherwise: otherwise.unwrap_or_default(),
    };
    Some(Flag {
        value,
        public,
        audience: has_audience.then_some(audience),
    })
}

fn names(place: &SourceLocation<'_>, errors: &mut Errors) -> Option<BTreeSet<String>> {
    let before = errors.len();
    let items = place.items(errors);
    let names: BTreeSet<String> = items.iter().filter_map(|item| item.text(errors)).collect();
    if errors.len() > before {
        return None;
    }
    if names.is_empty() {
        errors.push(place.error("is empty: no caller would have the flag; remove the key, or write `value: false`"));
        return None;
    }
    Some(names)
}

fn percent(place: &SourceLocation<'_>, errors: &mut Errors) -> Option<u8> {
    let found = match place.node {
        Node::Number(Some(number)) => u8::try_from(*number).ok().filter(|percent| *percent <= 100),
        _ => None,
    };
    if found.is_none() {
        errors.push(place.error("is not a whole number from 0 to 100"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::PortalFile;
    use super::*;

    #[test]
    fn a_flag_with_an_audience_is_read() {
        let text = "flags: { beta: { value: true, tenants: [acme], roles: [editor, admin], percent: 10, otherwise: true, public: true } }";
        let file = PortalFile::parse(text).unwrap();
        let set = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        let audience = Audience {
            tenants: set(&["acme"]),
            roles: set(&["editor", "admin"]),
            percent: Some(10),
            otherwise: true,
        };
        let expected = Flag {
            value: true,
            public: true,
            audience: Some(audience),
        };
        assert_eq!(file.flags["beta"], expected);
    }

    #[test]
    fn a_bad_flag_is_an_error_with_its_line() {
        for (text, key, says) in [
            ("{ value: true, percent: 101 }", "flags.x.percent", "0 to 100"),
            ("{ value: true, percent: -1 }", "flags.x.percent", "0 to 100"),
            ("{ value: true, percent: 1.5 }", "flags.x.percent", "0 to 100"),
            ("{ value: true, percent: ten }", "flags.x.percent", "0 to 100"),
            ("{ value: true, tenants: [] }", "flags.x.tenants", "is empty"),
            ("{ value: true, roles: editor }", "flags.x.roles", "where a list belongs"),
            ("{ value: true, tenants: [1] }", "flags.x.tenants.0", "a number where"),
            ("{ value: true, otherwise: true }", "flags.x.otherwise", "has no effect"),
            ("{ percent: 10 }", "flags.x", "`value` is missing"),
            ("{ value: true, tenant: acme }", "flags.x.tenant", "did you mean `tenants`"),
        ] {
            let errors = PortalFile::parse(&format!("title: t\nflags:\n  x: {text}\n")).unwrap_err();
            let [error] = errors.as_slice() else { panic!("{errors:?}") };
            assert_eq!((error.line, error.key.as_str()), (Some(3), key), "{text}");
            assert!(error.message.contains(says), "{text}: {error}");
        }
    }
}
