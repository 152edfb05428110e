//! Integration tests: one binary, so that it links once.
//!
//! - `support`: the harness; no tests but those of the harness itself
//! - `http`: requests and answers on the wire, TLS, upgrades, limits, the connection to the app
//! - `tokens`: bearer tokens, issuers' keys, introspection, minted tokens
//! - `policy`: decisions, contexts, `POST /authorize`, loading and reloading of policies
//! - `sessions`: session cookies, renewal, revocation, the store, live connections
//! - `login`: logging in and out, at OpenID providers and with local accounts
//! - `operations`: decision log, metrics, control socket, draining
//! - `doors`: proxies that ask, AuthZEN, Envoy
//! - `cli`: the built binary, its messages, the README

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

mod cli;
mod doors;
mod http;
mod login;
mod operations;
mod policy;
mod sessions;
mod support;
mod tokens;
