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

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use thiserror::Error;

use crate::{
    Moment, StreamId, VERSION,
    frame::{Attach, Attached, Frame, LONGEST_HOST, MOST_STREAMS, Position, Request},
    inbound::{FIRST_WINDOW, Inbound},
    proof::{AssociationId, Challenge, Epoch, Secret, Secrets},
    reason::{Code, Reason},
    ring::{Next, Payload, Ring},
    transit::Transit,
};

/// Less data than this at a time is what a person types, or an answer to it, in bytes.
const SMALL: usize = 4 * 1024;

/// A stream that gave so many small pieces in a row is interactive. A single one is how most bulk transfers
/// begin.
const SMALL_PIECES: u8 = 3;

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

/// Why a resumption is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// The proof is wrong.
    #[error("the proof of ownership is not valid")]
    Proof,
    /// A newer attempt was accepted before.
    #[error("a newer attempt has come before this one")]
    Stale,
    /// It lists what cannot be.
    #[error("the positions of its streams cannot be")]
    Positions,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
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
struct Owed {
    open: bool,
    opened: bool,
    reset: bool,
    gone: bool,
    credit: bool,
    blocked: bool,
}

impl Owed {
    fn any(self) -> bool {
        self.open || self.opened || self.reset || self.gone || self.credit || self.blocked
    }
}

#[derive(Debug)]
struct Stream {
    state: State,
    /// Kept while the answer to it is awaited, to be asked again.
    request: Option<Request>,
    reason: Option<Reason>,
    ring: Ring,
    inbound: Inbound,
    owed: Owed,
    /// Whether it stands in the queue of those that owe something.
    in_control: bool,
    /// Whether it stands in the queue of those that have data.
    in_data: bool,
    small_pieces: u8,
}

impl Stream {
    fn new(id: StreamId, state: State, limit: u64, limits: &Limits) -> Self {
        Self {
            state,
            request: None,
            reason: None,
            ring: Ring::new(id, limit, limits.window.max(FIRST_WINDOW)),
            inbound: Inbound::new(limits.window),
            owed: Owed::default(),
            in_control: false,
            in_data: false,
            small_pieces: 0,
        }
    }

    fn is_live(&self) -> bool {
        matches!(self.state, State::Opening | State::Open)
    }

    fn is_interactive(&self) -> bool {
        self.small_pieces >= SMALL_PIECES
    }

    fn held(&self) -> u64 {
        self.ring.held() + self.inbound.waiting()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Association {
    role: Role,
    id: AssociationId,
    limits: Limits,
    streams: BTreeMap<StreamId, Stream>,
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
    is_draining: bool,
    drain_owed: bool,
    control: VecDeque<StreamId>,
    small: VecDeque<StreamId>,
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
        let mut stream = Stream::new(id, State::Opening, FIRST_WINDOW, &self.limits);
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
            self.streams.remove(&id);
            return;
        }
        stream.state = State::Ended;
        stream.request = None;
        stream.reason = Some(reason);
        stream.ring = Ring::new(id, 0, 0);
        stream.owed = Owed { reset: true, ..Owed::default() };
        self.owes(id);
    }

    /// How many bytes may be taken from a stream's socket now.
    pub fn room(&self, id: StreamId) -> usize {
        self.streams.get(&id).filter(|stream| stream.is_live()).map_or(0, |stream| stream.ring.room())
    }

    /// The socket has data, and there is no room: the peer may have a larger window to give.
    pub fn blocked(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_live())
            && stream.ring.is_at_limit()
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

    fn credits(&mut self, id: StreamId) {
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

    fn owes(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.owed.any()
            && !stream.in_control
        {
            stream.in_control = true;
            self.control.push_back(id);
        }
    }

    fn has_data(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.is_live()
            && stream.ring.has_next()
            && !stream.in_data
        {
            stream.in_data = true;
            let is_small = stream.ring.next_length() < SMALL;
            if is_small { &mut self.small } else { &mut self.bulk }.push_back(id);
        }
    }

    /// Whether [`Association::transmit`] may have a frame.
    pub fn has_something_to_send(&self) -> bool {
        self.carrier.as_ref().is_some_and(|carrier| {
            carrier.owes_receipt()
                || self.drain_owed
                || !self.control.is_empty()
                || !self.small.is_empty()
                || !self.bulk.is_empty()
        })
    }

    /// The next frame for a carrier: what is owed first, then small frames, then one frame of each stream in
    /// turn. `None` also while enough is under way, and for a carrier that is not the present one.
    pub fn transmit(&mut self, on: Attachment, now: Moment) -> Option<Outgoing> {
        if on != self.attachment {
            return None;
        }
        let outgoing = self.next_outgoing(now)?;
        if let Some(carrier) = &mut self.carrier {
            carrier.sent(outgoing.frame.len(), now);
        }
        Some(outgoing)
    }

    /// A stream that ended in order with what was sent, and is not known any more.
    pub fn finished(&mut self) -> Option<StreamId> {
        self.finished.pop()
    }

    fn next_outgoing(&mut self, now: Moment) -> Option<Outgoing> {
        let carrier = self.carrier.as_mut()?;
        let control = |frame: Frame| Some(Outgoing { frame: frame.encode(), data_of: None });
        if let Some(bytes) = carrier.receipt() {
            return control(Frame::Received { bytes });
        }
        if std::mem::take(&mut self.drain_owed) {
            return control(Frame::Drain);
        }
        while let Some(id) = self.control.pop_front() {
            if let Some(frame) = self.next_owed(id) {
                return control(frame);
            }
        }
        while let Some(id) = self.small.pop_front() {
            // It may have grown while it waited.
            if self.streams.get(&id).is_some_and(|stream| stream.ring.next_length() >= SMALL) {
                self.bulk.push_back(id);
                continue;
            }
            if let Some(frame) = self.next_data(id) {
                return Some(frame);
            }
        }
        let interactive = now < self.interactive_until;
        while let Some(id) = self.bulk.front().copied() {
            let length = self.streams.get(&id).map_or(0, |stream| stream.ring.next_length());
            if !self.carrier.as_ref()?.may_send(length, interactive) {
                return None;
            }
            self.bulk.pop_front();
            if let Some(frame) = self.next_data(id) {
                return Some(frame);
            }
        }
        None
    }

    /// The next of what is owed about a stream.
    fn next_owed(&mut self, id: StreamId) -> Option<Frame> {
        let is_moving = self.is_moving;
        let stream = self.streams.get_mut(&id)?;
        stream.in_control = false;
        if stream.owed.open && is_moving {
            return None;
        }
        let take = std::mem::take::<bool>;
        let owed = &mut stream.owed;
        let frame = if take(&mut owed.reset) {
            let reason = stream.reason.clone().unwrap_or_else(|| Code::RESET.into());
            Frame::Reset { stream: id, reason }
        } else if take(&mut owed.gone) {
            self.streams.remove(&id);
            return Some(Frame::Gone { stream: id });
        } else if take(&mut owed.open) {
            let (_, limit) = stream.inbound.credit();
            Frame::Open { stream: id, limit, request: stream.request.clone()? }
        } else if take(&mut owed.opened) {
            let (_, limit) = stream.inbound.credit();
            // What it acknowledges follows, if it is anything.
            owed.credit |= stream.inbound.received() > 0;
            Frame::Opened { stream: id, limit }
        } else if take(&mut owed.credit) {
            let (acknowledged, limit) = stream.inbound.credit();
            if self.forget_finished(id) {
                self.finished.push(id);
            }
            Frame::Credit { stream: id, acknowledged, limit }
        } else if take(&mut owed.blocked) {
            // It may have got room since.
            if stream.ring.room() > 0 {
                return None;
            }
            Frame::Blocked { stream: id, limit: stream.ring.limit() }
        } else {
            return None;
        };
        self.owes(id);
        Some(frame)
    }

    fn next_data(&mut self, id: StreamId) -> Option<Outgoing> {
        let is_moving = self.is_moving;
        let stream = self.streams.get_mut(&id)?;
        stream.in_data = false;
        if !stream.is_live() || (stream.owed.open && is_moving) {
            return None;
        }
        let frame = match stream.ring.send_next()? {
            Next::Data(frame) => frame,
            Next::Fin(offset) => Frame::Fin { stream: id, offset }.encode(),
        };
        self.has_data(id);
        Some(Outgoing { frame, data_of: Some(id) })
    }

    /// Takes a frame of `length` bytes from a carrier.
    ///
    /// # Errors
    /// When the peer broke the protocol. The streams are as they were; the carrier must end.
    pub fn receive(
        &mut self,
        from: Attachment,
        frame: Frame,
        length: usize,
        now: Moment,
    ) -> Result<Option<Event>, Violation> {
        let Some(carrier) = self.carrier.as_mut().filter(|_| from == self.attachment) else {
            return Err(Violation::Superseded);
        };
        carrier.received(length);
        self.secrets.confirmed();
        match frame {
            Frame::Data { stream, offset, data } => self.on_data(stream, offset, data),
            Frame::Fin { stream, offset } => {
                let Some(known) = self.live(stream)? else { return self.gone(stream) };
                Ok(known.inbound.fin(offset)?.then_some(Event::Fin(stream)))
            }
            Frame::Credit { stream, acknowledged, limit } => self.on_credit(stream, acknowledged, limit),
            Frame::Blocked { stream, limit } => {
                let Some(known) = self.live(stream)? else { return self.gone(stream) };
                if known.inbound.blocked(limit) {
                    known.owed.credit = true;
                    self.owes(stream);
                }
                Ok(None)
            }
            Frame::Reset { stream, reason } => self.on_reset(stream, reason),
            Frame::Gone { stream } => Ok(self.on_gone(stream)),
            Frame::Open { stream, limit, request } => self.on_open(stream, limit, request),
            Frame::Opened { stream, limit } => self.on_opened(stream, limit),
            Frame::Received { bytes } => {
                let carrier = self.carrier.as_mut().ok_or(Violation::OutOfPlace)?;
                carrier.arrived(bytes, now).ok_or(Violation::NeverSent)?;
                Ok(None)
            }
            Frame::Drain if self.role == Role::Client => Ok(Some(Event::Drain)),
            Frame::End { reason } => {
                self.streams.clear();
                Ok(Some(Event::End(reason)))
            }
            Frame::Drain
            | Frame::Hello(_)
            | Frame::Start { .. }
            | Frame::Started { .. }
            | Frame::Attach(_)
            | Frame::Attached(_)
            | Frame::Refused { .. } => Err(Violation::OutOfPlace),
        }
    }

    /// A stream that is open or being opened; `None` where it has ended at this end, so that the peer does
    /// not know yet.
    fn live(&mut self, id: StreamId) -> Result<Option<&mut Stream>, Violation> {
        if id > self.highest {
            return Err(Violation::BadStream);
        }
        Ok(self.streams.get_mut(&id).filter(|stream| stream.is_live()))
    }

    fn on_data(&mut self, id: StreamId, offset: u64, data: Bytes) -> Result<Option<Event>, Violation> {
        let Some(stream) = self.live(id)? else { return self.gone(id) };
        let event = stream.inbound.data(offset, data)?.map(|data| Event::Data(id, data));
        Ok(event)
    }

    fn on_credit(&mut self, id: StreamId, acknowledged: u64, limit: u64) -> Result<Option<Event>, Violation> {
        let Some(stream) = self.live(id)? else { return self.gone(id) };
        let less = stream.ring.credit(acknowledged, limit).ok_or(Violation::NeverSent)?;
        if self.forget_finished(id) {
            return Ok(Some(Event::Finished(id)));
        }
        Ok(Some(Event::Credit(id, less)))
    }

    /// Forgets a stream that has ended in order in both directions, which the peer knows.
    fn forget_finished(&mut self, id: StreamId) -> bool {
        let is_finished =
            self.streams.get(&id).is_some_and(|stream| stream.ring.is_done() && stream.inbound.is_done());
        if is_finished {
            self.streams.remove(&id);
        }
        is_finished
    }

    fn on_reset(&mut self, id: StreamId, reason: Reason) -> Result<Option<Event>, Violation> {
        if id > self.highest {
            return Err(Violation::BadStream);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return self.gone(id) };
        let was_live = stream.is_live();
        stream.state = State::Answering;
        stream.ring = Ring::new(id, 0, 0);
        stream.owed = Owed { gone: true, ..Owed::default() };
        self.owes(id);
        Ok(was_live.then_some(Event::Reset(id, reason)))
    }

    /// The peer speaks of a stream that is not known any more: the answer to its reset was lost with a
    /// carrier, or the stream has ended in order here, and the acknowledgement that would have told the peer
    /// so was lost.
    fn gone(&mut self, id: StreamId) -> Result<Option<Event>, Violation> {
        if !self.streams.contains_key(&id) {
            if self.streams.len() >= 2 * self.limits.streams {
                return Err(Violation::BadStream);
            }
            self.streams.insert(id, Stream::new(id, State::Answering, 0, &self.limits));
        }
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.state == State::Answering
        {
            stream.owed.gone = true;
            self.owes(id);
        }
        Ok(None)
    }

    fn on_gone(&mut self, id: StreamId) -> Option<Event> {
        match self.streams.get(&id)?.state {
            State::Opening | State::Open => Some(self.ended_there(id)),
            State::Ended => {
                self.streams.remove(&id);
                None
            }
            // Where both ends have reset it, the answer is still owed.
            State::Answering => None,
        }
    }

    fn on_open(&mut self, id: StreamId, limit: u64, request: Request) -> Result<Option<Event>, Violation> {
        if self.role != Role::Server {
            return Err(Violation::OutOfPlace);
        }
        if self.streams.contains_key(&id) {
            // It is asked again since its answer was lost with a carrier; the answer is owed already.
            return Ok(None);
        }
        if id <= self.highest {
            return Err(Violation::BadStream);
        }
        if self.streams.len() >= 2 * self.limits.streams {
            return Err(Violation::BadStream);
        }
        self.highest = id;
        let is_too_many = self.streams.len() >= self.limits.streams;
        self.streams.insert(id, Stream::new(id, State::Opening, limit, &self.limits));
        if is_too_many {
            self.reset(id, Reason::new(Code::RESOURCE_SHORTAGE, "too many streams at the same time"));
            return Ok(None);
        }
        Ok(Some(Event::Open(id, request)))
    }

    fn on_opened(&mut self, id: StreamId, limit: u64) -> Result<Option<Event>, Violation> {
        if self.role != Role::Client {
            return Err(Violation::OutOfPlace);
        }
        let Some(stream) = self.live(id)? else { return self.gone(id) };
        stream.ring.credit(0, limit).ok_or(Violation::NeverSent)?;
        if stream.state == State::Open {
            return Ok(None);
        }
        stream.state = State::Open;
        stream.request = None;
        Ok(Some(Event::Opened(id)))
    }

    /// A carrier is gone. If it was the present one, nothing is sent until there is another.
    pub fn detach(&mut self, from: Attachment) {
        if from == self.attachment {
            self.carrier = None;
        }
    }

    /// Client: asks to go on, on a carrier whose bastion has greeted with `challenge`. The present carrier,
    /// if there is one, serves on until [`Association::resumed`].
    pub fn attach(&mut self, challenge: &Challenge) -> Attach {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.is_moving = true;
        Attach {
            version: VERSION,
            association: self.id,
            epoch: self.epoch,
            proof: self.secrets.prove(challenge, self.id, self.epoch),
            streams: self.positions(),
        }
    }

    /// Client: the bastion did not agree, or the carrier on which it was asked is lost.
    pub fn not_resumed(&mut self) {
        self.is_moving = false;
        let opening: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in opening {
            self.owes(id);
            self.has_data(id);
        }
    }

    /// Server: moves to the carrier whose client asks for it, if it proves that it may. The new carrier
    /// replaces the present one. `fresh` is the secret for the next time.
    ///
    /// The events are what the client's list says of streams: they have ended there.
    ///
    /// # Errors
    /// When it may not. Everything is as it was.
    pub fn resume(
        &mut self,
        attach: &Attach,
        challenge: &Challenge,
        fresh: Secret,
        now: Moment,
    ) -> Result<(Attached, Vec<Event>), Refused> {
        let Attach { proof, epoch, .. } = attach;
        if attach.association != self.id || !self.secrets.verify(proof, challenge, self.id, *epoch) {
            return Err(Refused::Proof);
        }
        if *epoch <= self.epoch {
            return Err(Refused::Stale);
        }
        let events = self.move_to(&attach.streams, None, now).ok_or(Refused::Positions)?;
        self.secrets.offer(fresh.clone(), proof, challenge, self.id, *epoch);
        self.epoch = *epoch;
        let streams = self.positions();
        let attached = Attached { epoch: *epoch, secret: fresh, highest: self.highest, streams };
        Ok((attached, events))
    }

    /// Client: the bastion has agreed to [`Association::attach`]; the carrier that it did so on is the
    /// present one.
    ///
    /// # Errors
    /// When the bastion lists what cannot be, or agrees to an attempt before the last one: its secret is
    /// worth nothing once the bastion gets to the last. Everything is as it was.
    pub fn resumed(&mut self, attached: Attached, now: Moment) -> Result<Vec<Event>, Violation> {
        if attached.epoch != self.epoch {
            return Err(Violation::Superseded);
        }
        let events =
            self.move_to(&attached.streams, Some(attached.highest), now).ok_or(Violation::NeverSent)?;
        self.secrets = Secrets::new(attached.secret);
        Ok(events)
    }

    fn positions(&self) -> Vec<Position> {
        let position = |(id, stream): (&StreamId, &Stream)| Position {
            stream: *id,
            received: stream.inbound.received(),
        };
        self.streams.iter().map(position).collect()
    }

    /// Sets each stream to where the peer stands. `asked` is the highest that a bastion was asked to open.
    /// `None`, and nothing is changed, where the peer's list cannot be.
    fn move_to(&mut self, theirs: &[Position], asked: Option<StreamId>, now: Moment) -> Option<Vec<Event>> {
        let position = |id: StreamId| {
            let found = theirs.binary_search_by_key(&id, |position| position.stream).ok()?;
            theirs.get(found).map(|position| position.received)
        };
        let mut moved = Vec::new();
        for (id, stream) in self.streams.iter().filter(|(_, stream)| stream.is_live()) {
            if let Some(received) = position(*id) {
                if !stream.ring.can_resume(received) {
                    return None;
                }
                moved.push((*id, Some(received)));
            } else {
                moved.push((*id, None));
            }
        }
        self.carrier = Some(Transit::new(now));
        self.attachment = Attachment(self.attachment.0 + 1);
        self.is_moving = false;
        self.drain_owed = self.is_draining;
        self.control.clear();
        self.small.clear();
        self.bulk.clear();
        for stream in self.streams.values_mut() {
            stream.in_control = false;
            stream.in_data = false;
        }
        let mut events = Vec::new();
        for (id, received) in moved {
            let never_asked = asked.is_some_and(|asked| id > asked);
            match (received, never_asked) {
                (Some(received), _) => self.go_on(id, received, false),
                (None, true) => self.go_on(id, 0, true),
                (None, false) => events.push(self.ended_there(id)),
            }
        }
        let others: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in others {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            match stream.state {
                // The peer has had the news, or it would list the stream; or it was never asked to open it.
                State::Ended if position(id).is_none() => {
                    self.streams.remove(&id);
                }
                State::Ended => {
                    stream.owed.reset = true;
                    self.owes(id);
                }
                State::Answering => {
                    stream.owed.gone = true;
                    self.owes(id);
                }
                State::Opening | State::Open => {}
            }
        }
        Some(events)
    }

    /// A stream goes on from what the peer has received. What it was told on the carrier before may have been
    /// lost.
    fn go_on(&mut self, id: StreamId, received: u64, never_asked: bool) {
        let role = self.role;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.ring.resume(received);
        stream.owed.open |= never_asked;
        stream.owed.opened |= role == Role::Server && stream.state == State::Open;
        stream.owed.credit = stream.inbound.received() > 0;
        self.owes(id);
        self.has_data(id);
    }

    /// The peer does not know a stream any more. It forgets only what has ended in order, and what it was
    /// told is gone.
    fn ended_there(&mut self, id: StreamId) -> Event {
        let stream = self.streams.remove(&id);
        match stream {
            Some(stream) if stream.ring.is_all_sent() && stream.inbound.has_end() => Event::Finished(id),
            _ => Event::Reset(
                id,
                Reason::new(Code::UNKNOWN, "the other end does not know this stream any more"),
            ),
        }
    }
}
