//! One stream that is stalled, and what another on the same connection has of it.

use std::{
    io::{ErrorKind, Write},
    net::TcpStream,
    thread::sleep,
    time::{Duration, Instant},
};

use super::Bench;
use crate::{
    generator::Direction,
    latency::{connect, echoes},
    path::Path,
    peers::{Cipher, Route},
    row::{Better, Row},
    statistics::percentile,
};

/// How long questions are asked before, and during.
const TIME: Duration = Duration::from_millis(500);

/// How long nothing must move before a stream counts as stalled, and how long that is waited for.
const STILL: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the targets stand in the list.
const ECHO: usize = 0;
const DEAF: usize = 1;
const ENDLESS: usize = 2;

/// The echo's latency beside a stalled stream, as a ratio to what it was on the same path before.
pub(super) fn stall(bench: &Bench) -> Vec<Row> {
    let paths = &[Path::OO, Path::OR, Path::RR];
    let targets = &bench.targets;
    let addresses = [targets.echo.address(), targets.deaf.address(), targets.endless.address()];
    let rows = Direction::BOTH.into_iter().map(|direction| {
        let what = match direction {
            Direction::Up => "echo beside a stream whose target reads nothing",
            Direction::Down => "echo beside a stream whose application reads nothing",
        };
        let [ratio] = bench.in_turn(what, paths, |path| {
            // A new path each time: one that froze stays so.
            let route = bench.servers.route(path, Cipher::Aes128Gcm, None, &addresses);
            let before = percentile(echoes(route.local(ECHO), TIME).ok()?, 50);
            let _stalled = match direction {
                Direction::Up => fill(&route)?,
                Direction::Down => let_fill(bench, &route)?,
            };
            match echoes(route.local(ECHO), TIME) {
                Ok(took) => Some([percentile(took, 50) / before]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    Some([f64::INFINITY])
                }
                Err(_) => None,
            }
        });
        Row::new("stall", what, "of its own", Better::Lower, ratio).gate_to(Path::RR, None, 1.5, 1.2)
    });
    rows.collect()
}

/// Writes to a target that reads nothing, until nothing more goes.
fn fill(route: &Route) -> Option<TcpStream> {
    let mut stream = connect(route.local(DEAF)).ok()?;
    stream.set_nonblocking(true).ok()?;
    let block = vec![0; 256 * 1024];
    until_still(|| match stream.write(&block) {
        Ok(_) => Some(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(false),
        Err(_) => None,
    })?;
    Some(stream)
}

/// Reads nothing of a target that sends without end, until that can send nothing more.
fn let_fill(bench: &Bench, route: &Route) -> Option<TcpStream> {
    let stream = connect(route.local(ENDLESS)).ok()?;
    let mut sent = bench.targets.endless.sent();
    let start = Instant::now();
    until_still(|| {
        let now = bench.targets.endless.sent();
        // It may take a while until the target knows of the connection.
        let moved = now != sent || (now == 0 && start.elapsed() < STILL);
        sent = now;
        Some(moved)
    })?;
    Some(stream)
}

/// Goes on while something moves. `None` when it fails, or something still moves after a long time.
fn until_still(mut moves: impl FnMut() -> Option<bool>) -> Option<()> {
    let start = Instant::now();
    let mut last = start;
    while last.elapsed() < STILL {
        if moves()? {
            last = Instant::now();
        } else {
            sleep(Duration::from_millis(1));
        }
        if start.elapsed() > PATIENCE {
            eprintln!("  a stream that nobody reads is not stalled after {PATIENCE:?}");
            return None;
        }
    }
    Some(())
}
