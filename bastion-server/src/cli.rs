//! Parses the command line: a subcommand or the configuration file, and options.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::{common::units::Delay, config};

/// An SSH bastion: admits certificates of trusted authorities, and forwards TCP where its rules allow.
#[derive(Debug, Parser)]
#[command(
    name = "bastion-server",
    version,
    max_term_width = 110,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = after_help()
)]
pub(crate) struct Cli {
    /// The subcommand; without one the bastion serves.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The configuration, a YAML file.
    #[arg(required_unless_present = "print_config_schema")]
    pub config: Option<PathBuf>,

    /// Only read the configuration and the files that it names, and report what is wrong with them.
    #[arg(long)]
    pub check_config: bool,

    /// Print the JSON Schema of the configuration, for editors and templates.
    #[arg(long, exclusive = true)]
    pub print_config_schema: bool,
}

/// The subcommand.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say which rule decides about a certificate and a destination, and why, without connecting.
    Explain(Explain),
    /// Print the definitions of TunnelPolicy and ClusterTunnelPolicy, as `kubectl apply -f -` takes them.
    Crdgen,
    /// Ask a running bastion, from outside, whether it answers.
    Probe(Probe),
}

/// Checks of a running bastion.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  bastion-server probe --ssh bastion.example.com:22 --ready 10.1.2.3:8080

Exit codes: 0 every answer was yes, 1 one was no, 2 arguments")]
#[group(required = true, multiple = true)]
pub(crate) struct Probe {
    /// Exchange the identification lines of SSH with this address.
    #[arg(long, value_name = "HOST:PORT")]
    pub ssh: Option<String>,
    /// Request /readyz from this address.
    #[arg(long, value_name = "HOST:PORT")]
    pub ready: Option<String>,
    /// How long to try again while the check fails.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = delay)]
    pub within: Delay,
}

fn delay(text: &str) -> Result<Delay, &'static str> {
    Delay::try_from(text.to_owned())
}

/// A certificate and a destination, for `explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bastion-server explain bastion.yaml --cert ~/.ssh/id_ed25519-cert.pub --to orders.default.svc:5432
  kubectl get tunnelpolicies,services,endpointslices -A -o yaml > objects.yaml
  bastion-server explain bastion.yaml --cert id-cert.pub --to orders.default.svc:5432 --objects objects.yaml

Exit codes: 0 permitted, 7 the certificate would be refused, 8 the destination, 1 and 2 as for serving")]
pub(crate) struct Explain {
    /// The configuration, a YAML file.
    pub config: PathBuf,
    /// The certificate, as in id_ed25519-cert.pub.
    #[arg(long, value_name = "FILE")]
    pub cert: PathBuf,
    /// The destination.
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// The login name. Default: the first principal that may log in.
    #[arg(long, value_name = "NAME")]
    pub login: Option<String>,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub from: IpAddr,
    /// Objects of a cluster as kubectl prints them in YAML: policies, and the Services and EndpointSlices
    /// that they are about.
    #[arg(long, value_name = "FILE")]
    pub objects: Vec<PathBuf>,
    /// The bastion's own namespace.
    #[arg(long, value_name = "NAME", default_value = "bastion")]
    pub namespace: String,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn after_help() -> String {
    let width = config::VARIABLES.iter().map(|variable| variable.name.len()).max().unwrap_or_default();
    let variables: String = config::VARIABLES
        .iter()
        .map(|variable| format!("  {:width$}  {} ({})\n", variable.name, variable.setting, variable.example))
        .collect();
    format!(
        "Examples:
  bastion-server bastion.yaml
  bastion-server --check-config bastion.yaml
  bastion-server --print-config-schema > bastion.schema.json
  BASTION_LOG_FORMAT=json bastion-server bastion.yaml > audit.jsonl
  bastion-server explain bastion.yaml --cert id-cert.pub --to orders.default.svc:5432

Audit records go to standard output, logs to standard error.

Signals:
  SIGTERM, SIGINT  stop accepting, tell the clients, end; a second signal ends the process immediately
  SIGHUP           read the authorities and renew the host certificate

The bastion reads the file again when it changes. It applies rules, hosts, open_networks, login, timeouts and the
longest lifetime of a certificate immediately, also to live sessions; all other settings apply from the next start.

Environment, which takes precedence over the file:
{variables}
Exit codes: 0 ended as asked, 1 could not go on, 2 arguments or configuration"
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_every_variable() {
        let help = Cli::command().render_long_help().to_string();
        for variable in config::VARIABLES {
            assert!(help.contains(variable.name), "{help}");
        }
    }

    #[test]
    fn one_file_is_needed() {
        assert!(Cli::try_parse_from(["bastion-server"]).is_err());
        assert!(Cli::try_parse_from(["bastion-server", "probe"]).is_err());
        assert!(Cli::try_parse_from(["bastion-server", "--check-config", "b.yaml"]).unwrap().check_config);
        assert!(
            Cli::try_parse_from(["bastion-server", "--print-config-schema"]).unwrap().print_config_schema
        );
        assert!(Cli::try_parse_from(["bastion-server", "--print-config-schema", "b.yaml"]).is_err());
    }
}
