//! Parses, starts logging, runs, and chooses the exit code.

use std::{io::Write, process::ExitCode};

use bastion_server::{
    cli::Cli,
    config::Config,
    server,
    telemetry::{self, Format},
};
use clap::Parser;
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::load(&cli.config, |name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => return fail(2, &error),
    };
    let format = config.log.format;
    telemetry::start(config.log.level, format);
    let outcome = if cli.check_config { server::check(&config) } else { run(config) };
    match (outcome, format) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(error), Format::Human) => fail(error.exit_code(), &error),
        (Err(error), Format::Json) => {
            tracing::error!(error = telemetry::one_line(&error), "the bastion ends");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(config: Config) -> Result<(), server::Error> {
    let runtime = Runtime::new().map_err(server::Error::Runtime)?;
    let outcome = runtime.block_on(server::run(config));
    // A name server that does not answer must not hold up the end of the process.
    runtime.shutdown_background();
    outcome
}

/// Says why it ends, to whoever reads standard error.
fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    // If nobody reads it, the code still tells.
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(code)
}
