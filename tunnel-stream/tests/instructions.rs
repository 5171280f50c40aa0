//! Counts the instructions that both ends take for each frame of data: a guard against a data path that
//! becomes slower, without a clock. valgrind counts them, so that nothing else that the machine does shows.
//!
//! A test runs itself once more, under valgrind, which counts inside of [`carry`] and nowhere else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "test")]

mod common;

use std::{hint::black_box, process::Command, time::Duration};

use common::{client, request, server};
use tunnel_stream::{Association, Event, Limits, MOST_DATA, Payload, StreamId, frame::Decoder};

/// How many rounds the process that is counted moves.
const ROUNDS: &str = "ROUNDS_TO_COUNT";

/// One end, and what reads its carrier.
struct End(Association, Decoder);

impl End {
    /// Sends all that it has, as the bytes of the wire, and hands what comes of it to the far end's socket.
    fn flush(&mut self, far: &mut Self, now: Duration) -> u64 {
        let mut written = 0;
        while let Some(outgoing) = self.0.transmit(self.0.attachment(), now) {
            far.1.feed(outgoing.frame);
            while let Some((frame, length)) = far.1.next_frame().unwrap() {
                match far.0.receive(far.0.attachment(), frame, length, now).unwrap() {
                    Some(Event::Data(stream, data)) => {
                        written += data.len() as u64;
                        far.0.wrote(stream, data.len() as u64);
                        black_box(data);
                    }
                    Some(Event::Open(stream, _)) => far.0.accept(stream),
                    _ => {}
                }
            }
        }
        written
    }
}

/// Payloads as they come from the sockets of both ends, a pair a round.
type Round = (Payload, Option<Payload>);

/// What is counted. valgrind knows it by its name.
#[inline(never)]
fn carry(client: &mut End, server: &mut End, stream: StreamId, rounds: Vec<Round>) -> u64 {
    let (mut now, mut written) = (Duration::ZERO, 0);
    for (there, back) in rounds {
        now += Duration::from_micros(100);
        client.0.push(stream, there, now);
        written += client.flush(server, now);
        if let Some(back) = back {
            server.0.push(stream, back, now);
        }
        // What the server owes for what it got goes back too.
        written += server.flush(client, now);
    }
    written
}

/// How many instructions a round takes. In the process that is counted, moves the rounds instead.
fn count(test: &str, round: impl Fn() -> Round) -> Option<u64> {
    if let Ok(rounds) = std::env::var(ROUNDS) {
        let limits = Limits { streams: 4, window: 8 << 20, kept: 1 << 30 };
        let mut client = End(client(limits), Decoder::default());
        let mut server = End(server(limits), Decoder::default());
        let stream = client.0.open(request()).unwrap();
        client.flush(&mut server, Duration::ZERO);
        server.flush(&mut client, Duration::ZERO);
        let rounds: Vec<Round> = (0..rounds.parse().unwrap()).map(|_| round()).collect();
        let length = |(there, back): &Round| there.len() + back.as_ref().map_or(0, Payload::len);
        let all: usize = rounds.iter().map(length).sum();
        assert_eq!(carry(&mut client, &mut server, stream, rounds), all as u64, "all of it arrives");
        return None;
    }
    // The difference between two runs: what happens once does not count.
    let (few, many) = (200, 600);
    let instructions = (instructions(test, many) - instructions(test, few)) / (many - few);
    println!("{test}: {instructions} instructions");
    Some(instructions)
}

fn instructions(test: &str, rounds: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*carry*"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .env(ROUNDS, rounds.to_string())
        .output()
        .expect("valgrind is not installed: run tests/install first");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")).expect("a count").1;
    collected.trim().parse().unwrap()
}

/// The bytes themselves are not touched: to copy those of one frame takes 4,000 instructions more at least.
#[test]
fn a_frame_of_128_kib_is_not_copied() {
    let full = vec![1; MOST_DATA];
    let round = || (Payload::copy_of(&full), None);
    let Some(count) = count("a_frame_of_128_kib_is_not_copied", round) else { return };
    assert!((1_000..=BULK).contains(&count), "{count} instructions");
}

#[test]
fn an_echo_of_64_bytes_stays_cheap() {
    let round = || (Payload::copy_of(&[1; 64]), Some(Payload::copy_of(&[2; 64])));
    let Some(count) = count("an_echo_of_64_bytes_stays_cheap", round) else { return };
    assert!((1_000..=ECHO).contains(&count), "{count} instructions");
}

/// Compiled by rustc 1.95 for x86_64 they take 4,941 and 5,562. Another compiler may take a few more, and
/// then moves these bounds; a change of the code that does has to be worth it.
const BULK: u64 = 5_500;
const ECHO: u64 = 6_050;
