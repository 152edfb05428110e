//! `policies.bundle`: policies from a signed bundle that the gate fetches, in place of folders.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::egress::Egress;
use crate::config::Secret;
use crate::config::check::{Checker, is_loopback};
use crate::config::values::{ByteSize, SecretText, TimeSpan, Timeout};

/// Bytes of the largest bundle that any gate or command reads.
pub const BUNDLE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const SECTION: &str = "policies.bundle";
/// Characters of a repository's name and of a tag, as the distribution specification bounds them.
const REPOSITORY_CHARS_MAX: usize = 255;
const TAG_CHARS_MAX: usize = 128;

/// The keys of `policies.bundle`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBundle {
    /// Where the bundle is: `https://files.example.com/shop.tar.gz`, or
    /// `oci://registry.example.com/policies/shop:prod`.
    pub url: Option<String>,
    /// Files with the public keys (PEM) of which one must have signed the bundle; read again for each bundle.
    pub keys: Vec<PathBuf>,
    /// The name that the bundle must have (`bundle build --name`). Absent: any.
    pub name: Option<String>,
    /// The least sequence number that the gate takes, also with an empty `policies.state_dir`.
    pub sequence_min: u64,
    /// Interval at which the gate asks for a new bundle.
    pub poll: TimeSpan<1000>,
    /// Time for one attempt, the download included.
    pub timeout: Timeout,
    /// Largest bundle that the gate downloads.
    pub bytes_max: ByteSize<1024>,
    /// PEM file of the only authorities that the gate trusts for the download. Absent: those of the system.
    pub ca_file: Option<PathBuf>,
    /// HTTP proxy for the download, such as `http://proxy.example.com:3128`.
    pub proxy: Option<String>,
    /// User of the server or registry.
    pub user: Option<String>,
    /// The user's password. Better kept in `password_file`.
    #[schemars(extend("writeOnly" = true))]
    pub password: Option<SecretText>,
    /// The same as a file; read at each attempt.
    pub password_file: Option<PathBuf>,
    /// A bearer token, in place of user and password.
    #[schemars(extend("writeOnly" = true))]
    pub token: Option<SecretText>,
    /// The same as a file; read at each attempt.
    pub token_file: Option<PathBuf>,
    /// Take bundles without a signature. The server, and every attacker who can write there, then decides what is
    /// permitted.
    pub danger_unsigned: bool,
    /// Take a bundle with a lower sequence number than the last one, or with other content under the same number.
    pub danger_allow_rollback: bool,
    /// Allow a `url` without TLS to any host. Passwords and tokens can then be read on the way.
    pub danger_insecure_url: bool,
}

/// The bundle that the gate follows.
#[derive(Clone, Debug)]
pub struct Bundle {
    pub source: BundleSource,
    pub keys: BundleKeys,
    pub name: Option<String>,
    pub sequence_min: u64,
    pub rollback: Rollback,
    pub poll: Duration,
    pub timeout: Duration,
    pub bytes_max: u64,
    pub egress: Egress,
    pub credential: Option<BundleCredential>,
    pub transport: BundleTransport,
    /// `policies.state_dir`.
    pub state_dir: PathBuf,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BundleSource {
    Http(Url),
    Oci(OciReference),
}

/// An artefact of a registry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OciReference {
    /// `https://registry.example.com`, without a trailing slash.
    pub origin: String,
    pub repository: String,
    /// A tag, or `sha256:…`.
    pub reference: String,
}

#[derive(Clone, Debug)]
pub enum BundleKeys {
    Files(Vec<PathBuf>),
    /// `danger_unsigned`
    DangerUnsigned,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rollback {
    Refused,
    /// `danger_allow_rollback`
    DangerAllowed,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BundleTransport {
    /// Https, or http to this machine.
    Secure,
    /// `danger_insecure_url`: http to any host.
    DangerPlain,
}

#[derive(Clone, Debug)]
pub enum BundleCredential {
    Password { user: String, password: Secret },
    Token(Secret),
}

impl Default for RawBundle {
    fn default() -> Self {
        Self {
            url: None,
            keys: Vec::new(),
            name: None,
            sequence_min: 1,
            poll: TimeSpan::seconds::<30>(),
            timeout: Timeout::seconds::<30>(),
            bytes_max: ByteSize::kib::<16_384>(),
            ca_file: None,
            proxy: None,
            user: None,
            password: None,
            password_file: None,
            token: None,
            token_file: None,
            danger_unsigned: false,
            danger_allow_rollback: false,
            danger_insecure_url: false,
        }
    }
}

impl BundleTransport {
    /// True if the gate may ask this URL. Also holds for the targets of redirects and for a registry's token service.
    pub fn allows(self, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => self == Self::DangerPlain || is_loopback(url),
            _ => false,
        }
    }
}

impl Checker<'_> {
    /// `None` if a mistake was reported.
    pub fn bundle(&mut self, raw: &RawBundle, state_dir: Option<&Path>) -> Option<Bundle> {
        for key in ["policies.dir", "policies.schemas"] {
            if self.tree.at(key).is_some() {
                let message = format!("`{SECTION}` is given, too, and the policies come from one place; keep one of them");
                self.error(key, message);
            }
        }
        let state_dir = self.optional_path("policies.state_dir", state_dir);
        if state_dir.is_none() {
            let message = format!(
                "is missing beside `{SECTION}`; name a folder that outlives a restart: the gate keeps the last bundle there, and remembers its \
                 sequence number"
            );
            self.error("policies.state_dir", message);
        }
        if raw.bytes_max.get() > BUNDLE_BYTES_MAX {
            let message = format!("is more than {BUNDLE_BYTES_MAX}, the most that a bundle can have");
            self.error(&format!("{SECTION}.bytes_max"), message);
        }
        let transport = if raw.danger_insecure_url {
            BundleTransport::DangerPlain
        } else {
            BundleTransport::Secure
        };
        let source = self.bundle_source(raw, transport);
        let keys = self.bundle_keys(raw);
        let egress = self.egress(SECTION, raw.ca_file.as_deref(), raw.proxy.as_deref());
        let credential = self.bundle_credential(raw);
        Some(Bundle {
            source: source?,
            keys: keys?,
            name: raw.name.clone(),
            sequence_min: raw.sequence_min,
            rollback: if raw.danger_allow_rollback {
                Rollback::DangerAllowed
            } else {
                Rollback::Refused
            },
            poll: raw.poll.get(),
            timeout: raw.timeout.get(),
            bytes_max: raw.bytes_max.get(),
            egress: egress?,
            credential: credential?,
            transport,
            state_dir: state_dir?,
        })
    }

    fn bundle_source(&mut self, raw: &RawBundle, transport: BundleTransport) -> Option<BundleSource> {
        let key = format!("{SECTION}.url");
        let Some(text) = raw.url.as_deref() else {
            if !self.has_error_under(&key) {
                self.error(
                    &key,
                    "is missing; write `https://…` for a file, or `oci://registry/repository:tag`",
                );
            }
            return None;
        };
        if let Some(rest) = text.strip_prefix("oci://") {
            return self.oci(&key, &format!("https://{rest}"), transport).map(BundleSource::Oci);
        }
        if let Some(rest) = text.strip_prefix("oci+http://") {
            return self.oci(&key, &format!("http://{rest}"), transport).map(BundleSource::Oci);
        }
        let url = self.parse_url(&key, text)?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || url.fragment().is_some() {
            let message = "is not the URL of a bundle; write `https://…` for a file, or `oci://registry/repository:tag`";
            self.error(&key, message);
            return None;
        }
        self.is_allowed(&key, &url, transport).then_some(BundleSource::Http(url))
    }

    fn is_allowed(&mut self, key: &str, url: &Url, transport: BundleTransport) -> bool {
        let is_allowed = transport.allows(url);
        if !is_allowed {
            let message = "is not https, so that an attacker on the network could hold new bundles back, and read the credential; \
                           use https, a loopback host, or set `danger_insecure_url: true`";
            self.error(key, message);
        }
        is_allowed
    }

    fn oci(&mut self, key: &str, text: &str, transport: BundleTransport) -> Option<OciReference> {
        let refuse = |checker: &mut Self| {
            let message = "is not the reference of an artefact; write `oci://registry/repository:tag` or `oci://registry/repository@sha256:…`";
            checker.error(key, message);
            None
        };
        // `@` of a digest would read as the end of a user name
        let (at, digest) = match text.split_once('@') {
            Some((at, digest)) => (at, Some(digest)),
            None => (text, None),
        };
        let url = self.parse_url(key, at)?;
        let path = url.path().trim_start_matches('/');
        let (repository, reference) = match digest {
            Some(digest) => (path, digest),
            None => path.rsplit_once(':').unwrap_or((path, "")),
        };
        // the parser resolves `..`
        let written = at
            .split_once("://")
            .and_then(|(_, rest)| rest.find('/').and_then(|slash| rest.get(slash..)));
        let is_as_written = written.is_none_or(|written| written == url.path());
        if url.host().is_none() || url.query().is_some() || url.fragment().is_some() || !is_as_written {
            return refuse(self);
        }
        let is_reference = if digest.is_some() {
            is_digest(reference)
        } else {
            is_tag(reference)
        };
        if !is_repository(repository) || !is_reference {
            return refuse(self);
        }
        let reference = OciReference {
            origin: url.origin().ascii_serialization(),
            repository: repository.to_owned(),
            reference: reference.to_owned(),
        };
        self.is_allowed(key, &url, transport).then_some(reference)
    }

    fn bundle_keys(&mut self, raw: &RawBundle) -> Option<BundleKeys> {
        let key = format!("{SECTION}.keys");
        match (raw.keys.is_empty(), raw.danger_unsigned) {
            (true, true) => Some(BundleKeys::DangerUnsigned),
            (true, false) => {
                let message = "is missing: name the file with the public key of which the bundle must have a signature; \
                               `cedargate bundle keygen` makes a pair";
                self.error(&key, message);
                None
            }
            (false, true) => {
                let message = format!("has no effect beside `{key}`; remove it, and signatures are required");
                self.error(&format!("{SECTION}.danger_unsigned"), message);
                None
            }
            (false, false) => {
                let files = raw.keys.iter().enumerate();
                let files: Vec<PathBuf> = files.map(|(n, file)| self.path(&format!("{key}[{n}]"), file)).collect();
                Some(BundleKeys::Files(files))
            }
        }
    }

    /// `None` if a mistake was reported.
    fn bundle_credential(&mut self, raw: &RawBundle) -> Option<Option<BundleCredential>> {
        let password = self.secret(
            &format!("{SECTION}.password"),
            raw.password.as_ref(),
            raw.password_file.as_deref(),
        )?;
        let token = self.secret(&format!("{SECTION}.token"), raw.token.as_ref(), raw.token_file.as_deref())?;
        match (&raw.user, password, token) {
            (None, None, None) => Some(None),
            (None, None, Some(token)) => Some(Some(BundleCredential::Token(token))),
            (Some(user), Some(password), None) if !user.contains(':') => Some(Some(BundleCredential::Password {
                user: user.clone(),
                password,
            })),
            _ => {
                let message = "does not fit: give `user` (without `:`) and `password_file`, or `token_file` alone";
                self.error(&format!("{SECTION}.user"), message);
                None
            }
        }
    }
}

/// Lower-case parts between slashes.
fn is_repository(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let is_part = |part: &str| {
        let ends = [part.bytes().next(), part.bytes().next_back()];
        part.bytes().all(fits) && ends.iter().flatten().count() == 2 && ends.iter().flatten().all(u8::is_ascii_alphanumeric)
    };
    text.len() <= REPOSITORY_CHARS_MAX && text.split('/').all(is_part)
}

fn is_tag(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=TAG_CHARS_MAX).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with(['.', '-'])
}

fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
