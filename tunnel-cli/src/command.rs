//! Runs the programs: a command line becomes settings, settings become a tunnel, and its end becomes an exit code.

mod child;
mod config;
mod database;
mod setup;
mod signals;
mod tunnel;

use std::{ffi::OsString, process::ExitCode, sync::Arc};

use crate::{
    cli::{self, DatabaseCommand, Invocation, ParseOutcome, TunnelCommand},
    failure::{Failure, Stage, exit_code},
    login,
    output::{Output, Style},
};
use setup::settings_of;

/// `pf-tunnel`
pub fn pf_tunnel(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(cli::tunnel(arguments), async |invocation, output| {
        let settings = async || settings_of(&invocation.flags, &output).await;
        match invocation.command {
            TunnelCommand::Config => config::print(&settings().await?, &output),
            TunnelCommand::Schema => config::print_schema(&output),
            TunnelCommand::Completion(shell) => {
                output.own(&cli::tunnel_completion(shell));
                Ok(exit_code::OK)
            }
            TunnelCommand::Forward { pairs, local } => {
                let forwards = cli::forwards(&pairs, &local)?;
                tunnel::run(&settings().await?, &invocation.flags, &forwards, output).await
            }
        }
    })
}

/// `pf-db-tunnel`
pub fn pf_db_tunnel(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(cli::database(arguments), async |invocation, output| {
        let settings = async || settings_of(&invocation.flags, &output).await;
        match invocation.command {
            DatabaseCommand::List => database::list(&settings().await?, &output),
            DatabaseCommand::Completion(shell) => {
                output.own(&cli::database_completion(shell));
                Ok(exit_code::OK)
            }
            DatabaseCommand::Open { database, role, port, command } => {
                let settings = settings().await?;
                let wanted = database::wanted(&settings, &database, role.as_deref(), &port)?;
                database::run(&settings, &invocation.flags, wanted, command, output).await
            }
        }
    })
}

/// Runs `work` with what both programs need around it. `work` ends with the exit code of the child it ran, or 0.
fn run<T>(
    parsed: ParseOutcome<T>,
    work: impl AsyncFnOnce(Invocation<T>, Arc<Output>) -> Result<u8, Failure>,
) -> ExitCode {
    vault_signer::core_dump::disable();
    let invocation = match parsed {
        ParseOutcome::Run(invocation) => invocation,
        ParseOutcome::Answered => return ExitCode::SUCCESS,
        ParseOutcome::Refused(failure) => {
            Output::standard(Style::default()).fail(&failure);
            return exit_code::exit(failure.stage());
        }
    };
    let output = Arc::new(Output::standard(invocation.style));
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.fail(&Failure::permanent(Stage::Internal, format!("cannot start: {error}")));
            return exit_code::exit(Stage::Internal);
        }
    };
    let result = runtime.block_on(work(invocation, Arc::clone(&output)));
    // A resolver or a question that is still waiting must not keep us.
    login::restore_terminal();
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output.fail(&failure);
            exit_code::exit(failure.stage())
        }
    }
}
