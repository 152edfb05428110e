//! Integration tests: one binary, so that it links once. Each module says what belongs in it.
//!
//! `support` starts the real gate in-process on free ports, with a recording app and a local issuer whose keys are
//! made for the test. Tests that need a process (signals, exit codes) run the built binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    clippy::result_large_err,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "a test that cannot go on must stop and say where"
)]

mod app_failures;
mod attacks;
mod bench_answers;
mod audit;
mod auth_token;
mod authorize;
mod both;
mod browser;
mod cedar_data;
mod chaos;
mod chromium;
mod cli;
mod connections;
mod control;
mod cors;
mod doubt;
mod failover;
mod forwarding;
mod frames;
mod http2;
mod identity_mapping;
mod interop;
mod introspection;
mod keys;
mod kubelet;
mod leaving;
mod limits;
mod login;
mod live;
mod login_pages;
mod login_rates;
mod login_tabs;
mod logout;
mod mistakes;
mod oidc;
mod path;
mod processes;
mod proxy_protocol;
mod readme;
mod redis;
mod refusals;
mod reload;
mod renewing;
mod revoking;
mod sessions;
mod slow_clients;
mod smuggling;
mod store;
mod support;
mod tls;
mod tokens;
mod upgrade;
mod upstream_protocols;
mod unusable_files;
mod users_cli;
mod wire;
