//! One connection to the bastion, from its login until it is found dead. It is disposable.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::liveness::{Liveness, SILENCE, SUSPICION};
use crate::{
    credential::Held,
    endpoint::Endpoint,
    failure::{Failure, Stage},
    network,
    ssh::{Carried, NotCarried, NotOpened, Session, Stream, Streams},
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
    /// The streams that outlive it, if the bastion knows any.
    streams: OnceLock<Streams>,
    /// Microseconds; 0 before the first answer.
    answer: Arc<AtomicU64>,
    /// Whether its bastion has been silent for suspiciously long.
    suspected: watch::Receiver<bool>,
    _watch: AbortOnDropHandle<()>,
}

impl Carrier {
    /// Watches `session`, which was logged in to `bastion` with `held`, from the address `local`.
    pub(super) fn new(
        session: Session,
        bastion: Endpoint,
        held: Arc<Held>,
        local: Option<IpAddr>,
    ) -> Arc<Self> {
        let session = Arc::new(session);
        let answer = Arc::new(AtomicU64::new(0));
        let (suspects, suspected) = watch::channel(false);
        let watch = tokio::spawn(watch(Arc::clone(&session), Arc::clone(&answer), local, suspects));
        let watch = AbortOnDropHandle::new(watch);
        let streams = OnceLock::new();
        Arc::new(Self {
            session,
            bastion,
            held,
            since: Instant::now(),
            streams,
            answer,
            suspected,
            _watch: watch,
        })
    }

    /// Takes over the streams of an earlier carrier, or starts new ones. `None` where the server knows no streams that outlive
    /// a carrier.
    ///
    /// # Errors
    /// When the bastion does neither. The streams of an earlier carrier are still on that one.
    pub(super) async fn take_over(&self, earlier: Option<&Streams>) -> Result<Option<Carried>, Failure> {
        let carried = self.session.carry(earlier).await.map_err(|NotCarried(reason)| {
            Failure::transient(Stage::Session, format!("{}: {reason}", self.bastion.host()))
        })?;
        if let Some(carried) = &carried {
            let _ = self.streams.set(carried.streams.clone());
        }
        Ok(carried)
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
        self.session.open(self.streams.get(), destination, peer).await
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

    /// Whether its bastion does not answer, so that its streams had better go on elsewhere.
    pub(super) fn is_suspected(&self) -> bool {
        self.streams.get().is_some() && *self.suspected.borrow()
    }

    /// Waits until that is so.
    pub(super) async fn suspected(&self) {
        let mut suspected = self.suspected.clone();
        if self.streams.get().is_none() || suspected.wait_for(|suspected| *suspected).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until its bastion wants new streams to be opened elsewhere.
    pub(super) async fn drained(&self) {
        match self.streams.get() {
            Some(streams) => streams.drained().await,
            None => std::future::pending().await,
        }
    }

    /// Ends it in order, and the streams with it.
    pub(crate) async fn close(&self) {
        if let Some(streams) = self.streams.get() {
            streams.end().await;
        }
        self.session.close().await;
    }
}

/// Ends a session whose bastion is dead. Runs outside russh's loop, which may be stuck.
async fn watch(
    session: Arc<Session>,
    answer: Arc<AtomicU64>,
    local: Option<IpAddr>,
    suspects: watch::Sender<bool>,
) {
    tokio::select! {
        _ = session.ended() => {}
        () = keep_asking(&session, &answer) => {}
        why = death(&session, &suspects) => session.cut(&why),
        why = moved(&session, local) => session.cut(&why),
    }
}

/// Waits until this computer's network has changed so that the bastion no longer answers, and says how that was found.
async fn moved(session: &Session, local: Option<IpAddr>) -> String {
    loop {
        network::changed().await;
        if local.is_some_and(|local| !network::has(local)) {
            return "the address that this computer had is gone".to_owned();
        }
        let changed = Instant::now();
        let answered = timeout(AFTER_SLEEP, session.ping()).await.is_ok();
        if !answered && session.last_heard() < changed {
            return "it did not answer after this computer's network changed".to_owned();
        }
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
async fn death(session: &Session, suspects: &watch::Sender<bool>) -> String {
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
        let silence = liveness.silence(Instant::now(), session.last_heard(), session.sent());
        suspects.send_replace(silence >= SUSPICION);
        if silence >= SILENCE {
            return format!("it did not answer for {} s", SILENCE.as_secs());
        }
    }
}
