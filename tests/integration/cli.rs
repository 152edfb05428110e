//! The built binary: commands, exit codes, mistakes in configuration, and what the README shows.

mod bad_input;
mod bundle_command;
mod commands;
mod ci;
mod configuration_mistakes;
mod demo_portals;
mod diff;
mod explain;
mod import_command;
mod inject_command;
mod matrix_command;
mod no_authorities;
mod readme_examples;
mod release_packages;
mod scaffold;
mod test_command;
mod schema_tools;
mod unusable_files;
mod user_command;
pub mod workbench;
mod workbench_attacks;
mod workbench_editor;
mod workbench_export;
mod workbench_large_log;
mod workbench_log;
mod workbench_pages;
mod workbench_paint;
