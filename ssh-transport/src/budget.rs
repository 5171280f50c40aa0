//! Bounds the memory that peers can make a process hold: one budget for each owner and one for the process.
//!
//! Everything that a peer can make grow is charged to it: what waits for a socket that takes nothing, what was read ahead
//! of a session that writes, what waits to be sent to a peer that does not read. While a budget is spent, nothing more is
//! read for those who spent it, and the stream that has stalled longest is told to end. The [`ledger`] decides.

pub mod ledger;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use ledger::{Id, Ledger, Opened};
pub use ledger::{Limits, Reason};

/// How often it is asked who must end, while a stream may have to.
const LOOK: Duration = Duration::from_millis(100);

/// The budgets of a process.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    pressed: Arc<Notify>,
}

struct State {
    ledger: Ledger,
    verdicts: HashMap<Id, Arc<Verdict>>,
    gates: HashMap<Id, Arc<Gate>>,
}

/// What a holder must be told.
#[derive(Debug, Default)]
struct Verdict {
    reason: OnceLock<Reason>,
    told: CancellationToken,
}

impl Verdict {
    async fn reason(&self) -> Reason {
        loop {
            self.told.cancelled().await;
            if let Some(reason) = self.reason.get() {
                return *reason;
            }
        }
    }
}

/// Where those wait who must not read.
#[derive(Debug, Default)]
struct Gate {
    opened: Notify,
    read: AtomicWaker,
    write: AtomicWaker,
}

impl Gate {
    fn open(&self) {
        self.opened.notify_waiters();
        self.read.wake();
        self.write.wake();
    }
}

impl Budget {
    /// Begins to watch, in a task that ends with the last of what it watches.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn start(limits: Limits) -> Self {
        let state = State { ledger: Ledger::new(limits), verdicts: HashMap::new(), gates: HashMap::new() };
        let pressed = Arc::<Notify>::default();
        let shared = Arc::new(Shared { state: Mutex::new(state), pressed: Arc::clone(&pressed) });
        tokio::spawn(watch(Arc::downgrade(&shared), pressed));
        Self(shared)
    }

    /// A new carrier of the owner of that name.
    #[must_use]
    pub fn carrier(&self, owner: &str) -> Arc<Carrier> {
        self.enter(|ledger| ledger.carrier(owner))
    }

    /// A new association of the owner of that name. Its streams have credit, so none of them holds up another.
    #[must_use]
    pub fn association(&self, owner: &str) -> Arc<Carrier> {
        self.enter(|ledger| ledger.association(owner))
    }

    fn enter(&self, enter: impl FnOnce(&mut Ledger) -> Id) -> Arc<Carrier> {
        let (verdict, gate) = (Arc::<Verdict>::default(), Arc::<Gate>::default());
        let mut state = self.0.state();
        let id = enter(&mut state.ledger);
        state.verdicts.insert(id, Arc::clone(&verdict));
        state.gates.insert(id, Arc::clone(&gate));
        drop(state);
        Arc::new(Carrier { share: Share { shared: Arc::clone(&self.0), id, verdict }, gate })
    }

    /// How long a stream that holds up its carrier may take nothing, from now on.
    pub fn set_patience(&self, patience: Duration) {
        self.0.state().ledger.set_patience(patience);
    }

    /// How much is held at this moment, in bytes.
    pub fn held(&self) -> u64 {
        self.0.state().ledger.total()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.pressed.notify_one();
    }
}

impl State {
    fn open(&self, opened: Opened) {
        match opened {
            Opened::None => {}
            Opened::Carrier(id) => {
                if let Some(gate) = self.gates.get(&id) {
                    gate.open();
                }
            }
            Opened::Many => self.gates.values().for_each(|gate| gate.open()),
        }
    }

    fn judge(&mut self, now: std::time::Instant) {
        for (id, reason) in self.ledger.judge(now) {
            if let Some(verdict) = self.verdicts.get(&id) {
                let _ = verdict.reason.set(reason);
                verdict.told.cancel();
            }
        }
    }
}

/// Looks who must end, whenever a stream may have to.
async fn watch(budget: Weak<Shared>, pressed: Arc<Notify>) {
    loop {
        pressed.notified().await;
        loop {
            let is_pressed = {
                let Some(shared) = budget.upgrade() else { return };
                let mut state = shared.state();
                state.judge(Instant::now().into_std());
                state.ledger.is_pressed()
            };
            if !is_pressed {
                break;
            }
            sleep(LOOK).await;
        }
    }
}

/// One holder's part.
struct Share {
    shared: Arc<Shared>,
    id: Id,
    verdict: Arc<Verdict>,
}

impl Share {
    fn charge(&self, bytes: u64) {
        if self.shared.state().ledger.charge(self.id, bytes) {
            self.shared.pressed.notify_one();
        }
    }

    fn release(&self, bytes: u64) {
        let mut state = self.shared.state();
        let opened = state.ledger.release(self.id, bytes);
        state.open(opened);
    }

    fn stall(&self) {
        self.shared.state().ledger.stall(self.id, Instant::now().into_std());
    }

    fn progress(&self) {
        self.shared.state().ledger.progress(self.id);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let opened = state.ledger.leave(self.id);
        state.verdicts.remove(&self.id);
        state.gates.remove(&self.id);
        state.open(opened);
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Share").field(&self.id).finish()
    }
}

/// The part of one connection, and the gate to it.
#[derive(Debug)]
pub struct Carrier {
    share: Share,
    gate: Arc<Gate>,
}

impl Carrier {
    /// A new stream on it.
    #[must_use]
    pub fn stream(self: &Arc<Self>) -> Stream {
        let verdict = Arc::<Verdict>::default();
        let shared = &self.share.shared;
        let mut state = shared.state();
        let id = state.ledger.stream(self.share.id);
        state.verdicts.insert(id, Arc::clone(&verdict));
        drop(state);
        Stream { share: Share { shared: Arc::clone(shared), id, verdict }, carrier: Arc::clone(self) }
    }

    /// Waits until it must end, and says why.
    pub async fn evicted(&self) -> Reason {
        self.share.verdict.reason().await
    }

    /// Whether nothing is read from its peer at present, because of us.
    pub fn is_held_up(&self) -> bool {
        !self.may_read()
    }

    /// Counts bytes that are on their way to the peer, for as long as they live.
    #[must_use]
    pub fn lend(self: &Arc<Self>, data: Bytes) -> Bytes {
        let bytes = data.len() as u64;
        self.charge(bytes);
        Bytes::from_owner(Lent { data, carrier: Arc::clone(self) })
    }

    /// Waits until its owner may make us hold more.
    pub async fn room(&self) {
        loop {
            let opened = self.gate.opened.notified();
            if !self.share.shared.state().ledger.has_spent(self.share.id) {
                return;
            }
            opened.await;
        }
    }

    fn may_read(&self) -> bool {
        self.share.shared.state().ledger.may_read(self.share.id)
    }

    /// Whether more may be read from the peer; if not, the reader is woken when it may.
    pub(crate) fn poll_read(&self, cx: &Context<'_>) -> bool {
        self.poll(&self.gate.read, cx.waker())
    }

    /// [`Carrier::poll_read`], for the one who reads ahead.
    pub(crate) fn poll_read_ahead(&self, cx: &Context<'_>) -> bool {
        self.poll(&self.gate.write, cx.waker())
    }

    fn poll(&self, place: &AtomicWaker, waker: &Waker) -> bool {
        if self.may_read() {
            return true;
        }
        place.register(waker);
        // It may have opened in between.
        self.may_read()
    }

    pub(crate) fn charge(&self, bytes: u64) {
        self.share.charge(bytes);
    }

    pub(crate) fn release(&self, bytes: u64) {
        self.share.release(bytes);
    }

    /// Its peer takes nothing at present.
    pub(crate) fn stall(&self) {
        self.share.stall();
    }

    /// Its peer took something.
    pub(crate) fn progress(&self) {
        self.share.progress();
    }
}

/// Bytes that are given back to the budget when no buffer holds them any more.
struct Lent {
    data: Bytes,
    carrier: Arc<Carrier>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.carrier.release(self.data.len() as u64);
    }
}

/// The part of one forwarded connection.
#[derive(Debug)]
pub struct Stream {
    share: Share,
    carrier: Arc<Carrier>,
}

impl Stream {
    /// The connection that carries it.
    pub fn carrier(&self) -> &Arc<Carrier> {
        &self.carrier
    }

    /// Waits until it must end, and says why.
    pub async fn evicted(&self) -> Reason {
        self.share.verdict.reason().await
    }

    /// So many bytes more wait for the socket.
    pub(crate) fn charge(&self, bytes: u64) {
        self.share.charge(bytes);
    }

    /// The socket took so many.
    pub(crate) fn release(&self, bytes: u64) {
        self.share.release(bytes);
        self.share.progress();
    }

    /// The socket takes nothing at present.
    pub(crate) fn stall(&self) {
        self.share.stall();
    }

    /// Nothing more comes from the carrier.
    pub(crate) fn finish(&self) {
        let mut state = self.share.shared.state();
        let opened = state.ledger.finish(self.share.id);
        state.open(opened);
    }
}

#[cfg(test)]
mod tests;
