//! Logins: how many a server takes, and what each costs it.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::rogue::Client;

use super::Bench;
use crate::{
    path::Path,
    peers::Cipher,
    row::{Better, Row},
};

/// How long clients log in, and how many side by side.
const TIME: Duration = Duration::from_millis(1500);
const CLIENTS: usize = 4;

/// Has clients log in and leave. They are the same for both servers, and cost less than `ssh`, which would
/// keep the processors busy by itself.
pub(super) fn logins(bench: &Bench) -> Vec<Row> {
    let paths = &[Path::OO, Path::RR];
    let [rate, cost] = bench.in_turn("logins", paths, |path| {
        let (address, server) = bench.servers.server(path, Cipher::Aes128Gcm);
        let attempt = bench.servers.attempt();
        let (before, start) = (server.seconds(), Instant::now());
        let client = || {
            let mut count = 0_u32;
            while start.elapsed() < TIME {
                let mut client = Client::connect(address).ok()?;
                count += u32::from(client.attempt(&attempt).accepted);
            }
            Some(count)
        };
        let counts: Option<Vec<u32>> = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let count = f64::from(counts?.iter().sum::<u32>());
        let took = start.elapsed().as_secs_f64();
        (count > 0.0).then(|| [count / took, (server.seconds() - before) * 1e3 / count])
    });
    vec![
        Row::new("logins", "logins, server", "/s", Better::Higher, rate).gate(Path::RR, 15.0, 30.0),
        Row::new("logins", "a login, CPU of the server", "ms", Better::Lower, cost),
    ]
}
