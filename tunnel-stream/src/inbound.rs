//! The receiving half of a stream: what has arrived in order, what the TCP socket took, and how much more may come.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::{association::Violation, ring::MOST_FRAMES};

/// The window of a stream at first, in bytes; the peer may send as much before it hears of any other.
pub(crate) const FIRST_WINDOW: u64 = 64 * 1024;

/// The window once the stream is open, in bytes.
pub(crate) const WINDOW: u64 = 512 * 1024;

/// Credit is granted in steps of at most this many bytes.
const STEP: u64 = 512 * 1024;

/// Credit is granted after so many frames in any case: the peer keeps each until it is acknowledged.
const FRAMES: u32 = 512;

/// A smaller frame is copied out of the packet that it came in, which may be eight times as large, and hold seven other
/// streams' frames: it would stay in memory as long as this one waits.
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

    /// The peer has more than it may send. Where the socket took most of what came, the window is what holds it up.
    /// Whether it has grown.
    pub(crate) fn blocked(&mut self, at: u64) -> bool {
        let waiting = self.expected - self.written;
        if at < self.limit || waiting > self.window / 4 || self.window >= self.largest {
            return false;
        }
        self.window = (2 * self.window).min(self.largest);
        true
    }

    /// Whether the peer should hear of what it may send by now.
    pub(crate) fn owes_credit(&self) -> bool {
        let step = STEP.min(self.window / 4);
        (self.end_written && !self.end_acknowledged)
            || self.written - self.acknowledged >= step
            || (self.frames >= FRAMES && self.written > self.acknowledged)
    }

    /// What is acknowledged, and the limit, which the peer hears now.
    pub(crate) fn credit(&mut self) -> (u64, u64) {
        self.frames = 0;
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
