//! What a session is: what is sealed in the store, and what a process knows of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::cookie::SessionId;
use super::seal::sha256_of_parts;
use crate::types::{PortalSlug, Redacted};

/// Characters of a handle in hex.
const HEX_CHARS: usize = 64;

/// Under which a session is stored: a hash of its id.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Handle(pub(super) [u8; 32]);

/// What is sealed in the store with the server's keys and the cookie.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SessionData {
    /// Of `login.providers`.
    pub provider: String,
    /// Of `issuers`.
    pub issuer: String,
    /// Of `issuers[].claims.subject`.
    pub subject: String,
    /// Where the login happened. Other portals may use the session if they trust its issuer and tenant.
    pub portal: String,
    /// Of the ID token and userinfo, or of the users file.
    pub claims: Arc<Map<String, Value>>,
    /// Unix milliseconds of the login: `absolute_timeout` counts from here, and revocations end what began before them.
    pub created_at: i64,
    /// The provider's own name of its session (`sid`), for back-channel logout.
    pub idp_session: Option<String>,
    /// Portals that the account may use; `None`: all that trust the provider.
    #[serde(default)]
    pub portals: Option<Vec<String>>,
    /// What the provider gave; `None`: local accounts.
    pub grant: Option<Grant>,
    /// The privileges changed since the id was made: it is rotated with the next answer that can carry a cookie.
    pub rotation_due: bool,
}

/// What a provider gave beside claims.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Grant {
    /// For `id_token_hint`.
    #[serde(with = "secret")]
    pub id_token: Redacted<String>,
    /// `None`: the provider gives none, and the session lives until its timeouts.
    #[serde(with = "optional_secret")]
    pub refresh_token: Option<Redacted<String>>,
    /// For userinfo.
    #[serde(with = "secret")]
    pub access_token: Redacted<String>,
    /// Unix milliseconds after which the claims should be renewed; `None`: never.
    pub refresh_at: Option<i64>,
}

/// A session as this process knows it.
#[derive(Clone, Debug)]
pub struct Session {
    pub handle: Handle,
    pub data: SessionData,
    /// Differs whenever handle or data differ: what was made of one version must not be used for another.
    pub version: [u8; 32],
    /// Unix seconds of the absolute end.
    pub expires_at: i64,
    /// The id that it was rotated to: the browser may not have it yet.
    pub next: Option<SessionId>,
    /// What revokes it.
    pub(super) marks: Marks,
}

/// What an operator sees of a session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Card {
    /// Hex of the handle: what `sessions revoke --session` takes.
    pub session: String,
    pub provider: String,
    pub issuer: String,
    pub subject: String,
    pub tenant: Option<String>,
    pub portal: String,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds, as far as the store was told.
    pub used_at: i64,
}

/// What can be revoked. Ends sessions, and all but `Session` and `IdpSession` bearer tokens, too.
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
    /// The provider's own session (`sid`).
    IdpSession {
        issuer: String,
        sid: String,
    },
}

impl Handle {
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// Lower-case hex, whole.
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

/// What a revocation names, hashed: the feed and its reader compare these and nothing else.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Mark {
    pub kind: MarkKind,
    pub hash: [u8; 32],
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum MarkKind {
    Session,
    Subject,
    Tenant,
    Portal,
    IdpSession,
}

/// Every mark that revokes one session, made once.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    /// The first id's handle: a session keeps it through every rotation.
    pub lineage: Handle,
    pub subject: Mark,
    pub tenant: Option<Mark>,
    pub portal: Mark,
    pub idp_session: Option<Mark>,
}

impl MarkKind {
    pub const fn code(self) -> u8 {
        match self {
            Self::Session => b's',
            Self::Subject => b'u',
            Self::Tenant => b't',
            Self::Portal => b'p',
            Self::IdpSession => b'i',
        }
    }

    pub fn from_code(code: u8) -> Option<Self> {
        let all = [Self::Session, Self::Subject, Self::Tenant, Self::Portal, Self::IdpSession];
        all.into_iter().find(|kind| kind.code() == code)
    }

    /// Whether it may end a bearer token as well.
    pub const fn is_wide(self) -> bool {
        matches!(self, Self::Subject | Self::Tenant | Self::Portal)
    }
}

impl Mark {
    pub fn new(kind: MarkKind, parts: &[&str]) -> Self {
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        Self {
            kind,
            hash: sha256_of_parts(kind.code(), &parts),
        }
    }

    pub const fn session(handle: Handle) -> Self {
        Self {
            kind: MarkKind::Session,
            hash: handle.0,
        }
    }

    pub fn subject(issuer: &str, subject: &str) -> Self {
        Self::new(MarkKind::Subject, &[issuer, subject])
    }

    pub fn tenant(tenant: &str) -> Self {
        Self::new(MarkKind::Tenant, &[tenant])
    }

    pub fn portal(portal: &str) -> Self {
        Self::new(MarkKind::Portal, &[portal])
    }

    pub fn of(what: &Revocation) -> Self {
        match what {
            Revocation::Session(handle) => Self::session(*handle),
            Revocation::Subject { issuer, subject } => Self::subject(issuer, subject),
            Revocation::Tenant(tenant) => Self::tenant(tenant),
            Revocation::Portal(portal) => Self::portal(portal.as_str()),
            Revocation::IdpSession { issuer, sid } => Self::new(MarkKind::IdpSession, &[issuer, sid]),
        }
    }
}

impl Marks {
    pub fn new(lineage: Handle, data: &SessionData, tenant: Option<&str>) -> Self {
        let sid = data.idp_session.as_deref();
        Self {
            lineage,
            subject: Mark::subject(&data.issuer, &data.subject),
            tenant: tenant.map(Mark::tenant),
            portal: Mark::portal(&data.portal),
            idp_session: sid.map(|sid| Mark::new(MarkKind::IdpSession, &[&data.issuer, sid])),
        }
    }

    /// Those that end what began before them.
    pub fn timed(&self) -> impl Iterator<Item = &Mark> {
        [
            Some(&self.subject),
            self.tenant.as_ref(),
            Some(&self.portal),
            self.idp_session.as_ref(),
        ]
        .into_iter()
        .flatten()
    }
}

/// A dotted path into the claims; a claim whose own name holds the dots wins. The same rule as for tokens.
pub(super) fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let mut parts = path.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_object()?.get(part))
}

mod secret {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::types::Redacted;

    pub fn serialize<S: Serializer>(value: &Redacted<String>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(value.expose())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Redacted<String>, D::Error> {
        String::deserialize(from).map(Redacted::new)
    }
}

mod optional_secret {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::types::Redacted;

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
    fn a_handle_is_exactly_its_64_hex_digits() {
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
    fn no_two_revocations_share_a_mark() {
        let all = [
            Mark::subject("a", "bc"),
            Mark::subject("ab", "c"),
            Mark::subject("", "abc"),
            Mark::tenant("abc"),
            Mark::portal("abc"),
            Mark::new(MarkKind::IdpSession, &["a", "bc"]),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(all.iter().skip(n + 1).all(|other| other != one && other.hash != one.hash));
            assert_eq!(MarkKind::from_code(one.kind.code()), Some(one.kind));
        }
        assert_eq!(MarkKind::from_code(b'x'), None);
    }
}
