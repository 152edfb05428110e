//! The other ways to the same decision, and the listener that shows how the gate is doing.
//!
//! A door translates: its wire form into a question, the answer back. It decides nothing and keeps nothing.

pub mod admin;
pub mod authorize;
pub mod control;
pub mod login;
