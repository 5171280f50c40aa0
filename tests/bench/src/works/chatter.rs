//! Small messages and new connections: how long one waits.

use std::{thread::sleep, time::Duration};

use super::Bench;
use crate::{
    generator::{Direction, Iperf3},
    latency::{Speaks, echoes, first_bytes},
    path::Path,
    peers::Cipher,
    row::{Better, Row},
    statistics::percentile,
};

/// How long questions are asked in one run.
const TIME: Duration = Duration::from_millis(700);

/// How long a stream in bulk has to come up to speed, and goes on in all.
const COMES_UP: Duration = Duration::from_millis(700);
const BULK: Duration = Duration::from_secs(3);
const BESIDE_BULK: Duration = Duration::from_millis(1500);

/// How many connections one run makes.
const CONNECTIONS: usize = 50;

/// 64 bytes there and back, with nothing beside them.
pub(super) fn echo(bench: &Bench) -> Vec<Row> {
    let targets = [bench.targets.echo.address()];
    let routes = bench.servers.routes(&Path::ALL, Cipher::Aes128Gcm, &targets);
    let what = "echo of 64 bytes, idle, p50";
    let [p50] = bench.in_turn(what, &Path::ALL, |path| {
        let took = echoes(routes[&path].local(0), TIME).ok()?;
        Some([percentile(took, 50)])
    });
    vec![Row::new("echo", what, "µs", Better::Lower, p50).gate(Path::RR, 1.0, 0.8)]
}

/// The same beside a stream in bulk, on the same connection.
pub(super) fn echo_beside_bulk(bench: &Bench) -> Vec<Row> {
    let paths = &[Path::OO, Path::OR, Path::RR];
    let targets = [bench.targets.echo.address(), bench.targets.generator()];
    let mut rows = Vec::new();
    for direction in Direction::BOTH {
        let mut routes = bench.servers.routes(paths, Cipher::Aes128Gcm, &targets);
        let what = format!("echo beside bulk {}", direction.name());
        let [p50, p99, rate] = bench.in_turn(&what, paths, |path| {
            let route = &routes[&path];
            let mut bulk = Iperf3::start(route.local(1), direction, 1, BULK);
            sleep(COMES_UP);
            let took = echoes(route.local(0), BESIDE_BULK);
            let beside_bulk = bulk.is_running();
            let figures = took.ok().zip(bulk.end(BULK)).filter(|_| beside_bulk).map(|(took, moved)| {
                [percentile(took.iter().copied(), 50), percentile(took, 99), moved.rate()]
            });
            if figures.is_none() {
                routes.insert(path, bench.servers.route(path, Cipher::Aes128Gcm, None, &targets));
            }
            figures
        });
        rows.push(Row::new("echo-bulk", format!("{what}, p50"), "µs", Better::Lower, p50).gate(
            Path::RR,
            1.3,
            0.8,
        ));
        rows.push(Row::new("echo-bulk", format!("{what}, p99"), "µs", Better::Lower, p99).gate(
            Path::RR,
            1.0,
            0.3,
        ));
        rows.push(Row::new("echo-bulk", format!("{what}: the bulk"), "MiB/s", Better::Higher, rate));
    }
    rows
}

/// A new local connection until its first byte. Where the target speaks first, OpenSSH holds its byte back
/// until the peer has acknowledged what went before (Nagle), which takes the peer 40 ms: no gate for others.
pub(super) fn connect(bench: &Bench) -> Vec<Row> {
    let targets = [bench.targets.echo.address(), bench.targets.greeter.address()];
    let routes = bench.servers.routes(&Path::ALL, Cipher::Aes128Gcm, &targets);
    let measure = |what: &str, target, speaks| {
        let [p50] = bench.in_turn(what, &Path::ALL, |path| {
            let took = first_bytes(routes[&path].local(target), speaks, CONNECTIONS).ok()?;
            Some([percentile(took, 50)])
        });
        Row::new("connect", what, "µs", Better::Lower, p50)
    };
    vec![
        measure("new connection → first byte, p50", 0, Speaks::Client).gate(Path::RR, 1.0, 0.6),
        measure("the same, the target speaks first", 1, Speaks::Target),
    ]
}
