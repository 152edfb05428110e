//! `flags` of `portal.yaml`.

use std::collections::BTreeSet;

use super::{Errors, PlacedValue, SourceLocation, required, spelt_boolean};
use crate::flags::{Audience, Flag, FlagValue};

/// The members of a flag that is written as an object.
const MEMBERS: [&str; 6] = ["value", "public", "tenants", "roles", "percent", "otherwise"];

/// The greatest whole number that a browser's numbers hold exactly: 2^53 - 1.
const LONG_MAX: i64 = 9_007_199_254_740_991;

/// `true`, a text or a whole number; or an object: `{ value: true, public: true, tenants: [acme], roles: [editor],
/// percent: 10, otherwise: false }`.
pub(super) fn flag(place: &SourceLocation<'_>, errors: &mut Errors) -> Option<Flag> {
    if !matches!(place.node, PlacedValue::Map(_)) {
        return Some(Flag {
            value: flag_value(place, errors)?,
            ..Flag::default()
        });
    }
    let entries = place.entries(Some(&MEMBERS), errors);
    let value = required(place, &entries, "value", errors)?;
    let value = flag_value(&value, errors)?;
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
        Some(place) => Some(flag_value(place, errors)?),
        None => None,
    };
    let has_audience = tenants.is_some() || roles.is_some() || percent.is_some();
    if let (false, Some(place)) = (has_audience, find("otherwise")) {
        errors.push(place.error("has no effect: add `tenants`, `roles` or `percent`"));
        return None;
    }
    let has_other_type = otherwise.as_ref().map(|other| other.type_name() != value.type_name());
    let audience = Audience {
        tenants,
        roles,
        percent,
        otherwise: otherwise.unwrap_or_default(),
    };
    if let (true, Some(true), Some(place)) = (has_audience, has_other_type, find("otherwise")) {
        errors.push(place.error(format!("is not of the type of `value`, `{}`", value.type_name())));
        return None;
    }
    if has_audience && audience.otherwise.type_name() != value.type_name() {
        errors.push(
            place.error("`otherwise` is missing: the value for other callers; only a flag of true or false has one by default"),
        );
        return None;
    }
    Some(Flag {
        value,
        public,
        audience: has_audience.then_some(audience),
    })
}

/// `true`, `false`, a text or a whole number.
fn flag_value(place: &SourceLocation<'_>, errors: &mut Errors) -> Option<FlagValue> {
    let meant = match place.node {
        PlacedValue::Bool(value) => return Some(FlagValue::Bool(*value)),
        PlacedValue::Number(Some(number)) if number.unsigned_abs() <= LONG_MAX.unsigned_abs() => {
            return Some(FlagValue::Long(*number));
        }
        PlacedValue::Number(_) => {
            errors.push(place.error(format!("is not a whole number from -{LONG_MAX} to {LONG_MAX}")));
            return None;
        }
        PlacedValue::Text(text) => spelt_boolean(text),
        _ => None,
    };
    match (place.node, meant) {
        // a switch that is written as in older YAML must not become a text
        (PlacedValue::Text(_), Some(_)) => place.bool(errors).map(FlagValue::Bool),
        (PlacedValue::Text(_), None) => place.text(errors).map(FlagValue::String),
        (other, _) => {
            errors.push(place.error(format!("{other} where `true`, `false`, a text or a whole number belongs")));
            None
        }
    }
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
        PlacedValue::Number(Some(number)) => u8::try_from(*number).ok().filter(|percent| *percent <= 100),
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
            otherwise: FlagValue::Bool(true),
        };
        let expected = Flag {
            value: FlagValue::Bool(true),
            public: true,
            audience: Some(audience),
        };
        assert_eq!(file.flags["beta"], expected);
    }

    #[test]
    fn a_flag_is_a_text_or_a_number_too() {
        let file = PortalFile::parse(
            "flags: { theme: { value: dark, percent: 5, otherwise: light }, seats: -9007199254740991, plan: gold }",
        )
        .unwrap();
        assert_eq!(file.flags["seats"].value, FlagValue::Long(-9_007_199_254_740_991));
        assert_eq!(file.flags["plan"].value, FlagValue::String("gold".to_owned()));
        let audience = file.flags["theme"].audience.as_ref().unwrap();
        assert_eq!(audience.otherwise, FlagValue::String("light".to_owned()));
        assert_eq!(file.flag_lines["plan"], Some(1));
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
            ("{ value: true, tenants: [1] }", "flags.x.tenants[0]", "a number where"),
            ("{ value: true, otherwise: true }", "flags.x.otherwise", "has no effect"),
            ("yes", "flags.x", "write `true`"),
            ("'off'", "flags.x", "write `false`"),
            ("''", "flags.x", "is empty"),
            ("1.5", "flags.x", "whole number"),
            ("9007199254740992", "flags.x", "whole number"),
            ("[dark]", "flags.x", "a list where"),
            ("{ value: dark, roles: [a] }", "flags.x", "`otherwise` is missing"),
            (
                "{ value: dark, roles: [a], otherwise: 1 }",
                "flags.x.otherwise",
                "of the type of `value`, `String`",
            ),
            (
                "{ value: true, roles: [a], otherwise: 0 }",
                "flags.x.otherwise",
                "of the type of `value`, `Bool`",
            ),
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
