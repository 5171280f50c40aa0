//! Runs a subcommand, one a file, and chooses the exit code.

mod check;
mod crdgen;
mod explain;
mod probe;
mod schema;
mod serve;

use std::{
    fmt::Display, io::Write, num::NonZeroUsize, path::Path, process::ExitCode, thread::available_parallelism,
};

use clap::Parser;
use tokio::runtime::Builder;

use crate::{
    cli::{Cli, Command},
    config::Config,
    destination::Destination,
    server,
};

/// Runs the whole program: parses its arguments, runs the subcommand, and returns the exit code.
pub fn bastion_main() -> ExitCode {
    vault_signer::core_dump::disable();
    let cli = Cli::parse();
    let outcome = match (cli.command, cli.config) {
        _ if cli.print_config_schema => schema::print_schema(),
        (Some(Command::Explain(asked)), _) => explain::run(&asked),
        (Some(Command::Crdgen), _) => crdgen::run(),
        (Some(Command::Probe(asked)), _) => probe::run(&asked),
        (None, Some(path)) if cli.check_config => check::run(&path),
        (None, Some(path)) => serve::run(path),
        // The parser of arguments has refused this already.
        (None, None) => Err(fail(2, "name the configuration file")),
    };
    outcome.unwrap_or_else(|code| code)
}

/// How a subcommand ended: both sides are exit codes, and a failure has been printed.
type Outcome = Result<ExitCode, ExitCode>;

fn load(path: &Path) -> Result<Config, ExitCode> {
    Config::load(path, |name| std::env::var(name).ok()).map_err(|error| fail(2, &error))
}

/// Parses `HOST:PORT`, with brackets around an IPv6 address.
fn destination(text: &str) -> Result<Destination, String> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().map_err(|_| "the port is no number")?;
    Destination::parse(host, port).map_err(|error| error.to_string())
}

fn workers() -> usize {
    available_parallelism().map_or(1, NonZeroUsize::get)
}

fn run<T>(task: impl Future<Output = Result<T, server::Error>>) -> Result<T, server::Error> {
    run_on(workers(), task)
}

fn run_on<T>(
    workers: usize,
    task: impl Future<Output = Result<T, server::Error>>,
) -> Result<T, server::Error> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .map_err(server::Error::Runtime)?;
    let outcome = runtime.block_on(task);
    // A name server that does not answer must not delay the end of the process.
    runtime.shutdown_background();
    outcome
}

/// Prints to standard output. A closed reader leads to an exit code, not a panic.
fn print(text: impl Display) -> Outcome {
    match write!(std::io::stdout(), "{text}") {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(_) => Err(ExitCode::from(1)),
    }
}

/// Prints the error to standard error, and returns the exit code.
fn fail(code: u8, error: impl Display) -> ExitCode {
    // If standard error is closed, the code still tells.
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(code)
}
