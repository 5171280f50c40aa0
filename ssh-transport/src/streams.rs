//! Runs an association of resumable streams: on whatever carrier it has, between the relays and one SSH channel.
//!
//! `tunnel_stream` decides; this moves. On each carrier two loops run in [`Streams::carry`]: one hands arriving frames to
//! the association and what they hold to the relays, the other sends what the association has to send. A relay sees a
//! [`StreamSource`] and a [`StreamSink`], and does not notice when the carrier changes.

mod wire;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use russh::{ChannelId, ChannelMsg};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tunnel_stream::{
    Association, Attachment, Code, Event, Frame, HEADER, Limits, MOST_DATA, Malformed, Moment, Payload,
    Reason, Refused, Request, Role, StreamId, Violation,
    frame::{Attach, Attached},
    proof::{AssociationId, Challenge, Secret},
};

use crate::{
    budget,
    channel::ChannelSink,
    relay::{End, Incoming, Lost, Sink, Source},
};
pub use wire::Wire;

/// How much may be in the SSH library's hands, in bytes: what is there cannot be overtaken.
const IN_LIBRARY: u64 = 256 * 1024;

/// How long a peer may take to hear the end of all streams, and how often it is looked at.
const FLUSH: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(2);

/// An association with its streams. Clones are the same one.
#[derive(Clone)]
pub struct Streams(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    started: Instant,
    to_send: Notify,
    budget: Arc<budget::Carrier>,
    /// How many streams there are; changes when one comes or goes.
    count: watch::Sender<usize>,
    /// Why all of it has ended, if it has.
    ended: watch::Sender<Option<Reason>>,
    drained: watch::Sender<bool>,
    requests: Option<mpsc::UnboundedSender<Requested>>,
}

struct State {
    association: Association,
    ends: HashMap<StreamId, Local>,
}

/// This end of one stream, as the loops of a carrier know it.
struct Local {
    incoming: mpsc::UnboundedSender<Incoming>,
    shared: Arc<LocalShared>,
}

/// What a stream's relay and the loops share.
#[derive(Debug)]
struct LocalShared {
    room: Notify,
    answer: watch::Sender<Answer>,
    budget: budget::Stream,
}

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// The bastion has not answered yet.
    Awaited,
    /// The connection is there.
    Opened,
    /// It was refused, or has been reset since.
    Ended(Ending, Reason),
}

/// Which end has ended a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// This one.
    Here,
    /// The other one.
    There,
}

/// Both halves of a stream, for a relay, and what becomes of it.
#[derive(Debug)]
pub struct Stream {
    /// What arrives.
    pub source: StreamSource,
    /// What is sent.
    pub sink: StreamSink,
    /// What became of it.
    pub fate: Fate,
    /// What it may hold.
    pub budget: StreamBudget,
}

/// A stream that a client asks for.
#[derive(Debug)]
pub struct Requested {
    /// Where to.
    pub request: Request,
    /// To be answered by [`Fate::accept`] or [`Fate::refuse`].
    pub stream: Stream,
}

/// A stream's part of the budget, which lives until the peer has everything.
#[derive(Debug, Clone)]
pub struct StreamBudget(Arc<LocalShared>);

impl StreamBudget {
    /// What a relay is given.
    pub fn get(&self) -> &budget::Stream {
        &self.0.budget
    }
}

/// Why a carrier carries an association no longer.
#[derive(Debug)]
pub enum Parted {
    /// The channel or its connection has ended.
    Lost,
    /// Another carrier has taken over.
    Superseded,
    /// The peer broke the protocol.
    Violation(Violation),
    /// The peer sent what is no frame.
    Malformed(Malformed),
    /// The association has ended.
    Ended,
}

impl Streams {
    /// A new association, whose first carrier is [`Streams::attachment`]. A server gets the client's requests by
    /// `requests`, of which there are never more than streams.
    pub fn new(
        role: Role,
        id: AssociationId,
        secret: Secret,
        limits: Limits,
        budget: Arc<budget::Carrier>,
        requests: Option<mpsc::UnboundedSender<Requested>>,
    ) -> Self {
        let association = Association::new(role, id, secret, limits, Duration::ZERO);
        Self(Arc::new(Shared {
            state: Mutex::new(State { association, ends: HashMap::new() }),
            started: Instant::now(),
            to_send: Notify::new(),
            budget,
            count: watch::Sender::new(0),
            ended: watch::Sender::new(None),
            drained: watch::Sender::new(false),
            requests,
        }))
    }

    /// Its name.
    pub fn id(&self) -> AssociationId {
        self.0.state().association.id()
    }

    /// The present carrier, or the last one.
    pub fn attachment(&self) -> Attachment {
        self.0.state().association.attachment()
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        *self.0.count.borrow()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until there is no stream.
    pub async fn idle(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Waits until the bastion wants new streams to be opened elsewhere.
    pub async fn drained(&self) {
        let _ = self.0.drained.subscribe().wait_for(|drained| *drained).await;
    }

    /// Why all of it has ended, if it has.
    pub fn has_ended(&self) -> Option<Reason> {
        self.0.ended.borrow().clone()
    }

    /// Waits until all of it has ended.
    pub async fn ended(&self) -> Reason {
        match self.0.ended.subscribe().wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_else(|| Code::STOPPED.into()),
            Err(_) => Code::STOPPED.into(),
        }
    }

    /// Client: asks for a connection. `None` while there are too many streams, or all of it has ended.
    pub fn open(&self, request: Request) -> Option<Stream> {
        if self.has_ended().is_some() {
            return None;
        }
        let mut state = self.0.state();
        let id = state.association.open(request)?;
        let stream = self.insert(&mut state, id);
        drop(state);
        self.0.to_send.notify_one();
        Some(stream)
    }

    fn insert(&self, state: &mut State, id: StreamId) -> Stream {
        let (incoming, arrives) = mpsc::unbounded_channel();
        let shared = Arc::new(LocalShared {
            room: Notify::new(),
            answer: watch::Sender::new(Answer::Awaited),
            budget: self.0.budget.stream(),
        });
        state.ends.insert(id, Local { incoming, shared: Arc::clone(&shared) });
        self.0.count.send_replace(state.ends.len());
        Stream {
            source: StreamSource { id, streams: self.clone(), arrives },
            sink: StreamSink { id, streams: self.clone(), shared: Arc::clone(&shared) },
            fate: Fate { id, streams: self.clone(), answer: shared.answer.subscribe() },
            budget: StreamBudget(shared),
        }
    }

    /// Client: see [`Association::attach`].
    pub fn attach(&self, challenge: &Challenge) -> Attach {
        self.0.state().association.attach(challenge)
    }

    /// Client: see [`Association::not_resumed`].
    pub fn not_resumed(&self) {
        self.0.state().association.not_resumed();
        self.0.to_send.notify_one();
    }

    /// Client: see [`Association::resumed`]. Gives the new carrier's number.
    ///
    /// # Errors
    /// When the bastion lists what cannot be.
    pub fn resumed(&self, attached: Attached) -> Result<Attachment, Violation> {
        let mut state = self.0.state();
        let events = state.association.resumed(attached, self.0.now())?;
        let attachment = state.association.attachment();
        self.happened(&mut state, events);
        drop(state);
        // The loops of the carrier before find out that they are not needed.
        self.0.to_send.notify_waiters();
        Ok(attachment)
    }

    /// Server: see [`Association::resume`].
    ///
    /// # Errors
    /// When the client may not.
    pub fn resume(
        &self,
        attach: &Attach,
        challenge: &Challenge,
        fresh: Secret,
    ) -> Result<(Attached, Attachment), Refused> {
        let mut state = self.0.state();
        let (attached, events) = state.association.resume(attach, challenge, fresh, self.0.now())?;
        let attachment = state.association.attachment();
        self.happened(&mut state, events);
        drop(state);
        self.0.to_send.notify_waiters();
        Ok((attached, attachment))
    }

    /// A carrier is gone. Says whether it was the present one, so that the streams have none now.
    pub fn detach(&self, from: Attachment) -> bool {
        let mut state = self.0.state();
        let was_present = state.association.attachment() == from && state.association.is_attached();
        state.association.detach(from);
        was_present
    }

    /// Client: gives the streams up if `lost` was their last carrier still after `wait`: the bastion keeps them no longer.
    pub async fn end_unless_resumed(&self, lost: Attachment, wait: Duration) {
        sleep(wait).await;
        if self.attachment() == lost {
            self.end(&Reason::new(Code::DETACHED_TOO_LONG, "the bastion was not reached in time"));
        }
    }

    /// Server: the client is to open new streams elsewhere.
    pub fn drain(&self) {
        self.0.state().association.drain();
        self.0.to_send.notify_one();
    }

    /// Ends all streams, not in order, and tells the peer if it can.
    pub fn end(&self, reason: &Reason) {
        let mut state = self.0.state();
        let State { association, ends } = &mut *state;
        for id in ends.keys() {
            association.reset(*id, reason.clone());
        }
        self.all_over(&mut state, Ending::Here, reason);
        drop(state);
        self.0.to_send.notify_one();
    }

    /// Waits a moment until the peer has been told all that there is to tell.
    pub async fn flushed(&self) {
        let flushed = async {
            while self.0.state().association.has_something_to_send() {
                sleep(LOOK).await;
            }
        };
        let _ = timeout(FLUSH, flushed).await;
    }

    /// Carries the association on `wire` until one of them ends or another carrier takes over.
    pub async fn carry<S>(&self, on: Attachment, mut wire: Wire<S>) -> Parted
    where
        S: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
    {
        let (arriving, sink) = wire.halves();
        let parted = tokio::select! {
            parted = self.take(on, arriving) => parted,
            parted = self.give(on, sink) => parted,
        };
        // Another loop may have to be woken in place of this one.
        self.0.to_send.notify_one();
        wire.close().await;
        parted
    }

    /// Hands over what arrives.
    async fn take(&self, on: Attachment, arriving: &mut wire::Arriving) -> Parted {
        loop {
            let (frame, length) = match arriving.next().await {
                Ok(Some(next)) => next,
                Ok(None) => return Parted::Lost,
                Err(malformed) => return Parted::Malformed(malformed),
            };
            if let Err(violation) = self.arrived(on, frame, length) {
                return match violation {
                    Violation::Superseded => Parted::Superseded,
                    violation => Parted::Violation(violation),
                };
            }
        }
    }

    fn arrived(&self, on: Attachment, frame: Frame, length: usize) -> Result<(), Violation> {
        let mut state = self.0.state();
        let event = state.association.receive(on, frame, length, self.0.now())?;
        self.happened(&mut state, event);
        self.0.tell(state);
        Ok(())
    }

    /// Sends what there is to send.
    async fn give<S>(&self, on: Attachment, sink: &mut ChannelSink<S>) -> Parted
    where
        S: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
    {
        let in_library = Arc::new(InLibrary::default());
        loop {
            in_library.has_room().await;
            // Listens before it looks, so that nothing falls in between.
            let told = self.0.to_send.notified();
            match self.next_frame(on) {
                Ok(Some(frame)) => {
                    if sink.frame(in_library.lend(frame)).await.is_err() {
                        return Parted::Lost;
                    }
                }
                Ok(None) => told.await,
                Err(parted) => return parted,
            }
        }
    }

    fn next_frame(&self, on: Attachment) -> Result<Option<Bytes>, Parted> {
        let mut state = self.0.state();
        if state.association.attachment() != on {
            return Err(Parted::Superseded);
        }
        let outgoing = state.association.transmit(on, self.0.now());
        while let Some(id) = state.association.finished() {
            self.over(&mut state, id, None);
        }
        let Some(outgoing) = outgoing else {
            return if self.has_ended().is_some() { Err(Parted::Ended) } else { Ok(None) };
        };
        if let Some(local) = outgoing.data_of.and_then(|id| state.ends.get(&id)) {
            local.shared.room.notify_one();
        }
        Ok(Some(outgoing.frame))
    }

    fn happened(&self, state: &mut State, events: impl IntoIterator<Item = Event>) {
        for event in events {
            match event {
                Event::Data(id, data) => {
                    if let Some(local) = state.ends.get(&id) {
                        // Never more than the window.
                        let _ = local.incoming.send(Incoming::Data(data));
                    }
                }
                Event::Fin(id) => {
                    if let Some(local) = state.ends.get(&id) {
                        let _ = local.incoming.send(Incoming::Eof);
                    }
                }
                Event::Credit(id, less) => {
                    if let Some(local) = state.ends.get(&id) {
                        local.shared.budget.release(less);
                        local.shared.room.notify_one();
                    }
                }
                Event::Open(id, request) => {
                    let stream = self.insert(state, id);
                    let unserved = match &self.0.requests {
                        Some(requests) => requests.send(Requested { request, stream }).is_err(),
                        None => true,
                    };
                    if unserved {
                        state.association.reset(id, Code::SHUTDOWN.into());
                        self.over(state, id, None);
                    }
                }
                Event::Opened(id) => {
                    if let Some(local) = state.ends.get(&id) {
                        local.shared.answer.send_replace(Answer::Opened);
                        local.shared.room.notify_one();
                    }
                }
                Event::Reset(id, reason) => self.over(state, id, Some((Ending::There, &reason))),
                Event::Finished(id) => self.over(state, id, None),
                Event::Drain => {
                    self.0.drained.send_replace(true);
                }
                Event::End(reason) => self.all_over(state, Ending::There, &reason),
            }
        }
    }

    /// The association has ended, and all its streams. What ended it first is the reason.
    fn all_over(&self, state: &mut State, ending: Ending, reason: &Reason) {
        let ids: Vec<StreamId> = state.ends.keys().copied().collect();
        for id in ids {
            self.over(state, id, Some((ending, reason)));
        }
        self.0.ended.send_if_modified(|ended| {
            let is_new = ended.is_none();
            ended.get_or_insert_with(|| reason.clone());
            is_new
        });
    }

    /// A stream is not known any more; without a reason, since it has ended in order.
    fn over(&self, state: &mut State, id: StreamId, ending: Option<(Ending, &Reason)>) {
        let Some(local) = state.ends.remove(&id) else { return };
        if let Some((ending, reason)) = ending {
            local.shared.answer.send_replace(Answer::Ended(ending, reason.clone()));
            let _ = local.incoming.send(Incoming::Closed);
        }
        local.shared.room.notify_one();
        self.0.count.send_replace(state.ends.len());
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        self.started.elapsed()
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Streams").field(&self.id()).finish()
    }
}

/// Answers for a stream, and knows what became of it.
#[derive(Debug, Clone)]
pub struct Fate {
    id: StreamId,
    streams: Streams,
    answer: watch::Receiver<Answer>,
}

impl Fate {
    /// Its number in the association.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Server: the connection is there.
    pub fn accept(&self) {
        self.streams.0.state().association.accept(self.id);
        self.streams.0.to_send.notify_one();
    }

    /// Ends the stream, not in order, for this reason.
    pub fn refuse(&self, reason: &Reason) {
        let mut state = self.streams.0.state();
        state.association.reset(self.id, reason.clone());
        self.streams.over(&mut state, self.id, Some((Ending::Here, reason)));
        drop(state);
        self.streams.0.to_send.notify_one();
    }

    /// Client: waits for the bastion's answer.
    ///
    /// # Errors
    /// The reason of a refusal.
    pub async fn answered(&mut self) -> Result<(), Reason> {
        match self.answer.wait_for(|answer| *answer != Answer::Awaited).await.as_deref() {
            Ok(Answer::Ended(_, reason)) => Err(reason.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(Code::UNKNOWN.into()),
        }
    }

    /// Which end has ended it, not in order, and why, if one of them has.
    pub fn ending(&self) -> Option<(Ending, Reason)> {
        match &*self.answer.borrow() {
            Answer::Ended(ending, reason) => Some((*ending, reason.clone())),
            Answer::Awaited | Answer::Opened => None,
        }
    }
}

/// What arrives on a stream, whatever carries it.
#[derive(Debug)]
pub struct StreamSource {
    id: StreamId,
    streams: Streams,
    arrives: mpsc::UnboundedReceiver<Incoming>,
}

impl Source for StreamSource {
    async fn next(&mut self) -> Incoming {
        match self.arrives.recv().await {
            Some(incoming) => incoming,
            // It has ended in order, so nothing more comes; the relay ends by its other direction.
            None => std::future::pending().await,
        }
    }

    fn took(&mut self, bytes: u64) {
        let mut state = self.streams.0.state();
        state.association.wrote(self.id, bytes);
        self.streams.0.tell(state);
    }

    fn took_end(&mut self) {
        let mut state = self.streams.0.state();
        state.association.wrote_end(self.id);
        self.streams.0.tell(state);
    }
}

impl Shared {
    fn tell(&self, state: MutexGuard<'_, State>) {
        let has_something_to_send = state.association.has_something_to_send();
        drop(state);
        if has_something_to_send {
            self.to_send.notify_one();
        }
    }
}

/// What is sent on a stream, whatever carries it.
#[derive(Debug)]
pub struct StreamSink {
    id: StreamId,
    streams: Streams,
    shared: Arc<LocalShared>,
}

/// Whether the association has taken what came from the socket.
enum Pushed {
    All,
    NoRoom(Payload),
}

impl StreamSink {
    /// Hands over as much as there is room for. What there is none for waits until some of the rest is acknowledged.
    fn push(&self, mut payload: Payload, budget: &budget::Stream) -> Result<Pushed, Lost> {
        let mut state = self.streams.0.state();
        if !state.ends.contains_key(&self.id) {
            return Err(Lost);
        }
        let now = self.streams.0.now();
        let room = state.association.room(self.id);
        if room >= payload.len() {
            budget.charge(state.association.push(self.id, payload, now));
            self.streams.0.tell(state);
            return Ok(Pushed::All);
        }
        if room > 0 {
            let front = payload.split_off_front(room);
            budget.charge(state.association.push(self.id, front, now));
        }
        state.association.blocked(self.id);
        self.streams.0.tell(state);
        Ok(Pushed::NoRoom(payload))
    }
}

impl Sink for StreamSink {
    const HEADROOM: usize = HEADER;
    const MOST: usize = MOST_DATA;

    async fn room(&self) -> usize {
        self.streams.0.state().association.room(self.id)
    }

    async fn data(&mut self, data: BytesMut, budget: &budget::Stream) -> Result<(), Lost> {
        let mut payload = Payload::with_header_room(data);
        loop {
            payload = match self.push(payload, budget)? {
                Pushed::All => return Ok(()),
                Pushed::NoRoom(payload) => payload,
            };
            budget.stall();
            self.shared.room.notified().await;
        }
    }

    async fn finish(&mut self) -> Result<(), Lost> {
        let mut state = self.streams.0.state();
        state.association.finish(self.id);
        self.streams.0.tell(state);
        Ok(())
    }

    async fn close(&mut self, end: End) {
        let reason = match end {
            // The association knows how far it is.
            End::Finished => return,
            End::Socket(_) => Code::RESET.into(),
            End::Evicted(_) => {
                Reason::new(Code::MEMORY, "memory is spent, and this connection had stalled longest")
            }
            End::Closed | End::Lost | End::Stopped => Code::STOPPED.into(),
        };
        let mut state = self.streams.0.state();
        state.association.reset(self.id, reason);
        self.streams.over(&mut state, self.id, None);
        self.streams.0.tell(state);
    }
}

/// Counts what the SSH library has not taken into a packet yet.
#[derive(Debug, Default)]
struct InLibrary {
    bytes: AtomicU64,
    less: Notify,
}

impl InLibrary {
    fn lend(self: &Arc<Self>, frame: Bytes) -> Bytes {
        self.bytes.fetch_add(frame.len() as u64, Ordering::AcqRel);
        Bytes::from_owner(Lent { frame, count: Arc::clone(self) })
    }

    async fn has_room(&self) {
        while self.bytes.load(Ordering::Acquire) >= IN_LIBRARY {
            self.less.notified().await;
        }
    }
}

struct Lent {
    frame: Bytes,
    count: Arc<InLibrary>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.count.bytes.fetch_sub(self.frame.len() as u64, Ordering::AcqRel);
        self.count.less.notify_one();
    }
}
