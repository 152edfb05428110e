//! Running a gate: the decision log and metrics, the control socket, draining, probes of the app, the load generator of the benches.

mod app_probes;
mod control_socket;
mod decision_log;
mod draining;
mod exposure;
mod load_generator;
