//! Parses, starts logging, runs, and chooses the exit code.

use std::{
    fmt::Display,
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
    thread::available_parallelism,
};

use bastion_server::{
    cli::{Cli, Command, Explain, Probe},
    config::{self, Config},
    destination::Destination,
    explain::{Question, Verdict},
    identity::{LoginName, certificate::Claim},
    kubernetes::{crd, offline},
    probe::{self, Question as Probed},
    server,
    telemetry::{self, Format},
};
use clap::Parser;
use ssh_key::Certificate;
use tokio::runtime::Builder;

/// That of musl makes all threads wait for one lock.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    vault_signer::core_dump::disable();
    let cli = Cli::parse();
    match (cli.command, cli.config) {
        _ if cli.print_config_schema => print_config_schema(),
        (Some(Command::Explain(asked)), _) => explain(&asked),
        (Some(Command::Crdgen), _) => crdgen(),
        (Some(Command::Probe(asked)), _) => probe(&asked),
        (None, Some(path)) => serve(path, cli.check_config),
        // The parser has refused that.
        (None, None) => fail(2, "name the configuration file"),
    }
}

fn serve(path: PathBuf, check_only: bool) -> ExitCode {
    let config = match load(&path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let format = config.log.format;
    telemetry::start(config.log.level, format);
    let outcome = if check_only { server::check(&config) } else { fence_and_run(path, config) };
    match (outcome, format) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(error), Format::Human) => fail(error.exit_code(), &error),
        (Err(error), Format::Json) => {
            tracing::error!(error = telemetry::one_line(&error), "the bastion ends");
            ExitCode::from(error.exit_code())
        }
    }
}

fn print_config_schema() -> ExitCode {
    let text = serde_json::to_string_pretty(&config::json_schema()).unwrap_or_default();
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(1),
    }
}

fn crdgen() -> ExitCode {
    match crd::yaml() {
        Ok(text) => match write!(std::io::stdout(), "{text}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(1),
        },
        Err(error) => fail(1, error),
    }
}

fn explain(asked: &Explain) -> ExitCode {
    let config = match load(&asked.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let certificate = match Certificate::read_file(&asked.cert) {
        Ok(certificate) => certificate,
        Err(error) => {
            let what = format!(
                "{}: {error}\n  --cert wants an OpenSSH certificate, as in id_ed25519-cert.pub",
                asked.cert.display()
            );
            return fail(2, what);
        }
    };
    let destination = match destination(&asked.to) {
        Ok(destination) => destination,
        Err(why) => {
            return fail(
                2,
                format!(
                    "--to {}: {why}\n  Write HOST:PORT, [ADDRESS]:PORT for IPv6",
                    asked.to.escape_debug()
                ),
            );
        }
    };
    let login = asked.login.clone().map_or_else(|| first_user(&config, &certificate), LoginName::new);
    let claim = Claim { login: &login, client: asked.from };
    let wanted = config.kubernetes.clone().unwrap_or_default();
    let offline = match offline::read(&asked.objects, &asked.namespace, &wanted) {
        Ok(offline) => offline,
        Err(error) => return fail(2, &error),
    };
    for line in &offline.passed_over {
        let _ = writeln!(std::io::stderr(), "passed over: {line}");
    }
    for line in &offline.unresolved {
        let _ = writeln!(std::io::stderr(), "note: {line}");
    }
    if config.kubernetes.is_some() && asked.objects.is_empty() {
        let _ = writeln!(
            std::io::stderr(),
            "note: the cluster is not asked for its objects; give them with --objects"
        );
    }
    let question = Question { certificate: &certificate, claim, destination };
    let answer = run(server::explain(&config, offline, question));
    let explanation = match answer {
        Ok(explanation) => explanation,
        Err(error) => return fail(error.exit_code(), &error),
    };
    let text = if asked.json {
        serde_json::to_string(&explanation).unwrap_or_default()
    } else {
        explanation.to_string()
    };
    if writeln!(std::io::stdout(), "{text}").is_err() {
        return ExitCode::from(1);
    }
    ExitCode::from(match explanation.verdict() {
        Verdict::Permitted { .. } => 0,
        Verdict::CertificateRefused { .. } => 7,
        Verdict::ForwardRefused { .. } => 8,
    })
}

fn probe(asked: &Probe) -> ExitCode {
    let questions = [("--ssh", Probed::Ssh, &asked.ssh), ("--ready", Probed::Ready, &asked.ready)];
    for (flag, question, target) in questions {
        let Some(target) = target else { continue };
        let answer = match destination(target) {
            Ok(target) => run(async { Ok(probe::ask(question, &target, asked.within.0).await) }),
            Err(why) => return fail(2, format!("{flag} {}: {why}", target.escape_debug())),
        };
        match answer {
            Ok(Ok(line)) => {
                if writeln!(std::io::stdout(), "{target}: {}", line.escape_debug()).is_err() {
                    return ExitCode::from(1);
                }
            }
            Ok(Err(failure)) => return fail(1, format!("{target}: {failure}")),
            Err(error) => return fail(error.exit_code(), &error),
        }
    }
    ExitCode::SUCCESS
}

/// `HOST:PORT`, with brackets around an IPv6 address.
fn destination(text: &str) -> Result<Destination, String> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().map_err(|_| "the port is no number")?;
    Destination::parse(host, port).map_err(|error| error.to_string())
}

/// The login name that the holder of the certificate would most likely use.
fn first_user(config: &Config, certificate: &Certificate) -> LoginName {
    let users = config.login.users();
    let principals = certificate.valid_principals();
    users
        .iter()
        .find(|user| principals.iter().any(|principal| principal == user.as_str()))
        .or(users.first())
        .cloned()
        .unwrap_or_else(|| LoginName::new(""))
}

fn load(path: &Path) -> Result<Config, ExitCode> {
    Config::load(path, |name| std::env::var(name).ok()).map_err(|error| fail(2, &error))
}

fn fence_and_run(path: PathBuf, config: Config) -> Result<(), server::Error> {
    // Behind the fence nobody can find out any more how many processors there are.
    let workers = workers();
    let prepared = server::prepare(&path, &config)?;
    run_on(workers, server::run(path, config, prepared))
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
    // A name server that does not answer must not hold up the end of the process.
    runtime.shutdown_background();
    outcome
}

/// Says why it ends, to whoever reads standard error.
fn fail(code: u8, error: impl Display) -> ExitCode {
    // If nobody reads it, the code still tells.
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(code)
}
