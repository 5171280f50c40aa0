//! Each way to take over streams that are another client's, or to move one's own where they were not:
//! stealing, replaying, rewinding, racing. And the honest client that lost an answer is let in.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test")]

mod common;

use common::*;
use tunnel_stream::{
    Association, Code, Event, Frame, Reason, Refused, Role, StreamId, Violation,
    frame::{Attach, Position},
    proof::{AssociationId, Epoch, Proof, Secret},
};

fn fresh() -> Secret {
    Secret::new([0x55; 32])
}

/// The present carrier, and the streams on it, serve on.
fn serves_on(client: &mut Association, server: &mut Association) {
    push(client, ONE, b"still here");
    assert_eq!(flow(client, server).last(), Some(&Event::Data(ONE, "still here".into())));
    server.wrote(ONE, 10);
    push(server, ONE, b"and here");
    assert_eq!(flow(server, client).last(), Some(&Event::Data(ONE, "and here".into())));
    client.wrote(ONE, 8);
}

#[test]
fn a_thief_without_the_secret_resumes_nothing_and_disturbs_nothing() {
    let (mut client, mut server) = opened(1);
    for (id, secret) in
        [(ID, Secret::new([0; 32])), (ID, Secret::new([0xA6; 32])), (AssociationId([4; 16]), first_secret())]
    {
        let mut thief = Association::new(Role::Client, id, secret, LIMITS, NOW);
        let attach =
            Attach { streams: vec![Position { stream: ONE, received: 0 }], ..thief.attach(&challenge(9)) };
        let before = server.attachment();
        assert_eq!(server.resume(&attach, &challenge(9), fresh(), NOW).unwrap_err(), Refused::Proof);
        assert_eq!(server.attachment(), before);
        // Nor by saying that the association is the right one.
        let attach = Attach { association: ID, ..attach };
        assert_eq!(server.resume(&attach, &challenge(9), fresh(), NOW).unwrap_err(), Refused::Proof);
    }
    serves_on(&mut client, &mut server);
    // The thief has not used up the owner's number.
    resume(&mut client, &mut server, 1);
    serves_on(&mut client, &mut server);
}

#[test]
fn a_proof_is_worth_nothing_changed_in_any_bit_or_for_any_other_number() {
    let (mut client, mut server) = opened(1);
    let attach = client.attach(&challenge(1));
    for bit in 0..256 {
        let mut proof = attach.proof.0;
        if let Some(byte) = proof.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        let forged = Attach { proof: Proof(proof), ..attach.clone() };
        assert_eq!(server.resume(&forged, &challenge(1), fresh(), NOW).unwrap_err(), Refused::Proof);
    }
    let later = Attach { epoch: Epoch(2), ..attach.clone() };
    assert_eq!(server.resume(&later, &challenge(1), fresh(), NOW).unwrap_err(), Refused::Proof);
    server.resume(&attach, &challenge(1), fresh(), NOW).unwrap();
}

#[test]
fn a_recorded_attempt_is_worth_nothing_on_another_carrier_or_a_second_time() {
    let (mut client, mut server) = opened(1);
    let recorded = client.attach(&challenge(1));
    assert_eq!(
        server.resume(&recorded, &challenge(2), fresh(), NOW).unwrap_err(),
        Refused::Proof,
        "another carrier's challenge is another"
    );
    let (attached, _) = server.resume(&recorded, &challenge(1), fresh(), NOW).unwrap();
    let present = server.attachment();
    assert_eq!(
        server.resume(&recorded, &challenge(1), fresh(), NOW).unwrap_err(),
        Refused::Stale,
        "even were a challenge the same twice"
    );
    client.resumed(attached, NOW).unwrap();
    serves_on(&mut client, &mut server);
    assert_eq!(
        server.resume(&recorded, &challenge(1), fresh(), NOW).unwrap_err(),
        Refused::Proof,
        "the secret is another by now"
    );
    assert_eq!(server.attachment(), present);
}

#[test]
fn an_older_attempt_does_not_undo_a_newer_one() {
    let (mut client, mut server) = opened(1);
    let older = client.attach(&challenge(1));
    let newer = client.attach(&challenge(2));
    assert!(older.epoch < newer.epoch);
    let (attached, _) = server.resume(&newer, &challenge(2), fresh(), NOW).unwrap();
    let present = server.attachment();
    assert_eq!(server.resume(&older, &challenge(1), fresh(), NOW).unwrap_err(), Refused::Stale);
    assert_eq!(server.attachment(), present);
    client.resumed(attached, NOW).unwrap();
    serves_on(&mut client, &mut server);
}

/// What one position would do, in either end's list.
fn judged(received: u64) -> (Result<(), Refused>, Result<(), Violation>) {
    let pair = || {
        let (mut client, mut server) = opened(1);
        for end in [&mut client, &mut server] {
            push(end, ONE, &[0; 10]);
            assert!(next(end, NOW).is_some());
            // Taken from the socket, and never sent.
            push(end, ONE, &[0; 10]);
        }
        (client, server)
    };
    let streams = vec![Position { stream: ONE, received }];
    let (mut client, mut server) = pair();
    let honest = client.attach(&challenge(1));
    let before = server.attachment();
    let attach = Attach { streams: streams.clone(), ..honest.clone() };
    let by_server = server.resume(&attach, &challenge(1), fresh(), NOW).map(|_| ());
    if by_server.is_err() {
        assert_eq!(server.attachment(), before);
        assert!(server.resume(&honest, &challenge(1), fresh(), NOW).is_ok(), "everything is as it was");
    }
    let (mut client, mut server) = pair();
    let honest = client.attach(&challenge(1));
    let (mut attached, _) = server.resume(&honest, &challenge(1), fresh(), NOW).unwrap();
    attached.streams = streams;
    let before = client.attachment();
    let by_client = client.resumed(attached.clone(), NOW).map(|_| ());
    if by_client.is_err() {
        assert_eq!(client.attachment(), before);
        attached.streams = vec![Position { stream: ONE, received: 0 }];
        assert!(client.resumed(attached, NOW).is_ok(), "everything is as it was");
    }
    (by_server, by_client)
}

#[test]
fn no_end_claims_to_have_what_was_never_sent() {
    assert_eq!(judged(0), (Ok(()), Ok(())));
    assert_eq!(judged(10), (Ok(()), Ok(())));
    for beyond in [11, 20, 21, u64::MAX] {
        assert_eq!(judged(beyond), (Err(Refused::Positions), Err(Violation::NeverSent)), "{beyond}");
    }
}

#[test]
fn what_was_acknowledged_is_not_asked_for_again() {
    let (mut client, mut server) = opened(1);
    let attach = client.attach(&challenge(1));
    // After the client has written its list, on the old carrier.
    push(&mut server, ONE, &[1; 200_000 / 2]);
    push(&mut server, ONE, &[1; 200_000 / 2]);
    flow(&mut server, &mut client);
    client.wrote(ONE, 200_000);
    flow(&mut client, &mut server);
    assert_eq!(server.status(ONE).unwrap().held, 0);
    let (attached, _) = server.resume(&attach, &challenge(1), fresh(), NOW).unwrap();
    client.resumed(attached, NOW).unwrap();
    push(&mut server, ONE, b"next");
    assert_eq!(flow(&mut server, &mut client).last(), Some(&Event::Data(ONE, "next".into())));
    assert_eq!(server.status(ONE).unwrap().resent, 0);
}

#[test]
fn of_two_carriers_at_the_same_time_the_newest_wins_and_the_other_is_deaf_and_dumb() {
    let (mut client, mut server) = opened(1);
    let old = server.attachment();
    let first = client.attach(&challenge(1));
    let second = client.attach(&challenge(2));
    let (answer_1, _) = server.resume(&first, &challenge(1), Secret::new([1; 32]), NOW).unwrap();
    let on_first = server.attachment();
    let (answer_2, _) = server.resume(&second, &challenge(2), Secret::new([2; 32]), NOW).unwrap();
    let on_second = server.attachment();

    push(&mut server, ONE, b"for the newest");
    for gone in [old, on_first] {
        let frame = Frame::Data { stream: ONE, offset: 0, data: "from a ghost".into() };
        assert_eq!(hear_on(&mut server, gone, frame), Err(Violation::Superseded));
        assert!(server.transmit(gone, NOW).is_none());
        // Its end is not the end of the newest.
        server.detach(gone);
        assert!(server.is_attached());
    }
    assert_eq!(server.attachment(), on_second);

    // The client takes the answer to its last question alone: the secret in the other is worth nothing
    // already.
    let before = client.attachment();
    assert_eq!(client.resumed(answer_1, NOW).unwrap_err(), Violation::Superseded);
    assert_eq!(client.attachment(), before);
    client.resumed(answer_2, NOW).unwrap();
    assert_eq!(flow(&mut server, &mut client), [Event::Data(ONE, "for the newest".into())]);
    let late = Frame::Data { stream: ONE, offset: 14, data: "from a ghost".into() };
    assert_eq!(hear_on(&mut client, before, late), Err(Violation::Superseded));
    resume(&mut client, &mut server, 3);
    serves_on(&mut client, &mut server);
}

#[test]
fn a_carrier_that_is_gone_neither_sends_nor_receives() {
    let (mut client, mut server) = opened(1);
    let on = server.attachment();
    push(&mut server, ONE, b"kept");
    server.detach(on);
    assert!(!server.is_attached() && !server.has_something_to_send());
    assert!(server.transmit(on, NOW).is_none());
    assert_eq!(hear(&mut server, Frame::Received { bytes: 0 }), Err(Violation::Superseded));
    resume(&mut client, &mut server, 1);
    assert_eq!(flow(&mut server, &mut client), [Event::Data(ONE, "kept".into())]);
}

#[test]
fn a_client_that_lost_the_answer_comes_again_with_the_secret_it_has() {
    let (mut client, mut server) = opened(1);
    for byte in 1..5 {
        let attach = client.attach(&challenge(byte));
        server.resume(&attach, &challenge(byte), Secret::new([byte; 32]), NOW).unwrap();
        // The answer is lost with its carrier.
        client.not_resumed();
    }
    resume(&mut client, &mut server, 5);
    serves_on(&mut client, &mut server);
    // This answer arrives, and its carrier is lost before the bastion hears anything.
    resume(&mut client, &mut server, 6);
    resume(&mut client, &mut server, 7);
    serves_on(&mut client, &mut server);
}

#[test]
fn the_secret_is_another_after_each_resumption() {
    let (mut client, mut server) = opened(1);
    let mut before = first_secret();
    for byte in 1..6 {
        let given = Secret::new([byte; 32]);
        let attach = client.attach(&challenge(byte));
        assert!(before.verifies(&attach.proof, &challenge(byte), ID, attach.epoch));
        let (attached, _) = server.resume(&attach, &challenge(byte), given.clone(), NOW).unwrap();
        client.resumed(attached, NOW).unwrap();
        // From the first frame on the new carrier, the bastion knows that the client has it.
        serves_on(&mut client, &mut server);
        let epoch = Epoch(attach.epoch.0 + 1);
        let stolen = Attach { epoch, proof: before.prove(&challenge(99), ID, epoch), ..attach };
        assert_eq!(server.resume(&stolen, &challenge(99), fresh(), NOW).unwrap_err(), Refused::Proof);
        before = given;
    }
}

/// A frame on a carrier that was superseded is no sign that the client has the new secret.
#[test]
fn an_old_carrier_confirms_no_secret() {
    let (mut client, mut server) = opened(1);
    let old = server.attachment();
    let attach = client.attach(&challenge(1));
    server.resume(&attach, &challenge(1), fresh(), NOW).unwrap();
    assert_eq!(hear_on(&mut server, old, Frame::Received { bytes: 0 }), Err(Violation::Superseded));
    client.not_resumed();
    let again = client.attach(&challenge(2));
    assert!(server.resume(&again, &challenge(2), fresh(), NOW).is_ok());
}

#[test]
fn no_secret_and_no_proof_is_printed() {
    let (mut client, mut server) = opened(1);
    let attach = client.attach(&challenge(1));
    let (attached, _) = server.resume(&attach, &challenge(1), Secret::new([0xA7; 32]), NOW).unwrap();
    push(&mut client, ONE, &[0xA7; 32]);
    let proof = Proof([0xA7; 32]);
    let printed = [
        format!("{:?}", first_secret()),
        format!("{proof:?}"),
        format!("{:?}", Attach { proof: proof.clone(), ..attach.clone() }),
        format!("{:?}", Frame::Attach(Attach { proof, ..attach })),
        format!("{attached:?}"),
        format!("{:?}", Frame::Attached(attached)),
        format!("{:?}", Frame::Started { association: ID, secret: first_secret() }),
        format!("{:#?}", (&client, &server)),
    ];
    for text in printed {
        for shape in ["167", "a7", "A7"] {
            assert!(!text.contains(shape), "{text}");
        }
    }
}

/// Between a client's question and the answer it goes on on the old carrier, and a stream may come to its end
/// there.
#[test]
fn a_stream_that_ends_while_the_client_moves_is_forgotten_at_both_ends() {
    let (mut client, mut server) = opened(1);
    client.finish(ONE);
    assert_eq!(flow(&mut client, &mut server), [Event::Fin(ONE)]);
    server.wrote_end(ONE);
    server.finish(ONE);
    assert_eq!(flow(&mut server, &mut client), [Event::Credit(ONE, 0), Event::Fin(ONE)]);
    let attach = client.attach(&challenge(1));
    client.wrote_end(ONE);
    assert!(matches!(*said(&mut client), [Frame::Credit { .. }]), "lost with the old carrier");
    assert_eq!(client.finished(), Some(ONE));
    assert!(client.is_empty());
    let (attached, _) = server.resume(&attach, &challenge(1), fresh(), NOW).unwrap();
    client.resumed(attached, NOW).unwrap();
    assert_eq!(flow(&mut server, &mut client), []);
    assert_eq!(flow(&mut client, &mut server), [Event::Finished(ONE)]);
    assert!(server.is_empty() && client.is_empty());
}

#[test]
fn a_client_goes_on_on_the_old_carrier_until_the_answer() {
    let (mut client, mut server) = opened(1);
    client.attach(&challenge(1));
    serves_on(&mut client, &mut server);
    client.finish(ONE);
    assert_eq!(flow(&mut client, &mut server), [Event::Fin(ONE)]);
}

#[test]
fn there_is_nothing_to_say_on_a_new_carrier_where_nothing_was_lost() {
    let (mut client, mut server) = opened(1);
    resume(&mut client, &mut server, 1);
    assert!(!client.has_something_to_send());
    assert!(matches!(*said(&mut server), [Frame::Opened { stream: ONE, .. }]));
}

#[test]
fn credit_that_was_lost_with_its_carrier_is_given_again() {
    for by_client in [true, false] {
        let (mut client, mut server) = opened(1);
        let (by, other) = if by_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
        push(other, ONE, &[0; 60_000]);
        flow(other, by);
        push(other, ONE, &[0; 100_000]);
        flow(other, by);
        by.wrote(ONE, 160_000);
        assert!(said(by).iter().any(|frame| matches!(frame, Frame::Credit { .. })), "lost");
        let held = other.status(ONE).unwrap().held;
        resume(&mut client, &mut server, 1);
        let (by, other) = if by_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
        assert_eq!(flow(by, other).last(), Some(&Event::Credit(ONE, held)));
    }
}

#[test]
fn what_is_opened_while_the_client_moves_is_asked_for_on_the_new_carrier() {
    let (mut client, mut server) = opened(1);
    let attach = client.attach(&challenge(1));
    let id = client.open(request()).unwrap();
    push(&mut client, id, b"early");
    assert!(said(&mut client).is_empty(), "the bastion would not find it in the list that it got");
    let (attached, _) = server.resume(&attach, &challenge(1), fresh(), NOW).unwrap();
    client.resumed(attached, NOW).unwrap();
    assert_eq!(flow(&mut client, &mut server), [Event::Open(id, request()), Event::Data(id, "early".into())]);
}

#[test]
fn what_is_opened_while_the_client_moves_is_asked_for_on_the_old_carrier_if_it_stays_there() {
    let (mut client, mut server) = opened(1);
    client.attach(&challenge(1));
    let id = client.open(request()).unwrap();
    push(&mut client, id, b"early");
    assert!(said(&mut client).is_empty());
    client.not_resumed();
    assert_eq!(flow(&mut client, &mut server), [Event::Open(id, request()), Event::Data(id, "early".into())]);
}

#[test]
fn a_request_that_was_lost_with_its_carrier_is_made_again_and_one_that_arrived_is_not() {
    let (mut client, mut server) = opened(0);
    client.open(request()).unwrap();
    flow(&mut client, &mut server);
    client.open(request()).unwrap();
    push(&mut client, TWO, b"early");
    assert_eq!(said(&mut client).len(), 2, "lost");
    resume(&mut client, &mut server, 1);
    assert_eq!(
        flow(&mut client, &mut server),
        [Event::Open(TWO, request()), Event::Data(TWO, "early".into())]
    );
    server.accept(ONE);
    server.accept(TWO);
    assert_eq!(said(&mut server).len(), 2 + 1, "two answers, and what the second has received; lost");
    resume(&mut client, &mut server, 2);
    let events = flow(&mut server, &mut client);
    assert!(events.contains(&Event::Opened(ONE)) && events.contains(&Event::Opened(TWO)), "{events:?}");
}

/// Which end has reset it, and how far the news has got before the carrier is lost; at last both have
/// forgotten it.
#[test]
fn a_stream_that_was_reset_is_forgotten_at_both_ends_wherever_the_carrier_was_lost() {
    for by_client in [true, false] {
        for news in 0..3 {
            let (mut client, mut server) = opened(2);
            let mut heard = 0;
            let mut told = |events: Vec<Event>| {
                heard += events.iter().filter(|event| matches!(event, Event::Reset(ONE, _))).count();
            };
            let (by, other) = if by_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
            by.reset(ONE, Reason::new(Code::RESET, "by hand"));
            if news == 0 {
                drop(said(by));
            } else {
                told(flow(by, other));
                let answer = said(other);
                if news == 2 {
                    assert!(answer.into_iter().all(|frame| hear(by, frame) == Ok(None)));
                }
            }
            let (at_client, at_server) = resume(&mut client, &mut server, 1);
            let by = if by_client { &client } else { &server };
            // The news has arrived if the other end does not list the stream, or did so in time.
            assert_eq!(by.len(), if news == 0 { 2 } else { 1 }, "by client {by_client}, news {news}");
            told(at_client);
            told(at_server);
            for _ in 0..3 {
                told(flow(&mut client, &mut server));
                told(flow(&mut server, &mut client));
            }
            assert_eq!(heard, 1, "by client {by_client}, news {news}");
            assert_eq!((client.len(), server.len()), (1, 1), "by client {by_client}, news {news}");
            assert!(client.status(ONE).is_none() && server.status(ONE).is_none());
        }
    }
}

#[test]
fn a_stream_that_the_other_end_does_not_know_is_reset_and_never_ended_in_order() {
    let (mut client, mut server) = opened(1);
    push(&mut client, ONE, b"sent");
    client.finish(ONE);
    said(&mut client);
    let attach = client.attach(&challenge(1));
    let (mut attached, _) = server.resume(&attach, &challenge(1), fresh(), NOW).unwrap();
    attached.streams.clear();
    let events = client.resumed(attached, NOW).unwrap();
    let [Event::Reset(ONE, reason)] = &*events else { panic!("{events:?}") };
    assert_eq!(reason.code(), Code::UNKNOWN);
    assert!(client.is_empty());
}

#[test]
fn a_client_hears_on_each_carrier_that_the_bastion_will_end() {
    let (mut client, mut server) = opened(0);
    server.drain();
    assert!(matches!(*said(&mut server), [Frame::Drain]), "lost");
    resume(&mut client, &mut server, 1);
    assert_eq!(flow(&mut server, &mut client), [Event::Drain]);
    resume(&mut client, &mut server, 2);
    assert_eq!(flow(&mut server, &mut client), [Event::Drain]);
    assert!(said(&mut server).is_empty(), "once a carrier");
}

#[test]
fn streams_and_carriers_are_counted() {
    let (mut client, mut server) = opened(2);
    assert_eq!((client.resumptions(), server.resumptions()), (0, 0));
    resume(&mut client, &mut server, 1);
    resume(&mut client, &mut server, 2);
    assert_eq!((client.resumptions(), server.resumptions()), (2, 2));
    assert_eq!((client.len(), server.len()), (2, 2));
    assert_eq!(client.id(), ID);
    let attach = client.attach(&challenge(3));
    let listed: Vec<StreamId> = attach.streams.iter().map(|position| position.stream).collect();
    assert_eq!(listed, [ONE, TWO]);
    assert_eq!(attach.epoch, Epoch(3));
}
