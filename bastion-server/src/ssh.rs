//! Runs one SSH session on a socket by russh, and ends it when it must end.

mod ended;
pub(crate) mod forward;
pub(crate) mod handler;
mod liveness;
mod offers;
mod refusals;
mod streams;

use std::{
    borrow::Cow,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use russh::{
    Disconnect, MethodKind, MethodSet, SshId,
    keys::ssh_encoding,
    server::{Config, Handle, run_stream},
};
use ssh_key::{Certificate, PrivateKey};
use ssh_transport::{
    BASTION_PACKET, BASTION_WINDOW, algorithms,
    budget::{self, Budget},
    key_exchange::{self, Rekey},
    socket::Cutter,
    turns::Rate,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    accept::{Connection, IDENTIFICATION, prelogin::Violation},
    access::Policy,
    audit::{Audit, Event, Traffic},
    dial::Dialler,
    identity::{
        Identity,
        certificate::{self, Claim, Refused, Requirements},
    },
    limits::identities::Quotas,
    process::drain::Drain,
    session::Session,
    telemetry::metrics::Metrics,
};

use ended::Ended;
use handler::{Admitted, Handler, Login};
use liveness::Gone;
pub(crate) use streams::{Registry, Settings as StreamSettings};

/// How long a session may take to end itself before its socket is cut.
const GOODBYE: Duration = Duration::from_secs(2);
/// How often the wall clock is compared with the end of a certificate: the clock may step, which a timer
/// would not notice.
const CLOCK_CHECK: Duration = Duration::from_secs(1);
/// The most messages of one channel that wait for its relay, before russh stops reading for all channels. A
/// relay takes them immediately, and only then are they charged to the budget.
const CHANNEL_BUFFER: usize = 32;
/// The most messages to the session that wait for its task, which writes them together: 512 KiB of data.
const EVENT_BUFFER: usize = 16;
/// The most refused logins of one client: all offers that it may make, and the requests before and after.
const LOGIN_ATTEMPTS: usize = offers::MOST + 4;

/// The reason code, in metrics, records and logs, of a session or forward that ends because a memory budget
/// is spent.
const MEMORY_BUDGET: &str = "memory_budget";

/// The state that all sessions share. Each part that can change while sessions live is replaced as a whole.
#[derive(Debug)]
pub(crate) struct Service {
    /// The conditions of a login. A change checks every live session again.
    pub requirements: watch::Sender<Arc<Requirements>>,
    /// The policy. A change checks every live forward again.
    pub policy: watch::Sender<Arc<Policy>>,
    /// russh's settings, with the current host key.
    pub config: ArcSwap<Config>,
    /// When a client counts as gone.
    pub liveness: Liveness,
    pub audit: Audit,
    pub metrics: Arc<Metrics>,
    /// Finds and reaches targets.
    pub dialler: ArcSwap<Dialler>,
    /// The most channels that one session may have open simultaneously.
    pub max_channels: usize,
    /// Counts the connections and channels of each identity.
    pub quotas: Quotas,
    /// The memory budget of all sessions.
    pub budget: Budget,
    /// The streams that outlive their sessions.
    pub streams: Registry,
}

/// How the bastion finds out whether a client that has logged in is still there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Liveness {
    /// The silence after which the bastion asks the client for an answer.
    pub interval: Duration,
    /// The number of unanswered questions after which the client counts as gone.
    pub most_missed: NonZeroUsize,
}

/// The operator's settings of a session.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// When `pf-tunnel` is asked to replace the keys.
    pub rekey: Rekey,
    /// The rate at which `pf-tunnel` is asked to open channels.
    pub opens: Rate,
    /// Algorithms that are offered beside the default ones.
    pub more_algorithms: Vec<algorithms::More>,
}

/// Returns russh's settings for all sessions that begin with this host key.
pub(crate) fn config(settings: &Settings, key: PrivateKey, certificate: Option<Certificate>) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Owned(format!(
            "{IDENTIFICATION} {} {} {}",
            settings.rekey.announcement(),
            settings.opens.announcement(),
            tunnel_stream::announcement()
        ))),
        methods: MethodSet::from([MethodKind::PublicKey].as_slice()),
        // Only certificates are accepted, and a signature cannot be guessed: a delay would only slow clients
        // down that offer a plain key first, as OpenSSH does.
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: LOGIN_ATTEMPTS,
        keys: vec![key],
        certificates: certificate.into_iter().collect(),
        limits: key_exchange::left_to_the_peer(),
        window_size: BASTION_WINDOW,
        maximum_packet_size: BASTION_PACKET,
        channel_buffer_size: CHANNEL_BUFFER,
        event_buffer_size: EVENT_BUFFER,
        preferred: algorithms::for_server(&settings.more_algorithms),
        // An idle tunnel is normal; `liveness` finds dead clients. russh would ask before the login too, when
        // its question is an error that ends the connection of a user who is typing a passphrase.
        inactivity_timeout: None,
        keepalive_interval: None,
        keepalive_max: 0,
        // The listener sets this on the socket.
        nodelay: false,
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve(connection: Connection, service: Arc<Service>) {
    let Connection { session, socket, cutter, pending, seen, drain } = connection;
    let (login, mut logged_in) = watch::channel(Login::Pending);
    let stop = CancellationToken::new();
    let forwards = forward::Forwards::new(session, Arc::clone(&service), cutter.clone(), stop.clone());
    let handler =
        Handler::new(session, Arc::clone(&service), forwards.clone(), pending, login, cutter.clone());
    let handle = handler.handle();
    let mut running = match run_stream(service.config.load_full(), socket, handler).await {
        Ok(running) => running,
        Err(error) => {
            seen.fail();
            return tracing::debug!(%error, "the client does not speak SSH");
        }
    };
    // Set once, here; russh does not call the handler before.
    let _ = handle.set(running.handle());
    let began = Instant::now();
    let watched = Watched {
        session,
        service: &service,
        drain: &drain,
        handle: running.handle(),
        cutter: &cutter,
        forwards: &forwards,
    };

    let ended = tokio::select! {
        result = &mut running => match result {
            Ok(()) => Ended::ByClient,
            Err(error) => {
                if is_unreadable(&error) { seen.not_read() } else { seen.fail() }
                let ended = Ended::by(&error);
                tracing::debug!(reason = ended.code(), %error, "session ended by an error");
                ended
            }
        },
        ended = watched.must_end(&mut logged_in) => ended,
    };

    // The order matters: the client hears of streams that end, while the session still carries them; relays
    // end and release their channels, which a session that is stuck waits for; then the client is told of its
    // own end; then the socket is closed.
    streams::session_ended(&forwards, &ended).await;
    stop.cancel();
    if let Some(farewell) = ended.farewell() {
        let told = async {
            say_goodbye(&running.handle(), farewell).await;
            let _ = (&mut running).await;
        };
        let _ = timeout(GOODBYE, told).await;
    }
    cutter.cut();
    let _ = timeout(GOODBYE, forwards.ended()).await;
    let login = logged_in.borrow();
    match &*login {
        Login::Accepted(admitted) => {
            forwards.refusals().close(&admitted.identity);
            service.metrics.session_ended(ended.code());
            if let Some(remedy) = ended.is_ours() {
                tracing::warn!(reason = ended.code(), "session ended by the bastion: {remedy}");
            }
            let traffic = Traffic { duration: began.elapsed(), ..forwards.traffic() };
            let event = Event::SessionClosed { identity: &admitted.identity, traffic, reason: ended.code() };
            service.audit.record(session, event);
        }
        Login::Unproved(login) => {
            let reason = match seen.violation() {
                Some(unreadable @ Violation::Unreadable) => unreadable.code(),
                Some(_) | None => {
                    seen.refuse();
                    "no_valid_certificate"
                }
            };
            service.metrics.auth_refused(reason);
            let event = Event::LoginRefused { login: login.as_str(), certificate: None, reason };
            service.audit.record(session, event);
        }
        Login::Pending | Login::Refused => {}
    }
}

/// Whether the SSH library gave up at something that other servers may parse: a key, a certificate, a
/// signature, or text that is not UTF-8.
fn is_unreadable(error: &russh::Error) -> bool {
    matches!(
        error,
        russh::Error::SshKey(_) | russh::Error::SshEncoding(ssh_encoding::Error::CharacterEncoding)
    )
}

async fn say_goodbye(handle: &Handle, farewell: String) {
    // Fails only if the session has ended already.
    let _ = handle.disconnect(Disconnect::ByApplication, farewell, "en".to_owned()).await;
}

/// The state that is watched while a session lives.
struct Watched<'a> {
    session: Session,
    service: &'a Service,
    drain: &'a Drain,
    handle: Handle,
    cutter: &'a Cutter,
    forwards: &'a forward::Forwards,
}

impl Watched<'_> {
    /// Waits until the session must end.
    async fn must_end(&self, logged_in: &mut watch::Receiver<Login>) -> Ended {
        let after_login = async {
            let admitted = loop {
                if let Login::Accepted(admitted) = &*logged_in.borrow_and_update() {
                    break Arc::clone(admitted);
                }
                if logged_in.changed().await.is_err() {
                    // The handler is gone, so the session is about to end by itself.
                    return std::future::pending().await;
                }
            };
            self.after_login(&admitted).await
        };
        tokio::select! {
            ended = after_login => ended,
            () = self.must_leave() => Ended::Shutdown,
        }
    }

    /// Waits for the bastion's shutdown: immediately for a session that forwards nothing, for as long as the
    /// drain allows otherwise.
    async fn must_leave(&self) {
        self.drain.begun().await;
        let carried = self.forwards.carried();
        if let Some(held) = &carried {
            held.streams().drain();
        }
        let idle = async {
            if let Some(held) = &carried {
                held.streams().idle().await;
            }
            self.forwards.idle().await;
        };
        tokio::select! {
            () = idle => {}
            () = self.drain.over() => {}
        }
    }

    async fn after_login(&self, admitted: &Admitted) -> Ended {
        let evicted = async {
            let reason = admitted.carrier.evicted().await;
            warn_of_eviction(&admitted.identity, None, reason, MEMORY_BUDGET);
            self.service.metrics.evicted(MEMORY_BUDGET);
        };
        tokio::select! {
            refused = no_longer_admitted(self.session, admitted, self.service.requirements.subscribe()) => {
                Ended::Refused(refused)
            }
            () = evicted => Ended::OverBudget,
            // The client disconnected, and the library waits for it to close the connection. That is not
            // necessary.
            () = self.cutter.finished() => Ended::ByClient,
            gone = liveness::gone(&self.handle, self.cutter, self.service.liveness) => match gone {
                Gone::Stalled => Ended::Stalled,
                Gone::Silent => Ended::Silent,
            },
            never = self.forwards.refusals().keep_writing(&admitted.identity) => match never {},
        }
    }
}

/// Waits until the client would no longer be admitted; checks at every change and at the end of the
/// certificate.
async fn no_longer_admitted(
    session: Session,
    admitted: &Admitted,
    mut requirements: watch::Receiver<Arc<Requirements>>,
) -> Refused {
    let claim = Claim { login: admitted.identity.login(), client: session.client.ip() };
    loop {
        let current = Arc::clone(&requirements.borrow_and_update());
        if let Err(refused) =
            certificate::admit_again(&admitted.certificate, claim, &current, SystemTime::now())
        {
            return refused;
        }
        tokio::select! {
            () = reached(admitted.identity.valid_before()) => {}
            // The sender lives as long as the service, which outlives every session.
            _ = requirements.changed() => {}
        }
    }
}

/// Waits until the wall clock reaches `end`, even if the clock steps meanwhile.
async fn reached(end: SystemTime) {
    while let Ok(left) = end.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        sleep(left.min(CLOCK_CHECK)).await;
    }
}

/// Logs a forward or session that was ended to free memory for the others.
fn warn_of_eviction(
    identity: &Identity,
    to: Option<&forward::Request>,
    reason: budget::Reason,
    code: &'static str,
) {
    let whose = match reason {
        budget::Reason::OwnerBudget => "limits.per_identity.buffered_bytes is spent",
        budget::Reason::ProcessBudget => "limits.buffered_bytes is spent",
        budget::Reason::Stalled => "the session waited behind it for timeouts.stalled_target",
    };
    let login = identity.login().as_str().escape_debug();
    let to = to.map(|to| format!("{}:{}", to.host.escape_debug(), to.port));
    let what = if to.is_some() { "a forwarded connection" } else { "a session" };
    tracing::warn!(%login, to, reason = code, "{what} that read nothing was ended to free memory: {whose}");
}
