//! cedargate: an authorization sidecar.
mod answer;
mod audit;
mod authz;
mod config;
mod denial;
mod lifecycle;
mod listener;
mod metrics;
mod request;
mod telemetry;
mod types;
mod upstream;
