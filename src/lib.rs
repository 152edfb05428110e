//! cedargate: an authorization sidecar.
mod authn;
mod authz;
mod config;
mod denial;
mod json;
mod metrics;
mod portal;
mod types;
