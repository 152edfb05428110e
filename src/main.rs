//! The binary: passes the arguments to `cedargate::cli` and returns its exit code. No logic.

fn main() -> std::process::ExitCode {
    cedargate::cli::main()
}
