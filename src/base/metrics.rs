//! Every metric that the gate publishes, named once.
//!
//! Labels are bounded: portals come from the configuration, all other values from closed sets; never a user, a path or
//! policy text. Callers resolve a metric's handle once and keep it, so that counting on the path of a request is one
//! atomic add.

use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// A decision: 5 µs to 10 ms.
const DECISION_BUCKETS: &[f64] = &[
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01,
];
/// A whole request: 50 µs to 60 s.
const REQUEST_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

/// One or several round trips to the session store: 100 µs to 5 s.
const STORE_BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// The registry and every metric in it.
#[derive(Clone)]
pub struct Metrics {
    pub registry: Registry,
    pub http_requests: IntCounterVec,
    pub http_request_duration: HistogramVec,
    pub http_rejected: IntCounterVec,
    pub gate_duration: HistogramVec,
    pub decisions: IntCounterVec,
    pub decision_duration: HistogramVec,
    pub policy_evaluation_errors: IntCounterVec,
    pub shadow: ShadowMetrics,
    pub reload: IntCounterVec,
    pub reload_last_success: GaugeVec,
    pub reload_last_successful: IntGaugeVec,
    pub revision_info: IntGaugeVec,
    pub token_validations: IntCounterVec,
    pub token_exchanges: IntCounterVec,
    pub jwks_refresh: IntCounterVec,
    pub jwks_age: GaugeVec,
    pub logins: IntCounterVec,
    pub permissions: PermissionMetrics,
    pub users_reload: IntCounterVec,
    pub audit_events: IntCounterVec,
    pub audit_dropped: IntCounterVec,
    pub audit_errors: IntCounterVec,
    pub upstream_errors: IntCounterVec,
    pub tls: TlsMetrics,
    pub bundle: BundleMetrics,
    pub live_cut: IntCounterVec,
    pub assertion_keys: IntCounterVec,
    pub sessions: SessionMetrics,
    pub connections: IntGauge,
    pub panics: IntCounter,
    pub draining: IntGauge,
    pub restart_required: IntGauge,
    pub app_reachable_around_gate: IntGauge,
    pub build_info: IntGaugeVec,
}

/// Metrics of the listeners' certificates.
#[derive(Clone)]
pub struct TlsMetrics {
    pub reload: IntCounterVec,
    pub certificate_expiry: IntGaugeVec,
}

/// Metrics of candidate sets.
#[derive(Clone)]
pub struct ShadowMetrics {
    pub disagreements: IntCounterVec,
    pub decisions: IntCounterVec,
    pub active: IntGaugeVec,
}

/// Metrics of the endpoint `permissions`.
#[derive(Clone)]
pub struct PermissionMetrics {
    pub snapshots: IntCounterVec,
    pub streams: IntGauge,
}

/// Metrics of the policy bundle.
#[derive(Clone)]
pub struct BundleMetrics {
    pub refresh: IntCounterVec,
    pub sequence: IntGauge,
    pub last_success: Gauge,
}

/// Metrics of the session store.
#[derive(Clone)]
pub struct SessionMetrics {
    pub operations: IntCounterVec,
    pub duration: HistogramVec,
    pub feed_age: Gauge,
}

impl Metrics {
    /// Registers every metric; fails only if two of them share a name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        let metrics = Self {
            http_requests: counters(
                r,
                "http_requests_total",
                "Requests answered.",
                &["portal", "method", "status_class"],
            )?,
            http_request_duration: Self::http_request_duration(r)?,
            http_rejected: counters(r, "http_rejected_total", "Requests that were not valid HTTP.", &["reason"])?,
            gate_duration: Self::gate_duration(r)?,
            decisions: counters(r, "decisions_total", "Decisions.", &["portal", "door", "decision", "reason"])?,
            decision_duration: Self::decision_duration(r)?,
            policy_evaluation_errors: counters(
                r,
                "policy_evaluation_errors_total",
                "Policies that failed to evaluate.",
                &["portal"],
            )?,
            shadow: Self::shadow(r)?,
            reload: counters(r, "reload_total", "Candidate revisions, by outcome.", &["portal", "result"])?,
            reload_last_success: gauges(
                r,
                "reload_last_success_timestamp_seconds",
                "When the active revision was loaded.",
                &["portal"],
            )?,
            reload_last_successful: Self::reload_last_successful(r)?,
            revision_info: int_gauges(r, "revision_info", "The active revision.", &["portal", "revision"])?,
            token_exchanges: counters(r, "token_exchanges_total", "Tokens for the app.", &["issuer", "result"])?,
            token_validations: counters(r, "token_validations_total", "Tokens checked.", &["issuer", "result"])?,
            jwks_refresh: counters(r, "jwks_refresh_total", "Fetches of an issuer's keys.", &["issuer", "result"])?,
            jwks_age: gauges(r, "jwks_age_seconds", "Age of an issuer's keys.", &["issuer"])?,
            permissions: Self::permissions(r)?,
            logins: counters(r, "logins_total", "Finished logins.", &["provider", "result"])?,
            users_reload: counters(
                r,
                "users_reload_total",
                "Changed users files, by outcome.",
                &["provider", "result"],
            )?,
            audit_events: counters(r, "audit_events_total", "Audit records written.", &["sink"])?,
            audit_dropped: counters(r, "audit_dropped_total", "Audit records lost.", &["sink"])?,
            audit_errors: counters(r, "audit_errors_total", "Failures of the audit sink.", &["operation"])?,
            upstream_errors: counters(
                r,
                "upstream_errors_total",
                "Failures of the app behind the gate.",
                &["reason"],
            )?,
            tls: Self::tls(r)?,
            bundle: Self::bundle(r)?,
            live_cut: Self::live_cut(r)?,
            assertion_keys: Self::assertion_keys(r)?,
            sessions: Self::sessions(r)?,
            connections: int_gauge(r, "connections", "Open client connections.")?,
            panics: counter(r, "panics_total", "Requests that ended in a panic.")?,
            draining: int_gauge(r, "draining", "1 while shutting down.")?,
            restart_required: int_gauge(r, "restart_required", "1 when cedargate.yaml changed since start.")?,
            app_reachable_around_gate: int_gauge(r, "app_reachable_around_gate", "1 while the app answers around the gate.")?,
            build_info: int_gauges(r, "build_info", "Version of the running gate.", &["version"])?,
            registry,
        };
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(metrics)
    }

    fn http_request_duration(r: &Registry) -> Result<HistogramVec, prometheus::Error> {
        histograms(
            r,
            "http_request_duration_seconds",
            "From request head to response head.",
            &["portal"],
            REQUEST_BUCKETS,
        )
    }

    fn gate_duration(r: &Registry) -> Result<HistogramVec, prometheus::Error> {
        histograms(
            r,
            "gate_duration_seconds",
            "Time the gate itself added to a request.",
            &["portal"],
            DECISION_BUCKETS,
        )
    }

    fn decision_duration(r: &Registry) -> Result<HistogramVec, prometheus::Error> {
        histograms(
            r,
            "decision_duration_seconds",
            "Time to decide, identity known.",
            &["portal", "door"],
            DECISION_BUCKETS,
        )
    }

    fn reload_last_successful(r: &Registry) -> Result<IntGaugeVec, prometheus::Error> {
        int_gauges(
            r,
            "reload_last_successful",
            "1 if the newest candidate was taken up, 0 if it was rejected.",
            &["portal"],
        )
    }

    fn permissions(r: &Registry) -> Result<PermissionMetrics, prometheus::Error> {
        Ok(PermissionMetrics {
            snapshots: counters(
                r,
                "permission_snapshots_total",
                "Answers about a caller's permissions, by where they came from.",
                &["portal", "result"],
            )?,
            streams: int_gauge(r, "permission_streams", "Open streams of changed permissions.")?,
        })
    }

    fn shadow(r: &Registry) -> Result<ShadowMetrics, prometheus::Error> {
        Ok(ShadowMetrics {
            disagreements: counters(
                r,
                "shadow_disagreements_total",
                "Decisions that the candidate set decides otherwise.",
                &["portal", "enforced", "shadow"],
            )?,
            decisions: counters(
                r,
                "shadow_decisions_total",
                "Decisions of portals with a candidate set.",
                &["portal", "result"],
            )?,
            active: int_gauges(
                r,
                "shadow_active",
                "1 if the candidate set is evaluated, 0 if it was rejected.",
                &["portal"],
            )?,
        })
    }

    fn live_cut(r: &Registry) -> Result<IntCounterVec, prometheus::Error> {
        counters(
            r,
            "live_connections_cut_total",
            "Tunnels and streaming answers that were closed.",
            &["reason"],
        )
    }

    fn assertion_keys(r: &Registry) -> Result<IntCounterVec, prometheus::Error> {
        counters(
            r,
            "assertion_keys_reload_total",
            "Changed assertion keys, by outcome.",
            &["result"],
        )
    }

    fn tls(r: &Registry) -> Result<TlsMetrics, prometheus::Error> {
        Ok(TlsMetrics {
            reload: counters(
                r,
                "tls_reload_total",
                "Changed certificate files, by outcome.",
                &["listener", "result"],
            )?,
            certificate_expiry: int_gauges(
                r,
                "tls_certificate_expiry_timestamp_seconds",
                "When a listener's certificate expires.",
                &["listener"],
            )?,
        })
    }

    fn bundle(r: &Registry) -> Result<BundleMetrics, prometheus::Error> {
        Ok(BundleMetrics {
            refresh: counters(
                r,
                "bundle_refresh_total",
                "Attempts to refresh the policy bundle, by outcome.",
                &["result"],
            )?,
            sequence: int_gauge(r, "bundle_sequence", "Sequence number of the policy bundle in use.")?,
            last_success: gauge(
                r,
                "bundle_last_success_timestamp_seconds",
                "When the server last confirmed or sent the policy bundle in use.",
            )?,
        })
    }

    fn sessions(r: &Registry) -> Result<SessionMetrics, prometheus::Error> {
        let labels = &["op", "result"];
        Ok(SessionMetrics {
            operations: counters(r, "session_operations_total", "Operations on the session store.", labels)?,
            duration: histograms(
                r,
                "session_operation_duration_seconds",
                "Time an operation on the session store took.",
                &["op"],
                STORE_BUCKETS,
            )?,
            feed_age: gauge(
                r,
                "session_feed_age_seconds",
                "Age of the last complete read of the revocation log.",
            )?,
        })
    }

    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("cedargate")
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    let metric = IntCounterVec::new(opts(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let metric = IntCounter::with_opts(opts(name, help))?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    let metric = Gauge::with_opts(opts(name, help))?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
    let metric = GaugeVec::new(opts(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn int_gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    let metric = IntGaugeVec::new(opts(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn int_gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let metric = IntGauge::with_opts(opts(name, help))?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::new(name, help)
        .namespace("cedargate")
        .buckets(buckets.to_vec());
    let metric = HistogramVec::new(options, labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
