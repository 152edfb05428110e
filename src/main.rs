//! Arguments in, exit code out. No logic.

/// What a request allocates, the audit writer frees: docs/decisions/0018-an-allocator-for-many-threads.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cedargate::cli::main()
}
