//! A value that was changed, moved, mixed or sealed elsewhere does not open.

use std::sync::Arc;

use cedargate_policy::types::Redacted;
use serde_json::{Map, json};

use super::keys::ActiveKeyRing;
use super::*;
use crate::session::record::{Grant, RevocationKey};

fn ring(text: &[u8]) -> ActiveKeyRing {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, lines(text)).unwrap();
    ActiveKeyRing::load(Some(file)).unwrap()
}

fn lines(bytes: &[u8]) -> String {
    use base64::engine::general_purpose::STANDARD;
    bytes.iter().map(|byte| STANDARD.encode([*byte; 32]) + "\n").collect()
}

fn seal_of(keys: &[u8], prefix: &str) -> Seal {
    Seal {
        keys: ring(keys),
        prefix: prefix.to_owned(),
    }
}

fn id(byte: u8) -> SessionId {
    SessionId(Redacted::new([byte; 32]))
}

fn data() -> SessionData {
    let claims = json!({"sub": "ann@example.com", "tenant": "acme"});
    let secret = |text: &str| Redacted::new(text.to_owned());
    SessionData {
        provider: "corp".to_owned(),
        issuer: "corp".to_owned(),
        subject: "ann@example.com".to_owned(),
        portal: "shop".to_owned(),
        claims: Arc::new(claims.as_object().cloned().unwrap_or_else(Map::new)),
        created_at: 1_700_000_000_000,
        idp_session: Some("sid".to_owned()),
        grant: Some(Grant {
            id_token: secret("the-id-token"),
            refresh_token: Some(secret("the-refresh-token")),
            access_token: secret("the-access-token"),
            refresh_at: None,
        }),
        portals: None,
        rotation_due: false,
    }
}

fn header(used_at: i64) -> SealedHeader {
    SealedHeader {
        renewal_claims: Vec::new(),
        renewed_at: None,
        summary: SessionSummary {
            session: String::new(),
            provider: "corp".to_owned(),
            issuer: "corp".to_owned(),
            subject: "ann@example.com".to_owned(),
            tenant: None,
            portal: "shop".to_owned(),
            created_at: 1,
            used_at,
        },
        lineage: Seal::handle(&id(1)).to_hex(),
        ends_at: None,
        successor: None,
        unconfirmed: false,
    }
}

#[test]
fn session_opens_with_ring_and_cookie_and_its_header_with_the_ring_alone() {
    let seal = seal_of(&[1], "p:");
    let value = seal.session(&id(1), &header(7), &data(), &RotationLinks::default()).unwrap();
    let opened = seal.open_session(&id(1), &value).unwrap();
    assert_eq!(opened.data.subject, "ann@example.com");
    assert_eq!(
        opened.data.grant.unwrap().refresh_token.unwrap().expose(),
        "the-refresh-token"
    );
    assert_eq!(opened.header.summary.used_at, 7);
    let handle = Seal::handle(&id(1));
    assert_eq!(seal.open_header(handle, &value).unwrap().summary.used_at, 7);
    for secret in ["ann", "the-", "acme", "corp"] {
        assert!(!value.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
    }
    // sealing the same session twice gives different bytes and the same version
    let again = seal.session(&id(1), &header(8), &data(), &RotationLinks::default()).unwrap();
    assert_ne!(again, value);
    assert_eq!(seal.open_session(&id(1), &again).unwrap().version, opened.version);
}

#[test]
fn value_with_a_flipped_bit_or_missing_byte_does_not_open() {
    let seal = seal_of(&[1], "p:");
    let value = seal.session(&id(1), &header(7), &data(), &RotationLinks::default()).unwrap();
    for at in 0..value.len() * 8 {
        let mut bad = value.clone();
        bad[at / 8] ^= 1 << (at % 8);
        assert!(seal.open_session(&id(1), &bad).is_err(), "bit {at}");
    }
    for length in 0..value.len() {
        assert!(seal.open_session(&id(1), &value[..length]).is_err(), "{length} bytes");
        assert!(seal.open_header(Seal::handle(&id(1)), &value[..length]).is_err() || length > HEAD_BYTES + 4);
    }
    assert!(seal.open_session(&id(1), &[&value[..], b"x"].concat()).is_err());
}

#[test]
fn value_opens_only_under_its_handle_its_deployment_and_its_keys() {
    let seal = seal_of(&[1], "p:");
    let value = seal.session(&id(1), &header(7), &data(), &RotationLinks::default()).unwrap();
    assert_eq!(seal.open_session(&id(2), &value).unwrap_err(), OpenError::Broken);
    assert_eq!(seal.open_header(Seal::handle(&id(2)), &value).unwrap_err(), OpenError::Broken);
    let elsewhere = seal_of(&[1], "q:");
    assert_eq!(elsewhere.open_session(&id(1), &value).unwrap_err(), OpenError::Broken);
    let stranger = seal_of(&[2], "p:");
    assert_eq!(stranger.open_session(&id(1), &value).unwrap_err(), OpenError::UnknownKey);
    // a known key id alone does not open the value
    let mut lying = value.clone();
    lying[1..HEAD_BYTES].copy_from_slice(&stranger.keys.ring.load().sealing().id);
    assert_eq!(stranger.open_session(&id(1), &lying).unwrap_err(), OpenError::Broken);
}

#[test]
fn header_and_body_of_two_values_do_not_open_together() {
    let seal = seal_of(&[1], "p:");
    let old = seal.session(&id(1), &header(1), &data(), &RotationLinks::default()).unwrap();
    let new = seal.session(&id(1), &header(2), &data(), &RotationLinks::default()).unwrap();
    let (one, two) = (SealedParts::read(&old).unwrap(), SealedParts::read(&new).unwrap());
    let build = |header: &[u8], body: &[u8]| {
        let length = u32::try_from(header.len()).unwrap().to_be_bytes();
        [&[VERSION][..], one.key_id, &length, header, body].concat()
    };
    assert!(seal.open_session(&id(1), &build(one.header, one.body)).is_ok());
    assert!(seal.open_session(&id(1), &build(one.header, two.body)).is_err());
    assert!(seal.open_session(&id(1), &build(two.header, one.body)).is_err());
    assert!(seal.open_session(&id(1), &build(one.body, one.header)).is_err());
    assert!(seal.open_header(Seal::handle(&id(1)), &build(one.body, one.header)).is_err());
}

#[test]
fn first_key_seals_and_an_old_key_opens_until_it_leaves_the_ring() {
    let (before, during, after) = (seal_of(&[1], "p:"), seal_of(&[2, 1], "p:"), seal_of(&[2], "p:"));
    let old = before
        .session(&id(1), &header(1), &data(), &RotationLinks::default())
        .unwrap();
    assert!(during.open_session(&id(1), &old).is_ok());
    let new = during
        .session(&id(1), &header(1), &data(), &RotationLinks::default())
        .unwrap();
    assert!(after.open_session(&id(1), &new).is_ok());
    assert!(before.open_session(&id(1), &new).is_err());
    assert_eq!(after.open_session(&id(1), &old).unwrap_err(), OpenError::UnknownKey);
    let state = before.for_browser(b"cookie", b"state").unwrap();
    assert_eq!(during.open_from_browser(b"cookie", &state).unwrap(), b"state");
    assert!(after.open_from_browser(b"cookie", &state).is_err());
}

#[test]
fn browser_values_and_shared_values_open_only_where_they_belong() {
    let seal = seal_of(&[1], "p:");
    let state = seal.for_browser(b"cookie", b"state").unwrap();
    assert_eq!(seal.open_from_browser(b"cookie", &state).unwrap(), b"state");
    assert!(seal.open_from_browser(b"other", &state).is_err());
    assert!(seal_of(&[1], "q:").open_from_browser(b"cookie", &state).is_err());
    for bad in ["", "A", "!", &state[1..], &format!("{state}AAAA")] {
        assert!(seal.open_from_browser(b"cookie", bad).is_err(), "{bad}");
    }
    let shared = seal.shared(b"a", b"value").unwrap();
    assert_eq!(seal.open_shared(b"a", &shared).unwrap(), b"value");
    assert!(seal.open_shared(b"b", &shared).is_err());
    assert!(seal.open_from_browser(b"", &URL_SAFE_NO_PAD.encode(&shared)).is_err());
    assert!(seal.open_shared(b"", &URL_SAFE_NO_PAD.decode(&state).unwrap()).is_err());
}

#[test]
fn stored_names_and_hashes_stay_those_of_running_deployments() {
    let mut header = header(7);
    header.renewal_claims.push(RenewalClaim {
        renewing_since: 5,
        by: "a process".to_owned(),
    });
    let stored = json!({
        "session": "", "provider": "corp", "issuer": "corp", "subject": "ann@example.com", "tenant": null, "portal": "shop",
        "created_at": 1, "used_at": 7, "lineage": "faee8fe9d6dba2d65c4c2cb1b89a9e2b7df940d0ce8f439f04a66b2f177384ae",
        "ends_at": null, "successor": null, "unproven": false,
        "asked": [{"renewing_since": 5, "by": "a process"}], "renewed_at": null,
    });
    assert_eq!(serde_json::to_value(&header).unwrap(), stored);
    let opened: SealedHeader = serde_json::from_value(stored).unwrap();
    assert_eq!(opened.renewal_claims[0].by, "a process");
    assert_eq!(
        hex::encode(seal_of(&[1], "p:").keys.ring.load().sealing().id),
        "0516f444fbbe8752"
    );
    let subject = RevocationKey::subject("corp", "ann");
    assert_eq!(
        hex::encode(subject.hash),
        "25946fe1f72148c24175ab233e30e62826263233a89c84dc8aeadcf42700f657"
    );
    let tenant = RevocationKey::tenant("acme");
    assert_eq!(
        hex::encode(tenant.hash),
        "c5f6a0e7bafc2c486284e0221e2d665c5d62e838530a9f3a1c17a6930bda1b21"
    );
}
