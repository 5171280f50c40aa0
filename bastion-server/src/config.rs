//! Reads the settings from one YAML file and a few environment variables into one typed value, or an error
//! with file, line and remedy.
//!
//! `deploy/examples/bastion.yaml` shows every setting. This module reads neither the clock nor the network;
//! the module that uses a file that the configuration names reads it, and `--check-config` reads all of them.

mod environment;
mod host_key;
mod kubernetes;
pub(crate) mod proxy_protocol;
mod rule;
mod schema;
mod vault;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::JsonSchema;
use serde::Deserialize;
use ssh_transport::{algorithms::More, key_exchange};

use proxy_protocol::ProxyProtocol;

use crate::{
    access::Forbidden,
    destination::Host,
    identity::certificate::RemovedAuthority,
    limits::{identities, startups},
    telemetry,
};

pub(crate) use crate::common::units::{BufferSize, ByteSize, Delay, Period};
pub(crate) use environment::VARIABLES;
pub(crate) use host_key::HostKey;
pub(crate) use kubernetes::{Kubernetes, ObjectKey, ObjectName, PublicName};
pub(crate) use rule::{Login, Rule};
pub(crate) use schema::Network;
pub use schema::json_schema;
pub(crate) use vault::{Auth, Vault};

/// The settings of bastion-server.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "The configuration of bastion-server")]
pub struct Config {
    /// The address and port on which SSH clients are accepted, for example `0.0.0.0:2222`. Port 0 lets the
    /// system choose.
    #[serde(deserialize_with = "schema::socket_address")]
    #[schemars(with = "schema::SocketAddress")]
    pub listen: SocketAddr,
    /// Which load balancers may announce the client's address. Default: none.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// The bastion's host key, by which clients recognize it.
    pub host_key: HostKey,
    /// The authorities whose user certificates are accepted.
    pub authorities: Authorities,
    /// Whether live sessions end when their authority is no longer trusted. Default: `end_sessions`.
    #[serde(default)]
    pub removed_authority: RemovedAuthority,
    /// The lists of revoked keys and certificates. Default: none.
    #[serde(default)]
    pub revocation: Revocation,
    /// The Vault or OpenBao server, needed where `host_key` or `authorities` refer to Vault.
    #[serde(default)]
    pub vault: Vault,
    /// The login names that clients may use.
    pub login: Login,
    /// The rules that permit and deny destinations. With no rule the bastion forwards nothing. Default: none.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// What the bastion reads from and writes to the cluster that it runs in. Default: nothing.
    #[serde(default, deserialize_with = "config_file::section")]
    pub kubernetes: Option<Kubernetes>,
    /// Networks of the floor that rules may permit all the same, for example `[link-local]`. Default: none.
    #[serde(default)]
    pub open_networks: Vec<Forbidden>,
    /// Addresses of names that no DNS server knows, or that must not be asked of one, for example
    /// `{orders.internal: [10.20.3.4]}`. Default: none.
    #[serde(default)]
    #[schemars(with = "HashMap<HostName, Vec<schema::Address>>")]
    pub hosts: HashMap<HostName, Vec<IpAddr>>,
    /// The name servers for all other names. Default: those of the system.
    #[serde(default)]
    pub dns: Dns,
    /// Limits on connections, sessions, certificates and memory.
    #[serde(default)]
    pub limits: Limits,
    /// How long the bastion waits for name servers and targets.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How the bastion notices that a client is gone.
    #[serde(default)]
    pub keepalive: Keepalive,
    /// How forwarded connections of `pf-tunnel` outlive its SSH connection.
    #[serde(default)]
    pub streams: Streams,
    /// When the bastion replaces a session's keys.
    #[serde(default)]
    pub rekey: Rekey,
    /// Algorithms that are offered beside the default ones, for clients that support none of those, for
    /// example `[aes256-ctr]`. Default: none.
    #[serde(default)]
    pub more_algorithms: Vec<More>,
    /// The HTTP listener for health and metrics. Default: no listener.
    #[serde(default, deserialize_with = "config_file::section")]
    pub admin: Option<Admin>,
    /// The logs on standard error.
    #[serde(default)]
    pub log: Log,
    /// The audit records.
    #[serde(default)]
    pub audit: Audit,
    /// The shutdown after SIGTERM or SIGINT.
    #[serde(default)]
    pub drain: Drain,
    /// Whether the process confines itself by the fence, its sandbox, before it serves. Default: `auto`.
    #[serde(default)]
    pub fence: Fence,
}

impl Config {
    /// Reads the file, and then the environment, which takes precedence.
    ///
    /// # Errors
    /// Names the file, line and column, or the variable, and the remedy.
    pub fn load(path: &Path, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        config_file::read::<Self>(path)?.overridden(variable)
    }

    /// Returns this configuration with those settings of `other` that can change while the bastion serves:
    /// who may log in and for how long, the rules, and the addresses of names.
    #[must_use]
    pub fn with_live_settings_of(self, other: &Self) -> Self {
        Self {
            login: other.login.clone(),
            rules: other.rules.clone(),
            open_networks: other.open_networks.clone(),
            hosts: other.hosts.clone(),
            dns: other.dns.clone(),
            removed_authority: other.removed_authority,
            timeouts: other.timeouts,
            limits: Limits { max_certificate_lifetime: other.limits.max_certificate_lifetime, ..self.limits },
            ..self
        }
    }

    /// The files that are read while the bastion serves.
    pub fn files(&self) -> Vec<&Path> {
        let authorities = self.authorities.sources().iter().filter_map(|source| match source {
            AuthoritySource::File(path) | AuthoritySource::Folder(path) => Some(path),
            AuthoritySource::Vault(_)
            | AuthoritySource::Key(_)
            | AuthoritySource::Secret(_)
            | AuthoritySource::ConfigMap(_) => None,
        });
        let host_key = match &self.host_key {
            HostKey::File { key, certificate } => [Some(key), certificate.as_ref()],
            HostKey::Generate | HostKey::Vault(_) | HostKey::Secret(_) => [None, None],
        };
        let vault = [self.vault.ca_cert.as_ref(), self.vault.auth.file()];
        authorities
            .chain(&self.revocation.files)
            .chain(host_key.into_iter().flatten())
            .chain(vault.into_iter().flatten())
            .map(PathBuf::as_path)
            .collect()
    }

    /// Whether the configuration needs Vault.
    pub fn needs_vault(&self) -> bool {
        matches!(self.host_key, HostKey::Vault(_))
            || self.authorities.sources().iter().any(|source| matches!(source, AuthoritySource::Vault(_)))
    }

    /// Whether the configuration needs a cluster.
    pub fn needs_cluster(&self) -> bool {
        self.kubernetes.is_some() || self.authorities_need_cluster() || self.host_key_needs_cluster()
    }

    /// Whether the Services of a namespace are followed.
    pub fn follows_namespace(&self, namespace: &str) -> bool {
        self.kubernetes.as_ref().is_some_and(|wanted| {
            let listed = || wanted.policies.namespaces.iter().any(|listed| listed.as_str() == namespace);
            wanted.policies.all_namespaces || listed()
        })
    }

    /// Whether an authority comes from the cluster.
    pub fn authorities_need_cluster(&self) -> bool {
        let kept = |source: &AuthoritySource| {
            matches!(source, AuthoritySource::Secret(_) | AuthoritySource::ConfigMap(_))
        };
        let Revocation { files: _, config_maps, secrets } = &self.revocation;
        self.authorities.sources().iter().any(kept) || !config_maps.is_empty() || !secrets.is_empty()
    }

    fn host_key_needs_cluster(&self) -> bool {
        matches!(self.host_key, HostKey::Secret(_))
    }
}

/// The name servers that the bastion asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// The name servers, each with port 53 unless it has another, for example `[10.96.0.10,
    /// "127.0.0.1:5353"]`. Default: those of `/etc/resolv.conf`, with its search list.
    pub servers: Vec<NameServer>,
}

/// A name server: an address, with a port unless it is 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "schema::NameServer")]
pub struct NameServer(pub SocketAddr);

impl TryFrom<String> for NameServer {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const PORT: u16 = 53;
        let alone = || text.parse().map(|address: IpAddr| SocketAddr::new(address, PORT));
        text.parse()
            .or_else(|_| alone())
            .map(Self)
            .map_err(|_| "this is no address; write 10.96.0.10 or 10.96.0.10:5353")
    }
}

/// A name in `hosts`, in lower case and without a final dot: the search list does not apply to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = schema::HOST_NAME))]
pub struct HostName(pub String);

impl TryFrom<String> for HostName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match Host::parse(&text) {
            Ok(Host::Name(name)) => Ok(Self(name.as_str().to_owned())),
            Ok(Host::Address(_)) | Err(_) => Err("this is no host name"),
        }
    }
}

/// Why the configuration cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or parsed.
    #[error(transparent)]
    File(#[from] config_file::Error),
    /// An environment variable cannot be used.
    #[error(transparent)]
    Environment(#[from] environment::Error),
}

/// The revocation lists. A certificate that any of them revokes is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Revocation {
    /// Files in the formats of sshd's `RevokedKeys`, for example `[/etc/bastion/revoked.krl]`. Default: none.
    pub files: Vec<PathBuf>,
    /// Entries of ConfigMaps in the bastion's own namespace that hold such lists, for example `[{name:
    /// revoked, key: revoked.krl}]`. Default: none.
    pub config_maps: Vec<ObjectKey>,
    /// Entries of Secrets in the bastion's own namespace that hold such lists. Default: none.
    pub secrets: Vec<ObjectKey>,
}

/// At least one source of authorities.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<AuthoritySource>")]
#[schemars(with = "Vec<AuthoritySource>", extend("minItems" = 1))]
pub struct Authorities(Vec<AuthoritySource>);

impl Authorities {
    /// The sources, in the order of the file.
    pub fn sources(&self) -> &[AuthoritySource] {
        &self.0
    }
}

impl TryFrom<Vec<AuthoritySource>> for Authorities {
    type Error = &'static str;

    fn try_from(sources: Vec<AuthoritySource>) -> Result<Self, Self::Error> {
        if sources.is_empty() {
            return Err(
                "without an authority no client can log in; add one, such as `- file: /etc/bastion/ca.pub`",
            );
        }
        Ok(Self(sources))
    }
}

/// A source of authorities' public keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuthoritySource {
    /// The public keys of an SSH secrets engine of Vault.
    Vault(VaultAuthority),
    /// A file in the format of sshd's `TrustedUserCAKeys`.
    File(PathBuf),
    /// A folder of such files, with names that end in `.pub`.
    Folder(PathBuf),
    /// The public key itself, as in such a file.
    Key(AuthorityKey),
    /// The entry of a Secret in the bastion's own namespace that holds such a file.
    Secret(ObjectKey),
    /// The entry of a ConfigMap in the bastion's own namespace that holds such a file.
    ConfigMap(ObjectKey),
}

/// An SSH secrets engine of Vault, whose authority signs user certificates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultAuthority {
    /// The path of the mount, for example `ssh`.
    pub mount: String,
    /// The trusted issuers, by name or id, where the mount has several, for example `[default, next]`.
    /// Default: the mount's default issuer.
    #[serde(default)]
    pub issuers: Vec<String>,
    /// The interval at which the bastion reads the keys again. Default: `5m`.
    #[serde(default = "five_minutes")]
    pub refresh: Period,
}

fn five_minutes() -> Period {
    Period(Duration::from_secs(300))
}

/// A public key in the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = schema::PUBLIC_KEY))]
pub struct AuthorityKey(pub ssh_key::PublicKey);

impl TryFrom<String> for AuthorityKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // A block scalar of YAML ends with a line break.
        ssh_key::PublicKey::from_openssh(text.trim())
            .map(Self)
            .map_err(|_| "this is no public key; write one as in a .pub file, such as ssh-ed25519 AAAA…")
    }
}

/// Limits on connections, sessions, certificates and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The longest time from accepting a connection to the end of its login, passphrase, PIN or touch
    /// included. Default: `1m`.
    pub login_deadline: Period,
    /// The longest lifetime of a user certificate. Two minutes are added, by which authorities backdate the
    /// start. Default: `24h`.
    pub max_certificate_lifetime: Period,
    /// The most connections that may be open simultaneously, logged in or not. Default: 1000.
    pub max_sessions: NonZeroUsize,
    /// The most forwarded connections that may be open simultaneously in one session. Default: 1000.
    pub max_channels_per_session: NonZeroUsize,
    /// The most bytes of all clients together that may wait in memory. The process itself needs some 64 MiB
    /// more. Default: `96MiB`.
    pub buffered_bytes: BufferSize,
    /// Limits on connections that have not logged in yet.
    pub max_startups: startups::Limits,
    /// Penalties of a source for connections that came to nothing.
    pub penalties: startups::Penalties,
    /// Limits on what one identity, a key with its login name, may use.
    pub per_identity: identities::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        const THOUSAND: NonZeroUsize = NonZeroUsize::new(1000).unwrap();
        Self {
            login_deadline: seconds(60),
            max_certificate_lifetime: seconds(24 * 3600),
            max_sessions: THOUSAND,
            max_channels_per_session: THOUSAND,
            buffered_bytes: BufferSize(ByteSize(96 << 20)),
            max_startups: startups::Limits::default(),
            penalties: startups::Penalties::default(),
            per_identity: identities::Limits::default(),
        }
    }
}

/// How long the bastion waits for name servers and targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// The longest wait for the addresses of a destination. Default: `5s`.
    pub resolve: Period,
    /// The longest wait until a destination accepts the connection, at any of its addresses. Default: `10s`.
    pub connect: Period,
    /// The longest time for which a destination may take no data while the rest of its client's session waits
    /// behind it. A destination behind which nothing waits may pause for any time. Default: `10s`.
    pub stalled_target: Period,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { resolve: seconds(5), connect: seconds(10), stalled_target: seconds(10) }
    }
}

/// How the bastion notices that a client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keepalive {
    /// The silence after which the bastion asks the client for an answer. Default: `15s`.
    pub interval: Period,
    /// The number of unanswered questions after which the bastion ends the session. Default: 3.
    pub max_missed: NonZeroUsize,
}

impl Default for Keepalive {
    fn default() -> Self {
        const THREE: NonZeroUsize = NonZeroUsize::new(3).unwrap();
        Self { interval: seconds(15), max_missed: THREE }
    }
}

/// How long forwarded connections of `pf-tunnel` wait for its next login when its SSH connection is lost, and
/// how much of each is under way. Other clients' connections end with their SSH connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Streams {
    /// The longest time for which open connections wait. With `0s` they end with the SSH connection. Default:
    /// `10m`.
    pub keep_detached: Delay,
    /// The longest time for which they wait beyond the end of the certificate. Until the client has logged in
    /// with another one, no byte flows. Default: `10m`.
    pub keep_after_expiry: Delay,
    /// The most bytes of one connection that may be under way in each direction. Default: `16MiB`.
    pub max_window: BufferSize,
}

impl Default for Streams {
    fn default() -> Self {
        const TEN_MINUTES: Delay = Delay(Duration::from_secs(600));
        Self {
            keep_detached: TEN_MINUTES,
            keep_after_expiry: TEN_MINUTES,
            max_window: BufferSize(ByteSize(16 << 20)),
        }
    }
}

/// When a session's keys are replaced: at whichever limit is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rekey {
    /// The bytes in one direction after which the keys are replaced, `1MiB` to `64GiB`. Default: `1GiB`.
    pub bytes: RekeyBytes,
    /// The time after which the keys are replaced, at least `1m`. Default: `1h`.
    pub time: RekeyTime,
}

/// The number of bytes that one set of keys protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "ByteSize")]
#[schemars(with = "ByteSize")]
pub struct RekeyBytes(pub ByteSize);

impl TryFrom<ByteSize> for RekeyBytes {
    type Error = &'static str;

    fn try_from(bytes: ByteSize) -> Result<Self, Self::Error> {
        if bytes.0 < key_exchange::FEWEST_BYTES {
            return Err(
                "a session would do little but exchange keys; write 1MiB or more: each exchange holds up \
                        every stream for a round trip",
            );
        }
        if bytes.0 > key_exchange::MOST_BYTES {
            return Err("one set of keys would protect more than RFC 4344 allows; write 64GiB or less");
        }
        Ok(Self(bytes))
    }
}

/// The time for which one set of keys is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Period")]
#[schemars(with = "Period")]
pub struct RekeyTime(pub Period);

impl TryFrom<Period> for RekeyTime {
    type Error = &'static str;

    fn try_from(time: Period) -> Result<Self, Self::Error> {
        if time.0 < key_exchange::SHORTEST {
            return Err("a session would exchange keys all the time; write 1m or more");
        }
        Ok(Self(time))
    }
}

impl Default for Rekey {
    fn default() -> Self {
        Self { bytes: RekeyBytes(ByteSize(1 << 30)), time: RekeyTime(seconds(3600)) }
    }
}

/// The HTTP listener for health and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// The address and port of the listener, for example `127.0.0.1:8080`. It shows no secrets, but is not
    /// meant for the public.
    #[serde(deserialize_with = "schema::socket_address")]
    #[schemars(with = "schema::SocketAddress")]
    pub listen: SocketAddr,
}

/// The logs on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The lowest level that is logged. Default: `info`.
    pub level: telemetry::Level,
    /// The format of log lines. Default: `human`.
    pub format: telemetry::Format,
}

/// The audit records, one JSON object a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// The destination of audit records: `stdout` or a file, for example `{file:
    /// /var/log/bastion/audit.jsonl}`. Default: `stdout`.
    pub to: AuditTo,
    /// The behaviour while audit records cannot be written. Default: `stop`.
    pub when_full: WhenFull,
}

/// The behaviour while audit records cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenFull {
    /// The bastion grants no login and no forward. Open forwards continue.
    #[default]
    Stop,
    /// The bastion goes on, and counts the records that are lost.
    Count,
}

/// The destination of audit records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditTo {
    /// Standard output, to which nothing else writes.
    #[default]
    Stdout,
    /// A file, to which records are appended.
    File(PathBuf),
}

/// Whether the process confines itself by Landlock and seccomp before it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fence {
    /// The process uses what the kernel supports.
    #[default]
    Auto,
    /// The process does not confine itself.
    Off,
    /// The process does not start unless the kernel supports the fence.
    Required,
}

/// The shutdown after SIGTERM or SIGINT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// How long clients are still accepted while `/readyz` fails, so that load balancers notice first.
    /// Default: `0s`.
    pub readiness_delay: Delay,
    /// How long sessions that forward something may continue after that; idle sessions are told to disconnect
    /// immediately. Default: `5s`.
    pub timeout: Delay,
}

impl Default for Drain {
    fn default() -> Self {
        Self { readiness_delay: Delay(Duration::ZERO), timeout: Delay(Duration::from_secs(5)) }
    }
}

fn seconds(seconds: u64) -> Period {
    Period(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "listen: 127.0.0.1:0\nhost_key: {generate: true}\nauthorities: [{file: ca.pub}]\nlogin: {users: [tunnel]}\n";

    fn parse(text: &str) -> Result<Config, String> {
        config_file::parse::<Config>("bastion.yaml".as_ref(), text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_says_every_setting_and_its_default() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/bastion.yaml");
        let example = Config::load(&folder, |_| None).unwrap();
        let smallest = parse(SMALLEST).unwrap();
        assert_eq!(example.revocation, smallest.revocation);
        assert_eq!(example.proxy_protocol, smallest.proxy_protocol);
        assert_eq!(example.limits, smallest.limits);
        assert_eq!(example.timeouts, smallest.timeouts);
        assert_eq!(example.keepalive, smallest.keepalive);
        assert_eq!(example.rekey, smallest.rekey);
        assert_eq!(example.more_algorithms, smallest.more_algorithms);
        assert_eq!(example.log, smallest.log);
        assert_eq!(example.audit, smallest.audit);
        assert_eq!(example.drain, smallest.drain);
        assert_eq!(example.fence, smallest.fence);
        assert_eq!(example.rules.len(), 3);
    }

    #[test]
    fn mistakes_name_their_place_and_remedy() {
        for (from, to, expected) in [
            ("login:", "logins:", "bastion.yaml:4:1: `logins` is not a key here\n  Did you mean `login`?"),
            ("login: {users: [tunnel]}\n", "", "`login` is missing"),
            ("127.0.0.1:0", "2222", "bastion.yaml:1:9: this is no address with a port; write 0.0.0.0:2222"),
            (
                "127.0.0.1:0",
                "\":2222\"",
                "bastion.yaml:1:9: this is no address with a port; write 0.0.0.0:2222",
            ),
            ("127.0.0.1:0", "localhost:2222", "or 127.0.0.1:2222 for localhost"),
            ("[tunnel]", "['role:dba']", "bastion.yaml:4:17: this is no login name"),
            ("[{file: ca.pub}]", "[]", "bastion.yaml:3:"),
            ("[{file: ca.pub}]", "[{key: ssh-ed25519 hunter2}]", "this is no public key"),
            ("[{file: ca.pub}]", "[{vault: {mount: ssh, refresh: 5}}]", "this is no duration"),
            ("{generate: true}", "{generate: true, file: key}", "bastion.yaml:2:"),
            ("{generate: true}", "{generate: false}", "bastion.yaml:2:"),
            ("{generate: true}", "{certificate: cert}", "bastion.yaml:2:"),
        ] {
            let text = SMALLEST.replace(from, to);
            assert_ne!(text, SMALLEST);
            let error = parse(&text).unwrap_err();
            assert!(error.contains(expected), "{text}{error}");
            assert!(!error.contains("hunter2"), "{error}");
            assert!(schema::tests::complaint(&text).is_some(), "{text}");
        }
        // The schema reads this as no listener.
        assert!(parse(&format!("{SMALLEST}admin:\n")).unwrap_err().contains("`listen` is missing"));
        for (more, expected) in [
            ("limits: {login_deadline: 20}\n", "bastion.yaml:5:26: this is no duration"),
            ("limits: {max_sessions: 0}\n", "bastion.yaml:5:"),
            ("limits: {max_startups: {total: 0}}\n", "bastion.yaml:5:"),
            ("keepalive: {interval: 0s}\n", "bastion.yaml:5:23: this must be longer than nothing"),
            ("rekey: {bytes: 1}\n", "this is no size"),
            (
                "rekey: {bytes: 1023KiB}\n",
                "bastion.yaml:5:16: a session would do little but exchange keys; write 1MiB",
            ),
            ("rekey: {bytes: 1023KiB}\n", "each exchange holds up every stream for a round trip"),
            ("rekey: {bytes: 65GiB}\n", "RFC 4344 allows; write 64GiB or less"),
            ("rekey: {time: 59s}\n", "write 1m or more"),
            ("revocation: {file: a.krl}\n", "Did you mean `files`?"),
            ("revocation: {files: a.krl}\n", "bastion.yaml:5:21: "),
            ("limits: {penalties: {threshold: 0s}}\n", "bastion.yaml:5:"),
            ("limits: {per_identity: {connections: 0}}\n", "bastion.yaml:5:"),
            ("limits: {buffered_bytes: 1023KiB}\n", "bastion.yaml:5:26: a single connection would spend it"),
            ("limits: {per_identity: {buffered_bytes: 1023KiB}}\n", "write 1MiB or more"),
            ("timeouts: {stalled_target: 0s}\n", "this must be longer than nothing"),
            ("proxy_protocol: {mode: sometimes}\n", "Known values are `off`, `optional`, `required`."),
            ("proxy_protocol: {trusted: [10.0.0.0/8]}\n", "`mode` is missing"),
            ("proxy_protocol: {mode: required}\n", "name the load balancer's networks in `trusted`"),
            ("proxy_protocol: {mode: optional, trusted: [10.0.0.1/8]}\n", "bits set behind its prefix"),
            ("open_networks: [127.0.0.0/8]\n", "Known values are `loopback`"),
            ("audit: {to: syslog}\n", "Known values are `stdout`, `file`."),
            (
                "more_algorithms: [aes256-cbc]\n",
                "Known values are `aes128-ctr`, `aes192-ctr`, `aes256-ctr`, `ecdh-",
            ),
            (
                "more_algorithms: [diffie-hellman-group14-sha256]\n",
                "bastion.yaml:5:19: this is none of the values",
            ),
            ("log: {level: loud}\n", "Known values are `error`"),
            ("vault: {auth: {method: approle}}\n", "role_id"),
            ("vault: {auth: {method: token, role_id: x}}\n", "bastion.yaml:5:"),
            ("vault: {auth: {method: kubernetes, role: x}}\n", "token_file"),
            ("vault: {auth: {method: kubernetes, role: x, token_file: y, username: z}}\n", "bastion.yaml:5:"),
            ("rules: [{name: a, who: {principal: [dev]}, to: ['*:1']}]\n", "Did you mean `principals`?"),
            ("rules: [{name: a, who: {principals: []}, to: ['*:1']}]\n", "bastion.yaml:5:"),
            (
                "rules: [{name: a, who: {principals: ['a*']}, to: ['*:1']}]\n",
                "bastion.yaml:5:38: this is no principal",
            ),
            (
                "rules: [{name: a, who: {principals: ['a,b']}, to: ['*:1']}]\n",
                "bastion.yaml:5:38: this is no",
            ),
            ("rules: [{name: a, who: {principals: ['']}, to: ['*:1']}]\n", "bastion.yaml:5:38: this is no"),
            (
                "rules: [{name: a, who: {principals: [\"a\\0\"]}, to: ['*:1']}]\n",
                "bastion.yaml:5:38: this is no",
            ),
            ("rules: [{name: a, who: {everybody: false}, to: ['*:1']}]\n", "bastion.yaml:5:"),
            (
                "rules: [{name: a, who: {everybody: yes}, to: ['*:1']}]\n",
                "bastion.yaml:5:36: a word stands here",
            ),
            ("admin: {listen: ':8080'}\n", "bastion.yaml:5:17: this is no address with a port"),
            ("rules: [{name: a, who: {everybody: true}, to: []}]\n", "bastion.yaml:5:"),
            (
                "rules: [{name: a, who: {everybody: true}, to: [db]}]\n",
                "bastion.yaml:5:48: a destination is HOST:PORTS",
            ),
        ] {
            let text = format!("{SMALLEST}{more}");
            let error = parse(&text).unwrap_err();
            assert!(error.contains(expected), "{more}{error}");
            // A pattern cannot tell which bits are behind a prefix, or how much 59 s is.
            let is_beyond_a_schema =
                ["10.0.0.1/8", "1023KiB", "65GiB", "59s"].iter().any(|value| more.contains(value));
            assert_eq!(schema::tests::complaint(&text).is_none(), is_beyond_a_schema, "{more}");
        }
    }

    #[test]
    fn what_has_to_be_reached_is_known_from_the_file() {
        const VAULT_KEY: &str = "{vault: {mount: ssh-host, role: bastion}}";
        let with = |from: &str, to: &str| parse(&SMALLEST.replace(from, to)).unwrap();
        let and = |more: &str| parse(&format!("{SMALLEST}{more}\n")).unwrap();
        // Whether Vault is needed; whether a cluster is, and whether that is for authorities or for what is
        // revoked.
        for (config, vault, cluster, authorities) in [
            (and(""), false, false, false),
            (with("{generate: true}", VAULT_KEY), true, false, false),
            (with("{file: ca.pub}", "{vault: {mount: ssh}}"), true, false, false),
            (with("{generate: true}", "{secret: {name: host}}"), false, true, false),
            (with("{generate: true}", "{file: key}"), false, false, false),
            (with("{file: ca.pub}", "{secret: {name: ca, key: ca.pub}}"), false, true, true),
            (
                with("{file: ca.pub}", "{file: ca.pub}, {config_map: {name: ca, key: ca.pub}}"),
                false,
                true,
                true,
            ),
            (and("revocation: {files: [revoked.krl]}"), false, false, false),
            (and("revocation: {config_maps: [{name: revoked, key: krl}]}"), false, true, true),
            (and("revocation: {secrets: [{name: revoked, key: krl}]}"), false, true, true),
            (and("kubernetes: {events: false}"), false, true, false),
        ] {
            let needs = (config.needs_vault(), config.needs_cluster(), config.authorities_need_cluster());
            assert_eq!(needs, (vault, cluster, authorities), "{config:?}");
        }
        let HostKey::Vault(key) = with("{generate: true}", VAULT_KEY).host_key else { panic!("not Vault's") };
        assert_eq!(key.ttl.0, Duration::from_secs(24 * 3600));
        for (more, followed) in [
            ("", false),
            ("kubernetes: {}", false),
            ("kubernetes: {policies: {namespaces: [payments]}}", false),
            ("kubernetes: {policies: {namespaces: [payments, orders]}}", true),
            ("kubernetes: {policies: {all_namespaces: true}}", true),
        ] {
            assert_eq!(and(more).follows_namespace("orders"), followed, "{more}");
        }
    }

    #[test]
    fn every_file_that_is_read_while_it_serves_is_named() {
        let text = "listen: 127.0.0.1:0\nhost_key: {file: key, certificate: cert.pub}\n\
            authorities: [{file: ca.pub}, {folder: cas}]\nlogin: {users: [tunnel]}\nrevocation: {files: [revoked]}\n\
            vault: {ca_cert: vault.pem, auth: {method: approle, role_id: bastion, secret_id_file: secret}}\n";
        let named = parse(text).unwrap();
        let named: Vec<_> = named.files().into_iter().map(|path| path.to_str().unwrap().to_owned()).collect();
        assert_eq!(named, ["ca.pub", "cas", "revoked", "key", "cert.pub", "vault.pem", "secret"]);
    }

    #[test]
    fn what_may_change_while_it_serves_is_taken_from_the_new_file_and_nothing_else() {
        let running = parse(SMALLEST).unwrap();
        let written = SMALLEST.replace("127.0.0.1:0", "127.0.0.1:1").replace("[tunnel]", "[other]");
        let written = parse(&format!(
            "{written}rules: [{{name: all, who: {{everybody: true}}, to: ['*:*']}}]\nopen_networks: [loopback]\n\
             hosts: {{db.internal: [10.0.0.1]}}\ndns: {{servers: [10.0.0.2]}}\nremoved_authority: let_run_out\n\
             timeouts: {{connect: 1s}}\nlimits: {{max_certificate_lifetime: 1h, max_sessions: 7}}\n"
        ))
        .unwrap();
        let lifetime = written.limits.max_certificate_lifetime;
        let limits = Limits { max_certificate_lifetime: lifetime, ..running.limits };
        let expected = Config { listen: running.listen, limits, ..written.clone() };
        assert_eq!(running.with_live_settings_of(&written), expected);
    }

    #[test]
    fn users_proxies_and_authorities_are_those_of_the_file() {
        let and = |more: &str| parse(&format!("{SMALLEST}{more}\n"));
        let users: Vec<_> = parse(SMALLEST).unwrap().login.users();
        assert_eq!(users, [crate::identity::LoginName::new("tunnel")]);
        let proxies = and("proxy_protocol: {mode: optional, trusted: [10.0.0.0/8, 'fd00::/8']}").unwrap();
        assert_eq!(proxies.proxy_protocol.mode(), proxy_protocol::Mode::Optional);
        for (peer, trusted) in
            [("10.1.2.3", true), ("11.0.0.1", false), ("fd00::7", true), ("fe00::7", false)]
        {
            assert_eq!(proxies.proxy_protocol.trusts(peer.parse().unwrap()), trusted, "{peer}");
        }
        let authority = |text: &str| {
            and(&format!("rules: [{{name: a, who: {{authorities: ['{text}']}}, to: ['*:1']}}]")).map(drop)
        };
        assert_eq!(authority("SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"), Ok(()));
        let other = format!("SHA512:{}", "A".repeat(86));
        assert!(authority(&other).is_err() && authority("SHA256:none").is_err());
    }

    #[test]
    fn names_in_a_cluster_are_those_of_the_file() {
        let with = |kubernetes: &str| parse(&format!("{SMALLEST}kubernetes: {kubernetes}\n"));
        let publish =
            with("{publish: {config_map: a.b-1, names: [bastion.example.com, '[10.0.0.1]:2222', '::1']}}");
        let publish = publish.unwrap().kubernetes.unwrap().publish.unwrap();
        assert_eq!(publish.config_map.as_str(), "a.b-1");
        let names: Vec<_> = publish.names.iter().map(PublicName::as_str).collect();
        assert_eq!(names, ["bastion.example.com", "[10.0.0.1]:2222", "::1"]);
        let longest = "a".repeat(262);
        assert!(with(&format!("{{publish: {{config_map: a, names: [{longest}]}}}}")).is_ok());
        for name in ["''", "a b", "'a,b'", "'*'", "bästion", &format!("a{longest}")] {
            let error = with(&format!("{{publish: {{config_map: a, names: [{name}]}}}}")).unwrap_err();
            assert!(error.contains("this is no name of a host"), "{name}: {error}");
        }
        let longest = "a".repeat(253);
        for (name, is_one) in [
            ("a", true),
            ("0.a-b", true),
            (&*longest, true),
            (&*format!("a{longest}"), false),
            ("''", false),
            ("-a", false),
            ("a-", false),
            (".a", false),
            ("a.", false),
            ("A", false),
            ("a_b", false),
        ] {
            let parsed = with(&format!("{{policies: {{namespaces: [{name}]}}}}"));
            assert_eq!(parsed.is_ok(), is_one, "{name}");
        }
        let key = parse(&format!("{SMALLEST}revocation: {{secrets: [{{name: revoked, key: \"a\\nb\"}}]}}\n"))
            .unwrap();
        assert_eq!(key.revocation.secrets[0].to_string(), "revoked, key a\\nb");
    }

    #[test]
    fn keys_may_be_replaced_as_seldom_and_as_often_as_the_bounds_say() {
        for rekey in ["{bytes: 1MiB}", "{bytes: 64GiB}", "{time: 1m}"] {
            assert!(parse(&format!("{SMALLEST}rekey: {rekey}\n")).is_ok(), "{rekey}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::load("/nowhere/bastion.yaml".as_ref(), |_| None).unwrap_err();
        assert!(error.to_string().contains("/nowhere/bastion.yaml: "), "{error}");
    }
}
