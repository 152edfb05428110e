//! cedargate: an authorization sidecar.
mod authz;
mod config;
mod denial;
mod metrics;
mod portal;
mod types;
