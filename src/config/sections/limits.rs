//! `limits`: sizes, counts and times that bound what one client, one app and one process may use.

use std::num::NonZeroU32;
use std::time::Duration;

use cedargate_policy::scope::RoleLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::{ByteSize, Count, TimeSpan, Timeout};

/// The HTTP library needs this much to read the head of a message at all.
pub const HEADER_BYTES_MIN: u64 = 8 * 1024;

/// Headers of one message.
pub type HeaderCount = Count<16, 4096>;
/// The time in which requests of a rate are counted, at most an hour.
type RatePeriod = TimeSpan<1, 3_600_000>;

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Size of a request's head, 8KiB or more.
    pub header_bytes: ByteSize<HEADER_BYTES_MIN>,
    /// Headers of a request.
    pub header_count: HeaderCount,
    /// Size of a request's body on the proxy listener. Null: no limit.
    pub body_bytes: Option<ByteSize>,
    /// Open connections of the proxy listener.
    pub connections: Count<1, 1_000_000>,
    /// Open connections of the decision listener.
    pub decision_connections: Count<1, 1_000_000>,
    /// Open connections of the admin listener.
    pub admin_connections: Count<1, 10_000>,
    /// Open connections of the control socket.
    pub control_connections: Count<1, 10_000>,
    /// Open connections of one client address (IPv6: one /64); `trusted_proxies` are exempt. Null: no limit of its own.
    pub connections_per_address: Option<Count<1, 1_000_000>>,
    /// Requests being answered at once; more are shed with 503.
    pub requests: Count<1, 1_000_000>,
    /// Requests being answered at once on one HTTP/2 connection.
    pub streams: Count<1, 10_000>,
    /// Requests of one client address (IPv6: one /64). Null: no limit.
    pub rate_per_address: Option<RateLimit>,
    /// Requests of one principal in one portal. Null: no limit.
    pub rate_per_principal: Option<RateLimit>,
    /// Tries to log in to one local account, and from one client address (IPv6: one /64).
    pub rate_login: RateLimit,
    /// Requests in one `/authorize/batch`.
    pub batch: Count<1, 10_000>,
    /// Size of a body on the decision listener.
    pub decision_body_bytes: ByteSize<1>,
    /// Size of a body on the endpoints below `identity.prefix`.
    pub identity_body_bytes: ByteSize<1>,
    /// Size of the path and query to which a login or logout returns.
    pub return_bytes: ByteSize<256>,
    /// Logins of one browser within a minute that did not help; a further one is a loop.
    pub login_loop: Count<1, 98>,
    /// Sessions in the store that `auth/sessions` looks at to find those of one user.
    pub own_sessions: Count<1, 1_000_000>,
    /// Open streams of `permissions/events`.
    pub permission_streams: Count<1, 1_000_000>,
    /// Open streams of `permissions/events` of one caller at one portal.
    pub permission_streams_per_caller: Count<1, 10_000>,
    /// Longest time that a client takes to send a request's head or a body to an endpoint below `identity.prefix`, and
    /// the app to send the body of an `/authorize` request.
    pub header_timeout: Timeout,
    /// Time after which an idle keep-alive connection is closed.
    pub idle_timeout: Timeout,
    /// Longest time in which a client takes nothing of a response.
    pub send_timeout: Timeout,
    /// Longest silence of an answer to a client that has closed its sending side, as a client that left does, too.
    pub half_close_timeout: Timeout,
    /// Longest time in which the gate reads and drops what a refused client still sends, so that it sees its answer.
    pub linger_timeout: Timeout,
    /// Time in which such a client sends at least 1KiB.
    pub linger_idle_timeout: Timeout,
    /// Bytes that the gate reads and drops for it.
    pub linger_bytes: ByteSize,
    /// Longest silence of an upgraded connection (WebSocket) in both directions.
    pub tunnel_idle_timeout: Timeout,
    /// Size of a token.
    pub token_bytes: ByteSize<1>,
    /// Roles of one credential.
    pub roles: Count<1, 100_000>,
    /// Size of one role.
    pub role_bytes: ByteSize<1>,
    /// Verified tokens remembered per portal.
    pub token_cache: Count<1, 10_000_000>,
    /// DPoP proofs remembered, so that none counts twice; beyond it requests with a proof get 503.
    pub dpop_proofs: Count<1, 10_000_000>,
    /// Time after SIGTERM in which the gate still accepts connections, so that balancers see the readiness go first.
    pub drain_delay: TimeSpan,
    /// Time that in-flight requests have to finish after `drain_delay`.
    pub drain_timeout: TimeSpan,
    /// Threads that serve traffic. Null: one per core.
    pub workers: Option<Count<1, 1024>>,
}

/// The keys of one rate.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests in the time of `per`.
    #[schemars(required)]
    pub requests: Option<Count<1, 1_000_000>>,
    /// The time in which `requests` are counted, 1h at most.
    #[serde(default = "RatePeriod::seconds::<1>")]
    pub per: RatePeriod,
    /// Requests that may come at once. Absent: as many as `requests`.
    #[serde(default)]
    pub burst: Option<Count<1, 1_000_000>>,
}

/// At most `requests` in the time `per`, and at most `burst` at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    pub requests: NonZeroU32,
    pub per: Duration,
    pub burst: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: ByteSize::kib::<32>(),
            header_count: HeaderCount::of::<256>(),
            body_bytes: None,
            connections: Count::of::<10_000>(),
            decision_connections: Count::of::<1024>(),
            admin_connections: Count::of::<64>(),
            control_connections: Count::of::<16>(),
            connections_per_address: None,
            requests: Count::of::<10_000>(),
            streams: Count::of::<128>(),
            rate_per_address: None,
            rate_per_principal: None,
            rate_login: RateLimit {
                requests: Some(Count::of::<10>()),
                per: TimeSpan::seconds::<60>(),
                burst: None,
            },
            batch: Count::of::<200>(),
            decision_body_bytes: ByteSize::kib::<1024>(),
            identity_body_bytes: ByteSize::kib::<64>(),
            return_bytes: ByteSize::kib::<4>(),
            login_loop: Count::of::<3>(),
            own_sessions: Count::of::<20_000>(),
            permission_streams: Count::of::<1000>(),
            permission_streams_per_caller: Count::of::<8>(),
            header_timeout: Timeout::seconds::<10>(),
            idle_timeout: Timeout::seconds::<75>(),
            send_timeout: Timeout::seconds::<60>(),
            half_close_timeout: Timeout::seconds::<10>(),
            linger_timeout: Timeout::seconds::<30>(),
            linger_idle_timeout: Timeout::seconds::<5>(),
            linger_bytes: ByteSize::kib::<{ 64 * 1024 }>(),
            tunnel_idle_timeout: Timeout::seconds::<3600>(),
            token_bytes: ByteSize::kib::<16>(),
            roles: Count::of::<1000>(),
            role_bytes: ByteSize::kib::<1>(),
            token_cache: Count::of::<10_000>(),
            dpop_proofs: Count::of::<100_000>(),
            drain_delay: TimeSpan::seconds::<2>(),
            drain_timeout: TimeSpan::seconds::<30>(),
            workers: None,
        }
    }
}

impl Limits {
    /// The bounds on the roles of one credential.
    pub fn roles(&self) -> RoleLimits {
        RoleLimits {
            count: self.roles.as_usize(),
            bytes: self.role_bytes.as_usize(),
        }
    }

    /// The number of threads that serve traffic.
    pub fn workers(&self) -> usize {
        self.workers.map_or_else(
            || std::thread::available_parallelism().map_or(1, usize::from),
            Count::as_usize,
        )
    }
}

impl RateLimit {
    /// The rate. A configuration without `requests` is refused, so the 1 in its place is never used.
    pub fn rate(&self) -> Rate {
        let requests = self.requests.map_or(NonZeroU32::MIN, Count::as_non_zero);
        Rate {
            requests,
            per: self.per.get(),
            burst: self.burst.map_or(requests, Count::as_non_zero),
        }
    }
}
