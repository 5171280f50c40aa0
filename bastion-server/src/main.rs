//! The program `bastion-server`.

use std::process::ExitCode;

/// Buffers of a stream are allocated by one thread and freed by another. glibc's allocator has threads wait
/// for each other then, and gives pages back that it needs again immediately; musl's has one lock for all.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bastion_server::bastion_main()
}
