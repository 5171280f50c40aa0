//! Runs both ends of resumable streams against a peer that sends anything.
//!
//! The first byte says how the rest is cut into pieces; the rest is what arrives on one carrier. No peer can
//! guess a proof, so each attempt to resume is given the right one.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tunnel_stream::{
    Association, Code, Event, Frame, Limits, Payload, Request, Role, StreamId,
    frame::{Attach, Attached, Decoder, Position},
    proof::{AssociationId, Challenge, Epoch, Secret},
};

const LIMITS: Limits = Limits { streams: 8, window: 1 << 20, kept: 1 << 30 };
const ID: AssociationId = AssociationId([3; 16]);
const CHALLENGE: Challenge = Challenge([2; 32]);
/// What a stream may hold beside its two windows: what is read ahead, and what its frames cost.
const SLACK: u64 = 2 << 20;
/// Frames that an end may have to say in the end: each stream owes at most one of each kind, and little data.
const MOST_SAID: usize = 2 * 8 * 8 + 16;

/// What arrives at a client, and at a bastion.
pub fn streams(bytes: &[u8]) {
    let Some((piece, wire)) = bytes.split_first() else { return };
    for role in [Role::Client, Role::Server] {
        End::new(role).hear(wire, usize::from(*piece) + 1);
    }
}

/// The frames at the beginning of an input, as far as they are some.
#[must_use]
pub fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = Decoder::default();
    decoder.feed(Bytes::copy_from_slice(bytes.get(1..).unwrap_or_default()));
    std::iter::from_fn(|| decoder.next_frame().ok().flatten().map(|(frame, _)| frame)).collect()
}

fn secret() -> Secret {
    Secret::new([1; 32])
}

/// A stream as the sockets of this end know it.
#[derive(Default)]
struct Known {
    arrived: u64,
    fin: bool,
}

struct End {
    association: Association,
    role: Role,
    known: BTreeMap<StreamId, Known>,
    now: Duration,
}

impl End {
    /// The client has two streams, of which one has ended in its direction.
    fn new(role: Role) -> Self {
        let association = Association::new(role, ID, secret(), LIMITS, Duration::ZERO);
        let mut end = Self { association, role, known: BTreeMap::new(), now: Duration::ZERO };
        if role == Role::Client {
            for is_done in [false, true] {
                let request = Request { host: "db.internal".to_owned(), port: 5432 };
                let id = end.association.open(request).unwrap();
                end.known.insert(id, Known::default());
                end.association.push(id, Payload::copy_of(&[7; 100]), end.now);
                if is_done {
                    end.association.finish(id);
                }
            }
            end.say(usize::MAX);
        }
        end
    }

    fn hear(&mut self, wire: &[u8], piece: usize) {
        let mut decoder = Decoder::default();
        let mut counted = 0;
        for piece in wire.chunks(piece) {
            decoder.feed(Bytes::copy_from_slice(piece));
            loop {
                let (frame, length) = match decoder.next_frame() {
                    Ok(Some(next)) => next,
                    Ok(None) => break,
                    // The carrier ends, and with it this peer's say.
                    Err(_) => return self.ends(),
                };
                counted += length;
                assert!(counted <= wire.len());
                self.now += Duration::from_millis(50);
                self.take(frame, length);
                // Sometimes the peer is slow, and much is owed at the same time.
                if length % 3 != 0 {
                    self.say(2);
                }
                self.is_bounded();
            }
        }
        self.ends();
    }

    /// Goes on after a frame that breaks the protocol, on the next carrier: everything is to be as it was.
    fn take(&mut self, frame: Frame, length: usize) {
        let is_impossible = match &frame {
            Frame::Credit { stream, acknowledged, .. } => self.was_never_sent(*stream, *acknowledged),
            Frame::Attach(Attach { streams, .. }) | Frame::Attached(Attached { streams, .. }) => {
                streams.iter().any(|Position { stream, received }| self.was_never_sent(*stream, *received))
            }
            _ => false,
        };
        let before = self.association.attachment();
        let events = match frame {
            Frame::Attach(attach) if self.role == Role::Server => {
                let proof = secret().prove(&CHALLENGE, ID, attach.epoch);
                let attach = Attach { association: ID, proof, ..attach };
                let resumed = self.association.resume(&attach, &CHALLENGE, secret(), self.now);
                resumed.map_or_else(|_| Vec::new(), |(_, events)| events)
            }
            Frame::Attached(attached) if self.role == Role::Client => {
                let Attach { epoch, .. } = self.association.attach(&CHALLENGE);
                // An answer to another attempt is tried too.
                let epoch = if attached.epoch == Epoch(u64::MAX) { attached.epoch } else { epoch };
                let resumed = self.association.resumed(Attached { epoch, ..attached }, self.now);
                resumed.unwrap_or_else(|_| {
                    self.association.not_resumed();
                    Vec::new()
                })
            }
            frame => {
                let present = self.association.attachment();
                self.association
                    .receive(present, frame, length, self.now)
                    .ok()
                    .flatten()
                    .into_iter()
                    .collect()
            }
        };
        if is_impossible {
            assert!(events.is_empty() && self.association.attachment() == before);
        }
        for event in events {
            self.happened(event);
        }
    }

    /// Whether a peer that claims to have so much of a stream, its end included, cannot have it.
    fn was_never_sent(&self, id: StreamId, so_much: u64) -> bool {
        self.known.contains_key(&id)
            && self.association.status(id).is_some_and(|status| so_much > status.taken + 1)
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Open(id, request) => {
                assert!(request.host.len() <= 300);
                assert!(self.known.insert(id, Known::default()).is_none(), "opened twice: {id}");
                match id.0 % 3 {
                    0 => self.reset(id),
                    1 => {
                        self.association.accept(id);
                        self.push(id);
                    }
                    _ => {}
                }
            }
            Event::Opened(id) => self.push(id),
            Event::Credit(id, _) => {
                assert!(self.known.contains_key(&id));
                if id.0 % 2 == 0 {
                    self.push(id);
                    self.association.blocked(id);
                    self.association.finish(id);
                }
            }
            Event::Data(id, data) => {
                let known = self.known.get_mut(&id).unwrap();
                assert!(!known.fin && !data.is_empty(), "data behind the end of {id}");
                known.arrived += data.len() as u64;
                assert_eq!(self.association.status(id).unwrap().arrived, known.arrived);
                // A stream of the fourth kind has a socket that takes nothing.
                if id.0 % 4 != 3 {
                    self.association.wrote(id, data.len() as u64);
                }
            }
            Event::Fin(id) => {
                let known = self.known.get_mut(&id).unwrap();
                assert!(!std::mem::replace(&mut known.fin, true), "two ends of {id}");
                self.association.wrote_end(id);
                if id.0 % 5 != 0 {
                    self.association.finish(id);
                }
            }
            Event::Reset(id, reason) => {
                assert!(reason.text().len() <= 512);
                assert!(self.known.remove(&id).is_some(), "ended twice: {id}");
            }
            Event::Finished(id) => self.finished(id),
            Event::Drain => assert_eq!(self.role, Role::Client),
            Event::End(_) => {
                self.known.clear();
                assert!(self.association.is_empty());
            }
        }
    }

    fn finished(&mut self, id: StreamId) {
        let known = self.known.remove(&id).unwrap();
        assert!(known.fin, "{id} ended in order before its end");
    }

    fn reset(&mut self, id: StreamId) {
        self.association.reset(id, Code::CONNECT_FAILED.into());
        self.known.remove(&id);
    }

    fn push(&mut self, id: StreamId) {
        let room = self.association.room(id).min(1000);
        self.association.push(id, Payload::copy_of(&vec![7; room]), self.now);
    }

    /// Says as much as it may. All of it is frames. Gives their number.
    fn say(&mut self, most: usize) -> usize {
        for said in 0..most {
            let present = self.association.attachment();
            let Some(outgoing) = self.association.transmit(present, self.now) else { return said };
            while let Some(id) = self.association.finished() {
                self.finished(id);
            }
            let mut decoder = Decoder::default();
            let length = outgoing.frame.len();
            decoder.feed(outgoing.frame);
            let (_, read) = decoder.next_frame().unwrap().unwrap();
            assert!(read == length && decoder.is_between_frames());
        }
        most
    }

    fn is_bounded(&self) {
        assert!(self.association.len() <= 2 * LIMITS.streams);
        for id in self.known.keys() {
            let status = self.association.status(*id).unwrap();
            assert!(status.held <= 2 * LIMITS.window + SLACK, "{id}: {status:?}");
        }
    }

    /// Whatever came: what is owed comes to an end.
    fn ends(&mut self) {
        assert!(self.say(MOST_SAID + 1) <= MOST_SAID, "{:?}", self.association);
    }
}
