//! Streams in bulk: how fast, and at what cost.

use std::time::Duration;

use super::{Bench, without};
use crate::{
    generator::{Direction, iperf3},
    path::Path,
    peers::Cipher,
    row::{Better, Row},
};

/// How long one run moves bytes.
const TIME: Duration = Duration::from_secs(2);

/// Over a long line, until what is in flight has grown.
const LONG_TIME: Duration = Duration::from_secs(3);

/// One stream, with the cipher that both ends like best.
pub(super) fn one_stream(bench: &Bench) -> Vec<Row> {
    let way = Way { work: "one-stream", what: "one stream", paths: &Path::ALL, ..Way::COMMON };
    let mut rows = Vec::new();
    for direction in Direction::BOTH {
        let [rate, cost, server] = way.measure(bench, direction);
        rows.push(rate.gate(Path::RR, 1.25, 1.6).gate(Path::OR, 1.0, 1.2).gate_to(
            Path::RR,
            Some(Path::Proxies),
            0.85,
            1.0,
        ));
        rows.push(cost.gate(Path::RR, 0.80, 0.60));
        rows.push(server.gate(Path::OR, 0.85, 0.65));
    }
    rows
}

/// The same with the cipher that hardware does nothing for.
pub(super) fn chacha(bench: &Bench) -> Vec<Row> {
    // pf-tunnel and the bastion offer what they like best first, and have no setting for it.
    let paths = &[Path::OO, Path::OR, Path::RO];
    let way =
        Way { work: "chacha", what: "one stream, ChaCha20", paths, cipher: Cipher::ChaCha20, ..Way::COMMON };
    Direction::BOTH.into_iter().flat_map(|direction| way.measure(bench, direction)).collect()
}

/// Eight streams on one connection.
pub(super) fn parallel(bench: &Bench) -> Vec<Row> {
    let paths = &[Path::OO, Path::OR, Path::RR, Path::Proxies];
    let way = Way { work: "parallel", what: "8 streams", paths, streams: 8, ..Way::COMMON };
    let mut rows = Vec::new();
    for direction in Direction::BOTH {
        let [rate, cost, _] = way.measure(bench, direction);
        rows.extend([rate.gate(Path::RR, 1.25, 2.0), cost]);
    }
    rows
}

/// One stream over a line across a continent.
pub(super) fn delay_50(bench: &Bench) -> Vec<Row> {
    delayed(bench, "delay-50", "one stream at 50 ms", 25)
}

/// One stream over a line across an ocean.
pub(super) fn delay_150(bench: &Bench) -> Vec<Row> {
    delayed(bench, "delay-150", "one stream at 150 ms", 75)
}

fn delayed(bench: &Bench, work: &'static str, what: &'static str, one_way_ms: u64) -> Vec<Row> {
    let paths = &[Path::OO, Path::RR];
    let way = Way { work, what, paths, one_way_ms: Some(one_way_ms), time: LONG_TIME, ..Way::COMMON };
    let rates = Direction::BOTH.into_iter().map(|direction| {
        let [rate, ..] = way.measure(bench, direction);
        rate.gate(Path::RR, 7.0, 15.0)
    });
    rates.collect()
}

/// A way to move bytes in bulk.
#[derive(Clone, Copy)]
struct Way {
    work: &'static str,
    what: &'static str,
    paths: &'static [Path],
    cipher: Cipher,
    one_way_ms: Option<u64>,
    streams: u32,
    time: Duration,
}

impl Way {
    const COMMON: Self = Self {
        work: "",
        what: "",
        paths: &[],
        cipher: Cipher::Aes128Gcm,
        one_way_ms: None,
        streams: 1,
        time: TIME,
    };

    /// The rate, and what a byte costs both ends and the server alone.
    fn measure(&self, bench: &Bench, direction: Direction) -> [Row; 3] {
        let what = format!("{} {}", self.what, direction.name());
        let targets = [bench.targets.generator()];
        let route = |path: Path| bench.servers.route(path, self.cipher, self.one_way_ms, &targets);
        let mut routes: std::collections::BTreeMap<_, _> =
            self.paths.iter().map(|path| (*path, route(*path))).collect();
        let [rate, cost, server] = bench.in_turn(&what, self.paths, |path| {
            let used = &routes[&path];
            let (client, server) = (used.client.seconds(), used.server.seconds());
            let Some(moved) = iperf3(used.local(0), direction, self.streams, self.time) else {
                // Whatever is wrong with it shall not be wrong with the next round.
                routes.insert(path, route(path));
                return None;
            };
            let (client, server) = (used.client.seconds() - client, used.server.seconds() - server);
            Some([moved.rate(), (client + server) / moved.gib(), server / moved.gib()])
        });
        let (raw, all) = (&[Path::Raw], "CPU of client and server");
        [
            Row::new(self.work, what.clone(), "MiB/s", Better::Higher, rate),
            Row::new(self.work, format!("{what}, {all}"), "s/GiB", Better::Lower, without(cost, raw)),
            Row::new(
                self.work,
                format!("{what}, CPU of the server"),
                "s/GiB",
                Better::Lower,
                without(server, raw),
            ),
        ]
    }
}
