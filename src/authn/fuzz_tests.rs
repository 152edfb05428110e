//! Fuzz tests of the token parser: an accepted token has one spelling and one meaning, and its claims map unchanged.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;

use super::attack_tests::issuer;
use super::jws::{TokenKind, encode, parse};
use super::{TokenHeader, claims};
use crate::fuzz_tests::Fuzz;
use crate::http::credentials::bearer;
use cedargate_policy::claims::{BoundIdentity, Possession};

const BYTES_MAX: usize = 16 * 1024;

#[test]
fn accepted_token_has_one_spelling_and_one_meaning() {
    let words = &[
        ".",
        "..",
        "=",
        "-",
        "_",
        "+",
        "/",
        "eyJhbGciOiJub25lIn0",
        "eyJhbGciOiJIUzI1NiJ9",
        "{\"alg\":\"RS256\"}",
        "\"alg\":\"none\"",
        "\"crit\":[]",
        "\"b64\":false",
        "\"kid\":\"",
        "\"typ\":\"JWT\"",
        "\"exp\":4000000000",
        "\"exp\":1e99",
        "\"nbf\":-1",
        "\"aud\":[\"orders\"]",
        "\"sub\":\"\"",
        "\"sub\":\"a\"",
        "\"roles\":[",
        "\"realm_access\":{\"roles\":[\"a\"]}",
        "\"amr\":",
        "\"cnf\":{}",
        "\\u0000",
        "\\ud800",
        "null",
        " ",
        "\n",
    ];
    Fuzz::new("token", words).run(|input| {
        // seeds have the form `header|claims|signature` without base64url, so that mutations reach the JSON
        let verbatim = String::from_utf8_lossy(input).into_owned();
        [verbatim, encode_segments(input)]
            .into_iter()
            .filter(|token| check(token))
            .count()
            > 0
    });
}

fn encode_segments(open: &[u8]) -> String {
    open.splitn(3, |b| *b == b'|').map(encode).collect::<Vec<_>>().join(".")
}

/// True if the token became an identity.
fn check(token: &str) -> bool {
    let mut accepted = false;
    if let Ok(value) = http::HeaderValue::try_from(format!("Bearer {token}")) {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, value);
        if let Ok(Some(found)) = bearer(&headers) {
            assert!(token.contains(found) && !found.contains([' ', ',', '"']), "{found}");
        }
    }
    for kind in [TokenKind::Bearer, TokenKind::Assertion] {
        let Ok(compact) = parse(token, BYTES_MAX, kind) else {
            continue;
        };
        let segments: Vec<&str> = token.split('.').collect();
        assert_eq!(segments.len(), 3);
        for segment in &segments {
            let padded = format!("{segment}{}", "=".repeat((4 - segment.len() % 4) % 4));
            assert_eq!(
                encode(URL_SAFE.decode(padded).expect("base64url")),
                **segment,
                "another spelling was accepted"
            );
        }
        assert_eq!(encode(&compact.signature), segments[2]);
        assert_eq!(format!("{}.{}", segments[0], segments[1]), compact.signing_input);
        for member in ["crit", "b64", "zip", "enc", "cty", "epk"] {
            let header: serde_json::Value = serde_json::from_slice(&URL_SAFE.decode(pad(segments[0])).unwrap()).unwrap();
            assert!(header.get(member).is_none(), "{member}");
        }
        let Ok(window) = claims::window(&compact.claims, 30) else {
            continue;
        };
        let issuer = issuer("corp");
        let signed = compact.claims.clone();
        let header = TokenHeader { kid: None, alg: "" };
        let Ok(BoundIdentity { identity, .. }) =
            claims::token_identity(&issuer.scope, header, compact.claims, window, &Possession::NONE)
        else {
            continue;
        };
        assert!(!identity.subject.is_empty() && identity.subject.len() <= claims::SUBJECT_BYTES_MAX);
        assert_eq!(signed["sub"], identity.subject.as_str());
        assert!(identity.roles.len() <= claims::NAMES_MAX && !identity.roles.iter().any(String::is_empty));
        assert!(signed.get("cnf").is_none() && signed.get("exp").is_some());
        accepted = true;
    }
    accepted
}

fn pad(segment: &str) -> String {
    format!("{segment}{}", "=".repeat((4 - segment.len() % 4) % 4))
}
