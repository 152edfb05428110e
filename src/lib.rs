//! cedargate: an authorization sidecar.
mod answer;
pub mod app;
mod audit;
mod authn;
mod authz;
#[doc(hidden)]
pub mod bench;
pub mod cli;
mod config;
mod denial;
mod doors;
mod gate;
mod json;
mod lifecycle;
mod listener;
mod metrics;
mod portal;
mod reload;
mod request;
mod revision;
mod serving;
mod telemetry;
mod types;
mod upstream;
