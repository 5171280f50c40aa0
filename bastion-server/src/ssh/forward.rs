//! Serves one forwarded connection: dials for an identity, answers the client, relays, and counts.

use std::{
    borrow::Cow,
    fmt,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use russh::{
    Channel, ChannelOpenFailure,
    server::{ChannelOpenHandle, Msg},
};
use ssh_transport::{
    budget, channel,
    relay::{Account, End, relay},
    socket::Cutter,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, Span};

use super::{MEMORY_BUDGET, Service, handler::Admitted, refusals::Refusals, streams::Held};
use crate::{
    access::{self, Candidate, Denied, Permit},
    audit::{Event, Route, Stopped as AuditStopped, Traffic},
    destination::Destination,
    dial::{DialError, Dialled},
    identity::Identity,
    limits::{
        bandwidth::Bandwidth,
        identities::{ChannelGrant, LONGEST_WAIT, RateExceeded},
    },
    session::Session,
    telemetry::metrics::Direction,
};

/// How often long streams add their bytes to the totals.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// All forwarded connections of one session.
#[derive(Debug, Clone)]
pub(crate) struct Forwards {
    session: Session,
    /// The SSH library calls from a task of its own, outside of the span.
    span: Span,
    service: Arc<Service>,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
    carrier: Cutter,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    refusals: Refusals,
    gate: Arc<Mutex<Gate>>,
    /// The association of streams that the session carries, if it carries one.
    carried: Arc<Mutex<Option<Arc<Held>>>>,
}

/// Whether the session may open more forwards.
enum Gate {
    Open,
    /// The session is about to be told to disconnect. New requests are not answered: they end with the
    /// session, after which a client asks again in its next session, while a refusal would be final.
    Shut(Vec<ChannelOpenHandle>),
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Shut(_) => "Shut",
        })
    }
}

/// The client's request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub host: String,
    pub port: u32,
}

/// Why a forward was refused. The same value makes the audit record, the metric and the client's message.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The policy denies the destination.
    Denied(Denied),
    /// The target cannot be reached.
    Dial(DialError),
    /// The session has as many channels as it may have.
    TooMany,
    /// The audit log cannot take a record of it.
    Unrecorded(AuditStopped),
    /// The identity opens channels too fast.
    RateExceeded,
    /// The session ended before the target answered.
    SessionEnded,
}

impl Refusal {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Denied(denied) => denied.code(),
            Self::Dial(error) => error.code(),
            Self::TooMany => "too_many_channels",
            Self::Unrecorded(stopped) => stopped.code(),
            Self::RateExceeded => "too_fast",
            Self::SessionEnded => "session_ended",
        }
    }

    /// The name of the rule that denies, if one does.
    pub(super) fn rule(&self) -> Option<&str> {
        match self {
            Self::Denied(denied) | Self::Dial(DialError::Denied(denied)) => denied.rule(),
            Self::Dial(_) | Self::TooMany | Self::RateExceeded | Self::SessionEnded | Self::Unrecorded(_) => {
                None
            }
        }
    }

    /// The client's message (RFC 4254 §5.1).
    fn answer(&self) -> ChannelOpenFailure {
        let (kind, reason) = self.told();
        ChannelOpenFailure::Other { code: kind.code(), reason }
    }

    /// The kind of refusal, and the client's message: `code: sentence`.
    pub(super) fn told(&self) -> (ChannelOpenFailure, String) {
        let (kind, sentence): (_, Cow<'static, str>) = match self {
            Self::Denied(denied) | Self::Dial(DialError::Denied(denied)) => {
                (ChannelOpenFailure::AdministrativelyProhibited, denied.to_string().into())
            }
            Self::Dial(error) => (ChannelOpenFailure::ConnectFailed, error.to_string().into()),
            Self::TooMany => (
                ChannelOpenFailure::ResourceShortage,
                "this session has as many channels as it may have (limits.max_channels_per_session), and none of them \
                 ended while this one waited"
                    .into(),
            ),
            Self::Unrecorded(stopped) => (ChannelOpenFailure::ResourceShortage, stopped.to_string().into()),
            Self::RateExceeded => (
                ChannelOpenFailure::ResourceShortage,
                "channels are opened faster than they may be (limits.per_identity.opens_per_second), and too many wait \
                 for their turn already; try again in a second"
                    .into(),
            ),
            Self::SessionEnded => (
                ChannelOpenFailure::ConnectFailed,
                "the session ended before the target answered; ask again in the next one".into(),
            ),
        };
        (kind, format!("{}: {sentence}", self.code()))
    }
}

impl Forwards {
    pub(super) fn new(
        session: Session,
        service: Arc<Service>,
        carrier: Cutter,
        stop: CancellationToken,
    ) -> Self {
        Self {
            session,
            span: Span::current(),
            places: Arc::new(Semaphore::new(service.max_channels)),
            refusals: Refusals::new(session, service.audit.clone()),
            gate: Arc::new(Mutex::new(Gate::Open)),
            carried: Arc::default(),
            service,
            tasks: TaskTracker::new(),
            stop,
            carrier,
            sent: Arc::default(),
            received: Arc::default(),
        }
    }

    /// Records the refusals of this session, of forwards and of other requests.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The association of streams that the session carries, if it carries one.
    pub(super) fn carried(&self) -> Option<Arc<Held>> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on the session carries this association.
    pub(super) fn carry(&self, held: Arc<Held>) {
        *self.carried.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
    }

    pub(super) fn session(&self) -> Session {
        self.session
    }

    pub(super) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The socket of the session.
    pub(super) fn carrier(&self) -> &Cutter {
        &self.carrier
    }

    /// Cancelled when the session ends.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Whether these are the forwards of the same session.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.gate, &other.gate)
    }

    /// The span of the session.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Takes a place for one more channel of any kind, if there is one.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Waits until no forward is open or being opened, and lets none be opened from that moment on.
    pub(super) async fn idle(&self) {
        loop {
            self.ended().await;
            let mut gate = self.gate();
            if self.tasks.is_empty() {
                *gate = Gate::Shut(Vec::new());
                return;
            }
        }
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every forward has ended and its record is written.
    pub(super) async fn ended(&self) {
        // Only a closed tracker can be waited for; it still takes new tasks.
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The bytes of all forwards so far, as last counted.
    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            ..Traffic::default()
        }
    }

    /// Decides about a `direct-tcpip` request (RFC 4254 §7.2), in a task of its own: neither a slow name nor
    /// a slow target delays the session.
    pub(super) fn open(
        &self,
        admitted: &Arc<Admitted>,
        turn: Result<ChannelGrant, RateExceeded>,
        request: Request,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
    ) {
        // Held until the task is tracked, so that the session does not count as idle in between.
        let mut gate = self.gate();
        if let Gate::Shut(unanswered) = &mut *gate {
            if unanswered.len() < self.service.max_channels {
                unanswered.push(reply);
            }
            return;
        }
        let (forwards, admitted) = (self.clone(), Arc::clone(admitted));
        let forwarding = async move {
            match forwards.opened(&admitted.identity, turn, &request).await {
                Ok((dialled, flow, place)) => {
                    reply.accept().await;
                    let budget = admitted.carrier.stream();
                    forwards.relay(&request, dialled, flow, channel, budget).await;
                    drop(place);
                }
                Err(refusal) => {
                    let (host, port, rule) = (request.host.as_str(), request.port, refusal.rule());
                    let route = Route { host, port, address: None, rule };
                    let reason = refusal.code();
                    forwards.service.metrics.forward_refused(reason);
                    forwards.refusals.forward(&admitted.identity, route, reason);
                    reply.reject(refusal.answer()).await;
                }
            }
        };
        self.tasks.spawn(forwarding.instrument(self.span.clone()));
    }

    /// Waits for the channel's turn and place, within bounds, decides, and dials.
    async fn opened(
        &self,
        identity: &Arc<Identity>,
        turn: Result<ChannelGrant, RateExceeded>,
        request: &Request,
    ) -> Result<(Dialled, Option<Arc<Bandwidth>>, OwnedSemaphorePermit), Refusal> {
        let ChannelGrant { wait, waiting, flow } = turn.map_err(|RateExceeded| Refusal::RateExceeded)?;
        let place = tokio::select! {
            place = self.place_in_turn(wait, waiting.is_some()) => place,
            () = self.stop.cancelled() => return Err(Refusal::SessionEnded),
        };
        drop(waiting);
        // The decision follows the wait, during which the rules may have changed.
        let candidate = decide(&self.service, identity, request)?;
        let place = place.ok_or(Refusal::TooMany)?;
        tokio::select! {
            dialled = dial(&self.service, candidate) => Ok((dialled?, flow, place)),
            () = self.stop.cancelled() => Err(Refusal::SessionEnded),
        }
    }

    /// Takes a place for one more channel after `wait`; if there is none, waits in time for the first that
    /// becomes free.
    async fn place_in_turn(&self, wait: Duration, may_wait: bool) -> Option<OwnedSemaphorePermit> {
        let began = Instant::now();
        if !wait.is_zero() {
            sleep(wait).await;
        }
        if !may_wait {
            return self.place();
        }
        let free = Arc::clone(&self.places).acquire_owned();
        timeout_at(began + LONGEST_WAIT, free).await.ok()?.ok()
    }

    async fn relay(
        &self,
        request: &Request,
        dialled: Dialled,
        flow: Option<Arc<Bandwidth>>,
        channel: Channel<Msg>,
        budget: budget::Stream,
    ) {
        let Dialled { socket, address, permit } = dialled;
        let service = &self.service;
        let identity = permit.identity();
        let route = Route {
            host: &request.host,
            port: request.port,
            address: Some(address.ip()),
            rule: Some(permit.rule()),
        };
        let active = service.metrics.channel();
        service.metrics.forward_opened();
        service.audit.record(self.session, Event::ForwardOpened { identity, route });

        let began = Instant::now();
        let account = flow.map_or_else(Account::default, |flow| Account::paced(flow));
        let (source, sink) = channel::split(channel, self.carrier.clone());
        let mut stopped = None;
        let stop = async { stopped = Some(self.stopped(&permit, address).await) };
        let relay = relay(socket, source, sink, &account, &budget, stop);
        let end = metered(service, &account, |traffic| self.count(traffic), relay).await;
        drop(active);
        if let End::Evicted(reason) = end {
            super::warn_of_eviction(identity, Some(request), reason, evicted(reason));
            service.metrics.evicted(evicted(reason));
        }

        let traffic =
            Traffic { sent: account.to_socket(), received: account.from_socket(), duration: began.elapsed() };
        let event = Event::ForwardClosed { identity, route, traffic, reason: code(end, stopped) };
        service.audit.record(self.session, event);
    }

    /// Adds bytes that were moved to the totals of the session.
    pub(super) fn count(&self, traffic: Traffic) {
        self.sent.fetch_add(traffic.sent, Ordering::Relaxed);
        self.received.fetch_add(traffic.received, Ordering::Relaxed);
    }

    /// Waits until the permit is void: its session ends, or the current policy would not grant it again.
    async fn stopped(&self, permit: &Permit, address: SocketAddr) -> Stopped {
        let mut policy = self.service.policy.subscribe();
        loop {
            let current = Arc::clone(&policy.borrow_and_update());
            if let Err(denied) = access::reauthorize(&current, permit, address, SystemTime::now()) {
                return Stopped::Denied(denied);
            }
            tokio::select! {
                () = self.stop.cancelled() => return Stopped::SessionEnded,
                // The sender lives as long as the service, which outlives every relay.
                _ = policy.changed() => {}
            }
        }
    }
}

/// Decides about a request by the current policy.
pub(super) fn decide(
    service: &Service,
    identity: &Arc<Identity>,
    request: &Request,
) -> Result<Candidate, Refusal> {
    let policy = Arc::clone(&service.policy.borrow());
    Destination::parse(&request.host, request.port)
        .map_err(Denied::from)
        .and_then(|destination| access::authorize(&policy, identity, destination, SystemTime::now()))
        .map_err(Refusal::Denied)
}

/// Connects to a destination, unless that could not be recorded.
pub(super) async fn dial(service: &Service, candidate: Candidate) -> Result<Dialled, Refusal> {
    service.audit.ready().map_err(Refusal::Unrecorded)?;
    let dialler = service.dialler.load_full();
    dialler.dial(candidate).await.map_err(|error| match error {
        DialError::Denied(denied) => Refusal::Denied(denied),
        error => Refusal::Dial(error),
    })
}

/// Runs a relay, and adds the bytes that it has moved to the totals at intervals and at its end: to those of
/// the bastion, and by `count` to those of the session.
pub(super) async fn metered(
    service: &Service,
    account: &Account,
    count: impl Fn(Traffic),
    relay: impl Future<Output = End> + Send,
) -> End {
    let (sent, received) =
        (service.metrics.bytes(Direction::Sent), service.metrics.bytes(Direction::Received));
    let mut counted = (0, 0);
    let mut add = || {
        let now = (account.to_socket(), account.from_socket());
        let more = Traffic { sent: now.0 - counted.0, received: now.1 - counted.1, ..Traffic::default() };
        counted = now;
        count(more);
        sent.inc_by(more.sent);
        received.inc_by(more.received);
    };
    let mut relay = pin!(relay);
    let end = loop {
        match timeout(COUNT_EVERY, &mut relay).await {
            Ok(end) => break end,
            Err(_) => add(),
        }
    };
    add();
    end
}

/// Why a relay must stop.
#[derive(Debug, Clone)]
pub(super) enum Stopped {
    /// Its session ends.
    SessionEnded,
    /// A new policy denies the destination.
    Denied(Denied),
}

/// The reason code of a forward that was ended to free memory for others.
pub(super) fn evicted(reason: budget::Reason) -> &'static str {
    match reason {
        budget::Reason::OwnerBudget | budget::Reason::ProcessBudget => MEMORY_BUDGET,
        budget::Reason::Stalled => "target_stalled",
    }
}

/// The reason code in audit records.
pub(super) fn code(end: End, stopped: Option<Stopped>) -> &'static str {
    match (end, stopped) {
        (End::Finished, _) => "finished",
        (End::Socket(_), _) => "target_reset",
        (End::Closed, _) => "client_reset",
        (End::Lost, _) => "session_lost",
        (End::Evicted(reason), _) => evicted(reason),
        (End::Stopped, Some(Stopped::Denied(denied))) => denied.code(),
        (End::Stopped, Some(Stopped::SessionEnded) | None) => "session_ended",
    }
}
