//! Running a gate: the decision log and its files, metrics, the control socket, draining, probes of the app, the image
//! and the packages, the load generator of the benches.

mod app_probes;
mod audit_files;
mod control_socket;
mod decision_log;
mod draining;
mod exposure;
mod image;
mod load_generator;
mod package;
mod soak;
mod traces;
