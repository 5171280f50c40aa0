//! What is typed: one file, and what to do with it.

use std::path::PathBuf;

use clap::Parser;

use crate::config;

/// An SSH bastion: admits certificates of trusted authorities, and forwards TCP where its rules allow.
#[derive(Debug, Parser)]
#[command(name = "bastion-server", version, max_term_width = 110, after_help = after_help())]
pub struct Cli {
    /// The configuration, a YAML file.
    pub config: PathBuf,

    /// Only read the configuration and the files that it names, and say what is wrong with them.
    #[arg(long)]
    pub check_config: bool,
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
  BASTION_LOG_FORMAT=json bastion-server bastion.yaml > audit.jsonl

Audit records go to standard output, logs to standard error.

Signals:
  SIGTERM, SIGINT  stop accepting, tell the clients, end; a second one ends at once
  SIGHUP           ask for authorities and the host certificate again

Environment, which wins over the file:
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
        assert!(Cli::try_parse_from(["bastion-server", "--check-config", "b.yaml"]).unwrap().check_config);
    }
}
