//! The bytes of version 1, which every later version goes on to accept, and what is no frame.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test")]

mod common;

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use tunnel_stream::{
    Code, Frame, HEADER, MOST_DATA, Malformed, Reason, Request, StreamId,
    frame::{Attach, Attached, Decoder, Hello, MOST_STREAMS, Position},
    proof::{AssociationId, Challenge, Epoch, Proof, Secret},
};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn positions() -> Vec<Position> {
    vec![
        Position { stream: StreamId(1), received: 0 },
        Position { stream: StreamId(0x0102_0304), received: 0x0102_0304_0506_0708 },
    ]
}

/// Each frame with its bytes: type, length, stream, offset; then the payload.
fn version_1() -> Vec<(Frame, &'static str)> {
    let stream = StreamId(0x0A0B_0C0D);
    let offset = 0x0102_0304_0506_0708;
    let limit = 0x1112_1314_1516_1718;
    let text = |code, text: &str| Reason::new(code, text);
    let association = AssociationId(*b"an association!!");
    let secret = || Secret::new([0x5E; 32]);
    let request = Request { host: "db.internal".to_owned(), port: 5432 };
    let hello =
        Hello { oldest: 1, newest: 2, challenge: Challenge([0xC4; 32]), most_streams: 5000, kept_for: 600 };
    let attach =
        Attach { version: 1, association, epoch: Epoch(7), proof: Proof([0x9F; 32]), streams: positions() };
    let attached = Attached { epoch: Epoch(7), secret: secret(), highest: stream, streams: positions() };
    vec![
        (
            Frame::Data { stream, offset, data: "hello".into() },
            "01 000005 0a0b0c0d 0102030405060708 68656c6c6f",
        ),
        (Frame::Fin { stream, offset }, "02 000000 0a0b0c0d 0102030405060708"),
        (
            Frame::Credit { stream, acknowledged: offset, limit },
            "03 000008 0a0b0c0d 0102030405060708 1112131415161718",
        ),
        (
            Frame::Reset { stream, reason: text(Code::EXPIRED, "é") },
            "04 000004 0a0b0c0d 0000000000000000 0011 c3a9",
        ),
        (Frame::Gone { stream }, "05 000000 0a0b0c0d 0000000000000000"),
        (
            Frame::Open { stream, limit, request },
            "06 00000f 0a0b0c0d 1112131415161718 1538 000b 64622e696e7465726e616c",
        ),
        (Frame::Opened { stream, limit }, "07 000000 0a0b0c0d 1112131415161718"),
        (Frame::Blocked { stream, limit }, "08 000000 0a0b0c0d 1112131415161718"),
        (
            Frame::Hello(hello),
            "10 00002c 00000000 0000000000000000 0001 0002
             c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4 00001388 00000258",
        ),
        (Frame::Start { version: 1 }, "11 000002 00000000 0000000000000000 0001"),
        (
            Frame::Started { association, secret: secret() },
            "12 000030 00000000 0000000000000000 616e206173736f63696174696f6e2121
             5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e",
        ),
        (
            Frame::Attach(attach),
            "13 00004e 00000000 0000000000000007 0001 616e206173736f63696174696f6e2121
             9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f
             00000002 00000001 0000000000000000 01020304 0102030405060708",
        ),
        (
            Frame::Attached(attached),
            "14 00003c 0a0b0c0d 0000000000000007
             5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e
             00000002 00000001 0000000000000000 01020304 0102030405060708",
        ),
        (
            Frame::Refused { reason: text(Code::NOT_YOURS, "no") },
            "15 000004 00000000 0000000000000000 001a 6e6f",
        ),
        (Frame::Received { bytes: offset }, "16 000000 00000000 0102030405060708"),
        (Frame::Drain, "17 000000 00000000 0000000000000000"),
        (
            Frame::End { reason: text(Code::SHUTDOWN, "bye") },
            "18 000005 00000000 0000000000000000 0016 627965",
        ),
    ]
}

#[test]
fn the_frames_of_version_1_are_these_bytes() {
    for (frame, wire) in version_1() {
        assert_eq!(hex(&frame.encode()), hex(&bytes(wire)), "{frame:?}");
        let read = decoded(&bytes(wire));
        assert_eq!(format!("{read:?}"), format!("{frame:?}"));
        assert_eq!(hex(&read.encode()), hex(&bytes(wire)), "secrets, which do not print, too");
    }
}

const PAGE: &str = include_str!("../PROTOCOL.md");

/// The first two cells of each row of a table whose first cell is a number.
fn rows(heading: &str) -> Vec<(u16, String)> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    section
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            Some((cells.next()?.parse().ok()?, cells.next()?.trim_matches('`').to_owned()))
        })
        .collect()
}

#[test]
fn the_page_has_each_frame_with_its_number() {
    let ours: Vec<(u16, String)> = version_1()
        .into_iter()
        .map(|(frame, wire)| {
            let debug = format!("{frame:?}");
            let name = debug.split(|letter: char| !letter.is_alphanumeric()).next().unwrap();
            (bytes(wire)[0].into(), name.to_uppercase())
        })
        .collect();
    assert_eq!(rows("3 Frames"), ours);
}

#[test]
fn the_page_has_each_reason_with_its_number() {
    let named = |code: &u16| Code(*code).name() != "other";
    let ours: Vec<(u16, String)> =
        (0..=u16::MAX).filter(named).map(|code| (code, Code(code).name().to_owned())).collect();
    assert_eq!(rows("8 Reasons"), ours);
}

#[test]
fn the_page_has_the_proof_of_its_example() {
    let proof = Secret::new([1; 32]).prove(&Challenge([2; 32]), AssociationId([3; 16]), Epoch(4));
    assert!(PAGE.contains(&format!("\n    {}\n", hex(&proof.0))), "{}", hex(&proof.0));
}

/// The list above has each type once: a frame that is added needs its bytes here.
#[test]
fn every_type_has_its_bytes() {
    let mut types: Vec<u8> = version_1().iter().map(|(_, wire)| bytes(wire)[0]).collect();
    types.dedup();
    let known: Vec<u8> = (0..128)
        .filter(|kind| !matches!(read(&with_length(*kind, &[])), Err(Malformed::UnknownType(_))))
        .collect();
    assert_eq!(types, known);
    assert_eq!(known, (1..=8).chain(16..=24).collect::<Vec<u8>>());
}

/// A frame of any type and payload.
fn with_length(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    frame.extend([0; 12]);
    frame.extend(payload);
    frame
}

fn read(wire: &[u8]) -> Result<Option<(Frame, usize)>, Malformed> {
    let mut decoder = Decoder::default();
    decoder.feed(wire.to_vec().into());
    decoder.next_frame()
}

/// Appends to the payload.
fn longer(wire: &[u8], more: &[u8]) -> Vec<u8> {
    let mut frame = with_length(wire[0], &[&wire[HEADER..], more].concat());
    frame[4..HEADER].copy_from_slice(&wire[4..HEADER]);
    frame
}

/// A later version puts what it has to add there.
#[test]
fn what_a_later_version_appends_is_not_looked_at() {
    for (frame, wire) in version_1() {
        let has_open_end = matches!(
            frame,
            Frame::Data { .. } | Frame::Reset { .. } | Frame::Refused { .. } | Frame::End { .. }
        );
        if !has_open_end {
            let (read, length) = read(&longer(&bytes(wire), b"more")).unwrap().unwrap();
            assert_eq!(hex(&read.encode()), hex(&bytes(wire)));
            assert_eq!(length, bytes(wire).len() + 4);
        }
    }
    // A trace context behind a request's host, as PROTOCOL.md has it.
    let context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let extension = [&[0, 1, 0, 55][..], context.as_bytes()].concat();
    let open = Frame::Open { stream: ONE, limit: 1, request: request() }.encode();
    let Frame::Open { request: asked, .. } = decoded(&longer(&open, &extension)) else { panic!() };
    assert_eq!(asked, request());
}

#[test]
fn a_payload_that_is_cut_short_is_no_frame() {
    for (frame, wire) in version_1() {
        let wire = bytes(wire);
        let least = match frame {
            // Any text is one, down to none.
            Frame::Reset { .. } | Frame::Refused { .. } | Frame::End { .. } => HEADER + 2,
            Frame::Data { .. } => HEADER + 1,
            _ => wire.len(),
        };
        for length in HEADER..least {
            let short = with_length(wire[0], &wire[HEADER..length]);
            assert_eq!(read(&short).unwrap_err(), Malformed::Content(wire[0]), "{frame:?} of {length}");
        }
        // And while it is on its way, it is none yet.
        for length in 0..wire.len() {
            assert!(read(&wire[..length]).unwrap().is_none(), "{frame:?} of {length}");
        }
    }
}

#[test]
fn a_frame_that_is_too_long_is_refused_before_it_is_there() {
    assert_eq!(MOST_DATA + HEADER, 128 * 1024);
    let longest = with_length(1, &vec![7; MOST_DATA]);
    assert!(matches!(read(&longest), Ok(Some((Frame::Data { data, .. }, _))) if data.len() == MOST_DATA));
    for kind in [1, 3, 24, 99, 128, 255] {
        let mut header = with_length(kind, &[]);
        header[1..4].copy_from_slice(&u32::try_from(MOST_DATA + 1).unwrap().to_be_bytes()[1..]);
        assert_eq!(read(&header).unwrap_err(), Malformed::TooLong(MOST_DATA + 1), "type {kind}");
        header[1..4].copy_from_slice(&[0xFF; 3]);
        assert_eq!(read(&header).unwrap_err(), Malformed::TooLong(0x00FF_FFFF), "type {kind}");
    }
}

#[test]
fn a_type_that_is_not_known_may_be_skipped_only_from_128_on() {
    for kind in [0, 9, 15, 25, 127] {
        assert_eq!(read(&with_length(kind, b"x")).unwrap_err(), Malformed::UnknownType(kind));
    }
    for kind in [128, 200, 255] {
        let wire = [with_length(kind, &[0xEE; 1000]), Frame::Drain.encode().to_vec()].concat();
        let (frame, length) = read(&wire).unwrap().unwrap();
        assert!(matches!(frame, Frame::Drain));
        assert_eq!(length, wire.len(), "the peer counts what was skipped as sent");
    }
}

#[test]
fn data_has_bytes_and_an_end_that_can_be_numbered() {
    let mut frame = with_length(1, b"abc");
    frame[8..16].copy_from_slice(&(u64::MAX - 3).to_be_bytes());
    assert!(matches!(read(&frame), Ok(Some((Frame::Data { .. }, 19)))));
    frame[8..16].copy_from_slice(&(u64::MAX - 2).to_be_bytes());
    assert_eq!(read(&frame).unwrap_err(), Malformed::Content(1));
    assert_eq!(read(&with_length(1, &[])).unwrap_err(), Malformed::Content(1));
}

#[test]
fn a_host_is_text_of_a_name_s_length_within_its_frame() {
    let open = |declared: u16, host: &[u8]| {
        let payload = [&5432_u16.to_be_bytes()[..], &declared.to_be_bytes(), host].concat();
        read(&with_length(6, &payload)).map(|_| ())
    };
    let bad = Err(Malformed::Content(6));
    assert_eq!(open(300, &[b'h'; 300]), Ok(()));
    assert_eq!(open(301, &[b'h'; 301]), bad);
    assert_eq!(open(4, b"abc"), bad);
    assert_eq!(open(3, b"a\xFFb"), bad);
    assert_eq!(open(2, "é".as_bytes()), Ok(()), "whether it is a name is for the bastion to say");
    assert_eq!(open(1, "é".as_bytes()), bad);
}

#[test]
fn a_list_has_each_stream_once_in_order_and_is_bounded() {
    let list = |ids: &[u32], declared: usize| {
        let mut payload = [0; 32].to_vec();
        payload.extend(u32::try_from(declared).unwrap().to_be_bytes());
        for id in ids {
            payload.extend(id.to_be_bytes());
            payload.extend([0; 8]);
        }
        read(&with_length(20, &payload)).map(|_| ())
    };
    let bad = Err(Malformed::Content(20));
    assert_eq!(list(&[], 0), Ok(()));
    assert_eq!(list(&[1, 2, 9], 3), Ok(()));
    assert_eq!(list(&[2, 1], 2), bad, "not in order");
    assert_eq!(list(&[1, 1], 2), bad, "twice");
    assert_eq!(list(&[1, 2], 3), bad, "fewer than it says");
    assert_eq!(list(&[], usize::try_from(u32::MAX).unwrap()), bad);
    let most: Vec<u32> = (1..).take(2 * MOST_STREAMS).collect();
    assert_eq!(list(&most, most.len()), Ok(()));
    let too_many: Vec<u32> = (1..).take(2 * MOST_STREAMS + 1).collect();
    assert_eq!(list(&too_many, too_many.len()), bad);
}

#[test]
fn the_newest_version_that_both_ends_speak_is_chosen() {
    let hello = |oldest, newest| {
        Hello { oldest, newest, challenge: Challenge([0; 32]), most_streams: 1, kept_for: 1 }.version()
    };
    assert_eq!(hello(1, 1), Some(1));
    assert_eq!(hello(1, 7), Some(1));
    assert_eq!(hello(0, 1), Some(1));
    assert_eq!(hello(2, 7), None);
    assert_eq!(hello(0, 0), None);
}

#[test]
fn a_reason_that_is_too_long_or_no_text_is_cut_and_replaced() {
    let reason = |text: &[u8]| {
        let Ok(Some((Frame::End { reason }, _))) = read(&with_length(24, &[&[0, 16], text].concat())) else {
            panic!()
        };
        assert_eq!(reason.code(), Code::RESET);
        reason.text().to_owned()
    };
    assert_eq!(reason(&[b'x'; 600]), "x".repeat(512));
    assert_eq!(reason(b"a\xFFb"), "a\u{FFFD}b");
    assert!(reason(&[0xFF; 600]).len() <= 512);
}

/// All frames of a stream of bytes that is cut at these places, how many bytes they stand for, and whether it
/// ended between two.
fn read_in_pieces(wire: &[u8], cuts: &[usize]) -> (Result<Vec<String>, Malformed>, usize, bool) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    let mut counted = 0;
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (wire.len() + 1)).chain([wire.len()]).collect();
    cuts.sort_unstable();
    let mut from = 0;
    for cut in cuts {
        decoder.feed(Bytes::copy_from_slice(&wire[from..cut]));
        from = cut;
        loop {
            match decoder.next_frame() {
                Ok(Some((frame, length))) => {
                    counted += length;
                    frames.push(hex(&frame.encode()));
                }
                Ok(None) => break,
                Err(malformed) => return (Err(malformed), counted, false),
            }
        }
    }
    (Ok(frames), counted, decoder.is_between_frames())
}

fn some_frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let known = (0..version_1().len()).prop_map(|index| version_1().swap_remove(index).0.encode().to_vec());
    let long = (0..40_000_usize).prop_map(|length| with_length(1, &vec![9; length + 1]));
    let optional =
        (128..=255_u8, 0..3000_usize).prop_map(|(kind, length)| with_length(kind, &vec![1; length]));
    prop::collection::vec(prop_oneof![4 => known, 1 => long, 2 => optional], 0..12)
}

proptest! {
    #[test]
    fn frames_are_put_together_however_they_are_cut(
        frames in some_frames(),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let wire = frames.concat();
        let expected: Vec<String> = frames.iter().filter(|frame| frame[0] < 128).map(|frame| hex(frame)).collect();
        let (read, counted, between) = read_in_pieces(&wire, &cuts);
        prop_assert_eq!(read, Ok(expected));
        let skipped_at_the_end: usize = frames.iter().rev().take_while(|frame| frame[0] >= 128).map(Vec::len).sum();
        prop_assert_eq!(counted, wire.len() - skipped_at_the_end);
        prop_assert!(between);
    }

    /// Also with all of it fed before any is taken out.
    #[test]
    fn frames_wait_for_being_taken_out(frames in some_frames(), cut in any::<usize>()) {
        let wire = frames.concat();
        let cut = cut % (wire.len() + 1);
        let mut decoder = Decoder::default();
        decoder.feed(Bytes::copy_from_slice(&wire[..cut]));
        decoder.feed(Bytes::copy_from_slice(&wire[cut..]));
        let mut count = 0;
        while decoder.next_frame().unwrap().is_some() {
            count += 1;
        }
        prop_assert_eq!(count, frames.iter().filter(|frame| frame[0] < 128).count());
        prop_assert!(decoder.is_between_frames());
    }

    #[test]
    fn a_frame_that_is_not_whole_waits_and_is_known_to(frames in some_frames(), missing in 1..16_usize) {
        prop_assume!(!frames.is_empty());
        let wire = frames.concat();
        let (read, _, between) = read_in_pieces(&wire[..wire.len() - missing], &[]);
        let whole = frames[..frames.len() - 1].iter().filter(|frame| frame[0] < 128).count();
        prop_assert_eq!(read.unwrap().len(), whole);
        prop_assert_eq!(between, frames[frames.len() - 1].len() == missing);
    }

    #[test]
    fn bytes_of_any_kind_are_read_the_same_however_they_are_cut(
        mut wire in prop::collection::vec(any::<u8>(), 0..2000),
        short in any::<bool>(),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        // Lengths that leave room for more than one frame.
        if short && wire.len() > HEADER {
            wire[0] %= 30;
            wire[1] = 0;
            wire[2] = 0;
        }
        let whole = read_in_pieces(&wire, &[]);
        let pieces = read_in_pieces(&wire, &cuts);
        prop_assert_eq!(&whole, &pieces);
    }
}
