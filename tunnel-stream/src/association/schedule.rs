//! Chooses the next frame of an association: what is owed first, then small frames, then one frame of each
//! stream in turn.

use super::{Association, Attachment, Outgoing, SMALL, stream::Stream};
use crate::{Moment, StreamId, frame::Frame, reason::Code, ring::Next};

impl Association {
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

    pub(super) fn owes(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.owed.any()
            && !stream.in_control
        {
            stream.in_control = true;
            self.control.push_back(id);
        }
    }

    pub(super) fn has_data(&mut self, id: StreamId) {
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

    /// Forgets a stream. It leaves its place in the queues too: a peer that takes nothing could make streams
    /// come and go, and the queues grow by what is left of them.
    pub(super) fn forget(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        if stream.in_control {
            self.control.retain(|other| *other != id);
        }
        if stream.in_data {
            self.small.retain(|other| *other != id);
            self.bulk.retain(|other| *other != id);
        }
        Some(stream)
    }

    pub(super) fn empty_queues(&mut self) {
        self.control.clear();
        self.small.clear();
        self.bulk.clear();
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
            self.forget(id);
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
            if stream.room(&self.limits, &self.kept) > 0 {
                return None;
            }
            Frame::Blocked { stream: id, limit: stream.ring.taken() }
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
}
