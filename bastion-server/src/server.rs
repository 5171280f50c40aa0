//! Puts the parts together: what is read, started and waited for, in which order, and how it all ends.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use ssh_transport::{
    budget::{self, Budget},
    key_exchange::Rekey,
    relay::SPILL,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use vault_signer::server::SettingsError;

use crate::{
    accept::{self, Bounds},
    access::{Floor, KubernetesApi, Objects, Policy, Rule},
    admin::{self, Admin, Readiness},
    audit::{self, Audit},
    authority_source,
    config::{self, Config},
    dial::{
        Dialler,
        endpoints::Endpoints,
        resolver::{self, NoServers, Resolver},
    },
    explain::{self, Explanation, Question},
    host_key::{self, HostKey},
    identity::{authorities::AuthoritySet, certificate::Requirements, revocation::RevocationList},
    kubernetes::{self, Cluster, offline::Offline},
    kubernetes_api,
    limits::identities::Census,
    means::Means,
    process::{
        drain::{Drain, Finished, Signals},
        fence::{self, Fence},
        own_addresses::{self, NoServiceHost},
    },
    reload, revocation_source,
    ssh::{self, Service},
    telemetry::{self, metrics::Metrics, warnings::Notices},
    vault::{self, Vault},
};

/// Connections that may wait to be accepted. A client that finds no room tries again after a second, so that a burst must
/// fit; the system's own limit (net.core.somaxconn) holds beside it.
const BACKLOG: i32 = 4096;
/// How long the last audit records may take.
const FLUSH_PATIENCE: Duration = Duration::from_secs(3);

/// How long [`explain`] waits for Vault.
const EXPLAIN_PATIENCE: Duration = Duration::from_secs(10);

/// Why the bastion does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Where Vault is.
    #[error(transparent)]
    Vault(#[from] SettingsError),
    /// How the bastion logs in there.
    #[error(transparent)]
    VaultLogin(#[from] vault::Error),
    /// Whose certificates are believed.
    #[error(transparent)]
    Authorities(#[from] authority_source::Error),
    /// Which certificates are not believed any more.
    #[error(transparent)]
    Revocation(#[from] revocation_source::Error),
    /// What there is to ask of a cluster.
    #[error(transparent)]
    Cluster(#[from] kubernetes::Error),
    /// Who the bastion is.
    #[error(transparent)]
    HostKey(#[from] host_key::Error),
    /// Where audit records go.
    #[error(transparent)]
    Audit(#[from] audit::Error),
    /// An address that cannot be listened on.
    #[error("cannot listen on {address}: {source}\n  `{setting}` names it; {}", listen_remedy(.source))]
    Listen {
        /// The setting that names it.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// The operating system's words.
        source: io::Error,
    },
    /// No authority is known, so nothing can be said.
    #[error(
        "nobody says which authorities to trust, and what is revoked\n  Is Vault there, and is vault.address right? Or the cluster, and KUBECONFIG?"
    )]
    NoAuthorities,
    /// Which name servers to ask.
    #[error(transparent)]
    NameServers(#[from] NoServers),
    /// Without these addresses the floor would have a hole.
    #[error("cannot find the addresses of this machine: {0}")]
    OwnAddresses(io::Error),
    /// Without these addresses it would have another.
    #[error(transparent)]
    KubernetesApi(#[from] NoServiceHost),
    /// A fence that the operator wants and the kernel has not.
    #[error(transparent)]
    Fence(#[from] fence::Missing),
    /// The threads that everything runs on.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// The signal handlers.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    /// A defect.
    #[error("the accept loop ended by a defect of the bastion; please report it")]
    Defect,
}

impl Error {
    /// What the process tells who started it: 2 if the configuration must change, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Vault(_)
            | Self::VaultLogin(_)
            | Self::Authorities(_)
            | Self::Revocation(_)
            | Self::Cluster(_)
            | Self::HostKey(_)
            | Self::KubernetesApi(_)
            | Self::Audit(audit::Error::File { .. } | audit::Error::StandardOutput(_)) => 2,
            Self::Audit(audit::Error::Thread(_))
            | Self::Listen { .. }
            | Self::NoAuthorities
            | Self::NameServers(_)
            | Self::OwnAddresses(_)
            | Self::Fence(_)
            | Self::Runtime(_)
            | Self::Signals(_)
            | Self::Defect => 1,
        }
    }
}

fn listen_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "something else listens there already",
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; 0.0.0.0 stands for all it has"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege that the bastion can do without; try 2222"
        }
        _ => "choose another",
    }
}

/// Reads everything that can be read without the network, and changes nothing but creating an audit file.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(config: &Config) -> Result<(), Error> {
    if let (Some(vault), config::HostKey::Vault(_)) = (vault(config)?, &config.host_key) {
        vault.check()?;
    }
    authority_source::check(config.authorities.sources())?;
    revocation_source::check(&config.revocation)?;
    host_key::check(&config.host_key)?;
    audit::open(&config.audit.to)?;
    Ok(())
}

/// Answers a question about a certificate and a destination as the bastion would, and tells how it came about. Asks Vault
/// for its authorities where the configuration says so, and takes the objects of a cluster from `offline`.
///
/// # Errors
/// What [`run`] would not begin with.
pub async fn explain(
    config: &Config,
    offline: Offline,
    question: Question<'_>,
) -> Result<Explanation, Error> {
    let metrics = Arc::new(Metrics::new());
    let vault = vault(config)?;
    // Its policies are not waited for: `offline` is given instead.
    let cluster = match config.authorities_need_cluster() {
        true => Some(Cluster::find(environment, Arc::clone(&metrics)).await?),
        false => None,
    };
    let means = Means { vault: vault.as_ref(), cluster: cluster.as_ref(), metrics, ..Means::default() };
    let mut authorities = authority_source::follow(config.authorities.sources(), means.clone())?;
    let mut revoked = revocation_source::follow(&config.revocation, means)?;
    let known = async { tokio::join!(known(&mut authorities), known(&mut revoked)) };
    let (set, revoked) = timeout(EXPLAIN_PATIENCE, known).await.map_err(|_| Error::NoAuthorities)?;
    let requirements = requirements(config, set, revoked);
    let dialler = dialler(config, Arc::new(ArcSwap::from_pointee(offline.endpoints)))?;
    let mut api = kubernetes_api::Followed::new(own_addresses::kubernetes_api(environment)?);
    api.look(&dialler.resolver).await;
    let policy = policy(config, api.known(), Arc::new(offline.objects));
    Ok(explain::explain(question, &requirements, &policy, &dialler, SystemTime::now()).await)
}

/// What must be done while there is one thread only.
#[derive(Debug)]
pub struct Prepared {
    audit: File,
    clients: Socket,
    admin: Option<Socket>,
    fence: Fence,
}

/// Opens the one file that is written, binds the ports, and gives up the right to open and to bind others. `path` is where `config` was read.
///
/// # Errors
/// When the audit file cannot be opened, a port cannot be bound, or there is no fence where one is required.
pub fn prepare(path: &Path, config: &Config) -> Result<Prepared, Error> {
    let audit = audit::open(&config.audit.to)?;
    let clients = listen("listen", config.listen)?;
    let admin = config.admin.map(|admin| listen("admin.listen", admin.listen)).transpose()?;
    let fence = fence::put_up(config.fence, &fence::Bounds::new(path, config, environment))?;
    Ok(Prepared { audit, clients, admin, fence })
}

/// Serves until a signal says to stop, and then ends in order. `path` is where `config` was read, to be read again.
///
/// # Errors
/// When it cannot begin.
pub async fn run(path: PathBuf, config: Config, prepared: Prepared) -> Result<(), Error> {
    let mut signals = Signals::install().map_err(Error::Signals)?;
    let (metrics, readiness, drain) =
        (Arc::new(Metrics::new()), Arc::new(Readiness::default()), Drain::default());
    accept::raise_open_files();
    telemetry::count_panics(Arc::clone(&metrics));
    for kind in fence::Kind::ALL {
        metrics.fence(kind.name(), prepared.fence.holds(kind));
    }
    let reload = Arc::new(Notify::new());

    let vault = vault(&config)?;
    let cluster = match config.needs_cluster() {
        true => Some(Cluster::find(environment, Arc::clone(&metrics)).await?),
        false => None,
    };
    let means = Means {
        vault: vault.as_ref(),
        cluster: cluster.as_ref(),
        reload: Arc::clone(&reload),
        metrics: Arc::clone(&metrics),
        notices: notices(&config, cluster.as_ref()),
    };
    let authorities = authority_source::follow(config.authorities.sources(), means.clone())?;
    let revoked = revocation_source::follow(&config.revocation, means.clone())?;
    let host_key = host_key::follow(&config.host_key, means)?;
    let dialler = dialler(&config, Arc::default())?;
    let objects = match (&config.kubernetes, cluster) {
        (Some(wanted), Some(cluster)) => {
            publish(&config, wanted, &cluster, &host_key);
            kubernetes::policies::follow_all(&cluster, wanted, Arc::clone(&dialler.endpoints))
        }
        (None, _) | (_, None) => watch::channel(Some(Arc::default())).1,
    };
    // Read anew for each forward; the start is where it can be mended.
    own_addresses::interfaces().map_err(Error::OwnAddresses)?;
    let api = kubernetes_api::Followed::new(own_addresses::kubernetes_api(environment)?);
    api.tell(&config);
    let policy = policy(&config, api.known(), Arc::default());
    let audit = Audit::start(prepared.audit, config.audit.when_full, Arc::clone(&metrics))?;

    let clients = accepting("listen", config.listen, prepared.clients)?;
    if let (Some(admin), Some(socket)) = (config.admin, prepared.admin) {
        let listener = accepting("admin.listen", admin.listen, socket)?;
        let (metrics, readiness) = (Arc::clone(&metrics), Arc::clone(&readiness));
        let (audit, drain) = (audit.clone(), drain.clone());
        tokio::spawn(admin::serve(listener, Admin { metrics, readiness, audit, drain }));
    }

    let bastion = Bastion {
        path,
        config: config.clone(),
        audit: audit.clone(),
        metrics: Arc::clone(&metrics),
        readiness,
    };
    let followed = Followed { authorities, revoked, objects, host_key, api };
    let serving = tokio::spawn(bastion.serve(clients, followed, policy, dialler, drain.clone()));
    let reload = || {
        tracing::info!("SIGHUP: asking for authorities and the host certificate again");
        reload.notify_waiters();
    };
    let signal = tokio::select! {
        signal = signals.stop(reload) => signal,
        // It has no end of its own before the drain.
        _ = serving => return Err(Error::Defect),
    };
    tracing::info!(signal, "shutting down");
    metrics.draining();
    drain.announce();
    tokio::select! {
        () = leave(&config, &drain) => {}
        signal = signals.stop(|| {}) => tracing::warn!(signal, "ending at once"),
    }
    audit.flush(FLUSH_PATIENCE).await;
    Ok(())
}

/// Gives load balancers time to notice, and clients time to go.
async fn leave(config: &Config, drain: &Drain) {
    sleep(config.drain.readiness_delay.0).await;
    match drain.finish(config.drain.timeout.0).await {
        Finished::Cleanly => tracing::info!("every session has ended"),
        Finished::Cut(sessions) => {
            tracing::warn!(sessions, "ended sessions that still forwarded something (drain.timeout)")
        }
    }
}

/// Where notices are heard: in the cluster, if there is one that wants to.
fn notices(config: &Config, cluster: Option<&Cluster>) -> Notices {
    match (cluster, &config.kubernetes) {
        (Some(cluster), Some(wanted)) if wanted.events => {
            let (notices, heard) = Notices::heard();
            tokio::spawn(kubernetes::status::tell_of_pod(cluster.clone(), heard));
            notices
        }
        (Some(_) | None, _) => Notices::default(),
    }
}

/// Has the cluster's people told who the bastion is.
fn publish(config: &Config, wanted: &config::Kubernetes, cluster: &Cluster, host_key: &host_key::Current) {
    match (&wanted.publish, &config.host_key) {
        (None, _) => {}
        (Some(_), config::HostKey::Generate) => {
            tracing::warn!(
                "each bastion has a host key of its own that nobody vouches for; it is not published"
            );
        }
        (
            Some(wanted),
            config::HostKey::File { .. } | config::HostKey::Vault(_) | config::HostKey::Secret(_),
        ) => {
            tokio::spawn(cluster.clone().publish(wanted.clone(), host_key.clone()));
        }
    }
}

fn vault(config: &Config) -> Result<Option<Vault>, SettingsError> {
    config.needs_vault().then(|| Vault::new(&config.vault, environment)).transpose()
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn policy(config: &Config, api: KubernetesApi, objects: Arc<Objects>) -> Policy {
    if config.rules.is_empty() && config.kubernetes.is_none() {
        tracing::warn!("there are no rules, so nobody reaches anything");
    }
    Policy {
        rules: config.rules.iter().cloned().map(Rule::from).map(Arc::new).collect(),
        objects,
        floor: Arc::new(Floor::new(config.open_networks.clone(), api)),
    }
}

/// Whom the configuration lets in, if one of these authorities says who it is and no list takes that back.
fn requirements(config: &Config, authorities: AuthoritySet, revoked: RevocationList) -> Requirements {
    let max_lifetime = config.limits.max_certificate_lifetime.0;
    let removed_authority = config.removed_authority;
    Requirements { authorities, users: config.login.users(), max_lifetime, revoked, removed_authority }
}

fn dialler(config: &Config, endpoints: Arc<ArcSwap<Endpoints>>) -> Result<Dialler, Error> {
    let hosts = config.hosts.iter().map(|(name, addresses)| (name.0.clone(), addresses.clone())).collect();
    let servers = config.dns.servers.iter().map(|server| server.0).collect();
    let resolver = Resolver::new(resolver::Settings { hosts, servers, patience: config.timeouts.resolve.0 })?;
    Ok(Dialler { resolver, endpoints, connect: config.timeouts.connect.0 })
}

/// How much may wait in memory. One stream holds up its own session long before its identity's part is spent.
fn memory(config: &Config) -> budget::Limits {
    let (process, owner) = (config.limits.buffered_bytes.0.0, config.limits.per_identity.buffered_bytes.0.0);
    let owner = owner.min(process);
    budget::Limits {
        process,
        owner,
        stream: (owner / 4).min(SPILL),
        patience: config.timeouts.stalled_target.0,
    }
}

/// Puts into force what can change while the bastion serves; see [`Config::with_live_settings_of`].
fn apply(config: &Config, service: &Service) -> Result<(), Error> {
    let dialler = dialler(config, Arc::clone(&service.dialler.load().endpoints))?;
    service.dialler.store(Arc::new(dialler));
    service.budget.set_patience(config.timeouts.stalled_target.0);
    // What a cluster says may change at the same moment, and where it is.
    service.policy.send_modify(|held| {
        *held = Arc::new(policy(config, held.floor.api().clone(), Arc::clone(&held.objects)));
    });
    service.requirements.send_modify(|held| {
        let (authorities, revoked) = (held.authorities.clone(), held.revoked.clone());
        *held = Arc::new(requirements(config, authorities, revoked));
    });
    Ok(())
}

fn listen(setting: &'static str, address: SocketAddr) -> Result<Socket, Error> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // A restart must not wait for connections of the last run to be forgotten.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    bind().map_err(|source| Error::Listen { setting, address, source })
}

/// Takes connections from a socket that listens.
fn accepting(setting: &'static str, address: SocketAddr, socket: Socket) -> Result<TcpListener, Error> {
    TcpListener::from_std(socket.into()).map_err(|source| Error::Listen { setting, address, source })
}

/// What others decide, and may decide anew at any time.
struct Followed {
    authorities: authority_source::Current,
    revoked: revocation_source::Current,
    objects: kubernetes::policies::Current,
    host_key: host_key::Current,
    api: kubernetes_api::Followed,
}

/// What serves clients, once it knows whom to believe and who it is.
struct Bastion {
    path: PathBuf,
    config: Config,
    audit: Audit,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
}

impl Bastion {
    async fn serve(
        self,
        clients: TcpListener,
        followed: Followed,
        policy: Policy,
        dialler: Dialler,
        drain: Drain,
    ) {
        let Followed { mut authorities, mut revoked, mut objects, mut host_key, api } = followed;
        let (set, revoked_now, said, key) = tokio::join!(
            async {
                let set = known(&mut authorities).await;
                self.readiness.authorities_known();
                set
            },
            async {
                let list = known(&mut revoked).await;
                self.readiness.revocations_known();
                list
            },
            async {
                let said = known(&mut objects).await;
                self.readiness.policies_known();
                said
            },
            async {
                let key = known(&mut host_key).await;
                self.readiness.host_key_known();
                key
            }
        );
        let requirements = requirements(&self.config, set, revoked_now);
        let settings = self.settings();
        // Sessions that began with another host key keep theirs.
        let ssh_config =
            move |key: &HostKey| ssh::config(&settings, key.key().clone(), key.certificate().cloned());
        let service = Arc::new(Service {
            requirements: watch::Sender::new(Arc::new(requirements)),
            policy: watch::Sender::new(Arc::new(Policy { objects: said, ..policy })),
            config: ArcSwap::from_pointee(ssh_config(&key)),
            pulse: ssh::Pulse {
                interval: self.config.keepalive.interval.0,
                most_missed: self.config.keepalive.max_missed,
            },
            audit: self.audit,
            metrics: Arc::clone(&self.metrics),
            dialler: ArcSwap::from_pointee(dialler),
            max_channels: self.config.limits.max_channels_per_session.get(),
            census: Census::new(self.config.limits.per_identity),
            budget: Budget::start(memory(&self.config)),
        });
        tokio::spawn(on_change(authorities, {
            let service = Arc::clone(&service);
            move |set| {
                if let Some(set) = set {
                    service.requirements.send_modify(|held| Arc::make_mut(held).authorities = set);
                }
            }
        }));
        tokio::spawn(on_change(revoked, {
            let service = Arc::clone(&service);
            move |list| {
                if let Some(list) = list {
                    service.requirements.send_modify(|held| Arc::make_mut(held).revoked = list);
                }
            }
        }));
        tokio::spawn(on_change(objects, {
            let service = Arc::clone(&service);
            move |objects| {
                if let Some(objects) = objects {
                    service.policy.send_modify(|held| Arc::make_mut(held).objects = objects);
                }
            }
        }));
        tokio::spawn(api.follow(Arc::clone(&service)));
        let read_again = reload::follow(self.path, self.config.clone(), Arc::clone(&self.metrics), {
            let service = Arc::clone(&service);
            move |config| apply(config, &service)
        });
        tokio::spawn(read_again);
        tokio::spawn(on_change(host_key, {
            let service = Arc::clone(&service);
            move |key| {
                if let Some(key) = key {
                    service.config.store(Arc::new(ssh_config(&key)));
                }
            }
        }));
        let bounds = Bounds {
            login_deadline: self.config.limits.login_deadline.0,
            max_sessions: self.config.limits.max_sessions.get(),
            startups: self.config.limits.max_startups,
            penalties: self.config.limits.penalties,
            proxies: self.config.proxy_protocol.clone(),
        };
        if let Ok(address) = clients.local_addr() {
            self.readiness.listening(address);
            tracing::info!(event = "listening", %address, rules = self.config.rules.len(), "accepting clients");
        }
        let serve = move |connection| ssh::serve(connection, Arc::clone(&service));
        accept::run(clients, bounds, self.metrics, drain, serve).await;
    }

    fn settings(&self) -> ssh::Settings {
        ssh::Settings {
            rekey: Rekey { bytes: self.config.rekey.bytes.0.0, time: self.config.rekey.time.0.0 },
            opens: self.config.limits.per_identity.opens(),
            more_algorithms: self.config.more_algorithms.clone(),
        }
    }
}

/// Waits for the first value.
async fn known<T: Clone>(current: &mut watch::Receiver<Option<T>>) -> T {
    loop {
        if let Some(value) = current.borrow_and_update().clone() {
            return value;
        }
        if current.changed().await.is_err() {
            // Whoever was to tell is gone, and there is nothing to serve with.
            std::future::pending::<()>().await;
        }
    }
}

/// Hands on every later value.
async fn on_change<T: Clone>(mut current: watch::Receiver<T>, apply: impl Fn(T)) {
    while current.changed().await.is_ok() {
        let value = current.borrow_and_update().clone();
        apply(value);
    }
}
