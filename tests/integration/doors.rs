//! The other doors to the same decision: proxies that ask, AuthZEN, Envoy's gRPC.

mod asking_proxies;
mod authzen;
mod authzen_conformance;
mod authzen_records;
mod door_questions;
mod envoy_under_load;
mod front;
mod hostile_requests;
mod kept_connections;
mod oauth2_proxy;
mod openapi_document;
mod path_options;
