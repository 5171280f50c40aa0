//! One stream as its end of an association knows it.

use super::Limits;
use crate::{
    StreamId,
    frame::Request,
    inbound::{FIRST_WINDOW, Inbound},
    reason::Reason,
    ring::{Ring, Total},
};

/// A stream that gave so many small pieces in a row is interactive. A single one is how most bulk transfers
/// begin.
const SMALL_PIECES: u8 = 3;

/// A stream may keep so many times what all of them together leave of [`Limits::kept`], so that each newcomer
/// finds room, however many are busy: one busy stream gets eight ninths of it, two get eight seventeenths
/// each.
const SHARE: u64 = 8;

/// What a stream may keep in any case, in bytes.
const LEAST: u64 = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The client has asked; the bastion has not answered.
    Opening,
    Open,
    /// This end has reset it; the peer's answer is awaited.
    Ended,
    /// The peer has reset it, and has to be answered.
    Answering,
}

/// What the peer is to be told of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Owed {
    pub(super) open: bool,
    pub(super) opened: bool,
    pub(super) reset: bool,
    pub(super) gone: bool,
    pub(super) credit: bool,
    pub(super) blocked: bool,
}

impl Owed {
    pub(super) fn any(self) -> bool {
        self.open || self.opened || self.reset || self.gone || self.credit || self.blocked
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) state: State,
    /// Kept while the answer to it is awaited, to be asked again.
    pub(super) request: Option<Request>,
    pub(super) reason: Option<Reason>,
    pub(super) ring: Ring,
    pub(super) inbound: Inbound,
    pub(super) owed: Owed,
    /// Whether it stands in the queue of those that owe something.
    pub(super) in_control: bool,
    /// Whether it stands in the queue of those that have data.
    pub(super) in_data: bool,
    pub(super) small_pieces: u8,
}

impl Stream {
    pub(super) fn new(id: StreamId, state: State, limit: u64, limits: &Limits, kept: &Total) -> Self {
        Self {
            state,
            request: None,
            reason: None,
            ring: Ring::new(id, limit, limits.window.max(FIRST_WINDOW), kept),
            inbound: Inbound::new(limits.window),
            owed: Owed::default(),
            in_control: false,
            in_data: false,
            small_pieces: 0,
        }
    }

    /// How many bytes may be taken from its socket now: as the peer lets, and as what is kept of all streams
    /// lets.
    pub(super) fn room(&self, limits: &Limits, kept: &Total) -> usize {
        let left = limits.kept.saturating_sub(kept.get());
        let share = SHARE.saturating_mul(left).max(LEAST).saturating_sub(self.ring.held());
        self.ring.room().min(usize::try_from(share).unwrap_or(usize::MAX))
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, State::Opening | State::Open)
    }

    pub(super) fn is_interactive(&self) -> bool {
        self.small_pieces >= SMALL_PIECES
    }

    pub(super) fn held(&self) -> u64 {
        self.ring.held() + self.inbound.waiting()
    }
}
