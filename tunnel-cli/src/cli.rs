//! Parses the command lines of both programs. The only module that knows clap.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, error::ErrorKind};
use clap_complete::{Shell, generate};

use vault_signer::server::Ca;

use crate::{
    config::{
        PartialAuth, PartialKube, PartialSettings, Party, Source, Sourced, at_home, home, path_at_home,
    },
    endpoint::Forward,
    failure::{Failure, Stage},
    output::Style,
    trust::Trust,
};

/// `pf-tunnel`
#[derive(Debug, Parser)]
#[command(
    name = "pf-tunnel",
    version,
    about = "A private port on this computer, through an SSH bastion, for as long as you need it",
    override_usage = "pf-tunnel [OPTIONS] HOST:PORT LOCAL [HOST:PORT LOCAL]...\n       pf-tunnel [OPTIONS] -L [BIND:]PORT:HOST:PORT...\n       pf-tunnel config\n       pf-tunnel completion SHELL",
    after_help = TUNNEL_EXAMPLES,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub(crate) struct TunnelArguments {
    /// Pairs of a destination, as the bastion sees it, and the local port that leads there; 0 picks a free one
    #[arg(value_name = "HOST:PORT LOCAL")]
    pairs: Vec<String>,
    /// The same as ssh's -L; may be repeated
    #[arg(short = 'L', value_name = "[BIND:]PORT:HOST:PORT")]
    local: Vec<String>,
    /// Role of Vault's SSH engine [env: PF_TUNNEL_ROLE] [default: forward]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Vault or OpenBao")]
    role: Option<String>,
    #[command(flatten)]
    options: RunFlags,
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<TunnelSubcommand>,
}

const TUNNEL_EXAMPLES: &str = "\
Examples:
  pf-tunnel postgres.default.svc:5432 5432      then: psql -h 127.0.0.1
  pf-tunnel demo.internal:80 3000 db:5432 0     two together, one on any free port
  pf-tunnel -L 3000:demo.internal:80            as ssh has it
  pf-tunnel --kube-context prod orders.db.svc:5432 5432     with no file at all
  pf-tunnel config                              what holds, and where it was set

Settings are read from pf-tunnel.yaml in this folder or above it, and from
~/.config/pf-tunnel/config.yaml. Flags beat the environment, which beats the
user's file, which beats the project's, which beats what a cluster publishes
(--kube-context, with the kubeconfig that kubectl uses). VAULT_ADDR, VAULT_TOKEN,
VAULT_NAMESPACE, VAULT_CACERT and what else leads to a server, or the same with
BAO_, mean what they mean to vault and bao; what is not obeyed is named.

Exit codes: 0 ended as asked, 2 arguments or configuration, 3 login to Vault,
4 signing, 5 bastion not reached (with --once), 6 host identity, 7 certificate
refused, 8 destination refused by policy, 9 local port.";

/// Subcommands of `pf-tunnel`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum TunnelSubcommand {
    /// Print what holds, and where each value came from
    Config {
        /// Print the JSON Schema of pf-tunnel.yaml instead, for editors
        #[arg(long)]
        schema: bool,
    },
    /// Print a script that completes this program's command line in a shell
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion {
        /// The shell
        shell: Shell,
    },
}

const COMPLETION_EXAMPLES: &str = "\
Examples:
  source <(pf-tunnel completion bash)           for this shell alone
  pf-tunnel completion fish > ~/.config/fish/completions/pf-tunnel.fish

pf-db-tunnel completes by pf-db-tunnel --completion SHELL.";

/// `pf-db-tunnel`
#[derive(Debug, Parser)]
#[command(
    name = "pf-db-tunnel",
    version,
    about = "A database on this computer, with credentials of its own that end when you do",
    override_usage = "pf-db-tunnel [OPTIONS] DATABASE [--role ROLE] [-- COMMAND...]\n       pf-db-tunnel --list",
    after_help = DATABASE_EXAMPLES
)]
pub(crate) struct DatabaseArguments {
    /// A database of the configuration
    #[arg(value_name = "DATABASE", required_unless_present_any = ["list", "completion"])]
    database: Option<String>,
    /// One of its roles; not needed where there is only one
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// The local port; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value = "0")]
    port: String,
    /// List the databases and their roles
    #[arg(long)]
    list: bool,
    /// Print a script that completes this program's command line in a shell
    #[arg(long, value_name = "SHELL", exclusive = true)]
    completion: Option<Shell>,
    /// Role of Vault's SSH engine [env: PF_TUNNEL_ROLE] [default: forward]
    #[arg(long, value_name = "NAME", help_heading = "Vault or OpenBao")]
    ssh_role: Option<String>,
    /// Run this with the connection in its environment, and end with it
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    options: RunFlags,
    #[command(flatten)]
    common: Common,
}

const DATABASE_EXAMPLES: &str = "\
Examples:
  pf-db-tunnel --list
  pf-db-tunnel orders --role reader             prints how to connect, until Ctrl-C
  pf-db-tunnel orders --role reader -- psql     opens psql, already connected
  pf-db-tunnel orders --json                    one JSON object a line, for scripts

The credentials are made by Vault for this run, renewed while it lasts, and
revoked when it ends. The password is shown on a terminal or with --json, and
is never written to a disk, a log or a command line. A COMMAND has the PG…
variables that lead through the tunnel, and no others that could lead elsewhere
(-v names those that were set); with sslmode=verify-full, or PGSSLMODE, it has
the database's own name and PGHOSTADDR.

Exit codes: as for pf-tunnel; 10 the database does not answer, 11 no
credentials; with a COMMAND, the command's own.";

#[derive(Debug, Args)]
struct RunFlags {
    /// How long a local connection waits for the bastion [env: PF_TUNNEL_HOLD] [default: 30s]
    #[arg(long, global = true, value_name = "DURATION")]
    hold: Option<String>,
    /// End at the first failure instead of trying again for ever
    #[arg(long)]
    once: bool,
    /// Do not knock at each destination once before saying that it is ready
    #[arg(long)]
    no_probe: bool,
}

/// Flags of both programs.
#[derive(Debug, Args)]
struct Common {
    /// The bastion; may be repeated, or a list with commas [env: PF_TUNNEL_BASTION]
    #[arg(long, global = true, value_name = "HOST[:PORT]", help_heading = "Bastion")]
    bastion: Vec<String>,
    /// Login name at the bastion [env: PF_TUNNEL_USER] [default: tunnel]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Bastion")]
    user: Option<String>,
    /// The authority that signs the bastion's host certificate [env: PF_TUNNEL_HOST_AUTHORITY]
    #[arg(
        long,
        global = true,
        value_name = "FILE|KEY",
        help_heading = "Bastion",
        conflicts_with = "host_key"
    )]
    host_authority: Option<String>,
    /// The bastion's host key itself [env: PF_TUNNEL_HOST_KEY]
    #[arg(long, global = true, value_name = "FILE|KEY", help_heading = "Bastion")]
    host_key: Option<String>,

    /// Read settings that are not given here from the cluster of this context of the kubeconfig [env: PF_TUNNEL_KUBE_CONTEXT]
    #[arg(long, global = true, value_name = "CONTEXT", help_heading = "Kubernetes")]
    kube_context: Option<String>,
    /// The bastion's namespace there [env: PF_TUNNEL_KUBE_NAMESPACE] [default: bastion]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Kubernetes")]
    kube_namespace: Option<String>,
    /// The ConfigMap with the bastion's connection info [env: PF_TUNNEL_KUBE_CONFIG_MAP]
    /// [default: bastion-connection-info]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Kubernetes")]
    kube_config_map: Option<String>,

    /// Address of Vault or OpenBao [env: VAULT_ADDR, BAO_ADDR]
    #[arg(long, global = true, value_name = "URL", help_heading = "Vault or OpenBao")]
    vault_addr: Option<String>,
    /// Certificates that Vault's is signed by [env: VAULT_CACERT, BAO_CACERT]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Vault or OpenBao")]
    ca_cert: Option<PathBuf>,
    /// Send tokens in clear to a Vault that is not on this computer, and trust whatever answers there
    /// [env: PF_TUNNEL_DANGEROUSLY_ALLOW_PLAIN_HTTP]
    #[arg(long, global = true, help_heading = "Vault or OpenBao")]
    dangerously_allow_plain_http: bool,
    /// Namespace in Vault [env: VAULT_NAMESPACE, BAO_NAMESPACE]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Vault or OpenBao")]
    namespace: Option<String>,
    /// Where Vault's SSH engine is mounted [env: PF_TUNNEL_MOUNT] [default: ssh]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Vault or OpenBao")]
    mount: Option<String>,
    /// A principal to ask for; may be repeated, or a list with commas [env: PF_TUNNEL_PRINCIPALS] [default: the login name]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Vault or OpenBao")]
    principal: Vec<String>,
    /// How long a certificate lives; it is renewed in time [env: PF_TUNNEL_TTL] [default: 1h]
    #[arg(long, global = true, value_name = "DURATION", help_heading = "Vault or OpenBao")]
    ttl: Option<String>,
    /// The type of key to have signed: ed25519, ecdsa-256, ecdsa-384, ecdsa-521, rsa-2048, rsa-3072 or rsa-4096
    /// [env: PF_TUNNEL_KEY_TYPE] [default: ed25519]
    #[arg(long, global = true, value_name = "TYPE", help_heading = "Vault or OpenBao")]
    key_type: Option<String>,
    /// How to log in: token, approle, userpass or kubernetes [env: PF_TUNNEL_AUTH] [default: token]
    #[arg(long, global = true, value_name = "METHOD", help_heading = "Vault or OpenBao")]
    auth: Option<String>,
    /// A file with the token, - for standard input; without it BAO_TOKEN, VAULT_TOKEN, the file of BAO_TOKEN_PATH, or
    /// ~/.vault-token. There is no
    /// flag for the token itself, since every user of this computer can read a command line
    #[arg(long, global = true, value_name = "FILE", help_heading = "Vault or OpenBao")]
    token_file: Option<PathBuf>,
    /// For kubernetes, which reads the ServiceAccount's token from --token-file [env: PF_TUNNEL_AUTH_ROLE]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Vault or OpenBao")]
    auth_role: Option<String>,
    /// For userpass; the password is asked for, or comes from PF_TUNNEL_PASSWORD [env: PF_TUNNEL_USERNAME]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Vault or OpenBao")]
    username: Option<String>,
    /// For AppRole [env: PF_TUNNEL_ROLE_ID]
    #[arg(long, global = true, value_name = "ID", help_heading = "Vault or OpenBao")]
    role_id: Option<String>,
    /// For AppRole; without it PF_TUNNEL_SECRET_ID
    #[arg(long, global = true, value_name = "FILE", help_heading = "Vault or OpenBao")]
    secret_id_file: Option<PathBuf>,

    /// Read this file, and neither the project's nor the user's [env: PF_TUNNEL_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long, global = true)]
    json: bool,
    /// Errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say each stage; twice: each connection too
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

/// A command line, parsed as far as that is possible without the configuration.
#[derive(Debug)]
pub(crate) struct Invocation<T> {
    /// What to do.
    pub command: T,
    /// How to print.
    pub style: Style,
    /// The options that are settings.
    pub flags: Flags,
}

/// The result of parsing a command line.
#[derive(Debug)]
pub(crate) enum ParseOutcome<T> {
    /// There is something to do.
    Run(Invocation<T>),
    /// Help or the version was asked for, and has been printed.
    Answered,
    /// The command line cannot be understood.
    Refused(Failure),
}

/// Settings among the flags. They are parsed late, so that a bad one can be reported in the right style.
#[derive(Debug)]
pub(crate) struct Flags {
    common: Box<Common>,
    hold: Option<String>,
    role: Option<String>,
    /// End at the first failure.
    pub once: bool,
    /// Knock at each destination first.
    pub probe: bool,
}

/// A command of `pf-tunnel`.
#[derive(Debug)]
pub(crate) enum TunnelCommand {
    /// Print the settings.
    Config,
    /// Print the schema of the configuration file.
    Schema,
    /// Print a script for a shell.
    Completion(Shell),
    /// Forward; the arguments are still texts.
    Forward {
        /// `HOST:PORT LOCAL …`
        pairs: Vec<String>,
        /// `-L`
        local: Vec<String>,
    },
}

/// A command of `pf-db-tunnel`.
#[derive(Debug)]
pub(crate) enum DatabaseCommand {
    /// List the databases.
    List,
    /// Print a script for a shell.
    Completion(Shell),
    /// Open one.
    Open {
        /// Its name.
        database: String,
        /// Its role, if one was named.
        role: Option<String>,
        /// The local port.
        port: String,
        /// What to run; empty for nothing.
        command: Vec<OsString>,
    },
}

/// Parses the command line of `pf-tunnel`.
pub(crate) fn tunnel(arguments: impl IntoIterator<Item = OsString>) -> ParseOutcome<TunnelCommand> {
    let typed = match TunnelArguments::try_parse_from(arguments) {
        Ok(typed) => typed,
        Err(error) => return not_run(&error, "pf-tunnel postgres.default.svc:5432 5432"),
    };
    let command = match typed.command {
        Some(TunnelSubcommand::Config { schema: false }) => TunnelCommand::Config,
        Some(TunnelSubcommand::Config { schema: true }) => TunnelCommand::Schema,
        Some(TunnelSubcommand::Completion { shell }) => TunnelCommand::Completion(shell),
        None => TunnelCommand::Forward { pairs: typed.pairs, local: typed.local },
    };
    ParseOutcome::Run(invocation(command, typed.common, typed.options, typed.role))
}

/// Parses the command line of `pf-db-tunnel`.
pub(crate) fn database(arguments: impl IntoIterator<Item = OsString>) -> ParseOutcome<DatabaseCommand> {
    let typed = match DatabaseArguments::try_parse_from(arguments) {
        Ok(typed) => typed,
        Err(error) => return not_run(&error, "pf-db-tunnel orders --role reader"),
    };
    let command = match (typed.completion, typed.database) {
        (Some(shell), _) => DatabaseCommand::Completion(shell),
        (None, Some(database)) if !typed.list => {
            DatabaseCommand::Open { database, role: typed.role, port: typed.port, command: typed.command }
        }
        (None, _) => DatabaseCommand::List,
    };
    let aside = matches!(&command, DatabaseCommand::Open { command, .. } if !command.is_empty());
    let mut invocation = invocation(command, typed.common, typed.options, typed.ssh_role);
    invocation.style.aside = aside;
    ParseOutcome::Run(invocation)
}

fn invocation<T>(command: T, common: Common, options: RunFlags, role: Option<String>) -> Invocation<T> {
    let style = Style { json: common.json, quiet: common.quiet, verbosity: common.verbose, aside: false };
    let flags = Flags {
        common: Box::new(common),
        hold: options.hold,
        role,
        once: options.once,
        probe: !options.no_probe,
    };
    Invocation { command, style, flags }
}

/// One line, as for every other bad argument.
fn not_run<T>(error: &clap::Error, example: &str) -> ParseOutcome<T> {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that has gone away has read enough.
        let _ = error.print();
        return ParseOutcome::Answered;
    }
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim);
    let mut what = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    if what.ends_with(':') {
        // "the following required arguments were not provided:" goes on in the next line.
        what = format!("{what} {}", lines.next().unwrap_or_default());
    }
    if let Some(values) = lines.find(|line| line.starts_with("[possible values: ")) {
        what = format!("{what} {values}");
    }
    ParseOutcome::Refused(Failure::permanent(
        Stage::Arguments,
        format!("{what}; write, for example, {example}"),
    ))
}

/// The definitions of both programs' command lines, for their man pages.
pub fn commands() -> [clap::Command; 2] {
    [TunnelArguments::command(), DatabaseArguments::command()]
}

/// A script that completes the command line of a program in `shell`.
fn completion<Arguments: CommandFactory>(shell: Shell) -> Vec<u8> {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    script
}

/// The script for `pf-tunnel`.
pub(crate) fn tunnel_completion(shell: Shell) -> Vec<u8> {
    completion::<TunnelArguments>(shell)
}

/// The script for `pf-db-tunnel`.
pub(crate) fn database_completion(shell: Shell) -> Vec<u8> {
    completion::<DatabaseArguments>(shell)
}

/// All forwards of a command line.
///
/// # Errors
/// Names the bad part and shows a right one, in one line.
pub(crate) fn forwards(pairs: &[String], local: &[String]) -> Result<Vec<Forward>, Failure> {
    let bad = |error: crate::endpoint::BadForward| Failure::permanent(Stage::Arguments, error.to_string());
    let mut forwards = Forward::pairs(pairs).map_err(bad)?;
    for text in local {
        forwards.push(text.parse().map_err(bad)?);
    }
    if forwards.is_empty() {
        let what = "nothing to forward; write, for example, pf-tunnel postgres.default.svc:5432 5432";
        return Err(Failure::permanent(Stage::Arguments, what));
    }
    Ok(forwards)
}

impl Flags {
    /// The file that was named.
    pub(crate) fn config(&self) -> Option<&std::path::Path> {
        self.common.config.as_deref()
    }

    /// What they say about the settings.
    ///
    /// # Errors
    /// Names the flag and what is wrong with its value.
    pub(crate) fn settings(
        &self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<PartialSettings, Failure> {
        let home = home(variable);
        let at_home = |text: &str| at_home(text, &home);
        fn text(value: Option<&String>, flag: &'static str) -> Option<Sourced<String>> {
            value.map(|value| Sourced::new(value.clone(), Source::Flag(flag)))
        }
        fn parsed<T, E: ToString>(
            value: Option<&String>,
            flag: &'static str,
            parse: impl FnOnce(&str) -> Result<T, E>,
        ) -> Result<Option<Sourced<T>>, Failure> {
            let Some(text) = value else { return Ok(None) };
            match parse(text) {
                Ok(value) => Ok(Some(Sourced::new(value, Source::Flag(flag)))),
                Err(why) => {
                    let what = format!("{flag} {text}: {}", why.to_string());
                    Err(Failure::permanent(Stage::Arguments, what))
                }
            }
        }
        let path = |value: Option<&PathBuf>, flag: &'static str| {
            value.map(|value| Sourced::new(path_at_home(value, &home), Source::Flag(flag)))
        };
        let here = std::path::Path::new("");
        let common = &self.common;
        let mut bastions = Vec::new();
        for text in &common.bastion {
            let all = parsed(Some(text), "--bastion", crate::config::bastions)?;
            bastions.extend(all.into_iter().flat_map(|all| all.value));
        }
        let principals: Vec<String> =
            common.principal.iter().flat_map(|names| vault_signer::list(names)).collect();
        let authority = parsed(common.host_authority.as_ref(), "--host-authority", |text| {
            Trust::authorities(&[at_home(text)], here)
        })?;
        let key = parsed(common.host_key.as_ref(), "--host-key", |text| Trust::keys(&[at_home(text)], here))?;
        let kube = PartialKube {
            context: text(common.kube_context.as_ref(), "--kube-context"),
            namespace: parsed(common.kube_namespace.as_ref(), "--kube-namespace", str::parse)?,
            config_map: parsed(common.kube_config_map.as_ref(), "--kube-config-map", str::parse)?,
            chosen_by: Party::Person,
        };
        Ok(PartialSettings {
            bastion: (!bastions.is_empty()).then(|| Sourced::new(bastions, Source::Flag("--bastion"))),
            user: text(common.user.as_ref(), "--user"),
            trust: authority.or(key),
            address: text(common.vault_addr.as_ref(), "--vault-addr"),
            namespace: text(common.namespace.as_ref(), "--namespace"),
            ca: path(common.ca_cert.as_ref(), "--ca-cert").map(|path| path.map(Ca::File)),
            dangerously_allow_plain_http: common
                .dangerously_allow_plain_http
                .then(|| Sourced::new(true, Source::Flag("--dangerously-allow-plain-http"))),
            mount: text(common.mount.as_ref(), "--mount"),
            role: text(self.role.as_ref(), "--role"),
            principals: (!principals.is_empty())
                .then(|| Sourced::new(principals, Source::Flag("--principal"))),
            ttl: parsed(common.ttl.as_ref(), "--ttl", str::parse)?,
            key_type: parsed(common.key_type.as_ref(), "--key-type", str::parse)?,
            auth: PartialAuth {
                method: parsed(common.auth.as_ref(), "--auth", str::parse)?,
                mount: None,
                role: text(common.auth_role.as_ref(), "--auth-role"),
                username: text(common.username.as_ref(), "--username"),
                role_id: text(common.role_id.as_ref(), "--role-id"),
                secret_id_file: path(common.secret_id_file.as_ref(), "--secret-id-file"),
                token_file: path(common.token_file.as_ref(), "--token-file"),
            },
            hold: parsed(self.hold.as_ref(), "--hold", str::parse)?,
            kube: kube.if_said(),
            ..PartialSettings::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(arguments: &[&str]) -> String {
        let arguments = ["pf-tunnel"].iter().chain(arguments).map(OsString::from);
        let refused = match tunnel(arguments) {
            ParseOutcome::Run(Invocation {
                command: TunnelCommand::Forward { pairs, local }, flags, ..
            }) => forwards(&pairs, &local).err().or_else(|| flags.settings(|_| None).err()).expect("refused"),
            ParseOutcome::Refused(failure) => failure,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused.stage(), Stage::Arguments);
        assert!(refused.advice().is_empty() && !refused.what().contains('\n'), "one line: {refused}");
        refused.what().to_owned()
    }

    #[test]
    fn the_definitions_are_sound() {
        TunnelArguments::command().debug_assert();
        DatabaseArguments::command().debug_assert();
    }

    #[test]
    fn every_bad_argument_is_named_and_a_right_one_shown() {
        for (arguments, part) in [
            (&[] as &[&str], "nothing to forward"),
            (&["host"], "host: "),
            (&["host:"], "host:: "),
            (&[":80"], ":80: "),
            (&["host:99999", "80"], "host:99999: "),
            (&["host:80", "70000"], "70000: "),
            (&["[::1:80", "80"], "[::1:80: "),
            (&["user@host:80", "80"], "user@host:80: "),
            (&["-oProxyCommand=x"], "'-o'"),
            (&["host:80", "80", "--orcale"], "'--orcale'"),
            (&["completion", "tcsh"], "possible values: bash, "),
            (&["$(id)"], "$(id): "),
            (&["$(id):80", "80"], "$(id):80: "),
            (&["host:８０", "80"], "host:８０: "),
            (&["host:80", "８０"], "８０: "),
            (&["-L", "3000:host"], "3000:host: "),
            (&["-L"], "-L"),
            (&["host:80", "80", "--host-key", "a", "--host-authority", "b"], "--host-"),
        ] {
            let line = failure(arguments);
            assert!(line.contains(part), "{arguments:?}: {line}");
            assert!(line.contains("; write, for example, "), "{arguments:?}: {line}");
        }
        assert_eq!(
            failure(&["h:1", "1", "--ttl", "soon"]),
            "--ttl soon: not a duration; write one such as 30s or 1h"
        );
        assert!(failure(&["h:1", "1", "--auth", "magic"]).starts_with("--auth magic: "));
    }

    #[test]
    fn config_is_a_command_and_takes_the_same_flags() {
        let arguments = ["pf-tunnel", "config", "--role", "x", "--json"].map(OsString::from);
        let ParseOutcome::Run(typed) = tunnel(arguments) else { panic!() };
        assert!(matches!(typed.command, TunnelCommand::Config));
        assert!(typed.style.json);
        assert_eq!(typed.flags.settings(|_| None).unwrap().role.unwrap().value, "x");
    }

    #[test]
    fn a_command_after_two_dashes_is_the_childs() {
        let arguments = ["pf-db-tunnel", "orders", "--role", "reader", "--", "psql", "-c", "--list"];
        let ParseOutcome::Run(typed) = database(arguments.map(OsString::from)) else { panic!() };
        let DatabaseCommand::Open { database, role, port, command } = typed.command else { panic!() };
        assert_eq!((database.as_str(), role.as_deref(), port.as_str()), ("orders", Some("reader"), "0"));
        assert_eq!(command, ["psql", "-c", "--list"]);
    }

    #[test]
    fn help_has_examples() {
        for text in [
            TunnelArguments::command().render_help().to_string(),
            DatabaseArguments::command().render_help().to_string(),
        ] {
            assert!(text.contains("Examples:") && text.contains("Exit codes:"));
        }
    }
}
