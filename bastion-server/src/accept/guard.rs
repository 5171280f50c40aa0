//! Guards a connection from outside its session: ends it when it must end, and records its outcome.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use ssh_transport::socket::Cutter;
use tokio::{
    sync::oneshot,
    time::{sleep_until, timeout},
};

use crate::{
    accept::prelogin::PreloginState,
    limits::startups::{Outcome, Progress, Stage, Ticket},
    process::drain::Drain,
    telemetry::metrics::Metrics,
};

/// How long a connection that was cut may take to end.
const AFTER_CUT: Duration = Duration::from_secs(5);

/// The throttle, which keeps with each connection the channel that tells it to give way.
pub(super) type Throttle = crate::limits::startups::Throttle<Startup>;

/// A connection that has not logged in yet, as the throttle knows it.
#[derive(Debug)]
pub(super) struct Startup {
    pub(super) displace: oneshot::Sender<()>,
    pub(super) seen: Arc<PreloginState>,
}

impl Progress for Startup {
    fn progress(&self) -> (Stage, Option<Instant>) {
        self.seen.progress()
    }
}

/// A connection's place among those that have not logged in yet.
pub(super) struct Start {
    throttle: Arc<Mutex<Throttle>>,
    ticket: Ticket,
    outcome: Outcome,
}

impl Start {
    pub(super) fn new(throttle: Arc<Mutex<Throttle>>, ticket: Ticket) -> Self {
        Self { throttle, ticket, outcome: Outcome::Silent }
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.finish(self.ticket, self.outcome, Instant::now());
    }
}

/// Guards one connection.
pub(super) struct Guard {
    pub(super) cutter: Cutter,
    pub(super) start: Start,
    pub(super) seen: Arc<PreloginState>,
    /// Whether a trusted proxy connected for itself, as for a health check.
    pub(super) is_proxys_own: bool,
    pub(super) logged_in: oneshot::Receiver<()>,
    /// Resolves when a newcomer gets this connection's place.
    pub(super) displaced: oneshot::Receiver<()>,
    pub(super) deadline: tokio::time::Instant,
    pub(super) metrics: Arc<Metrics>,
    pub(super) drain: Drain,
}

impl Guard {
    /// Runs a connection to its end, or cuts it.
    pub(super) async fn watch(self, serving: impl Future<Output = ()> + Send) {
        let Self { cutter, start, seen, is_proxys_own, logged_in, displaced, deadline, metrics, drain } =
            self;
        // A panic leaves no shared state half-changed: the connection owns what it touches.
        let serving = AssertUnwindSafe(serving).catch_unwind();
        tokio::pin!(serving);
        let mut start = Some(start);
        let ended = {
            let must_go = async {
                match login(logged_in, displaced, deadline, &drain).await {
                    Login::Complete => {
                        finish(&mut start, Outcome::LoggedIn);
                        let _active = metrics.session();
                        drain.cut().await;
                    }
                    Login::Overdue => {
                        finish(&mut start, Outcome::Overdue);
                        metrics.connection_refused("login_deadline");
                        tracing::info!("connection closed: no login in time (limits.login_deadline)");
                    }
                    Login::Displaced => {
                        finish(&mut start, Outcome::Displaced);
                        metrics.connection_refused("displaced");
                        tracing::info!(
                            "connection closed to make room for a newcomer: its login made no progress \
                             (limits.max_startups.total)"
                        );
                    }
                    Login::Pointless => finish(&mut start, Outcome::Silent),
                }
            };
            tokio::select! {
                // A login counts, however soon its session ends.
                biased;
                () = must_go => None,
                ended = &mut serving => Some(ended),
            }
        };
        // Another task, such as one of the SSH library, may still hold the socket; it is cut for that task
        // too.
        cutter.cut();
        let ended = match ended {
            Some(ended) => Some(ended),
            None => timeout(AFTER_CUT, serving).await.ok(),
        };
        let met_defect = matches!(ended, Some(Err(_)));
        if met_defect {
            tracing::error!("a defect of the bastion ended this connection; please report it");
        }
        if start.is_some() {
            if let Some(violation) = seen.violation() {
                let reason = violation.code();
                metrics.connection_refused(reason);
                tracing::info!(reason, "connection closed: {violation}");
            }
            finish(
                &mut start,
                match seen.outcome() {
                    _ if met_defect => Outcome::Violation,
                    Outcome::Silent if is_proxys_own => Outcome::Check,
                    outcome => outcome,
                },
            );
        }
    }
}

fn finish(start: &mut Option<Start>, outcome: Outcome) {
    if let Some(mut start) = start.take() {
        start.outcome = outcome;
    }
}

/// The outcome of a login.
enum Login {
    Complete,
    Overdue,
    /// A newcomer from another source needs the place.
    Displaced,
    /// The bastion is about to end.
    Pointless,
}

async fn login(
    logged_in: oneshot::Receiver<()>,
    displaced: oneshot::Receiver<()>,
    deadline: tokio::time::Instant,
    drain: &Drain,
) -> Login {
    let complete = async {
        if logged_in.await.is_err() {
            // The login failed, and the session may tell the client so until the deadline.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // A login counts, even at the last moment.
        biased;
        () = complete => Login::Complete,
        Ok(()) = displaced => Login::Displaced,
        () = sleep_until(deadline) => Login::Overdue,
        () = drain.begun() => Login::Pointless,
    }
}
