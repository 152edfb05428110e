//! One test, or more, for every family of attacks on a token.
//!
//! The families are named in the tests. Everything runs against the whole verifier with real keys; a valid control in
//! `lab` makes sure that what is refused is refused for its fault.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair};
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::jws::encode;
use super::*;
use cedargate_policy::claims::ClaimError;
use cedargate_policy::scope::IssuerScope;

const NOW: i64 = 1_800_000_000;
const LEEWAY: i64 = 30;
const ISS: &str = "https://id.example.test/";

static RSA: LazyLock<RsaKeyPair> = LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
static ED: LazyLock<Ed25519KeyPair> = LazyLock::new(|| Ed25519KeyPair::generate().unwrap());
static EC: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());

pub(super) fn issuer(name: &str) -> Issuer {
    let mut scope = IssuerScope::new(name, ISS, vec!["orders".into(), "billing".into()]);
    scope.claims.roles = "realm_access.roles".into();
    Issuer {
        keys: KeySource::File(PathBuf::from("unused")),
        jwks_max_age: Duration::from_secs(86_400),
        algorithms: vec![Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::EdDsa],
        leeway: Duration::from_secs(30),
        ..Issuer::without_tokens(scope)
    }
}

fn rsa_jwk(kid: &str) -> Value {
    let public = RSA.public_key();
    let e = public.exponent().big_endian_without_leading_zero().to_vec();
    json!({"kty": "RSA", "kid": kid, "n": encode(public.modulus().big_endian_without_leading_zero()), "e": encode(e)})
}

fn ed_jwk(kid: &str) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encode(ED.public_key().as_ref())})
}

fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

fn lab_of(issuer: Issuer, keys: &[Value]) -> Arc<Authn> {
    let authn = Authn::new(&[issuer], 16 * 1024, Metrics::new().unwrap()).unwrap();
    publish(&authn, keys);
    authn
}

fn publish(authn: &Authn, keys: &[Value]) {
    let document = json!({"keys": keys}).to_string();
    authn.issuers[0].keys.accept(document.as_bytes(), &mut None).unwrap();
}

/// RSA `r`, Ed25519 `e` and P-256 under its thumbprint.
fn lab() -> Arc<Authn> {
    let authn = lab_of(issuer("corp"), &[rsa_jwk("r"), ed_jwk("e"), EC.jwk().clone()]);
    assert!(judge(&authn, &es(claims())).is_ok());
    authn
}

fn judge(authn: &Authn, token: &str) -> Result<Verified, TokenError> {
    // The keys' age counts from the real clock, the claims from NOW.
    authn.issuers[0].keys.set_fetched_at(NOW);
    authn.try_verify(token, &[0], NOW).unwrap_or(Err(TokenError::Key {
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
    json!({"iss": ISS, "sub": "alice", "aud": "orders", "exp": NOW + 300, "iat": NOW, "tenant": "acme", "realm_access": {"roles": ["viewer"]}})
}

fn header() -> Value {
    json!({"alg": "ES256", "typ": "JWT", "kid": EC.kid()})
}

fn es(claims: Value) -> String {
    EC.sign(&header(), &claims).unwrap()
}

fn es_header(header: Value) -> String {
    EC.sign(&header, &claims()).unwrap()
}

fn es_raw(header: &str, claims: &str) -> String {
    // A JSON number that serde_json would not write, or members twice: sign the raw text.
    EC.sign_input(format!("{}.{}", encode(header), encode(claims))).unwrap()
}

fn rs(header: Value, encoding: &'static dyn RsaEncoding) -> String {
    let input = format!("{}.{}", encode(header.to_string()), encode(claims().to_string()));
    let mut signature = vec![0; RSA.public_modulus_len()];
    RSA.sign(encoding, &SystemRandom::new(), input.as_bytes(), &mut signature)
        .unwrap();
    format!("{input}.{}", encode(signature))
}

fn ed(header: Value) -> String {
    let input = format!("{}.{}", encode(header.to_string()), encode(claims().to_string()));
    format!("{input}.{}", encode(ED.sign(input.as_bytes())))
}

fn unsigned(header: Value) -> String {
    format!("{}.{}.", encode(header.to_string()), encode(claims().to_string()))
}

fn hmac_token(header: Value, secret: &[u8]) -> String {
    let input = format!("{}.{}", encode(header.to_string()), encode(claims().to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    format!("{input}.{}", encode(hmac::sign(&key, input.as_bytes())))
}

#[test]
fn every_supported_key_type_is_accepted_and_eddsa_works() {
    let lab = lab();
    for token in [
        rs(json!({"alg": "RS256", "kid": "r"}), &signature::RSA_PKCS1_SHA256),
        rs(json!({"alg": "PS256", "kid": "r"}), &signature::RSA_PSS_SHA256),
        ed(json!({"alg": "EdDSA", "kid": "e"})),
        es(claims()),
    ] {
        let verified = judge(&lab, &token).unwrap();
        assert_eq!(verified.identity.subject, "alice");
        assert_eq!(verified.identity.roles, ["viewer"]);
        assert_eq!(verified.identity.tenant.as_deref(), Some("acme"));
        assert_eq!(
            verified.identity.expires_at,
            NOW + 300,
            "the leeway is the gate's patience, not the credential's life"
        );
        assert!(lab.recheck(&verified.proof, NOW).is_ok());
    }
    refused(&lab, &ed(json!({"alg": "Ed25519", "kid": "e"})), Denial::TokenInvalid);
}

#[test]
fn alg_none_alg_missing_and_null_sig_are_refused() {
    let lab = lab();
    for alg in [
        json!("none"),
        json!("None"),
        json!("NONE"),
        json!("nOnE"),
        json!(""),
        json!(null),
        json!(["ES256"]),
        json!(" ES256"),
        json!("es256"),
    ] {
        refused(&lab, &unsigned(json!({"alg": alg, "kid": EC.kid()})), Denial::TokenInvalid);
        refused(&lab, &es_header(json!({"alg": alg, "kid": EC.kid()})), Denial::TokenInvalid);
    }
    refused(&lab, &es_header(json!({"kid": EC.kid()})), Denial::TokenInvalid);
    refused(&lab, &unsigned(header()), Denial::TokenInvalid);
    let zeros = format!("{}{}", unsigned(header()), encode([0; 64]));
    refused(&lab, &zeros, Denial::TokenInvalid);
}

#[test]
fn hs_rs_confusion_and_blank_secret_are_refused() {
    let lab = lab();
    let public = RSA.public_key().as_ref().to_vec();
    for secret in [public.as_slice(), b"", b"secret", rsa_jwk("r").to_string().as_bytes()] {
        for alg in ["HS256", "RS256"] {
            refused(
                &lab,
                &hmac_token(json!({"alg": alg, "kid": "r"}), secret),
                Denial::TokenInvalid,
            );
        }
    }
}

#[test]
fn psychic_signatures_are_refused() {
    let lab = lab();
    let order = hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
    for half in [vec![0; 32], order, vec![0xff; 32]] {
        let signature = [half.clone(), half].concat();
        refused(
            &lab,
            &format!("{}{}", unsigned(header()), encode(signature)),
            Denial::TokenInvalid,
        );
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|n| u8::from_str_radix(&text[n..n + 2], 16).unwrap())
        .collect()
}

#[test]
fn alg_family_swap_and_es256k_are_refused() {
    let lab = lab();
    refused(
        &lab,
        &es_header(json!({"alg": "RS256", "kid": EC.kid()})),
        Denial::TokenInvalid,
    );
    refused(&lab, &es_header(json!({"alg": "ES256", "kid": "r"})), Denial::TokenInvalid);
    refused(
        &lab,
        &es_header(json!({"alg": "ES256K", "kid": EC.kid()})),
        Denial::TokenInvalid,
    );
    refused(
        &lab,
        &es_header(json!({"alg": "ES384", "kid": EC.kid()})),
        Denial::TokenInvalid,
    );
    // RS384 is a fine signature, but not in the issuer's list.
    refused(
        &lab,
        &rs(json!({"alg": "RS384", "kid": "r"}), &signature::RSA_PKCS1_SHA384),
        Denial::TokenInvalid,
    );
    // The key says PS256: an RS256 signature of the same key does not count.
    let bound = lab_of(issuer("corp"), &[with(rsa_jwk("r"), "alg", json!("PS256"))]);
    refused(
        &bound,
        &rs(json!({"alg": "RS256", "kid": "r"}), &signature::RSA_PKCS1_SHA256),
        Denial::TokenInvalid,
    );
    assert!(judge(&bound, &rs(json!({"alg": "PS256", "kid": "r"}), &signature::RSA_PSS_SHA256)).is_ok());
}

#[test]
fn key_use_enc_and_key_ops_bind() {
    let token = rs(json!({"alg": "RS256", "kid": "r"}), &signature::RSA_PKCS1_SHA256);
    for (name, value, good) in [
        ("use", json!("sig"), true),
        ("use", json!("enc"), false),
        ("use", json!(null), false),
        ("key_ops", json!(["verify"]), true),
        ("key_ops", json!(["sign"]), false),
        ("key_ops", json!(["verify", "verify"]), false),
        ("key_ops", json!([]), false),
        ("key_ops", json!("verify"), false),
        ("alg", json!("RS256"), true),
        ("alg", json!("RSA-OAEP"), false),
        ("alg", json!(7), false),
    ] {
        let lab = lab_of(issuer("corp"), &[with(rsa_jwk("r"), name, value.clone())]);
        assert_eq!(judge(&lab, &token).is_ok(), good, "{name} {value}");
    }
}

#[test]
fn embedded_jwk_jku_x5u_and_x5c_bring_no_key() {
    let lab = lab();
    let evil = SigningKey::generate().unwrap();
    for (name, value) in [
        ("jwk", evil.jwk().clone()),
        ("jku", json!("https://evil.test/jwks.json")),
        ("x5u", json!("https://evil.test/cert.pem")),
        ("x5c", json!(["MIIB"])),
    ] {
        let header = with(header(), name, value);
        refused(&lab, &evil.sign(&header, &claims()).unwrap(), Denial::TokenInvalid);
        assert_eq!(judge(&lab, &es_header(header)).is_ok(), name == "x5c", "{name}");
    }
}

#[test]
fn kid_injection_is_only_ever_a_comparison() {
    let lab = lab();
    for kid in ["../../dev/null", "' OR 1=1 --", "http://evil.test/", "r\0", "R", "", "{}"] {
        refused(&lab, &es_header(json!({"alg": "ES256", "kid": kid})), Denial::TokenInvalid);
    }
    for kid in [json!(1), json!(null), json!(["r"]), json!({"r": 1}), json!("k".repeat(257))] {
        refused(&lab, &es_header(json!({"alg": "ES256", "kid": kid})), Denial::TokenInvalid);
    }
}

#[test]
fn kid_absent_single_is_accepted_and_kid_absent_multiple_is_refused() {
    let anonymous = json!({"alg": "ES256"});
    assert!(judge(&lab(), &es_header(anonymous.clone())).is_ok(), "one key fits ES256");
    let other = SigningKey::generate().unwrap();
    let two = lab_of(issuer("corp"), &[EC.jwk().clone(), other.jwk().clone()]);
    refused(&two, &es_header(anonymous), Denial::TokenInvalid);
    // The same kid twice: both are tried.
    let twins = lab_of(
        issuer("corp"),
        &[with(other.jwk().clone(), "kid", json!(EC.kid())), EC.jwk().clone()],
    );
    assert!(judge(&twins, &es(claims())).is_ok());
}

#[test]
fn jwks_rotation_kills_tokens_of_a_removed_key_at_once() {
    let lab = lab();
    let verified = judge(&lab, &es(claims())).unwrap();
    publish(&lab, &[rsa_jwk("r"), EC.jwk().clone()]);
    lab.issuers[0].keys.set_fetched_at(NOW);
    assert!(lab.recheck(&verified.proof, NOW).is_ok(), "its key is still there");
    publish(&lab, &[rsa_jwk("r"), with(EC.jwk().clone(), "use", json!("enc"))]);
    lab.issuers[0].keys.set_fetched_at(NOW);
    assert!(matches!(lab.recheck(&verified.proof, NOW), Err(TokenError::KeyGone { .. })));
    refused(&lab, &es(claims()), Denial::TokenInvalid);
}

#[test]
fn timing_cache_a_remembered_token_dies_with_its_time_and_its_keys_age() {
    let lab = lab();
    let verified = judge(&lab, &es(claims())).unwrap();
    let end = NOW + 300 + LEEWAY;
    lab.issuers[0].keys.set_fetched_at(NOW);
    assert!(lab.recheck(&verified.proof, end - 1).is_ok());
    assert!(matches!(
        lab.recheck(&verified.proof, end),
        Err(TokenError::Claims(ClaimError::Expired { .. }))
    ));
    lab.issuers[0].keys.set_fetched_at(NOW - 86_400);
    assert!(lab.recheck(&verified.proof, NOW).is_ok());
    lab.issuers[0].keys.set_fetched_at(NOW - 86_401);
    assert!(matches!(
        lab.recheck(&verified.proof, NOW),
        Err(TokenError::KeysUnavailable { .. })
    ));
    let error = lab.try_verify(&es(claims()), &[0], NOW).unwrap().unwrap_err();
    assert_eq!(error.denial(), Denial::KeyUnavailable);
}

#[test]
fn jwks_bad_keys_are_skipped_and_do_not_take_the_set_down() {
    let small = with(rsa_jwk("small"), "n", json!(encode([0xff; 128])));
    let roca_free = rsa_jwk("r");
    let bad = [
        json!(7),
        json!({}),
        json!({"kty": "oct", "kid": "o", "k": "c2VjcmV0"}),
        small,
        with(rsa_jwk("e1"), "e", json!("AQ")),
        with(rsa_jwk("even"), "e", json!("BA")),
        with(rsa_jwk("d"), "d", json!("AQAB")),
        with(rsa_jwk("n"), "n", json!("####")),
        with(EC.jwk().clone(), "x", json!(encode([1; 32]))),
        with(EC.jwk().clone(), "x", json!(encode([1; 31]))),
        with(EC.jwk().clone(), "crv", json!("P-384")),
        with(EC.jwk().clone(), "alg", json!("ES384")),
        with(EC.jwk().clone(), "kid", json!(1)),
        json!({"kty": "OKP", "crv": "X25519", "x": encode([1; 32])}),
        with(ed_jwk("e"), "alg", json!("ES256")),
    ];
    let all: Vec<Value> = bad.iter().cloned().chain([roca_free, EC.jwk().clone()]).collect();
    let lab = lab_of(issuer("corp"), &all);
    let set = lab.issuers[0].keys.snapshot();
    let set = set.as_ref().unwrap();
    assert_eq!(set.skipped.len(), bad.len(), "{:?}", set.skipped);
    assert_eq!(lab.status()[0].keys, 2);
    assert!(judge(&lab, &es(claims())).is_ok());
    for document in ["", "[]", "{}", r#"{"keys":1}"#, r#"{"keys":[],"keys":[]}"#] {
        assert!(jwk::KeySet::parse(document.as_bytes(), 1).is_err(), "{document}");
    }
    let many = json!({"keys": vec![json!({}); 101]}).to_string();
    assert!(jwk::KeySet::parse(many.as_bytes(), 1).is_err());
    assert!(jwk::KeySet::parse(&vec![b' '; jwk::JWKS_BYTES_MAX + 1], 1).is_err());
}

#[test]
fn crit_unknown_b64_false_cty_nested_jwe_and_compressed_jws_are_refused() {
    let lab = lab();
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!(null)),
        ("b64", json!(false)),
        ("b64", json!(true)),
        ("cty", json!("JWT")),
        ("enc", json!("A256GCM")),
        ("zip", json!("DEF")),
        ("epk", json!({})),
    ] {
        refused(&lab, &es_header(with(header(), name, value)), Denial::TokenInvalid);
    }
    refused(
        &lab,
        "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..aaaa.bbbb.cccc",
        Denial::TokenInvalid,
    );
}

#[test]
fn json_serialization_and_extra_segments_are_refused() {
    let lab = lab();
    let token = es(claims());
    let parts: Vec<&str> = token.split('.').collect();
    let flattened = json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]}).to_string();
    for bad in [
        flattened,
        format!("{token}."),
        format!(".{token}"),
        format!("{token}.x"),
        format!("{}..{}", parts[0], parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        parts[0].to_owned(),
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
    ] {
        refused(&lab, &bad, Denial::TokenInvalid);
    }
}

#[test]
fn base64_lenient_encodings_are_refused() {
    let lab = lab();
    let token = es(claims());
    for bad in [
        format!("{token}="),
        format!("{token}=="),
        format!("{token}\n"),
        format!(" {token}"),
        token.replacen('.', "=.", 1),
        token.replacen('.', "\n.", 1),
        token.replacen('.', "%2e", 1),
        format!("{token}!"),
    ] {
        refused(&lab, &bad, Denial::TokenInvalid);
    }
}

#[test]
fn dup_header_keys_and_dup_claims_are_refused() {
    let lab = lab();
    let (header, claims) = (header().to_string(), claims().to_string());
    assert!(judge(&lab, &es_raw(&header, &claims)).is_ok());
    let twice = |object: &str, extra: &str| format!("{},{extra}}}", object.strip_suffix('}').unwrap());
    refused(
        &lab,
        &es_raw(&twice(&header, r#""alg":"ES256""#), &claims),
        Denial::TokenInvalid,
    );
    refused(
        &lab,
        &es_raw(&twice(&header, r#""\u0061lg":"ES256""#), &claims),
        Denial::TokenInvalid,
    );
    for extra in [
        r#""sub":"alice""#,
        r#""tenant":"evil""#,
        r#""x":{"y":1,"y":1}"#,
        r#""s\u0075b":"root""#,
    ] {
        refused(&lab, &es_raw(&header, &twice(&claims, extra)), Denial::TokenInvalid);
    }
    for not_object in ["[]", "\"x\"", "null", "{} {}", "{}x", "", "\u{feff}{}"] {
        refused(&lab, &es_raw(&header, not_object), Denial::TokenInvalid);
        refused(&lab, &es_raw(not_object, &claims), Denial::TokenInvalid);
    }
}

#[test]
fn exp_types_other_than_sane_integers_are_refused() {
    let lab = lab();
    for exp in [
        "null",
        "\"1900000000\"",
        "1900000000.5",
        "1900000000.0",
        "19e8",
        "-1",
        "1e999",
        "253402300800",
        "99999999999999999999",
        "true",
        "[1900000000]",
        "{}",
    ] {
        let claims = format!(r#"{{"iss":"{ISS}","sub":"a","aud":"orders","exp":{exp}}}"#);
        let error = judge(&lab, &es_raw(&header().to_string(), &claims)).unwrap_err();
        assert!(
            matches!(error.denial(), Denial::ClaimInvalid | Denial::TokenInvalid),
            "{exp}: {error}"
        );
    }
    let mut none = claims();
    none.as_object_mut().unwrap().remove("exp");
    refused(&lab, &es(none), Denial::ClaimInvalid);
    refused(&lab, &es(with(claims(), "exp", json!(0))), Denial::TokenExpired);
}

#[test]
fn nbf_iat_and_leeway_edges_hold_to_the_second() {
    let lab = lab();
    for (claim, value, outcome) in [
        ("exp", NOW - LEEWAY + 1, None),
        ("exp", NOW - LEEWAY, Some(Denial::TokenExpired)),
        ("exp", NOW - LEEWAY - 1, Some(Denial::TokenExpired)),
        ("nbf", NOW + LEEWAY - 1, None),
        ("nbf", NOW + LEEWAY, None),
        ("nbf", NOW + LEEWAY + 1, Some(Denial::TokenInvalid)),
        ("iat", NOW + LEEWAY, None),
        ("iat", NOW + LEEWAY + 1, Some(Denial::TokenInvalid)),
    ] {
        let outcome_of = judge(&lab, &es(with(claims(), claim, json!(value))))
            .err()
            .map(|error| error.denial());
        assert_eq!(outcome_of, outcome, "{claim} {}", value - NOW);
    }
    for claim in ["nbf", "iat"] {
        for value in [json!("0"), json!(1.5), json!(-1), json!(null), json!(u64::MAX)] {
            refused(&lab, &es(with(claims(), claim, value)), Denial::ClaimInvalid);
        }
    }
}

#[test]
fn aud_must_name_us() {
    let lab = lab();
    for (aud, outcome) in [
        (json!("orders"), None),
        (json!(["x", "billing"]), None),
        (json!("Orders"), Some(Denial::AudienceMismatch)),
        (json!("orders "), Some(Denial::AudienceMismatch)),
        (json!("orders,x"), Some(Denial::AudienceMismatch)),
        (json!([]), Some(Denial::AudienceMismatch)),
        (json!(["order"]), Some(Denial::AudienceMismatch)),
        (json!(["orders", 1]), Some(Denial::ClaimInvalid)),
        (json!([["orders"]]), Some(Denial::ClaimInvalid)),
        (json!({"orders": 1}), Some(Denial::ClaimInvalid)),
        (json!(null), Some(Denial::ClaimInvalid)),
    ] {
        let token = es(with(claims(), "aud", aud.clone()));
        assert_eq!(judge(&lab, &token).err().map(|error| error.denial()), outcome, "{aud}");
    }
    let mut none = claims();
    none.as_object_mut().unwrap().remove("aud");
    refused(&lab, &es(none), Denial::AudienceMismatch);
}

#[test]
fn iss_is_compared_exactly_and_must_be_trusted_by_the_portal() {
    let lab = lab();
    for iss in [
        "https://id.example.test",
        "https://id.example.test//",
        "HTTPS://id.example.test/",
        "https://evil.test/",
        " https://id.example.test/",
    ] {
        refused(&lab, &es(with(claims(), "iss", json!(iss))), Denial::IssuerUnknown);
    }
    for iss in [json!(""), json!(null), json!([ISS]), json!(1)] {
        refused(&lab, &es(with(claims(), "iss", iss)), Denial::ClaimInvalid);
    }
    let untrusted = lab.try_verify(&es(claims()), &[], NOW).unwrap().unwrap_err();
    assert_eq!(untrusted, TokenError::IssuerUnknown);
    assert_eq!(
        lab.try_verify(&es(claims()), &[7], NOW).unwrap().unwrap_err(),
        TokenError::IssuerUnknown
    );
}

#[test]
fn sub_tenant_and_roles_of_another_shape_are_refused() {
    let lab = lab();
    let cases = [
        (
            "sub",
            vec![
                json!(""),
                json!(null),
                json!(1),
                json!(["alice"]),
                json!("a\nb"),
                json!("a\u{7f}"),
                json!("x".repeat(1025)),
            ],
        ),
        (
            "tenant",
            vec![
                json!(""),
                json!(null),
                json!(1),
                json!(["acme"]),
                json!("a\u{0}"),
                json!("x".repeat(257)),
            ],
        ),
        (
            "realm_access",
            vec![
                json!("roles"),
                json!({"roles": 1}),
                json!({"roles": null}),
                json!({"roles": [""]}),
                json!({"roles": [1]}),
                json!({"roles": ["a\tb"]}),
                json!({"roles": vec!["r"; 257]}),
            ],
        ),
        ("acr", vec![json!(1), json!("")]),
        ("amr", vec![json!("pwd"), json!([1])]),
        ("scope", vec![json!(["a"]), json!(1)]),
        ("auth_time", vec![json!("1"), json!(1.5)]),
        ("jti", vec![json!(1)]),
    ];
    for (claim, values) in cases {
        for value in values {
            refused(&lab, &es(with(claims(), claim, value)), Denial::ClaimInvalid);
        }
    }
    let mut none = claims();
    none.as_object_mut().unwrap().remove("sub");
    refused(&lab, &es(none), Denial::ClaimInvalid);
}

#[test]
fn well_shaped_claims_become_the_identity() {
    let mut claims = claims();
    claims["realm_access.roles"] = json!(["b", "a", "b"]);
    claims["scope"] = json!("read write");
    claims["amr"] = json!(["mfa", "pwd"]);
    claims["acr"] = json!("gold");
    claims["jti"] = json!("1");
    let identity = judge(&lab(), &es(claims.clone())).unwrap().identity;
    assert_eq!(identity.roles, ["b", "a"], "the literal name wins; no repetitions");
    assert_eq!(identity.auth.scopes, ["read", "write"]);
    assert_eq!((identity.auth.acr.as_deref(), identity.auth.time), (Some("gold"), Some(NOW)));
    assert_eq!(identity.token.jti_hash.as_deref(), Some("6b86b273ff34fce1"));
    claims["realm_access.roles"] = json!("single");
    claims["auth_time"] = json!(NOW - 50);
    let identity = judge(&lab(), &es(claims)).unwrap().identity;
    assert_eq!(
        (identity.roles, identity.auth.time),
        (vec!["single".to_owned()], Some(NOW - 50))
    );
}

#[test]
fn an_issuer_asserts_only_its_own_tenants_and_roles() {
    let bounded = |tenants: &[&str], roles: &[&str]| {
        let scope = IssuerScope {
            tenants: Some(tenants.iter().map(|text| (*text).to_owned()).collect()),
            roles: Some(roles.iter().map(|text| (*text).to_owned()).collect()),
            ..(*issuer("corp").scope).clone()
        };
        Issuer {
            scope: Arc::new(scope),
            ..issuer("corp")
        }
    };
    for (tenants, roles, good) in [
        (["acme"], ["viewer"], true),
        (["other"], ["viewer"], false),
        (["acme"], ["admin"], false),
    ] {
        let lab = lab_of(bounded(&tenants, &roles), &[EC.jwk().clone()]);
        let outcome = judge(&lab, &es(claims())).map(|_| ()).map_err(|error| error.denial());
        assert_eq!(outcome, if good { Ok(()) } else { Err(Denial::ClaimInvalid) });
    }
}

#[test]
fn typ_confusion_is_refused_our_assertion_included() {
    let lab = lab();
    for (typ, good) in [
        (json!("JWT"), true),
        (json!("jwt"), true),
        (json!("at+jwt"), true),
        (json!("application/AT+JWT"), true),
        (json!(jws::ASSERTION_TYP), false),
        (json!("application/cedargate-assertion+jwt"), false),
        (json!("logout+jwt"), false),
        (json!("dpop+jwt"), false),
        (json!(""), false),
        (json!(null), false),
        (json!(["JWT"]), false),
    ] {
        assert_eq!(
            judge(&lab, &es_header(with(header(), "typ", typ.clone()))).is_ok(),
            good,
            "{typ}"
        );
    }
}

#[test]
fn a_token_bound_by_cnf_is_no_plain_bearer() {
    refused(&lab(), &es(with(claims(), "cnf", json!({"jkt": "x"}))), Denial::TokenInvalid);
    refused(&lab(), &es(with(claims(), "cnf", json!(null))), Denial::TokenInvalid);
}

#[test]
fn size_bombs_are_refused_early() {
    let lab = lab();
    let long = es(with(claims(), "x", json!("x".repeat(16 * 1024))));
    assert_eq!(judge(&lab, &long).unwrap_err(), TokenError::TooLong { max: 16 * 1024 });
    let deep = format!(r#"{{"iss":"{ISS}","x":{}{}}}"#, "[".repeat(2000), "]".repeat(2000));
    refused(&lab, &es_raw(&header().to_string(), &deep), Denial::TokenInvalid);
}

#[test]
fn proto_keys_are_just_data() {
    let lab = lab();
    let mut claims = claims();
    for name in ["__proto__", "constructor", "prototype", "$serde_json::private::Number"] {
        claims[name] = json!({"sub": "root", "tenant": "evil", "roles": ["admin"]});
    }
    let identity = judge(&lab, &es(claims)).unwrap().identity;
    assert_eq!(
        (identity.subject.as_str(), identity.roles),
        ("alice", vec!["viewer".to_owned()])
    );
}

#[test]
fn transport_the_header_is_read_strictly() {
    let read = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("authorization", HeaderValue::from_static(value));
        }
        bearer(&headers)
            .map(|token| token.map(str::to_owned))
            .map_err(|refusal| refusal.denial)
    };
    assert_eq!(read(&[]), Ok(None));
    assert_eq!(read(&["Bearer a.b.c"]), Ok(Some("a.b.c".to_owned())));
    assert_eq!(read(&["bEARER a-_~+/=="]), Ok(Some("a-_~+/==".to_owned())));
    assert_eq!(read(&["Bearer a", "Bearer a"]), Err(Denial::RequestInvalid));
    for bad in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  a",
        "Bearer a b",
        "Bearer a,b",
        "Bearer\ta",
        "Basic YTpi",
        "DPoP a.b.c",
        "a.b.c",
    ] {
        assert_eq!(read(&[bad]), Err(Denial::TokenInvalid), "{bad}");
    }
}

#[test]
fn error_format_is_a_code_of_the_closed_set_and_a_private_detail() {
    let lab = lab();
    let refusal = Refusal::from(judge(&lab, "x").unwrap_err());
    assert_eq!(
        (refusal.denial, refusal.denial.bearer_error()),
        (Denial::TokenInvalid, Some("invalid_token"))
    );
    let text = lab.metrics.render().unwrap();
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
        static LAB: LazyLock<(Arc<Authn>, String)> = LazyLock::new(|| (lab(), es(claims())));
        let (lab, token) = &*LAB;
        let mut characters: Vec<char> = token.chars().collect();
        let place = place.index(characters.len());
        prop_assume!(characters[place] != with);
        characters[place] = with;
        prop_assert!(judge(lab, &characters.iter().collect::<String>()).is_err());
    }

    #[test]
    fn arbitrary_text_is_no_token(text in "\\PC{0,80}|[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}") {
        prop_assert!(judge(&lab_of(issuer("corp"), &[]), &text).is_err());
    }
}
