//! Connects to whichever of several addresses answers first (RFC 8305 §5), without asking all of them simultaneously.
//!
//! `Schedule` says when the next attempt begins, and is pure; [`race`] carries it out.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

/// The time between two attempts while none has failed (the "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);
/// The most simultaneous attempts.
const MOST_AT_ONCE: usize = 8;
/// How long an attempt keeps its place from others that need it: as long as it takes to begin one in each place, which is time for a
/// lost first packet to be sent again.
const KEEPS_PLACE: Duration = Duration::from_secs(2);

/// The addresses in the order in which they are tried: the families take turns, IPv6 first (RFC 8305 §4). Within a family the order stays.
pub fn by_turns(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let of = |v6: bool| addresses.iter().copied().filter(move |address| address.is_ipv6() == v6);
    let (mut first, mut second) = (of(true), of(false));
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(first.next());
        order.extend(second.next());
    }
    order
}

/// When attempts begin. Times are counted from the beginning of the first one.
#[derive(Debug)]
struct Schedule {
    waiting: usize,
    running: usize,
    next: Duration,
}

impl Schedule {
    fn new(addresses: usize) -> Self {
        Self { waiting: addresses, running: 0, next: Duration::ZERO }
    }

    /// When the next attempt begins if none fails before; none, if it takes a failure to make room.
    fn next(&self) -> Option<Duration> {
        (self.waiting > 0 && self.running < MOST_AT_ONCE).then_some(self.next)
    }

    /// One begins. How long it may take, where others will need its place.
    fn begins(&mut self, now: Duration) -> Option<Duration> {
        self.waiting = self.waiting.saturating_sub(1);
        self.running += 1;
        self.next = now + STAGGER;
        (self.waiting > MOST_AT_ONCE.saturating_sub(self.running)).then_some(KEEPS_PLACE)
    }

    /// One has failed: the next need not wait.
    fn failed(&mut self, now: Duration) {
        self.running = self.running.saturating_sub(1);
        self.next = now;
    }
}

/// Tries the addresses in their order until one connects; the attempts that are still under way then end. `connect` is given how long it
/// may take, if that is bounded by the others.
///
/// # Errors
/// The last one's, when all have failed; none, if there is no address.
pub async fn race<T, E, F>(
    addresses: &[SocketAddr],
    connect: impl Fn(SocketAddr, Option<Duration>) -> F,
) -> Result<(SocketAddr, T), Option<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let began = Instant::now();
    let (mut schedule, mut waiting) = (Schedule::new(addresses.len()), addresses.iter().copied());
    let (mut running, mut last) = (FuturesUnordered::new(), None);
    while schedule.waiting > 0 || !running.is_empty() {
        let next = schedule.next();
        let due = async {
            match next {
                // No timer fires before the next millisecond, which is longer than most connections take.
                Some(next) if next <= began.elapsed() => {}
                Some(next) => sleep_until(began + next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some((address, outcome)) = running.next() => match outcome {
                Ok(connected) => return Ok((address, connected)),
                Err(error) => {
                    last = Some(error);
                    schedule.failed(began.elapsed());
                }
            },
            () = due => if let Some(address) = waiting.next() {
                let attempt = connect(address, schedule.begins(began.elapsed()));
                running.push(async move { (address, attempt.await) });
            },
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::sleep;

    use super::*;

    fn at(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 80)).collect()
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test]
    async fn the_first_attempt_waits_for_no_timer() {
        use futures_util::FutureExt;
        let raced = race(&at(&["127.0.0.1"]), |_, _| async { Ok::<_, ()>(()) }).now_or_never();
        assert!(raced.is_some(), "it has begun and ended the first time that it was asked");
    }

    #[test]
    fn families_take_turns() {
        let mixed = at(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"]);
        let order = at(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(by_turns(&mixed), order);
        assert_eq!(by_turns(&mixed[..3]), mixed[..3]);
        assert_eq!(by_turns(&[]), []);
    }

    #[test]
    fn attempts_begin_one_after_another_and_a_failure_makes_way_at_once() {
        let mut schedule = Schedule::new(3);
        assert_eq!(schedule.next(), Some(Duration::ZERO));
        assert_eq!(schedule.begins(millis(0)), None, "no other address needs its place");
        assert_eq!(schedule.next(), Some(millis(250)));
        schedule.failed(millis(10));
        assert_eq!(schedule.next(), Some(millis(10)));
        schedule.begins(millis(10));
        assert_eq!(schedule.next(), Some(millis(260)));
        schedule.begins(millis(260));
        assert_eq!(schedule.next(), None, "there is no other");
    }

    #[test]
    fn so_many_run_at_once_and_give_way_to_others() {
        let mut schedule = Schedule::new(4000);
        for number in 0..8 {
            assert_eq!(schedule.begins(millis(number * 250)), Some(millis(2000)));
        }
        assert_eq!(schedule.next(), None, "all places are taken");
        schedule.failed(millis(2000));
        assert_eq!(schedule.next(), Some(millis(2000)));

        let mut few = Schedule::new(9);
        let limits: Vec<_> = (0..8).map(|_| few.begins(millis(0))).collect();
        assert_eq!(limits, [Some(millis(2000)); 8], "one of them will be needed");
        few.failed(millis(0));
        assert_eq!(few.begins(millis(0)), None, "the last one has all the time there is");
    }

    #[tokio::test(start_paused = true)]
    async fn a_black_hole_costs_a_moment_and_the_first_to_answer_wins() {
        let addresses = at(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let begun = AtomicUsize::new(0);
        let began = Instant::now();
        let winner = race(&addresses, |address, _| {
            begun.fetch_add(1, Ordering::Relaxed);
            let answers = address == addresses[1];
            async move {
                match answers {
                    true => Ok::<_, ()>("connected"),
                    false => std::future::pending().await,
                }
            }
        })
        .await;
        assert_eq!(winner, Ok((addresses[1], "connected")));
        let passed = began.elapsed();
        assert!(
            (millis(250)..millis(260)).contains(&passed),
            "the first one had its time, and no more: {passed:?}"
        );
        assert_eq!(begun.load(Ordering::Relaxed), 2, "the third was not asked");
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_last_reason_stays() {
        let addresses = at(&["192.0.2.1", "192.0.2.2"]);
        let outcome = race(&addresses, |address, _| async move { Err::<(), _>(address) }).await;
        assert_eq!(outcome, Err(Some(addresses[1])));
        assert_eq!(race(&[], |address, _| async move { Err::<(), _>(address) }).await, Err(None));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_are_asked_at_once() {
        let addresses: Vec<SocketAddr> = (0..100).map(|port| ([192, 0, 2, 1], port).into()).collect();
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let outcome = race(&addresses, |_, _| async {
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            sleep(millis(1)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            Err::<(), ()>(())
        })
        .await;
        assert_eq!(outcome, Err(Some(())));
        assert!(most.load(Ordering::Relaxed) <= MOST_AT_ONCE, "{most:?}");
    }
}
