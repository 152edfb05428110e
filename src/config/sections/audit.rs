//! `audit`: where decision records go, which are written, how files are rotated and chained, and what happens when the
//! sink is slow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema as schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::check::Checker;
use crate::config::suggestion::hint;
use crate::config::values::{ByteSize, Count, TimeSpan, parse_span, span_text};

const HOUR_MS: u64 = 60 * 60 * 1000;
const YEAR_MS: u64 = 366 * 24 * HOUR_MS;
/// Bytes of a replica's name.
const REPLICA_BYTES_MAX: usize = 253;

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// The destination of records: `stdout`, or `{ file: path }`.
    pub sink: AuditSink,
    /// Recording of allowed decisions: `all`, `none`, or rates. Denied ones are always recorded.
    pub allow: AuditAllow,
    /// Dotted paths of the record that are masked.
    pub mask: Vec<String>,
    /// The reaction when the queue is full or the sink cannot write: drop and count, or deny.
    pub on_full: OnFull,
    /// Records that may wait for the sink.
    pub queue: Count<1, 1_000_000>,
    /// Most bytes of the entities that an app describes in one query and that its record keeps.
    pub supplied_bytes: ByteSize<0>,
    /// Bytes of the newest records that the gate keeps in memory, to explain decisions over the control socket. 0:
    /// none.
    pub recent_bytes: ByteSize<0>,
    /// A hash chain through the records, with signed checkpoints. Absent: none.
    pub chain: Option<AuditChain>,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AuditSink {
    Word(SinkWord),
    File(FileSink),
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkWord {
    /// Standard output.
    Stdout,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileSink {
    /// The file to append to.
    pub file: PathBuf,
    /// Rotation of the file by the gate. Absent: the file grows, or another program rotates it.
    #[serde(default)]
    pub rotate: Option<Rotate>,
    /// When written records are forced to the disk: `never` (the kernel decides), a time span such as `1s`, or
    /// `always`.
    #[serde(default)]
    pub fsync: Fsync,
}

/// At least one of `bytes` and `interval` is given.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rotate {
    /// Size at which the file is rotated. Null: not by size.
    pub bytes: Option<ByteSize<4096>>,
    /// Time after which the file is rotated, in steps from midnight UTC. Null: not by time.
    pub interval: Option<TimeSpan<1000, YEAR_MS>>,
    /// Rotated files that are kept; older ones are deleted. Null: all.
    pub keep: Option<Count<1, 100_000>>,
    /// Compression of rotated files.
    pub compress: Compress,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compress {
    #[default]
    None,
    /// By a background thread, after the rotation.
    Gzip,
}

/// When written records are forced to the disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Fsync {
    /// When the kernel writes them back.
    #[default]
    Never,
    /// This long after they were written, at most.
    Interval(Duration),
    /// After every batch of records.
    Always,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AuditAllow {
    Word(AllowWord),
    Rates(AllowRates),
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AllowWord {
    All,
    None,
}

/// The rate of a route wins over that of its portal, and that over the default.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AllowRates {
    /// Part of all allowed decisions that is recorded, from 0 to 1.
    pub default: Share,
    /// The same for single portals, by slug.
    pub portals: BTreeMap<String, Share>,
    /// The same for single routes of `portal.yaml`.
    pub routes: Vec<RouteRate>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRate {
    /// Slug of the portal.
    pub portal: String,
    /// The route as `portal.yaml` writes it, `GET /portal/customer/orders/{order}`; without a method it holds for all
    /// methods.
    pub route: String,
    /// Part of its allowed decisions that is recorded, from 0 to 1.
    pub rate: Share,
}

/// A part of a whole, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share(f64);

#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    Drop,
    Deny,
}

#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuditChain {
    /// PKCS#8 PEM of an Ed25519 key that signs checkpoints; read at start.
    pub key_file: PathBuf,
    /// Records after which a checkpoint is written.
    #[serde(default = "default_chain_records")]
    pub records: Count<1, 1_000_000>,
    /// Longest time that a written record waits for its checkpoint.
    #[serde(default = "default_chain_interval")]
    pub interval: TimeSpan<100, HOUR_MS>,
    /// The replica's name in checkpoints. Absent: the host's name.
    #[serde(default)]
    pub replica: Option<String>,
}

const fn default_chain_records() -> Count<1, 1_000_000> {
    Count::of::<1000>()
}

const fn default_chain_interval() -> TimeSpan<100, HOUR_MS> {
    TimeSpan::seconds::<10>()
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            sink: AuditSink::Word(SinkWord::Stdout),
            allow: AuditAllow::Word(AllowWord::All),
            mask: vec!["context.headers".to_owned()],
            on_full: OnFull::Drop,
            queue: Count::of::<8192>(),
            supplied_bytes: ByteSize::kib::<8>(),
            recent_bytes: ByteSize::kib::<1024>(),
            chain: None,
        }
    }
}

impl AuditSink {
    /// The file, if the sink is one.
    pub const fn file(&self) -> Option<&FileSink> {
        match self {
            Self::Word(SinkWord::Stdout) => None,
            Self::File(file) => Some(file),
        }
    }
}

impl FileSink {
    /// A file that the gate neither rotates nor forces to the disk.
    pub fn plain(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            rotate: None,
            fsync: Fsync::Never,
        }
    }
}

impl Share {
    pub const ALL: Self = Self(1.0);
    pub const NONE: Self = Self(0.0);

    /// `None`: not from 0 to 1.
    pub fn new(rate: f64) -> Option<Self> {
        (0.0..=1.0).contains(&rate).then_some(Self(rate))
    }

    pub const fn get(self) -> f64 {
        self.0
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::ALL
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rate = f64::deserialize(deserializer)?;
        Self::new(rate).ok_or_else(|| D::Error::custom(format!("`{rate}` is not between 0 and 1")))
    }
}

impl JsonSchema for Share {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}

impl Fsync {
    /// Reads `never`, `always` or a time span above zero.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self::Never),
            "always" => Ok(Self::Always),
            span => match parse_span(span) {
                Ok(span) if !span.is_zero() => Ok(Self::Interval(span)),
                _ => Err(format!("`{text}` is not `never`, `always` or a duration such as `1s`")),
            },
        }
    }
}

impl<'de> Deserialize<'de> for Fsync {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Serialize for Fsync {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Never => serializer.serialize_str("never"),
            Self::Interval(span) => serializer.serialize_str(&span_text(*span)),
            Self::Always => serializer.serialize_str("always"),
        }
    }
}

impl JsonSchema for Fsync {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Fsync".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema!({ "type": "string", "format": "fsync", "examples": ["never", "1s", "always"] })
    }
}

impl Checker<'_> {
    /// `slugs`: the configured portals; `None`: every folder of the policies is one.
    pub fn audit(&mut self, mut audit: Audit, slugs: Option<&[&str]>) -> Audit {
        for (n, path) in audit.mask.iter().enumerate() {
            if path.split('.').any(str::is_empty) {
                let message = format!("`{path}` is not a dotted path such as `context.headers`");
                self.error(&format!("audit.mask[{n}]"), message);
            }
        }
        if let AuditSink::File(sink) = &mut audit.sink {
            sink.file = self.path("audit.sink.file", &sink.file);
            let never = |rotate: &Rotate| rotate.bytes.is_none() && rotate.interval.is_none();
            if sink.rotate.as_ref().is_some_and(never) {
                self.error("audit.sink.rotate", "never rotates; give `bytes`, `interval` or both");
            }
        }
        if let Some(chain) = &mut audit.chain {
            self.audit_chain(chain);
        }
        if let AuditAllow::Rates(rates) = &audit.allow {
            self.audit_rates(rates, slugs);
        }
        audit
    }

    fn audit_chain(&mut self, chain: &mut AuditChain) {
        chain.key_file = self.path("audit.chain.key_file", Path::new(&chain.key_file));
        if let Some(replica) = &chain.replica {
            self.not_blank("audit.chain.replica", replica);
            if replica.len() > REPLICA_BYTES_MAX || replica.chars().any(char::is_control) {
                let message = format!("is not a name; use at most {REPLICA_BYTES_MAX} bytes without control characters");
                self.error("audit.chain.replica", message);
            }
        }
    }

    fn audit_rates(&mut self, rates: &AllowRates, slugs: Option<&[&str]>) {
        let unknown = |slug: &str| {
            let slugs = slugs?;
            (!slugs.contains(&slug)).then(|| format!("there is no portal `{slug}`; {}", hint(slug, slugs)))
        };
        for slug in rates.portals.keys() {
            if let Some(message) = unknown(slug) {
                self.error(&format!("audit.allow.portals.{slug}"), message);
            }
        }
        let mut seen = BTreeSet::new();
        for (n, RouteRate { portal, route, .. }) in rates.routes.iter().enumerate() {
            let key = format!("audit.allow.routes[{n}]");
            if let Some(message) = unknown(portal) {
                self.error(&format!("{key}.portal"), message);
            }
            let path = route.split_once(' ').map_or(route.as_str(), |(_, path)| path);
            if !path.starts_with('/') || path.contains(' ') {
                let message = format!("`{route}` is not a route such as `GET /portal/customer/orders/{{order}}`");
                self.error(&format!("{key}.route"), message);
            }
            if !seen.insert((portal, route)) {
                self.error(&key, format!("`{route}` has a rate already; remove one"));
            }
        }
    }
}
