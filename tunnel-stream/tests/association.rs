//! One association and what a peer, honest or not, can make it do: the order in which it sends, its bounds,
//! and how streams end.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "test")]

mod common;

use std::time::Duration;

use common::*;
use tunnel_stream::{
    Association, Code, Event, Frame, HEADER, Limits, MOST_DATA, Payload, Reason, Request, Role, StreamId,
    Violation,
    frame::{Attach, Attached, Hello, Position},
    proof::{Challenge, Epoch, Proof, Secret},
};

const THREE: StreamId = StreamId(3);
/// The least that may be under way beside an interactive stream.
const LEAST: usize = 256 * 1024;

/// A client whose peer takes anything: as many open streams.
fn generous(streams: usize) -> Association {
    let mut client = client(Limits { streams: 8, window: 1 << 30, kept: 1 << 30 });
    for _ in 0..streams {
        let id = client.open(request()).unwrap();
        assert!(matches!(next(&mut client, NOW), Some(Frame::Open { .. })));
        hear(&mut client, Frame::Opened { stream: id, limit: 1 << 30 }).unwrap();
    }
    client
}

/// Fills the frame that is sent next of a stream.
fn bulk(end: &mut Association, id: StreamId) {
    push(end, id, &[0; MOST_DATA]);
}

fn small(end: &mut Association, id: StreamId, now: Duration) {
    end.push(id, Payload::copy_of(b"k"), now);
}

/// Which stream the next frame is of, if it is data.
fn data_of(end: &mut Association, now: Duration) -> Option<StreamId> {
    match next(end, now)? {
        Frame::Data { stream, .. } => Some(stream),
        other => panic!("{other:?}"),
    }
}

#[test]
fn streams_with_much_to_send_take_turns() {
    let mut client = generous(3);
    for id in [ONE, TWO, THREE] {
        bulk(&mut client, id);
        bulk(&mut client, id);
    }
    let order: Vec<_> = std::iter::from_fn(|| data_of(&mut client, NOW)).collect();
    assert_eq!(order, [ONE, TWO, THREE, ONE, TWO, THREE]);
}

#[test]
fn the_sender_hears_whose_socket_may_be_read_again() {
    let mut client = generous(1);
    bulk(&mut client, ONE);
    bulk(&mut client, ONE);
    assert_eq!(client.room(ONE), 0, "two frames are read ahead");
    let outgoing = client.transmit(client.attachment(), NOW).unwrap();
    assert_eq!((outgoing.data_of, outgoing.frame.len()), (Some(ONE), HEADER + MOST_DATA));
    assert_eq!(client.room(ONE), MOST_DATA);
    client.finish(ONE);
    assert_eq!(client.room(ONE), 0);
    client.transmit(client.attachment(), NOW).unwrap();
    let outgoing = client.transmit(client.attachment(), NOW).unwrap();
    assert!(
        matches!(decoded(&outgoing.frame), Frame::Fin { stream: ONE, offset } if offset == 2 * MOST_DATA as u64)
    );
    assert!(!client.has_something_to_send());
}

#[test]
fn a_keystroke_overtakes_what_waits_and_what_is_owed_overtakes_both() {
    let mut client = generous(3);
    for _ in 0..2 {
        bulk(&mut client, ONE);
    }
    small(&mut client, TWO, NOW);
    client.reset(THREE, Code::STOPPED.into());
    assert!(matches!(next(&mut client, NOW), Some(Frame::Reset { stream: THREE, .. })));
    assert_eq!(data_of(&mut client, NOW), Some(TWO));
    assert_eq!(data_of(&mut client, NOW), Some(ONE));
    small(&mut client, TWO, NOW);
    assert_eq!(data_of(&mut client, NOW), Some(TWO));
    assert_eq!(data_of(&mut client, NOW), Some(ONE));
    assert_eq!(data_of(&mut client, NOW), None);
}

#[test]
fn what_began_small_and_has_grown_waits_for_its_turn() {
    let mut client = generous(2);
    small(&mut client, ONE, NOW);
    // Into the same frame, which is long now.
    push(&mut client, ONE, &[0; 100_000]);
    small(&mut client, TWO, NOW);
    assert_eq!(data_of(&mut client, NOW), Some(TWO));
    assert_eq!(data_of(&mut client, NOW), Some(ONE));
    assert_eq!(data_of(&mut client, NOW), None);
}

#[test]
fn a_frame_below_four_kibibytes_is_small() {
    for (data, is_small) in [(4095 - HEADER, true), (4096 - HEADER, false)] {
        let mut client = generous(2);
        bulk(&mut client, ONE);
        push(&mut client, TWO, &vec![0; data]);
        assert_eq!(data_of(&mut client, NOW), Some(if is_small { TWO } else { ONE }), "{data}");
    }
}

#[test]
fn what_is_held_more_is_told_to_the_caller() {
    let mut client = generous(1);
    assert_eq!(client.push(ONE, Payload::copy_of(&[0; 5000]), NOW), 5000);
    let with_frame = client.push(ONE, Payload::copy_of(&[0; 7000]), NOW);
    assert!(with_frame > 7000, "the one before is a frame now, which costs something itself");
    assert_eq!(client.status(ONE).unwrap().held, 5000 + with_frame);
    said(&mut client);
    let held = client.status(ONE).unwrap().held;
    let credit = Frame::Credit { stream: ONE, acknowledged: 12_000, limit: 0 };
    assert_eq!(hear(&mut client, credit), Ok(Some(Event::Credit(ONE, held))));
    assert_eq!(client.status(ONE).unwrap().held, 0);
}

#[test]
fn a_sender_that_waits_is_told_of_all_that_there_is_to_send() {
    let is_quiet_after_one = |end: &mut Association| {
        assert!(end.has_something_to_send());
        assert!(next(end, NOW).is_some());
        !end.has_something_to_send()
    };
    let mut client = generous(1);
    assert!(!client.has_something_to_send());
    small(&mut client, ONE, NOW);
    assert!(is_quiet_after_one(&mut client), "a small frame");
    bulk(&mut client, ONE);
    assert!(is_quiet_after_one(&mut client), "a large frame");
    client.finish(ONE);
    assert!(is_quiet_after_one(&mut client), "an end");
    client.reset(ONE, Code::STOPPED.into());
    assert!(is_quiet_after_one(&mut client), "what is owed");
    let frame = Frame::Received { bytes: 0 };
    client.receive(client.attachment(), frame, 128 * 1024, NOW).unwrap();
    assert!(is_quiet_after_one(&mut client), "a receipt");
    let mut server = server(LIMITS);
    server.drain();
    assert!(is_quiet_after_one(&mut server), "that it drains");
}

#[test]
fn a_sender_that_got_room_is_not_blocked_any_more() {
    let (mut client, _) = opened(1);
    let limit = 524_288;
    while client.room(ONE) > 0 {
        let room = client.room(ONE);
        client.push(ONE, Payload::copy_of(&vec![0; room]), NOW);
        said(&mut client);
    }
    client.blocked(ONE);
    assert!(matches!(*said(&mut client), [Frame::Blocked { stream: ONE, limit: at }] if at == limit));
    client.blocked(ONE);
    hear(&mut client, Frame::Credit { stream: ONE, acknowledged: 0, limit: limit + 1 }).unwrap();
    assert!(said(&mut client).is_empty());
}

#[test]
fn the_round_trip_is_measured_by_receipts() {
    let mut client = generous(1);
    assert_eq!(client.round_trip(), None);
    let opens = decoded_length(&Frame::Open { stream: ONE, limit: 0, request: request() }) as u64;
    let later = NOW + Duration::from_millis(70);
    client.receive(client.attachment(), Frame::Received { bytes: opens }, HEADER, later).unwrap();
    assert_eq!(client.round_trip(), Some(Duration::from_millis(70)));
    client.detach(client.attachment());
    assert_eq!(client.round_trip(), None);
}

/// How much goes out before the peer confirms anything, beside a stream that has given some small pieces.
fn under_way(client: &mut Association, now: Duration) -> usize {
    let mut sent = 0;
    for _ in 0..40 {
        if client.room(ONE) >= MOST_DATA {
            client.push(ONE, Payload::copy_of(&[0; MOST_DATA]), now);
        }
        let Some(outgoing) = client.transmit(client.attachment(), now) else { return sent };
        sent += outgoing.frame.len();
    }
    sent
}

#[test]
fn the_cap_binds_only_while_a_person_types() {
    let most = 40 * (HEADER + MOST_DATA);
    assert_eq!(under_way(&mut generous(2), NOW), most);

    let mut client = generous(2);
    small(&mut client, TWO, NOW);
    small(&mut client, TWO, NOW);
    assert!(under_way(&mut client, NOW) > LEAST, "most bulk transfers begin like that");

    let mut client = generous(2);
    small(&mut client, TWO, NOW);
    small(&mut client, TWO, NOW);
    push(&mut client, TWO, &[0; 4096]);
    small(&mut client, TWO, NOW);
    small(&mut client, TWO, NOW);
    assert!(under_way(&mut client, NOW) > LEAST, "in a row");

    let mut client = generous(2);
    for _ in 0..3 {
        push(&mut client, TWO, &[0; 4095]);
    }
    assert!(under_way(&mut client, NOW) <= LEAST, "as much as a person pastes");

    let mut client = generous(2);
    for _ in 0..3 {
        small(&mut client, TWO, NOW);
    }
    assert!(under_way(&mut client, NOW) <= LEAST);
    assert!(client.has_something_to_send());
    small(&mut client, TWO, NOW);
    assert_eq!(data_of(&mut client, NOW), Some(TWO), "never held up itself");
    let within = NOW + Duration::from_millis(999);
    assert_eq!(under_way(&mut client, within), 0);
    let after = NOW + Duration::from_millis(1000);
    assert!(under_way(&mut client, after) > LEAST, "a second later the person is away");
}

#[test]
fn a_receipt_makes_room_under_the_cap() {
    let mut client = generous(2);
    for _ in 0..3 {
        small(&mut client, TWO, NOW);
    }
    let sent = under_way(&mut client, NOW);
    assert_eq!(under_way(&mut client, NOW), 0);
    let opens = 2 * decoded_length(&Frame::Open { stream: ONE, limit: 0, request: request() });
    let bytes = (sent + opens) as u64;
    assert_eq!(hear(&mut client, Frame::Received { bytes: bytes - 1 }), Ok(None));
    assert!(under_way(&mut client, NOW) > 0);
    assert_eq!(hear(&mut client, Frame::Received { bytes: bytes + 1_000_000 }), Err(Violation::NeverSent));
    assert_eq!(hear(&mut client, Frame::Received { bytes: bytes - 2 }), Err(Violation::NeverSent));
}

fn decoded_length(frame: &Frame) -> usize {
    frame.encode().len()
}

#[test]
fn a_receipt_goes_first_and_counts_whole_frames() {
    let mut client = generous(2);
    let answers = 2 * decoded_length(&Frame::Opened { stream: ONE, limit: 0 }) as u64;
    let data = Frame::Data { stream: ONE, offset: 0, data: vec![0; MOST_DATA].into() };
    bulk(&mut client, ONE);
    client.reset(TWO, Code::STOPPED.into());
    // As the decoder says when it has skipped a frame of 1000 bytes.
    let length = decoded_length(&data) + 1000;
    client.receive(client.attachment(), data, length, NOW).unwrap();
    let Some(Frame::Received { bytes }) = next(&mut client, NOW) else { panic!() };
    assert_eq!(bytes, answers + length as u64);
    assert!(matches!(next(&mut client, NOW), Some(Frame::Reset { .. })));
}

#[test]
fn no_end_keeps_more_than_its_own_window_for_a_peer_that_would_take_anything() {
    let (mut client, mut server) = opened_with(1, Limits { streams: 4, window: 300_000, kept: 1 << 30 });
    hear(&mut client, Frame::Credit { stream: ONE, acknowledged: 0, limit: u64::MAX }).unwrap();
    for _ in 0..100 {
        let room = client.room(ONE);
        client.push(ONE, Payload::copy_of(&vec![0; room]), NOW);
        said(&mut client);
    }
    assert_eq!(client.status(ONE).unwrap().taken, 300_000);
    client.blocked(ONE);
    let asked = said(&mut client);
    assert!(matches!(*asked, [Frame::Blocked { stream: ONE, limit: 300_000 }]), "{asked:?}");
    assert!(!client.has_something_to_send());
    hear(&mut client, Frame::Credit { stream: ONE, acknowledged: 1000, limit: u64::MAX }).unwrap();
    assert_eq!(client.room(ONE), 1000);
    drop(said(&mut server));
}

/// Whatever the streams do, their sum has a bound, no stream is without room, and none waits for ever.
#[test]
fn several_busy_streams_share_what_may_be_kept() {
    let limits = Limits { streams: 64, window: 1 << 20, kept: 900_000 };
    let kept = |client: &Association| (1..=64).map(|id| held(client, StreamId(id))).sum::<u64>();
    let (mut client, mut server) = opened_with(64, limits);
    let mut most = 0;
    let mut arrived = [0_u64; 65];
    for round in 0..320 {
        for turn in 0..64 {
            let stream = StreamId((round + turn) % 64 + 1);
            match client.room(stream) {
                0 => client.blocked(stream),
                room => drop(client.push(stream, Payload::copy_of(&vec![0; room]), NOW)),
            }
        }
        most = most.max(kept(&client));
        for event in flow(&mut client, &mut server) {
            if let Event::Data(id, data) = event {
                arrived[id.0 as usize] += data.len() as u64;
                server.wrote(id, data.len() as u64);
            }
        }
        flow(&mut server, &mut client);
    }
    assert!((800_000..2_000_000).contains(&most), "{most}");
    let (fewest, greatest) = (arrived[1..].iter().min().unwrap(), arrived[1..].iter().max().unwrap());
    assert!(*fewest > 1_000_000 && greatest / fewest < 4, "{fewest} {greatest}");
}

fn held(end: &Association, id: StreamId) -> u64 {
    end.status(id).map_or(0, |status| status.held)
}

#[test]
fn a_window_grows_when_it_is_what_holds_the_peer_up() {
    let largest = 4 << 20;
    let (mut client, mut server) = opened_with(1, Limits { streams: 4, window: largest, kept: 1 << 30 });
    let mut limits = Vec::new();
    for _ in 0..200 {
        while client.room(ONE) > 0 {
            let room = client.room(ONE);
            client.push(ONE, Payload::copy_of(&vec![0; room]), NOW);
            flow(&mut client, &mut server);
        }
        client.blocked(ONE);
        let waiting = {
            let status = server.status(ONE).unwrap();
            status.held
        };
        server.wrote(ONE, waiting);
        let taken = client.status(ONE).unwrap().taken;
        flow(&mut client, &mut server);
        for frame in said(&mut server) {
            if let Frame::Credit { limit, .. } = frame {
                limits.push(limit - taken);
            }
            hear(&mut client, frame).unwrap();
        }
    }
    assert_eq!(limits.iter().copied().max(), Some(largest), "{limits:?}");
    assert!(limits.is_sorted());
}

#[test]
fn a_host_that_is_longer_than_any_name_is_asked_for_by_no_client() {
    let mut client = client(LIMITS);
    let host = |length| Request { host: "h".repeat(length), port: 1 };
    assert_eq!(client.open(host(301)), None);
    assert!(!client.has_something_to_send());
    assert_eq!(client.open(host(300)), Some(ONE));
    assert!(matches!(next(&mut client, NOW), Some(Frame::Open { request, .. }) if request == host(300)));
    assert_eq!(server(LIMITS).open(host(1)), None, "a bastion opens none");
}

#[test]
fn a_client_opens_no_more_than_it_may() {
    let mut client = client(LIMITS);
    for _ in 0..LIMITS.streams {
        assert!(client.open(request()).is_some());
    }
    assert_eq!(client.open(request()), None);
    client.reset(TWO, Code::STOPPED.into());
    assert_eq!(client.open(request()), Some(StreamId(5)), "no number twice");
    let opens = said(&mut client);
    assert_eq!(opens.len(), LIMITS.streams, "the bastion never hears of the one that was given up");
    assert!(opens.iter().all(|frame| matches!(frame, Frame::Open { stream, .. } if *stream != TWO)));
}

fn ask(id: u32) -> Frame {
    Frame::Open { stream: StreamId(id), limit: 1000, request: request() }
}

#[test]
fn a_flood_of_requests_meets_a_bound() {
    let mut server = server(LIMITS);
    for id in 1..=4 {
        assert_eq!(hear(&mut server, ask(id)), Ok(Some(Event::Open(StreamId(id), request()))));
    }
    for id in 5..=8 {
        assert_eq!(hear(&mut server, ask(id)), Ok(None));
    }
    assert_eq!(server.len(), 8);
    for id in 9..100 {
        assert_eq!(hear(&mut server, ask(id)), Err(Violation::BadStream));
        assert_eq!(server.len(), 8);
    }
    let refusals = said(&mut server);
    assert_eq!(refusals.len(), 4);
    for (frame, expected) in refusals.into_iter().zip(5..) {
        let Frame::Reset { stream, reason } = frame else { panic!("{frame:?}") };
        assert_eq!((stream, reason.code()), (StreamId(expected), Code::RESOURCE_SHORTAGE));
        assert_eq!(reason.text(), "too many streams at the same time");
        assert_eq!(hear(&mut server, Frame::Gone { stream }), Ok(None));
    }
    assert_eq!(server.len(), 4);
    // The number that was refused with its carrier is asked for again on the next one.
    assert_eq!(hear(&mut server, ask(9)), Ok(None));
    assert_eq!(server.len(), 5);
}

/// A frame of each kind about a stream.
fn about(stream: StreamId) -> Vec<Frame> {
    vec![
        Frame::Data { stream, offset: 0, data: "x".into() },
        Frame::Fin { stream, offset: 0 },
        Frame::Credit { stream, acknowledged: 0, limit: 10 },
        Frame::Blocked { stream, limit: 0 },
        Frame::Reset { stream, reason: Code::RESET.into() },
    ]
}

#[test]
fn a_flood_about_streams_that_are_not_known_meets_a_bound_and_each_is_answered() {
    for nth in 0..about(ONE).len() {
        let mut server = server(LIMITS);
        hear(&mut server, ask(1000)).unwrap();
        let mut flood = (1..1000).map(|id| about(StreamId(id)).swap_remove(nth));
        for frame in flood.by_ref().take(7) {
            assert_eq!(hear(&mut server, frame), Ok(None));
        }
        assert_eq!(server.len(), 8);
        for frame in flood.by_ref().take(500) {
            assert_eq!(hear(&mut server, frame), Err(Violation::BadStream));
            assert_eq!(server.len(), 8);
        }
        let gone: Vec<_> = said(&mut server)
            .into_iter()
            .map(|frame| match frame {
                Frame::Gone { stream } => stream.0,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(gone, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(server.len(), 1);
        assert!(flood.all(|frame| {
            let heard = hear(&mut server, frame);
            heard == Ok(None) && said(&mut server).len() == 1
        }));
    }
}

#[test]
fn the_same_stream_asked_about_again_and_again_is_answered_once() {
    let mut server = server(LIMITS);
    hear(&mut server, ask(2)).unwrap();
    for _ in 0..100 {
        for frame in about(ONE) {
            assert_eq!(hear(&mut server, frame), Ok(None));
        }
    }
    assert_eq!(said(&mut server).len(), 1);
}

#[test]
fn a_client_answers_what_it_does_not_know_too() {
    let (mut client, mut server) = opened(2);
    client.reset(ONE, Code::STOPPED.into());
    flow(&mut client, &mut server);
    flow(&mut server, &mut client);
    assert_eq!(client.len(), 1);
    for frame in about(ONE).into_iter().chain([Frame::Opened { stream: ONE, limit: 5 }]) {
        assert_eq!(hear(&mut client, frame), Ok(None));
        assert!(matches!(*said(&mut client), [Frame::Gone { stream: ONE }]));
    }
    assert_eq!(hear(&mut client, Frame::Gone { stream: ONE }), Ok(None));
    assert!(!client.has_something_to_send());
}

#[test]
fn a_number_that_was_never_used_is_no_stream() {
    let (client, server) = opened(1);
    for mut end in [client, server] {
        for frame in about(TWO) {
            assert_eq!(hear(&mut end, frame), Err(Violation::BadStream));
        }
        assert_eq!(hear(&mut end, Frame::Gone { stream: TWO }), Ok(None));
        assert_eq!(end.len(), 1);
    }
    let (mut client, _) = opened(1);
    assert_eq!(hear(&mut client, Frame::Opened { stream: TWO, limit: 5 }), Err(Violation::BadStream));
}

#[test]
fn a_number_is_used_once() {
    let (_, mut server) = opened(2);
    assert_eq!(hear(&mut server, ask(1)), Ok(None), "known already");
    hear(&mut server, Frame::Reset { stream: ONE, reason: Code::STOPPED.into() }).unwrap();
    said(&mut server);
    assert_eq!(hear(&mut server, ask(1)), Err(Violation::BadStream));
    assert_eq!(hear(&mut server, ask(7)), Ok(Some(Event::Open(StreamId(7), request()))));
    assert_eq!(hear(&mut server, ask(6)), Err(Violation::BadStream), "they only count up");
}

#[test]
fn each_end_says_only_what_is_its_part() {
    let hello = Hello { oldest: 1, newest: 1, challenge: Challenge([0; 32]), most_streams: 1, kept_for: 1 };
    let secret = || Secret::new([0; 32]);
    let attach = Attach {
        version: 1,
        association: ID,
        epoch: Epoch(1),
        proof: Proof([0; 32]),
        streams: vec![Position { stream: ONE, received: 0 }],
    };
    let attached = Attached { epoch: Epoch(1), secret: secret(), highest: ONE, streams: Vec::new() };
    let before = || {
        vec![
            Frame::Hello(hello.clone()),
            Frame::Start { version: 1 },
            Frame::Started { association: ID, secret: secret() },
            Frame::Attach(attach.clone()),
            Frame::Attached(attached.clone()),
            Frame::Refused { reason: Code::REVOKED.into() },
        ]
    };
    let (mut client, mut server) = opened(1);
    for frame in before().into_iter().chain([ask(2)]) {
        assert_eq!(hear(&mut client, frame), Err(Violation::OutOfPlace));
    }
    for frame in before().into_iter().chain([Frame::Opened { stream: ONE, limit: 5 }, Frame::Drain]) {
        assert_eq!(hear(&mut server, frame), Err(Violation::OutOfPlace));
    }
    assert_eq!((client.len(), server.len()), (1, 1));
}

#[test]
fn a_reset_is_answered_whichever_end_it_comes_from() {
    for by_client in [true, false] {
        let (mut client, mut server) = opened(1);
        let (by, other) = if by_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
        push(by, ONE, b"dropped");
        push(other, ONE, b"dropped");
        let reason = Reason::new(Code::EXPIRED, "the certificate has expired");
        by.reset(ONE, reason.clone());
        assert_eq!((by.room(ONE), by.status(ONE).unwrap().held), (0, 0));
        by.reset(ONE, Reason::new(Code::STOPPED, "the first reason is the one that counts"));
        assert_eq!(flow(by, other), [Event::Reset(ONE, reason)]);
        assert_eq!((by.len(), other.len()), (1, 1), "known until it is answered");
        assert_eq!((other.room(ONE), other.status(ONE).unwrap().held), (0, 0));
        assert_eq!(flow(other, by), []);
        assert_eq!((by.len(), other.len()), (0, 0));
    }
}

#[test]
fn resets_that_cross_end_the_stream_at_both_ends() {
    for sent in [true, false] {
        let (mut client, mut server) = opened(1);
        client.reset(ONE, Code::STOPPED.into());
        server.reset(ONE, Code::EXPIRED.into());
        let on_the_way = if sent { said(&mut server) } else { Vec::new() };
        assert_eq!(flow(&mut client, &mut server), [], "the bastion's user knows already");
        for frame in on_the_way {
            assert_eq!(hear(&mut client, frame), Ok(None));
        }
        for _ in 0..2 {
            assert_eq!(flow(&mut server, &mut client), []);
            assert_eq!(flow(&mut client, &mut server), []);
        }
        assert_eq!((client.len(), server.len()), (0, 0));
    }
}

#[test]
fn a_refused_request_tells_why() {
    let (mut client, mut server) = opened(0);
    client.open(request()).unwrap();
    push(&mut client, ONE, b"early");
    assert_eq!(
        flow(&mut client, &mut server),
        [Event::Open(ONE, request()), Event::Data(ONE, "early".into())]
    );
    let reason = Reason::new(Code::PROHIBITED, "no rule permits it");
    server.reset(ONE, reason.clone());
    server.accept(ONE);
    assert_eq!(flow(&mut server, &mut client), [Event::Reset(ONE, reason)]);
    assert_eq!(flow(&mut client, &mut server), []);
    assert!(client.is_empty() && server.is_empty());
}

#[test]
fn a_stream_ends_in_order_once_both_directions_have() {
    let (mut client, mut server) = opened(1);
    client.finish(ONE);
    assert_eq!(flow(&mut client, &mut server), [Event::Fin(ONE)]);
    push(&mut server, ONE, b"the answer to all of it");
    assert_eq!(flow(&mut server, &mut client), [Event::Data(ONE, "the answer to all of it".into())]);
    server.wrote_end(ONE);
    client.wrote(ONE, 23);
    server.finish(ONE);
    flow(&mut server, &mut client);
    client.wrote_end(ONE);
    assert!(!client.is_empty(), "the bastion has not heard");
    assert_eq!(flow(&mut client, &mut server).last(), Some(&Event::Finished(ONE)));
    assert_eq!(client.finished(), Some(ONE));
    assert_eq!(client.finished(), None);
    assert!(client.is_empty() && server.is_empty());
}

#[test]
fn the_end_of_an_association_ends_all_of_it() {
    let (mut client, _) = opened(3);
    let reason = Reason::new(Code::REVOKED, "the certificate is revoked");
    assert_eq!(hear(&mut client, Frame::End { reason: reason.clone() }), Ok(Some(Event::End(reason))));
    assert!(client.is_empty());
    push_nothing(&mut client);
}

/// Nothing of a stream that is not known is taken.
fn push_nothing(end: &mut Association) {
    assert_eq!(end.room(ONE), 0);
    assert_eq!(end.push(ONE, Payload::copy_of(b"x"), NOW), 0);
    end.finish(ONE);
    end.wrote(ONE, 1);
    end.wrote_end(ONE);
    end.blocked(ONE);
    end.accept(ONE);
    assert!(end.status(ONE).is_none());
    assert!(said(end).is_empty());
}

#[test]
fn an_association_never_has_more_streams_than_their_list_has_room_for() {
    let mut server = Association::new(
        Role::Server,
        ID,
        first_secret(),
        Limits { streams: usize::MAX, window: 0, kept: 1 << 30 },
        Duration::ZERO,
    );
    let most = tunnel_stream::frame::MOST_STREAMS as u32;
    for id in 1..=2 * most {
        hear(&mut server, ask(id)).unwrap();
    }
    assert_eq!(hear(&mut server, ask(2 * most + 1)), Err(Violation::BadStream));
    let streams = (1..=2 * most).map(|id| Position { stream: StreamId(id), received: 0 }).collect();
    let attach = Attach { streams, ..client(LIMITS).attach(&challenge(1)) };
    let Frame::Attach(attach) = decoded(&Frame::Attach(attach).encode()) else { panic!() };
    let (attached, _) = server.resume(&attach, &challenge(1), first_secret(), NOW).unwrap();
    let Frame::Attached(attached) = decoded(&Frame::Attached(attached).encode()) else { panic!() };
    assert_eq!(attached.streams.len(), 2 * most as usize);
}

/// A peer that takes nothing makes streams come and go, each with data that waits.
#[test]
fn nothing_is_left_in_a_queue_of_a_stream_that_is_forgotten() {
    let mut server = server(LIMITS);
    for id in 1..100 {
        let stream = StreamId(id);
        hear(&mut server, ask(id)).unwrap();
        if id % 2 == 0 {
            server.accept(stream);
            small(&mut server, stream, NOW);
        }
        push(&mut server, stream, &[0; 900]);
        hear(&mut server, Frame::Gone { stream }).unwrap();
        assert!(!server.has_something_to_send(), "stream {id}");
    }
    let mut client = generous(2);
    bulk(&mut client, ONE);
    client.reset(TWO, Code::STOPPED.into());
    hear(&mut client, Frame::End { reason: Code::SHUTDOWN.into() }).unwrap();
    assert!(!client.has_something_to_send());
    let mut client = generous(1);
    bulk(&mut client, ONE);
    hear(&mut client, Frame::Reset { stream: ONE, reason: Code::RESET.into() }).unwrap();
    assert!(matches!(next(&mut client, NOW), Some(Frame::Gone { stream: ONE })));
    assert!(!client.has_something_to_send());
}
