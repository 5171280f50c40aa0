//! One connection to the bastion, from its login until it is found dead. It is disposable.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::liveness::{Liveness, SILENCE};
use crate::{
    credential::Held,
    endpoint::Endpoint,
    ssh::{NotOpened, Session, Stream},
    suspend::{Clocks, TICK},
};

/// How often the bastion is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(4);
/// How long it may take to answer after we slept.
const AFTER_SLEEP: Duration = Duration::from_secs(3);

/// An authenticated connection that is watched.
pub(crate) struct Carrier {
    session: Arc<Session>,
    bastion: Endpoint,
    held: Arc<Held>,
    since: Instant,
    /// Microseconds; 0 before the first answer.
    answer: Arc<AtomicU64>,
    _watch: AbortOnDropHandle<()>,
}

impl Carrier {
    /// Watches `session`, which was logged in to `bastion` with `held`.
    pub(super) fn new(session: Session, bastion: Endpoint, held: Arc<Held>) -> Arc<Self> {
        let session = Arc::new(session);
        let answer = Arc::new(AtomicU64::new(0));
        let watch = tokio::spawn(watch(Arc::clone(&session), Arc::clone(&answer)));
        let watch = AbortOnDropHandle::new(watch);
        Arc::new(Self { session, bastion, held, since: Instant::now(), answer, _watch: watch })
    }

    /// See [`Session::turn`].
    pub(crate) fn turn(&self, longest: Duration) -> Option<Duration> {
        self.session.turn(longest)
    }

    /// Opens a stream to `destination` for the local program at `peer`.
    ///
    /// # Errors
    /// See [`NotOpened`].
    pub(crate) async fn open(&self, destination: &Endpoint, peer: SocketAddr) -> Result<Stream, NotOpened> {
        self.session.open(destination, peer).await
    }

    /// The bastion at the other end.
    pub(crate) fn bastion(&self) -> &Endpoint {
        &self.bastion
    }

    /// What it was logged in with.
    pub(crate) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Since when it has been up.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// How long the last answer took.
    pub(crate) fn answer_time(&self) -> Option<Duration> {
        let micros = self.answer.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// Waits for its end, and says why.
    pub(crate) async fn ended(&self) -> String {
        self.session.ended().await
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.session.has_ended()
    }

    /// Ends it in order.
    pub(crate) async fn close(&self) {
        self.session.close().await;
    }
}

/// Ends a session whose bastion is dead. Runs outside russh's loop, which may be stuck.
async fn watch(session: Arc<Session>, answer: Arc<AtomicU64>) {
    tokio::select! {
        _ = session.ended() => {}
        () = keep_asking(&session, &answer) => {}
        why = death(&session) => session.cut(&why),
    }
}

/// Asks now and then, one question at a time, which also keeps what lies in between from forgetting the connection.
async fn keep_asking(session: &Session, answer: &AtomicU64) {
    loop {
        let asked = Instant::now();
        if session.ping().await.is_err() {
            return;
        }
        let micros = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        answer.store(micros.max(1), Ordering::Relaxed);
        sleep_until(asked + KEEPALIVE).await;
    }
}

/// Waits until the bastion is dead, and says how that was found.
async fn death(session: &Session) -> String {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut clocks = Clocks::now();
    let mut liveness = Liveness::new(Instant::now(), session.sent());
    loop {
        ticks.tick().await;
        let now = Clocks::now();
        if clocks.slept_until(&now) {
            let woke = Instant::now();
            let answered = timeout(AFTER_SLEEP, session.ping()).await.is_ok();
            if !answered && session.last_heard() < woke {
                return "it did not answer after this computer slept".to_owned();
            }
            liveness = Liveness::new(Instant::now(), session.sent());
        }
        clocks = Clocks::now();
        if liveness.is_dead(Instant::now(), session.last_heard(), session.sent()) {
            return format!("it did not answer for {} s", SILENCE.as_secs());
        }
    }
}
