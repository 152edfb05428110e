//! Session cookies: requests with them, renewal, revocation, the store and its failures, live connections.

mod live_connections;
mod many_streams;
mod own_sessions;
mod permissions;
mod renewals;
mod revocations;
mod sentinel_failover;
mod session_requests;
mod session_store;
mod skewed_clocks;
mod store_faults;
mod workbench_sessions;
