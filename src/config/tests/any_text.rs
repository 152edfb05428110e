//! Any text gives values or messages, and no crash.

use proptest::prelude::*;

use super::*;

/// Fragments that are close enough to a configuration to reach every check.
fn yamlish() -> impl Strategy<Value = String> {
    let scalars = prop_oneof![
        Just("null".to_owned()),
        Just("''".to_owned()),
        Just("'[::1'".to_owned()),
        Just("'http://[::1'".to_owned()),
        Just("'unix:é'".to_owned()),
        Just("'httpé://x'".to_owned()),
        Just("-1".to_owned()),
        Just("1e400".to_owned()),
        Just("99999999999999999999999".to_owned()),
        "'[a-z/:*.@%é]{0,12}'".prop_map(|text| text),
    ];
    scalars.prop_recursive(4, 32, 4, |inner| {
        let keys = schema::keys(&json_schema());
        let names: Vec<String> = keys
            .iter()
            .filter_map(|key| key.rsplit('.').next())
            .map(|key| key.replace(['[', ']'], ""))
            .collect();
        let key = prop_oneof![
            proptest::sample::select(names),
            "[a-z<>]{1,4}".prop_map(|key| format!("'{key}'"))
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec((key, inner), 0..5).prop_map(|entries| format!(
                "{{{}}}",
                entries
                    .iter()
                    .map(|(key, value)| format!("{key}: {value}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_gives_values_or_messages(text in "\\PC{0,200}") {
        if let Err(errors) = from_env(&text, &[]) {
            prop_assert!(!errors.is_empty());
        }
    }

    #[test]
    fn any_yaml_gives_values_or_messages(text in yamlish(), name in "(LISTEN|ISSUERS|PORTALS|UPSTREAM|LIMITS)(__[A-Z0-9_]{0,8}){0,3}", value in "\\PC{0,20}") {
        let name = format!("CEDARGATE_{name}");
        if let Err(errors) = from_env(&text, &[(&name, &value)]) {
            prop_assert!(!errors.is_empty());
        }
    }

    #[test]
    fn any_value_at_any_key_gives_values_or_messages(at in any::<prop::sample::Index>(), value in yamlish()) {
        let keys: Vec<String> = schema::keys(&json_schema());
        let name = keys[at.index(keys.len())].replace("[]", "__0").replace("<slug>", "a").replace('.', "__").to_uppercase();
        let name = format!("CEDARGATE_{name}");
        if let Err(errors) = from_env(&with(ISSUER), &[(&name, value.trim_matches('\''))]) {
            prop_assert!(!errors.is_empty());
        }
    }
}
