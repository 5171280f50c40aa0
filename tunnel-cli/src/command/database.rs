//! `pf-db-tunnel`: a tunnel, and credentials for what is behind it that end with it.

use std::{
    ffi::OsString,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use backoff::{Again, Backoff, Trouble};
use plain_text::rough;
use serde_json::json;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use vault_signer::database::{self as engine, Lease};

use super::{
    child::{ChildEnv, Running},
    setup::{credentials, dialler, variable},
    signals::{self, Interrupt},
};
use crate::{
    cli::Flags,
    config::{Database, Settings},
    credential::{Credentials, Validity, database_failed},
    database::{Access, Verify, misleading, verifies},
    endpoint::{Forward, Local, On, port_number},
    failure::{Failure, Stage, exit_code},
    output::{Event, Output},
    suspend::Clocks,
    tunnel::{Listener, RunOptions, Tunnel},
};

/// How long we try to revoke before we say that it did not work. The lease then ends by itself.
const REVOKE: Duration = Duration::from_secs(20);
/// How long the tunnel may take to end.
const GOODBYE: Duration = Duration::from_secs(3);
/// Between two looks at the lease.
const LOOK: Duration = Duration::from_secs(2);

/// What was asked for, found in the configuration.
pub(super) struct Wanted {
    name: String,
    database: Database,
    /// The path in Vault.
    credentials: String,
    forward: Forward,
}

/// Finds a database and a role of it.
pub(super) fn wanted(
    settings: &Settings,
    name: &str,
    role: Option<&str>,
    port: &str,
) -> Result<Wanted, Failure> {
    let port = port_number(port).ok_or_else(|| {
        let what = format!("--port {port}: not a number from 0 to 65535; write, for example, --port 5433");
        Failure::permanent(Stage::Arguments, what)
    })?;
    let database = settings.databases.get(name).ok_or_else(|| {
        let known: Vec<&str> = settings.databases.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Failure::permanent(Stage::Configuration, format!("there is no database {name} in the configuration"))
            .advise(format!("Configured are: {known}. They stand in pf-tunnel.yaml under databases."))
    })?;
    let Database { roles, .. } = &database.value;
    let known = || roles.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let path = match (role, roles.len()) {
        (Some(role), _) => roles.get(role).ok_or_else(|| {
            Failure::permanent(Stage::Configuration, format!("the database {name} has no role {role}"))
                .advise(format!("It has: {}.", known()))
        })?,
        (None, 1) => roles.values().next().map_or("", String::as_str),
        (None, _) => {
            return Err(Failure::permanent(Stage::Arguments, format!("which role of {name}?"))
                .advise(format!("Name one with --role: {}.", known())));
        }
    };
    Ok(Wanted {
        name: name.to_owned(),
        credentials: path.to_owned(),
        forward: Forward { listen: Local { on: On::Loopback, port }, destination: database.value.endpoint() },
        database: database.value.clone(),
    })
}

/// Prints the databases and their roles.
pub(super) fn list(settings: &Settings, output: &Output) -> Result<u8, Failure> {
    for (name, database) in &settings.databases {
        let roles: Vec<&str> = database.value.roles.keys().map(String::as_str).collect();
        if output.is_json() {
            output.json(&json!({
                "database": name, "host": database.value.endpoint().to_string(), "roles": roles,
                "source": database.source.to_string(),
            }));
        } else {
            output.result(&format!("{name}   {}   roles: {}", database.value.endpoint(), roles.join(", ")));
        }
    }
    if settings.databases.is_empty() && !output.is_json() {
        output.result("No databases are configured. They stand in pf-tunnel.yaml under databases.");
    }
    Ok(exit_code::OK)
}

/// Opens the tunnel, gets credentials, says how to use them or runs a command with them, and revokes them whatever
/// happens.
pub(super) async fn run(
    settings: &Settings,
    flags: &Flags,
    wanted: Wanted,
    command: Vec<OsString>,
    output: Arc<Output>,
) -> Result<u8, Failure> {
    let stop = signals::stop(if command.is_empty() { Interrupt::Ends } else { Interrupt::IsTheChilds })?;
    let dialler = dialler(settings, &output)?;
    let credentials = Arc::new(credentials(settings, &output)?);
    let listener =
        Listener::bind(&wanted.forward, |port| format!("pf-db-tunnel {} --port {port}", wanted.name))?;
    let listen = listener.bound().listen;
    let options = RunOptions {
        hold: settings.hold.value.duration(),
        once: flags.once,
        probe: flags.probe,
        target_must_answer: true,
    };
    let (ready_sender, ready) = oneshot::channel();
    let tunnel = Tunnel {
        listeners: vec![listener],
        dialler,
        credentials: Arc::clone(&credentials),
        output: Arc::clone(&output),
        options,
    };
    let leases = Leases::default();
    // Its own token, so that the tunnel outlives the command that ends because of the signal.
    let tunnel_stop = CancellationToken::new();
    let tunnel_ended = CancellationToken::new();
    let (stop_tunnel, guard) = (tunnel_stop.clone(), tunnel_ended.clone().drop_guard());
    let tunnel = tokio::spawn(async move {
        let _guard = guard;
        tunnel.run(stop_tunnel, Some(ready_sender)).await
    });
    let work = Work {
        wanted,
        command,
        listen,
        credentials: Arc::clone(&credentials),
        leases: leases.clone(),
        output: Arc::clone(&output),
        stop,
    };
    // A task of its own, so that even a panic in it leaves us here to revoke.
    let result = tokio::spawn(work.run(ready, tunnel)).await;
    let revoked = leases.revoke(&credentials, &output).await;
    tunnel_stop.cancel();
    let _ = timeout(GOODBYE, tunnel_ended.cancelled()).await;
    match result {
        Ok(Ok(code)) => revoked.map(|()| code),
        Ok(Err(failure)) => {
            if let Err(second) = revoked {
                output.fail(&second);
            }
            Err(failure)
        }
        Err(panic) => Err(Failure::permanent(Stage::Internal, format!("a defect of this program: {panic}"))),
    }
}

struct Work {
    wanted: Wanted,
    command: Vec<OsString>,
    listen: SocketAddr,
    credentials: Arc<Credentials>,
    leases: Leases,
    output: Arc<Output>,
    stop: CancellationToken,
}

impl Work {
    async fn run(
        self,
        ready: oneshot::Receiver<()>,
        mut tunnel: JoinHandle<Result<(), Failure>>,
    ) -> Result<u8, Failure> {
        tokio::select! {
            () = self.stop.cancelled() => return Ok(exit_code::OK),
            ended = &mut tunnel => return of_tunnel(ended),
            _ = ready => {}
        }
        // Not to be given up half-way: Vault would keep a lease that no program knows.
        let token = self.credentials.token().await?;
        let made = engine::credentials(self.credentials.server(), &token, &self.wanted.credentials)
            .await
            .map_err(|error| database_failed(&error))?;
        self.leases.hold(made.lease().clone());
        let kind = self.wanted.database.kind;
        let endpoint = self.wanted.database.endpoint();
        let access = Access {
            listen: self.listen,
            host: endpoint.host(),
            database: &self.wanted.database.database,
            user: made.username(),
            password: made.password(),
        };
        if self.command.is_empty() {
            self.say(&access, made.lease());
        }
        let mut running = if self.command.is_empty() {
            None
        } else {
            let words = self.command.iter().filter_map(|word| word.to_str());
            let verify = verifies(kind, words, variable);
            let (password_file, password) = access.password_file(kind);
            let (variables, taken) = (access.variables(kind, verify), misleading(kind).to_vec());
            for name in taken.iter().filter(|name| std::env::var_os(name).is_some()) {
                let note = format!(
                    "{name} is kept from the command: it could lead elsewhere than through the tunnel"
                );
                self.output.say(&Event::Note(&note));
            }
            Some(Running::start(&self.command, &ChildEnv { taken, variables, password_file, password })?)
        };
        let child = async {
            match &mut running {
                Some(child) => child.ended().await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            () = self.stop.cancelled() => Ok(exit_code::OK),
            ended = tunnel => of_tunnel(ended),
            code = child => return code,
            () = self.keep_lease(made.lease().clone()) => Ok(exit_code::OK),
        };
        if let Some(mut child) = running {
            child.end().await;
        }
        result
    }

    fn say(&self, access: &Access<'_>, lease: &Lease) {
        let kind = self.wanted.database.kind;
        let (url, verifying_url) = (access.url(kind, Verify::No), access.url(kind, Verify::Name));
        self.output.say(&Event::Database {
            name: &self.wanted.name,
            listen: access.listen,
            database: access.database,
            user: access.user,
            password: access.password,
            url: &url,
            verifying_url: &verifying_url,
            until: lease.expires_at(),
        });
        if !self.output.is_json() && !self.output.secret("  password  ", access.password) {
            self.output.say(&Event::Warning(
                "the password is shown on a terminal only; use --json, or: pf-db-tunnel DATABASE -- COMMAND",
            ));
        }
    }

    /// Renews the lease at two thirds of its life, and the token that it hangs on, for ever.
    async fn keep_lease(&self, mut lease: Lease) {
        let validity_of = |lease: &Lease| Validity::of(Clocks::now(), lease.expires_at(), Duration::MAX);
        let mut validity = validity_of(&lease);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut renewal = Trouble::default();
        loop {
            while !validity.is_due(&Clocks::now()) {
                sleep(LOOK.min(validity.due_in(&Clocks::now()))).await;
                self.credentials.keep_token().await;
            }
            let why = match self.renewed(&lease).await {
                Ok(longer) if longer.expires_at() > validity.until + Duration::from_secs(1) => {
                    validity = validity_of(&longer);
                    self.leases.hold(longer.clone());
                    lease = longer;
                    backoff.worked();
                    renewal.clear();
                    continue;
                }
                Ok(_) => "Vault does not let them live longer".to_owned(),
                Err(failure) => failure.what().to_owned(),
            };
            if renewal.raise(&why, Again::Never, std::time::Instant::now()) {
                let left = rough(validity.left(&Clocks::now()));
                let text = format!("the database credentials end in {left}: {why}; start again for new ones");
                self.output.say(&Event::Warning(&text));
            }
            let delay = backoff.failed(&mut rand::rng());
            sleep(delay).await;
        }
    }

    async fn renewed(&self, lease: &Lease) -> Result<Lease, Failure> {
        if !lease.renewable() {
            return Ok(lease.clone());
        }
        let token = self.credentials.token().await?;
        engine::renew(self.credentials.server(), &token, lease, lease.duration())
            .await
            .map_err(|error| database_failed(&error))
    }
}

fn of_tunnel(ended: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<u8, Failure> {
    match ended {
        Ok(result) => result.map(|()| exit_code::OK),
        Err(panic) => Err(Failure::permanent(Stage::Internal, format!("a defect of this program: {panic}"))),
    }
}

/// What has to be revoked.
#[derive(Clone, Default)]
struct Leases(Arc<Mutex<Option<Lease>>>);

impl Leases {
    fn hold(&self, lease: Lease) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
    }

    fn last(&self) -> Option<Lease> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Revokes, trying for a while.
    async fn revoke(&self, credentials: &Credentials, output: &Output) -> Result<(), Failure> {
        let Some(lease) = self.last() else { return Ok(()) };
        let deadline = Instant::now() + REVOKE;
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
        loop {
            let attempt = async {
                let token = credentials.token().await?;
                engine::revoke(credentials.server(), &token, &lease)
                    .await
                    .map_err(|error| database_failed(&error))
            };
            let failure = match attempt.await {
                Ok(()) => {
                    output.say(&Event::Revoked);
                    return Ok(());
                }
                Err(failure) => failure,
            };
            if !failure.is_transient() || Instant::now() >= deadline {
                let left = lease.expires_at().duration_since(SystemTime::now()).unwrap_or_default();
                return Err(Failure::permanent(
                    Stage::Database,
                    format!("the database credentials are not revoked: {}", failure.what()),
                )
                .advise(format!(
                    "They end by themselves in {}, or: vault lease revoke {}",
                    rough(left),
                    lease.id()
                )));
            }
            sleep(backoff.failed(&mut rand::rng())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli, config};

    fn settings() -> Settings {
        let folder = tempfile::tempdir().unwrap();
        let text = "databases:\n  orders: {kind: postgres, host: orders.svc, port: 5432, database: o, roles: {reader: database/creds/r, writer: database/creds/w}}\n  single: {kind: postgres, host: s, port: 1, database: s, roles: {only: p}}\n";
        std::fs::write(folder.path().join(config::PROJECT_FILE), text).unwrap();
        config::load(config::PartialSettings::default(), None, folder.path(), |_| None).unwrap().resolve().0
    }

    #[test]
    fn a_database_and_its_role_are_found_or_named() {
        let settings = settings();
        let found = wanted(&settings, "orders", Some("reader"), "5433").unwrap();
        assert_eq!(found.credentials, "database/creds/r");
        assert_eq!(found.forward.to_string(), "localhost:5433:orders.svc:5432");
        assert_eq!(wanted(&settings, "single", None, "0").unwrap().credentials, "p");
        for (name, role, port, stage, words) in [
            ("none", None, "0", Stage::Configuration, "orders, single"),
            ("orders", None, "0", Stage::Arguments, "reader, writer"),
            ("orders", Some("admin"), "0", Stage::Configuration, "reader, writer"),
            ("orders", Some("reader"), "x", Stage::Arguments, "--port x"),
        ] {
            let failure = wanted(&settings, name, role, port).err().unwrap();
            assert_eq!(failure.stage(), stage);
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }

    #[test]
    fn the_list_is_complete() {
        assert_eq!(settings().databases.len(), 2);
        assert!(matches!(
            cli::database(["pf-db-tunnel", "--list"].map(OsString::from)),
            cli::ParseOutcome::Run(cli::Invocation { command: cli::DatabaseCommand::List, .. })
        ));
    }
}
