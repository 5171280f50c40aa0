//! Shares the state of a tunnel among its tasks: the present carrier, the connections that wait for one, and the counts.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backoff::{Again, Trouble};
use ssh_transport::relay::Account;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::carrier::Carrier;
use crate::{endpoint::Endpoint, output::Link};

/// A carrier that was just lost is replaced in the state by the task that notices first; others look again this much later.
const AFTER_LOSS: Duration = Duration::from_millis(20);

/// The same complaint about the same destination is not worth a second line within this time.
const OLD_NEWS: Duration = Duration::from_secs(10);

/// Connections that were held back this long ago are not any more.
const HELD_BACK: Duration = Duration::from_secs(60);

/// Shared by all tasks of one tunnel.
pub(super) struct TunnelState {
    carrier: watch::Sender<Option<Arc<Carrier>>>,
    link: watch::Sender<Shown>,
    open: AtomicUsize,
    waiting: AtomicUsize,
    demand: Notify,
    account: Account,
    complaint: Mutex<Trouble>,
    held_back: Mutex<Trouble>,
    stop: CancellationToken,
}

/// What the status line says of the connection; `next` is when the next try begins.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    pub(super) link: Link,
    pub(super) next: Option<Instant>,
}

/// Counts one for as long as it lives.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TunnelState {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self {
            carrier: watch::Sender::new(None),
            link: watch::Sender::default(),
            open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            demand: Notify::new(),
            account: Account::default(),
            complaint: Mutex::default(),
            held_back: Mutex::default(),
            stop,
        }
    }

    /// The present carrier, or the next one, unless there is none until `deadline`.
    pub(super) async fn carrier(&self, deadline: Instant) -> Option<Arc<Carrier>> {
        let usable = |carrier: &Option<Arc<Carrier>>| carrier.clone().filter(|carrier| !carrier.has_ended());
        if let Some(carrier) = usable(&self.carrier.borrow()) {
            return Some(carrier);
        }
        let _waiting = Counted::new(&self.waiting);
        self.demand.notify_one();
        let mut carriers = self.carrier.subscribe();
        let found = tokio::select! {
            found = timeout_at(deadline, carriers.wait_for(|carrier| usable(carrier).is_some())) => found,
            () = self.stopped() => return None,
        };
        found.ok()?.ok().and_then(|carrier| usable(&carrier))
    }

    /// Waits a moment after a carrier was found lost, so as not to spin.
    pub(super) async fn pause_after_loss(&self, deadline: Instant) {
        sleep_until(deadline.min(Instant::now() + AFTER_LOSS)).await;
    }

    /// Makes `carrier` the one that new streams use.
    pub(super) fn publish(&self, carrier: Option<Arc<Carrier>>) {
        self.carrier.send_replace(carrier);
    }

    /// The carrier that new streams use, if any.
    pub(super) fn present(&self) -> Option<Arc<Carrier>> {
        self.carrier.borrow().clone()
    }

    /// Sets what the status line says.
    pub(super) fn show(&self, link: Link, next: Option<Instant>) {
        self.link.send_replace(Shown { link, next });
    }

    pub(super) fn shown(&self) -> Shown {
        self.link.borrow().clone()
    }

    pub(super) fn opened(&self) -> Counted<'_> {
        Counted::new(&self.open)
    }

    /// How many streams are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many local connections wait for a carrier.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits until one more local connection waits for a carrier.
    pub(super) async fn demand(&self) {
        self.demand.notified().await;
    }

    /// Bytes relayed by all streams together.
    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    /// Whether a complaint should be said; a program that tries ten times a second makes ten a second.
    pub(super) fn is_news(&self, destination: &Endpoint, reason: &str) -> bool {
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        complaint.raise(&format!("{destination} {reason}"), Again::After(OLD_NEWS), std::time::Instant::now())
    }

    /// A connection is held back at this moment. Whether that is new, and should be said.
    pub(super) fn holds_back(&self) -> bool {
        let mut held_back = self.held_back.lock().unwrap_or_else(PoisonError::into_inner);
        held_back.raise("", Again::AfterQuiet(HELD_BACK), std::time::Instant::now())
    }

    /// Whether the tunnel ends.
    pub(super) fn has_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until the tunnel ends.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}
