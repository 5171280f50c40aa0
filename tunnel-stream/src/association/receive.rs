//! Takes the frames of the peer.

use bytes::Bytes;

use super::{
    Association, Attachment, Event, Role, Violation,
    stream::{Owed, State, Stream},
};
use crate::{
    Moment, StreamId,
    frame::{Frame, Request},
    reason::{Code, Reason},
    ring::Ring,
};

impl Association {
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
                known.owed.credit |= known.inbound.blocked(limit);
                known.inbound.asked();
                self.credits(stream);
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
                self.empty_queues();
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
    pub(super) fn forget_finished(&mut self, id: StreamId) -> bool {
        let is_finished =
            self.streams.get(&id).is_some_and(|stream| stream.ring.is_done() && stream.inbound.is_done());
        if is_finished {
            self.forget(id);
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
        stream.ring = Ring::new(id, 0, 0, &self.kept);
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
            self.streams.insert(id, Stream::new(id, State::Answering, 0, &self.limits, &self.kept));
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
                self.forget(id);
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
        self.streams.insert(id, Stream::new(id, State::Opening, limit, &self.limits, &self.kept));
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
}
