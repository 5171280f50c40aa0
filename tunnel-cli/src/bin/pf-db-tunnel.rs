//! `pf-db-tunnel`: see [`tunnel_cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tunnel_cli::pf_db_tunnel(std::env::args_os())
}
