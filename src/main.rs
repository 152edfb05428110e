//! Arguments in, exit code out. No logic.

fn main() -> std::process::ExitCode {
    cedargate::cli::main()
}
