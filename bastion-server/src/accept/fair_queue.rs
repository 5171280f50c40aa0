//! Gives turns to clients that have not logged in yet: whose next packet SSH processes, and when.
//!
//! A packet of a hundred bytes before the login can make the bastion verify signatures with a key of the
//! client's choice, before any code of ours runs. So clients take turns, by source rather than by connection,
//! and all of them together have a quarter of the processors' time: clients that have logged in do not notice
//! how many there are. The cost of a turn is measured in processor time, so a busy machine makes no turn more
//! expensive.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use crate::limits::startups::Source;

/// One in this many processors works for clients that have not logged in.
const ONE_IN: usize = 4;
/// The processor time that is saved up while no client comes, so that a few logins never wait.
const SAVED: Duration = Duration::from_millis(100);
/// The number of queues above which empty ones are dropped.
const QUEUES: usize = 64;

/// The turns of all clients that have not logged in.
#[derive(Debug)]
pub(crate) struct FairQueue {
    lanes: Arc<Semaphore>,
    budget: Mutex<CpuBudget>,
    queues: Mutex<HashMap<Source, Weak<Semaphore>>>,
}

impl FairQueue {
    /// A queue for a machine with this many processors.
    pub(crate) fn new(processors: usize) -> Self {
        Self {
            lanes: Arc::new(Semaphore::new((processors / 2).max(1))),
            budget: Mutex::new(CpuBudget::new(processors, Instant::now())),
            queues: Mutex::default(),
        }
    }

    /// Puts a connection into the queue of its source.
    pub(crate) fn queue(self: &Arc<Self>, source: Source) -> Queue {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if queues.len() >= QUEUES {
            queues.retain(|_, queue| queue.strong_count() > 0);
        }
        let queue = queues.get(&source).and_then(Weak::upgrade).unwrap_or_else(|| {
            let queue = Arc::new(Semaphore::new(1));
            queues.insert(source, Arc::downgrade(&queue));
            queue
        });
        Queue { turns: Arc::clone(self), queue }
    }

    fn budget(&self) -> std::sync::MutexGuard<'_, CpuBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the queue of its source.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    turns: Arc<FairQueue>,
    queue: Arc<Semaphore>,
}

impl Queue {
    /// Waits for a turn: first within the source, then among the sources. Never returns `None`, since no
    /// queue is closed.
    pub(crate) async fn turn(self) -> Option<Turn> {
        let queue = self.queue.acquire_owned().await.ok()?;
        let lane = Arc::clone(&self.turns.lanes).acquire_owned().await.ok()?;
        loop {
            let wait = self.turns.budget().wait(Instant::now());
            match wait {
                Some(wait) => sleep(wait).await,
                None => break,
            }
        }
        Some(Turn { turns: self.turns, work: Work::begin(), _places: [queue, lane] })
    }
}

/// The right to have one packet processed. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<FairQueue>,
    work: Work,
    _places: [OwnedSemaphorePermit; 2],
}

impl Turn {
    /// Begins to measure the cost.
    pub(crate) fn begin(&mut self) {
        self.work = Work::begin();
    }

    /// The cost so far.
    pub(crate) fn cost(&self) -> Duration {
        self.work.cost()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let cost = self.work.cost();
        self.turns.budget().spend(cost);
    }
}

/// The processor time that this thread has used.
pub(crate) fn processor_time() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok().map(Duration::from)
}

/// The processor time that is left, in nanoseconds of one processor. One turn may overdraw it.
#[derive(Debug)]
struct CpuBudget {
    left: i64,
    /// Nanoseconds that are earned each microsecond.
    rate: i64,
    filled: Instant,
}

impl CpuBudget {
    fn new(processors: usize, now: Instant) -> Self {
        let rate = processors.saturating_mul(1000) / ONE_IN;
        Self { left: nanoseconds(SAVED), rate: i64::try_from(rate).unwrap_or(i64::MAX).max(1), filled: now }
    }

    /// How long to wait until a turn may begin.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.filled).as_micros();
        let earned = i64::try_from(passed).unwrap_or(i64::MAX).saturating_mul(self.rate);
        self.left = self.left.saturating_add(earned).min(nanoseconds(SAVED));
        self.filled += Duration::from_micros(u64::try_from(passed).unwrap_or(u64::MAX));
        let missing = u64::try_from(self.left.saturating_neg()).ok()?;
        let rate = u64::try_from(self.rate).unwrap_or(1).max(1);
        Some(Duration::from_micros(missing / rate + 1))
    }

    fn spend(&mut self, cost: Duration) {
        self.left = self.left.saturating_sub(nanoseconds(cost));
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Work that began on one thread.
#[derive(Debug)]
struct Work {
    thread: ThreadId,
    processor: Option<Duration>,
    wall: Instant,
}

impl Work {
    fn begin() -> Self {
        Self { thread: thread::current().id(), processor: processor_time(), wall: Instant::now() }
    }

    /// The processor time, or, where the work continued on another thread, the time that passed.
    fn cost(&self) -> Duration {
        let of_processor = || {
            let began = self.processor.filter(|_| self.thread == thread::current().id())?;
            processor_time()?.checked_sub(began)
        };
        of_processor().unwrap_or_else(|| self.wall.elapsed())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures_util::FutureExt;

    use super::*;

    fn source(last: u8) -> Source {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)).into()
    }

    #[test]
    fn what_is_overdrawn_is_earned_before_the_next_turn() {
        let now = Instant::now();
        let mut budget = CpuBudget::new(2, now);
        assert_eq!(budget.wait(now), None);
        budget.spend(SAVED + Duration::from_millis(10));
        // Half of one of two processors.
        let wait = budget.wait(now).unwrap();
        assert!((20..=21).contains(&wait.as_millis()), "{wait:?}");
        assert!(budget.wait(now + Duration::from_millis(19)).is_some());
        assert_eq!(budget.wait(now + wait), None);
        assert_eq!(budget.wait(now + Duration::from_secs(3600)), None);
        assert_eq!(budget.left, nanoseconds(SAVED), "no more is saved");
        // What was earned is earned once, however often it is asked for.
        budget.spend(SAVED + Duration::from_millis(10));
        let later = now + Duration::from_secs(3600) + Duration::from_millis(10);
        let wait = budget.wait(later);
        assert!(wait.is_some());
        assert_eq!(budget.wait(later), wait);
    }

    /// Keeps a processor busy for so long, by its own clock.
    pub(in crate::accept) fn work(time: Duration) {
        let began = processor_time().unwrap();
        while processor_time().unwrap() < began + time {
            std::hint::black_box(began);
        }
    }

    #[tokio::test]
    async fn what_a_turn_cost_is_taken_from_all_that_follow() {
        let turns = Arc::new(FairQueue::new(1));
        let turn = turns.queue(source(1)).turn().await.unwrap();
        let before = turns.budget().left;
        work(Duration::from_millis(20));
        drop(turn);
        let spent = before - turns.budget().left;
        assert!(spent >= nanoseconds(Duration::from_millis(20)), "{spent}");
    }

    #[tokio::test]
    async fn a_turn_costs_nothing_before_it_begins() {
        let turns = Arc::new(FairQueue::new(2));
        let mut turn = turns.queue(source(1)).turn().await.unwrap();
        work(Duration::from_millis(50));
        assert!(turn.cost() >= Duration::from_millis(50));
        turn.begin();
        assert!(turn.cost() < Duration::from_millis(50), "{:?}", turn.cost());
    }

    #[tokio::test]
    async fn a_source_gets_a_turn_beside_any_number_of_connections_of_another() {
        let turns = Arc::new(FairQueue::new(2));
        let running = turns.queue(source(1)).turn().await.unwrap();
        // A hundred connections of one source wait before one of another source comes.
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(turns.queue(source(1)).turn())).collect();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none());
        }
        let mut other = Box::pin(turns.queue(source(2)).turn());
        assert!(other.as_mut().now_or_never().is_none());
        drop(running);
        assert!(other.as_mut().now_or_never().is_some(), "the other source is next");
        let mut next = waiting.into_iter();
        assert!(next.next().unwrap().now_or_never().is_some());
    }

    #[tokio::test]
    async fn queues_of_those_who_left_are_forgotten() {
        let turns = Arc::new(FairQueue::new(1));
        for last in 0..=255 {
            drop(turns.queue(source(last)));
        }
        assert!(turns.queues.lock().unwrap().len() <= QUEUES);
        let held: Vec<_> = (0..=255).map(|last| turns.queue(source(last))).collect();
        assert!(
            Arc::ptr_eq(&turns.queue(source(0)).queue, &held[0].queue),
            "a second one of the same source"
        );
        drop(held);
        drop(turns.queue(source(0)));
        assert_eq!(turns.queues.lock().unwrap().len(), 1);
    }

    #[test]
    fn work_is_measured_by_the_processor() {
        let work = Work::begin();
        thread::sleep(Duration::from_millis(50));
        assert!(work.cost() < Duration::from_millis(40), "{:?}", work.cost());
    }
}
