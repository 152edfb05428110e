//! The harness: the real gate in process, the app behind it, issuers, clients, Redis and OpenID providers.
//!
//! Every test starts what it needs and stops it at its end. `Gate::send` checks every response; waiting is done by
//! `eventually`, never by a bare sleep.

mod app;
pub mod binary;
pub mod certificates;
pub mod envoy_call;
pub mod chromium;
mod client;
pub mod file_server;
mod gate;
pub mod http2_client;
pub mod http2_frames;
mod issuer;
pub mod kubelet;
pub mod login_gate;
mod open_portal;
pub mod openid;
pub mod processes;
mod raw_connection;
pub mod record_schema;
pub mod redis;
pub mod registry;
pub mod scripted_provider;
mod scripted_server;
pub mod session_client;
pub mod signer;
pub mod tools;
pub mod tls_client;
pub mod token_cases;
mod wait;

pub use self::app::{App, IDENTITY_HEADERS, Seen};
pub use self::client::{Answer, exchange, parse, raw};
pub use self::gate::{Gate, Setup, put};
pub use self::issuer::{ISSUER, Issuer, claims, now};
pub use self::open_portal::{OPEN_POLICY, OPEN_SCHEMA, PAGE, open_portal};
pub use self::raw_connection::RawConnection;
pub use self::scripted_server::{ScriptedServer, response};
pub use self::signer::{Signer, b64, unb64};
pub use self::wait::{eventually, holds_eventually, once_started, patience};
