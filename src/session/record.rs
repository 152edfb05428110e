//! The records of a session: the data that the store seals, the session as this process holds it, and what a revocation
//! names.
//!
//! The serde names and the hashed bytes are the stored format of running deployments: a field is renamed only together
//! with `serde(rename)`, and a hash never changes.

use std::sync::Arc;

use cedargate_policy::claims::LoginClaims;
use cedargate_policy::types::{PortalSlug, Redacted};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::cookie::SessionId;
use crate::base::digest::sha256;

/// Characters of a handle in hex.
const HEX_CHARS: usize = 64;

/// A hash of the session id, under which the session is stored. Opens nothing, so records and operators may see it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Handle(pub(super) [u8; 32]);

/// The data of a session, sealed in the store with the server's keys and the cookie.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SessionData {
    /// Name of an entry of `login.providers`.
    pub provider: String,
    /// Name of an entry of `issuers`.
    pub issuer: String,
    /// The claim that `issuers[].claims.subject` names.
    pub subject: String,
    /// Portal of the login. Other portals may use the session if they trust its issuer and tenant.
    pub portal: String,
    /// Claims of the ID token and userinfo, or of the users file.
    pub claims: Arc<Map<String, Value>>,
    /// Unix milliseconds of the login, taken before its proof (code, password) is checked: `absolute_timeout` counts
    /// from here, and revocations end what began before them.
    pub created_at: i64,
    /// The provider's own name of its session (`sid`), for back-channel logout.
    pub idp_session: Option<String>,
    /// Portals that the account may use; `None`: every portal that trusts the provider.
    #[serde(default)]
    pub portals: Option<Vec<String>>,
    /// Tokens of the provider; `None` for local accounts.
    pub grant: Option<Grant>,
    /// The privileges changed since the id was made: the next response that can carry a cookie gives the session a new
    /// id.
    pub rotation_due: bool,
}

/// The tokens that a provider gave.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Grant {
    /// Sent as `id_token_hint` on logout.
    #[serde(with = "secret")]
    pub id_token: Redacted<String>,
    /// `None` if the provider gives none; then the session lives until its timeouts.
    #[serde(with = "optional_secret")]
    pub refresh_token: Option<Redacted<String>>,
    /// Sent to userinfo.
    #[serde(with = "secret")]
    pub access_token: Redacted<String>,
    /// Unix milliseconds after which the claims should be renewed; `None`: never.
    pub refresh_at: Option<i64>,
}

/// A session as this process holds it.
#[derive(Clone, Debug)]
pub struct Session {
    pub handle: Handle,
    pub data: SessionData,
    /// Hash of handle and data. Values derived from one version must not be used for another.
    pub version: [u8; 32],
    /// Unix seconds of the absolute end.
    pub expires_at: i64,
    /// The id that the session was rotated to, as long as the browser may not have it.
    pub next: Option<SessionId>,
    /// The keys of the revocation log that revoke this session.
    pub(super) revocation_keys: RevocationKeys,
}

impl Session {
    /// The part of the login that gives the caller's identity.
    pub fn login_claims(&self) -> LoginClaims<'_> {
        LoginClaims {
            claims: &self.data.claims,
            issuer: &self.data.issuer,
            portals: self.data.portals.as_deref(),
            subject: &self.data.subject,
            began_at: self.data.created_at / 1000,
            expires_at: self.expires_at,
        }
    }
}

/// A session as operators see it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SessionSummary {
    /// Hex of the handle; `sessions revoke --session` takes it.
    pub session: String,
    pub provider: String,
    pub issuer: String,
    pub subject: String,
    pub tenant: Option<String>,
    pub portal: String,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds of the last use that was written to the store.
    pub used_at: i64,
}

/// The target of a revocation. Every kind ends sessions; `Subject`, `Tenant` and `Portal` end bearer tokens too.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Revocation {
    Session(Handle),
    /// `subject` as the issuer writes it.
    Subject {
        issuer: String,
        subject: String,
    },
    Tenant(String),
    Portal(PortalSlug),
    /// The session at the provider (`sid`). Also ends a session whose login completes after the revocation.
    IdpSession {
        issuer: String,
        sid: String,
    },
    /// The sessions of a subject whose ID token named no session of the provider (`sid`), so that `IdpSession` cannot
    /// find them.
    Unnamed {
        issuer: String,
        subject: String,
    },
}

impl Handle {
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// Parses 64 lower-case hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let text = text.as_bytes();
        if text.len() != HEX_CHARS {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(bytes))
    }
}

/// The store's key of a session's value. Part of the stored format.
pub fn session_key(handle: Handle) -> String {
    format!("s:{{{}}}", handle.to_hex())
}

/// The hashed target of a revocation. The revocation log stores and compares only these.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct RevocationKey {
    pub kind: RevocationKind,
    pub hash: [u8; 32],
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum RevocationKind {
    Session,
    Subject,
    Tenant,
    Portal,
    IdpSession,
    Unnamed,
}

/// Every key that revokes one session, computed once when the session is read.
#[derive(Clone, Debug)]
pub(super) struct RevocationKeys {
    /// Handle of the session's first id. It stays the same through every rotation.
    pub lineage: Handle,
    pub subject: RevocationKey,
    pub tenant: Option<RevocationKey>,
    pub portal: RevocationKey,
    pub idp_session: Option<RevocationKey>,
    /// `None` for a session with an `idp_session`.
    pub unnamed: Option<RevocationKey>,
}

impl RevocationKind {
    pub const fn code(self) -> u8 {
        match self {
            Self::Session => b's',
            Self::Subject => b'u',
            Self::Tenant => b't',
            Self::Portal => b'p',
            Self::IdpSession => b'i',
            Self::Unnamed => b'n',
        }
    }

    pub fn from_code(code: u8) -> Option<Self> {
        let all = [
            Self::Session,
            Self::Subject,
            Self::Tenant,
            Self::Portal,
            Self::IdpSession,
            Self::Unnamed,
        ];
        all.into_iter().find(|kind| kind.code() == code)
    }

    /// True if a revocation of this kind may end a bearer token as well.
    pub const fn ends_tokens(self) -> bool {
        matches!(self, Self::Subject | Self::Tenant | Self::Portal)
    }
}

impl RevocationKey {
    pub fn new(kind: RevocationKind, parts: &[&str]) -> Self {
        // each part goes in with its length: no two lists of parts have the same bytes
        let mut bytes = vec![kind.code()];
        for part in parts {
            bytes.extend_from_slice(&part.len().to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        Self {
            kind,
            hash: sha256(&bytes),
        }
    }

    pub const fn session(handle: Handle) -> Self {
        Self {
            kind: RevocationKind::Session,
            hash: handle.0,
        }
    }

    pub fn subject(issuer: &str, subject: &str) -> Self {
        Self::new(RevocationKind::Subject, &[issuer, subject])
    }

    pub fn tenant(tenant: &str) -> Self {
        Self::new(RevocationKind::Tenant, &[tenant])
    }

    pub fn portal(portal: &str) -> Self {
        Self::new(RevocationKind::Portal, &[portal])
    }

    pub fn of(what: &Revocation) -> Self {
        match what {
            Revocation::Session(handle) => Self::session(*handle),
            Revocation::Subject { issuer, subject } => Self::subject(issuer, subject),
            Revocation::Tenant(tenant) => Self::tenant(tenant),
            Revocation::Portal(portal) => Self::portal(portal.as_str()),
            Revocation::IdpSession { issuer, sid } => Self::new(RevocationKind::IdpSession, &[issuer, sid]),
            Revocation::Unnamed { issuer, subject } => Self::new(RevocationKind::Unnamed, &[issuer, subject]),
        }
    }
}

impl RevocationKeys {
    pub fn new(lineage: Handle, data: &SessionData, tenant: Option<&str>) -> Self {
        let sid = data.idp_session.as_deref();
        Self {
            lineage,
            subject: RevocationKey::subject(&data.issuer, &data.subject),
            tenant: tenant.map(RevocationKey::tenant),
            portal: RevocationKey::portal(&data.portal),
            idp_session: sid.map(|sid| RevocationKey::new(RevocationKind::IdpSession, &[&data.issuer, sid])),
            unnamed: sid
                .is_none()
                .then(|| RevocationKey::new(RevocationKind::Unnamed, &[&data.issuer, &data.subject])),
        }
    }

    /// The keys that revoke a session whenever it began.
    pub fn untimed(&self) -> impl Iterator<Item = RevocationKey> {
        [Some(RevocationKey::session(self.lineage)), self.idp_session]
            .into_iter()
            .flatten()
    }

    /// The keys that revoke a session only if it began before the revocation.
    pub fn time_bound(&self) -> impl Iterator<Item = &RevocationKey> {
        let optional = [self.tenant.as_ref(), self.unnamed.as_ref()];
        [&self.subject, &self.portal]
            .into_iter()
            .chain(optional.into_iter().flatten())
    }
}

mod secret {
    use serde::{Deserialize, Deserializer, Serializer};

    use cedargate_policy::types::Redacted;

    pub fn serialize<S: Serializer>(value: &Redacted<String>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(value.expose())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Redacted<String>, D::Error> {
        String::deserialize(from).map(Redacted::new)
    }
}

mod optional_secret {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use cedargate_policy::types::Redacted;

    pub fn serialize<S: Serializer>(value: &Option<Redacted<String>>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(Redacted::expose).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Redacted<String>>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Redacted::new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handle_parses_from_exactly_64_lower_case_hex_digits() {
        let handle = Handle([0xa5; 32]);
        assert_eq!(Handle::from_hex(&handle.to_hex()), Some(handle));
        let good = handle.to_hex();
        for bad in [
            "",
            "a5",
            &good[1..],
            &good.to_uppercase(),
            &format!("{good}a5"),
            &format!("{}g", &good[1..]),
        ] {
            assert_eq!(Handle::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_two_revocations_share_a_key() {
        let all = [
            RevocationKey::subject("a", "bc"),
            RevocationKey::subject("ab", "c"),
            RevocationKey::subject("", "abc"),
            RevocationKey::tenant("abc"),
            RevocationKey::portal("abc"),
            RevocationKey::new(RevocationKind::IdpSession, &["a", "bc"]),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(all.iter().skip(n + 1).all(|other| other != one && other.hash != one.hash));
            assert_eq!(RevocationKind::from_code(one.kind.code()), Some(one.kind));
        }
        assert_eq!(RevocationKind::from_code(b'x'), None);
    }
}
