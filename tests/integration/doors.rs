//! The other doors to the same decision: proxies that ask, AuthZEN, Envoy's gRPC.

mod asking_proxies;
mod authzen;
mod door_questions;
mod front;
mod oauth2_proxy;
mod openapi_document;
