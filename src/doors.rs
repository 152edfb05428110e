//! The other listeners and endpoints of the gate: queries by the app, logins, administration.
//!
//! A door that decides translates its wire form into a query for the one decision function, and the decision back. It
//! has no rule of its own and stores no state of a request.

pub mod admin;
pub mod authorize;
pub mod authzen;
pub mod control;
pub mod decision_listener;
pub mod ext_authz;
pub mod forward_auth;
pub mod login;
