//! Makes the bastion's parts out of its configuration. Starts no task.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use ssh_transport::{budget, key_exchange::Rekey, relay::SPILL};
use tokio::net::TcpListener;
use vault_signer::server::SettingsError;

use super::Error;
use crate::{
    accept,
    access::{Floor, KubernetesApi, Objects, Policy, Rule},
    config::Config,
    dial::{
        Dialler,
        endpoints::Endpoints,
        resolver::{self, Resolver},
    },
    identity::{authorities::AuthoritySet, certificate::Requirements, revocation::RevocationList},
    ssh,
    trust::vault::Vault,
};

/// The most connections that wait to be accepted. A client that finds no room retries after a second, so a
/// burst must fit; the system's own limit (net.core.somaxconn) applies too.
const BACKLOG: i32 = 4096;

pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(crate) fn vault(config: &Config) -> Result<Option<Vault>, SettingsError> {
    config.needs_vault().then(|| Vault::new(&config.vault, environment)).transpose()
}

pub(crate) fn policy(config: &Config, api: KubernetesApi, objects: Arc<Objects>) -> Policy {
    if config.rules.is_empty() && config.kubernetes.is_none() {
        tracing::warn!("no rules are configured: the bastion forwards nothing");
    }
    Policy {
        rules: config.rules.iter().cloned().map(Rule::from).map(Arc::new).collect(),
        objects,
        floor: Arc::new(Floor::new(config.open_networks.clone(), api)),
    }
}

/// The conditions of a login, from the trusted authorities and the revocation lists.
pub(crate) fn requirements(
    config: &Config,
    authorities: AuthoritySet,
    revoked: RevocationList,
) -> Requirements {
    let max_lifetime = config.limits.max_certificate_lifetime.0;
    let removed_authority = config.removed_authority;
    Requirements { authorities, users: config.login.users(), max_lifetime, revoked, removed_authority }
}

pub(crate) fn dialler(config: &Config, endpoints: Arc<ArcSwap<Endpoints>>) -> Result<Dialler, Error> {
    let hosts: HashMap<_, _> =
        config.hosts.iter().map(|(name, addresses)| (name.0.clone(), addresses.clone())).collect();
    let servers = config.dns.servers.iter().map(|server| server.0).collect();
    let resolver = Resolver::new(resolver::Settings { hosts, servers, patience: config.timeouts.resolve.0 })?;
    Ok(Dialler { resolver, endpoints, connect: config.timeouts.connect.0 })
}

/// The memory budgets. One stream holds up its own session long before its identity's budget is spent.
pub(super) fn memory(config: &Config) -> budget::Limits {
    let (process, owner) = (config.limits.buffered_bytes.0.0, config.limits.per_identity.buffered_bytes.0.0);
    let owner = owner.min(process);
    budget::Limits {
        process,
        owner,
        stream: (owner / 4).min(SPILL),
        patience: config.timeouts.stalled_target.0,
    }
}

pub(super) fn bounds(config: &Config) -> accept::Bounds {
    accept::Bounds {
        login_deadline: config.limits.login_deadline.0,
        max_sessions: config.limits.max_sessions.get(),
        startups: config.limits.max_startups,
        penalties: config.limits.penalties,
        proxies: config.proxy_protocol.clone(),
    }
}

pub(super) fn ssh(config: &Config) -> ssh::Settings {
    ssh::Settings {
        rekey: Rekey { bytes: config.rekey.bytes.0.0, time: config.rekey.time.0.0 },
        opens: config.limits.per_identity.opens(),
        more_algorithms: config.more_algorithms.clone(),
    }
}

/// The streams of one client keep no more than three quarters of its identity's budget, so that those which
/// wait for nothing but their turn are never taken for stalled ones when it is spent.
pub(super) fn streams(config: &Config) -> ssh::StreamSettings {
    ssh::StreamSettings {
        keep_detached: config.streams.keep_detached.0,
        keep_after_expiry: config.streams.keep_after_expiry.0,
        max_window: config.streams.max_window.0.0,
        kept: memory(config).owner / 4 * 3,
    }
}

pub(super) fn liveness(config: &Config) -> ssh::Liveness {
    ssh::Liveness { interval: config.keepalive.interval.0, most_missed: config.keepalive.max_missed }
}

/// Binds a port. `setting` names the address in the error.
pub(super) fn listen(setting: &'static str, address: SocketAddr) -> Result<Socket, Error> {
    let bind = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // A restart must not wait until the system has forgotten the connections of the last run.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    bind().map_err(|source| Error::Listen { setting, address, source })
}

/// Makes a listener of a bound socket.
pub(super) fn accepting(
    setting: &'static str,
    address: SocketAddr,
    socket: Socket,
) -> Result<TcpListener, Error> {
    TcpListener::from_std(socket.into()).map_err(|source| Error::Listen { setting, address, source })
}
