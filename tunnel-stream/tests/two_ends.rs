//! Two ends over a link that reorders nothing and is cut anywhere: what comes out is always a prefix of what
//! went in, an end arrives only after the last byte, and no end holds more than its bound.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "test"
)]

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use tunnel_stream::{
    Association, Attachment, Code, Event, Frame, Limits, Payload, Reason, Request, Role, StreamId,
    frame::{Attached, Decoder},
    proof::{AssociationId, Challenge, Secret},
};

const LIMITS: Limits = Limits { streams: 6, window: 1 << 20, kept: 200_000 };

/// What one end of one stream keeps beside its window: what was read ahead, and what its frames cost.
const SLACK: u64 = 2 << 20;

#[derive(Debug, Clone)]
enum Step {
    Open,
    /// Stream by index, end (client or server), bytes.
    Push(usize, bool, usize),
    Finish(usize, bool),
    Reset(usize, bool),
    /// The socket takes so many of the bytes that wait for it.
    Take(usize, bool, usize),
    /// The server's target answers.
    Accept(usize),
    /// The link carries so many bytes, to the client or the server.
    Carry(bool, usize),
    Cut,
    /// The client asks on a new carrier. Of the answer, either all arrives or nothing.
    Resume(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let sizes = prop_oneof![1..100_usize, 1..200_000_usize];
    prop_oneof![
        2 => Just(Step::Open),
        8 => (0..6_usize, any::<bool>(), sizes.clone()).prop_map(|(s, end, n)| Step::Push(s, end, n)),
        1 => (0..6_usize, any::<bool>()).prop_map(|(s, end)| Step::Finish(s, end)),
        1 => (0..6_usize, any::<bool>()).prop_map(|(s, end)| Step::Reset(s, end)),
        6 => (0..6_usize, any::<bool>(), sizes.clone()).prop_map(|(s, end, n)| Step::Take(s, end, n)),
        3 => (0..6_usize).prop_map(Step::Accept),
        12 => (any::<bool>(), sizes).prop_map(|(end, n)| Step::Carry(end, n)),
        1 => Just(Step::Cut),
        2 => any::<bool>().prop_map(Step::Resume),
    ]
}

/// The byte at an offset of a stream, in one direction.
fn byte(stream: StreamId, to_server: bool, offset: u64) -> u8 {
    let mixed =
        offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(stream.0) ^ (u64::from(to_server) << 40);
    (mixed >> 29) as u8
}

/// One socket, as its end of the tunnel sees it.
#[derive(Debug, Default)]
struct Socket {
    pushed: u64,
    finished: bool,
    /// What came out and the socket has not taken.
    waiting: VecDeque<Bytes>,
    came: u64,
    taken: u64,
    fin: bool,
    fin_taken: bool,
    /// Reset or finished: the end does not know it any more.
    over: Option<Over>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Reset,
    Finished,
}

struct End {
    is_server: bool,
    association: Association,
    attachment: Attachment,
    decoder: Decoder,
    /// Bytes on their way to this end.
    incoming: VecDeque<u8>,
    sockets: BTreeMap<StreamId, Socket>,
    /// Requests that the server has not answered.
    asked: Vec<StreamId>,
}

struct World {
    client: End,
    server: End,
    now: Duration,
    connected: bool,
    challenges: u8,
    /// Whether any stream was reset by hand, or refused.
    resets: BTreeMap<StreamId, ()>,
}

impl End {
    fn new(role: Role) -> Self {
        let id = AssociationId([7; 16]);
        let association = Association::new(role, id, Secret::new([1; 32]), LIMITS, Duration::ZERO);
        Self {
            is_server: role == Role::Server,
            attachment: association.attachment(),
            association,
            decoder: Decoder::default(),
            incoming: VecDeque::new(),
            sockets: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    fn say(&mut self, link: &mut VecDeque<u8>, now: Duration) {
        while let Some(outgoing) = self.association.transmit(self.attachment, now) {
            link.extend(outgoing.frame.iter());
            while let Some(id) = self.association.finished() {
                self.over(id, Over::Finished);
            }
        }
    }

    fn carry(&mut self, most: usize, now: Duration) {
        let most = most.min(self.incoming.len());
        let piece: Vec<u8> = self.incoming.drain(..most).collect();
        self.decoder.feed(piece.into());
        while let Some((frame, length)) = self.decoder.next_frame().unwrap() {
            let event = self.association.receive(self.attachment, frame, length, now).unwrap();
            if let Some(event) = event {
                self.happened(event);
            }
        }
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Open(id, request) => {
                assert_eq!(request.port, 5432);
                assert!(self.sockets.insert(id, Socket::default()).is_none(), "opened twice: {id}");
                self.asked.push(id);
            }
            Event::Opened(_) | Event::Credit(..) | Event::Drain => {}
            Event::Data(id, data) => {
                let to_server = self.is_server;
                let socket = self.sockets.get_mut(&id).unwrap();
                assert!(socket.over.is_none() && !socket.fin, "data after the end");
                for (index, got) in data.iter().enumerate() {
                    assert_eq!(
                        *got,
                        byte(id, to_server, socket.came + index as u64),
                        "{id} at {}",
                        socket.came
                    );
                }
                socket.came += data.len() as u64;
                socket.waiting.push_back(data);
            }
            Event::Fin(id) => {
                let socket = self.sockets.get_mut(&id).unwrap();
                assert!(!socket.fin, "two ends");
                socket.fin = true;
            }
            Event::Reset(id, _) => self.over(id, Over::Reset),
            Event::Finished(id) => self.over(id, Over::Finished),
            Event::End(reason) => panic!("{reason}"),
        }
    }

    fn over(&mut self, id: StreamId, how: Over) {
        self.asked.retain(|asked| *asked != id);
        let socket = self.sockets.get_mut(&id).unwrap();
        assert!(socket.over.is_none(), "ended twice");
        socket.over = Some(how);
        if how == Over::Finished {
            assert!(socket.finished && socket.fin_taken, "finished before its end: {socket:?}");
        }
    }

    fn take(&mut self, id: StreamId, most: usize) {
        let Some(socket) = self.sockets.get_mut(&id).filter(|socket| socket.over.is_none()) else { return };
        let mut left = most;
        while let Some(piece) = socket.waiting.front_mut() {
            let now = left.min(piece.len());
            let _ = piece.split_to(now);
            left -= now;
            socket.taken += now as u64;
            self.association.wrote(id, now as u64);
            if !piece.is_empty() {
                return;
            }
            socket.waiting.pop_front();
        }
        if socket.fin && !socket.fin_taken {
            assert_eq!(socket.taken, socket.came);
            socket.fin_taken = true;
            self.association.wrote_end(id);
        }
    }

    fn push(&mut self, id: StreamId, most: usize, now: Duration) {
        let to_server = !self.is_server;
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if socket.over.is_some() || socket.finished {
            return;
        }
        let room = self.association.room(id);
        if room == 0 {
            self.association.blocked(id);
        }
        let data: Vec<u8> =
            (0..most.min(room) as u64).map(|index| byte(id, to_server, socket.pushed + index)).collect();
        socket.pushed += data.len() as u64;
        self.association.push(id, Payload::copy_of(&data), now);
    }

    fn finish(&mut self, id: StreamId) {
        if let Some(socket) = self.sockets.get_mut(&id).filter(|socket| socket.over.is_none()) {
            socket.finished = true;
            self.association.finish(id);
        }
    }

    fn check_memory(&self) {
        for id in self.sockets.keys() {
            if let Some(status) = self.association.status(*id) {
                assert!(status.held <= 2 * LIMITS.window + SLACK, "{id}: {status:?}");
            }
        }
        assert!(self.association.len() <= 2 * LIMITS.streams);
    }
}

impl World {
    fn new() -> Self {
        Self {
            client: End::new(Role::Client),
            server: End::new(Role::Server),
            now: Duration::ZERO,
            connected: true,
            challenges: 0,
            resets: BTreeMap::new(),
        }
    }

    /// Puts what the ends have to say on the link.
    fn pump(&mut self) {
        let now = self.now;
        self.client.say(&mut self.server.incoming, now);
        self.server.say(&mut self.client.incoming, now);
    }

    fn cut(&mut self) {
        self.connected = false;
        for end in [&mut self.client, &mut self.server] {
            end.association.detach(end.attachment);
            end.incoming.clear();
            end.decoder = Decoder::default();
        }
    }

    /// The client asks on a new carrier, whether or not the old one lives. `answered` says whether it hears
    /// the answer.
    fn resume(&mut self, answered: bool) {
        self.challenges = self.challenges.wrapping_add(1);
        let challenge = Challenge([self.challenges; 32]);
        let attach = self.client.association.attach(&challenge);
        // What was sent on the old carrier meanwhile may arrive before the new one is there.
        if self.connected {
            self.pump();
            let half = self.server.incoming.len() / 2;
            self.server.carry(half, self.now);
            let half = self.client.incoming.len() / 2;
            self.client.carry(half, self.now);
            // The client's sockets go on too, and what they tell on the old carrier may be lost.
            let ids: Vec<StreamId> = self.client.sockets.keys().copied().collect();
            for id in ids {
                self.client.take(id, usize::MAX);
            }
            self.pump();
        }
        let fresh = Secret::new([self.challenges ^ 0x80; 32]);
        let (attached, events) =
            self.server.association.resume(&attach, &challenge, fresh, self.now).unwrap();
        self.server.attachment = self.server.association.attachment();
        self.server.incoming.clear();
        self.server.decoder = Decoder::default();
        for event in events {
            self.server.happened(event);
        }
        if !answered {
            // The old carrier is of no use any more.
            self.client.association.not_resumed();
            return self.cut();
        }
        // What the server had sent on the old one arrives until the answer does.
        if self.connected {
            let rest = self.client.incoming.len() / 2;
            self.client.carry(rest, self.now);
        }
        // Through the bytes of the wire.
        let mut decoder = Decoder::default();
        decoder.feed(Frame::Attached(attached).encode());
        let Some((Frame::Attached(attached), _)) = decoder.next_frame().unwrap() else { panic!() };
        let attached: Attached = attached;
        let events = self.client.association.resumed(attached, self.now).unwrap();
        self.client.attachment = self.client.association.attachment();
        self.client.incoming.clear();
        self.client.decoder = Decoder::default();
        for event in events {
            self.client.happened(event);
        }
        self.connected = true;
    }

    fn step(&mut self, step: &Step) {
        self.now += Duration::from_micros(100);
        let nth = |world: &Self, index: usize| world.client.sockets.keys().nth(index).copied();
        match *step {
            Step::Open => {
                let request = Request { host: "db.internal".to_owned(), port: 5432 };
                if let Some(id) = self.client.association.open(request) {
                    self.client.sockets.insert(id, Socket::default());
                }
            }
            Step::Push(index, server, most) => {
                let Some(id) = nth(self, index) else { return };
                let now = self.now;
                self.end(server).push(id, most, now);
            }
            Step::Finish(index, server) => {
                let Some(id) = nth(self, index) else { return };
                if !self.server.asked.contains(&id) {
                    self.end(server).finish(id);
                }
            }
            Step::Reset(index, server) => {
                let Some(id) = nth(self, index) else { return };
                let end = self.end(server);
                if end.sockets.get(&id).is_some_and(|socket| socket.over.is_none()) {
                    end.association.reset(id, Reason::new(Code::RESET, "by hand"));
                    end.over(id, Over::Reset);
                    self.resets.insert(id, ());
                }
            }
            Step::Take(index, server, most) => {
                let Some(id) = nth(self, index) else { return };
                if !(server && self.server.asked.contains(&id)) {
                    self.end(server).take(id, most);
                }
            }
            Step::Accept(index) => {
                if let Some(id) = nth(self, index)
                    && self.server.asked.contains(&id)
                {
                    self.server.asked.retain(|asked| *asked != id);
                    self.server.association.accept(id);
                }
            }
            Step::Carry(server, most) => {
                if self.connected {
                    self.pump();
                    let now = self.now;
                    self.end(server).carry(most, now);
                }
            }
            Step::Cut => self.cut(),
            Step::Resume(answered) => self.resume(answered),
        }
        self.client.check_memory();
        self.server.check_memory();
    }

    fn end(&mut self, server: bool) -> &mut End {
        if server { &mut self.server } else { &mut self.client }
    }

    /// No more faults: everything goes through.
    fn settle(&mut self) {
        self.resume(true);
        for _ in 0..10_000 {
            self.now += Duration::from_millis(1);
            self.pump();
            let moved = self.server.incoming.len() + self.client.incoming.len();
            let now = self.now;
            for server in [true, false] {
                self.end(server).carry(usize::MAX, now);
            }
            for id in std::mem::take(&mut self.server.asked) {
                self.server.association.accept(id);
            }
            let ids: Vec<StreamId> = self.client.sockets.keys().copied().collect();
            for id in ids {
                for server in [true, false] {
                    self.end(server).take(id, usize::MAX);
                    if self.server.sockets.contains_key(&id) {
                        self.end(server).finish(id);
                    }
                }
            }
            let is_quiet = !self.client.association.has_something_to_send()
                && !self.server.association.has_something_to_send();
            if moved == 0 && is_quiet {
                return;
            }
        }
        panic!("it never comes to rest");
    }
}

fn all_went_through(world: &World) {
    for (id, client) in &world.client.sockets {
        let Some(server) = world.server.sockets.get(id) else {
            assert_eq!(client.over, Some(Over::Reset), "{id} was never opened, and not reset");
            continue;
        };
        if world.resets.contains_key(id) {
            assert!(client.over.is_some() && server.over.is_some(), "{id}: {client:?} {server:?}");
        } else {
            assert_eq!(client.over, Some(Over::Finished), "{id}: {client:?}");
            assert_eq!(server.over, Some(Over::Finished), "{id}: {server:?}");
            assert_eq!(client.pushed, server.came, "{id}");
            assert_eq!(server.pushed, client.came, "{id}");
        }
    }
    assert!(world.client.association.is_empty(), "{:?}", world.client.association);
    assert!(world.server.association.is_empty(), "{:?}", world.server.association);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_made_up_wherever_the_link_is_cut(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.settle();
        all_went_through(&world);
    }
}

#[test]
fn a_long_transfer_survives_a_thousand_cuts() {
    let mut world = World::new();
    world.step(&Step::Open);
    world.step(&Step::Carry(true, usize::MAX));
    world.step(&Step::Accept(0));
    let mut seed = 1_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..1000 {
        for _ in 0..4 {
            for server in [true, false] {
                world.step(&Step::Push(0, server, random(200_000) as usize + 1));
                world.step(&Step::Carry(server, random(200_000) as usize + 1));
                world.step(&Step::Take(0, server, random(200_000) as usize + 1));
            }
        }
        world.step(&Step::Cut);
        world.step(&Step::Resume(random(4) > 0));
    }
    let (client, server) =
        (world.client.sockets[&StreamId(1)].pushed, world.server.sockets[&StreamId(1)].pushed);
    assert!(client > 50_000_000 && server > 50_000_000, "{client} {server}");
    world.settle();
    all_went_through(&world);
}
