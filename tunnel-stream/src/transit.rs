//! Bounds the bytes that are under way on one carrier while a person is typing.
//!
//! A keystroke cannot overtake what the kernel has taken already. So while some stream is interactive, bulk
//! data is held back as long as more is under way than the path needs to stay busy: its bandwidth-delay
//! product, measured by the peer's receipts, as BBR does (draft-ietf-ccwg-bbr §5.5: the largest recent rate
//! by the smallest recent round trip).

use std::{collections::VecDeque, time::Duration};

use crate::Moment;

/// The least that may be under way, in bytes.
pub(crate) const LEAST: u64 = 256 * 1024;

/// The most, in bytes, with or without an interactive stream.
pub(crate) const MOST: u64 = 64 * 1024 * 1024;

/// The receiver tells of what has arrived each time that so much more has, in bytes.
pub(crate) const RECEIPT: u64 = 128 * 1024;

/// How long a measurement counts.
const RECENT: Duration = Duration::from_secs(10);

/// Between two marks, in bytes.
const MARK_EVERY: u64 = 64 * 1024;

/// The most marks: as many as [`MOST`] needs. A peer that confirms nothing gets small frames all the same.
const MOST_MARKS: usize = (MOST / MARK_EVERY) as usize;

#[derive(Debug, Clone, Copy)]
struct Mark {
    /// What had been sent, this included.
    sent: u64,
    at: Moment,
    /// What had arrived by then.
    arrived: u64,
    arrived_at: Moment,
}

/// The best measurement of the present period and of the one before.
#[derive(Debug, Clone, Copy)]
struct Best<T> {
    present: Option<T>,
    before: Option<T>,
    since: Moment,
}

impl<T: Copy + Ord> Best<T> {
    const fn new() -> Self {
        Self { present: None, before: None, since: Duration::ZERO }
    }

    fn measure(&mut self, value: T, now: Moment, best: impl Fn(T, T) -> T) {
        if now.saturating_sub(self.since) >= RECENT {
            self.before = self.present.take();
            self.since = now;
        }
        self.present = Some(self.present.map_or(value, |other| best(other, value)));
    }

    fn get(&self, best: impl Fn(T, T) -> T) -> Option<T> {
        match (self.present, self.before) {
            (Some(a), Some(b)) => Some(best(a, b)),
            (one, other) => one.or(other),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Transit {
    sent: u64,
    arrived: u64,
    arrived_at: Moment,
    marks: VecDeque<Mark>,
    round_trip: Best<Duration>,
    /// Bytes a second.
    rate: Best<u64>,
    /// What has arrived from the peer, and what it was told of.
    received: u64,
    told: u64,
}

impl Transit {
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            sent: 0,
            arrived: 0,
            arrived_at: now,
            marks: VecDeque::new(),
            round_trip: Best::new(),
            rate: Best::new(),
            received: 0,
            told: 0,
        }
    }

    /// Whether a frame of bulk data may go out.
    pub(crate) fn may_send(&self, length: usize, interactive: bool) -> bool {
        let under_way = self.sent - self.arrived;
        under_way == 0 || under_way + length as u64 <= if interactive { self.cap() } else { MOST }
    }

    /// How much may be under way while a stream is interactive, in bytes.
    fn cap(&self) -> u64 {
        let (Some(round_trip), Some(rate)) = (self.round_trip.get(Ord::min), self.rate.get(Ord::max)) else {
            return LEAST;
        };
        let product = u128::from(rate) * round_trip.as_nanos() / 1_000_000_000;
        u64::try_from(product).unwrap_or(MOST).clamp(LEAST, MOST)
    }

    pub(crate) fn sent(&mut self, length: usize, now: Moment) {
        self.sent += length as u64;
        let is_due = self.marks.back().is_none_or(|mark| self.sent - mark.sent >= MARK_EVERY);
        if is_due && self.marks.len() < MOST_MARKS {
            let (arrived, arrived_at) = (self.arrived, self.arrived_at);
            self.marks.push_back(Mark { sent: self.sent, at: now, arrived, arrived_at });
        }
    }

    /// The peer has got so much. `None` where that was never sent.
    pub(crate) fn arrived(&mut self, bytes: u64, now: Moment) -> Option<()> {
        if bytes > self.sent || bytes < self.arrived {
            return None;
        }
        self.arrived = bytes;
        self.arrived_at = now;
        let mut newest = None;
        while let Some(mark) = self.marks.front()
            && mark.sent <= bytes
        {
            newest = self.marks.pop_front();
        }
        if let Some(mark) = newest {
            self.round_trip.measure(now.saturating_sub(mark.at), now, Ord::min);
            let elapsed = now.saturating_sub(mark.arrived_at).as_nanos().max(1);
            let rate = u128::from(bytes - mark.arrived) * 1_000_000_000 / elapsed;
            // An idle time before the mark makes the rate too small, never too large.
            self.rate.measure(u64::try_from(rate).unwrap_or(u64::MAX), now, Ord::max);
        }
        Some(())
    }

    /// A frame of so many bytes has arrived from the peer.
    pub(crate) fn received(&mut self, length: usize) {
        self.received += length as u64;
    }

    /// What the peer should hear has arrived, if it should.
    pub(crate) fn receipt(&mut self) -> Option<u64> {
        (self.received - self.told >= RECEIPT).then(|| {
            self.told = self.received;
            self.received
        })
    }

    /// Whether [`Transit::receipt`] has one.
    pub(crate) fn owes_receipt(&self) -> bool {
        self.received - self.told >= RECEIPT
    }

    /// The smallest recent round trip.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip.get(Ord::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_cap_follows_the_path() {
        let mut transit = Transit::new(Duration::ZERO);
        assert_eq!(transit.cap(), LEAST);
        // 100 MB/s, and 50 ms for each receipt.
        let mut now = Duration::ZERO;
        let mut arrived = 0;
        for step in 0..400_u64 {
            transit.sent(100_000, now);
            if step >= 50 {
                arrived += 100_000;
                transit.arrived(arrived, now).unwrap();
            }
            now += MS;
        }
        let cap = transit.cap();
        assert!((4_500_000..6_000_000).contains(&cap), "{cap}");
        assert!(transit.may_send(1, false));
        assert_eq!(transit.round_trip(), Some(50 * MS));
        // A slow path after a fast one is seen once the fast one is no longer recent.
        arrived += 5_000_000;
        transit.arrived(arrived, now).unwrap();
        for _ in 0..2000_u64 {
            transit.sent(70_000, now);
            arrived += 70_000;
            now += 20 * MS;
            transit.arrived(arrived, now).unwrap();
        }
        assert_eq!(transit.cap(), LEAST);
    }

    #[test]
    fn a_frame_goes_out_when_nothing_is_under_way_however_long() {
        let mut transit = Transit::new(Duration::ZERO);
        assert!(transit.may_send(usize::try_from(MOST).unwrap() + 1, true));
        transit.sent(usize::try_from(LEAST).unwrap(), Duration::ZERO);
        assert!(!transit.may_send(1, true));
        assert!(transit.may_send(1, false));
        assert!(transit.arrived(LEAST + 1, MS).is_none(), "that was never sent");
    }

    #[test]
    fn the_smallest_round_trip_counts_for_ten_seconds_at_least_and_twenty_at_most() {
        let mut transit = Transit::new(Duration::ZERO);
        let mut sent = 0;
        let mut measure = |at: u64, round_trip: u64| {
            transit.sent(100_000, MS * u32::try_from(at).unwrap());
            sent += 100_000;
            transit.arrived(sent, MS * u32::try_from(at + round_trip).unwrap()).unwrap();
            transit.round_trip()
        };
        assert_eq!(measure(1000, 50), Some(50 * MS));
        assert_eq!(measure(2000, 40), Some(40 * MS));
        assert_eq!(measure(9000, 90), Some(40 * MS));
        assert_eq!(measure(9950, 80), Some(40 * MS), "the next ten seconds begin");
        assert_eq!(measure(19_000, 70), Some(40 * MS));
        assert_eq!(measure(21_000, 90), Some(70 * MS));
        assert_eq!(measure(33_000, 90), Some(90 * MS));
    }

    #[test]
    fn the_largest_rate_counts() {
        let mut transit = Transit::new(Duration::ZERO);
        let mut sent = 0;
        // A megabyte in each so many milliseconds, of which each is confirmed as it is sent.
        for milliseconds in [100, 20, 50] {
            let at = MS * 1000 + transit.arrived_at;
            transit.arrived_at = at;
            transit.sent(1_000_000, at);
            sent += 1_000_000;
            transit.arrived(sent, at + MS * milliseconds).unwrap();
        }
        assert_eq!(transit.rate.get(Ord::max), Some(50_000_000));
        assert_eq!(transit.round_trip(), Some(20 * MS));
        assert_eq!(transit.cap(), 1_000_000);
        assert!(transit.may_send(1_000_000, true));
        transit.sent(1, MS * 10_000);
        assert!(transit.may_send(999_999, true) && !transit.may_send(1_000_000, true));
        assert!(transit.may_send(usize::try_from(MOST).unwrap() - 1, false));
        assert!(!transit.may_send(usize::try_from(MOST).unwrap(), false));
    }

    #[test]
    fn a_receipt_is_about_what_was_sent_and_goes_down_never() {
        let mut transit = Transit::new(Duration::ZERO);
        transit.sent(1000, Duration::ZERO);
        assert_eq!(transit.arrived(1001, MS), None);
        assert_eq!(transit.arrived(600, MS), Some(()));
        assert_eq!(transit.arrived(599, MS), None);
        assert_eq!(transit.arrived(600, MS), Some(()));
        assert_eq!(transit.round_trip(), None, "only a part of the frame has arrived");
        assert_eq!(transit.arrived(1000, 3 * MS), Some(()));
        assert_eq!(transit.round_trip(), Some(3 * MS));
    }

    #[test]
    fn marks_are_made_now_and_then_and_bounded() {
        let mut transit = Transit::new(Duration::ZERO);
        for _ in 0..8 {
            transit.sent(32 * 1024, Duration::ZERO);
        }
        assert_eq!(transit.marks.len(), 4);
        for _ in 0..3000 {
            transit.sent(64 * 1024, Duration::ZERO);
        }
        assert_eq!(transit.marks.len(), 1024);
        transit.arrived(transit.sent, MS).unwrap();
        assert!(transit.marks.is_empty());
    }

    #[test]
    fn the_peer_hears_of_each_part() {
        let mut transit = Transit::new(Duration::ZERO);
        transit.received(100_000);
        assert_eq!(transit.receipt(), None);
        transit.received(100_000);
        assert!(transit.owes_receipt());
        assert_eq!(transit.receipt(), Some(200_000));
        assert!(!transit.owes_receipt());
        transit.received(131_071);
        assert!(!transit.owes_receipt() && transit.receipt().is_none());
        transit.received(1);
        assert_eq!(transit.receipt(), Some(200_000 + 131_072));
    }
}
