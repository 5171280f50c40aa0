//! All streams of one end: what happens to them, what is sent next, and how they move to another carrier.
//!
//! The caller owns sockets and carriers. It hands in what a TCP socket gave ([`Association::push`]) and took
//! ([`Association::wrote`]) and each frame of the present carrier ([`Association::receive`]), sends what
//! [`Association::transmit`] gives, and does what an [`Event`] says. After each call that can give the peer
//! something to hear, [`Association::has_something_to_send`] says whether a sender that waits should look
//! again.
//!
//! Whatever is owed to the peer is a mark at its stream and never an entry of a queue, so that no peer can
//! make a queue grow: it is written when it is sent.

mod moving;
mod receive;
mod schedule;
mod stream;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use thiserror::Error;

use crate::{
    Moment, StreamId,
    frame::{LONGEST_HOST, MOST_STREAMS, Request},
    inbound::FIRST_WINDOW,
    proof::{AssociationId, Epoch, Secret, Secrets},
    reason::Reason,
    ring::{Payload, Ring, Total},
    transit::Transit,
};
pub use moving::Refused;
use stream::{Owed, State, Stream};

/// Less data than this at a time is what a person types, or an answer to it, in bytes.
const SMALL: usize = 4 * 1024;

/// It remains interactive for so long after the last one.
const INTERACTIVE: Duration = Duration::from_secs(1);

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens streams, and asks to resume them.
    Client,
    /// Answers.
    Server,
}

/// Counts the carriers of an association. Only the present one may hand in frames and take them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment(u64);

/// What goes out next.
#[derive(Debug)]
pub struct Outgoing {
    /// A whole frame.
    pub frame: Bytes,
    /// The stream whose data it is: more may be taken from its socket.
    pub data_of: Option<StreamId>,
}

/// Bounds of one association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many streams it may have, those that have ended and wait for the peer's answer included.
    pub streams: usize,
    /// How far the window of one stream may grow, in bytes; this end keeps no more for the peer either,
    /// whatever that would take.
    pub window: u64,
    /// How much may be kept of all streams together until the peer acknowledges it, in bytes.
    pub kept: u64,
}

/// What the caller has to do after a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The client asks for a connection: answer with [`Association::accept`] or [`Association::reset`].
    Open(StreamId, Request),
    /// The connection that was asked for is there, and more may be taken from the socket.
    Opened(StreamId),
    /// Write this to the socket, and say so by [`Association::wrote`].
    Data(StreamId, Bytes),
    /// After all of that, tell the socket that nothing follows, and say so by [`Association::wrote_end`].
    Fin(StreamId),
    /// More may be taken from the socket; so many bytes less are held for it, and it may have come to its end
    /// in order.
    Credit(StreamId, u64),
    /// The stream has ended, not in order: reset the socket. It is not known any more.
    Reset(StreamId, Reason),
    /// The stream has ended in order in both directions. It is not known any more.
    Finished(StreamId),
    /// New streams should be opened elsewhere.
    Drain,
    /// The peer has ended the association: all streams are reset.
    End(Reason),
}

/// A peer broke the protocol: its carrier must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    /// Data begins behind what has arrived.
    #[error("data of a stream is missing")]
    Gap,
    /// Data beyond what was granted.
    #[error("more was sent than was granted")]
    BeyondLimit,
    /// Data behind the end, or a second end elsewhere.
    #[error("data behind the end of a stream")]
    BehindTheEnd,
    /// What was never sent is acknowledged.
    #[error("what was never sent is acknowledged")]
    NeverSent,
    /// A number that was used before, or is not the client's to use.
    #[error("a stream was opened by a number that cannot be")]
    BadStream,
    /// A frame that this end never gets, or not now.
    #[error("a frame out of place")]
    OutOfPlace,
    /// Another carrier has taken this one's place. Not the peer's fault.
    #[error("another connection has taken over")]
    Superseded,
}

/// What is to be seen of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamStatus {
    /// Bytes that were taken from the socket.
    pub taken: u64,
    /// Bytes that have arrived for it.
    pub arrived: u64,
    /// Bytes that were sent more than once.
    pub resent: u64,
    /// Bytes that are kept until the peer acknowledges them, or wait for the socket.
    pub held: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Association {
    role: Role,
    id: AssociationId,
    limits: Limits,
    streams: BTreeMap<StreamId, Stream>,
    /// What is kept of all of them.
    kept: Total,
    /// The highest number of a stream so far.
    highest: StreamId,
    /// The highest attempt to attach so far.
    epoch: Epoch,
    secrets: Secrets,
    /// The present carrier, if there is one.
    carrier: Option<Transit>,
    attachment: Attachment,
    /// Client: another carrier was asked to take over. What is opened waits for the answer, since the bastion
    /// would not find it in the list that it got.
    is_moving: bool,
    /// Streams that ended in order with the last frame that was sent.
    finished: Vec<StreamId>,
    /// Server: the client is to hear on each carrier that this process will end.
    is_draining: bool,
    drain_owed: bool,
    /// Streams of which something is owed.
    control: VecDeque<StreamId>,
    /// Streams whose next frame is small.
    small: VecDeque<StreamId>,
    /// Streams whose next frame is large.
    bulk: VecDeque<StreamId>,
    interactive_until: Moment,
}

impl Association {
    /// A new one, on a carrier.
    pub fn new(role: Role, id: AssociationId, secret: Secret, limits: Limits, now: Moment) -> Self {
        Self {
            role,
            id,
            limits: Limits { streams: limits.streams.min(MOST_STREAMS), ..limits },
            streams: BTreeMap::new(),
            kept: Total::default(),
            highest: StreamId(0),
            epoch: Epoch(0),
            secrets: Secrets::new(secret),
            carrier: Some(Transit::new(now)),
            attachment: Attachment(0),
            is_moving: false,
            finished: Vec::new(),
            is_draining: false,
            drain_owed: false,
            control: VecDeque::new(),
            small: VecDeque::new(),
            bulk: VecDeque::new(),
            interactive_until: Duration::ZERO,
        }
    }

    /// Its name.
    pub fn id(&self) -> AssociationId {
        self.id
    }

    /// The present carrier, or the last one.
    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Whether it has a carrier.
    pub fn is_attached(&self) -> bool {
        self.carrier.is_some()
    }

    /// How many streams it has, those included whose end the peer has not confirmed.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// How often it moved to another carrier.
    pub fn resumptions(&self) -> u64 {
        self.attachment.0
    }

    /// The smallest recent time between data and its receipt, once enough has been sent.
    pub fn round_trip(&self) -> Option<Duration> {
        self.carrier.as_ref().and_then(Transit::round_trip)
    }

    /// What is to be seen of a stream.
    pub fn status(&self, id: StreamId) -> Option<StreamStatus> {
        self.streams.get(&id).map(|stream| StreamStatus {
            taken: stream.ring.taken(),
            arrived: stream.inbound.expected(),
            resent: stream.ring.resent(),
            held: stream.held(),
        })
    }

    /// Client: asks for a connection. Data may be pushed immediately. `None` while there are too many
    /// streams, and for a host that is longer than any name, which the bastion would take for a broken frame.
    pub fn open(&mut self, request: Request) -> Option<StreamId> {
        let is_too_many = self.streams.len() >= self.limits.streams;
        if self.role != Role::Client || is_too_many || request.host.len() > LONGEST_HOST {
            return None;
        }
        let id = StreamId(self.highest.0.checked_add(1)?);
        self.highest = id;
        let mut stream = Stream::new(id, State::Opening, FIRST_WINDOW, &self.limits, &self.kept);
        stream.request = Some(request);
        stream.owed.open = true;
        self.streams.insert(id, stream);
        self.owes(id);
        Some(id)
    }

    /// Server: the connection that was asked for is there.
    pub fn accept(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.state == State::Opening
        {
            stream.state = State::Open;
            stream.owed.opened = true;
            self.owes(id);
        }
    }

    /// Ends a stream, not in order. What it held is dropped.
    pub fn reset(&mut self, id: StreamId, reason: Reason) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_live()) else { return };
        if stream.owed.open {
            // The bastion has never heard of it.
            self.forget(id);
            return;
        }
        stream.state = State::Ended;
        stream.request = None;
        stream.reason = Some(reason);
        stream.ring = Ring::new(id, 0, 0, &self.kept);
        stream.owed = Owed { reset: true, ..Owed::default() };
        self.owes(id);
    }

    /// How many bytes may be taken from a stream's socket now.
    pub fn room(&self, id: StreamId) -> usize {
        self.streams
            .get(&id)
            .filter(|stream| stream.is_live())
            .map_or(0, |stream| stream.room(&self.limits, &self.kept))
    }

    /// The socket has data, and there is no room: the peer may have something to acknowledge, or a larger
    /// window to give.
    pub fn blocked(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_live())
            && stream.ring.awaits_credit()
        {
            stream.owed.blocked = true;
            self.owes(id);
        }
    }

    /// Takes what came from a stream's socket, at most [`Association::room`]. Says how much more is held for
    /// it.
    pub fn push(&mut self, id: StreamId, payload: Payload, now: Moment) -> u64 {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_live()) else { return 0 };
        let before = stream.ring.held();
        let is_small = payload.len() < SMALL;
        stream.small_pieces = if is_small { stream.small_pieces.saturating_add(1) } else { 0 };
        stream.ring.push(payload);
        let more = stream.ring.held() - before;
        if stream.is_interactive() {
            self.interactive_until = now + INTERACTIVE;
        }
        self.has_data(id);
        more
    }

    /// A stream's socket gives nothing more (TCP FIN).
    pub fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_live()) {
            stream.ring.finish();
            self.has_data(id);
        }
    }

    /// A stream's socket took so many bytes of what came by [`Event::Data`].
    pub fn wrote(&mut self, id: StreamId, bytes: u64) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_live()) {
            stream.inbound.wrote(bytes);
            self.credits(id);
        }
    }

    /// A stream's socket was told that nothing follows.
    pub fn wrote_end(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_live()) {
            stream.inbound.wrote_end();
            self.credits(id);
        }
    }

    pub(super) fn credits(&mut self, id: StreamId) {
        let owes = self.streams.get_mut(&id).is_some_and(|stream| {
            stream.owed.credit |= stream.inbound.owes_credit();
            stream.owed.credit
        });
        if owes {
            self.owes(id);
        }
    }

    /// Server: the client is to open new streams elsewhere. It hears so again on each carrier that follows.
    pub fn drain(&mut self) {
        self.is_draining = true;
        self.drain_owed = true;
    }
}
