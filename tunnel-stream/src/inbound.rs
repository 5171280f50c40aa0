//! The receiving half of a stream: what has arrived in order, what the TCP socket took, and how much more may
//! come.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::{association::Violation, ring::MOST_FRAMES};

/// The window of a stream at first, in bytes; the peer may send as much before it hears of any other.
pub(crate) const FIRST_WINDOW: u64 = 64 * 1024;

/// The window once the stream is open, in bytes.
pub(crate) const WINDOW: u64 = 512 * 1024;

/// Credit is granted in steps of at most this many bytes.
pub(crate) const STEP: u64 = 512 * 1024;

/// Credit is granted after so many frames in any case: the peer keeps each until it is acknowledged.
const FRAMES: u32 = 512;

/// A smaller frame is copied out of the packet that it came in, which may be eight times as large, and hold
/// seven other streams' frames: it would stay in memory as long as this one waits.
const COPIED: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// All before this has arrived.
    expected: u64,
    /// All before this was written to the socket.
    written: u64,
    /// What the peer was told last: all before this is acknowledged.
    acknowledged: u64,
    /// What the peer was told last: all before this may be sent.
    limit: u64,
    window: u64,
    largest: u64,
    /// Frames that have arrived since the peer was told of credit.
    frames: u32,
    is_asked: bool,
    /// Where each frame ends that the socket has not taken.
    ends: VecDeque<u64>,
    /// The offset of the end, once it is known.
    end: Option<u64>,
    /// The socket was told of the end.
    end_written: bool,
    end_acknowledged: bool,
}

impl Inbound {
    pub(crate) fn new(largest: u64) -> Self {
        Self {
            expected: 0,
            written: 0,
            acknowledged: 0,
            limit: FIRST_WINDOW,
            window: WINDOW.min(largest).max(FIRST_WINDOW),
            largest: largest.max(FIRST_WINDOW),
            frames: 0,
            is_asked: false,
            ends: VecDeque::new(),
            end: None,
            end_written: false,
            end_acknowledged: false,
        }
    }

    /// What of a frame is new, if anything.
    pub(crate) fn data(&mut self, offset: u64, mut data: Bytes) -> Result<Option<Bytes>, Violation> {
        let end = offset + data.len() as u64;
        if offset > self.expected {
            return Err(Violation::Gap);
        }
        if end <= self.expected {
            return Ok(None);
        }
        // A sender keeps no more frames, and so has none to send.
        if end > self.limit || self.ends.len() >= MOST_FRAMES {
            return Err(Violation::BeyondLimit);
        }
        if self.end.is_some() {
            return Err(Violation::BehindTheEnd);
        }
        data.advance(usize::try_from(self.expected - offset).unwrap_or(usize::MAX));
        self.expected = end;
        self.frames += 1;
        self.ends.push_back(end);
        Ok(Some(if data.len() < COPIED { Bytes::copy_from_slice(&data) } else { data }))
    }

    /// The end. Whether that is new.
    pub(crate) fn fin(&mut self, offset: u64) -> Result<bool, Violation> {
        match self.end {
            Some(end) if end == offset => Ok(false),
            Some(_) => Err(Violation::BehindTheEnd),
            None if offset == self.expected => {
                self.end = Some(offset);
                Ok(true)
            }
            None => Err(Violation::Gap),
        }
    }

    /// The socket took so many bytes.
    pub(crate) fn wrote(&mut self, bytes: u64) {
        self.written = self.written.saturating_add(bytes).min(self.expected);
        while self.ends.front().is_some_and(|end| *end <= self.written) {
            self.ends.pop_front();
        }
    }

    /// The socket was told of the end.
    pub(crate) fn wrote_end(&mut self) {
        if self.end == Some(self.written) {
            self.end_written = true;
        }
    }

    /// The peer has more than it may send. Where the socket took most of what came, the window is what holds
    /// it up. Whether it has grown.
    pub(crate) fn blocked(&mut self, at: u64) -> bool {
        let waiting = self.expected - self.written;
        if at < self.limit || waiting > self.window / 4 || self.window >= self.largest {
            return false;
        }
        self.window = (2 * self.window).min(self.largest);
        true
    }

    /// The peer waits for an acknowledgement, also of less than is worth one otherwise.
    pub(crate) fn asked(&mut self) {
        self.is_asked = true;
    }

    /// Whether the peer should hear of what it may send by now.
    pub(crate) fn owes_credit(&self) -> bool {
        let step = STEP.min(self.window / 4);
        (self.end_written && !self.end_acknowledged)
            || self.written - self.acknowledged >= step
            || ((self.is_asked || self.frames >= FRAMES) && self.written > self.acknowledged)
    }

    /// What is acknowledged, and the limit, which the peer hears now.
    pub(crate) fn credit(&mut self) -> (u64, u64) {
        self.frames = 0;
        self.is_asked = false;
        self.acknowledged = self.written;
        self.limit = self.limit.max(self.written.saturating_add(self.window));
        self.end_acknowledged |= self.end_written;
        (self.acknowledged + u64::from(self.end_written), self.limit)
    }

    /// What the peer need not send again: everything that arrived, with the end.
    pub(crate) fn received(&self) -> u64 {
        self.expected + u64::from(self.end.is_some())
    }

    /// How much waits for the socket, in bytes.
    pub(crate) fn waiting(&self) -> u64 {
        self.expected - self.written
    }

    pub(crate) fn expected(&self) -> u64 {
        self.expected
    }

    pub(crate) fn is_done(&self) -> bool {
        self.end_written && self.end_acknowledged
    }

    /// Whether the end has arrived.
    pub(crate) fn has_end(&self) -> bool {
        self.end.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: u64 = 8 << 20;

    fn zeros(length: u64) -> Bytes {
        vec![0; usize::try_from(length).unwrap()].into()
    }

    fn data(inbound: &mut Inbound, offset: u64, data: &'static str) -> Result<Option<Bytes>, Violation> {
        inbound.data(offset, Bytes::from_static(data.as_bytes()))
    }

    /// One that has arrived and was written so far.
    fn at(offset: u64) -> Inbound {
        let mut inbound = Inbound::new(LARGEST);
        while inbound.expected() < offset {
            let length = (offset - inbound.expected()).min(inbound.limit - inbound.expected());
            inbound.data(inbound.expected(), zeros(length)).unwrap();
            inbound.wrote(length);
            inbound.credit();
        }
        inbound
    }

    #[test]
    fn what_has_arrived_already_is_taken_out() {
        let mut inbound = Inbound::new(LARGEST);
        assert_eq!(data(&mut inbound, 0, "abcdef"), Ok(Some("abcdef".into())));
        assert_eq!(data(&mut inbound, 0, "abcdef"), Ok(None));
        assert_eq!(data(&mut inbound, 2, "cd"), Ok(None));
        assert_eq!(data(&mut inbound, 4, "efgh"), Ok(Some("gh".into())));
        assert_eq!((inbound.expected(), inbound.received(), inbound.waiting()), (8, 8, 8));
        inbound.wrote(3);
        assert_eq!((inbound.received(), inbound.waiting()), (8, 5));
        inbound.wrote(u64::MAX);
        assert_eq!(inbound.waiting(), 0);
    }

    #[test]
    fn what_is_missing_or_was_not_granted_breaks_the_protocol() {
        let mut inbound = Inbound::new(LARGEST);
        assert_eq!(data(&mut inbound, 1, "b"), Err(Violation::Gap));
        assert_eq!(inbound.fin(1), Err(Violation::Gap));
        assert_eq!(inbound.data(0, zeros(FIRST_WINDOW + 1)), Err(Violation::BeyondLimit));
        assert_eq!(inbound.data(0, zeros(FIRST_WINDOW)).map(|data| data.is_some()), Ok(true));
        assert_eq!(data(&mut inbound, FIRST_WINDOW, "x"), Err(Violation::BeyondLimit));
        assert_eq!(inbound.received(), FIRST_WINDOW, "and changes nothing");
    }

    #[test]
    fn nothing_follows_the_end() {
        let mut inbound = at(10);
        assert!(!inbound.has_end());
        assert_eq!(inbound.fin(10), Ok(true));
        assert!(inbound.has_end());
        assert_eq!(inbound.fin(10), Ok(false), "sent again");
        assert_eq!(inbound.fin(9), Err(Violation::BehindTheEnd));
        assert_eq!(inbound.fin(11), Err(Violation::BehindTheEnd));
        assert_eq!(data(&mut inbound, 10, "x"), Err(Violation::BehindTheEnd));
        assert_eq!(data(&mut inbound, 9, "x"), Ok(None), "sent again");
        assert_eq!(inbound.received(), 11);
        let mut other = at(10);
        assert_eq!(other.fin(9), Err(Violation::Gap), "an end before what has arrived");
    }

    #[test]
    fn the_end_is_acknowledged_once_the_socket_was_told() {
        let mut inbound = at(10);
        data(&mut inbound, 10, "xy").unwrap();
        inbound.fin(12).unwrap();
        inbound.wrote(1);
        inbound.wrote_end();
        assert!(!inbound.owes_credit(), "not all before it was written");
        assert_eq!(inbound.credit().0, 11);
        inbound.wrote(1);
        assert!(!inbound.owes_credit());
        inbound.wrote_end();
        assert!(inbound.owes_credit() && !inbound.is_done());
        assert_eq!(inbound.credit().0, 13);
        assert!(!inbound.owes_credit() && inbound.is_done());
        assert_eq!(inbound.credit().0, 13);
        at(10).wrote_end();
    }

    #[test]
    fn there_is_no_end_to_acknowledge_before_it_has_arrived() {
        let mut inbound = at(10);
        inbound.wrote_end();
        assert!(!inbound.owes_credit());
        assert_eq!(inbound.credit().0, 10);
        assert!(!inbound.is_done());
    }

    #[test]
    fn credit_is_given_in_steps() {
        let mut inbound = at(1);
        assert_eq!(inbound.credit(), (1, 1 + WINDOW));
        let step = WINDOW / 4;
        inbound.data(1, zeros(step)).unwrap();
        assert!(!inbound.owes_credit(), "what waits is not acknowledged");
        inbound.wrote(step - 1);
        assert!(!inbound.owes_credit());
        inbound.wrote(1);
        assert!(inbound.owes_credit());
        assert_eq!(inbound.credit(), (1 + step, 1 + step + WINDOW));
        assert!(!inbound.owes_credit());
    }

    #[test]
    fn the_steps_do_not_grow_with_the_window_for_ever() {
        let mut inbound = at(1);
        while inbound.blocked(inbound.limit) {
            inbound.credit();
        }
        assert_eq!(inbound.window, LARGEST);
        inbound.data(1, zeros(STEP)).unwrap();
        inbound.wrote(STEP - 1);
        assert!(!inbound.owes_credit());
        inbound.wrote(1);
        assert!(inbound.owes_credit());
    }

    #[test]
    fn credit_is_given_for_many_small_frames_too() {
        let mut inbound = at(1);
        for offset in 1..=u64::from(FRAMES) {
            assert!(!inbound.owes_credit());
            data(&mut inbound, offset, "x").unwrap();
        }
        assert!(!inbound.owes_credit(), "of which none was written");
        inbound.wrote(1);
        assert!(inbound.owes_credit());
        inbound.credit();
        assert!(!inbound.owes_credit());
    }

    #[test]
    fn the_window_grows_only_where_it_is_what_holds_the_peer_up() {
        let fresh = || {
            let mut inbound = at(1);
            inbound.credit();
            inbound
        };
        let limit = fresh().limit;
        let mut inbound = fresh();
        assert!(!inbound.blocked(limit - 1), "more was granted meanwhile");
        assert!(inbound.blocked(limit));
        assert_eq!(inbound.window, 2 * WINDOW);
        assert_eq!(inbound.credit().1, 1 + 2 * WINDOW);

        let mut inbound = fresh();
        inbound.data(1, zeros(WINDOW / 4)).unwrap();
        assert!(inbound.blocked(limit), "the socket takes most of it");
        let mut inbound = fresh();
        inbound.data(1, zeros(WINDOW / 4 + 1)).unwrap();
        assert!(!inbound.blocked(limit), "the socket is what holds it up");
        inbound.wrote(1);
        assert!(inbound.blocked(limit));

        let mut inbound = Inbound::new(3 * WINDOW);
        assert!(inbound.blocked(inbound.limit) && inbound.blocked(inbound.limit));
        assert_eq!(inbound.window, 3 * WINDOW);
        assert!(!inbound.blocked(inbound.limit), "as far as it may");
    }

    #[test]
    fn a_window_is_at_least_what_a_peer_takes_for_granted() {
        let mut inbound = Inbound::new(0);
        assert_eq!(inbound.credit(), (0, FIRST_WINDOW));
        assert!(!inbound.blocked(FIRST_WINDOW));
        let mut inbound = Inbound::new(FIRST_WINDOW + 1);
        assert_eq!(inbound.credit(), (0, FIRST_WINDOW + 1));
    }

    #[test]
    fn no_more_frames_wait_than_an_honest_peer_keeps() {
        let mut inbound = at(1);
        inbound.credit();
        for offset in 1..=MOST_FRAMES as u64 {
            assert!(data(&mut inbound, offset, "x").is_ok());
        }
        let next = 1 + MOST_FRAMES as u64;
        assert_eq!(data(&mut inbound, next, "x"), Err(Violation::BeyondLimit));
        inbound.wrote(1);
        assert!(data(&mut inbound, next, "x").is_ok());
        assert_eq!(data(&mut inbound, next + 1, "x"), Err(Violation::BeyondLimit));
        inbound.wrote(u64::MAX);
        assert!(inbound.ends.is_empty());
    }

    #[test]
    fn a_small_frame_does_not_keep_its_packet_in_memory() {
        let packet = zeros(128 * 1024);
        let mut inbound = at(1);
        let small = inbound.data(1, packet.slice(..16_383)).unwrap().unwrap();
        let large = inbound.data(16_384, packet.slice(..16_384)).unwrap().unwrap();
        assert_ne!(small.as_ptr(), packet.as_ptr());
        assert_eq!(large.as_ptr(), packet.as_ptr(), "no copy");
    }
}
