//! Running a gate: the decision log and metrics, the control socket, draining, the load generator of the benches.

mod control_socket;
mod decision_log;
mod draining;
mod load_generator;
