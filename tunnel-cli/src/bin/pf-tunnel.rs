//! `pf-tunnel`: see [`tunnel_cli`].

use std::process::ExitCode;

/// As in the bastion: buffers are allocated by one thread and freed by another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tunnel_cli::pf_tunnel(std::env::args_os())
}
