//! The program `bastion-server`.

use std::process::ExitCode;

/// musl's own allocator makes all threads wait for one lock.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bastion_server::bastion_main()
}
