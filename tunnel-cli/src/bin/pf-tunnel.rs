//! `pf-tunnel`: see [`tunnel_cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tunnel_cli::pf_tunnel(std::env::args_os())
}
