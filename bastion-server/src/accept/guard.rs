//! What ends a connection from outside, and remembers what became of it.

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

/// How long a connection that was cut may take to notice.
const AFTER_CUT: Duration = Duration::from_secs(5);

/// Who may start. With each connection is kept what tells it to give way.
pub(super) type Throttle = crate::limits::startups::Throttle<Startup>;

/// A connection that logs in, as the throttle knows it.
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

/// The place that a connection takes among those that have not logged in.
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

/// Watches over one connection.
pub(super) struct Guard {
    pub(super) cutter: Cutter,
    pub(super) start: Start,
    pub(super) seen: Arc<PreloginState>,
    /// Whether a trusted proxy connected for itself, as it does to see whether anybody is here.
    pub(super) is_proxys_own: bool,
    pub(super) logged_in: oneshot::Receiver<()>,
    /// Announced when its place is given to somebody else.
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
        // A defect leaves nothing half-done that others share: the connection owns what it touches.
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
                        tracing::info!("no login in time; closing (limits.login_deadline)");
                    }
                    Login::Displaced => {
                        finish(&mut start, Outcome::Displaced);
                        metrics.connection_refused("displaced");
                        tracing::info!(
                            "closing one that has not come further, for one that has just come \
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
        // Whoever still holds the socket, a task of the SSH library for one, is of no use from now on.
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
                tracing::info!(reason, "hung up on a client: {violation}");
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

/// What became of a login.
enum Login {
    Complete,
    Overdue,
    /// Somebody from elsewhere needs the place.
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
            // It failed, and may say so to the client for as long as there is time.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // A login counts, also when it came in the last moment.
        biased;
        () = complete => Login::Complete,
        Ok(()) = displaced => Login::Displaced,
        () = sleep_until(deadline) => Login::Overdue,
        () = drain.begun() => Login::Pointless,
    }
}
