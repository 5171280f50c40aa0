//! Two ends with nothing between them: what one transmits, the other receives, through the bytes of the wire.

#![allow(dead_code, clippy::unwrap_used, reason = "test")]

use std::time::Duration;

use tunnel_stream::{
    Association, Attachment, Event, Frame, HEADER, Limits, Payload, Request, Role, StreamId, Violation,
    frame::Decoder,
    proof::{AssociationId, Challenge, Secret},
};

pub(crate) const LIMITS: Limits = Limits { streams: 4, window: 1 << 20, kept: 1 << 30 };
pub(crate) const ID: AssociationId = AssociationId([3; 16]);
pub(crate) const NOW: Duration = Duration::from_secs(100);
pub(crate) const ONE: StreamId = StreamId(1);
pub(crate) const TWO: StreamId = StreamId(2);

pub(crate) fn first_secret() -> Secret {
    Secret::new([0xA7; 32])
}

pub(crate) fn challenge(byte: u8) -> Challenge {
    Challenge([byte; 32])
}

pub(crate) fn client(limits: Limits) -> Association {
    Association::new(Role::Client, ID, first_secret(), limits, Duration::ZERO)
}

pub(crate) fn server(limits: Limits) -> Association {
    Association::new(Role::Server, ID, first_secret(), limits, Duration::ZERO)
}

pub(crate) fn request() -> Request {
    Request { host: "db.internal".to_owned(), port: 5432 }
}

/// The frame that these bytes are.
pub(crate) fn decoded(bytes: &[u8]) -> Frame {
    let mut decoder = Decoder::default();
    decoder.feed(bytes.to_vec().into());
    let (frame, length) = decoder.next_frame().unwrap().unwrap();
    assert_eq!(length, bytes.len());
    assert!(decoder.is_between_frames());
    frame
}

/// The next frame of the present carrier.
pub(crate) fn next(from: &mut Association, now: Duration) -> Option<Frame> {
    from.transmit(from.attachment(), now).map(|outgoing| decoded(&outgoing.frame))
}

/// All that one end has to say.
pub(crate) fn said(from: &mut Association) -> Vec<Frame> {
    std::iter::from_fn(|| next(from, NOW)).collect()
}

/// All that one end has to say reaches the other, on the present carrier of both.
pub(crate) fn flow(from: &mut Association, to: &mut Association) -> Vec<Event> {
    said(from).into_iter().filter_map(|frame| hear(to, frame).unwrap()).collect()
}

/// A frame arrives on the present carrier.
pub(crate) fn hear(to: &mut Association, frame: Frame) -> Result<Option<Event>, Violation> {
    hear_on(to, to.attachment(), frame)
}

/// A frame arrives on a carrier.
pub(crate) fn hear_on(
    to: &mut Association,
    on: Attachment,
    frame: Frame,
) -> Result<Option<Event>, Violation> {
    let length = frame.encode().len();
    assert!(length >= HEADER);
    to.receive(on, frame, length, NOW)
}

pub(crate) fn push(to: &mut Association, id: StreamId, data: &[u8]) {
    assert!(to.room(id) >= data.len(), "{} bytes of room", to.room(id));
    to.push(id, Payload::copy_of(data), NOW);
}

/// Two ends with as many open streams.
pub(crate) fn opened(streams: usize) -> (Association, Association) {
    opened_with(streams, LIMITS)
}

pub(crate) fn opened_with(streams: usize, limits: Limits) -> (Association, Association) {
    let (mut client, mut server) = (client(limits), server(limits));
    for _ in 0..streams {
        let id = client.open(request()).unwrap();
        assert_eq!(flow(&mut client, &mut server), [Event::Open(id, request())]);
        server.accept(id);
        assert_eq!(flow(&mut server, &mut client), [Event::Opened(id)]);
    }
    (client, server)
}

/// Both move to another carrier; what is on its way on the old one is lost.
pub(crate) fn resume(
    client: &mut Association,
    server: &mut Association,
    byte: u8,
) -> (Vec<Event>, Vec<Event>) {
    let attach = client.attach(&challenge(byte));
    let fresh = Secret::new([byte; 32]);
    let (attached, at_server) = server.resume(&attach, &challenge(byte), fresh, NOW).unwrap();
    let at_client = client.resumed(attached, NOW).unwrap();
    (at_client, at_server)
}
