//! Moves an association to another carrier: the client asks, the bastion agrees, and each end goes on from
//! where the other one stands.

use thiserror::Error;

use super::{
    Association, Attachment, Event, Role, Violation,
    stream::{State, Stream},
};
use crate::{
    Moment, StreamId, VERSION,
    frame::{Attach, Attached, Position},
    proof::{Challenge, Epoch, Secret, Secrets},
    reason::{Code, Reason},
    transit::Transit,
};

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

impl Association {
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
        self.empty_queues();
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
                    self.forget(id);
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
    pub(super) fn ended_there(&mut self, id: StreamId) -> Event {
        let stream = self.forget(id);
        match stream {
            Some(stream) if stream.ring.is_all_sent() && stream.inbound.has_end() => Event::Finished(id),
            _ => Event::Reset(
                id,
                Reason::new(Code::UNKNOWN, "the other end does not know this stream any more"),
            ),
        }
    }
}
