//! Decisions: principals, resources and context, `POST /authorize`, loading and reloading of policies.

mod authorize_endpoint;
mod emergency_forbids_during_loads;
mod emergency_forbids;
mod bundles;
mod cedar_suite;
mod decision_log;
mod example_portals;
mod fail_closed;
mod five_doors;
mod path_rules;
mod planted_flips;
mod nested_entities;
mod policy_reload;
mod portal_files;
mod principal_mapping;
mod remembered_callers;
