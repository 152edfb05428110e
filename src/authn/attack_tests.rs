//! Attacks on a token, against the whole verifier with real keys.
//!
//! `tests/corpus/token_cases` holds the tokens as data; `tests/integration/tokens/token_attacks.rs` sends the same
//! tokens to a running gate. This file runs the whole table with a fixed clock, and the tests that look inside the
//! verifier.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cedargate_policy::claim_path::ClaimPath;
use cedargate_policy::claims::ClaimError;
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::scope::{IssuerScope, RoleClaim};
use proptest::prelude::*;
use serde_json::{Value, json};

use self::token_cases::{ALGORITHMS, AUDIENCE, ISSUER, KEYS, Level, files, good_claims, groups};
use super::jws::encode;
use super::*;

#[path = "../../tests/integration/support/signer.rs"]
mod signer;
#[path = "../../tests/integration/support/token_cases.rs"]
mod token_cases;

const NOW: i64 = 1_800_000_000;
const LEEWAY: i64 = 30;

pub(super) fn issuer(name: &str) -> Issuer {
    let mut scope = IssuerScope::new(name, "https://id.example.test/", vec!["orders".into(), "billing".into()]);
    scope.claims.roles = vec![RoleClaim::values(ClaimPath::unquoted("realm_access.roles"))];
    Issuer {
        keys: KeySource::File(PathBuf::from("unused")),
        jwks_max_age: Duration::from_secs(86_400),
        algorithms: vec![Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::EdDsa],
        leeway: Duration::from_secs(30),
        ..Issuer::without_tokens(scope)
    }
}

/// The issuer of the table.
fn table_issuer() -> Issuer {
    let algorithms = ALGORITHMS.map(|name| jws::algorithm_named(name).unwrap());
    Issuer {
        algorithms: algorithms.into(),
        ..issuer("corp").scoped(|scope| IssuerScope {
            issuer: ISSUER.to_owned(),
            audiences: vec![AUDIENCE.into()],
            ..scope
        })
    }
}

impl Issuer {
    /// The same issuer with another scope.
    pub(super) fn scoped(self, change: impl FnOnce(IssuerScope) -> IssuerScope) -> Self {
        Self {
            scope: Arc::new(change((*self.scope).clone())),
            ..self
        }
    }
}

fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

fn authn_of(issuer: Issuer, jwks: &Value) -> Arc<Authn> {
    let authn = Authn::new(&[issuer], 16 * 1024, Metrics::new().unwrap()).unwrap();
    publish(&authn, jwks);
    authn
}

fn publish(authn: &Authn, jwks: &Value) {
    authn.issuers[0].keys.accept(jwks.to_string().as_bytes(), &mut None).unwrap();
}

/// An authenticator that trusts the `rsa`, `ed` and `ec` keys.
fn authn() -> Arc<Authn> {
    let jwks = json!({"keys": [KEYS.rsa.jwk, KEYS.ed.jwk, KEYS.ec.jwk]});
    let authn = authn_of(table_issuer(), &jwks);
    assert!(judge(&authn, &es(claims())).is_ok());
    authn
}

fn judge(authn: &Authn, token: &str) -> Result<Verified, TokenError> {
    // the keys' age counts from the real clock, the claims from NOW
    authn.issuers[0].keys.set_fetched_at(NOW);
    authn
        .try_verify(PresentedToken::bearer(token), &[0], NOW)
        .unwrap_or(Err(TokenError::Key {
            issuer: "waits".into(),
            why: "unknown kid",
        }))
}

#[track_caller]
fn refused(authn: &Authn, token: &str, denial: Denial) {
    let error = judge(authn, token).expect_err("must be refused");
    assert_eq!(error.denial(), denial, "{error}");
    let text = error.to_string();
    assert!(token.len() < 20 || !text.contains(token), "the token is in the message");
}

fn claims() -> Value {
    good_claims(NOW)
}

fn es(claims: Value) -> String {
    KEYS.ec.token(&claims)
}

fn es_header(header: Value) -> String {
    KEYS.ec.token_with(&header, &claims())
}

#[test]
fn every_token_of_the_table_is_judged_as_it_says() {
    let mut judged = 0;
    for file in files() {
        for group in groups(&file, Level::Unit) {
            let authn = authn_of(table_issuer(), &group.jwks);
            for case in group.cases {
                let token = case.token(NOW);
                judged += 1;
                match (judge(&authn, &token), case.expect.as_str()) {
                    (Ok(verified), "permitted") => assert!(authn.recheck(&verified.proof, NOW).is_ok(), "{}", case.name),
                    (Ok(_), _) => panic!("{}: accepted", case.name),
                    (Err(error), code) => {
                        assert_eq!(error.denial().code(), code, "{}: {error}", case.name);
                        let text = error.to_string();
                        assert!(token.len() < 20 || !text.contains(&token), "{}: {text}", case.name);
                    }
                }
            }
        }
    }
    assert!(judged > 300, "{judged} tokens");
}

#[test]
fn each_family_of_keys_proves_the_same_identity() {
    let authn = authn();
    for signer in [&KEYS.rsa, &KEYS.ed, &KEYS.ec] {
        let verified = judge(&authn, &signer.token(&claims())).unwrap();
        assert_eq!(verified.identity.subject, "alice");
        assert_eq!(verified.identity.roles, ["viewer"]);
        assert_eq!(verified.identity.tenant.as_deref(), Some("acme"));
        assert_eq!(
            verified.identity.expires_at,
            NOW + 300,
            "the leeway does not prolong the credential"
        );
    }
}

#[test]
fn tokens_of_a_key_that_left_the_jwks_are_denied_at_once() {
    let authn = authn();
    let verified = judge(&authn, &es(claims())).unwrap();
    publish(&authn, &json!({"keys": [KEYS.rsa.jwk, KEYS.ec.jwk]}));
    authn.issuers[0].keys.set_fetched_at(NOW);
    assert!(authn.recheck(&verified.proof, NOW).is_ok(), "its key is still there");
    publish(
        &authn,
        &json!({"keys": [KEYS.rsa.jwk, with(KEYS.ec.jwk.clone(), "use", json!("enc"))]}),
    );
    authn.issuers[0].keys.set_fetched_at(NOW);
    assert!(matches!(authn.recheck(&verified.proof, NOW), Err(TokenError::KeyGone { .. })));
    refused(&authn, &es(claims()), Denial::TokenInvalid);
}

#[test]
fn a_cached_token_is_denied_after_its_time_and_after_its_keys_age() {
    let authn = authn();
    let verified = judge(&authn, &es(claims())).unwrap();
    let end = NOW + 300 + LEEWAY;
    authn.issuers[0].keys.set_fetched_at(NOW);
    assert!(authn.recheck(&verified.proof, end - 1).is_ok());
    assert!(matches!(
        authn.recheck(&verified.proof, end),
        Err(TokenError::Claims(ClaimError::Expired { .. }))
    ));
    authn.issuers[0].keys.set_fetched_at(NOW - 86_400);
    assert!(authn.recheck(&verified.proof, NOW).is_ok());
    authn.issuers[0].keys.set_fetched_at(NOW - 86_401);
    assert!(matches!(
        authn.recheck(&verified.proof, NOW),
        Err(TokenError::KeysUnavailable { .. })
    ));
    let error = authn
        .try_verify(PresentedToken::bearer(&es(claims())), &[0], NOW)
        .unwrap()
        .unwrap_err();
    assert_eq!(error.denial(), Denial::KeyUnavailable);
}

#[test]
fn jwks_bad_keys_are_skipped_and_do_not_take_the_set_down() {
    let small = with(
        with(KEYS.rsa.jwk.clone(), "kid", json!("small")),
        "n",
        json!(encode([0xff; 128])),
    );
    let roca_free = KEYS.rsa.jwk.clone();
    let bad = [
        json!(7),
        json!({}),
        json!({"kty": "oct", "kid": "o", "k": "c2VjcmV0"}),
        small,
        with(with(KEYS.rsa.jwk.clone(), "kid", json!("e1")), "e", json!("AQ")),
        with(with(KEYS.rsa.jwk.clone(), "kid", json!("even")), "e", json!("BA")),
        with(with(KEYS.rsa.jwk.clone(), "kid", json!("d")), "d", json!("AQAB")),
        with(with(KEYS.rsa.jwk.clone(), "kid", json!("n")), "n", json!("####")),
        with(KEYS.ec.jwk.clone(), "x", json!(encode([1; 32]))),
        with(KEYS.ec.jwk.clone(), "x", json!(encode([1; 31]))),
        with(KEYS.ec.jwk.clone(), "crv", json!("P-384")),
        with(KEYS.ec.jwk.clone(), "alg", json!("ES384")),
        with(KEYS.ec.jwk.clone(), "kid", json!(1)),
        json!({"kty": "OKP", "crv": "X25519", "x": encode([1; 32])}),
        with(KEYS.ed.jwk.clone(), "alg", json!("ES256")),
    ];
    let all: Vec<Value> = bad.iter().cloned().chain([roca_free, KEYS.ec.jwk.clone()]).collect();
    let authn = authn_of(table_issuer(), &json!({ "keys": all }));
    let set = authn.issuers[0].keys.snapshot();
    let set = set.as_ref().unwrap();
    assert_eq!(set.skipped.len(), bad.len(), "{:?}", set.skipped);
    assert_eq!(authn.status()[0].keys, 2);
    assert!(judge(&authn, &es(claims())).is_ok());
    for document in ["", "[]", "{}", r#"{"keys":1}"#, r#"{"keys":[],"keys":[]}"#] {
        assert!(jwk::KeySet::parse(document.as_bytes(), 1).is_err(), "{document}");
    }
    let many = json!({"keys": vec![json!({}); 101]}).to_string();
    assert!(jwk::KeySet::parse(many.as_bytes(), 1).is_err());
    assert!(jwk::KeySet::parse(&vec![b' '; jwk::JWKS_BYTES_MAX + 1], 1).is_err());
}

#[test]
fn a_key_set_with_a_byte_order_mark_or_padded_keys_is_read_and_utf_16_is_named() {
    let pad = |text: &Value| {
        let text = text.as_str().unwrap().replace('-', "+").replace('_', "/");
        json!(format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4)))
    };
    let padded = ["x", "y"]
        .into_iter()
        .fold(KEYS.ec.jwk.clone(), |jwk, name| with(jwk.clone(), name, pad(&jwk[name])));
    let plain = jwk::KeySet::parse(KEYS.ec.jwks().to_string().as_bytes(), 1).unwrap();
    let marked = jwk::KeySet::parse(format!("\u{feff}{}", json!({"keys": [padded]})).as_bytes(), 1).unwrap();
    assert_eq!((marked.keys.len(), marked.skipped.len()), (1, 0));
    assert_eq!(marked.keys[0].thumbprint, plain.keys[0].thumbprint, "the same key");
    for wrong in ["=", "AQAB=", "AQAB====", "=AQAB", "AQ=B", "AQ==="] {
        let set = json!({"keys": [with(KEYS.rsa.jwk.clone(), "e", json!(wrong))]});
        assert!(
            jwk::KeySet::parse(set.to_string().as_bytes(), 1).unwrap().keys.is_empty(),
            "{wrong}"
        );
    }
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let error = jwk::KeySet::parse(&utf16, 1).err().unwrap().to_string();
    assert!(error.contains("UTF-16"), "{error}");
}

#[test]
fn an_issuer_that_the_portal_does_not_trust_is_unknown() {
    let authn = authn();
    for trusted in [[].as_slice(), &[7]] {
        let error = authn
            .try_verify(PresentedToken::bearer(&es(claims())), trusted, NOW)
            .unwrap()
            .unwrap_err();
        assert_eq!(error, TokenError::IssuerUnknown);
    }
}

#[test]
fn well_shaped_claims_become_the_identity() {
    let mut claims = claims();
    claims["realm_access.roles"] = json!(["b", "a", "b"]);
    claims["scope"] = json!("read write");
    claims["amr"] = json!(["mfa", "pwd"]);
    claims["acr"] = json!("gold");
    claims["jti"] = json!("1");
    let identity = judge(&authn(), &es(claims.clone())).unwrap().identity;
    assert_eq!(identity.roles, ["b", "a"], "the literal name wins; no repetitions");
    assert_eq!(identity.auth.scopes, ["read", "write"]);
    assert_eq!((identity.auth.acr.as_deref(), identity.auth.time), (Some("gold"), Some(NOW)));
    assert_eq!(identity.token.jti_hash.as_deref(), Some("6b86b273ff34fce1"));
    claims["realm_access.roles"] = json!("single");
    claims["auth_time"] = json!(NOW - 50);
    let identity = judge(&authn(), &es(claims)).unwrap().identity;
    assert_eq!(
        (identity.roles, identity.auth.time),
        (vec!["single".to_owned()], Some(NOW - 50))
    );
}

#[test]
fn an_issuer_asserts_only_its_own_tenants_and_roles() {
    let bounded = |tenants: &[&str], roles: &[&str]| {
        table_issuer().scoped(|scope| IssuerScope {
            tenants: Some(tenants.iter().map(|text| (*text).to_owned()).collect()),
            roles: Some(roles.iter().map(|text| (*text).to_owned()).collect()),
            ..scope
        })
    };
    for (tenants, roles, good) in [
        (["acme"], ["viewer"], true),
        (["other"], ["viewer"], false),
        (["acme"], ["admin"], false),
    ] {
        let authn = authn_of(bounded(&tenants, &roles), &KEYS.ec.jwks());
        let outcome = judge(&authn, &es(claims())).map(|_| ()).map_err(|error| error.denial());
        assert_eq!(outcome, if good { Ok(()) } else { Err(Denial::ClaimInvalid) });
    }
}

#[test]
fn the_gates_own_assertion_is_no_bearer_token() {
    let header = with(KEYS.ec.header(), "typ", json!(jws::ASSERTION_TYP));
    refused(&authn(), &es_header(header), Denial::TokenInvalid);
}

#[test]
fn a_token_over_the_limit_is_refused_by_its_length() {
    let long = es(with(claims(), "x", json!("x".repeat(16 * 1024))));
    assert_eq!(judge(&authn(), &long).unwrap_err(), TokenError::TooLong { max: 16 * 1024 });
}

#[test]
fn error_format_is_a_code_of_the_closed_set_and_a_private_detail() {
    let authn = authn();
    let refusal = Refusal::from(judge(&authn, "x").unwrap_err());
    assert_eq!(
        (refusal.denial, refusal.denial.bearer_error()),
        (Denial::TokenInvalid, Some("invalid_token"))
    );
    let text = authn.metrics.render().unwrap();
    assert!(
        text.contains(r#"cedargate_token_validations_total{issuer="unknown",result="token_invalid"} 1"#),
        "{text}"
    );
    assert!(text.contains(r#"issuer="corp",result="ok"} 1"#));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_changed_character_of_a_valid_token_is_refused(place in any::<proptest::sample::Index>(), with in any::<char>()) {
        static SIGNED: LazyLock<(Arc<Authn>, String)> = LazyLock::new(|| (authn(), es(claims())));
        let (authn, token) = &*SIGNED;
        let mut characters: Vec<char> = token.chars().collect();
        let place = place.index(characters.len());
        prop_assume!(characters[place] != with);
        characters[place] = with;
        prop_assert!(judge(authn, &characters.iter().collect::<String>()).is_err());
    }

    #[test]
    fn arbitrary_text_is_no_token(text in "\\PC{0,80}|[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}") {
        let authn = authn_of(table_issuer(), &json!({"keys": []}));
        prop_assert!(judge(&authn, &text).is_err());
    }
}
