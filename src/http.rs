//! The parts that speak HTTP: from a client's socket to the gate, and from the gate to the app.
//!
//! `listener` and `tls` accept connections, `request` checks each head, `upstream` forwards what has a permit, `answer` and
//! `pages` render what the gate says itself. Nothing here decides; `gate` and `doors` do.

pub mod answer;
pub mod listener;
pub mod pages;
pub mod request;
pub mod tls;
pub mod upstream;
