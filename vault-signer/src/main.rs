//! `vault-signer`: set a server up, stand in for one, or have a key signed.

mod cli;
mod command;
mod failure;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    vault_signer::core_dump::disable();
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Bootstrap(args) => command::bootstrap::run(args).await,
        Command::Dev(args) => command::dev::run(args).await,
        Command::Sign(args) => command::sign::run(args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            command::tell(&format!("error: {failure}"));
            failure.exit_code()
        }
    }
}
