//! The parts that speak HTTP: from a client's socket to the gate, and from the gate to the app.
//!
//! `listener` and `tls` accept connections, `client_certificate` is what they know of a client's certificate, `request`
//! checks each head, `upstream` forwards requests that have a permit, `answer` and `pages` render the gate's own
//! answers. Nothing here decides; `gate` and `doors` do.

pub mod answer;
pub mod client_certificate;
pub mod credentials;
pub mod listener;
pub mod pages;
pub mod request;
pub mod target;
pub mod tls;
pub mod upstream;
