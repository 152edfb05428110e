//! cedargate: an authorization sidecar.
mod answer;
mod audit;
mod authn;
mod authz;
mod config;
mod denial;
mod json;
mod lifecycle;
mod listener;
mod metrics;
mod portal;
mod request;
mod revision;
mod telemetry;
mod types;
mod upstream;
