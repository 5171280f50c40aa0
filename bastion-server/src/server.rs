//! Builds the bastion, serves until a signal, and drains.
//!
//! [`prepare`] does what requires a single thread: it opens the audit file, binds the ports and puts up the
//! sandbox. [`run`] starts the tasks that follow changing sources, waits until each has answered once, and
//! accepts clients.

mod admin;
mod api_server;
mod build;
mod error;
mod followed;
mod reload;
mod sandbox;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use socket2::Socket;
use ssh_transport::budget::Budget;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    time::sleep,
};

use crate::{
    accept,
    access::{Objects, Policy},
    audit::{self, Audit},
    config::{self, Config},
    dial::Dialler,
    identity::{authorities::AuthoritySet, revocation::RevocationList},
    kubernetes::{self, Cluster},
    limits::identities::Quotas,
    process::{
        drain::{Drain, Finished, Signals},
        fence::{self, Fence},
        open_files, own_addresses,
    },
    ssh::{self, Service},
    telemetry::{self, metrics::Metrics, warnings::Warnings},
    trust::{
        Upstreams, authorities,
        host_key::{self, HostKey},
        revocation,
    },
};
use admin::{Admin, Readiness};
pub(crate) use api_server::ApiServer;
pub(crate) use build::{dialler, environment, policy, requirements, vault};
pub(crate) use error::Error;
pub(crate) use followed::Followed;
pub use sandbox::bounds as fence_bounds;

/// How long writing the last audit records may take.
const FLUSH_PATIENCE: Duration = Duration::from_secs(3);

/// The results of what must be done before the process has a second thread.
#[derive(Debug)]
pub(crate) struct Prepared {
    audit: File,
    clients: Socket,
    admin: Option<Socket>,
    fence: Fence,
}

/// Opens the one file that is written, binds the ports, and gives up the right to open and bind others.
/// `path` is the file of `config`.
///
/// # Errors
/// When the audit file cannot be opened, a port cannot be bound, or a required fence is not available.
pub(crate) fn prepare(path: &Path, config: &Config) -> Result<Prepared, Error> {
    let audit = audit::open(&config.audit.to)?;
    let clients = build::listen("listen", config.listen)?;
    let admin = config.admin.map(|admin| build::listen("admin.listen", admin.listen)).transpose()?;
    let fence = fence::put_up(config.fence, &sandbox::bounds(path, config, environment))?;
    Ok(Prepared { audit, clients, admin, fence })
}

/// Serves until a signal, and then shuts down in order. `path` is the file of `config`, which is followed.
///
/// # Errors
/// When the bastion cannot begin to serve.
pub(crate) async fn run(path: PathBuf, config: Config, prepared: Prepared) -> Result<(), Error> {
    let mut signals = Signals::install().map_err(Error::Signals)?;
    let (metrics, readiness, drain) =
        (Arc::new(Metrics::new()), Arc::new(Readiness::default()), Drain::default());
    open_files::raise();
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
    let upstreams = Upstreams {
        vault: vault.as_ref(),
        cluster: cluster.as_ref(),
        reload: Arc::clone(&reload),
        metrics: Arc::clone(&metrics),
        warnings: warnings(&config, cluster.as_ref()),
    };
    let authorities = authorities::follow(config.authorities.sources(), upstreams.clone())?;
    let revoked = revocation::follow(&config.revocation, upstreams.clone())?;
    let host_key = host_key::follow(&config.host_key, upstreams)?;
    let dialler = dialler(&config, Arc::default())?;
    let objects = match (&config.kubernetes, cluster) {
        (Some(wanted), Some(cluster)) => {
            publish(&config, wanted, &cluster, &host_key);
            kubernetes::policies::follow_all(&cluster, wanted, Arc::clone(&dialler.endpoints))
        }
        (None, _) | (_, None) => watch::channel(Some(Arc::default())).1,
    };
    // The addresses are read again for each forward; at the start the operator can still act on an error.
    own_addresses::interfaces().map_err(Error::OwnAddresses)?;
    let api = ApiServer::new(own_addresses::kubernetes_api(environment)?);
    api.tell(&config);
    let policy = policy(&config, api.known(), Arc::default());
    let audit = Audit::start(prepared.audit, config.audit.when_full, Arc::clone(&metrics))?;

    let clients = build::accepting("listen", config.listen, prepared.clients)?;
    if let (Some(admin), Some(socket)) = (config.admin, prepared.admin) {
        let listener = build::accepting("admin.listen", admin.listen, socket)?;
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
    let sources = Sources {
        authorities: authorities.into(),
        revoked: revoked.into(),
        objects: objects.into(),
        host_key: host_key.into(),
        api,
    };
    let serving = tokio::spawn(bastion.serve(clients, sources, policy, dialler, drain.clone()));
    let reload = || {
        tracing::info!("SIGHUP: reading authorities and renewing the host certificate");
        reload.notify_waiters();
    };
    let signal = tokio::select! {
        signal = signals.stop(reload) => signal,
        // The task does not end before the drain, unless by a defect.
        _ = serving => return Err(Error::Defect),
    };
    tracing::info!(signal, "shutting down");
    metrics.draining();
    drain.announce();
    tokio::select! {
        () = leave(&config, &drain) => {}
        signal = signals.stop(|| {}) => tracing::warn!(signal, "second signal: ending immediately"),
    }
    audit.flush(FLUSH_PATIENCE).await;
    Ok(())
}

/// Gives load balancers time to notice, and clients time to leave.
async fn leave(config: &Config, drain: &Drain) {
    sleep(config.drain.readiness_delay.0).await;
    match drain.finish(config.drain.timeout.0).await {
        Finished::Cleanly => tracing::info!("every session has ended"),
        Finished::Cut(sessions) => {
            tracing::warn!(sessions, "ended sessions that still forwarded something (drain.timeout)")
        }
    }
}

/// Sends warnings as Events of the pod, where the bastion runs in a cluster and `kubernetes.events` is set.
fn warnings(config: &Config, cluster: Option<&Cluster>) -> Warnings {
    match (cluster, &config.kubernetes) {
        (Some(cluster), Some(wanted)) if wanted.events => {
            let (warnings, heard) = Warnings::channel();
            tokio::spawn(kubernetes::status::tell_of_pod(cluster.clone(), heard));
            warnings
        }
        (Some(_) | None, _) => Warnings::default(),
    }
}

/// Publishes the host identity in the cluster, if `kubernetes.publish` is set.
fn publish(config: &Config, wanted: &config::Kubernetes, cluster: &Cluster, host_key: &host_key::Current) {
    match (&wanted.publish, &config.host_key) {
        (None, _) => {}
        (Some(_), config::HostKey::Generate) => {
            tracing::warn!(
                "host identity not published: each bastion generates a host key of its own, and no authority certifies it"
            );
        }
        (
            Some(wanted),
            config::HostKey::File { .. } | config::HostKey::Vault(_) | config::HostKey::Secret(_),
        ) => {
            let (cluster, wanted, host_key) = (cluster.clone(), wanted.clone(), host_key.clone());
            tokio::spawn(async move {
                let lines = |key: &Option<Arc<HostKey>>| {
                    key.as_deref().and_then(|key| host_key::known_hosts(key, &wanted.names))
                };
                cluster.publish(wanted.config_map.as_str(), host_key, lines).await;
            });
        }
    }
}

/// Applies the settings that can change while the bastion serves; see [`Config::with_live_settings_of`].
fn put_into_force(config: &Config, service: &Service) -> Result<(), Error> {
    let dialler = dialler(config, Arc::clone(&service.dialler.load().endpoints))?;
    service.dialler.store(Arc::new(dialler));
    service.budget.set_patience(config.timeouts.stalled_target.0);
    // The cluster's objects, and the API server's address, may change at the same moment.
    service.policy.send_modify(|held| {
        *held = Arc::new(policy(config, held.floor.api().clone(), Arc::clone(&held.objects)));
    });
    service.requirements.send_modify(|held| {
        let (authorities, revoked) = (held.authorities.clone(), held.revoked.clone());
        *held = Arc::new(requirements(config, authorities, revoked));
    });
    Ok(())
}

/// The sources that the bastion follows while it serves.
struct Sources {
    authorities: Followed<AuthoritySet>,
    revoked: Followed<RevocationList>,
    objects: Followed<Arc<Objects>>,
    host_key: Followed<Arc<HostKey>>,
    api: ApiServer,
}

/// A bastion that serves clients once its sources have answered.
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
        sources: Sources,
        policy: Policy,
        dialler: Dialler,
        drain: Drain,
    ) {
        let Sources { mut authorities, mut revoked, mut objects, mut host_key, api } = sources;
        let ready = &self.readiness;
        let (set, list, compiled, key) = tokio::join!(
            async { ready.after(authorities.first().await, Readiness::authorities_known) },
            async { ready.after(revoked.first().await, Readiness::revocations_known) },
            async { ready.after(objects.first().await, Readiness::policies_known) },
            async { ready.after(host_key.first().await, Readiness::host_key_known) },
        );
        let settings = build::ssh(&self.config);
        // Sessions that began with another host key keep it.
        let ssh_config =
            move |key: &HostKey| ssh::config(&settings, key.key().clone(), key.certificate().cloned());
        let service = Arc::new(Service {
            requirements: watch::Sender::new(Arc::new(requirements(&self.config, set, list))),
            policy: watch::Sender::new(Arc::new(Policy { objects: compiled, ..policy })),
            config: ArcSwap::from_pointee(ssh_config(&key)),
            liveness: build::liveness(&self.config),
            audit: self.audit,
            metrics: Arc::clone(&self.metrics),
            dialler: ArcSwap::from_pointee(dialler),
            max_channels: self.config.limits.max_channels_per_session.get(),
            quotas: Quotas::new(self.config.limits.per_identity),
            budget: Budget::start(build::memory(&self.config)),
            streams: ssh::Registry::new(build::streams(&self.config), drain.clone()),
        });
        authorities.apply({
            let service = Arc::clone(&service);
            move |set| service.requirements.send_modify(|held| Arc::make_mut(held).authorities = set)
        });
        revoked.apply({
            let service = Arc::clone(&service);
            move |list| service.requirements.send_modify(|held| Arc::make_mut(held).revoked = list)
        });
        objects.apply({
            let service = Arc::clone(&service);
            move |objects| service.policy.send_modify(|held| Arc::make_mut(held).objects = objects)
        });
        host_key.apply({
            let service = Arc::clone(&service);
            move |key| service.config.store(Arc::new(ssh_config(&key)))
        });
        tokio::spawn(api.follow(Arc::clone(&service)));
        tokio::spawn(reload::follow(self.path, self.config.clone(), Arc::clone(&self.metrics), {
            let service = Arc::clone(&service);
            move |config| put_into_force(config, &service)
        }));
        if let Ok(address) = clients.local_addr() {
            self.readiness.listening(address);
            tracing::info!(event = "listening", %address, rules = self.config.rules.len(), "accepting clients");
        }
        let serve = move |connection| ssh::serve(connection, Arc::clone(&service));
        accept::run(clients, build::bounds(&self.config), self.metrics, drain, serve).await;
    }
}
