//! Parses the command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use vault_signer::login::Method;

/// Short-lived SSH certificates from Vault or OpenBao, and a stand-in for when there is neither.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  ended as asked
  2  arguments or settings
  3  login to Vault or OpenBao
  4  signing or setting up failed, or what came back was not what was asked for
  9  the stand-in's port cannot be listened on";

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub(crate) enum Command {
    Bootstrap(Bootstrap),
    Dev(Dev),
    Sign(Sign),
}

/// Where Vault is.
#[derive(Args, Debug)]
#[command(next_help_heading = "Vault")]
pub(crate) struct Connection {
    /// Address, for example https://vault.example.com:8200 [env: BAO_ADDR, VAULT_ADDR]
    #[arg(long, value_name = "URL")]
    pub(crate) address: Option<String>,
    /// Namespace [env: BAO_NAMESPACE, VAULT_NAMESPACE]
    #[arg(long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// PEM file of the authorities that may sign Vault's own certificate [env: BAO_CACERT, VAULT_CACERT]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_cert: Option<PathBuf>,
    /// Send tokens in clear to a server that is not on this computer, and trust whatever answers there
    #[arg(long)]
    pub(crate) dangerously_allow_plain_http: bool,
    /// How to log in: token, approle, userpass or kubernetes. A token is looked for in --token-file, BAO_TOKEN,
    /// VAULT_TOKEN, the file that BAO_TOKEN_PATH or VAULT_TOKEN_PATH names, and ~/.vault-token
    #[arg(long, value_name = "METHOD", default_value_t)]
    pub(crate) auth: Method,
    /// Where that method is enabled, unless under its own name
    #[arg(long, value_name = "MOUNT")]
    pub(crate) auth_mount: Option<String>,
    /// File with a token; for kubernetes, the ServiceAccount's
    #[arg(long, value_name = "FILE", required_if_eq("auth", "kubernetes"))]
    pub(crate) token_file: Option<PathBuf>,
    /// Role of the login, for kubernetes
    #[arg(long, value_name = "NAME", required_if_eq("auth", "kubernetes"))]
    pub(crate) auth_role: Option<String>,
    /// Role id, for approle
    #[arg(
        long,
        value_name = "ID",
        env = "VAULT_ROLE_ID",
        hide_env_values = true,
        required_if_eq("auth", "approle")
    )]
    pub(crate) role_id: Option<String>,
    /// File with the secret id, for approle
    #[arg(long, value_name = "FILE", required_if_eq("auth", "approle"))]
    pub(crate) secret_id_file: Option<PathBuf>,
    /// User name, for userpass
    #[arg(long, value_name = "NAME", required_if_eq("auth", "userpass"))]
    pub(crate) username: Option<String>,
    /// File with the password, for userpass
    #[arg(long, value_name = "FILE", required_if_eq("auth", "userpass"))]
    pub(crate) password_file: Option<PathBuf>,
}

/// Set up the SSH engine on a server: mounts, ed25519 authorities, roles and policies; and the login of pods.
///
/// Reads what is there and writes only what differs, so a second run changes nothing. An authority that is
/// there already is never replaced.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  vault-signer bootstrap --domain example.com --dry-run
  vault-signer bootstrap --domain bastion.example.com --principal tunnel --principal dev
  vault-signer bootstrap --domain bastion.example.com --kubernetes
  vault-signer bootstrap --domain example.com --principal '{{identity.entity.name}}'")]
pub(crate) struct Bootstrap {
    /// Name of a bastion, or the domain that bastions are in. Repeatable
    #[arg(long = "domain", value_name = "NAME", required = true, value_delimiter = ',', value_parser = trimmed)]
    pub(crate) domains: Vec<String>,
    /// Who may be named in a certificate; the first is, when a request names none. Repeatable. Templates
    /// such as {{identity.entity.name}} are understood
    #[arg(
        long = "principal",
        value_name = "NAME",
        default_value = "tunnel",
        value_delimiter = ',',
        value_parser = trimmed
    )]
    pub(crate) principals: Vec<String>,
    /// Where users' keys are signed
    #[arg(long, default_value = "ssh", value_parser = mount)]
    pub(crate) mount: String,
    /// The role that signs them
    #[arg(long, default_value = "forward", value_parser = name)]
    pub(crate) role: String,
    /// How long a certificate lives when a request does not say
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration)]
    pub(crate) ttl: Duration,
    /// The longest that one may live
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub(crate) max_ttl: Duration,
    /// The policy that lets a token use that role
    #[arg(long, default_value = "tunnel-user", value_parser = name)]
    pub(crate) policy: String,
    /// Where hosts' keys are signed
    #[arg(long, default_value = "ssh-host", value_parser = mount)]
    pub(crate) host_mount: String,
    /// The role that signs them
    #[arg(long, default_value = "bastion", value_parser = name)]
    pub(crate) host_role: String,
    /// How long a host's certificate lives when a request does not say
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub(crate) host_ttl: Duration,
    /// The longest that one may live
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = duration)]
    pub(crate) host_max_ttl: Duration,
    /// The policy that lets a bastion use that role
    #[arg(long, default_value = "tunnel-bastion", value_parser = name)]
    pub(crate) host_policy: String,
    #[command(flatten)]
    pub(crate) kubernetes: KubernetesLogin,
    /// Write nothing; say what would be written
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// How bastions in Kubernetes log in.
#[derive(Args, Debug)]
#[command(next_help_heading = "Login of a bastion in Kubernetes")]
pub(crate) struct KubernetesLogin {
    /// Let a ServiceAccount of Kubernetes log in as a bastion, with a token that is for Vault alone
    #[arg(long)]
    pub(crate) kubernetes: bool,
    /// Where that login is enabled
    #[arg(long, value_name = "MOUNT", default_value = "kubernetes", value_parser = mount, requires = "kubernetes")]
    pub(crate) kubernetes_mount: String,
    /// The API server as Vault reaches it; the default is for a Vault in the same cluster
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://kubernetes.default.svc",
        requires = "kubernetes"
    )]
    pub(crate) kubernetes_host: String,
    /// PEM file of the authorities of the API server's certificate; a Vault in the same cluster has them
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub(crate) kubernetes_ca_cert: Option<PathBuf>,
    /// File with the token of a ServiceAccount that may ask the API server whose a token is (ClusterRole
    /// system:auth-delegator); a Vault in the same cluster uses its own
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub(crate) token_reviewer_jwt_file: Option<PathBuf>,
    /// The role that bastions log in to
    #[arg(long, value_name = "NAME", default_value = "bastion", value_parser = name, requires = "kubernetes")]
    pub(crate) kubernetes_role: String,
    /// The bastion's ServiceAccount
    #[arg(long, value_name = "NAME", default_value = "bastion", value_parser = name, requires = "kubernetes")]
    pub(crate) service_account: String,
    /// Its namespace
    #[arg(long, value_name = "NAME", default_value = "bastion", value_parser = name, requires = "kubernetes")]
    pub(crate) kubernetes_namespace: String,
    /// The audience that its token must be for
    #[arg(long, value_name = "NAME", default_value = "vault", value_parser = name, requires = "kubernetes")]
    pub(crate) kubernetes_audience: String,
}

/// Run a stand-in for Vault: two new authorities in memory, behind Vault's own HTTP paths. For development only.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  vault-signer dev
  vault-signer dev --listen 127.0.0.1:0 --json")]
pub(crate) struct Dev {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8200")]
    pub(crate) listen: SocketAddr,
    /// The only token that it knows; made anew each time unless given
    #[arg(long, value_name = "TOKEN", env = "VAULT_DEV_ROOT_TOKEN_ID", hide_env_values = true)]
    pub(crate) root_token: Option<String>,
    /// Who may be named in a certificate, `*` for any name; the first is, when a request names none. Repeatable
    #[arg(
        long = "principal",
        value_name = "NAME",
        default_value = "tunnel",
        value_delimiter = ',',
        value_parser = trim
    )]
    pub(crate) principals: Vec<String>,
    /// The longest that a user's certificate may live
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub(crate) max_ttl: Duration,
    /// Listen on an address that other computers reach: the token and every certificate cross the network in clear
    #[arg(long)]
    pub(crate) dangerously_listen_anywhere: bool,
    /// One JSON object on standard output when ready
    #[arg(long)]
    pub(crate) json: bool,
}

/// Have a public key signed, and check what comes back. The certificate goes to standard output.
#[derive(Args, Debug)]
#[command(after_help = "Example, for a stock ssh:
  vault-signer sign --public-key ~/.ssh/id_ed25519.pub > ~/.ssh/id_ed25519-cert.pub")]
pub(crate) struct Sign {
    /// The file with the public key, - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) public_key: PathBuf,
    /// Where the SSH engine is mounted
    #[arg(long, default_value = "ssh")]
    pub(crate) mount: String,
    /// The role that signs
    #[arg(long, default_value = "forward")]
    pub(crate) role: String,
    /// What the certificate is for
    #[arg(long, value_enum, default_value_t = KindName::User)]
    pub(crate) kind: KindName,
    /// Whom it names; the role's own choice if not given. Repeatable, and a list with commas
    #[arg(long = "principal", value_name = "NAME")]
    pub(crate) principals: Vec<String>,
    /// How long it lives [default: 30m, or what the role allows]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// One JSON object on standard output instead of the certificate alone
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// The two kinds of certificate, as they are typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KindName {
    User,
    Host,
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.as_secs() > 0 && duration.as_secs() <= MOST.as_secs() => Ok(duration),
        Ok(_) => Err("between one second and ten years".to_owned()),
        Err(_) => Err("a duration looks like 30m, 1h or 1h30m".to_owned()),
    }
}

/// The longest duration that can be asked for.
const MOST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A name that is written into roles and policies, where `*` would mean anything and a quote would end it.
fn name(text: &str) -> Result<String, String> {
    let is_harmless = |c: char| c.is_ascii_alphanumeric() || "._@-/:{} ".contains(c);
    if text.is_empty() || text.trim() != text || !text.chars().all(is_harmless) {
        return Err(
            "a name has letters, digits, ._@-/: and {{templates}} only; `*` would allow anything".to_owned()
        );
    }
    Ok(text.to_owned())
}

/// The same, in a list with blanks after its commas.
fn trimmed(text: &str) -> Result<String, String> {
    name(text.trim())
}

fn trim(text: &str) -> Result<String, String> {
    Ok(text.trim().to_owned())
}

/// A mount, which is often written with a slash at its end.
fn mount(text: &str) -> Result<String, String> {
    name(text.trim_matches('/'))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_name_that_would_allow_anything_is_refused() {
        for text in ["*", "al*", "", " a", "a\"", "a\nb", "a,b", "+"] {
            assert!(name(text).is_err(), "{text:?}");
        }
        for text in ["tunnel", "me@example.com", "{{identity.entity.name}}", "team/ssh", "::1"] {
            assert!(name(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_list_is_split_and_trimmed_alike() {
        for list in ["a,b", "a, b", " a ,b "] {
            let words = ["vault-signer", "bootstrap", "--domain", "x.com", "--principal", list];
            let Ok(Cli { command: Command::Bootstrap(Bootstrap { principals, .. }) }) =
                Cli::try_parse_from(words)
            else {
                panic!("{list}")
            };
            assert_eq!(principals, ["a", "b"], "{list}");
            let words = ["vault-signer", "dev", "--principal", list];
            let Ok(Cli { command: Command::Dev(Dev { principals, .. }) }) = Cli::try_parse_from(words) else {
                panic!("{list}")
            };
            assert_eq!(principals, ["a", "b"], "{list}");
            assert_eq!(vault_signer::list(list).collect::<Vec<_>>(), ["a", "b"], "{list}");
        }
    }

    #[test]
    fn a_duration_has_bounds() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        for text in ["0s", "30", "11years", "-1m", ""] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
