//! Streams that outlive their carrier, on a running bastion: who may go on with them, and who may not.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tests::{
    bastion::LOGIN,
    fixture::Fixture,
    forge::Forge,
    key::Key,
    rogue::{Channel, Client},
    target::Target,
    wait,
    wire::Writer,
};
use tunnel_stream::{
    Code, Frame, Reason, Request, SUBSYSTEM, StreamId, VERSION,
    frame::{Attach, Attached, Decoder, Hello, Position},
    proof::{AssociationId, Challenge, Epoch, Secret},
};

const SOON: Duration = Duration::from_secs(20);
const FIRST: StreamId = StreamId(1);

/// A channel of the subsystem, from which each test sends what it likes.
struct Wire {
    client: Client,
    channel: Channel,
    decoder: Decoder,
    challenge: Challenge,
}

impl Wire {
    fn on(mut client: Client) -> Self {
        let channel = client.open("session", &[]).unwrap().unwrap();
        assert!(client.request(channel, "subsystem", &Writer::new().string(SUBSYSTEM).0).unwrap());
        let mut wire = Self { client, channel, decoder: Decoder::default(), challenge: Challenge([0; 32]) };
        let Some(Frame::Hello(Hello { challenge, newest, .. })) = wire.next() else { panic!("no greeting") };
        assert_eq!(newest, VERSION);
        wire.challenge = challenge;
        wire
    }

    fn send(&mut self, frame: &Frame) {
        self.client.write(self.channel, &frame.encode()).unwrap();
    }

    /// The next frame; none at the channel's end.
    fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, _)) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let piece = self.client.read(self.channel, 1).ok().filter(|piece| !piece.is_empty())?;
            self.decoder.feed(piece.into());
        }
    }

    /// The next frame that fits. Credit and the like come in between.
    fn wait<T>(&mut self, fits: impl Fn(Frame) -> Option<T>) -> T {
        loop {
            let frame = self.next().expect("the channel ended");
            if let Some(found) = fits(frame) {
                return found;
            }
        }
    }

    fn start(&mut self) -> (AssociationId, Secret) {
        self.send(&Frame::Start { version: VERSION });
        self.wait(|frame| match frame {
            Frame::Started { association, secret } => Some((association, secret)),
            _ => None,
        })
    }

    fn open(&mut self, target: &Target) {
        let request = Request { host: "127.0.0.1".to_owned(), port: target.port() };
        self.send(&Frame::Open { stream: FIRST, limit: 1 << 20, request });
        self.wait(|frame| matches!(frame, Frame::Opened { .. }).then_some(()));
    }

    /// Says something to the echo, and hears it.
    fn exchange(&mut self, offset: u64, text: &'static str) {
        self.say(offset, text);
        assert_eq!(self.hear(offset), text.as_bytes());
    }

    fn say(&mut self, offset: u64, text: &'static str) {
        self.send(&Frame::Data { stream: FIRST, offset, data: Bytes::from_static(text.as_bytes()) });
    }

    fn hear(&mut self, at: u64) -> Vec<u8> {
        self.wait(|frame| match frame {
            Frame::Data { stream: FIRST, offset, data } if offset == at => Some(data.to_vec()),
            _ => None,
        })
    }

    fn attach(&mut self, association: AssociationId, secret: &Secret, epoch: u64, received: u64) {
        let epoch = Epoch(epoch);
        let proof = secret.prove(&self.challenge, association, epoch);
        let streams = vec![Position { stream: FIRST, received }];
        self.send(&Frame::Attach(Attach { version: VERSION, association, epoch, proof, streams }));
    }

    fn attached(&mut self) -> Result<Attached, Reason> {
        self.wait(|frame| match frame {
            Frame::Attached(attached) => Some(Ok(attached)),
            Frame::Refused { reason } => Some(Err(reason)),
            _ => None,
        })
    }

    /// Why the stream ended.
    fn reset(&mut self) -> Reason {
        self.wait(|frame| match frame {
            Frame::Reset { stream: FIRST, reason } => Some(reason),
            _ => None,
        })
    }
}

/// An open stream to the echo, five bytes each way after its beginning.
fn begun(fixture: &Fixture) -> (Wire, AssociationId, Secret) {
    let mut wire = Wire::on(fixture.login());
    let (association, secret) = wire.start();
    wire.open(&fixture.echo);
    wire.exchange(0, "hello");
    (wire, association, secret)
}

#[test]
fn an_open_connection_goes_on_after_a_new_login() {
    let fixture = Fixture::new();
    let (wire, association, secret) = begun(&fixture);
    drop(wire);
    // With another key, as each renewal has one.
    let key = Key::ed25519();
    let certificate = Forge::user(&key, LOGIN).sign(&fixture.authority);
    let mut wire = Wire::on(Client::login(fixture.bastion.address(), LOGIN, &key, certificate));
    wire.attach(association, &secret, 1, 5);
    let attached = wire.attached().unwrap();
    assert_eq!(attached.streams, [Position { stream: FIRST, received: 5 }]);
    wire.exchange(5, " again");
    assert_eq!(fixture.echo.accepted(), 1, "it is the same connection");
    let resumed = fixture.bastion.audited("a resumption", |record| record["event"] == "streams_resumed");
    assert_eq!(resumed["streams"], 1);
    assert_eq!(resumed["login"], LOGIN);
    // What was lost with the carrier is sent again.
    wire.say(11, "lost?");
    drop(wire);
    let mut wire = Wire::on(fixture.login());
    wire.attach(association, &attached.secret, 2, 11);
    let received = wire.attached().unwrap().streams[0].received;
    if received == 11 {
        wire.say(11, "lost?");
    }
    assert_eq!(wire.hear(11), b"lost?");
    let page = fixture.bastion.page("/metrics").body;
    assert!(page.contains("bastion_stream_resumptions_total{result=\"resumed\"} 2"), "{page}");
}

#[test]
fn another_client_does_not_go_on_with_it() {
    let others = Key::ed25519();
    let fixture = Fixture::with(|setup| {
        setup.trust(&others).set("/login/users", json!([LOGIN, "somebody"])).rule("somebody", &["*:*"])
    });
    let (mut wire, association, secret) = begun(&fixture);
    let key = Key::ed25519();
    let login = |name: &str, authority: &Key| {
        let certificate = Forge::user(&key, name).sign(authority);
        Wire::on(Client::login(fixture.bastion.address(), name, &key, certificate))
    };
    let refused = |wire: &mut Wire, what: &str| {
        let reason = wire.attached().expect_err(what);
        assert_eq!(reason.code(), Code::NOT_YOURS, "{what}");
    };

    let mut another_name = login("somebody", &fixture.authority);
    another_name.attach(association, &secret, 1, 5);
    refused(&mut another_name, "the right secret in the wrong hands");
    let mut another_authority = login(LOGIN, &others);
    another_authority.attach(association, &secret, 1, 5);
    refused(&mut another_authority, "the same name by another authority");

    let mut thief = login(LOGIN, &fixture.authority);
    thief.attach(association, &Secret::new([0; 32]), 1, 5);
    refused(&mut thief, "no secret");
    // A proof that was made for another connection.
    let proof = secret.prove(&wire.challenge, association, Epoch(7));
    let streams = vec![Position { stream: FIRST, received: 5 }];
    thief.send(&Frame::Attach(Attach { version: VERSION, association, epoch: Epoch(7), proof, streams }));
    refused(&mut thief, "a recorded proof");
    thief.attach(AssociationId([9; 16]), &secret, 1, 5);
    assert_eq!(thief.attached().unwrap_err().code(), Code::UNKNOWN);

    wire.exchange(5, " still mine");
}

#[test]
fn the_newest_carrier_has_it_alone() {
    let fixture = Fixture::new();
    let (mut old, association, secret) = begun(&fixture);
    let mut new = Wire::on(fixture.login());
    new.attach(association, &secret, 1, 5);
    let secret = new.attached().unwrap().secret;
    assert!(old.next().is_none_or(|frame| !matches!(frame, Frame::Data { .. })), "the old one gets nothing");
    new.exchange(5, " new");
    // The old secret is worth nothing once the new one is known to have arrived, and no attempt comes twice.
    let mut late = Wire::on(fixture.login());
    late.attach(association, &Secret::new([0; 32]), 2, 5);
    assert_eq!(late.attached().unwrap_err().code(), Code::NOT_YOURS);
    late.attach(association, &secret, 1, 5);
    assert_eq!(late.attached().unwrap_err().code(), Code::NOT_YOURS);
    new.exchange(9, " alone");
}

#[test]
fn a_rule_that_is_gone_ends_what_waits_and_what_is_resumed() {
    for waits in [true, false] {
        let mut fixture = Fixture::new();
        let (wire, association, secret) = begun(&fixture);
        let wire = if waits {
            drop(wire);
            None
        } else {
            Some(wire)
        };
        fixture.bastion.change("/rules", json!([]));
        let closed = fixture.bastion.audited("its end", |record| record["event"] == "forward_closed");
        assert_eq!(closed["reason"], "no_rule", "{closed}");
        if let Some(mut wire) = wire {
            assert_eq!(wire.reset().code(), Code::DENIED);
        } else {
            let mut wire = Wire::on(fixture.login());
            wire.attach(association, &secret, 1, 5);
            match wire.attached() {
                Ok(_) => assert_eq!(wire.reset().code(), Code::DENIED),
                Err(reason) => assert_eq!(reason.code(), Code::UNKNOWN),
            }
        }
    }
}

#[test]
fn who_is_revoked_while_away_gets_not_one_byte() {
    let scratch = tests::scratch::Scratch::new("streams");
    let list = scratch.write("revoked", Key::ed25519().public_line() + "\n");
    let chatty = Target::source(1, 1 << 30);
    let fixture =
        Fixture::to(&[&chatty], |setup| setup.set("/revocation/files", json!([list.to_str().unwrap()])));
    let mut wire = Wire::on(fixture.login());
    let (association, secret) = wire.start();
    wire.open(&chatty);
    let _ = wire.hear(0);
    drop(wire);
    scratch.write("revoked", fixture.key.public_line() + "\n");
    let closed = fixture.bastion.audited("its end", |record| record["event"] == "forward_closed");
    assert_eq!(closed["reason"], "revoked", "{closed}");
    // Another key of the same person: the login is good, and what waited is gone.
    let key = Key::ed25519();
    let certificate = Forge::user(&key, LOGIN).sign(&fixture.authority);
    let mut wire = Wire::on(Client::login(fixture.bastion.address(), LOGIN, &key, certificate));
    wire.attach(association, &secret, 1, 0);
    assert_eq!(wire.attached().unwrap_err().code(), Code::UNKNOWN);
}

#[test]
fn what_waits_too_long_ends() {
    let fixture = Fixture::with(|setup| setup.set("/streams/keep_detached", json!("1s")));
    let (wire, ..) = begun(&fixture);
    drop(wire);
    let closed = fixture.bastion.audited("its end", |record| record["event"] == "forward_closed");
    assert_eq!(closed["reason"], "detached_too_long", "{closed}");
    // Nothing is left of it.
    wait::until("no channel is counted", SOON, || {
        fixture.bastion.page("/metrics").body.contains("bastion_channels_active 0").then_some(())
    });
}

#[test]
fn a_client_that_breaks_the_protocol_loses_its_channel_alone() {
    let fixture = Fixture::new();
    let (mut wire, ..) = begun(&fixture);
    wire.say(1 << 40, "from nowhere");
    assert!(wire.next().is_none_or(|frame| !matches!(frame, Frame::Data { .. })));
    let channel = fixture.open(&mut wire.client).unwrap();
    wire.client.write(channel, b"still here").unwrap();
    assert_eq!(wire.client.read(channel, 10).unwrap(), b"still here");
    assert!(fixture.bastion.log().contains("broke the protocol"));
}
